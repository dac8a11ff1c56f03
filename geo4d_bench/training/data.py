"""Batches for training: each a pure function of the seed and its step, made ahead of the step that needs them."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import count
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geo4d_bench.dataset.types import Window
from geo4d_bench.model.batch import batch_from_windows
from geo4d_bench.pool import processes
from geo4d_bench.process import allowed_processors, use_all_processors
from geo4d_bench.seeding import generator

AUXILIARY_WINDOWS = 3
"""Times as many windows as a batch has, of which only the hands' trajectory is learned, from a few small pictures that
cost little: four minutes of ``nano`` on two cores made 351 steps with these windows and 386 without."""

R = TypeVar("R")
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

    windows = (
        drawn(source.sample, *kind, seed, step, part) for kind in (("window", size), ("further", further * size))
    )
    return batch_from_windows(*windows)


def drawn(
    draw: Callable[[np.random.Generator], R], kind: str, count: int, seed: int, step: int, part: tuple[int, int]
) -> list[R]:
    """The ``part`` of a step's ``count`` windows, each of its own generator."""
    rank, processes = part
    own = range(rank * count // processes, (rank + 1) * count // processes)
    return [draw(generator("training", "train", seed, f"batch {step} {kind} {i}")) for i in own]


def batches(
    make: Callable[[int], Batch], start: int, workers: int = 0, gpu: torch.device | None = None
) -> Generator[Batch, None, None]:
    """``make(step)`` for the steps ``start``, ``start + 1`` ..., each worker some steps ahead in the background; with
    ``gpu`` in pinned memory, from which it copies while it computes.

    ``workers`` are processes, to which ``make`` is pickled; 0 is a thread of this one, which on a CPU takes less from
    the training. Whoever stops early must close the iterator, which ends the workers.

    Raises:
        WorkerError: the system ended a process.
    """
    ready: Callable[[], object] = functools.partial(use_all_processors, allowed_processors())
    if workers:
        with processes(workers, functools.partial(_prepare, make, ready)) as pool:
            arrays = _in_order(pool, _arrays, start, _AHEAD * workers)
            made = ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in arrays)
            yield from _in_a_thread(lambda step: _pinned(next(made), gpu), start) if gpu else made
    yield from _in_a_thread(lambda step: _pinned(make(step), gpu), start, ready)


def _in_a_thread(
    make: Callable[[int], Batch], start: int, ready: Callable[[], object] | None = None
) -> Generator[Batch, None, None]:
    pool = ThreadPoolExecutor(1, "batches", ready)
    try:
        yield from _in_order(pool, make, start, _AHEAD)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pinned(batch: Batch, gpu: torch.device | None) -> Batch:
    if gpu is None:
        return batch
    with torch.cuda.device(gpu):  # a new thread would take memory on the first GPU
        return {name: tensor.pin_memory() for name, tensor in batch.items()}


def _in_order(pool: Executor, make: Callable[[int], R], start: int, ahead: int) -> Iterator[R]:
    waiting: deque[Future[R]] = deque()
    for step in count(start):
        waiting.append(pool.submit(make, step))
        if len(waiting) > ahead:
            yield waiting.popleft().result()


_make: Callable[[int], Batch]
"""Of a process that makes batches; pickled once, for it holds the windows."""


def _prepare(make: Callable[[int], Batch], ready: Callable[[], object]) -> None:
    global _make
    _make = make
    ready()


def _arrays(step: int) -> dict[str, npt.NDArray[Any]]:
    """A batch as arrays, which are sent by value: tensors would lie in /dev/shm, of which containers have 64 MiB."""
    return {name: tensor.numpy() for name, tensor in _make(step).items()}
