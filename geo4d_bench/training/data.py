"""Batches for training: each a pure function of the seed and its step, made ahead of the step that needs them."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Generator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, takewhile
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from geo4d_bench.dataset.types import Window
from geo4d_bench.interrupt import ignore_sigint
from geo4d_bench.model.batch import batch_from_windows
from geo4d_bench.process import allowed_processors, use_all_processors
from geo4d_bench.seeding import generator

AUXILIARY_WINDOWS = 3
"""Times as many windows as a batch has, of which only the hands' trajectory is learned, from a few small pictures that
cost little: four minutes of ``nano`` on two cores made 351 steps with these windows and 386 without."""

Batch = dict[str, Tensor]
_AHEAD = 3


class WindowSource(Protocol):
    """Where windows come from: a dataset, or something made up."""

    def sample(self, rng: np.random.Generator) -> Window:
        """A random window of a random pair of cameras, decided by ``rng`` alone."""
        ...


def fixed_windows(source: WindowSource, count: int, name: str) -> list[Window]:
    """The same ``count`` windows at every call."""
    rng = generator(name, "eval", 0, "val_windows windows")
    return [source.sample(rng) for _ in range(count)]


def make_batch(
    source: WindowSource,
    size: int,
    seed: int,
    step: int,
    part: tuple[int, int] = (0, 1),
    further: int = AUXILIARY_WINDOWS,
) -> Batch:
    """The ``part`` (rank, processes), one of equal parts, of a step's batch: ``size`` windows and ``further`` times as
    many auxiliary ones, of which only the hands' trajectory is learned. Each window has a random generator of its own,
    so that no part depends on another."""

    def windows(kind: str, count: int) -> list[Window]:
        rank, processes = part
        own = range(rank * count // processes, (rank + 1) * count // processes)
        return [source.sample(generator("training", "train", seed, f"batch {step} {kind} {i}")) for i in own]

    return batch_from_windows(windows("window", size), windows("further", further * size))


def batches(make: Callable[[int], Batch], start: int, workers: int = 0) -> Generator[Batch, None, None]:
    """``make(step)`` for the steps ``start``, ``start + 1`` ..., each worker some steps ahead in the background.

    ``workers`` are processes, to which ``make`` is pickled; 0 is a thread of this one, which on a CPU takes less from
    the training. Whoever stops early must close the iterator, which ends the workers.
    """
    return _by_processes(make, start, workers) if workers else _by_a_thread(make, start)


def _by_processes(make: Callable[[int], Batch], start: int, workers: int) -> Generator[Batch, None, None]:
    wanted = True
    steps: Any = range(sys.maxsize)  # a dataset whose item is its index, of which ``make`` makes a batch
    collate: Any = make
    # Started afresh, never forked: threads of this process would be lost in a copy.
    loader = DataLoader(
        steps, batch_size=None, sampler=takewhile(lambda _: wanted, count(start)), collate_fn=collate,
        num_workers=workers, prefetch_factor=_AHEAD, multiprocessing_context="spawn",
        worker_init_fn=functools.partial(_use_all_processors, allowed_processors()),
    )  # fmt: skip
    with ignore_sigint():
        stream = iter(loader)
    try:
        yield from stream
    finally:
        # What is under way is awaited: a process that is told to end while it sends a tensor may abort.
        wanted = False
        for _ in stream:
            pass


def _by_a_thread(make: Callable[[int], Batch], start: int) -> Generator[Batch, None, None]:
    pool = ThreadPoolExecutor(1, "batches", use_all_processors, (allowed_processors(),))
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in count(start):
            waiting.append(pool.submit(make, step))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _use_all_processors(allowed: Set[int], worker: int) -> None:
    use_all_processors(allowed)
