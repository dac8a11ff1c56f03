"""Depth of unknown scale is scaled by a hand whose place is known: in closed form, and what may not be trusted."""

from __future__ import annotations

import numpy as np
import pytest

from geo4d_bench.geometry import inverse
from geo4d_bench.geometry.hand import scale_to_hands

from .synthetic import Scene, box_hand, downward, render

OPENING_M = 0.06
SCENE = Scene.make()
T_WORLD_EE = downward(np.array([0.05, 0.02, 0.1]), yaw=0.4)


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    """(H, W) of view n; a wall behind the hand."""
    fine = box_hand(step=0.002)
    video = render(SCENE, fine, T_WORLD_EE[None], np.array([OPENING_M]), np.random.default_rng(0))
    z = video.points[0, 0, ..., 2]
    return np.where(np.isfinite(z), z, np.float32(1.6))


def scale(depth: np.ndarray, T_world_ee: np.ndarray = T_WORLD_EE) -> float:
    hand = (box_hand(), inverse(SCENE.T_world_n) @ T_world_ee, OPENING_M)
    return scale_to_hands(depth, SCENE.K[0], [hand])


@pytest.mark.parametrize("factor", [0.85, 0.97, 1.0, 1.05, 1.15])
def test_the_scale_is_what_takes_the_hand_to_its_place(depth: np.ndarray, factor: float) -> None:
    noise = np.exp(0.003 * np.random.default_rng(1).standard_normal(depth.shape))
    assert scale(factor * noise * depth) == pytest.approx(1.0 / factor, rel=0.005)


def test_half_a_hand_is_enough_and_what_hides_it_is_not_taken_for_it(depth: np.ndarray) -> None:
    columns = np.flatnonzero((depth < 1.5).any(0))
    hidden = 1.05 * depth
    hidden[:, : int(np.median(columns))] = 0.6
    assert scale(hidden) == pytest.approx(1 / 1.05, rel=0.005)


def test_without_a_hand_nothing_is_scaled(depth: np.ndarray) -> None:
    assert scale(np.full_like(depth, np.nan)) == 1.0
    assert scale(np.full_like(depth, 0.3)) == 1.0  # all hidden by something far nearer
    behind = T_WORLD_EE.copy()
    behind[:3, 3] += 3.0 * (SCENE.T_world_n[:3, 3] - T_WORLD_EE[:3, 3])
    assert scale(depth, behind) == 1.0


def test_several_hands_decide_together(depth: np.ndarray) -> None:
    T_n_world = inverse(SCENE.T_world_n)
    away = downward(np.array([0.0, 9.0, 0.0]))  # outside the image
    hands = [(box_hand(), T_n_world @ T, OPENING_M) for T in (away, T_WORLD_EE)]
    assert scale_to_hands(0.9 * depth, SCENE.K[0], hands) == pytest.approx(1 / 0.9, rel=0.005)
