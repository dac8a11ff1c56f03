"""Metrics of generated 4D video: depth, colour, and whether the two views show one world.

Every function takes plain arrays of one window: T frames, H x W pixels, points in metres, NaN where invalid. The rules
are METHOD section 8's, after the metrics of arXiv 2507.01099. Only pixels that are valid in the ground truth count, and
a prediction that is invalid there is wrong, or predicting nothing would be the best depth. Camera poses are true ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.camera import project, ray_distance_m
from geo4d_bench.geometry.se3 import transform

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Images = npt.NDArray[np.uint8]

MIN_DEPTH_M = 0.05
"""True depths at or below this are not scored: z of view m is measured along camera n's axis and may come near or
below zero for what lies beside or behind camera n, where a relative error means nothing."""
D1_RATIO = 1.25
INVALID_ABS_REL = 1.0
"""The relative error of a predicted pixel that is invalid where the truth is valid: that of a predicted depth of 0."""
SAME_SURFACE_M = 0.02
MOVED_M = 0.02
GAP_LIMIT_M = 0.10
OFF_RAY_M = 0.10
"""As far as a hand is wide; less would count the blur of a hand whose depth is unsure."""


@dataclass(frozen=True)
class DepthScore:
    """Depth errors over the scored pixels of a video.

    Attributes:
        abs_rel: mean |d' - d| / d (0 is perfect); NaN where no pixel can be scored.
        d1: share of pixels with max(d' / d, d / d') < 1.25 (1 is perfect); NaN likewise.
        missing: share of the scored pixels where the prediction is invalid.
        extra: share of the pixels that are invalid in the truth where the prediction is valid, which AbsRel and d1 do
            not see: without it, claiming a surface everywhere would only gain. NaN where there is no such pixel.
    """

    abs_rel: float
    d1: float
    missing: float
    extra: float


def depth_score(predicted: Floats, true: Floats, where: Mask | None = None) -> DepthScore:
    """AbsRel and d1 of two pointmaps (..., H, W, 3) in one frame, pooled over the pixels ``where`` (..., H, W), or all.

    Depth is z, metres along that frame's optical axis: camera n's for both views. An invalid prediction counts as a
    depth of 0; one that is valid but not positive keeps its AbsRel and is wrong for d1.
    """
    d_predicted, d_true = predicted[..., 2].astype(np.float64), true[..., 2].astype(np.float64)
    scored, empty = _finite(true) & (d_true > MIN_DEPTH_M), ~_finite(true)
    if where is not None:
        scored, empty = scored & where, empty & where
    extra = float(_finite(predicted)[empty].mean()) if empty.any() else np.nan
    if not scored.any():
        return DepthScore(np.nan, np.nan, np.nan, extra)
    d, d_hat, there = d_true[scored], d_predicted[scored], _finite(predicted)[scored]
    relative = np.where(there, np.abs(d_hat - d) / d, INVALID_ABS_REL)
    positive = there & (d_hat > 0)
    d_hat = np.where(positive, d_hat, 1.0)
    close = positive & (np.maximum(d_hat / d, d / d_hat) < D1_RATIO)
    return DepthScore(float(relative.mean()), float(close.mean()), float(1.0 - there.mean()), extra)


def depth_score_paper_compat(predicted_n: Floats, true_m: Floats, T_n_m: npt.ArrayLike) -> DepthScore:
    """View m's depth by the rule of the paper's released code, for comparison with its tables only.

    The release marks an invalid pixel with the point (0, 0, 0) in camera m's frame, so that in frame n it is camera m's
    centre, scored as a surface. Here, too, invalid points of the truth *and* of the prediction become that centre.

    Args:
        predicted_n: (..., H, W, 3) in camera n's frame.  true_m: (..., H, W, 3) in camera m's OWN frame.
        T_n_m: (4, 4) pose of camera m in camera n.
    """
    centre = np.asarray(T_n_m, dtype=np.float64)[:3, 3]
    predicted = np.where(_finite(predicted_n)[..., None], predicted_n, centre)
    return depth_score(predicted, transform(T_n_m, np.where(_finite(true_m)[..., None], true_m, 0.0)))


def psnr_db(predicted: Images, true: Images) -> float:
    """Peak signal-to-noise ratio of RGB frames (T, ..., 3) in dB, mean over frames; inf for equal frames."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return float(np.mean([peak_signal_noise_ratio(t, p) for p, t in zip(predicted, true, strict=True)]))


def psnr_moved_db(predicted: Images, true: Images, moved: Mask) -> float:
    """PSNR of the pixels of RGB frames (T, H, W, 3) that ``moved`` (T, H, W), pooled over the video; NaN for none."""
    return psnr_db(predicted[moved][None], true[moved][None]) if moved.any() else np.nan


def moved_pixels(true: Floats, first: Floats) -> Mask:
    """Pixels (T, H, W) whose surface lies farther than MOVED_M from that of the first frame, appeared or vanished; of
    true pointmaps (T, H, W, 3) and the first one (H, W, 3) in the same frame of reference."""
    was, now = _finite(first), _finite(true)
    far = np.linalg.norm(np.nan_to_num(true - first), axis=-1) > MOVED_M
    return np.asarray((was != now) | (was & now & far), dtype=bool)


def ssim(predicted: Images, true: Images) -> float:
    """Structural similarity of RGB frames (T, H, W, 3), mean over frames; 1 for equal frames.

    scikit-image's default, a uniform 7 x 7 window, mean over the colour channels; at least 7 x 7 pixels.
    """
    from skimage.metrics import structural_similarity

    return float(np.mean([structural_similarity(t, p, channel_axis=-1) for p, t in zip(predicted, true, strict=True)]))


