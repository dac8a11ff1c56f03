"""The layered generator: first RGB-D frames of two or more views in, T frames of RGB, points, validity and hands out.

It is not the method of arXiv 2507.01099 but a strong baseline for it that two CPU cores can train. The gripper's
trajectory is predicted from orthographic pictures of the first frames' points; the gripper is drawn along it from a
template of points, and background, gripper and what it carries are composed in layers, which a network corrects.

Points of all views come out in camera n's frame. Without camera poses each view is placed in the scene by its first
frame alone, guessed by the network and registered to a map of the training scene; a calibrated generator is given all
poses. Rectified flow: x_t = (1 - t) x + t noise; the network predicts the clean x at every t. The trajectory is
predicted from the first frames, not from the noise: it is the same for every seed.

It is trained on pairs of views; one pass generates any number, each further view with view m's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.base import Generator, Loss, OptimizerName
from geo4d_bench.model.batch import apply_ablation
from geo4d_bench.model.layered import losses
from geo4d_bench.model.layered.condition import Condition, condition_of, known_cameras
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import compose, debias_logits
from geo4d_bench.model.layered.localise import MAP_POINTS
from geo4d_bench.model.layered.patches import from_patches
from geo4d_bench.model.layered.poses import OPENING_SCALE_M, Poses, metres, normalise
from geo4d_bench.model.layered.priors import hand_clouds, scene_points
from geo4d_bench.model.layered.tokens import NOISY_CHANNELS, TokenNetwork
from geo4d_bench.model.layered.trajectory import TrajectoryPredictor
from geo4d_bench.model.types import EETrajectory, FirstFrames, Video4D


class LayeredGenerator(Generator[LayeredConfig]):
    """See the module's docstring."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__(config)
        self.network = TokenNetwork(config) if config.generates_video else None
        self.predictor = TrajectoryPredictor(config) if config.predicts_trajectory else None
        self.finds_cameras = config.finds_cameras

    def set_priors(self, windows: Sequence[Window]) -> None:
        """Take the grippers' template and the scene's map from windows. Without a map, cameras are where the network
        guesses them."""
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
        self.check(batch)
        terms = losses.terms(self.config, self.network, self.predictor, apply_ablation(self.config, batch), rng)
        return Loss(total=losses.weighted(terms), parts={k: v.detach() for k, v in terms.items()})

    @torch.no_grad()
    def predict_trajectory(self, conditions: Sequence[FirstFrames]) -> list[EETrajectory]:
        if self.predictor is None:
            raise ConfigError(f"a generator of the ablation {self.config.ablation} predicts no trajectory")
        found = []
        for first in conditions:
            hands = self.predictor(*self._prepare([first]))
            T = np.tile(np.eye(4), (self.config.arms, self.config.frames, 1, 1))
            T[..., :3, :3] = hands.rotation[0, 0].cpu().numpy()
            T[..., :3, 3] = metres(self.config, hands.position[0, 0], 2).cpu().numpy()
            found.append(EETrajectory(T, OPENING_SCALE_M * hands.opening[0, 0].double().cpu().numpy()))
        return found

    def generate_batch(self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int) -> list[Video4D]:
        c, network = self.config, self.network
        assert network is not None  # generate() has refused
        condition, cameras = self._prepare(conditions)
        in_n, hands, own = cameras, None, None
        if self.predictor is not None:
            in_n, hands = self.predictor.in_n(cameras), self.predictor(condition, cameras)
            own = hands.in_own_frames(in_n)
        device = cameras.t.device
        frames = torch.arange(c.frames, device=device)
        shape = (len(conditions[0].rgb), c.tokens, NOISY_CHANNELS, c.frames, c.patch**2)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x = torch.stack(noise).to(device)
        for now, later in pairwise(torch.linspace(1.0, 0.0, steps + 1).tolist()):
            layers = network(condition, x, torch.full((len(x),), now, device=device), cameras, own, frames)
            made = compose(c, layers, condition, hands, own, in_n, frames)
            labels = debias_logits(c, made.parts).argmax(3)
            points = made.points(labels)
            valid = (made.valid > 0) | (labels > 0)[:, :, :, None]  # a hand has points of its own everywhere
            if c.rgb_only:
                valid = torch.zeros_like(valid)
            clean = torch.cat([made.rgb, normalise(c, points, 3) * valid], 3)
            x = clean + (x - clean) * (later / now)
        patches = (made.rgb, points, valid, labels[:, :, :, None])
        rgb, points, valid, parts = (from_patches(x, c.patch, c.height, c.width) for x in patches)
        return self.as_videos(conditions, rgb, points, valid[..., 0], parts[..., 0])

    def _prepare(self, conditions: Sequence[FirstFrames]) -> tuple[Condition, Poses]:
        """The samples' condition, and where their cameras are."""
        c, batch = self.config, self.condition_batch(conditions)
        condition = condition_of(c, batch)
        if self.predictor is None or not self.finds_cameras or self.cameras_given:
            return condition, known_cameras(c, batch)
        return condition, self.predictor.locate(condition.inputs, batch["first_points"], batch["first_valid"])
