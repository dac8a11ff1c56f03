"""Files are whole or absent, and a folder is one command's at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from geo4d_bench.errors import BusyError
from geo4d_bench.io import LEFTOVERS, atomic, held, write_atomic


def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    write_atomic(path, "a,ü\n")
    assert path.read_bytes() == "a,ü\n".encode()

    def fail() -> None:
        with atomic(path) as part:
            part.write_text("half")
            assert part.suffix == ".csv"
            assert part in set(path.parent.glob(LEFTOVERS))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == "a,ü\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_a_files_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(IsADirectoryError, match="name a file"):
            write_atomic(path, "a")
    assert list(tmp_path.iterdir()) == []


def test_the_second_command_in_a_folder_is_told_which_one_holds_it(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from geo4d_bench.io import held\n"
    code += "with held(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with (
            pytest.raises(BusyError, match=rf"is being written by '.*{tmp_path}' \(process {first.pid} on "),
            held(tmp_path),
        ):
            pass
        first.kill()
    with held(tmp_path), pytest.raises(BusyError), held(tmp_path):  # a killed holder holds nothing
        pass
    assert list(tmp_path.iterdir()) == []
