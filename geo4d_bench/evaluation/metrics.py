"""Metrics of generated 4D video: depth, colour, and whether the two views show one world.

Every function takes plain arrays of one window (T frames, H x W pixels) and returns numbers, so that it can score
any generator. The rules are METHOD section 8's, after the metrics of arXiv 2507.01099. Two of them decide what the
numbers mean:

* **Invalid pixels** are NaN. Only pixels that are valid in the ground truth are scored, and a prediction that is
  invalid there counts as wrong: it is never dropped, or predicting nothing would be the best depth.
* **Camera poses** enter here and nowhere else: the generator is told none, the metric uses the simulator's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.camera import project
from geo4d_bench.geometry.se3 import transform

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

MIN_DEPTH_M = 0.05
"""True depths at or below this are not scored: z of view m is measured along camera n's axis and may come near or
below zero for what lies beside or behind camera n, where a relative error means nothing."""
D1_RATIO = 1.25
INVALID_ABS_REL = 1.0
"""The relative error of a predicted pixel that is invalid where the truth is valid: that of a predicted depth of 0."""
SAME_SURFACE_M = 0.02
MOVED_M = 0.02
"""A pixel has moved where the surface that it shows lies farther than this from what it showed in the first frame."""
GAP_LIMIT_M = 0.10


@dataclass(frozen=True)
class DepthScore:
    """Depth errors over the scored pixels of a video.

    Attributes:
        abs_rel: mean |d' - d| / d (0 is perfect); NaN where no pixel can be scored.
        d1: share of pixels with max(d' / d, d / d') < 1.25 (1 is perfect); NaN likewise.
        pixels: how many pixels were scored.  missing: share of them where the prediction is invalid.
        extra: share of the pixels that are invalid in the truth where the prediction is valid, which AbsRel and d1 do
            not see: without it, claiming a surface everywhere would only gain. NaN where there is no such pixel.
    """

    abs_rel: float
    d1: float
    pixels: int
    missing: float
    extra: float


def depth_score(predicted: Floats, true: Floats, where: Mask | None = None) -> DepthScore:
    """AbsRel and d1 of two pointmaps in one frame; d is z, metres along that frame's optical axis.

    Pixels are pooled over the whole array, so every scored pixel weighs the same.

    Args:
        predicted: (..., H, W, 3) metres, NaN where the generator says that there is no surface.
        true: (..., H, W, 3) metres in the same frame, NaN where the sensor has none. For view n that is camera n's
            own frame; for view m it is camera n's frame too, as the generator's target is.
        where: (..., H, W) pixels that are scored, all where None.

    Returns:
        AbsRel with an invalid prediction counted as 1 (a predicted depth of 0), d1 with it counted as wrong. A
        predicted depth that is valid but not positive keeps its AbsRel and is wrong for d1.
    """
    d_predicted, d_true = predicted[..., 2].astype(np.float64), true[..., 2].astype(np.float64)
    scored, empty = _finite(true) & (d_true > MIN_DEPTH_M), ~_finite(true)
    if where is not None:
        scored, empty = scored & where, empty & where
    extra = float(_finite(predicted)[empty].mean()) if empty.any() else np.nan
    pixels = int(scored.sum())
    if pixels == 0:
        return DepthScore(np.nan, np.nan, 0, np.nan, extra)
    d, d_hat, there = d_true[scored], d_predicted[scored], _finite(predicted)[scored]
    relative = np.where(there, np.abs(d_hat - d) / d, INVALID_ABS_REL)
    positive = there & (d_hat > 0)
    d_hat = np.where(positive, d_hat, 1.0)
    close = positive & (np.maximum(d_hat / d, d / d_hat) < D1_RATIO)
    return DepthScore(float(relative.mean()), float(close.mean()), pixels, float(1.0 - there.mean()), extra)


def depth_score_paper_compat(predicted_n: Floats, true_m: Floats, T_n_m: npt.ArrayLike) -> DepthScore:
    """View m's depth by the rule of the paper's released code, for comparison with its tables only.

    The release marks an invalid pixel with the point (0, 0, 0) in camera m's frame and transforms it with the
    others, so that it becomes camera m's own centre in frame n and is scored as if it were a surface. The same is
    done here to both sides: invalid points of the truth *and* of the prediction become camera m's centre.

    Args:
        predicted_n: (..., H, W, 3) metres, view m's generated pointmap, in camera n's frame, NaN where invalid.
        true_m: (..., H, W, 3) metres, view m's pointmap in its OWN frame, NaN where invalid.
        T_n_m: (4, 4) pose of camera m in camera n.
    """
    centre = np.asarray(T_n_m, dtype=np.float64)[:3, 3]
    predicted = np.where(_finite(predicted_n)[..., None], predicted_n, centre)
    return depth_score(predicted, transform(T_n_m, np.where(_finite(true_m)[..., None], true_m, 0.0)))


def psnr_db(predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of RGB frames (T, H, W, 3) uint8 in dB, mean over frames; inf for equal frames."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return float(np.mean([peak_signal_noise_ratio(t, p) for p, t in zip(predicted, true, strict=True)]))


def psnr_moved_db(predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8], moved: Mask) -> float:
    """Peak signal-to-noise ratio in dB of the pixels of RGB frames (T, H, W, 3) uint8 that ``moved`` (T, H, W), pooled
    over the video; inf where they are equal, NaN where none moved."""
    if not moved.any():
        return float("nan")
    error = np.mean((predicted[moved].astype(np.float64) - true[moved]) ** 2)
    with np.errstate(divide="ignore"):
        return float(10.0 * np.log10(255.0**2 / error))


def moved_pixels(true: Floats, first: Floats) -> Mask:
    """Pixels (T, H, W) that show another surface than in the first frame: what a still video gets wrong.

    Args:
        true: (T, H, W, 3) metres, the true pointmaps.  first: (H, W, 3) that of the first frame, in the same frame of
            reference. Where only one of two points is valid something moved, too.
    """
    was, now = _finite(first), _finite(true)
    far = np.linalg.norm(np.nan_to_num(true - first), axis=-1) > MOVED_M
    return np.asarray((was != now) | (was & now & far), dtype=bool)


def ssim(predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8]) -> float:
    """Structural similarity of RGB frames (T, H, W, 3) uint8, mean over frames; 1 for equal frames.

    scikit-image's default, a uniform 7 x 7 window, mean over the colour channels; at least 7 x 7 pixels.
    """
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(t, p, channel_axis=-1) for p, t in zip(predicted, true, strict=True)]))


def cross_view_miou(
    points_n: Floats, mask_n: Mask, mask_m: Mask, T_m_n: npt.ArrayLike, K_m: npt.ArrayLike, expected: Mask
) -> tuple[float, npt.NDArray[np.float64]]:
    """Cross-view consistency: view n's gripper, carried to view m, against the gripper that view m shows.

    View n's mask is lifted with view n's pointmap, moved to camera m and splatted into its image (see
    :func:`splat`). No occlusion test is made, as in the paper: even true frames stay below 1, because each camera
    sees a side of the gripper that the other does not. Compare with the row of the true frames.

    Args:
        points_n: (T, H, W, 3) metres, view n's generated pointmap in camera n's frame.
        mask_n, mask_m: (T, H, W) gripper pixels of the generated views, found in the generated video.
        T_m_n: (4, 4) pose of camera n in camera m.  K_m: (3, 3).
        expected: (T,) frames in which a camera truly sees a gripper.

    Returns:
        The mean over frames, and the (T,) IoU of every frame. Where only one of the carried and the shown mask has a
        pixel the IoU is 0, and so it is where neither has but a gripper was expected: hiding it is no consistency. A
        frame without any is NaN and left out of the mean.
    """
    iou = np.where(expected, 0.0, np.nan)
    for t in range(len(mask_n)):
        carried = splat(transform(T_m_n, points_n[t][mask_n[t]].astype(np.float64)), K_m, mask_m.shape[1:])
        union = int((carried | mask_m[t]).sum())
        if union:
            iou[t] = int((carried & mask_m[t]).sum()) / union
    return _nanmean(iou), iou


def splat(points_cam: Floats, K: npt.ArrayLike, shape: tuple[int, ...]) -> Mask:
    """The mask (H, W) that points (N, 3) in the camera's frame leave in its image.

    Each point marks the pixel nearest to its projection; then a closing by a 3 x 3 square (dilation, then erosion)
    fills the one-pixel gaps that arise where view n samples the surface more coarsely than view m. A closing, unlike
    a dilation, doesn't grow the outline. Invalid points, points behind the camera and outside the image leave none.
    """
    from scipy.ndimage import binary_closing

    h, w = shape
    uv = project(points_cam.astype(np.float64), K)
    uv = np.rint(uv[np.isfinite(uv).all(-1)])
    uv = uv[(uv[:, 0] >= 0) & (uv[:, 0] < w) & (uv[:, 1] >= 0) & (uv[:, 1] < h)].astype(np.intp)
    padded = np.zeros((h + 2, w + 2), dtype=bool)  # a border, or the closing would erode at the image's edge
    padded[uv[:, 1] + 1, uv[:, 0] + 1] = True
    closed = binary_closing(padded, np.ones((3, 3), dtype=bool))
    return np.asarray(closed | padded, dtype=bool)[1:-1, 1:-1]


def view_gap_m(
    points_n: Floats,
    points_m: Floats,
    true_m: Floats,
    same_surface: Mask,
    K_n: npt.ArrayLike,
    limit_m: float = GAP_LIMIT_M,
) -> float:
    """Cross-view consistency without masks: how far apart the two views put the same surface, in metres.

    The truth says which pixel of view n shows what a pixel of view m shows, the nearest one; the gap is the distance
    of the two generated points there, cut off at ``limit_m``. (Would view m's generated points choose their pixels
    themselves, a view m that is a single point of view n's surface had no gap.) A pixel at which either point is
    invalid counts as ``limit_m``. The grid alone costs about half a pixel's width on the surface.

    Args:
        points_n, points_m: (T, H, W, 3) metres, both views' generated pointmaps in camera n's frame.
        true_m: (T, H, W, 3) metres, view m's true pointmap in camera n's frame.
        same_surface: (T, H, W) pixels of view m that are scored, from :func:`seen_by_both` of the true pointmaps.
        K_n: (3, 3).

    Returns:
        Mean over the scored pixels of all frames; NaN where there are none.
    """
    if not same_surface.any():
        return float("nan")
    gap = np.minimum(np.nan_to_num(_gaps(points_n, points_m, true_m, K_n), nan=np.inf), limit_m)
    return float(gap[same_surface].mean())


def seen_by_both(true_n: Floats, true_m: Floats, K_n: npt.ArrayLike, tolerance_m: float = SAME_SURFACE_M) -> Mask:
    """Pixels (T, H, W) of view m whose true surface camera n sees too.

    A pixel counts when its true point lies within ``tolerance_m`` of view n's true point at the pixel that it
    projects to; an occluder in between, or the image's edge, rules it out.

    Args:
        true_n, true_m: (T, H, W, 3) metres, both in camera n's frame, NaN where invalid.
        K_n: (3, 3).
    """
    return np.asarray(_gaps(true_n, true_m, true_m, K_n) <= tolerance_m, dtype=bool)  # NaN compares false


def _gaps(points_n: Floats, points_m: Floats, true_m: Floats, K_n: npt.ArrayLike) -> Floats:
    """(T, H, W) distance of view m's points to view n's at the pixels that ``true_m`` projects to; NaN for none."""
    frames, h, w = points_n.shape[:3]
    uv = np.rint(project(true_m.astype(np.float64), K_n))
    with np.errstate(invalid="ignore"):
        inside = (uv[..., 0] >= 0) & (uv[..., 0] < w) & (uv[..., 1] >= 0) & (uv[..., 1] < h)
    pixel = np.where(inside[..., None], uv, 0).astype(np.intp)
    other = points_n[np.arange(frames)[:, None, None], pixel[..., 1], pixel[..., 0]]
    return np.where(inside, np.linalg.norm(points_m.astype(np.float64) - other, axis=-1), np.nan)


def _finite(points: Floats) -> Mask:
    return np.asarray(np.isfinite(points).all(-1), dtype=bool)


def _nanmean(values: npt.NDArray[np.float64]) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
