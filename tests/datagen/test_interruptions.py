"""A running ``geo4d-bench datagen``, killed at random moments, interrupted, or robbed of a worker."""

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
from episode_contents import assert_same_contents

from geo4d_bench.datagen import verify
from geo4d_bench.datagen.verify import VerifyConfig
from geo4d_bench.dataset.manifest import read_manifest

KILLS = int(os.environ.get("GEO4D_TEST_KILLS", "1"))
"""20 take about four minutes of two cores: GEO4D_TEST_KILLS=20 pytest tests/datagen/test_interruptions.py."""
LONGEST_S = 6.0 if KILLS <= 5 else 20.0
"""Kills come up to this long after the start; the first episode is there after about 8 s on an idle core."""


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


def test_killed_at_random_moments_the_dataset_is_the_same(tmp_path: Path, rig_file: Path, tiny_dataset: Any) -> None:
    """SIGKILL to the process and its workers, again and again; the last call finishes what they left."""
    out = tmp_path / "killed"
    rng = np.random.default_rng(11)
    kills, finished = 0, 0
    for _ in range(4 * KILLS):
        if kills == KILLS:
            break
        with datagen(rig_file, out) as process:
            try:
                process.wait(timeout=float(rng.uniform(0.0, LONGEST_S)))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            else:  # it was done before it could be killed: take an episode away, so that the next call has work
                _, said = process.communicate()
                assert process.returncode == 0, said
                finished += 1
                sorted((out / "episodes").glob("ep_*.hdf5"))[int(rng.integers(2))].unlink()
    assert kills == KILLS, f"{kills} kills hit a running process, {finished} runs were done before"

    with datagen(rig_file, out) as process:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert sorted(p.name for p in (out / "episodes").iterdir()) == ["ep_000000.hdf5", "ep_000001.hdf5"]
    assert not [p for p in out.rglob("*") if p.name.endswith(".part")]
    expected = read_manifest(tiny_dataset.train).episodes
    for ours, theirs in zip(read_manifest(out).episodes, expected, strict=True):
        assert_same_contents(out / "episodes" / theirs.file, tiny_dataset.train / "episodes" / theirs.file)
        assert ours == theirs  # sha256, seeds, failed attempts
    assert verify.run(VerifyConfig(out)).faults == ()


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
