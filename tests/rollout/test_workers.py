"""Rollouts in several processes end with the command that asked for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest


@contextmanager
def rollout(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A rollout that would take minutes, once it has two workers; all that is left of it is killed at the end."""
    # A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from geo4d_bench.cli import console; console()"
    )
    command = ["rollout", "--policy", "expert", "--episodes", "500", "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"},
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not (out / "episodes.csv").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        yield process
    finally:
        for left in alive(process.pid):
            left.kill()
        process.communicate()


def alive(session: int) -> list[psutil.Process]:
    """The processes of the session that is named after its first process."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux's processes")
def test_workers_end_when_the_command_is_killed(tmp_path: Path) -> None:
    with rollout(tmp_path / "run") as process:
        assert len(alive(process.pid)) >= 4  # the command, what its workers are copied from, and two of them
        process.send_signal(signal.SIGKILL)
        until = time.monotonic() + 60
        while alive(process.pid):
            assert time.monotonic() < until, [p.cmdline() for p in alive(process.pid)]
            time.sleep(0.1)


def test_ctrl_c_is_one_sentence(tmp_path: Path) -> None:
    with rollout(tmp_path / "run") as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "interrupted: what was finished is kept; the same command goes on from there"
