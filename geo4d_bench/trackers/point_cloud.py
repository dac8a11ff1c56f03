"""Follows a hand through a 4D video on the CPU: registration of its surface model to the points labelled as hand.

Both views' points are already in camera n's frame, so one registration a frame serves them together. Hands move tens
of centimetres between two frames of a plan (2.5 frames a second), so every frame is started from several hypotheses,
and the one that explains the most points wins. Only the near side of a hand has points, so points are registered to
the full model, never the model to the points. Blurred points fit no hand: it is then moved as far as their mean has,
from the frame before the video, which was seen and not generated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geo4d_bench.geometry.hand import HandModel, part_label
from geo4d_bench.geometry.se3 import Array, pose, rotation_angle, transform
from geo4d_bench.model.types import Video4D
from geo4d_bench.trackers.free_space import FreeSpace
from geo4d_bench.trackers.gaps import bridge_poses, place_opening_changes
from geo4d_bench.trackers.hand_points import HandPoints, Opening, finger_distance, hand_points
from geo4d_bench.trackers.protocol import HandTrack, Tracker
from geo4d_bench.trackers.registration import HandRegistration, Prior
from geo4d_bench.trackers.views import locate_view, seen_parts

# A frame is lost with fewer hand points, a smaller explained share, more of the surface seen through, a position less
# certain in some direction (standard deviation), or a longer way from the frame before than these.
MIN_POINTS, MIN_INLIER_SHARE, MAX_EMPTY_SHARE, MAX_SIGMA_M, MAX_STEP_M = 4, 0.5, 0.5, 0.025, 0.5
FULL_EVIDENCE_POINTS = 60
"""Number of points from which on confidence no longer rises."""
RMS_SCALE_M = 0.02
"""Confidence falls by 1 / e^(1/2) where the residual's rms reaches this."""
OPENING_SHOWN_M = 0.015
"""Standard deviation of an opening that a video's labels show."""
DISPLACED_CONFIDENCE = 0.05
"""Of a hand that is moved with its points and not registered to them."""
OPENING_CHANGE_M = 0.03
"""Standard deviation of the opening's change between two frames."""
DISPLACED_M = 0.045
"""How far the truth usually lies from where a hand is by how far its points have moved (standard deviation)."""
SAME_START_M = 0.008
"""Hypotheses nearer to one another than this are one."""


@dataclass
class _State:
    """What the next frame is predicted from; ``seen`` are the points of the last good frame, ``p_seen`` where the hand
    was in it, ``first`` and ``p_first`` those of the frame before the video."""

    T: Array
    opening: float
    velocity: Array = field(default_factory=lambda: np.zeros(3))
    opening_seen: bool = True
    seen: HandPoints | None = None
    p_seen: Array = field(default_factory=lambda: np.zeros(3))
    first: HandPoints | None = None
    p_first: Array = field(default_factory=lambda: np.zeros(3))

    def displaced(self, seen: HandPoints) -> Array | None:
        """(3,) where the hand is by how far its points have moved; None where no view saw it before."""
        for earlier, p in ((self.first, self.p_first), (self.seen, self.p_seen)):
            if earlier is not None and (shift := seen.displacement_from(earlier)) is not None:
                return p + shift
        return None


