"""What a command sets for its own process before it begins; importing the package sets nothing."""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

SPINS = "10000"
"""Rounds that an OpenMP thread waits awake before it sleeps; libgomp's own 300,000 take milliseconds."""
_OF_USERS = ("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY")
_OF_LAUNCHERS = ("LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
GPU = Path("/dev/nvidiactl")
"""Exists where there is an NVIDIA driver; training on a GPU computes little on the processor."""
_allowed: Set[int] = frozenset()

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let the block print whatever it likes, wherever that goes.

    Closed streams become the null device, before a file of ours gets their number; characters that standard output
    does not have become ``?``; where a reader has gone (``| head``) the program ends as quietly as others do.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.write(number, b"") if number else os.read(0, 0)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            if not isinstance(error, BrokenPipeError):
                print(f"standard output: {error.strerror}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):  # what they still hold must not fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + signal.SIGPIPE if isinstance(error, BrokenPipeError) else 2)


def end_on_sigterm() -> None:
    """Have ``kill`` end a command as Ctrl-C does: what is finished is kept, and no process stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def find_caches() -> None:
    """Give the libraries that cannot do without a cache one that is this command's alone, where their own cannot be
    written: there is no home directory, or it is read-only."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.home() fails where a user has none
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    robosuite = importlib.util.find_spec("robosuite")
    beside = [Path(robosuite.origin).parent / "utils"] if robosuite and robosuite.origin else []
    wanted = {
        "NUMBA_CACHE_DIR": [*beside, cache / "numba"],
        "MPLCONFIGDIR": [config / "matplotlib"],
        "TRITON_CACHE_DIR": [Path(os.environ.get("TRITON_HOME") or home) / ".triton"],
    }
    missing = [n for n, places in wanted.items() if n not in os.environ and not any(map(_can_be_written, places))]
    if missing:
        folder = tempfile.mkdtemp(prefix="geo4d-bench-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ |= dict.fromkeys(missing, folder)


def _can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, which need not be there."""
    there = next(f for f in (folder, *folder.parents) if f.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()  # permissions alone do not tell
    except OSError:
        return False
    return True


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for its next allocations; nothing with another C library.

    By default tensors of some megabytes are given back to the system and their pages cleared anew in every step, which
    on two cores took a seventh of the time of ``nano``'s loss and gradient. It cannot be undone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


def set_openmp_waits() -> None:
    """Let threads of GNU's OpenMP, which torch brings, spin only briefly; to be called before torch is loaded.

    By default a waiting thread spins for milliseconds. Beside another busy program the kernel then lets two threads of
    ours take turns on one processor: each of some thousand parallel regions of a training step lasts a time slice, and
    training runs at a thirtieth of its speed. Nothing is set where the environment sets any of it.
    """
    if not any(name in os.environ for name in _OF_USERS):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def bind_openmp_threads() -> None:
    """Bind each OpenMP thread of this process to a core of its own, and load torch.

    Nothing where the environment or a launcher of several processes decided, or where there is a GPU. Threads and
    processes that this one starts inherit the main thread's core; they call :func:`use_all_processors`. A thread that
    enters a parallel region of OpenMP itself is moved to the main thread's core again.
    """
    global _allowed
    decided = any(name in os.environ for name in (*_OF_USERS, *_OF_LAUNCHERS) if name != "GOMP_SPINCOUNT")
    if decided or os.environ.get("GOMP_SPINCOUNT") != SPINS or not sys.platform.startswith("linux") or GPU.exists():
        return
    allowed = os.sched_getaffinity(0)
    places = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
    os.environ.update(places)
    import torch  # noqa: F401

    for name in places:
        del os.environ[name]  # of this process alone
    _allowed = allowed


def allowed_processors() -> Set[int]:
    """Those that this process could use before :func:`bind_openmp_threads`; empty where that did nothing."""
    return _allowed


def use_all_processors(allowed: Set[int]) -> None:
    """Let the calling thread, and what it starts, run on any of these; nothing where there are none."""
    if allowed:
        os.sched_setaffinity(0, allowed)
