"""What each of two processes does that share the weights: trains, and trains with a stop in between.

torchrun --standalone --nproc_per_node 2 tests/training/two_sharing.py OUT PRETRAINED
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(out: Path, pretrained: Path, rank: int) -> None:
    import torch.distributed
    from test_train_svd import run

    options = {"batch_size": 2, "precision": "fp32", "val_windows": 1, "shard": True}
    run(out / "two", pretrained, **options)
    # 32 windows measure the normalisation and one is held out, then each process makes one a step, a few steps ahead.
    stopped = False
    try:
        run(out / "parts", pretrained, interrupt_at=32 + 1 + 1 if rank == 1 else None, **options)
    except KeyboardInterrupt:
        stopped = True
    assert stopped
    run(out / "parts", pretrained, **options)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "model")]
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"]))
