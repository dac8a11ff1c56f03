"""Everything a stopped training needs to go on exactly where it was, in one file that is whole or absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError
from geo4d_bench.model.checkpoint import read_tensors, write_aside
from geo4d_bench.training.optimizer import Optimizers

STATE_NAME = "trainer.safetensors"


@dataclass
class Progress:
    """Where a training stands: steps done, seconds trained (resumed time counts), whether it reached its end."""

    step: int = 0
    trained_s: float = 0.0
    finished: bool = False


class Average:
    """Exponential moving average of a module's weights; in short trainings it is much better than the last ones.

    The decay grows with the steps, so that the random start is forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after optimiser step ``step`` (from 1)."""
        decay = min(self.decay, step / (step + 10.0))
        live = module.state_dict()
        torch._foreach_lerp_(list(self.weights.values()), [live[k] for k in self.weights], 1.0 - decay)


def save_state(
    folder: Path,
    settings: dict[str, Any],
    progress: Progress,
    module: nn.Module,
    average: Average,
    optimizers: Optimizers,
) -> None:
    """Write ``trainer.safetensors``: weights, their average, the optimisers' moments, and progress as metadata."""
    tensors = {f"weights/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.weights.items()}
    tensors |= {f"optimizer/{k}": v for k, v in optimizers.state().items()}
    meta = {
        "settings": json.dumps(settings),
        "step": str(progress.step),
        "trained_s": repr(progress.trained_s),
        "finished": str(int(progress.finished)),
    }
    write_aside(folder / STATE_NAME, save({k: v.detach().cpu().clone() for k, v in tensors.items()}, metadata=meta))


def read_progress(folder: Path) -> tuple[dict[str, Any], Progress] | None:
    """The settings and progress saved in a folder, or None where no training was saved there."""
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
        progress = Progress(int(meta["step"]), float(meta["trained_s"]), meta["finished"] == "1")
        return json.loads(meta["settings"]), progress
    except Exception as error:  # safetensors raises its own type for cut-off files, json and dict theirs
        raise CheckpointError(f"{path}: not a whole training state ({error}); remove it to start anew") from None


def load_state(folder: Path, module: nn.Module, average: Average, optimizers: Optimizers) -> None:
    """Fill module, average and optimisers from :func:`save_state`'s file."""
    tensors = read_tensors(folder / STATE_NAME)
    try:
        module.load_state_dict(_part(tensors, "weights/"))
        average.weights = {k: tensors[f"average/{k}"].to(v.device) for k, v in average.weights.items()}
        optimizers.load_state(_part(tensors, "optimizer/"))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / STATE_NAME}: made for another model ({str(error).splitlines()[0]}); choose another --out"
        ) from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
