"""docs/rigs.md is true: its table is the registry, its files are rigs, its commands are understood."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

from geo4d_bench.cli import COMMANDS
from geo4d_bench.geometry.rig import DrawnRig
from geo4d_bench.tasks import spec
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rigs import RIGS, is_rig_file, make_rig

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "rigs.md").read_text()
WORKSPACE = spec("store_cereal").workspace


def test_the_table_lists_every_rig_with_its_cameras() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (.*) \|$", TEXT, flags=re.M)
    assert sorted(name for name, *_ in rows) == list(RIGS)
    for name, seen, novel, words in rows:
        rig = make_rig(name, WORKSPACE)
        assert (len(rig.camera_names("seen")), len(rig.camera_names("novel"))) == (int(seen), int(novel))
        assert isinstance(rig, DrawnRig) == ("drawn anew for every episode" in words)


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S))
def test_each_file_is_a_rig(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert len(make_rig(str(path), WORKSPACE).camera_names()) >= 2


@pytest.mark.parametrize("line", re.findall(r"^geo4d-bench .*$", TEXT, flags=re.M))
def test_each_command_is_understood(line: str) -> None:
    _, name, *args = shlex.split(line, comments=True)
    if name == "rig":
        name, args = f"rig {args[0]}", args[1:]
    entry = COMMANDS[name]
    config = tyro.cli(getattr(importlib.import_module(f"geo4d_bench.{entry.module}"), entry.config), args=args)
    for views in (getattr(config, option, None) for option in ("rig", "views")):
        assert views in (None, "all", "seen", "novel", *RIGS, *PROTOCOLS) or is_rig_file(views)
