"""What each of two processes does that ``torchrun`` starts: trains, and trains with a stop in between.

torchrun --standalone --nproc_per_node 2 tests/training/two_processes.py OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(out: Path, rank: int) -> None:
    import torch.distributed
    from test_train import Made, config, run

    whole = run(config(out / "two", steps=8, n_validations=1))
    # 32 windows measure the normalisation, then each process makes 2 and 6 further ones a step, a few steps ahead.
    stopped = False
    try:
        run(config(out / "parts", steps=8, n_validations=1), Made(interrupt_at=32 + 8 * 4 if rank == 1 else None))
    except KeyboardInterrupt:
        stopped = True
    resumed = run(config(out / "parts", steps=8, n_validations=1))
    (out / f"rank{rank}").write_text(f"{whole.steps} {stopped} {resumed.steps}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "model")]
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
