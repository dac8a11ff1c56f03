"""What a command sets for its own process before it begins; importing the package sets nothing."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Set
from pathlib import Path

SPINS = "10000"
"""Rounds that an OpenMP thread waits awake before it sleeps; libgomp's own 300,000 take milliseconds."""
_OF_USERS = ("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY")
_OF_LAUNCHERS = ("LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_GPU = Path("/dev/nvidiactl")
"""Exists where there is an NVIDIA driver; training on a GPU computes little on the processor."""
_allowed: Set[int] = frozenset()

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1


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
    if decided or os.environ.get("GOMP_SPINCOUNT") != SPINS or not sys.platform.startswith("linux") or _GPU.exists():
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