def cross_view_iou(
    points_n: Floats, mask_n: Mask, mask_m: Mask, T_m_n: npt.ArrayLike, K_m: npt.ArrayLike, expected: Mask
) -> npt.NDArray[np.float64]:
    """(T,) cross-view consistency: view n's gripper, moved to view m, against the gripper that view m shows.

    View n's mask is lifted with view n's pointmap, moved to camera m and splatted into its image. No occlusion test is
    made, as in the paper: even true frames stay below 1, because each camera sees a side of the gripper that the other
    does not. Where neither mask has a pixel, 0 if a gripper was expected (hiding it is no consistency), else NaN.

    Args:
        points_n: (T, H, W, 3) view n's generated pointmap in camera n's frame.
        mask_n, mask_m: (T, H, W) gripper pixels of the generated views, found in the generated video.
        T_m_n: (4, 4) pose of camera n in camera m.  K_m: (3, 3).
        expected: (T,) frames in which a camera truly sees a gripper.
    """
    iou = np.where(expected, 0.0, np.nan)
    for t in range(len(mask_n)):
        moved = splat(transform(T_m_n, points_n[t][mask_n[t]].astype(np.float64)), K_m, mask_m.shape[1:])
        union = int((moved | mask_m[t]).sum())
        if union:
            iou[t] = int((moved & mask_m[t]).sum()) / union
    return iou


def splat(points_cam: Floats, K: npt.ArrayLike, shape: tuple[int, ...]) -> Mask:
    """The mask (H, W) that points (N, 3) in the camera's frame leave in its image.

    Each point marks the pixel nearest to its projection; then a closing by a 3 x 3 square fills the one-pixel gaps that
    arise where view n samples the surface more coarsely than view m, without growing the outline. Invalid points,
    points behind the camera and outside the image leave none.
    """
    from scipy.ndimage import binary_closing

    mask = np.zeros(shape, dtype=bool)
    inside, row, column = _pixels(points_cam.astype(np.float64), K, shape)
    mask[row[inside], column[inside]] = True
    padded = np.pad(mask, 1)  # a border, or the closing would erode at the image's edge
    closed: Mask = binary_closing(padded, np.ones((3, 3), dtype=bool)) | padded
    return closed[1:-1, 1:-1]


def view_gap_m(points_n: Floats, points_m: Floats, true_m: Floats, where: Mask, K_n: npt.ArrayLike) -> float:
    """Cross-view consistency without masks: how far apart the two views put the same surface, in metres; NaN for none.

    The truth says which pixel of view n shows what a pixel of view m shows, the nearest one (if view m's generated
    points chose, a view m that is a single point of view n's surface had no gap). The gap is the distance of the two
    generated points there, cut off at GAP_LIMIT_M, which also counts where either is invalid; the mean is over all
    frames. The grid alone costs about half a pixel's width on the surface.

    Args:
        points_n, points_m: (T, H, W, 3) both views' generated pointmaps in camera n's frame.
        true_m: (T, H, W, 3) view m's true pointmap in camera n's frame.
        where: (T, H, W) pixels of view m that are scored, from :func:`seen_by_both` of the true pointmaps.
    """
    if not where.any():
        return np.nan
    gap = np.minimum(np.nan_to_num(_gaps(points_n, points_m, true_m, K_n), nan=np.inf), GAP_LIMIT_M)
    return float(gap[where].mean())


def seen_by_both(true_n: Floats, true_m: Floats, K_n: npt.ArrayLike) -> Mask:
    """Pixels (T, H, W) of view m whose true surface camera n sees too: view n's true point at the pixel that they
    project to lies within SAME_SURFACE_M. Both pointmaps (T, H, W, 3) are in camera n's frame."""
    return np.asarray(_gaps(true_n, true_m, true_m, K_n) <= SAME_SURFACE_M, dtype=bool)  # NaN compares false


def off_ray_share(points_cam: Floats, where: Mask, K: npt.ArrayLike) -> float:
    """Share of the pixels ``where`` (T, H, W) whose points (T, H, W, 3), in the camera's frame, are more than OFF_RAY_M
    from the pixel's ray or behind the camera, of those that have a point; NaN for none.

    A pointmap can put any point into any pixel: video that tells a place by pixels elsewhere is not seen by depth
    errors of true surfaces.
    """
    away = ray_distance_m(points_cam.astype(np.float64), K)[where]
    away = away[~np.isnan(away)]
    return float((away > OFF_RAY_M).mean()) if len(away) else np.nan


def _gaps(points_n: Floats, points_m: Floats, true_m: Floats, K_n: npt.ArrayLike) -> Floats:
    """(T, H, W) distance of view m's points to view n's at the pixels that ``true_m`` projects to; NaN for none."""
    inside, row, column = _pixels(true_m.astype(np.float64), K_n, points_n.shape[1:3])
    other = points_n[np.arange(len(points_n))[:, None, None], row, column]
    return np.where(inside, np.linalg.norm(points_m.astype(np.float64) - other, axis=-1), np.nan)


def _pixels(
    points: Floats, K: npt.ArrayLike, shape: tuple[int, ...]
) -> tuple[Mask, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(...) whether points (..., 3) fall into an image (H, W), and the row and column that they fall on; 0 outside."""
    uv = np.rint(project(points, K))
    inside = ((uv >= 0) & (uv < shape[::-1])).all(-1)  # NaN compares false
    column, row = np.moveaxis(np.where(inside[..., None], uv, 0).astype(np.intp), -1, 0)
    return np.asarray(inside), row, column


def _finite(points: Floats) -> Mask:
    return np.asarray(np.isfinite(points).all(-1), dtype=bool)
