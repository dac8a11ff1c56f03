"""Everything a stopped training needs to go on exactly where it was, in one file that is whole or absent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from geo4d_bench.errors import CheckpointError
from geo4d_bench.io import check_file
from geo4d_bench.model.checkpoint import read_tensors, spread, write_tensors
from geo4d_bench.training.optimizer import Optimizers

STATE_NAME = "trainer.safetensors"
AVERAGE_EVERY = 10
"""Steps between two updates of averages that are kept off the card."""
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

    Args:
        every: steps between two updates, each of which counts for as many: its decay is to this power.
        off_card: keep the averages in the processor's memory, where a thread updates them while the card goes on. The
            card is never waited for, and is held up only where an update takes longer than ``every`` steps.
    """

    def __init__(self, module: nn.Module, decay: float, every: int = 1, off_card: bool = False) -> None:
        self.decay, self.every = decay, every
        own: Callable[[Tensor], Tensor] = (lambda t: t.to("cpu", copy=True)) if off_card else torch.clone
        averages = {p: own(p.detach()) for p in module.parameters() if p.requires_grad}
        self._weights = {k: averages.get(v, v.detach()) for k, v in module.state_dict(keep_vars=True).items()}
        self.trained = [name for name, p in module.named_parameters() if p.requires_grad]
        self._thread = ThreadPoolExecutor(1, "average") if off_card else None
        self._staged: list[Tensor] = []
        self._update: Future[None] | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """State dict by name, after the last update's end."""
        if self._update is not None:
            self._update.result()
            self._update = None
        return self._weights

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after optimiser step ``step`` (from 1)."""
        if step % self.every:
            return
        share = 1.0 - min(self.decay, step / (step + 10.0)) ** self.every
        state = module.state_dict()
        averages, live = ([local(of[k]) for k in self.trained] for of in (self.weights, state))
        if self._thread is None:
            torch._foreach_lerp_(averages, live, share)
            return
        on_card = live[0].is_cuda
        self._staged = self._staged or [torch.empty_like(a, pin_memory=on_card) for a in averages]
        for staged, value in zip(self._staged, live, strict=True):
            staged.copy_(value, non_blocking=True)
        copied = torch.cuda.Event() if on_card else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()
        self._update = self._thread.submit(_mix, averages, self._staged, share, copied)

    def keep_frozen(self, module: nn.Module) -> None:
        """Have what is frozen, as the module has it now, in the processor's memory."""
        for name, value in module.state_dict(keep_vars=True).items():
            if not value.requires_grad:
                self.weights[name] = value.detach().cpu()

    def module(self, trained: M, weights: dict[str, Tensor] | None = None) -> M:
        """A copy of the averaged module in evaluation mode, valid until the next update. On the device of the averages
        it takes no memory: its tensors are the averages and, where nothing is trained, the module's own.

        Args:
            trained: the module, or one whose parameters lie on the meta device.
            weights: those of the copy, instead of ``weights`` on the module's device.
        """
        shared = {id(t): t for t in (*trained.parameters(), *trained.buffers())}
        averaged = copy.deepcopy(trained, shared)
        if weights is None:
            device = next(trained.parameters()).device
            weights = {k: v.to(device) for k, v in self.weights.items()}
        averaged.load_state_dict(weights, assign=True)
        return averaged.eval()


def _mix(averages: list[Tensor], live: list[Tensor], share: float, copied: torch.cuda.Event | None) -> None:
    if copied is not None:
        copied.synchronize()
    torch._foreach_lerp_(averages, live, share)


def local(tensor: Tensor) -> Tensor:
    """Of a tensor that several processes share, this one's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def state_tensors(
    module: nn.Module, average: Average, optimizers: Optimizers, fit: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What :func:`save_state` writes, the training's own tensors: weights, averages, the optimisers' moments, and the
    state ``fit`` of the autoencoder's fitting."""
    averages = average.weights
    live = module.state_dict(keep_vars=True)
    parts = {
        # What is frozen may be held in bfloat16; the average has it as it was.
        "weights": {k: v if v.requires_grad else averages[k] for k, v in live.items()},
        "average": {k: averages[k] for k in average.trained},
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
        live = module.state_dict(keep_vars=True)
        module.load_state_dict({k: spread(v, live[k]) if k in live else v for k, v in parts["weights"].items()})
        frozen = {name: parts["weights"][name] for name, value in live.items() if not value.requires_grad}
        for name, saved in (frozen | {name: parts["average"][name] for name in average.trained}).items():
            average.weights[name].copy_(spread(saved, average.weights[name]))
        optimizers.load_state(parts["optimizer"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: made for another model ({str(error).splitlines()[0]}); choose another --out"
        ) from None
    return progress
