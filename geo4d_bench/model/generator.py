"""The 4D video generator: first RGB-D frames of two views in, T frames of RGB, points, validity and hand parts out.

Points of both views come out in camera n's frame, which is taught by training on such targets (paper, section 3).
Inside, the generator works in the scene's frame. In the setting ``geo4d`` no camera pose goes in: each view is placed
in the scene by its first frame alone, guessed by the network and registered to a map of the training scene.
``geo4d_calibrated`` is given both poses. Rectified flow: x_t = (1 - t) x + t noise; the network predicts the clean x at
every t. Where the hands go is told from the first frames, not from the noise: it is the same for every seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.geometry.hand import part_label
from geo4d_bench.model import checkpoint
from geo4d_bench.model.batch import MORE, batch_from_first_frames
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.localise import MAP_POINTS, SceneMap
from geo4d_bench.model.patches import from_patches, to_patches
from geo4d_bench.model.scene import OPENING_SCALE_M, Hands
from geo4d_bench.model.sprites import HandClouds, draw
from geo4d_bench.model.tokens import Layers, TokenNetwork
from geo4d_bench.model.video import FirstFrames, Video4D

_EPSILON_M = 1e-3  # where the distance losses turn from quadratic to linear
_FOUND_OFF_RAD, _FOUND_OFF_M = 0.01, 0.005  # about how well registration finds a camera, standard deviations


@dataclass(frozen=True)
class Loss:
    """The training loss (scalar, differentiable) and its parts, unweighted floats without gradient."""

    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True)
class _Condition:
    """The first frames in patches (B, 2, N, C, 1, patch²), with a T axis to broadcast over."""

    rgb: Tensor
    depth: Tensor
    valid: Tensor
    hand: Tensor
    rays: Tensor
    anchor_m: Tensor  # (B, 2, A, 3) where the hands are at first, camera n's frame
    opening_m: Tensor  # (B, 2, A)


@dataclass(frozen=True)
class _Scene:
    """The layers as colours and points, (B, 2, N, C, T, patch²), metres in camera n's frame."""

    rgb: Tensor
    background: Tensor
    hands: Tensor  # C = 3 * arms
    parts: Tensor  # C = 1 + 3 * arms, logits
    valid: Tensor  # C = 1, logit


