"""The command line in processes that are forked from one that has imported everything, so that each starts at once.

Each is a real process with its own file descriptors, OpenGL context and threads; it can be killed by SIGKILL after a
time, or before the n-th time that it changes a file's name, makes or removes one, or opens one to write.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal), what it printed, seconds, and how often it changed
    files below its folder."""

    code: int
    said: str
    seconds: float
    changes: int


def import_everything() -> None:
    """All that commands import, in this process, which makes no OpenGL context and starts no thread."""
    for name in (
        "geo4d_bench.rendering.renderer", "geo4d_bench.datagen.verify", "geo4d_bench.datagen.worker",
        "geo4d_bench.dataset.export_robomimic", "geo4d_bench.rollout.rollout", "geo4d_bench.tasks.simulation",
        "geo4d_bench.training.trainer", "geo4d_bench.report.tables", "geo4d_bench.report.rollouts",
        "geo4d_bench.evaluation.predictions", "geo4d_bench.model.layered.generator", "geo4d_bench.tasks.rigs",
        "OpenGL.GL", "scipy.stats", "statsmodels.stats.multitest", "torch._dynamo", "tyro",
    ):  # fmt: skip
        importlib.import_module(name)


def run_forked(
    work: Callable[[], int],
    folder: Path,
    *,
    log: Path,
    seconds: float | None = None,
    change: int | None = None,
    memory_bytes: int | None = None,
    patience_s: float = PATIENCE_S,
) -> Ended:
    """``work()``, whose result is the exit code, in a process of its own that works in ``folder``.

    Args:
        log: file for what it prints.
        seconds: kill it after this time.  change: kill it before its change of that number (from 1).
        memory_bytes: how much more it may map than it has.
        patience_s: after this time it hangs: it prints where, and is ended.
    """
    counter = log.with_suffix(".changes")
    counter.unlink(missing_ok=True)
    began = time.monotonic()
    log.touch()
    pid = os.fork()
    if pid == 0:
        _be_the_child(work, folder, log, counter, change, memory_bytes, patience_s)
    deadline = began + (patience_s + 10.0 if seconds is None else seconds)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.002)
    changes = int(counter.read_text()) if counter.exists() else 0
    said = log.read_text(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - began, changes)


def _be_the_child(
    work: Callable[[], int],
    folder: Path,
    log: Path,
    counter: Path,
    change: int | None,
    memory_bytes: int | None,
    patience_s: float,
) -> None:
    """Never returns."""
    code = 99
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        faulthandler.enable(sys.stderr)
        faulthandler.dump_traceback_later(patience_s, exit=True, file=sys.stderr)
        if memory_bytes is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        count = [0]
        sys.addaudithook(functools.partial(_watch, str(folder), count, change))
        code = work()
        counter.write_text(str(count[0]))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(folder: str, count: list[int], change: int | None, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        if not isinstance(arguments[2], int) or not arguments[2] & _WRITING:
            return
    elif event not in _CHANGES:
        return
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return
    name = str(Path(os.fsdecode(path)).absolute())
    if not name.startswith(folder + os.sep):
        return
    count[0] += 1
    if count[0] == change:
        os.kill(os.getpid(), signal.SIGKILL)
