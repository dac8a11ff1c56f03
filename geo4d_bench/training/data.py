"""Batches for training: each a pure function of the seed and its step, made ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from torch import Tensor

from geo4d_bench.dataset.types import Window
from geo4d_bench.model.batch import batch_from_windows
from geo4d_bench.seeding import generator


class WindowSource(Protocol):
    """Where windows come from: a dataset, or something made up."""

    def sample(self, rng: np.random.Generator) -> Window:
        """A random window of a random pair of cameras, decided by ``rng`` alone."""
        ...


def fixed_windows(source: WindowSource, count: int, name: str) -> list[Window]:
    """The same ``count`` windows at every call, to watch a number on."""
    rng = generator(name, "eval", 0, "watched windows")
    return [source.sample(rng) for _ in range(count)]


def batches(
    source: WindowSource, size: int, seed: int, start: int, ahead: int = 3
) -> Generator[dict[str, Tensor], None, None]:
    """Batches for steps ``start``, ``start + 1`` ...; the next ``ahead`` are made in the background.

    Whoever stops early must close the iterator, which ends its thread.
    """
    pool = ThreadPoolExecutor(1, "batches")
    waiting: deque[Future[dict[str, Tensor]]] = deque()
    try:
        step = start
        while True:
            while len(waiting) <= ahead:
                waiting.append(pool.submit(make_batch, source, size, seed, step))
                step += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_batch(source: WindowSource, size: int, seed: int, step: int) -> dict[str, Tensor]:
    """The batch of one step."""
    rng = generator("training", "train", seed, f"batch {step}")
    return batch_from_windows([source.sample(rng) for _ in range(size)])
