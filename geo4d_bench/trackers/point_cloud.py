"""Follows a hand through a 4D video on the CPU: registration of its surface model to the points labelled as hand.

Both views' points are already in camera n's frame, so one registration a frame serves them together. Plans come at
2.5 frames a second and hands move tens of centimetres between two of them: every frame is therefore started from
several hypotheses, and the one that explains the most points wins. Only the near side of a hand has points, so points
are registered to the full model, never the model to the points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.se3 import Array, pose, pose_error, rotation_angle
from geo4d_bench.model.types import Video4D
from geo4d_bench.trackers.free_space import FreeSpace
from geo4d_bench.trackers.gaps import bridge_poses, place_opening_changes
from geo4d_bench.trackers.hand_points import HandPoints, Opening, finger_distance, hand_points
from geo4d_bench.trackers.protocol import HandTrack, Tracker
from geo4d_bench.trackers.registration import HandRegistration


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of the tracker; lengths in metres, angles in radians."""

    min_points: int = 4
    """Fewer hand points than this in a frame: lost."""
    inlier_m: float = 0.02
    """A point this near the registered model's surface counts as explained."""
    min_inlier_share: float = 0.5
    """A registration that explains a smaller share of the points than this: lost."""
    max_empty_share: float = 0.5
    """A pose at which more of the hand's surface than this is seen through is not believed: lost."""
    max_sigma_m: float = 0.025
    """A position less certain than this in some direction (standard deviation) is not believed: lost."""
    full_evidence_points: int = 60
    """Number of points from which on confidence no longer rises."""
    rms_scale_m: float = 0.02
    """Confidence falls by 1 / e^(1/2) where the residual's rms reaches this."""
    opening_change_m: float = 0.03
    """Standard deviation of the opening's change between two frames."""
    same_start_m: float = 0.008
    """Hypotheses nearer to one another than this are one."""
    max_speed_m: float = 0.5
    """A hand that moves further than this between two frames is not believed: lost."""


@dataclass
class _State:
    """What the next frame is predicted from."""

    T: Array
    opening: float
    velocity: Array = field(default_factory=lambda: np.zeros(3))
    opening_seen: bool = True
    seen: HandPoints | None = None
    T_seen: Array | None = None


class PointTracker(Tracker):
    """See :class:`Tracker`; holds the registration's search trees.

    Args:
        hand: the hand's surface model, end-effector frame.
        config: thresholds.
    """

    name = "point_cloud"

    def __init__(self, hand: HandModel, config: TrackerConfig | None = None) -> None:
        super().__init__(hand)
        self.config = config or TrackerConfig()
        self._registration = HandRegistration(hand)

    def track(self, video: Video4D, T_n_ee_start: Array, opening_start_m: float, arm: int = 0) -> HandTrack:
        frames = video.points.shape[1]
        T_n_ee = np.tile(np.eye(4), (frames, 1, 1))
        opening, confidence = np.zeros(frames), np.zeros(frames)
        lost, measured = np.ones(frames, dtype=bool), np.zeros(frames, dtype=bool)
        sight = FreeSpace(video)
        state = _State(np.array(T_n_ee_start, dtype=np.float64), float(opening_start_m))
        state_start = replace(state)
        for t in range(frames):
            seen = hand_points(video.points[:, t], video.parts[:, t], arm)
            confidence[t] = self._advance(state, seen, sight, t)
            lost[t] = confidence[t] == 0.0
            measured[t] = not lost[t] and state.opening_seen
            T_n_ee[t], opening[t] = state.T, state.opening
        path = np.concatenate([state_start.T[None], T_n_ee])
        bridge_poses(path, np.concatenate([[False], lost]))
        openings = np.concatenate([[state_start.opening], opening])
        place_opening_changes(openings, np.concatenate([[True], measured]), path)
        return HandTrack(path[1:], openings[1:], confidence, lost)

    def _advance(self, state: _State, seen: HandPoints, sight: FreeSpace, frame: int) -> float:
        """Move ``state`` to the next frame; returns the confidence, 0 where the frame could not be used."""
        config = self.config
        if len(seen.points) >= config.min_points:
            opening = self._opening(state, seen)
            starts = self._hypotheses(state, seen, opening.mean_m)
            found = self._registration.best(seen, starts, opening, config.inlier_m, sight, frame)
            T = nearest_symmetric(found.T_n_ee, state.T)
            distance, _ = pose_error(T, state.T)
            doubtful = found.empty_share > config.max_empty_share or found.sigma_m > config.max_sigma_m
            if not doubtful and found.inlier_share >= config.min_inlier_share and distance <= config.max_speed_m:
                state.velocity = T[:3, 3] - state.T[:3, 3]
                state.T, state.opening, state.seen, state.T_seen = T, found.opening_m, seen, T
                state.opening_seen = found.opening_seen
                evidence = min(1.0, len(seen.points) / config.full_evidence_points) ** 0.5
                return float(evidence * found.inlier_share * np.exp(-0.5 * (found.rms_m / config.rms_scale_m) ** 2))
        # Coast on, and slow down: an unseen hand has more likely stopped behind something than flown off.
        state.T = pose(state.T[:3, :3], state.T[:3, 3] + state.velocity)
        state.velocity = 0.5 * state.velocity
        return 0.0

    def _hypotheses(self, state: _State, seen: HandPoints, opening: float) -> list[Array]:
        R, p = state.T[:3, :3], state.T[:3, 3]
        starts = [p + self._registration.visible_offset(state.T, seen, opening), p + state.velocity, p]
        if state.seen is not None and state.T_seen is not None:
            shift = seen.displacement_from(state.seen)
            if shift is not None:
                starts.insert(0, state.T_seen[:3, 3] + shift)
        apart: list[Array] = []
        for start in starts:
            if all(np.linalg.norm(start - other) > self.config.same_start_m for other in apart):
                apart.append(start)
        return [pose(R, start) for start in apart]

    def _opening(self, state: _State, seen: HandPoints) -> Opening:
        """The opening from the fingers' distance alone, which needs the axis' direction but not the hand's place."""
        measured = finger_distance(self.hand, seen, state.T[:3, :3])
        before = Opening(state.opening, self.config.opening_change_m)
        return before if measured is None else before.with_measured(measured)


def nearest_symmetric(T: Array, T_reference: Array) -> Array:
    """Of a pose and the same turned by 180° about the approach axis z, the one nearer in rotation to a reference.

    A parallel-jaw hand looks alike in both, so a registration may fall into either.
    """
    turned: Array = T @ np.diag([-1.0, -1.0, 1.0, 1.0])
    if rotation_angle(turned[:3, :3], T_reference[:3, :3]) < rotation_angle(T[:3, :3], T_reference[:3, :3]):
        return turned
    return T
