"""What counts on grippers counts as a plan is read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from geo4d_bench.model.generators import presets
from geo4d_bench.model.video.autoencoders import LABELS, POINTS
from geo4d_bench.model.video.labels import read_changes
from geo4d_bench.model.video.losses import STRAY, hand_error, read_error

UNET_DEBUG = presets().get("unet_debug")


def drawn(column: int, arm: int = 0) -> torch.Tensor:
    """Latents (1, 2, 3, 1, C, h, w) of a gripper of 4 x 4 pixels before points that lie .02 apart along a row."""
    images = torch.zeros(1, 2, 3, 1, 3, UNET_DEBUG.height, UNET_DEBUG.width)
    images[:, :, POINTS, :, 0] = 0.02 * torch.arange(UNET_DEBUG.width)
    images[:, :, LABELS, :, 1, 6:10, column : column + 4] = 1.0 - 2.0 * arm
    return torch.nn.functional.pixel_unshuffle(images, UNET_DEBUG.patch)


def everywhere(z: torch.Tensor) -> torch.Tensor:
    """All cells of latents are near a gripper."""
    return torch.ones_like(z[:, :, :1, :, :1])


@pytest.mark.parametrize("arms", [1, 2])
def test_a_grippers_centre_counts_by_how_far_it_is_off(arms: int) -> None:
    config = dataclasses.replace(UNET_DEBUG, arms=arms, centre_weight=3.0)
    known, near, arm = torch.ones_like(drawn(0)), everywhere(drawn(0)), arms - 1

    def error(column: int, known: torch.Tensor = known) -> float:
        return float(read_error(config, drawn(column, arm), drawn(4, arm), known, near))

    assert error(4) == pytest.approx(0.0, abs=1e-6)
    for column in (9, 14, 19):  # beside one another, where errors of pixels are the same
        assert error(column) == pytest.approx(3.0 * (np.hypot(0.02 * (column - 4), 0.02) - 0.02), rel=1e-3)
    assert error(9, torch.zeros_like(known)) == 0.0  # a gripper without depth is nowhere
    assert read_error(UNET_DEBUG.with_ablation("no_gripper_weight"), drawn(9), drawn(4), known, near) == 0.0


def test_the_share_of_a_gripper_that_is_drawn_away_from_it_counts_squared() -> None:
    config = dataclasses.replace(UNET_DEBUG, centre_weight=3.0, change_weight=0.0)
    true, near = drawn(4), everywhere(drawn(4))
    both, known = torch.maximum(true, drawn(20)), torch.ones_like(drawn(4))
    of_centre = float(read_error(config, both, true, known, near))
    near[..., 4:] = 0.0  # cells of 4 pixels
    assert float(read_error(config, true, true, known, near)) == pytest.approx(0.0, abs=1e-6)
    more = float(read_error(config, both, true, known, near)) - of_centre
    assert more == pytest.approx(3.0 * STRAY * 0.5**2, rel=1e-4)


def test_a_grippers_opening_counts_as_it_is_read() -> None:
    config = dataclasses.replace(UNET_DEBUG, change_weight=3.0)
    true, known, near = drawn(4), torch.ones_like(drawn(4)), everywhere(drawn(4))

    def showing(change: float, column: int = 4) -> torch.Tensor:
        z = drawn(column)
        side = z[:, :, LABELS].unflatten(3, (3, -1))[:, :, :, 1] * 0.5 * change
        z[:, :, LABELS, :, 2 * UNET_DEBUG.patch**2 :] = side
        return z

    assert float(read_error(config, showing(0.6), true, known, near)) == pytest.approx(3.0 * 0.6, rel=1e-4)
    placed_wrongly = float(read_error(config, drawn(9), true, known, near))
    assert float(read_error(config, showing(0.6, 9), true, known, near)) == pytest.approx(
        placed_wrongly + 3.0 * 0.6, rel=1e-4
    )
    assert float(read_error(config, showing(0.6), showing(0.6), known, near)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("arms", [1, 2])
def test_the_loss_reads_openings_of_unsure_grippers_as_plans_do(arms: int) -> None:
    config = dataclasses.replace(UNET_DEBUG, arms=arms, centre_weight=0.0, change_weight=3.0)
    rng = torch.Generator().manual_seed(0)
    made, true = 2 * torch.rand(2, 4, 2, 3, 3, UNET_DEBUG.height, UNET_DEBUG.width, generator=rng) - 1

    def latents(labels: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(4, 2, 3, 3, 3, UNET_DEBUG.height, UNET_DEBUG.width)
        z[:, :, LABELS] = labels
        return torch.nn.functional.pixel_unshuffle(z, UNET_DEBUG.patch)

    off = (read_changes(made, arms) - read_changes(true, arms)).abs().mean((0, 2)).sum()
    found = read_error(config, latents(made), latents(true), torch.ones_like(latents(made)), everywhere(latents(made)))
    assert float(found) == pytest.approx(3.0 * float(off), rel=1e-4)


def test_openings_and_points_count_more_on_a_grippers_pixels() -> None:
    config = dataclasses.replace(UNET_DEBUG, opening_weight=5.0, hand_point_weight=7.0)
    error = torch.ones_like(drawn(4))
    assert float(hand_error(config, error, drawn(4))) == 2 * 16 * (5.0 + 3 * 7.0)
    assert hand_error(UNET_DEBUG.with_ablation("no_gripper_weight"), error, drawn(4)) == 0.0
