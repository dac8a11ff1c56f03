"""A running ``geo4d-bench datagen``, interrupted or robbed of a worker; kills are in ``tests/hostile``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geo4d_bench.dataset.manifest import read_manifest


@pytest.fixture
def rig_file(tmp_path: Path, tiny_rig: Any) -> Path:
    """The cameras of ``tiny_dataset``, to the bit, as a user's file: its episodes are what has to come out."""
    lines = [f"fovy_deg: {np.degrees(tiny_rig.cameras[0].fovy_rad):g}", "cameras:"]
    for camera in tiny_rig.cameras:
        position = camera.T_world_cam[:3, 3].tolist()
        lines.append(f"  - {{name: {camera.name}, position: {position}, split: {camera.split}}}")
    path = tmp_path / "tiny4.yaml"
    path.write_text("\n".join(lines))
    return path


@contextmanager
def datagen(rig_file: Path, out: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The real command, in a process group of its own that is gone afterwards."""
    command = ["datagen", "--episodes", "2", "--rig", str(rig_file), "--disturbed-share", "0.5", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from geo4d_bench.cli import console; console()", *command, *more],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"},
        # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stderr:
            process.stderr.close()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Worker processes that are at work: they have loaded MuJoCo."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.getpgid(int(entry.name)) != process.pid:
                continue
            if "popen_loky_posix" in (entry / "cmdline").read_text() and "libmujoco" in (entry / "maps").read_text():
                found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def ignores_sigint(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (signal.SIGINT - 1) & 1)


def wait_for_workers(process: subprocess.Popen[str]) -> list[int]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        found = workers_of(process)
        if len(found) == 2:
            return found
        time.sleep(0.1)
    raise AssertionError("no two workers within 120 s")


def test_a_killed_worker_and_ctrl_c_are_one_sentence_each(tmp_path: Path, rig_file: Path) -> None:
    out = tmp_path / "robbed"
    with datagen(rig_file, out, "--workers", "2") as process:
        os.kill(wait_for_workers(process)[0], signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    # Before it and after it, what the killed worker leaves behind may complain about its death.
    words = [line for line in said.splitlines() if line.startswith("geo4d-bench datagen: ")]
    assert len(words) == 1, said
    assert "the system ended one of 2 worker processes" in words[0]

    # As a terminal does, and as 'kill' and batch systems do.
    for ask in (lambda: os.killpg(process.pid, signal.SIGINT), lambda: os.kill(process.pid, signal.SIGTERM)):
        with datagen(rig_file, out, "--workers", "2") as process:
            workers = wait_for_workers(process)
            # Wherever a worker stands, in its imports or in its work, it does not hear what is for the process that
            # asked.
            assert [ignores_sigint(pid) for pid in (process.pid, *workers)] == [False, True, True]
            ask()
            _, said = process.communicate(timeout=120)
            assert not workers_of(process)
        assert process.returncode == 130, said
        assert "interrupted: what was finished is kept" in said
        # A program that glfw starts at its import, to try its library, may complain that the worker is gone.
        assert not re.search(r'File ".+\.py"', said), said
        assert not list((out / "episodes").glob("ep_*.hdf5"))
        assert read_manifest(out).episodes == ()
