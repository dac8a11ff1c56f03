"""Every random generator is derived from (task, split, seed, stream); nothing reads a global one."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

Split = Literal["train", "eval"]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What every command takes as ``--seed``: what every library's generator takes too. The seeds of single episodes, which
``datagen`` counts in blocks of a million for each seed, then stay whole numbers even where a reader makes float64 of
them."""


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
