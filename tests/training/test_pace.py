"""A training that is held up says so, once, and says what it can see of the reason."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from geo4d_bench.training.pace import OtherPrograms, Pace


def test_slowing_down_is_told_once_until_it_has_recovered() -> None:
    pace = Pace(steps=4)
    said = [pace.step(speed) for speed in [10.0] * 8 + [3.0] * 8 + [9.0] * 4 + [2.0] * 4]
    assert [i for i, text in enumerate(said) if text and "slowed down" in text] == [11, 23]
    assert "to 3 windows/s from 10;" in str(said[11])


def test_a_busy_program_is_seen_and_own_work_is_not() -> None:
    cores = psutil.cpu_count() or 1
    others = OtherPrograms()
    before = others.share()
    began = time.process_time()
    while time.process_time() - began < 0.5:
        pass
    own = others.share()
    busy = subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 2: pass"])
    child = others.share()  # one of ours until it is somebody else's
    busy.wait()
    assert before >= 0.0
    assert own < 0.9 / cores + 0.5  # others may run beside the tests
    assert child <= 1.0


def test_programs_of_others_are_told_from_the_first_look() -> None:
    pace = Pace(steps=2)
    pace._others.share = lambda: 0.4  # type: ignore[method-assign]
    assert [pace.step(1.0) for _ in range(4)] == [
        None, "other programs take 40% of the processors; training (1 windows/s) waits for them", None, None
    ]  # fmt: skip
