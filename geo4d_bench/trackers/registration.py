"""Registers points to a hand model: small_gicp from several starts, then a robust fit held by a prior.

The registration alone is under-determined where few, noisy or blurred points show a flat side of the hand: the last
step weighs it against the start it came from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import small_gicp
from scipy.spatial import cKDTree

from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.trackers.free_space import FreeSpace
from geo4d_bench.trackers.hand_points import MIN_FINGER_POINTS, HandPoints, Opening, single_fingers

INLIER_M = 0.02
"""A point this near the registered model's surface counts as explained."""
OPENING_STEP_M = 0.002
"""Models are kept for openings on this grid: half of it is far below a pixel's width."""
COARSE_M, FINE_M = 0.06, 0.03
"""Largest distances between a point and its match, in the two passes of the registration."""
PART_WEIGHT_M = 0.03
"""A match to another part of the hand costs as much as this distance: labels may be wrong at seams."""
PRIOR_ROTATION_RAD, START_M = 0.09, 0.06
"""How far the truth usually lies from the best start (standard deviations)."""
HIDDEN_FINGERS_M, UNSEEN_FINGERS_M = 0.012, 0.025
"""Single fingers are used where the opening is less certain than the first; less certain than the second, it was not
seen at all."""
MIN_ALIGN_POINTS = 20
"""Fewer points than this slide along the model's faces: they get the fit alone, which the prior holds."""
BODY_SAMPLES, EMPTY_M = 150, 0.03
"""Number of surface points that are checked for free space, and how far behind one a view must see for it."""
NOISE_FLOOR_M = 0.004
POINTS_PER_INDEPENDENT = 12.0
"""Errors of neighbouring pixels go together: this many points weigh as much as one independent measurement where they
are sharp, and more in proportion to how far they scatter. A generated hand is displaced as a whole."""
FIT_ITERATIONS = 5
_NEXT, _LAST = [1, 2, 0], [2, 0, 1]
_PART_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
"""Coordinates that set the three parts one unit apart from one another."""


@dataclass(frozen=True)
class Prior:
    """Where a hand is expected, T_n_ee (4, 4), and the standard deviation of its position (m)."""

    T_n_ee: Array
    sigma_m: float


@dataclass(frozen=True)
class Registered:
    """A registered pose and how well it explains the points.

    Attributes:
        T_n_ee: (4, 4).  opening_m: metres between the fingers.
        inlier_share: share of points within INLIER_M of the model's surface.  rms_m: of the inliers' distances.
        empty_share: share of the hand's surface that a view looks through; pixels at the silhouette add a little.
        opening_seen: whether the opening was measured from the fingers, not only kept from before.
        sigma_m: standard deviation of the position in its worst direction, along which the points may slide.
    """

    T_n_ee: Array
    opening_m: float
    inlier_share: float
    rms_m: float
    empty_share: float
    opening_seen: bool
    sigma_m: float

    @property
    def score(self) -> float:
        """Hypotheses are compared by it: explained share, less the inliers' misfit and the share seen through."""
        return self.inlier_share * (1.0 - 0.5 * (self.rms_m / INLIER_M) ** 2) - self.empty_share


class _Model:
    """The hand at one opening, with its search trees; few of its openings are ever aligned to."""

    def __init__(self, hand: HandModel, opening_m: float) -> None:
        self.points = hand.at_opening(opening_m)
        self.tree = cKDTree(np.column_stack([self.points, PART_WEIGHT_M * _PART_CORNERS[hand.part]]))

    @functools.cached_property
    def aligned_to(self) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
        cloud = small_gicp.PointCloud(self.points)
        small_gicp.estimate_normals(cloud, num_neighbors=10)  # it takes no others
        return cloud, small_gicp.KdTree(cloud)


