"""The 4D video generator: first RGB-D frames of two or more views in, T frames of RGB, points, validity and hands out.

Points of all views come out in camera n's frame, which is taught by training on such targets (paper, section 3).
Inside, the generator works in the scene's frame. In the setting ``geo4d`` no camera pose goes in: each view is placed
in the scene by its first frame alone, guessed by the network and registered to a map of the training scene.
``geo4d_calibrated`` is given all poses. Rectified flow: x_t = (1 - t) x + t noise; the network predicts the clean x at
every t. Where the hands go is told from the first frames, not from the noise: it is the same for every seed.

It is trained on pairs of views. One pass generates any number of them: every further view is a view m, with the same
weights, and all of them attend to one another.
"""

from __future__ import annotations

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
from geo4d_bench.model import checkpoint
from geo4d_bench.model.ablations import T_n_cam, as_told
from geo4d_bench.model.batch import MORE, batch_from_first_frames
from geo4d_bench.model.blocks import product
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.foresight import (
    Foresight,
    Poses,
    cameras_in_n,
    cameras_in_scene,
    first_places,
    in_own_frames,
    unmoved,
)
from geo4d_bench.model.layers import Layers, compose, metres, normalise, without_weights
from geo4d_bench.model.localise import MAP_POINTS
from geo4d_bench.model.patches import Condition, from_patches, pixels, to_patches
from geo4d_bench.model.processes import mean_over_processes, own_rows
from geo4d_bench.model.scene import OPENING_SCALE_M, Hands
from geo4d_bench.model.sprites import HandClouds
from geo4d_bench.model.tokens import NOISY_CHANNELS, TokenNetwork
from geo4d_bench.model.video import FirstFrames, ForeseenHands, Video4D

