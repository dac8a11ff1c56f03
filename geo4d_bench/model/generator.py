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
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geo4d_bench.errors import ConfigError
from geo4d_bench.model import losses
from geo4d_bench.model.ablations import as_told
from geo4d_bench.model.base import BaseGenerator, Loss
from geo4d_bench.model.condition import Condition, condition_of, known_cameras, metres, normalise, seen
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.foresight import Foresight, Poses, in_own_frames
from geo4d_bench.model.layers import Layers, compose, without_weights
from geo4d_bench.model.localise import MAP_POINTS
from geo4d_bench.model.patches import from_patches
from geo4d_bench.model.scene import OPENING_SCALE_M
from geo4d_bench.model.sprites import HandClouds
from geo4d_bench.model.tokens import NOISY_CHANNELS, TokenNetwork
from geo4d_bench.model.video import FirstFrames, ForeseenHands, Video4D


class Generator(BaseGenerator[GeneratorConfig]):
    """A generator of 4D video; see the module's docstring. Build it from a preset or :meth:`from_pretrained`."""

    config_type = GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
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
        """See :meth:`BaseGenerator.loss`, and :mod:`geo4d_bench.model.losses`."""
        self._check(batch)
        terms = losses.terms(self.config, self.network, self.foresight, as_told(self.config, batch), rng)
        return Loss(total=losses.weighted(terms), parts={k: float(v.detach()) for k, v in terms.items()})

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
            hands = self.foresight(*seen(self.config, condition), cameras)
            T = np.tile(np.eye(4), (self.config.arms, self.config.frames, 1, 1))
            T[..., :3, :3] = hands.rotation[0, 0].cpu().numpy()
            T[..., :3, 3] = metres(self.config, hands.position[0, 0], 2).cpu().numpy()
            found.append(ForeseenHands(T, OPENING_SCALE_M * hands.opening[0, 0].double().cpu().numpy()))
        return found

    def _generate_one(self, first: FirstFrames, seed: int, steps: int) -> Video4D:
        c, network = self.config, self.network
        if network is None:
            raise ConfigError("a pose_regression generator makes no video; ask it for foresee(...)")
        condition, cameras = self._prepare(first)
        image, anchor, opening = seen(c, condition)
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
        c, batch = self.config, self._batch_of_one(first)
        condition = condition_of(c, batch)
        if self.foresight is None or not c.finds_cameras:
            return condition, known_cameras(c, batch)
        views = zip(batch["first_points"][0], batch["first_valid"][0], strict=True)
        return condition, self.foresight.locate(seen(c, condition)[0], [p[valid] for p, valid in views])

    def _images(self, patches: Tensor) -> Any:
        """(1, V, N, C, T, patch²) -> (V, T, H, W, C)."""
        c = self.config
        return np.ascontiguousarray(from_patches(patches.flatten(4), c.patch, c.height, c.width)[0].cpu().numpy())
