"""How a process holds memory, and how much it has held."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees for its next allocations; nothing where it is not glibc.

    By default glibc takes tensors of some megabytes from the system and gives them back each time: all their pages are
    then cleared anew in every step, which on two cores took a seventh of the time of ``nano``'s loss and gradient.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)


def peak_mib(device: torch.device) -> float:
    """The most memory that this process has held: of the GPU where it has one, else of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