_EPSILON_M = 1e-3  # where the distance losses turn from quadratic to linear
_FOUND_OFF_RAD, _FOUND_OFF_M = 0.01, 0.005  # about how well registration finds a camera, standard deviations
_WEIGHTS = {
    "rgb": 1.0, "background": 1.0, "hand": 0.5, "parts": 2.0, "valid": 0.5,
    "position": 1.0, "rotation": 0.5, "opening": 1.0, "camera": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """The training loss (scalar, differentiable) and its parts, unweighted floats without gradient."""

    total: Tensor
    parts: dict[str, float]


class Generator(nn.Module):
    """A generator of 4D video; see the module's docstring. Build it from a preset or :meth:`from_pretrained`."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TokenNetwork(config) if config.draws else None
        self.foresight = Foresight(config) if config.foresees else None

    def know(self, hands: HandClouds, scene_points: Tensor) -> None:
        """Draw hands that look like ``hands``, and find cameras by a map of the scene (up to ``MAP_POINTS``, 3), metres
        in the world; both are kept with the weights. Without a map, cameras are where the network guesses them.
        """
        if self.network is not None:
            self.network.show_hands(hands)
        if self.foresight is not None:
            self.foresight.scene_points.copy_(scene_points[torch.arange(MAP_POINTS) % len(scene_points)])

    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Loss of a batch from :func:`batch_from_windows`; pixels that are invalid take no part in it.

        Args:
            batch: tensors on this module's device, of two views. What its further windows (``more/...``) say of hands
                and cameras is learned too.
            rng: decides noise levels and noise; on the CPU.

        Raises:
            ConfigError: the batch has another size, number of frames or of arms than the config.
        """
        self._check(batch)
        batch = as_told(self.config, batch)
        condition, cameras = self._condition(batch), self._disturbed(self._known_cameras(batch), rng)
        terms: dict[str, Tensor] = {}
        if self.network is not None:
            terms |= self._video_terms(self.network, batch, condition, cameras, rng)
        if self.foresight is not None:
            terms |= self._foresight_terms(self.foresight, batch, condition, cameras, rng)
        total = torch.stack([_WEIGHTS[k] * v for k, v in terms.items()]).sum()
        return Loss(total=total, parts={k: float(v.detach()) for k, v in terms.items()})

    @torch.no_grad()
    def generate(
        self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int | None = None
    ) -> list[Video4D]:
        """Futures of several first frames; each is a pure function of its condition, its seed and ``steps``.

        One sample at a time, so that a result never depends on what else is in the batch, to the bit: two cores
        gain nothing from larger batches, and a ledger must not depend on how episodes were grouped.

        Args:
            conditions: first frames of the config's size, of two views or more.
            seeds: one for each.
            steps: Euler steps, the config's where None.

        Raises:
            ConfigError: images of another size, not as many seeds as conditions, or a generator that draws nothing.
        """
        if self.network is None:
            raise ConfigError("a pose_regression generator makes no video; ask it for foresee(...)")
        if len(conditions) != len(seeds):
            raise ConfigError(f"generate: {len(conditions)} first frames but {len(seeds)} seeds; give one for each")
        return [
            self._generate_one(self.network, f, s, steps or self.config.sample_steps)
            for f, s in zip(conditions, seeds, strict=True)
        ]

    @torch.no_grad()
    def foresee(self, conditions: Sequence[FirstFrames]) -> list[ForeseenHands]:
        """Where the hands will be, without any video: what ``pose_regression`` acts on.

        Raises:
            ConfigError: images of another size, or a generator of RGB alone, which knows no places.
        """
        if self.foresight is None:
            raise ConfigError(f"a generator with the ablation {self.config.ablation} knows no places of hands")
        found = []
        for first in conditions:
            condition, cameras = self._prepare(first)
            hands = self.foresight(*self._seen(condition), cameras)
            T = np.tile(np.eye(4), (self.config.arms, self.config.frames, 1, 1))
            T[..., :3, :3] = hands.rotation[0, 0].cpu().numpy()
            T[..., :3, 3] = metres(self.config, hands.position[0, 0], 2).cpu().numpy()
            found.append(ForeseenHands(T, OPENING_SCALE_M * hands.opening[0, 0].double().cpu().numpy()))
        return found

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

    def _generate_one(self, network: TokenNetwork, first: FirstFrames, seed: int, steps: int) -> Video4D:
        c = self.config
        condition, cameras = self._prepare(first)
        image, anchor, opening = self._seen(condition)
        in_n, hands = cameras, None
        if self.foresight is not None:
            in_n, hands = self.foresight.in_n(cameras), self.foresight(image, anchor, opening, cameras)
        own = None if hands is None else in_own_frames(hands, in_n)
        device = cameras.t.device
        rng = torch.Generator().manual_seed(seed)
        views = len(first.rgb)
        x = torch.randn((1, views, c.tokens, NOISY_CHANNELS, c.frames * c.patch**2), generator=rng).to(device)
        times = torch.linspace(1.0, 0.0, steps + 1).tolist()
        for now, later in pairwise(times):
            time = torch.full((1,), now, device=device)
            layers: Layers = network(image, x, time, anchor, opening, cameras, own, condition.rays)
            scene = compose(c, layers, condition, hands, own, in_n)
            labels = without_weights(c, scene.parts).argmax(3)
            points = scene.points(labels)
            valid = (scene.valid > 0) | (labels > 0)[:, :, :, None]  # a hand has points of its own everywhere
            if c.rgb_only:
                valid = torch.zeros_like(valid)
            clean = torch.cat([scene.rgb, normalise(c, points, 3) * valid], 3).flatten(4)
            x = clean + (x - clean) * (later / now)
        if not c.shared_frame:
            valid[:, 1:] = False  # points of an unknown camera's frame are of no use to anyone
        points = torch.where(valid, points, torch.nan)
        rgb = ((scene.rgb.clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
        return Video4D(
            rgb=self._images(rgb),
            points=self._images(points),
            parts=self._images(labels[:, :, :, None].to(torch.uint8))[..., 0],
            K=np.asarray(first.K, dtype=np.float64),
            dt_s=c.dt_s,
        )

    def _prepare(self, first: FirstFrames) -> tuple[Condition, Poses]:
        """One sample's condition, and where its cameras are."""
        batch = batch_from_first_frames([first])
        self._check(batch)
        device = next(self.parameters()).device
        batch = as_told(self.config, {k: v.to(device) for k, v in batch.items()})
        condition = self._condition(batch)
        if self.foresight is None or not self.config.finds_cameras:
            return condition, self._known_cameras(batch)
        views = zip(batch["first_points"][0], batch["first_valid"][0], strict=True)
        return condition, self.foresight.locate(self._seen(condition)[0], [p[valid] for p, valid in views])

    # ---- losses -----------------------------------------------------------------------------------------------

    def _video_terms(
        self,
        network: TokenNetwork,
        batch: dict[str, Tensor],
        condition: Condition,
        cameras: Poses,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """How far the generated pixels are off."""
        c, device, x = self.config, batch["rgb"].device, self._clean(batch)
        time = self._sample_times(len(x), rng).to(device)
        noise = own_rows(torch.randn, x.shape, rng).to(device)
        t = time.view(-1, 1, 1, 1, 1)
        frames = torch.randperm(c.frames, generator=rng)[: c.loss_frames].sort().values.to(device)
        # What is drawn, taken along and told to tokens goes where the hands truly go, so that it stays sharp however
        # far off foreseen positions are at first.
        image, anchor, opening = self._seen(condition)
        true_in_n = cameras_in_n(c, T_n_cam(batch)) if c.foresees and c.shared_frame else cameras
        truth = None if c.rgb_only else self._true_hands(batch, anchor)
        in_n = cameras if self.foresight is None else self.foresight.in_n(cameras)
        own = None if truth is None else in_own_frames(truth, true_in_n)
        layers: Layers = network(
            image, torch.lerp(x, noise, t), time, anchor, opening, cameras, own, condition.rays, frames
        )
        with torch.autocast(device.type, enabled=False):  # bfloat16 would round points to half a centimetre
            scene = compose(c, layers, condition, truth, own, in_n, frames)

        rgb = pixels(batch["rgb"][:, :, frames], c.patch).float() / 127.5 - 1.0
        parts = pixels(batch["parts"][:, :, frames, ..., None], c.patch)[:, :, :, 0].long()
        near = pixels(self._near_hand(batch["parts"][:, :, frames])[..., None], c.patch)
        weight = 1.0 + (0.0 if c.ablation == "no_gripper_weight" else c.hand_weight) * near
        part_weight = torch.full((c.part_classes,), c.part_weight, device=device)
        part_weight[0] = 1.0
        terms = {
            "rgb": _mean((scene.rgb - rgb).square().add(1e-4).sqrt(), weight),
            "parts": _mean(F.cross_entropy(scene.parts.movedim(3, 1), parts, reduction="none"), part_weight[parts]),
        }
        if c.rgb_only:
            return terms
        points = pixels(batch["points"][:, :, frames], c.patch)
        valid = pixels(batch["valid"][:, :, frames, ..., None], c.patch)
        on_hand = (parts > 0)[:, :, :, None] & valid
        arm = torch.div(parts - 1, 3, rounding_mode="floor")
        hand_points = torch.stack([scene.hands[:, :, :, 3 * a : 3 * a + 3] for a in range(c.arms)])
        hand_error = sum(_distance(hand_points[a], points) * (arm == a)[:, :, :, None] for a in range(c.arms))
        return terms | {
            "background": _mean(_distance(scene.background, points), weight * (valid & ~on_hand)) / c.point_scale_m,
            "hand": _mean(torch.as_tensor(hand_error), on_hand.float()) / c.motion_scale_m,
            "valid": F.binary_cross_entropy_with_logits(scene.valid, valid.float()),
        }

    def _foresight_terms(
        self,
        foresight: Foresight,
        batch: dict[str, Tensor],
        condition: Condition,
        cameras: Poses,
        rng: torch.Generator,
    ) -> dict[str, Tensor]:
        """How far hands and cameras are off, over the windows of the batch and its further ones."""
        terms = self._hands_and_cameras(foresight, batch, condition, cameras)
        further = {k.removeprefix(MORE): v for k, v in batch.items() if k.startswith(MORE)}
        if not further:
            return terms
        further = as_told(self.config, further)
        cameras = self._disturbed(self._known_cameras(further), rng)
        more = self._hands_and_cameras(foresight, further, self._condition(further), cameras)
        share = len(further["first_rgb"]) / (len(further["first_rgb"]) + len(batch["first_rgb"]))
        return {k: torch.lerp(v, more[k], share) for k, v in terms.items()}

    def _hands_and_cameras(
        self, foresight: Foresight, batch: dict[str, Tensor], condition: Condition, cameras: Poses
    ) -> dict[str, Tensor]:
        c, seen = self.config, self._seen(condition)
        truth = self._true_hands(batch, seen[1])
        found: Hands = foresight(*seen, cameras)
        off_m = _distance(found.position * c.point_scale_m, truth.position * c.point_scale_m, dim=-1)
        terms = {
            "position": off_m.mean() / c.motion_scale_m,
            "rotation": (found.rotation - truth.rotation).square().sum((-2, -1)).add(1e-6).sqrt().mean(),
            "opening": (found.opening - truth.opening).abs().mean(),
        }
        if c.finds_cameras:
            pairs = zip(foresight.find_cameras(seen[0]), self._known_cameras(batch), strict=True)
            terms["camera"] = torch.stack([(a - b).square().mean() for a, b in pairs]).sum()
        return terms

    def _true_hands(self, batch: dict[str, Tensor], anchor: Tensor) -> Hands:
        """The hands of a batch as the network says them: V = 1 (2 where no frame is shared), but of ``start`` that
        of anchor (B, V, A, 3)."""
        c = self.config
        position, turned = normalise(c, batch["hand"], 3)[:, None], batch["hand_rotation"][:, None]
        if not c.shared_frame:
            R, t = cameras_in_n(c, T_n_cam(batch))
            to_m = R[:, 1, None, None].transpose(-1, -2)
            in_m = product(to_m, (position[:, 0] - t[:, 1, None, None])[..., None])[..., 0]
            position = torch.cat([position, in_m[:, None]], 1)
            turned = torch.cat([turned, product(to_m, turned[:, 0])[:, None]], 1)
        opening = batch["hand_opening"][:, None] / OPENING_SCALE_M
        return Hands(position, turned, opening, first_places(c, anchor, position))

    def _disturbed(self, cameras: Poses, rng: torch.Generator) -> Poses:
        """Cameras a little off, each by itself, as they are where they had to be found."""
        if not self.config.finds_cameras:
            return cameras
        R, t = cameras
        turn, shift = (own_rows(torch.randn, t.shape, rng).to(t.device) for _ in range(2))
        skew = torch.linalg.cross(
            (_FOUND_OFF_RAD * turn)[..., None, :].expand_as(R), torch.eye(3, device=t.device).expand_as(R), dim=-1
        )
        return Poses(product(torch.matrix_exp(skew.float()), R), t + _FOUND_OFF_M / self.config.point_scale_m * shift)

    # ---- between batches and layers ---------------------------------------------------------------------------

    def _seen(self, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """What the networks see of the first frames: (B, V, N, 8, patch²), and where the hands are and how far open."""
        c = self.config
        valid = torch.zeros_like(condition.valid) if c.rgb_only else condition.valid
        own_points = normalise(c, condition.rays * condition.depth, 3) * valid
        image = torch.cat([condition.rgb, own_points, valid, condition.hand], 3).squeeze(4)
        return image, normalise(c, condition.anchor_m, 3), condition.opening_m / OPENING_SCALE_M

    def _condition(self, batch: dict[str, Tensor]) -> Condition:
        c = self.config
        points, anchor, views = batch["first_points"], batch["first_hand"], batch["first_rgb"].shape[1]
        # Where nothing may flow between the views, view m must not be told where the hand is in view n's frame either.
        unknown = torch.tensor(c.point_mean_m, device=points.device).expand_as(anchor)
        hand = batch["hand_mask"][:, None]
        return Condition(
            rgb=pixels(batch["first_rgb"][:, :, None], c.patch).float() / 127.5 - 1.0,
            depth=pixels(points[:, :, None, ..., 2:], c.patch),
            valid=pixels(batch["first_valid"][:, :, None, ..., None], c.patch).float(),
            hand=pixels(
                torch.cat([hand] + [torch.zeros_like(hand)] * (views - 1), 1)[:, :, None, ..., None], c.patch
            ).float(),
            rays=pixels(batch["rays"][:, :, None], c.patch),
            anchor_m=torch.stack(
                [unknown if c.rgb_only else anchor] + [anchor if c.told_where else unknown] * (views - 1), 1
            ),
            opening_m=batch["opening"][:, None].expand(-1, views, -1),
        )

    def _clean(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, 2, N, 6, T * patch²): colours in -1..1 and normalised points, 0 where invalid."""
        c = self.config
        rgb = to_patches(batch["rgb"], c.patch).float() / 127.5 - 1.0
        valid = to_patches(batch["valid"][..., None], c.patch)
        points = normalise(c, to_patches(batch["points"], c.patch), 3) * valid
        return torch.cat([rgb, torch.zeros_like(points) if c.rgb_only else points], 3)

    def _known_cameras(self, batch: dict[str, Tensor]) -> Poses:
        """The cameras in the scene; each in its own frame where no frame is shared."""
        c = self.config
        if c.foresees and c.shared_frame:
            return cameras_in_scene(c, batch["T_world_cam"])
        return unmoved(batch["first_rgb"])

    def _near_hand(self, parts: Tensor) -> Tensor:
        """(B, 2, T, H, W) float: 1 within ``hand_dilation`` pixels of a hand."""
        radius = self.config.hand_dilation
        mask = (parts > 0).float().flatten(0, 2)[:, None]
        mask = F.max_pool2d(mask, (2 * radius + 1, 1), 1, (radius, 0))
        mask = F.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))
        return mask.view(parts.shape)

    def _sample_times(self, size: int, rng: torch.Generator) -> Tensor:
        """(B,) noise levels: pure noise for a share, logit-normal for the others."""
        inner = torch.sigmoid(own_rows(torch.randn, (size,), rng))
        pure = own_rows(torch.rand, (size,), rng) < self.config.pure_noise_share
        return torch.where(pure, torch.ones(size), inner)

    def _images(self, patches: Tensor) -> Any:
        """(1, V, N, C, T, patch²) -> (V, T, H, W, C)."""
        c = self.config
        return np.ascontiguousarray(from_patches(patches.flatten(4), c.patch, c.height, c.width)[0].cpu().numpy())

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
    """Weighted mean over the batch of all processes, as the mean of what they return; 0 where all weights are 0."""
    weight = weight.expand_as(values)
    return (values * weight).sum() / mean_over_processes(weight.sum()).clamp(min=1e-6)
