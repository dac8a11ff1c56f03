"""Features of a video that need no weights: how strongly it varies in space and time, at three scales.

Stands in for I3D where its weights are not to be had. Numbers are the energies of a Gaussian pyramid's derivatives in
the manner of spacetime oriented energies (Derpanis and Wildes, PAMI 2012): blur lowers the fine spatial ones, noise
and flicker raise all, a wrong order of frames raises those over time and a frozen video loses them. They know nothing
of objects or actions, so a distance of them can't be compared with FVD, and a generator is to be judged by it only
beside the benchmark's other metrics. Few, so that a hundred videos suffice for a covariance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import ConfigError

MIN_FRAMES, MIN_PIXELS = 3, 16
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SCALES = 3
_FLOOR = 1.0
"""Squared grey levels of 255, added to every energy: below it is what rounding to 8 bits does."""


def derivative_energies(video: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(24,) float32 natural logarithms of energies, in squared grey levels (0 to 255).

    Per scale, finest first, means over all pixels of the logarithm of the square of: the differences along x, y and t,
    the Laplacian, and the second difference along t; and the third of these over the later half of the frames minus
    that over the earlier half, which changes its sign where time runs backwards. Logarithms of single pixels, because
    otherwise a few edges outweigh the noise on everything else. Then of each colour channel the squared mean, and then
    the variance.

    Args:
        video: (T, H, W, 3) uint8, at least 3 frames of 16 x 16 pixels.

    Raises:
        ConfigError: a smaller video.
    """
    if len(video) < MIN_FRAMES or min(video.shape[1:3]) < MIN_PIXELS:
        raise ConfigError(
            f"derivative energies of a video of shape {video.shape}, expected {MIN_FRAMES} frames or more of "
            f"{MIN_PIXELS} x {MIN_PIXELS} pixels or more"
        )
    from scipy.ndimage import gaussian_filter

    level = video.astype(np.float64) @ _LUMA  # (T, H, W)
    features: list[float] = []
    for _ in range(_SCALES):
        dx, dy, dt = (_log_energy(np.diff(level, axis=axis)) for axis in (2, 1, 0))
        laplacian = _log_energy(np.diff(level, 2, axis=2)[:, 1:-1] + np.diff(level, 2, axis=1)[:, :, 1:-1])
        dtt = _log_energy(np.diff(level, 2, axis=0))
        features += [float(energy.mean()) for energy in (dx, dy, dt, laplacian, dtt)]
        half = len(dt) // 2  # of an odd number, the middle one belongs to neither
        features.append(float(dt[-half:].mean() - dt[:half].mean()))
        level = gaussian_filter(level, (0.0, 1.0, 1.0), mode="nearest")[:, ::2, ::2]
    channels = video.reshape(-1, 3).astype(np.float64)
    features += np.log(np.concatenate([np.square(channels.mean(0)), channels.var(0)]) + _FLOOR).tolist()
    return np.array(features, dtype=np.float32)


def _log_energy(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    energy: npt.NDArray[np.float64] = np.log(np.square(values) + _FLOOR)
    return energy
