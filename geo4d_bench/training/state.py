"""Everything a stopped training needs to go on exactly where it was, in one file that is whole or absent."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError
from geo4d_bench.model.checkpoint import read_tensors, write_tensors
from geo4d_bench.training.optimizer import Optimizers

STATE_NAME = "trainer.safetensors"
M = TypeVar("M", bound=nn.Module)


@dataclass
class Progress:
    """Where a training stands: steps done, seconds trained (resumed time counts), whether it reached its end, and
    before all these the steps that fitted the autoencoder."""

    step: int = 0
    trained_s: float = 0.0
    finished: bool = False
    fitted: int = 0


class Average:
    """Exponential moving average of a module's weights; in short trainings it is much better than the last ones.

    The decay grows with the steps, so that the random start is forgotten.

    Attributes:
        weights: the module's state dict with averages for what is trained; the rest, frozen weights and buffers, are
            the module's own tensors.
        trained: names of the averages in it, each tensor's first where it has several.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        averages = {p: p.detach().clone() for p in module.parameters() if p.requires_grad}
        self.weights = {k: averages.get(v, v.detach()) for k, v in module.state_dict(keep_vars=True).items()}
        self.trained = [name for name, p in module.named_parameters() if p.requires_grad]

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after optimiser step ``step`` (from 1)."""
        decay = min(self.decay, step / (step + 10.0))
        live = module.state_dict()
        torch._foreach_lerp_([self.weights[k] for k in self.trained], [live[k] for k in self.trained], 1.0 - decay)

    def module(self, trained: M) -> M:
        """A copy of the module that is averaged, in evaluation mode. Its tensors are the averages and, where nothing is
        trained, the module's own, so that it takes no memory, and serves until the next update."""
        shared = {id(t): t for t in (*trained.parameters(), *trained.buffers())}
        averaged = copy.deepcopy(trained, shared)
        averaged.load_state_dict(self.weights, assign=True)
        return averaged.eval()


def save_state(
    folder: Path,
    progress: Progress,
    module: nn.Module,
    average: Average,
    optimizers: Optimizers,
    fit: dict[str, Tensor],
) -> None:
    """Write ``trainer.safetensors``: weights, averages, the optimisers' moments, what the autoencoder's fitting needs
    to go on, and progress as metadata."""
    tensors = {f"weights/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"average/{k}": average.weights[k] for k in average.trained}
    tensors |= {f"optimizer/{k}": v for k, v in optimizers.state().items()}
    tensors |= {f"fit/{k}": v for k, v in fit.items()}
    meta = {
        "step": str(progress.step),
        "trained_s": repr(progress.trained_s),
        "finished": str(int(progress.finished)),
        "fitted": str(progress.fitted),
    }
    write_tensors(folder / STATE_NAME, tensors, meta)


def read_progress(folder: Path) -> Progress | None:
    """The progress saved in a folder, or None where no training was saved there."""
    path = folder / STATE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
        return Progress(int(meta["step"]), float(meta["trained_s"]), meta["finished"] == "1", int(meta["fitted"]))
    except Exception as error:  # safetensors raises its own type for cut-off files
        raise CheckpointError(f"{path}: not a whole training state ({error}); remove it to start anew") from None


def load_state(
    folder: Path, module: nn.Module, average: Average, optimizers: Optimizers, fit: dict[str, Tensor]
) -> None:
    """Fill module, average, optimisers and ``fit`` from :func:`save_state`'s file."""
    tensors = read_tensors(folder / STATE_NAME)
    try:
        module.load_state_dict(_part(tensors, "weights/"))
        for name in average.trained:
            average.weights[name].copy_(tensors[f"average/{name}"])
        optimizers.load_state(_part(tensors, "optimizer/"))
        fit.update(_part(tensors, "fit/"))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / STATE_NAME}: made for another model ({str(error).splitlines()[0]}); choose another --out"
        ) from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
