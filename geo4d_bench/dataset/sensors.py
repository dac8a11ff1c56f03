"""Depth as cameras measure it: an RGB-D stereo sensor, and depth estimated from the image alone. docs/sensors.md.

Stored depth is perfect; a sensor acts when it is read or observed, so that one dataset serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from geo4d_bench.registry import Registry

SensorName = Literal[
    "perfect", "stereo", "estimated", "stereo2", "stereo4", "stereo8", "missing10", "missing25", "missing50"
]
Depth = npt.NDArray[np.float32]
"""(F, H, W) metres along z, NaN where invalid: frames of one camera in their order."""
Measure = Callable[[Depth], Depth]
"""Takes the next frames of one camera's video (F, H, W) to new arrays of what is measured."""


class Sensor(Protocol):
    """How a camera measures depth, in two steps: what follows from each picture alone, then what differs by video.

    Attributes:
        metric: whether it measures metres. Where not, readers scale what a camera of known pose sees by the robot's
            own hands (``geometry.hand.scale_to_hands``).
    """

    metric: ClassVar[bool]

    def geometry(self, depth: Depth, K: npt.ArrayLike) -> Depth:
        """What the sensor can see of true depth (F, H, W), without noise; K is (3, 3). Never written to ``depth``."""
        ...

    def noise(self, height: int, width: int, rng: np.random.Generator) -> Measure:
        """Start a video of one camera with images of that size, measured from what :meth:`geometry` returns. ``rng`` is
        all its randomness, that of the frames to come too: give each camera and video its own."""
        ...


def start_video(sensor: Sensor, K: npt.ArrayLike, height: int, width: int, rng: np.random.Generator) -> Measure:
    """Start a video of one camera: a function from the next frames' true depth to what ``sensor`` measures."""
    noise = sensor.noise(height, width, rng)
    return lambda depth: noise(sensor.geometry(depth, K))


@dataclass(frozen=True)
class Perfect:
    """Depth as it was rendered."""

    metric: ClassVar[bool] = True

    def geometry(self, depth: Depth, K: npt.ArrayLike) -> Depth:
        return depth

    def noise(self, height: int, width: int, rng: np.random.Generator) -> Measure:
        return lambda depth: depth


