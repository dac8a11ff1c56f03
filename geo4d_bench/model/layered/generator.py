"""The layered generator: first RGB-D frames of two or more views in, T frames of RGB, points, validity and hands out.

It is not the method of arXiv 2507.01099 but a strong baseline for it that two CPU cores can train. The gripper's
trajectory is predicted from orthographic pictures of the first frames' points; the gripper is drawn along it from a
template of points, and background, gripper and what it carries are composed in layers, which a network corrects.

Points of all views come out in camera n's frame. Inside, the generator works in the scene's frame. Without camera poses
each view is placed in the scene by its first frame alone, guessed by the network and registered to a map of the
training scene; a calibrated generator is given all poses. Rectified flow: x_t = (1 - t) x + t noise; the network
predicts the clean x at every t. The trajectory is predicted from the first frames, not from the noise: it is the same
for every seed.

It is trained on pairs of views. One pass generates any number of them: every further view is a view m, with the same
weights, and all of them attend to one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.ablations import apply_ablation
from geo4d_bench.model.base import Generator, Loss, OptimizerName
from geo4d_bench.model.layered import losses
from geo4d_bench.model.layered.condition import (
    Condition,
    condition_of,
    known_cameras,
    metres,
    network_inputs,
    normalise,
)
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import Layers, compose, debias_logits
from geo4d_bench.model.layered.localise import MAP_POINTS
from geo4d_bench.model.layered.patches import from_patches
from geo4d_bench.model.layered.priors import hand_clouds, scene_points
from geo4d_bench.model.layered.scene import OPENING_SCALE_M
from geo4d_bench.model.layered.tokens import NOISY_CHANNELS, TokenNetwork
from geo4d_bench.model.layered.trajectory import Poses, TrajectoryPredictor, in_own_frames
from geo4d_bench.model.types import EETrajectory, FirstFrames, Video4D


class LayeredGenerator(Generator[LayeredConfig]):
    """A generator of 4D video; see the module's docstring. Build it from a preset's config."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__(config)
        self.network = TokenNetwork(config) if config.generates_video else None
        self.predictor = TrajectoryPredictor(config) if config.predicts_trajectory else None

    def set_priors(self, windows: Sequence[Window]) -> None:
        """Draw grippers that look like those of the windows, and find cameras by a map of the windows' scene; both are
        kept with the weights. Without a map, cameras are where the network guesses them.
        """
        if self.network is not None:
            self.network.set_gripper_template(hand_clouds(windows))
        if self.predictor is not None:
            points = scene_points(windows)
            self.predictor.scene_points.copy_(points[torch.arange(MAP_POINTS) % len(points)])

    def optimizer_groups(self) -> dict[OptimizerName, list[nn.Parameter]]:
        """Matrices inside the transformers are Muon's; embeddings and heads AdamW's, as Muon's authors advise."""
        groups: dict[OptimizerName, list[nn.Parameter]] = {"adamw": [], "muon": []}
        for name, parameter in self.named_parameters():
            in_a_block = not {"trunk", "blocks"}.isdisjoint(name.split("."))
            groups["muon" if in_a_block and parameter.ndim == 2 else "adamw"].append(parameter)
        return groups

    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """See :meth:`Generator.loss`, and :mod:`geo4d_bench.model.layered.losses`."""
        self.check(batch)
        terms = losses.terms(self.config, self.network, self.predictor, apply_ablation(self.config, batch), rng)
        return Loss(total=losses.weighted(terms), parts={k: float(v.detach()) for k, v in terms.items()})

    @torch.no_grad()
    def predict_trajectory(self, conditions: Sequence[FirstFrames]) -> list[EETrajectory]:
        """Where the end effectors will be, without any video: what ``trajectory_regression`` acts on.

        Raises:
            ConfigError: images of another size, or a generator of RGB alone, which knows no places.
        """
        if self.predictor is None:
            raise ConfigError(f"a generator of the ablation {self.config.ablation} predicts no trajectory")
        found = []
        for first in conditions:
            condition, cameras = self._prepare([first])
            hands = self.predictor(*network_inputs(self.config, condition), cameras)
            T = np.tile(np.eye(4), (self.config.arms, self.config.frames, 1, 1))
            T[..., :3, :3] = hands.rotation[0, 0].cpu().numpy()
            T[..., :3, 3] = metres(self.config, hands.position[0, 0], 2).cpu().numpy()
            found.append(EETrajectory(T, OPENING_SCALE_M * hands.opening[0, 0].double().cpu().numpy()))
        return found

    def generate_batch(self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int) -> list[Video4D]:
        c, network = self.config, self.network
        assert network is not None  # generate() has refused
        condition, cameras = self._prepare(conditions)
        image, anchor, opening = network_inputs(c, condition)
        in_n, hands = cameras, None
        if self.predictor is not None:
            in_n, hands = self.predictor.in_n(cameras), self.predictor(image, anchor, opening, cameras)
        own = None if hands is None else in_own_frames(hands, in_n)
        device = cameras.t.device
        shape = (len(conditions[0].rgb), c.tokens, NOISY_CHANNELS, c.frames * c.patch**2)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(device)
        times = torch.linspace(1.0, 0.0, steps + 1).tolist()
        for now, later in pairwise(times):
            time = torch.full((len(x),), now, device=device)
            layers: Layers = network(image, x, time, anchor, opening, cameras, own, condition.rays)
            scene = compose(c, layers, condition, hands, own, in_n)
            labels = debias_logits(c, scene.parts).argmax(3)
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
        images = (self._images(rgb), self._images(points), self._images(labels[:, :, :, None].to(torch.uint8))[..., 0])
        return [
            Video4D(rgb, points, parts, np.asarray(first.K, dtype=np.float64), c.dt_s)
            for first, rgb, points, parts in zip(conditions, *images, strict=True)
        ]

    def _prepare(self, conditions: Sequence[FirstFrames]) -> tuple[Condition, Poses]:
        """The samples' condition, and where their cameras are."""
        c, batch = self.config, self.condition_batch(conditions)
        condition = condition_of(c, batch)
        if self.predictor is None or not c.finds_cameras:
            return condition, known_cameras(c, batch)
        found = []
        for sample, points, valid in zip(
            network_inputs(c, condition)[0], batch["first_points"], batch["first_valid"], strict=True
        ):
            views = [p[v] for p, v in zip(points, valid, strict=True)]
            found.append(self.predictor.locate(sample[None], views))
        return condition, Poses(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _images(self, patches: Tensor) -> Any:
        """(B, V, N, C, T, patch²) -> (B, V, T, H, W, C)."""
        c = self.config
        return np.ascontiguousarray(from_patches(patches.flatten(4), c.patch, c.height, c.width).cpu().numpy())