class PointTracker(Tracker):
    """See :class:`Tracker`; keeps the registration's search trees."""

    name = "point_cloud"

    def __init__(self, hand: HandModel) -> None:
        super().__init__(hand)
        self._registration = HandRegistration(hand)

    def track(self, video: Video4D, T_n_ee_start: Array, opening_start_m: float, arm: int = 0) -> HandTrack:
        frames = video.points.shape[1]
        T_n_m = locate_view(video) if video.T_n_m is None else video.T_n_m
        free_space, parts = FreeSpace(video, T_n_m), seen_parts(video, T_n_m)
        state = _State(np.array(T_n_ee_start, dtype=np.float64), float(opening_start_m))
        state.first, state.p_first = self._first(video, state, T_n_m), state.T[:3, 3]
        # One longer than the video: the start stands before its first frame.
        T_n_ee, opening = np.tile(state.T, (1 + frames, 1, 1)), np.full(1 + frames, state.opening)
        confidence, measured = np.ones(1 + frames), np.ones(1 + frames, dtype=bool)
        for t in range(frames):
            seen = hand_points(video.points[:, t], parts[:, t], arm)
            shown = _shown(video, arm, t)
            confidence[1 + t] = self._advance(state, seen, shown, free_space, t)
            measured[1 + t] = confidence[1 + t] > 0 and state.opening_seen
            T_n_ee[1 + t], opening[1 + t] = state.T, state.opening
            if shown is not None and not measured[1 + t]:
                measured[1 + t], opening[1 + t] = True, shown.mean_m
        lost = confidence == 0
        bridge_poses(T_n_ee, lost)
        place_opening_changes(opening, measured, T_n_ee)
        return HandTrack(T_n_ee[1:], opening[1:], confidence[1:], lost[1:])

    def _advance(
        self, state: _State, seen: HandPoints, shown: Opening | None, free_space: FreeSpace, frame: int
    ) -> float:
        """Move ``state`` to the next frame; returns the confidence, 0 where the frame could not be used."""
        if len(seen.points) >= MIN_POINTS:
            # From the distance between the fingers, which needs the axis' direction but not the hand's place.
            opening = Opening(state.opening, OPENING_CHANGE_M)
            opening = opening.with_measured(finger_distance(self.hand, seen, state.T[:3, :3])).with_measured(shown)
            displaced = state.displaced(seen)
            starts = self._hypotheses(state, seen, opening.mean_m, displaced)
            prior = None if displaced is None else Prior(pose(state.T[:3, :3], displaced), DISPLACED_M)
            found = self._registration.best(seen, starts, prior, opening, free_space, frame)
            T = nearest_symmetric(found.T_n_ee, state.T)
            velocity = T[:3, 3] - state.T[:3, 3]
            if (
                found.inlier_share >= MIN_INLIER_SHARE
                and found.empty_share <= MAX_EMPTY_SHARE
                and found.sigma_m <= MAX_SIGMA_M
                and np.linalg.norm(velocity) <= MAX_STEP_M
            ):
                state.T, state.velocity, state.seen, state.p_seen = T, velocity, seen, T[:3, 3]
                state.opening, state.opening_seen = found.opening_m, found.opening_seen
                evidence = min(1.0, len(seen.points) / FULL_EVIDENCE_POINTS) ** 0.5
                return float(evidence * found.inlier_share * np.exp(-0.5 * (found.rms_m / RMS_SCALE_M) ** 2))
            if displaced is not None and np.linalg.norm(displaced - state.T[:3, 3]) <= MAX_STEP_M:
                state.velocity = displaced - state.T[:3, 3]
                state.T = pose(state.T[:3, :3], displaced)
                state.opening_seen = False
                return DISPLACED_CONFIDENCE
        # Coast on, and slow down: an unseen hand has more likely stopped behind something than flown off.
        state.T = pose(state.T[:3, :3], state.T[:3, 3] + state.velocity)
        state.velocity = 0.5 * state.velocity
        return 0.0

    def _first(self, video: Video4D, state: _State, T_n_m: Array | None) -> HandPoints | None:
        """The hand's points in the frame before the video; view m's where it is known where that stands."""
        if video.first_points is None:
            return None
        points = video.first_points.copy()
        points[1] = np.nan if T_n_m is None else transform(T_n_m, points[1])
        part = self.hand.nearest_part(points, state.T, state.opening)
        return hand_points(points, np.where(part >= 0, part_label(0, 0) + part, 0).astype(np.uint8), 0)

    def _hypotheses(self, state: _State, seen: HandPoints, opening: float, displaced: Array | None) -> list[Array]:
        R, p = state.T[:3, :3], state.T[:3, 3]
        starts = [p + self._registration.visible_offset(state.T, seen, opening), p + state.velocity, p]
        if displaced is not None:
            starts.insert(0, displaced)
        apart: list[Array] = []
        for start in starts:
            if all(np.linalg.norm(start - other) > SAME_START_M for other in apart):
                apart.append(start)
        return [pose(R, start) for start in apart]


def _shown(video: Video4D, arm: int, frame: int) -> Opening | None:
    """What the labels show of the opening, by themselves."""
    opening_m = np.nan if video.opening_m is None else float(video.opening_m[arm, frame])
    return None if np.isnan(opening_m) else Opening(opening_m, OPENING_SHOWN_M)


def nearest_symmetric(T: Array, T_reference: Array) -> Array:
    """Of a pose and the same turned by 180° about the approach axis z, the one nearer in rotation to a reference.

    A parallel-jaw hand looks alike in both, so a registration may fall into either.
    """
    turned: Array = T @ np.diag([-1.0, -1.0, 1.0, 1.0])
    return min(T, turned, key=lambda each: rotation_angle(each[:3, :3], T_reference[:3, :3]))