class HandRegistration:
    """Registration of points to one hand, at any opening."""

    def __init__(self, hand: HandModel) -> None:
        self.hand = hand
        self._models: dict[int, _Model] = {}
        self._moves = -0.5 * hand.opening_sign * (hand.normals @ hand.finger_axis)
        """Of each point's match along its normal, where the hand opens by a metre."""

    def best(
        self,
        seen: HandPoints,
        starts: Sequence[Array],
        prior: Prior | None,
        opening: Opening,
        free_space: FreeSpace,
        frame: int,
    ) -> Registered:
        """The best registration of a video frame's points among those from ``starts`` (T_n_ee each, at least one).

        Without a ``prior`` each is held near its own start. ``opening`` is the estimate before registration.
        """
        found = [self._from(seen, T, prior or Prior(T, START_M), opening, free_space, frame) for T in starts]
        return max(found, key=lambda registered: registered.score)

    def visible_offset(self, T_n_ee: Array, seen: HandPoints, opening_m: float) -> Array:
        """(3,) from where view n would see the points of a hand at a pose, to where it sees them.

        By the model's points that face camera n, which is at the origin. Zero where view n sees no hand.
        """
        observed = seen.points[seen.view == 0]
        if len(observed) < MIN_FINGER_POINTS:
            return np.zeros(3)
        p = transform(T_n_ee, self.hand.at_opening(opening_m))
        facing = np.einsum("ij,ij->i", p, self.hand.normals @ T_n_ee[:3, :3].T) < 0
        offset: Array = observed.mean(axis=0) - p[facing].mean(axis=0)
        return offset

    def _from(
        self, seen: HandPoints, start: Array, prior: Prior, opening: Opening, free_space: FreeSpace, frame: int
    ) -> Registered:
        T = self._align(seen, start, opening.mean_m) if len(seen.points) >= MIN_ALIGN_POINTS else start
        if opening.sigma_m > HIDDEN_FINGERS_M:
            opening = opening.with_measured(single_fingers(self.hand, seen, T))
        T, gap, sigma = self._fit(seen, T, prior, opening)
        _, _, distance, _ = self._search(seen, inverse(T), gap)
        inlier = distance < INLIER_M
        rms = float(np.sqrt(np.mean(distance[inlier] ** 2))) if inlier.any() else INLIER_M
        body = transform(T, self.hand.at_opening(gap)[:: max(1, len(self.hand.points) // BODY_SAMPLES)])
        empty = free_space.empty_share(body, frame, EMPTY_M)
        return Registered(T, gap, float(inlier.mean()), rms, empty, opening.sigma_m < UNSEEN_FINGERS_M, sigma)

    def _align(self, seen: HandPoints, start: Array, opening_m: float) -> Array:
        """small_gicp's point-to-plane registration, coarse then fine; T_n_ee."""
        (cloud, tree), T_ee_n = self._model(opening_m).aligned_to, inverse(start)
        source = small_gicp.PointCloud(seen.points)
        for reach in (COARSE_M, FINE_M):
            T_ee_n = small_gicp.align(
                cloud,
                source,
                tree,
                init_T_target_source=T_ee_n,
                registration_type="PLANE_ICP",
                max_correspondence_distance=reach,
                max_iterations=15,
            ).T_target_source
        return inverse(T_ee_n)

    def _model(self, opening_m: float) -> _Model:
        key = round(opening_m / OPENING_STEP_M)
        if key not in self._models:
            self._models[key] = _Model(self.hand, key * OPENING_STEP_M)
        return self._models[key]

    def _search(self, seen: HandPoints, T_ee_n: Array, opening_m: float) -> tuple[Array, Array, Array, Array]:
        """Points (N, 3) in the hand's frame, the model's points (N, 3) nearest to them, distances and indices (N,)."""
        model, p = self._model(opening_m), transform(T_ee_n, seen.points)
        distance, index = model.tree.query(np.column_stack([p, PART_WEIGHT_M * _PART_CORNERS[seen.part]]))
        return p, model.points[index], np.asarray(distance), np.asarray(index)

    def _fit(self, seen: HandPoints, T_n_ee: Array, near: Prior, opening: Opening) -> tuple[Array, float, float]:
        """Pose, opening, and the position's uncertainty (m): Gauss-Newton with Huber weights and a Gaussian prior."""
        T_ee_n, gap = inverse(T_n_ee), opening.mean_m
        sigmas = np.array([PRIOR_ROTATION_RAD] * 3 + [near.sigma_m] * 3 + [opening.sigma_m])
        prior = np.diag(sigmas**-2)
        for _ in range(FIT_ITERATIONS):
            p, nearest, _, index = self._search(seen, T_ee_n, gap)
            n = self.hand.normals[index]
            r = np.einsum("ij,ij->i", p - nearest, n)
            sigma = max(NOISE_FLOOR_M, 1.48 * float(np.median(np.abs(r))))
            together = POINTS_PER_INDEPENDENT * sigma / NOISE_FLOOR_M
            w = np.minimum(1.0, 1.5 * sigma / np.maximum(np.abs(r), 1e-9)) / (sigma**2 * together)
            J = np.column_stack([_cross(p, n), n, self._moves[index]])
            # The prior's residual: the small motion, in the hand's frame, from the prior to the present estimate.
            delta = T_ee_n @ near.T_n_ee
            turn = cv2.Rodrigues(delta[:3, :3])[0][:, 0]  # SciPy checks a matrix for longer than this takes
            e = np.concatenate([turn, delta[:3, 3], [gap - opening.mean_m]])
            A = (J * w[:, None]).T @ J + prior
            step = -np.linalg.solve(A, (J * w[:, None]).T @ r + prior @ e)
            T_ee_n = pose(cv2.Rodrigues(step[:3])[0], step[3:6]) @ T_ee_n
            gap = float(np.clip(gap + step[6], 0.0, self.hand.max_opening_m))
            if np.abs(step).max() < 1e-4:
                break
        # Weights as for good points: this measures the geometry; noise shows in the residuals.
        A = J.T @ J / (NOISE_FLOOR_M**2 * POINTS_PER_INDEPENDENT) + prior
        worst = float(np.linalg.eigvalsh(np.linalg.inv(A)[3:6, 3:6])[-1])
        return inverse(T_ee_n), gap, worst**0.5


def _cross(a: Array, b: Array) -> Array:
    """Cross products of rows (N, 3); np.cross looks at shapes for longer than it multiplies."""
    product: Array = a[:, _NEXT] * b[:, _LAST] - a[:, _LAST] * b[:, _NEXT]
    return product
