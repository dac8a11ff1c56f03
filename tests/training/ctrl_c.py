"""Trains with a process that reads windows until a terminal's Ctrl-C, which reaches both: ctrl_c.py OUT"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path


def press_when_trained(out: Path) -> None:
    while not (out / "trainer.safetensors").exists():  # the first watch has saved
        time.sleep(0.05)
    os.killpg(os.getpgrp(), signal.SIGINT)


def main(out: Path) -> None:
    from test_train import Made, config, run

    threading.Thread(target=press_when_trained, args=(out,), daemon=True).start()
    try:
        run(config(out, steps=100_000, n_validations=10_000, val_windows=0, workers=1), Made())
    except KeyboardInterrupt:
        print("interrupted")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "model")]
    main(Path(sys.argv[1]))
