"""The layered generator's losses on a batch: pixels and points of the video, the hands' trajectory, the cameras.

Every term is a mean over what is valid; :func:`weighted` makes one loss of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geo4d_bench.model.batch import AUXILIARY, T_n_cam, apply_ablation
from geo4d_bench.model.blocks import product
from geo4d_bench.model.distributed import local_shard, mean_over_processes
from geo4d_bench.model.layered.condition import Condition, condition_of, known_cameras
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import compose
from geo4d_bench.model.layered.patches import to_patches
from geo4d_bench.model.layered.poses import OPENING_SCALE_M, Hands, Poses, camera_poses, initial_positions, normalise
from geo4d_bench.model.layered.tokens import TokenNetwork
from geo4d_bench.model.layered.trajectory import TrajectoryPredictor

_EPSILON_M = 1e-3  # where the distance losses turn from quadratic to linear
_FOUND_OFF_RAD, _FOUND_OFF_M = 0.01, 0.005  # about how well registration finds a camera, standard deviations
_WEIGHTS = {
    "rgb": 1.0, "background": 1.0, "hand": 0.5, "parts": 2.0, "valid": 0.5,
    "position": 1.0, "rotation": 0.5, "opening": 1.0, "camera": 1.0,
}  # fmt: skip


def terms(
    c: LayeredConfig,
    network: TokenNetwork | None,
    predictor: TrajectoryPredictor | None,
    batch: dict[str, Tensor],
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """All terms by name, scalars.

    Args:
        c: of both networks; what is None is not trained.
        batch: from :func:`~geo4d_bench.model.batch.batch_from_windows`, the ablation applied. Of auxiliary windows
            (``more/...``) hands and cameras are learned.
        rng: decides noise levels, noise and the frames that are looked at.
    """
    condition, cameras = condition_of(c, batch), _disturbed(c, known_cameras(c, batch), rng)
    found: dict[str, Tensor] = {}
    if network is not None:
        found |= _video_terms(c, network, predictor, batch, condition, cameras, rng)
    if predictor is None:
        return found
    own = _trajectory_terms(c, predictor, batch, condition, cameras)
    more = {k.removeprefix(AUXILIARY): v for k, v in batch.items() if k.startswith(AUXILIARY)}
    if more:
        more = apply_ablation(c, more)
        cameras = _disturbed(c, known_cameras(c, more), rng)
        others = _trajectory_terms(c, predictor, more, condition_of(c, more), cameras)
        share = len(more["first_rgb"]) / (len(more["first_rgb"]) + len(batch["first_rgb"]))
        own = {k: torch.lerp(v, others[k], share) for k, v in own.items()}
    return found | own


def weighted(terms: dict[str, Tensor]) -> Tensor:
    """The training loss of some terms, a scalar."""
    return torch.stack([_WEIGHTS[k] * v for k, v in terms.items()]).sum()


def true_hands(c: LayeredConfig, batch: dict[str, Tensor], anchor: Tensor) -> Hands:
    """What is to be predicted of a batch's hands, given ``Condition.anchor``; V = 1 where a frame is shared."""
    position, opening = normalise(c, batch["hand"], 3)[:, None], batch["hand_opening"][:, None] / OPENING_SCALE_M
    hands = Hands(position, batch["hand_rotation"][:, None], opening, anchor)
    if not c.shared_frame:
        hands = hands.in_own_frames(camera_poses(c, T_n_cam(batch), c.point_mean_m))
    return hands._replace(start=initial_positions(c, anchor, hands.position))


