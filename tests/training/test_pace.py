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


START = """
import subprocess, sys
busy = "import time\\nwhile time.process_time() < 20: pass"
print(subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)
"""


def test_a_busy_program_of_somebody_else_is_seen() -> None:
    # Its parent ends at once, so that it is no child of this process.
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    busy = psutil.Process(int(started.stdout))
    try:
        others, before = OtherPrograms(), busy.cpu_times().user
        time.sleep(1.0)
        took_s = busy.cpu_times().user - before
        share = others.share()
    finally:
        busy.kill()
    assert took_s > 0
    assert share * (psutil.cpu_count() or 1) > 0.5 * took_s


def test_programs_of_others_are_told_from_the_first_look() -> None:
    pace = Pace(steps=2)
    pace._others.share = lambda: 0.4  # type: ignore[method-assign]
    assert [pace.step(1.0) for _ in range(4)] == [
        None, "other programs take 40% of the processors; training (1 windows/s) waits for them", None, None
    ]  # fmt: skip
