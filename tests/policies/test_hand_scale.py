"""Depth of unknown scale is scaled by a hand whose place is known: in closed form, and what may not be trusted."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_hand import Scene, box_hand, downward, render

from geo4d_bench.geometry.hand import scale_to_hands
from geo4d_bench.geometry.se3 import inverse

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


def hidden_below(depth: np.ndarray, share: float, by: float) -> np.ndarray:
    """The lowest so many of the hand's pixels, hidden by a board at ``by`` metres."""
    hidden = depth.copy()
    row, column = (x[::-1][: round(share * np.sum(depth < 1.5))] for x in np.nonzero(depth < 1.5))
    hidden[row, column] = by
    return hidden


@pytest.mark.parametrize("by", [0.5, 0.8, 0.9])
def test_what_hides_half_a_hand_is_not_taken_for_it(depth: np.ndarray, by: float) -> None:
    assert scale(1.05 * hidden_below(depth, 0.5, by)) == pytest.approx(1 / 1.05, rel=0.01)


def test_what_would_lie_behind_the_hand_counts_against_a_scale(depth: np.ndarray) -> None:
    """54 % of the hand's pixels agree that it is 14 % farther away, but the others would then be seen through it."""
    shaped = np.where(hidden_below(depth, 0.54, 0.1) < 0.2, 0.88 * depth, depth)
    assert scale(shaped) == pytest.approx(1.0, rel=0.01)


def test_a_glimpse_of_the_hand_is_trusted_in_part(depth: np.ndarray) -> None:
    wrong = [np.log(1.1 * scale(1.1 * hidden_below(depth, share, 0.4))) for share in (0.5, 0.85, 1.0)]
    assert abs(wrong[0]) < 0.005
    assert 0.02 < wrong[1] < 0.08
    assert wrong[2] == pytest.approx(np.log(1.1))  # nothing is seen, nothing is scaled


@pytest.mark.parametrize(("pixels", "found"), [(5, False), (40, True)])
def test_a_few_pixels_are_not_enough(depth: np.ndarray, pixels: int, found: bool) -> None:
    row, column = np.nonzero(depth < 1.5)
    few = np.full_like(depth, np.nan)
    middle = np.argsort(np.hypot(row - row.mean(), column - column.mean()))[:pixels]
    few[row[middle], column[middle]] = 1.1 * depth[row[middle], column[middle]]
    assert (scale(few) != 1.0) == found


def test_without_a_hand_nothing_is_scaled(depth: np.ndarray) -> None:
    assert scale(np.full_like(depth, np.nan)) == 1.0
    assert scale(np.full_like(depth, 0.3)) == 1.0  # all hidden by something far nearer
    behind = T_WORLD_EE.copy()
    behind[:3, 3] += 3.0 * (SCENE.T_world_n[:3, 3] - T_WORLD_EE[:3, 3])
    assert scale(depth, behind) == 1.0


def test_several_hands_decide_together(depth: np.ndarray) -> None:
    """Each at its own place with its own opening; the one in front hides the other."""
    poses = [T_WORLD_EE, downward(np.array([-0.15, -0.05, 0.12]), yaw=-0.5)]
    openings = [OPENING_M, 0.01]
    T_n_world = inverse(SCENE.T_world_n)
    fine = box_hand(step=0.002)
    rng = np.random.default_rng(0)
    seen = [
        render(SCENE, fine, T[None], np.array([o]), rng).points[0, 0, ..., 2]
        for T, o in zip(poses, openings, strict=True)
    ]
    both = np.fmin(np.fmin(*seen), np.float32(1.6))
    hands = [(box_hand(), T_n_world @ T, o) for T, o in zip(poses, openings, strict=True)]
    assert scale_to_hands(0.9 * both, SCENE.K[0], hands) == pytest.approx(1 / 0.9, rel=0.005)
    # One hand's model with the other's opening is another hand.
    swapped = [(model, T, o) for (model, T, _), o in zip(hands, openings[::-1], strict=True)]
    assert scale_to_hands(0.9 * both, SCENE.K[0], swapped) != scale_to_hands(0.9 * both, SCENE.K[0], hands)
    only_one = np.where(np.isfinite(seen[0]), seen[0], np.float32(np.nan))
    assert scale_to_hands(0.9 * only_one, SCENE.K[0], hands) == pytest.approx(1 / 0.9, rel=0.005)
