"""What ``geo4d-bench bench train --busy N`` measures: training beside programs that keep a processor busy each.

How OpenMP's threads wait is fixed when torch is loaded, so every measurement is a process of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from geo4d_bench.bench.bench import WARM_UP, BenchConfig, Measurement, compared, count

ROUNDS, STEPS, SECONDS = 2, 20, 20.0
"""In turns; steps of one process, or as many as it makes in that time."""
_PRESET, _BATCH = "layered_nano", 8
_BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


def busy(config: BenchConfig) -> list[Measurement]:
    """Whole training steps with threads as commands set them and as OpenMP has them by itself, idle and beside."""
    programs = config.busy or 0
    settings = [(ours, beside) for ours in (True, False) for beside in (0, programs)]
    rounds = [[_windows_per_s(*setting) for setting in settings] for _ in range(ROUNDS)]
    idle, crowded, default, default_crowded = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
    beside = f"beside {count(programs, 'busy program')}"
    return [
        compared(f"{what}, {_PRESET}, batch {_BATCH}", value, "windows/s", reference)
        for what, value, reference in [
            ("train alone, against OpenMP's own waits", idle, default),
            (f"train {beside}, against alone", crowded, idle),
            (f"train {beside} with OpenMP's own waits, against alone", default_crowded, default),
        ]
    ]


def _windows_per_s(ours: bool, programs: int) -> float:
    hogs = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(programs)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "LOCAL_"))}
    try:
        command = [sys.executable, "-m", __name__, "ours" if ours else "default"]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    return float(done.stdout)


def main() -> None:
    """Print the median speed of training steps, as the ``train`` command takes them, but for reading windows."""
    from geo4d_bench import process

    if sys.argv[1] == "ours":
        process.set_openmp_waits()
        process.bind_openmp_threads()
    process.keep_freed_memory()
    import torch

    from geo4d_bench.bench.model import TrainingStep
    from geo4d_bench.model.generators import find_config

    step = TrainingStep(find_config(_PRESET), _BATCH, torch.device("cpu"))
    times: list[float] = []
    until = time.monotonic() + SECONDS
    while len(times) < WARM_UP + STEPS and (len(times) <= WARM_UP or time.monotonic() < until):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    print(_BATCH / statistics.median(times[WARM_UP:]))


if __name__ == "__main__":
    main()