def _video_terms(
    c: LayeredConfig,
    network: TokenNetwork,
    predictor: TrajectoryPredictor | None,
    batch: dict[str, Tensor],
    condition: Condition,
    cameras: Poses,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Of the generated pixels."""
    device, x = batch["rgb"].device, _clean(c, batch)
    time = _sample_times(c, len(x), rng).to(device)
    noise = local_shard(torch.randn, x.shape, rng).to(device)
    frames = torch.randperm(c.frames, generator=rng, device=rng.device)[: c.loss_frames].sort().values.to(device)
    # Hands are drawn where they truly are, so that pictures stay sharp however far off predictions are at first.
    true_in_n = camera_poses(c, T_n_cam(batch), c.point_mean_m) if c.predicts_trajectory and c.shared_frame else cameras
    truth = None if c.rgb_only else true_hands(c, batch, condition.anchor)
    in_n = cameras if predictor is None else predictor.in_n(cameras)
    own = None if truth is None else truth.in_own_frames(true_in_n)
    layers = network(condition, torch.lerp(x, noise, time.view(-1, 1, 1, 1, 1, 1)), time, cameras, own, frames)
    with torch.autocast(device.type, enabled=False):  # bfloat16 would round points to half a centimetre
        made = compose(c, layers, condition, truth, own, in_n, frames)

    parts = to_patches(batch["parts"][:, :, frames, ..., None], c.patch)[:, :, :, 0].long()
    near = to_patches(_near_hand(c, batch["parts"][:, :, frames])[..., None], c.patch)
    weight = 1.0 + (c.hand_weight if c.weight_gripper else 0.0) * near
    part_weight = torch.where(parts > 0, c.weight_of_parts, 1.0)
    found = {
        "rgb": _mean((made.rgb - x[:, :, :, :3, frames]).square().add(1e-4).sqrt(), weight),
        "parts": _mean(F.cross_entropy(made.parts.movedim(3, 1), parts, reduction="none"), part_weight),
    }
    if c.rgb_only:
        return found
    points = to_patches(batch["points"][:, :, frames], c.patch)
    valid = to_patches(batch["valid"][:, :, frames, ..., None], c.patch)
    on_hand = (parts > 0)[:, :, :, None] & valid
    off_hand = _distance(made.points(parts), points) * on_hand
    return found | {
        "background": _mean(_distance(made.background, points), weight * (valid & ~on_hand)) / c.point_scale_m,
        "hand": _mean(off_hand, (on_hand if c.weight_gripper else valid).float()) / c.motion_scale_m,
        "valid": F.binary_cross_entropy_with_logits(made.valid, valid.float()),
    }


def _trajectory_terms(
    c: LayeredConfig, predictor: TrajectoryPredictor, batch: dict[str, Tensor], condition: Condition, cameras: Poses
) -> dict[str, Tensor]:
    """Of the hands' trajectory and the cameras."""
    truth, found = true_hands(c, batch, condition.anchor), predictor(condition, cameras)
    off_m = _distance(found.position * c.point_scale_m, truth.position * c.point_scale_m, dim=-1)
    off = {
        "position": off_m.mean() / c.motion_scale_m,
        "rotation": (found.rotation - truth.rotation).square().sum((-2, -1)).add(1e-6).sqrt().mean(),
        "opening": (found.opening - truth.opening).abs().mean(),
    }
    if c.finds_cameras:
        pairs = zip(predictor.find_cameras(condition.inputs), known_cameras(c, batch), strict=True)
        off["camera"] = torch.stack([(a - b).square().mean() for a, b in pairs]).sum()
    return off


def _disturbed(c: LayeredConfig, cameras: Poses, rng: torch.Generator) -> Poses:
    """Cameras a little off, each by itself, as they are where they had to be found."""
    if not c.finds_cameras:
        return cameras
    R, t = cameras
    turn, shift = (local_shard(torch.randn, t.shape, rng).to(t.device) for _ in range(2))
    skew = torch.linalg.cross(
        (_FOUND_OFF_RAD * turn)[..., None, :].expand_as(R), torch.eye(3, device=t.device).expand_as(R), dim=-1
    )
    return Poses(product(_turned(skew.float()), R), t + _FOUND_OFF_M / c.point_scale_m * shift)


def _turned(skew: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by a few degrees, of their skew matrices."""
    if skew.is_cpu:
        return torch.matrix_exp(skew)
    square = product(skew, skew)  # a GPU's matrix_exp waits to sort matrices by their norm; this is off by angle^4 / 24
    return torch.eye(3, device=skew.device) + skew + square / 2.0 + product(square, skew) / 6.0


def _clean(c: LayeredConfig, batch: dict[str, Tensor]) -> Tensor:
    """(B, V, N, 6, T, patch²): colours in -1..1 and normalised points, 0 where invalid."""
    rgb = to_patches(batch["rgb"], c.patch).float() / 127.5 - 1.0
    valid = to_patches(batch["valid"][..., None], c.patch)
    points = normalise(c, to_patches(batch["points"], c.patch), 3) * valid
    return torch.cat([rgb, torch.zeros_like(points) if c.rgb_only else points], 3)


def _near_hand(c: LayeredConfig, parts: Tensor) -> Tensor:
    """(B, V, T, H, W) float: 1 within ``hand_dilation`` pixels of a hand."""
    mask = (parts > 0).float().flatten(0, 2)[:, None]
    return F.max_pool2d(mask, 2 * c.hand_dilation + 1, 1, c.hand_dilation).view(parts.shape)


def _sample_times(c: LayeredConfig, size: int, rng: torch.Generator) -> Tensor:
    """(B,) noise levels: pure noise for a share, logit-normal for the others."""
    inner = torch.sigmoid(local_shard(torch.randn, (size,), rng))
    pure = local_shard(torch.rand, (size,), rng) < c.pure_noise_share
    return torch.where(pure, torch.ones_like(inner), inner)


def _distance(a: Tensor, b: Tensor, dim: int = 3) -> Tensor:
    """Euclidean distance along ``dim`` (kept, unless it is the last), smooth at 0: its minimum is a median, which
    does not lie between two surfaces as a mean does."""
    return (a - b).square().sum(dim, keepdim=dim != -1).add(_EPSILON_M**2).sqrt()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the batch of all processes, as the mean of what they return; 0 where all weights are 0."""
    weight = weight.expand_as(values)
    return (values * weight).sum() / mean_over_processes(weight.sum()).clamp(min=1e-6)
