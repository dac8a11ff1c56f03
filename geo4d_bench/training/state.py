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
from geo4d_bench.io import check_file
from geo4d_bench.model.checkpoint import read_tensors, write_tensors
from geo4d_bench.training.optimizer import Optimizers

STATE_NAME = "trainer.safetensors"
M = TypeVar("M", bound=nn.Module)


@dataclass
class Progress:
    """Steps done, seconds trained (resumed time counts), whether the training reached its end, and before all these the
    steps that fitted the autoencoder."""

    step: int = 0
    trained_s: float = 0.0
    finished: bool = False
    fitted: int = 0

    def metadata(self) -> dict[str, str]:
        """As a safetensors file has it."""
        texts = {"step": f"{self.step}", "trained_s": repr(self.trained_s), "finished": f"{self.finished:d}"}
        return texts | {"fitted": f"{self.fitted}"}


class Average:
    """Exponential moving average of a module's weights; in short trainings it is much better than the last ones.

    The decay grows with the steps, so that the random start is forgotten. ``weights`` is the module's state dict with
    averages of what is ``trained`` (each tensor's first name); frozen weights and buffers are the module's own.
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
        """A copy of the averaged module in evaluation mode, valid until the next update. It takes no memory: its
        tensors are the averages and, where nothing is trained, the module's own."""
        shared = {id(t): t for t in (*trained.parameters(), *trained.buffers())}
        averaged = copy.deepcopy(trained, shared)
        averaged.load_state_dict(self.weights, assign=True)
        return averaged.eval()


def state_tensors(
    module: nn.Module, average: Average, optimizers: Optimizers, fit: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What :func:`save_state` writes, the training's own tensors: weights, averages, the optimisers' moments, and the
    state ``fit`` of the autoencoder's fitting."""
    parts = {
        "weights": module.state_dict(),
        "average": {k: average.weights[k] for k in average.trained},
        "optimizer": optimizers.state(),
        "fit": fit,
    }
    return {f"{part}/{k}": v for part, values in parts.items() for k, v in values.items()}


def save_state(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write ``trainer.safetensors``: :func:`state_tensors`, and progress as metadata."""
    write_tensors(folder / STATE_NAME, tensors, progress.metadata())


def save_beginning(folder: Path) -> None:
    """Write the state of a training that has not come far enough to save anything, where there is no other: killed
    while it writes its first checkpoint, it begins anew."""
    if not (folder / STATE_NAME).exists():
        save_state(folder, Progress(), {})


def load_state(
    folder: Path, module: nn.Module, average: Average, optimizers: Optimizers, fit: dict[str, Tensor]
) -> Progress | None:
    """Fill module, average, optimisers and ``fit`` from :func:`save_state`'s file; None where there is none."""
    path = folder / STATE_NAME
    try:
        check_file(path)
    except FileNotFoundError:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
        progress = Progress(int(meta["step"]), float(meta["trained_s"]), meta["finished"] == "1", int(meta["fitted"]))
    except Exception as error:  # safetensors raises its own type for cut-off files
        raise CheckpointError(f"{path}: not a whole training state ({error}); choose another --out") from None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimizer": {}, "fit": fit}
    tensors = read_tensors(path, "choose another --out")
    if progress == Progress() and not tensors:
        return progress
    try:
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        module.load_state_dict(parts["weights"])
        for name in average.trained:
            average.weights[name].copy_(parts["average"][name])
        optimizers.load_state(parts["optimizer"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: made for another model ({str(error).splitlines()[0]}); choose another --out"
        ) from None
    return progress
