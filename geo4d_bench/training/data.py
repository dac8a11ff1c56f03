"""Batches for training: each a pure function of the seed and its step, made ahead of the step that needs them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geo4d_bench.dataset.types import Window
from geo4d_bench.interrupt import ignore_sigint
from geo4d_bench.model.batch import AUXILIARY, batch_from_windows, hands_from_windows
from geo4d_bench.process import allowed_processors, use_all_processors
from geo4d_bench.seeding import generator

AUXILIARY_WINDOWS = 3
"""Where hands go is told from a few small pictures, which cost little: four minutes of ``nano`` on two cores made 351
steps with these windows and 386 without."""


class WindowSource(Protocol):
    """Where windows come from: a dataset, or something made up."""

    def sample(self, rng: np.random.Generator) -> Window:
        """A random window of a random pair of cameras, decided by ``rng`` alone."""
        ...


def fixed_windows(source: WindowSource, count: int, name: str) -> list[Window]:
    """The same ``count`` windows at every call, to watch a number on."""
    rng = generator(name, "eval", 0, "val_windows windows")
    return [source.sample(rng) for _ in range(count)]


Part = tuple[int, int]
"""(rank, processes): which of equal parts of a batch, in order."""


def batches(
    source: WindowSource,
    size: int,
    seed: int,
    start: int,
    workers: int = 0,
    ahead: int = 3,
    part: Part = (0, 1),
    further: int = AUXILIARY_WINDOWS,
) -> Generator[dict[str, Tensor], None, None]:
    """Batches for steps ``start``, ``start + 1`` ...; each worker makes its next ``ahead`` in the background.

    Whoever stops early must close the iterator, which ends the workers.

    Args:
        source: of windows; with ``workers`` it is pickled.
        size: windows a batch, of all processes.
        seed, start: of the training, and the first step; the batches do not depend on the rest.
        workers: processes; 0 is a thread of this one, which on a CPU takes less from the training.
        part: of each batch, that is made.
        further: times as many windows, of which only the hands' way is learned.
    """
    if workers == 0:
        yield from _in_a_thread(_Steps(source, size, seed, part, further), start, ahead)
        return
    wanted = True
    # Started afresh, never forked: threads of this process would be lost in a copy.
    loader = DataLoader(
        _Steps(source, size, seed, part, further), batch_size=None, sampler=takewhile(lambda _: wanted, count(start)),
        num_workers=workers, prefetch_factor=ahead, multiprocessing_context="spawn",
        worker_init_fn=functools.partial(_free, allowed_processors()),
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


def _in_a_thread(steps: _Steps, start: int, ahead: int) -> Generator[dict[str, Tensor], None, None]:
    pool = ThreadPoolExecutor(1, "batches", use_all_processors, (allowed_processors(),))
    waiting: deque[Future[dict[str, Tensor]]] = deque()
    try:
        step = start
        while True:
            while len(waiting) <= ahead:
                waiting.append(pool.submit(steps.__getitem__, step))
                step += 1
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _free(allowed: Set[int], worker: int) -> None:
    use_all_processors(allowed)


@dataclass(frozen=True)
class _Steps(Dataset[dict[str, Tensor]]):
    """Batches by their step."""

    source: WindowSource
    size: int
    seed: int
    part: Part
    further: int

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return make_batch(self.source, self.size, self.seed, step, self.part, self.further)


def make_batch(
    source: WindowSource, size: int, seed: int, step: int, part: Part = (0, 1), further: int = AUXILIARY_WINDOWS
) -> dict[str, Tensor]:
    """The batch of one step or a part of it, with ``further`` times as many windows of which only the hands' way is
    learned. Each window has a generator of its own, so that no part depends on another."""

    def windows(kind: str, count: int) -> list[Window]:
        rank, processes = part
        own = range(rank * count // processes, (rank + 1) * count // processes)
        return [source.sample(generator("training", "train", seed, f"batch {step} {kind} {i}")) for i in own]

    batch = batch_from_windows(windows("window", size))
    if not further:
        return batch
    more = hands_from_windows(windows("further", further * size))
    return batch | {AUXILIARY + k: v for k, v in more.items()}