@dataclass(frozen=True)
class Stereo:
    """A stereo RGB-D camera whose depth lies in its left imager's image; the defaults are Intel's RealSense D415.

    It measures disparity ``focal_px * baseline_m / z``, so that noise and steps of depth grow with z². The right imager
    sees past other edges than the left one: background just left of a nearer surface has no match.

    Attributes (docs/sensors.md has the sources of their defaults):
        baseline_m: from the left to the right imager.
        focal_px: of the sensor itself, whatever size its images are reduced to: 1280 pixels across 65 degrees.
        noise_px: standard deviation of the disparity.  step_px: 5 bits below a pixel, to which it is rounded.
        search_px: disparities are searched below this one: nothing nearer than 0.44 m is measured.
        grazing_deg: surfaces seen at more than this angle from their normal have no depth.
    """

    metric: ClassVar[bool] = True

    baseline_m: float = 0.055
    focal_px: float = 640.0 / float(np.tan(np.deg2rad(65.0 / 2)))
    noise_px: float = 0.08
    step_px: float = 1.0 / 32.0
    search_px: float = 126.0
    grazing_deg: float = 75.0

    def geometry(self, depth: Depth, K: npt.ArrayLike) -> Depth:
        K = np.asarray(K, dtype=np.float64)
        inverse = np.reciprocal(depth)
        return np.where(self._shadow(inverse, K[0, 0]) | self._grazing(inverse, K), np.float32(np.nan), depth)

    def noise(self, height: int, width: int, rng: np.random.Generator) -> Measure:
        steps = np.float32(self.focal_px * self.baseline_m / self.step_px)  # disparity in steps, of what is 1 m away

        def measure(depth: Depth) -> Depth:
            measured = np.full(depth.shape, np.nan, dtype=np.float32)
            valid = np.isfinite(depth)
            disparity = steps / depth[valid]
            disparity += np.float32(self.noise_px / self.step_px) * rng.standard_normal(len(disparity), np.float32)
            np.rint(disparity, out=disparity)
            disparity[(disparity < 1.0) | (disparity >= self.search_px / self.step_px)] = np.nan
            measured[valid] = steps / disparity
            return measured

        return measure

    def _shadow(self, inverse: Depth, fx: float) -> npt.NDArray[np.bool_]:
        """Where the right imager sees a surface further right in the image instead, which hides the point from it."""
        column = np.arange(inverse.shape[-1], dtype=np.float32) - np.float32(fx * self.baseline_m) * inverse
        np.copyto(column, np.inf, where=np.isnan(column))
        nearest = np.minimum.accumulate(column[..., ::-1], axis=-1)[..., ::-1]
        hidden = np.zeros(inverse.shape, dtype=bool)
        hidden[..., :-1] = column[..., :-1] >= nearest[..., 1:]
        return hidden

    def _grazing(self, inverse: Depth, K: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Where the ray meets the surface at more than ``grazing_deg`` from its normal.

        Inverse depth is linear in a plane's pixels, so its slopes give the normal exactly: with p = ray * z and a plane
        n.p = 1, 1/z = n.ray.
        """
        x = ((np.arange(inverse.shape[-1]) - K[0, 2]) / K[0, 0]).astype(np.float32)
        y = ((np.arange(inverse.shape[-2]) - K[1, 2]) / K[1, 1]).astype(np.float32)[:, None]
        nx = np.float32(K[0, 0]) * _slope(inverse)
        ny = np.float32(K[1, 1]) * _slope(inverse.swapaxes(-1, -2)).swapaxes(-1, -2)
        nz = inverse - nx * x - ny * y
        normal2 = nx * nx + ny * ny + nz * nz
        ray2 = x * x + y * y + 1.0
        steep: npt.NDArray[np.bool_] = inverse * inverse < np.float32(np.cos(np.deg2rad(self.grazing_deg)) ** 2) * (
            normal2 * ray2
        )
        return steep


@dataclass(frozen=True)
class Estimated:
    """Depth that a network estimates from the image: dense and smooth, off by a scale and a shift of the whole video.

    The defaults make about 6 % AbsRel, as the best networks do indoors; how it splits into parts is an assumption.

    Attributes:
        scale: standard deviation of the logarithm of the video's scale.
        shift_m: standard deviation of the video's shift.
        field: standard deviation of the logarithm of an error that varies slowly over the image and not in time.
        field_size: over which it varies, as a share of the image's width.
        drift: standard deviation of the scale's logarithm from a frame to the next.
        blur: standard deviation, as a share of the image's width, by which depth bleeds over edges.
    """

    metric: ClassVar[bool] = False

    scale: float = 0.05
    shift_m: float = 0.02
    field: float = 0.04
    field_size: float = 0.25
    drift: float = 0.002
    blur: float = 0.01

    def geometry(self, depth: Depth, K: npt.ArrayLike) -> Depth:
        from scipy.ndimage import gaussian_filter

        sigma = (0.0, self.blur * depth.shape[-1], self.blur * depth.shape[-1])
        valid = np.isfinite(depth)
        smooth = gaussian_filter(np.where(valid, depth, np.float32(0.0)), sigma, mode="nearest", truncate=3.0)
        # Weighted by validity, so that what is invalid does not bleed into its neighbours.
        weight = gaussian_filter(valid.astype(np.float32), sigma, mode="nearest", truncate=3.0)
        return np.asarray(smooth / np.where(valid, weight, np.float32(np.nan)), dtype=np.float32)

    def noise(self, height: int, width: int, rng: np.random.Generator) -> Measure:
        field = np.exp(self.field * _smooth_field(height, width, self.field_size * width, rng)).astype(np.float32)
        log_scale, shift = self.scale * rng.standard_normal(), np.float32(self.shift_m * rng.standard_normal())

        def measure(depth: Depth) -> Depth:
            nonlocal log_scale
            walk = log_scale + np.cumsum(self.drift * rng.standard_normal(len(depth)))
            log_scale = walk[-1]
            scale: Depth = np.exp(walk).astype(np.float32)[:, None, None]
            measured: Depth = depth * field * scale + shift
            return measured

        return measure


@dataclass(frozen=True)
class Missing:
    """Perfect depth with patches of the image that have none, the same throughout a video: for response curves.

    Attributes:
        share: of the image, on average over videos.
        patch: how wide a patch is, about, as a share of the image's width.
    """

    metric: ClassVar[bool] = True

    share: float
    patch: float = 0.125

    def geometry(self, depth: Depth, K: npt.ArrayLike) -> Depth:
        return depth

    def noise(self, height: int, width: int, rng: np.random.Generator) -> Measure:
        from scipy.special import ndtri

        holes = _smooth_field(height, width, self.patch * width, rng) < ndtri(self.share)
        return lambda depth: np.where(holes, np.float32(np.nan), depth)


SENSORS: Registry[Sensor] = Registry("sensor")
SENSORS.register("perfect", Perfect())
SENSORS.register("stereo", Stereo())
SENSORS.register("estimated", Estimated())
for _times in (2, 4, 8):
    SENSORS.register(f"stereo{_times}", Stereo(noise_px=_times * Stereo.noise_px))
for _percent in (10, 25, 50):
    SENSORS.register(f"missing{_percent}", Missing(_percent / 100))


def _slope(values: Depth) -> Depth:
    """Slope per pixel along the last axis: of the two one-sided differences the smaller, 0 where their signs differ.

    At the edge of a surface it is the surface's own, on one a pixel wide it is 0 (the minmod limiter). Where one
    neighbour is invalid, the other's.
    """
    step = np.diff(values, axis=-1)
    left, right = (np.full(values.shape, np.nan, dtype=np.float32) for _ in range(2))
    left[..., 1:], right[..., :-1] = step, step
    np.copyto(left, right, where=np.isnan(left))
    np.copyto(right, left, where=np.isnan(right))
    smaller = np.where(np.abs(left) < np.abs(right), left, right)
    smaller[~(left * right > 0)] = 0.0
    return smaller


def _smooth_field(height: int, width: int, size_px: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(height, width) Gaussian field of standard deviation 1 at every pixel, smooth over ``size_px``."""
    rows, columns = _weights(height, size_px), _weights(width, size_px)
    return np.asarray(rows @ rng.standard_normal((rows.shape[1], columns.shape[1])) @ columns.T)


def _weights(length: int, size_px: float) -> npt.NDArray[np.float64]:
    """(length, knots) bell-shaped weights of knots half a ``size_px`` apart. Their squares sum to 1 in each row: so do
    then the variances of independent knots."""
    knots = np.arange(-2.0 * size_px, length + 2.0 * size_px, 0.5 * size_px)
    weights: Any = np.exp(-0.5 * ((np.arange(length)[:, None] - knots) / (0.5 * size_px)) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))
