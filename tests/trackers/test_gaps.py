"""What happens out of sight is told from both ends of the gap; plans don't end inside one."""

from __future__ import annotations

import numpy as np
import pytest

from geo4d_bench.geometry.se3 import pose
from geo4d_bench.policies.video_policy import out_of_sight, waypoints_to_execute
from geo4d_bench.trackers.gaps import bridge_poses, place_opening_changes


def line(x: list[float]) -> np.ndarray:
    return np.array([pose(translation=[value, 0.0, 0.0]) for value in x])


def test_a_bridge_follows_a_cubic_exactly() -> None:
    t = np.arange(8.0)
    x = 0.001 * t * (8 - t)  # a parabola: in and out again; a cubic that knows the end velocities has none other
    T = line(list(x))
    lost = np.array([False, False, True, True, True, True, False, False])
    hidden = T.copy()
    hidden[lost] = np.eye(4)
    bridge_poses(hidden, lost)
    # Velocities are differences over one frame outside the gap, half a frame before its end: an error of half the
    # second difference (0.001 m a frame) at each end, which the cubic carries 5 frames wide with weight 4/27 + 4/27.
    np.testing.assert_allclose(hidden[:, 0, 3], x, atol=0.001 * 5 * 8 / 27)
    assert hidden[3:5, 0, 3].min() > max(x[1], x[6])


def test_a_bridge_without_neighbours_is_straight() -> None:
    T = line([0.0, 9.0, 9.0, 0.3])
    bridge_poses(T, np.array([False, True, True, False]))
    np.testing.assert_allclose(T[:, 0, 3], [0.0, 0.1, 0.2, 0.3], atol=1e-12)


def test_an_opening_changes_where_the_hand_stands_still() -> None:
    T = line([0.0, 0.05, 0.10, 0.10, 0.05, 0.0])
    opening = np.array([0.03, 0.5, 0.5, 0.5, 0.08, 0.5])
    place_opening_changes(opening, np.array([True, False, False, False, True, False]), T)
    np.testing.assert_array_equal(opening, [0.03, 0.03, 0.03, 0.08, 0.08, 0.08])


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("..........", 4),
        (".....xx...", 4),
        ("..xxxx....", 7),  # carried out until the hand is seen again
        ("..xxxxxxxx", 2),  # not begun
        ("xxxxxxxxxx", 4),  # nothing better is known
        ("xxxxx.....", 6),
        (".x.xxxx...", 8),
        ("..", 2),
    ],
)
def test_a_plan_does_not_end_out_of_sight(lost: str, expected: int) -> None:
    assert waypoints_to_execute(np.array([c == "x" for c in lost]), 4) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("..........", "..........", 4),
        ("..xxxx....", "..........", 7),  # as if there were only the hand that is hidden for a while
        ("..........", "..xxxx....", 7),
        ("..xxxx....", "......xx..", 9),  # carried out until both are seen
        ("..xxxx....", "xxxxxxxxxx", 7),  # a hand that is never shown decides nothing
        ("xxxxxxxxxx", "xxxxxxxxxx", 4),
    ],
)
def test_of_two_hands_neither_is_out_of_sight_at_the_end_of_a_plan(one: str, other: str, expected: int) -> None:
    lost = out_of_sight([np.array([c == "x" for c in hand]) for hand in (one, other)])
    assert waypoints_to_execute(lost, 4) == expected
