"""How far off the token generator is on a batch: pixels and points of the video, the hands' way, the cameras.

Every term is a mean over what is valid; :func:`weighted` makes one loss of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from geo4d_bench.model.ablations import T_n_cam, apply_ablation
from geo4d_bench.model.batch import AUXILIARY
from geo4d_bench.model.blocks import product
from geo4d_bench.model.distributed import local_shard, mean_over_processes
from geo4d_bench.model.layered.condition import Condition, condition_of, known_cameras, network_inputs, normalise
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import Layers, compose
from geo4d_bench.model.layered.patches import pixels, to_patches
from geo4d_bench.model.layered.scene import OPENING_SCALE_M, Hands
from geo4d_bench.model.layered.tokens import TokenNetwork
from geo4d_bench.model.layered.trajectory import Poses, TrajectoryPredictor, cameras_in_n, first_places, in_own_frames

_EPSILON_M = 1e-3  # where the distance losses turn from quadratic to linear
_FOUND_OFF_RAD, _FOUND_OFF_M = 0.01, 0.005  # about how well registration finds a camera, standard deviations
_WEIGHTS = {
    "rgb": 1.0, "background": 1.0, "hand": 0.5, "parts": 2.0, "valid": 0.5,
    "position": 1.0, "rotation": 0.5, "opening": 1.0, "camera": 1.0,
}  # fmt: skip


def terms(
    c: LayeredConfig,
    network: TokenNetwork | None,
    foresight: TrajectoryPredictor | None,
    batch: dict[str, Tensor],
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """All terms by name, scalars.

    Args:
        c: of both networks; what is None is not trained.
        batch: from :func:`~geo4d_bench.model.batch.batch_from_windows`, as the config is told it. What its further
            windows (``more/...``) say of hands and cameras is learned too.
        rng: decides noise levels, noise and the frames that are looked at; on the CPU.
    """
    condition, cameras = condition_of(c, batch), _disturbed(c, known_cameras(c, batch), rng)
    found: dict[str, Tensor] = {}
    if network is not None:
        found |= _video(c, network, foresight, batch, condition, cameras, rng)
    if foresight is not None:
        found |= _foreseen(c, foresight, batch, condition, cameras, rng)
    return found


def weighted(terms: dict[str, Tensor]) -> Tensor:
    """The training loss of some terms, a scalar."""
    return torch.stack([_WEIGHTS[k] * v for k, v in terms.items()]).sum()


def true_hands(c: LayeredConfig, batch: dict[str, Tensor], anchor: Tensor) -> Hands:
    """The hands of a batch as the network says them: V = 1 (2 where no frame is shared), but of ``start`` that of
    anchor (B, V, A, 3)."""
    position, turned = normalise(c, batch["hand"], 3)[:, None], batch["hand_rotation"][:, None]
    if not c.shared_frame:
        R, t = cameras_in_n(c, T_n_cam(batch))
        to_m = R[:, 1, None, None].transpose(-1, -2)
        in_m = product(to_m, (position[:, 0] - t[:, 1, None, None])[..., None])[..., 0]
        position = torch.cat([position, in_m[:, None]], 1)
        turned = torch.cat([turned, product(to_m, turned[:, 0])[:, None]], 1)
    opening = batch["hand_opening"][:, None] / OPENING_SCALE_M
    return Hands(position, turned, opening, first_places(c, anchor, position))


def _video(
    c: LayeredConfig,
    network: TokenNetwork,
    foresight: TrajectoryPredictor | None,
    batch: dict[str, Tensor],
    condition: Condition,
    cameras: Poses,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Of the generated pixels."""
    device, x = batch["rgb"].device, _clean(c, batch)
    time = _sample_times(c, len(x), rng).to(device)
    noise = local_shard(torch.randn, x.shape, rng).to(device)
    t = time.view(-1, 1, 1, 1, 1)
    frames = torch.randperm(c.frames, generator=rng)[: c.loss_frames].sort().values.to(device)
    # What is drawn, taken along and told to tokens goes where the hands truly go, so that it stays sharp however far
    # off foreseen positions are at first.
    image, anchor, opening = network_inputs(c, condition)
    true_in_n = cameras_in_n(c, T_n_cam(batch)) if c.predicts_trajectory and c.shared_frame else cameras
    truth = None if c.rgb_only else true_hands(c, batch, anchor)
    in_n = cameras if foresight is None else foresight.in_n(cameras)
    own = None if truth is None else in_own_frames(truth, true_in_n)
    layers: Layers = network(
        image, torch.lerp(x, noise, t), time, anchor, opening, cameras, own, condition.rays, frames
    )
    with torch.autocast(device.type, enabled=False):  # bfloat16 would round points to half a centimetre
        scene = compose(c, layers, condition, truth, own, in_n, frames)

    rgb = pixels(batch["rgb"][:, :, frames], c.patch).float() / 127.5 - 1.0
    parts = pixels(batch["parts"][:, :, frames, ..., None], c.patch)[:, :, :, 0].long()
    near = pixels(_near_hand(c, batch["parts"][:, :, frames])[..., None], c.patch)
    weight = 1.0 + (c.hand_weight if c.weight_gripper else 0.0) * near
    part_weight = torch.ones(c.part_classes, device=device)
    part_weight[1:] = c.weight_of_parts
    found = {
        "rgb": _mean((scene.rgb - rgb).square().add(1e-4).sqrt(), weight),
        "parts": _mean(F.cross_entropy(scene.parts.movedim(3, 1), parts, reduction="none"), part_weight[parts]),
    }
    if c.rgb_only:
        return found
    points = pixels(batch["points"][:, :, frames], c.patch)
    valid = pixels(batch["valid"][:, :, frames, ..., None], c.patch)
    on_hand = (parts > 0)[:, :, :, None] & valid
    arm = torch.div(parts - 1, 3, rounding_mode="floor")
    hand_points = torch.stack([scene.hands[:, :, :, 3 * a : 3 * a + 3] for a in range(c.arms)])
    hand_error = sum(_distance(hand_points[a], points) * (arm == a)[:, :, :, None] for a in range(c.arms))
    return found | {
        "background": _mean(_distance(scene.background, points), weight * (valid & ~on_hand)) / c.point_scale_m,
        "hand": _mean(torch.as_tensor(hand_error) * on_hand, (on_hand if c.weight_gripper else valid).float())
        / c.motion_scale_m,
        "valid": F.binary_cross_entropy_with_logits(scene.valid, valid.float()),
    }


