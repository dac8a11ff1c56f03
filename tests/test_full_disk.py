"""A command that cannot write on says so in one sentence, and leaves what was there, and nothing else."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from geo4d_bench.cli import main
from geo4d_bench.io import held, write_atomic


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond ``size`` bytes of a file fails meanwhile, in processes that are started, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "file", "most"),
    [
        ("export TRAIN --to robomimic --cameras CAMERA --out OUT/x.hdf5", "x.hdf5", 0),
        ("export TRAIN --to robomimic --cameras CAMERA --out OUT/x.hdf5", "x.hdf5", 4_000),
        ("export TRAIN --to robomimic --cameras CAMERA --out OUT/x.hdf5", "x.hdf5", 200_000),
        ("export TRAIN --to lerobot --cameras CAMERA --out OUT/x", "x", 0),
        ("export TRAIN --to lerobot --cameras CAMERA --out OUT/x", "x", 40_000),
        ("inspect TRAIN --out OUT", "ep_000000_frame", 1_000),
        ("conditions --data EVAL --windows 1 --out OUT/new", "new/windows", 1_000),
        ("render TRAIN --out OUT --workers 1 --height 16 --width 16", "", 10_000),
        ("report --data TRAIN --runs OUT --out OUT", "", 5_000),
        ("bench load --data TRAIN --out OUT --repeats 5", "bench.csv", 10),
        ("train --data TRAIN --steps 1 --batch-size 1 --val-windows 0 --out OUT", "model.safetensors", 100_000),
        ("train --data TRAIN --steps 1 --batch-size 1 --val-windows 0 --out OUT", ".lock", 0),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(
    command: str, file: str, most: int, tiny_dataset: Any, tiny_rig: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("of before")
    places = {"TRAIN": tiny_dataset.train, "EVAL": tiny_dataset.eval, "OUT": out, "CAMERA": tiny_rig.cameras[0].name}
    words = command
    for name, place in places.items():
        words = words.replace(name, str(place))
    with files_of_at_most(most):
        code = main(words.split())
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "geo4d-bench" in line]
    assert code == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"geo4d-bench {words.split()[0]}: ")
    assert str(out / file) in lines[0]
    assert (out / "mine.txt").read_text() == "of before"
    assert not [path for path in out.rglob("*") if ".part" in path.name or path.name == ".lock"]


def test_a_file_of_before_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, "old")
    for write in (lambda: write_atomic(path, "x" * 100), lambda: held(tmp_path).__enter__()):
        with files_of_at_most(0), pytest.raises(OSError, match=r"table.csv|\.lock"):
            write()
        assert contents(tmp_path) == {"table.csv": b"old"}


def test_what_a_library_makes_its_owner_s_alone_may_be_read_as_any_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from geo4d_bench.io import atomic

    with atomic(tmp_path / "a") as part:
        save_file({}, part)
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