class Generator(nn.Module):
    """A generator of 4D video; see the module's docstring. Build it from a preset or :meth:`from_pretrained`."""

    scene_points: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TokenNetwork(config)
        self.register_buffer("scene_points", torch.zeros(MAP_POINTS, 3))  # a map of the scene; all 0: there is none
        self._map: tuple[Tensor, SceneMap] | None = None

    def know(self, hands: HandClouds, scene_points: Tensor) -> None:
        """Draw hands that look like ``hands``, and find cameras by a map of the scene (up to ``MAP_POINTS``, 3), metres
        in the world; both are kept with the weights. Without a map, cameras are where the network guesses them.
        """
        self.network.show_hands(hands)
        self.scene_points.copy_(scene_points[torch.arange(MAP_POINTS) % len(scene_points)])

    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Loss of a batch from :func:`batch_from_windows`; pixels that are invalid take no part in it.

        Args:
            batch: tensors on this module's device. What its further windows (``more/...``) say of hands and cameras is
                learned too.
            rng: decides noise levels and noise; on the CPU.

        Raises:
            ConfigError: the batch has another size, number of frames or of arms than the config.
        """
        self._check(batch)
        c = self.config
        condition = self._condition(batch)
        x, device = self._clean(batch), batch["rgb"].device
        time = self._sample_times(len(x), rng).to(device)
        noise = torch.randn(x.shape, generator=rng, dtype=torch.float32).to(device)
        t = time.view(-1, 1, 1, 1, 1)
        frames = torch.randperm(c.frames, generator=rng)[: c.loss_frames].sort().values.to(device)
        # Hands are drawn where they truly are, so that they stay sharp however far off their positions are at first.
        truth = self._true_hands(batch)
        known = self._cameras(batch["T_world_cam"])
        cameras = known if c.calibrated else self._disturbed(known, rng)
        layers = self._network(condition, torch.lerp(x, noise, t), time, cameras, frames, truth)
        true_R, true_t = self._camera_m(batch["T_n_m"])
        scene = self._compose(layers, condition, truth, true_R, true_t, frames)

        rgb = self._pixels(batch["rgb"][:, :, frames]).float() / 127.5 - 1.0
        points = self._pixels(batch["points"][:, :, frames])
        valid = self._pixels(batch["valid"][:, :, frames, ..., None])
        parts = self._pixels(batch["parts"][:, :, frames, ..., None])[:, :, :, 0].long()
        near = self._pixels(self._near_hand(batch["parts"][:, :, frames])[..., None])
        weight = 1.0 + c.hand_weight * near

        on_hand = (parts > 0)[:, :, :, None] & valid
        arm = torch.div(parts - 1, 3, rounding_mode="floor")
        hand_points = torch.stack([scene.hands[:, :, :, 3 * a : 3 * a + 3] for a in range(c.arms)])
        hand_error = sum(_distance(hand_points[a], points) * (arm == a)[:, :, :, None] for a in range(c.arms))
        part_weight = torch.full((c.part_classes,), c.part_weight, device=device)
        part_weight[0] = 1.0

        terms = {
            "rgb": _mean((scene.rgb - rgb).square().add(1e-4).sqrt(), weight),
            "background": _mean(_distance(scene.background, points), weight * (valid & ~on_hand)) / c.point_scale_m,
            "hand": _mean(torch.as_tensor(hand_error), on_hand.float()) / c.motion_scale_m,
            **self._foresight_terms(batch, condition, layers.hands, rng),
            "parts": F.cross_entropy(scene.parts.movedim(3, 1), parts, weight=part_weight),
            "valid": F.binary_cross_entropy_with_logits(scene.valid, valid.float()),
        }
        weights = {
            "rgb": 1.0,
            "background": 1.0,
            "hand": 0.5,
            "position": 1.0,
            "rotation": 0.5,
            "opening": 1.0,
            "camera": 1.0,
            "parts": 2.0,
            "valid": 0.5,
        }
        total = torch.stack([weights[k] * v for k, v in terms.items()]).sum()
        return Loss(total=total, parts={k: float(v.detach()) for k, v in terms.items()})

    @torch.no_grad()
    def generate(
        self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int | None = None
    ) -> list[Video4D]:
        """Futures of several first frames; each is a pure function of its condition, its seed and ``steps``.

        One sample at a time, so that a result never depends on what else is in the batch, to the bit: two cores
        gain nothing from larger batches, and a ledger must not depend on how episodes were grouped.

        Args:
            conditions: first frames of the config's size.
            seeds: one for each.
            steps: Euler steps, the config's where None.

        Raises:
            ConfigError: images of another size, or not as many seeds as conditions.
        """
        if len(conditions) != len(seeds):
            raise ConfigError(f"generate: {len(conditions)} first frames but {len(seeds)} seeds; give one for each")
        return [
            self._generate_one(f, s, steps or self.config.sample_steps) for f, s in zip(conditions, seeds, strict=True)
        ]

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; a checkpoint that was there stays whole until the end."""
        checkpoint.save_checkpoint(folder, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path, device: str = "cpu") -> Generator:
        """The generator saved in ``folder``, in evaluation mode; CheckpointError where it is missing or not whole."""
        config = checkpoint.load_config(folder)
        if not isinstance(config, GeneratorConfig):
            raise CheckpointError(
                f"{folder}: its backbone is 'unet', not 'tokens'; load it with backbones.load_generator"
            )
        generator = cls(config)
        checkpoint.load_weights(folder, generator)
        return generator.to(device).eval()

    # ---- one sample -------------------------------------------------------------------------------------------

    def _generate_one(self, first: FirstFrames, seed: int, steps: int) -> Video4D:
        c = self.config
        batch = batch_from_first_frames([first])
        self._check(batch)
        device = next(self.parameters()).device
        batch = {k: v.to(device) for k, v in batch.items()}
        condition = self._condition(batch)
        if c.calibrated:
            cameras = self._cameras(batch["T_world_cam"])
        else:
            cameras = self._find_cameras(condition, batch)
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn((1, 2, c.tokens, 6, c.frames * c.patch**2), generator=rng).to(device)
        times = torch.linspace(1.0, 0.0, steps + 1).tolist()
        for now, later in pairwise(times):
            layers = self._network(condition, x, torch.full((1,), now, device=device), cameras)
            scene = self._compose(layers, condition, layers.hands, layers.R_n_m, layers.t_n_m)
            labels = self._without_weights(scene.parts).argmax(3)
            points = self._flatten(scene, labels)
            valid = (scene.valid > 0) | (labels > 0)[:, :, :, None]  # a hand has points of its own everywhere
            clean = torch.cat([scene.rgb, self._normalise(points, 3) * valid], 3).flatten(4)
            x = clean + (x - clean) * (later / now)
        points = torch.where(valid, points, torch.nan)
        rgb = ((scene.rgb.clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
        return Video4D(
            rgb=self._images(rgb),
            points=self._images(points),
            parts=self._images(labels[:, :, :, None].to(torch.uint8))[..., 0],
            K=np.asarray(first.K, dtype=np.float64),
            dt_s=c.dt_s,
        )

    def _flatten(self, scene: _Scene, labels: Tensor) -> Tensor:
        """Points (B, 2, N, 3, T, patch²) of what is seen: a hand's own points where a pixel shows it."""
        points = scene.background
        for arm in range(self.config.arms):
            first = part_label(arm, 0)
            mask = ((labels >= first) & (labels < first + 3))[:, :, :, None]
            points = torch.where(mask, scene.hands[:, :, :, 3 * arm : 3 * arm + 3], points)
        return points

    # ---- between batches and layers ---------------------------------------------------------------------------

    def _network(
        self,
        condition: _Condition,
        noisy: Tensor,
        time: Tensor,
        cameras: tuple[Tensor, Tensor],
        frames: Tensor | None = None,
        hands: Hands | None = None,
    ) -> Layers:
        layers: Layers = self.network(
            self._inputs(condition), noisy, time, self._normalise(condition.anchor_m, 3),
            condition.opening_m / OPENING_SCALE_M, cameras, frames, hands,
        )  # fmt: skip
        return layers

    def _inputs(self, condition: _Condition) -> Tensor:
        """(B, 2, N, 8, patch²) what the network sees of the first frames."""
        own_points = self._normalise(condition.rays * condition.depth, 3) * condition.valid
        return torch.cat([condition.rgb, own_points, condition.valid, condition.hand], 3).squeeze(4)

    def _true_hands(self, batch: dict[str, Tensor]) -> Hands:
        """The hands of a batch, V = 1, as the network says them."""
        position = self._normalise(batch["hand"], 3)
        return Hands(
            position[:, None], batch["hand_rotation"][:, None], batch["hand_opening"][:, None] / OPENING_SCALE_M
        )

    def _foresight_terms(
        self, batch: dict[str, Tensor], condition: _Condition, found: Hands, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """How far hands and cameras are off, over the windows of the batch and its further ones."""
        terms = self._hands_and_cameras(batch, condition, found)
        further = {k.removeprefix(MORE): v for k, v in batch.items() if k.startswith(MORE)}
        if not further:
            return terms
        condition = self._condition(further)
        known = self._cameras(further["T_world_cam"])
        found = self.network.foresee_hands(
            self._inputs(condition), self._normalise(condition.anchor_m, 3), condition.opening_m / OPENING_SCALE_M,
            known if self.config.calibrated else self._disturbed(known, rng),
        )  # fmt: skip
        more = self._hands_and_cameras(further, condition, found)
        share = len(further["first_rgb"]) / (len(further["first_rgb"]) + len(batch["first_rgb"]))
        return {k: torch.lerp(v, more[k], share) for k, v in terms.items()}

    def _hands_and_cameras(self, batch: dict[str, Tensor], condition: _Condition, found: Hands) -> dict[str, Tensor]:
        c, truth = self.config, self._true_hands(batch)
        off_m = _distance(found.position * c.point_scale_m, truth.position * c.point_scale_m, dim=-1)
        terms = {
            "position": off_m.mean() / c.motion_scale_m,
            "rotation": (found.rotation - truth.rotation).square().sum((-2, -1)).add(1e-6).sqrt().mean(),
            "opening": (found.opening - truth.opening).abs().mean(),
            "camera": torch.zeros((), device=off_m.device),
        }
        if not c.calibrated:
            pairs = zip(
                self.network.find_cameras(self._inputs(condition)), self._cameras(batch["T_world_cam"]), strict=True
            )
            terms["camera"] = torch.stack([(a - b).square().mean() for a, b in pairs]).sum()
        return terms

    def _disturbed(self, cameras: tuple[Tensor, Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cameras a little off, each by itself, as they are where they had to be found."""
        R, t = cameras
        turn, shift = (torch.randn(t.shape, generator=rng).to(t.device) for _ in range(2))
        skew = torch.linalg.cross(
            (_FOUND_OFF_RAD * turn)[..., None, :].expand_as(R), torch.eye(3, device=t.device).expand_as(R), dim=-1
        )
        return torch.matrix_exp(skew) @ R, t + _FOUND_OFF_M / self.config.point_scale_m * shift

    def _compose(
        self,
        layers: Layers,
        condition: _Condition,
        hands: Hands,
        R: Tensor,
        t: Tensor,
        frames: Tensor | None = None,
    ) -> _Scene:
        """The layers with the hands where ``hands`` (V is 1 or 2) says; ``R``, ``t`` of camera m in camera n decide
        where view m sees them."""
        c = self.config
        keep = torch.sigmoid(self._frames_apart(layers.keep).float())
        rgb = torch.lerp(self._frames_apart(layers.rgb).float(), condition.rgb, keep)
        keep = keep * condition.valid  # there is no depth to keep where the first frame has none
        new = self._frames_apart(layers.depth).float() * c.point_scale_m + c.point_mean_m[2]
        own = condition.rays * torch.lerp(new, condition.depth.expand_as(new), keep)
        moved = torch.einsum("bij,bnjta->bnita", layers.R_n_m, self._normalise(own[:, 1], 2))
        moved = self._metres(moved + layers.t_n_m[:, None, :, None, None], 2)

        chosen = slice(None) if frames is None else frames
        shared = (len(layers.rgb), 2, -1, -1)
        centre = self._metres(hands.position, 4).expand(*shared, -1)[:, :, :, chosen]  # (B, 2, A, F, 3)
        turned = hands.rotation.expand(*shared, -1, -1)[:, :, :, chosen]
        in_view = torch.stack([centre[:, 0], self._in_frame_m(centre[:, 1], R, t)], 1)
        logits = self._frames_apart(layers.parts).float()
        shapes = self._frames_apart(layers.hand).float().split(3, 3)  # type: ignore[no-untyped-call]
        parts, points = [logits[:, :, :, :1]], []
        drawn = [draw(layers.sprites[:, :, arm], in_view[:, :, arm], condition.rays) for arm in range(c.arms)]
        for arm, hand in enumerate(drawn):
            first = part_label(arm, 0)
            parts.append(logits[:, :, :, first : first + 3] + hand.parts)
            shape = torch.einsum("bvtij,bvnjtp->bvnitp", turned[:, :, arm], shapes[arm] + hand.shape)
            points.append(centre[:, :, arm].transpose(2, 3)[:, :, None, :, :, None] + c.motion_scale_m * shape)
        labels = torch.cat(parts, 3)
        shown = torch.softmax(self._without_weights(labels), 3)
        for arm, hand in enumerate(drawn):
            first = part_label(arm, 0)
            rgb = torch.lerp(rgb, hand.rgb, shown[:, :, :, first : first + 3].sum(3, keepdim=True))
        return _Scene(
            rgb=rgb,
            background=torch.stack([own[:, 0], moved], 1),
            hands=torch.cat(points, 3),
            parts=labels,
            valid=self._frames_apart(layers.valid).float() + 3.0 * (2.0 * condition.valid - 1.0),
        )

    def _in_frame_m(self, points_n: Tensor, R: Tensor, t: Tensor) -> Tensor:
        """Points (B, A, T, 3) of camera n's frame, metres, in that of camera m, whose normalised pose is R, t."""
        moved = self._normalise(points_n, 3) - t[:, None, None]
        return self._metres(torch.einsum("bij,bati->batj", R, moved), 3)

    def _without_weights(self, logits: Tensor) -> Tensor:
        """Part logits (B, 2, N, C, T, patch²) once the loss's own weight of hand pixels is taken out."""
        c = self.config
        odds = torch.full((c.part_classes,), math.log(c.part_odds / c.part_weight), device=logits.device)
        odds[0] = 0.0
        return logits + odds[:, None, None]

    def _condition(self, batch: dict[str, Tensor]) -> _Condition:
        c = self.config
        points, anchor = batch["first_points"], batch["first_hand"]
        # Where nothing may flow between the views, view m must not be told where the hand is in view n's frame either.
        mean = torch.tensor(c.point_mean_m, device=points.device)
        anchor_m = anchor if c.cross_view_attention or c.calibrated else mean.expand_as(anchor)
        hand = torch.stack([batch["hand_mask"], torch.zeros_like(batch["hand_mask"])], 1)
        return _Condition(
            rgb=self._pixels(batch["first_rgb"][:, :, None]).float() / 127.5 - 1.0,
            depth=self._pixels(points[:, :, None, ..., 2:]),
            valid=self._pixels(batch["first_valid"][:, :, None, ..., None]).float(),
            hand=self._pixels(hand[:, :, None, ..., None]).float(),
            rays=self._pixels(batch["rays"][:, :, None]),
            anchor_m=torch.stack([anchor, anchor_m], 1),
            opening_m=batch["opening"][:, None].expand(-1, 2, -1),
        )

    def _clean(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, 2, N, 6, T * patch²): colours in -1..1 and normalised points, 0 where invalid."""
        rgb = to_patches(batch["rgb"], self.config.patch).float() / 127.5 - 1.0
        points = to_patches(batch["points"], self.config.patch)
        valid = to_patches(batch["valid"][..., None], self.config.patch)
        return torch.cat([rgb, self._normalise(points, 3) * valid], 3)

    def _find_cameras(self, condition: _Condition, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The cameras of one sample, as :meth:`_cameras` has them, guessed by the network and registered to the map."""
        c = self.config
        R, t = self.network.find_cameras(self._inputs(condition))
        known = self.scene_points.cpu()
        if not known.any():
            return R, t
        if self._map is None or not torch.equal(self._map[0], known):
            self._map = known, SceneMap(np.unique(known.double().numpy(), axis=0), np.asarray(c.work_centre_m))
        T = torch.eye(4).repeat(2, 1, 1)
        T[:, :3, :3] = R[0].cpu()
        T[:, :3, 3] = (
            t[0].cpu() * c.point_scale_m + torch.tensor(c.work_centre_m) - T[:, :3, :3] @ torch.tensor(c.point_mean_m)
        )
        views = [
            p[v].double().cpu().numpy() for p, v in zip(batch["first_points"][0], batch["first_valid"][0], strict=True)
        ]
        found = [self._map[1].find(p, guess.double().numpy()) for p, guess in zip(views, T, strict=True)]
        return self._cameras(torch.from_numpy(np.stack(found).astype(np.float32))[None].to(R.device))

    def _cameras(self, T_world_cam: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations (B, 2, 3, 3) and translations (B, 2, 3) from normalised points of each camera to the world's."""
        c = self.config
        mean, centre = (torch.tensor(m, device=T_world_cam.device) for m in (c.point_mean_m, c.work_centre_m))
        R = T_world_cam[..., :3, :3]
        return R, (R @ mean + T_world_cam[..., :3, 3] - centre) / c.point_scale_m

    def _camera_m(self, T_n_m: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation (B, 3, 3) and translation (B, 3) that take normalised points of frame m to those of frame n."""
        mean = torch.tensor(self.config.point_mean_m, device=T_n_m.device)
        R = T_n_m[:, :3, :3]
        return R, (R @ mean + T_n_m[:, :3, 3] - mean) / self.config.point_scale_m

    def _near_hand(self, parts: Tensor) -> Tensor:
        """(B, 2, T, H, W) float: 1 within ``hand_dilation`` pixels of a hand."""
        radius = self.config.hand_dilation
        mask = (parts > 0).float().flatten(0, 2)[:, None]
        mask = F.max_pool2d(mask, (2 * radius + 1, 1), 1, (radius, 0))
        mask = F.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))
        return mask.view(parts.shape)

    def _sample_times(self, size: int, rng: torch.Generator) -> Tensor:
        """(B,) noise levels: pure noise for a share, logit-normal for the others."""
        inner = torch.sigmoid(torch.randn(size, generator=rng))
        pure = torch.rand(size, generator=rng) < self.config.pure_noise_share
        return torch.where(pure, torch.ones(size), inner)

    def _normalise(self, points: Tensor, dim: int) -> Tensor:
        return (points - self._mean_m(points, dim)) / self.config.point_scale_m

    def _metres(self, points: Tensor, dim: int) -> Tensor:
        return points * self.config.point_scale_m + self._mean_m(points, dim)

    def _mean_m(self, points: Tensor, dim: int) -> Tensor:
        shape = [1] * points.ndim
        shape[dim] = 3
        return torch.tensor(self.config.point_mean_m, device=points.device).view(shape)

    def _pixels(self, images: Tensor) -> Tensor:
        """(B, 2, T, H, W, C) -> (B, 2, N, C, T, patch²)."""
        patches = to_patches(images, self.config.patch)
        return patches.view(*patches.shape[:4], images.shape[2], -1)

    def _frames_apart(self, patches: Tensor) -> Tensor:
        """(B, 2, N, C, T * patch²) -> (B, 2, N, C, T, patch²)."""
        return patches.reshape(*patches.shape[:4], -1, self.config.patch**2)

    def _images(self, pixels: Tensor) -> Any:
        """(1, 2, N, C, T, patch²) -> (2, T, H, W, C)."""
        c = self.config
        return np.ascontiguousarray(from_patches(pixels.flatten(4), c.patch, c.height, c.width)[0].cpu().numpy())

    def _check(self, batch: dict[str, Tensor]) -> None:
        c = self.config
        got = tuple(batch["first_rgb"].shape[2:4])
        if got != (c.height, c.width):
            raise ConfigError(
                f"the generator is made for images of {c.height} x {c.width}, got {got[0]} x {got[1]}; "
                "use data of its size or another preset"
            )
        if batch["first_hand"].shape[1] != c.arms:
            raise ConfigError(
                f"the generator is made for {c.arms} arm(s), got {batch['first_hand'].shape[1]}; use a checkpoint that "
                "was trained on this task"
            )
        if c.calibrated and "T_world_cam" not in batch:
            raise ConfigError(
                "a generator of the setting geo4d_calibrated needs the poses of both cameras; give T_world_cam"
            )
        if "rgb" in batch and (batch["rgb"].shape[2], batch["hand"].shape[1]) != (c.frames, c.arms):
            frames, arms = batch["rgb"].shape[2], batch["hand"].shape[1]
            raise ConfigError(
                f"the generator is made for {c.frames} frames and {c.arms} arms, got windows of {frames} and {arms}"
            )


def _distance(a: Tensor, b: Tensor, dim: int = 3) -> Tensor:
    """Euclidean distance along ``dim`` (kept, unless it is the last), smooth at 0: its minimum is a median, which
    does not lie between two surfaces as a mean does."""
    return (a - b).square().sum(dim, keepdim=dim != -1).add(_EPSILON_M**2).sqrt()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean; 0 where all weights are 0."""
    weight = weight.expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
