"""A training step in one pass over both views and modalities, against four passes: what ``bench train`` compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geo4d_bench.model.batch import AUXILIARY, fake_batch
from geo4d_bench.model.layered import losses
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator

_COLOUR, _SHAPE = ("rgb",), ("background", "hand", "valid")
"""Terms of the loss that are of one modality; labels of the hands are both's."""
_OF_VIEWS = ("first_rgb", "first_points", "first_valid", "rays", "T_world_cam", "rgb", "points", "valid", "parts")


def passes(preset: str, batch: int, auxiliary: int, bf16: bool) -> dict[str, tuple[Callable[[], None], ...]]:
    """One pass and four, the loss and its gradient on random input: of the network that draws, and of the whole
    generator, which also predicts the trajectory, of the auxiliary windows too.

    A single view goes through the reference's decoder, which view m's equals but for its attention to the reference.
    Each of the four passes computes all outputs and learns one modality of one view, and their gradients add up to the
    step's; the trajectory, which is no modality, is learned once a view.

    Args:
        preset: one of the layered generator's.  batch: windows.  auxiliary: auxiliary windows.
        bf16: whether bfloat16 is used.
    """
    torch.manual_seed(0)
    c = LayeredConfig.presets()[preset]
    generator, both = LayeredGenerator(c), fake_batch(c, batch, auxiliary)
    alone = [
        {k: v[:, i : i + 1] if k.removeprefix(AUXILIARY) in _OF_VIEWS else v for k, v in both.items()} for i in range(2)
    ]

    def add_gradient(part: dict[str, Tensor], whole: bool, without: tuple[str, ...] = ()) -> None:
        predictor: Any = generator.predictor if whole else None
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            terms = losses.terms(c, generator.network, predictor, part, torch.Generator().manual_seed(0))
            total = losses.weighted({k: v for k, v in terms.items() if k not in without})
        torch.autograd.backward(total)

    def one(whole: bool) -> None:
        add_gradient(both, whole)
        generator.zero_grad()

    def four(whole: bool) -> None:
        for view in alone:
            add_gradient(view, False, without=_SHAPE)
            add_gradient(view, whole, without=_COLOUR)
        generator.zero_grad()

    return {
        "network": (lambda: one(False), lambda: four(False)),
        "generator": (lambda: one(True), lambda: four(True)),
    }
