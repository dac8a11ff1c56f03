"""Medians of repeated runs, side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

WARM_UP = 2


@dataclass(frozen=True)
class Measurement:
    """One line of bench.csv.

    Attributes:
        value: median, in ``unit``.  reference: the same work done another way, in the same unit, in the same run.
        ratio: how many times better than the reference (above 1 is better than it). Both NaN where there is nothing
            to compare with.
        command: what makes this line again; ``bench.run`` knows it.
    """

    name: str
    value: float
    unit: str
    reference: float = math.nan
    ratio: float = math.nan
    command: str = ""


def median_seconds(repeats: int, *works: Callable[[], object]) -> tuple[float, ...]:
    """Median wall time of each of ``works`` after a warm-up, taking turns, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(WARM_UP + repeats):
        for work, measured in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if turn >= WARM_UP:
                measured.append(time.perf_counter() - began)
    return tuple(statistics.median(measured) for measured in times)


def compared(name: str, value: float, unit: str, reference: float, *, more_is_better: bool) -> Measurement:
    """A number beside its reference."""
    return Measurement(name, value, unit, reference, value / reference if more_is_better else reference / value)


def count(number: int, thing: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