def _foreseen(
    c: LayeredConfig,
    foresight: TrajectoryPredictor,
    batch: dict[str, Tensor],
    condition: Condition,
    cameras: Poses,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Of the hands' way and the cameras, over the windows of the batch and its further ones."""
    found = _hands_and_cameras(c, foresight, batch, condition, cameras)
    further = {k.removeprefix(AUXILIARY): v for k, v in batch.items() if k.startswith(AUXILIARY)}
    if not further:
        return found
    further = apply_ablation(c, further)
    cameras = _disturbed(c, known_cameras(c, further), rng)
    more = _hands_and_cameras(c, foresight, further, condition_of(c, further), cameras)
    share = len(further["first_rgb"]) / (len(further["first_rgb"]) + len(batch["first_rgb"]))
    return {k: torch.lerp(v, more[k], share) for k, v in found.items()}


def _hands_and_cameras(
    c: LayeredConfig, foresight: TrajectoryPredictor, batch: dict[str, Tensor], condition: Condition, cameras: Poses
) -> dict[str, Tensor]:
    told = network_inputs(c, condition)
    truth = true_hands(c, batch, told[1])
    found: Hands = foresight(*told, cameras)
    off_m = _distance(found.position * c.point_scale_m, truth.position * c.point_scale_m, dim=-1)
    off = {
        "position": off_m.mean() / c.motion_scale_m,
        "rotation": (found.rotation - truth.rotation).square().sum((-2, -1)).add(1e-6).sqrt().mean(),
        "opening": (found.opening - truth.opening).abs().mean(),
    }
    if c.finds_cameras:
        pairs = zip(foresight.find_cameras(told[0]), known_cameras(c, batch), strict=True)
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
    return Poses(product(torch.matrix_exp(skew.float()), R), t + _FOUND_OFF_M / c.point_scale_m * shift)


def _clean(c: LayeredConfig, batch: dict[str, Tensor]) -> Tensor:
    """(B, V, N, 6, T * patch²): colours in -1..1 and normalised points, 0 where invalid."""
    rgb = to_patches(batch["rgb"], c.patch).float() / 127.5 - 1.0
    valid = to_patches(batch["valid"][..., None], c.patch)
    points = normalise(c, to_patches(batch["points"], c.patch), 3) * valid
    return torch.cat([rgb, torch.zeros_like(points) if c.rgb_only else points], 3)


def _near_hand(c: LayeredConfig, parts: Tensor) -> Tensor:
    """(B, V, T, H, W) float: 1 within ``hand_dilation`` pixels of a hand."""
    radius = c.hand_dilation
    mask = (parts > 0).float().flatten(0, 2)[:, None]
    mask = F.max_pool2d(mask, (2 * radius + 1, 1), 1, (radius, 0))
    mask = F.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))
    return mask.view(parts.shape)


def _sample_times(c: LayeredConfig, size: int, rng: torch.Generator) -> Tensor:
    """(B,) noise levels: pure noise for a share, logit-normal for the others."""
    inner = torch.sigmoid(local_shard(torch.randn, (size,), rng))
    pure = local_shard(torch.rand, (size,), rng) < c.pure_noise_share
    return torch.where(pure, torch.ones(size), inner)


def _distance(a: Tensor, b: Tensor, dim: int = 3) -> Tensor:
    """Euclidean distance along ``dim`` (kept, unless it is the last), smooth at 0: its minimum is a median, which
    does not lie between two surfaces as a mean does."""
    return (a - b).square().sum(dim, keepdim=dim != -1).add(_EPSILON_M**2).sqrt()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the batch of all processes, as the mean of what they return; 0 where all weights are 0."""
    weight = weight.expand_as(values)
    return (values * weight).sum() / mean_over_processes(weight.sum()).clamp(min=1e-6)
