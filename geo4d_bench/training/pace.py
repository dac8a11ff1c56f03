"""Whether a training runs as fast as it did, and whether other programs hold it up."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress

import psutil

SLOW, CROWDED = 0.5, 0.25
"""Shares worth a sentence: of the usual speed, below it; of the processors that other programs take, above it."""


class Pace:
    """Looks at every ``steps`` training steps; the usual speed is the best so far."""

    def __init__(self, steps: int = 20) -> None:
        self._steps = steps
        self._recent: list[float] = []
        self._usual = 0.0
        self._slow = False
        self._others = OtherPrograms()

    def step(self, windows_per_s: float) -> str | None:
        """Note a step's speed; returns a sentence where training slows down, once each time, and where other programs
        take much at the first look."""
        self._recent.append(windows_per_s)
        if len(self._recent) < self._steps:
            return None
        speed, self._recent = statistics.median(self._recent), []
        others, first = self._others.share(), self._usual == 0.0
        self._usual = max(self._usual, speed)
        was_slow, self._slow = self._slow, speed < SLOW * self._usual
        taken = f"other programs take {others:.0%} of the processors"
        if self._slow and not was_slow:
            return f"training has slowed down to {speed:.2g} windows/s from {self._usual:.2g}; {taken}"
        if first and others > CROWDED:
            return f"{taken}; training ({speed:.2g} windows/s) waits for them"
        return None


class OtherPrograms:
    """How much of the machine programs take that are neither this process nor started by it."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._since = self._clocks()

    def share(self) -> float:
        """Share of all processors' time that they took since the last call, 0 to 1."""
        before, self._since = self._since, self._clocks()
        wall, busy, own = (now - then for now, then in zip(self._since, before, strict=True))
        return min(max((busy - own) / (wall * (psutil.cpu_count() or 1)), 0.0), 1.0)

    def _clocks(self) -> tuple[float, float, float]:
        """Seconds: of the wall, of all processors at work, of this process and its children at work."""
        total, own = psutil.cpu_times(), 0.0
        for process in (self._own, *self._own.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                own += times.user + times.system
        return time.monotonic(), total.user + getattr(total, "nice", 0.0) + total.system, own
