"""Numbers on the command line: each has a range, the same rule everywhere, and is refused before anything is done."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic.fields import FieldInfo

from geo4d_bench import policies
from geo4d_bench.cli import COMMANDS, main
from geo4d_bench.dataset.schema import CHUNK_BYTES, CHUNK_FRAMES, require_storable
from geo4d_bench.errors import ConfigError

NEEDED: dict[str, dict[str, Any]] = {
    "render": {"data": Path("d"), "out": Path("o")}, "segmenter": {"data": Path("d")}, "bench": {"what": "load"},
    "rig import": {"files": (Path("f"),), "out": Path("o.yaml")},
    "checkpoint split": {"checkpoint": Path("c"), "out": Path("o")},
}  # fmt: skip
CHECKED_WITH_THE_DATA = {"inspect": {"episode", "frame"}, "rig import": {"position"}}
CONFIGS = [
    *((getattr(importlib.import_module(f"geo4d_bench.{e.module}"), e.config), name) for name, e in COMMANDS.items()),
    *((policies.policy_class(name).Options, name) for name in policies.names()),
]


def parts(kind: Any) -> list[Any]:
    """A type, and all that it consists of."""
    metadata = list(getattr(kind, "__metadata__", ()))
    return [kind, *metadata, *(part for each in get_args(kind) for part in parts(each))]


@pytest.mark.parametrize(("config", "name"), CONFIGS, ids=[name for _, name in CONFIGS])
def test_every_number_has_a_range_and_is_refused_outside_of_it(config: type, name: str) -> None:
    needed = NEEDED.get(name, {})
    for option, kind in get_type_hints(config, include_extras=True).items():
        found = parts(kind)
        if option in CHECKED_WITH_THE_DATA.get(name, ()) or not {int, float} & {
            p for p in found if isinstance(p, type)
        }:
            continue
        assert any(isinstance(p, FieldInfo) for p in found), f"{option} has no range"
        for value in (-1.0, math.nan, math.inf) if float in found else (-1, 10**30):
            with pytest.raises(ConfigError, match=rf"^--{option.replace('_', '-')} is {value}, expected "):
                config(**needed | {option: value})


@pytest.mark.parametrize("command", ["datagen", "train", "segmenter", "generate", "conditions", "evaluate", "rollout"])
def test_seeds_have_one_rule(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = ["--data", "d"] if command == "segmenter" else []
    for seed, expected in ((-1, "at least 0"), (2**32, f"at most {2**32 - 1}"), (2**63 - 1, f"at most {2**32 - 1}")):
        assert main([command, *needed, "--seed", str(seed)]) == 2
        assert capsys.readouterr().err == f"geo4d-bench {command}: --seed is {seed}, expected {expected}\n"
    assert not list(tmp_path.iterdir())
    config = getattr(importlib.import_module(f"geo4d_bench.{COMMANDS[command].module}"), COMMANDS[command].config)
    assert config(**NEEDED.get(command, {}), seed=2**32 - 1).seed == 2**32 - 1


def test_the_largest_image_that_is_written_is_the_largest_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["datagen", "--episodes", "1", "--height", "4000", "--width", "4000"]) == 2
    assert "16,000,000 pixels in an image, expected at most 11,184,810" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    require_storable(3344, 3344)
    assert 3344 * 3344 * 3 * CHUNK_FRAMES <= CHUNK_BYTES
    with pytest.raises(ConfigError, match="expected at most"):
        require_storable(3345, 3345)
