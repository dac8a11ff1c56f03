"""Every random generator is derived from (task, split, seed, stream); nothing reads a global one."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

Split = Literal["train", "eval"]


def derive_seed(task: str, split: str, seed: int, stream: str) -> int:
    """A 63-bit integer that is a pure function of its arguments, the same on every machine.

    Args:
        task: task id with version, for example ``store_cereal-v1``.
        split: ``train`` or ``eval``; the two never share a generator.
        seed: the episode's seed.
        stream: what the numbers are for (``spawn``, ``views``, ``disturbance``, ``policy`` ...), so that a
            further use never shifts the numbers of another.
    """
    text = f"{task}/{split}/{seed}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(task: str, split: str, seed: int, stream: str) -> np.random.Generator:
    """A numpy generator from :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(task, split, seed, stream))
