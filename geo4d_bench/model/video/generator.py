"""The 4D video generator of arXiv 2507.01099, on Stable Video Diffusion, or the same network from scratch.

RGB and pointmaps of two views are denoised in one pass, view m's pointmaps in camera n's frame, which is learned from
such targets alone (paper, section 3). A calibrated generator makes both views in their own frames, and
view m is moved to camera n's by the known poses.

It is trained on pairs of views and generates any number of them in one pass: every further view is a view m, with the
same weights, and attends to view n alone, so that each is as if generated with view n by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.base import Generator, Loss
from geo4d_bench.model.batch import T_n_cam, apply_ablation
from geo4d_bench.model.distributed import local_shard, mean_over_processes
from geo4d_bench.model.types import FirstFrames, Video4D
from geo4d_bench.model.video.autoencoders import POINTS, RGB, Autoencoders, Pixels, inpaint
from geo4d_bench.model.video.conditioning import ClipEmbedding, LearnedEmbedding, PartSegmenter
from geo4d_bench.model.video.config import VideoConfig
from geo4d_bench.model.video.diffusion import FAMILIES, expand_as, sample
from geo4d_bench.model.video.svd import Networks, load_svd, random_networks
from geo4d_bench.model.video.unet import DualDecoderUNet

_MOTION, _NOISE = 127.0, 0.0
"""Stable Video Diffusion's usual motion bucket; and no noise is added to the first frames."""
_READ_NOISE = 0.05  # added to the true frame that the segmenter is trained on
_PART_WEIGHT, _PART_ODDS = 16.0, 3.0  # as in the layered generator: hands are less than 1 % of an image


class VideoGenerator(Generator[VideoConfig]):
    """A generator of 4D video on pretrained ``networks`` of the config's sizes, or on random ones."""

    def __init__(self, config: VideoConfig, networks: Networks | None = None) -> None:
        super().__init__(config)
        c = config
        self.diffusion = FAMILIES[c.diffusion]()
        unet, autoencoder, image_encoder = networks or random_networks(c)
        heads = c.unet.cross_view_heads if c.cross_view_attention else 0
        self.network = DualDecoderUNet(unet, heads, c.shared_decoders)
        self.network.gradient_checkpointing = c.gradient_checkpointing
        self.streams = (RGB,) if c.rgb_only else (RGB, POINTS)
        self.codec: Autoencoders | Pixels
        self.embedding: nn.Module
        if autoencoder is None or image_encoder is None:
            self.codec, self.embedding = Pixels(c.patch), LearnedEmbedding(c.unet.cross_attention_dim)
            self.network.write_out_attention()
            # Untrained, the model copies the first frame (where the output is the clean latent).
            for name, parameter in self.network.decoders.named_parameters():
                if "conv_out" in name:
                    nn.init.zeros_(parameter)
        else:
            self.codec, self.embedding = Autoencoders(autoencoder), ClipEmbedding(image_encoder, c.image_encoder)
        self.readout = PartSegmenter(c.part_classes)
        self._part_weight = _PART_WEIGHT if c.weight_gripper else 1.0  # of a hand's pixel in the loss of the labels

    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Mean of (w + M) (D - z)² of the denoised latents D against the true z, with the diffusion's weight w and M on
        and near hands, over RGB and the pointmaps of both views; and that of the segmenter."""
        self.check(batch)
        batch = apply_ablation(self.config, batch)
        first = self._first(batch)
        rgb, points, valid = self._targets(batch)
        z, known = self._latents(rgb, points, valid)
        device = z.device
        level = local_shard(lambda s, generator: self.diffusion.draw_levels(s[0], generator), (len(z),), rng).to(device)
        noise = local_shard(torch.randn, z.shape, rng).to(device)
        keep = (local_shard(torch.rand, (len(z), 2), rng) >= self.config.condition_dropout).to(device).T
        condition, context = (x * expand_as(k, x) for x, k in zip(self._condition(first), keep, strict=True))
        denoised = self._denoise(self.diffusion.add_noise(z, noise, level), level, condition, context)
        hand_weight = self.config.hand_weight if self.config.weight_gripper else 0.0
        weight = expand_as(self.diffusion.loss_weight(level), z) + hand_weight * self._near_hand(batch["parts"])
        error = (denoised - z).square() * known
        latent = (weight * error).sum() / mean_over_processes(known.sum()).clamp(min=1.0)
        of_stream = (0, 1, 3, 4, 5, 6)
        errors = (error.detach().mean(of_stream) / known.mean(of_stream).clamp(min=1e-6)).tolist()
        valid_loss, parts_loss = self._read_loss(rgb, points, valid, batch["parts"], first, denoised.detach(), rng)
        return Loss(
            total=latent + 0.5 * valid_loss + 2.0 * parts_loss,
            parts={
                "latent": float(latent.detach()), **dict(zip(("rgb", "points"), errors, strict=False)),
                "valid": float(valid_loss.detach()), "parts": float(parts_loss.detach()),
            },
        )  # fmt: skip

    def fit_autoencoder(
        self, batches: Iterable[dict[str, Tensor]], state: dict[str, Tensor] | None = None
    ) -> list[dict[str, float]]:
        """Fine-tune the pointmap autoencoder, see :meth:`Autoencoders.fit_pointmaps`; ConfigError where there is no
        autoencoder, or there are no pointmaps."""
        if not isinstance(self.codec, Autoencoders):
            raise ConfigError("latents are pixels: there is no autoencoder to fit; choose a preset that has one")
        if self.config.rgb_only:
            raise ConfigError(f"{self.config.ablation} has no pointmaps to fit an autoencoder to; leave the steps out")
        videos = (self._targets(apply_ablation(self.config, batch))[1:] for batch in batches)
        pairs = ((points.flatten(0, 1), valid.flatten(0, 1)) for points, valid in videos)
        return self.codec.fit_pointmaps(pairs, {} if state is None else state)

    @classmethod
    def from_pretrained(cls, source: Path | str, config: VideoConfig) -> VideoGenerator:
        """A generator to fine-tune, on Stable Video Diffusion's weights and with its sizes: ``source`` is a folder in
        diffusers' layout, or a hub id such as stabilityai/stable-video-diffusion-img2vid."""
        return cls(*load_svd(source, config))

    def generate_batch(self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int) -> list[Video4D]:
        c = self.config
        batch = self.condition_batch(conditions)
        device = batch["first_rgb"].device
        first = self._first(batch)
        condition, context = self._condition(first)
        size, views = len(conditions), len(conditions[0].rgb)
        noise = torch.cat([self._noise(seed, views) for seed in seeds]).to(device)
        z = sample(self.diffusion, lambda x, level: self._denoise(x, level, condition, context), noise, steps)
        decoded = self._decode(z).flatten(0, 2)  # (B * V * T, 6, H, W)
        rgb, points = torch.split(decoded, 3, dim=1)
        valid_logit, parts_logit = self.readout(decoded, first.flatten(0, 1).repeat_interleave(c.frames, 0))
        parts_logit[:, 1:] += math.log(_PART_ODDS / self._part_weight)
        parts = parts_logit.argmax(1)
        metres = points.movedim(1, -1).view(size, views, c.frames, c.height, c.width, 3)
        metres = metres * c.point_scale_m + torch.tensor(c.point_mean_m, device=device)
        if c.calibrated:
            metres[:, 1:] = _transform(T_n_cam(batch)[:, 1:, None, None, None], metres[:, 1:])
        # Wherever a hand is shown it has a place.
        seen = ((valid_logit[:, 0] > 0) | (parts > 0)).view(metres.shape[:-1])
        if c.rgb_only:
            seen[:] = False
        return self.as_videos(conditions, rgb.movedim(1, -1).view(metres.shape), metres, seen, parts.view(seen.shape))

    def _decode(self, z: Tensor) -> Tensor:
        """(B, V, T, 6, H, W) colours and normalised points of latents (B, V, S, T, C, h, w); RGB alone: 0."""
        frames = z.shape[3]
        streams = [self.codec.decode(s, (z[:, :, s] / self.codec.scale).flatten(0, 2), frames) for s in self.streams]
        both = torch.cat(streams if len(streams) > 1 else [*streams, torch.zeros_like(streams[0])], 1)
        return both.view(*z.shape[:2], frames, *both.shape[1:])

    def _noise(self, seed: int, views: int) -> Tensor:
        """(1, V, S, T, C, h, w); that of a view is the same however many follow."""
        c, rng = self.config, torch.Generator().manual_seed(seed)
        shape = len(self.streams), c.frames, c.channels, c.height // c.cell, c.width // c.cell
        return torch.cat([torch.randn((1, n, *shape), generator=rng) for n in (2, *[1] * (views - 2))], 1)

    def _denoise(self, x: Tensor, level: Tensor, condition: Tensor, context: Tensor) -> Tensor:
        """The clean latents (B, V, S, T, C, h, w) estimated from noisy ``x`` at a level (B,)."""
        c = self.config
        scaled, time = self.diffusion.network_input(x, level)
        added_time = torch.tensor([1.0 / c.dt_s - 1.0, _MOTION, _NOISE], device=x.device)  # SVD is given fps - 1
        given = torch.cat([scaled, condition.expand(-1, -1, -1, c.frames, -1, -1, -1)], 4)
        # The network wants views and streams first: (B, V, S, ...) -> (V, S, B, ...).
        output = self.network(given.movedim(0, 2), time, context.transpose(0, 1), added_time).movedim(2, 0).float()
        if c.pixels and c.diffusion == "rectified_flow":
            output = output + condition
        return self.diffusion.denoised(output, x, level)

    def _condition(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled latents (B, V, S, 1, C, h, w) of first frames (B, V, 8, H, W), and embeddings (B, V, 1, D)."""
        images, shape = first.flatten(0, 1), first.shape[:2]
        latents = torch.stack([self.codec.encode(s, images[:, 3 * s : 3 * s + 3]) for s in self.streams], 1)
        stacked = latents.view(*shape, len(self.streams), 1, *latents.shape[2:])
        return stacked, self.embedding(images).unflatten(0, shape)

    def _first(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, V, 8, H, W), see :mod:`geo4d_bench.model.video.conditioning`."""
        rgb = batch["first_rgb"].float() / 127.5 - 1.0
        valid = batch["first_valid"][:, :, None].float() * (not self.config.rgb_only)
        hand = torch.zeros_like(valid)
        hand[:, 0, 0] = batch["hand_mask"].float()
        return torch.cat([rgb.movedim(-1, 2), self._points(batch["first_points"], valid), valid, hand], 2)

    def _targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Colours and :meth:`_points` (B, V, T, 3, H, W), and validity (B, V, T, 1, H, W) bool."""
        points, valid = batch["points"], batch["valid"][:, :, :, None]
        if self.config.calibrated:
            T_m_n = torch.linalg.inv(T_n_cam(batch)[:, 1])
            points = torch.stack([points[:, 0], _transform(T_m_n[:, None, None, None], points[:, 1])], 1)
        rgb = batch["rgb"].float() / 127.5 - 1.0
        return rgb.movedim(-1, 3), self._points(points, valid & (not self.config.rgb_only)), valid

    def _points(self, points: Tensor, valid: Tensor) -> Tensor:
        """Points (..., H, W, 3) in metres normalised, (..., 3, H, W); where invalid (..., 1, H, W) 0, or inpainted for
        an autoencoder."""
        mean = torch.tensor(self.config.point_mean_m, device=points.device)
        normalised = ((points - mean) / self.config.point_scale_m).movedim(-1, -3)
        if self.config.pixels:
            return normalised * valid
        return inpaint(normalised.flatten(0, -4), valid.flatten(0, -4).bool()).view(normalised.shape)

    def _latents(self, rgb: Tensor, points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, V, S, T, C, h, w) of the targets, and 1 where they are known, else 0."""
        lead = rgb.shape[:3]
        streams = [self.codec.encode(s, (rgb, points)[s].flatten(0, 2)) for s in self.streams]
        z = torch.stack([s.view(*lead, *s.shape[1:]) for s in streams], 2) * self.codec.scale
        known = self.codec.known(valid.flatten(0, 2)).view(*lead, *z.shape[4:])
        return z, torch.stack([torch.ones_like(known), known][: len(self.streams)], 2)

    def _near_hand(self, parts: Tensor) -> Tensor:
        """(B, V, 1, T, 1, h, w) 1 in cells within ``hand_dilation`` cells of one that shows a hand."""
        radius = self.config.hand_dilation
        cells = F.max_pool2d((parts > 0).float().flatten(0, 2)[:, None], self.config.cell)
        near = F.max_pool2d(cells, 2 * radius + 1, 1, radius)
        return near.view(*parts.shape[:2], 1, parts.shape[2], 1, *near.shape[-2:])

    def _read_loss(
        self, rgb: Tensor, points: Tensor, valid: Tensor, parts: Tensor, first: Tensor, z: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Of the segmenter's validity and parts, on a true frame and on one of the generated latents z: true frames
        alone would not teach it what is generated where there is no surface, something smooth."""
        chosen = torch.randint(rgb.shape[2], (2,), generator=rng).to(rgb.device)
        generated = self._decode(z[:, :, :, chosen[1:]])  # (B, V, 1, 6, H, W)
        rgb, points, valid, parts = (x[:, :, chosen] for x in (rgb, points, valid, parts))
        anything, added = (local_shard(torch.randn, points[:, :, :1].shape, rng).to(points.device) for _ in range(2))
        shown = points[:, :, :1].where(valid[:, :, :1], anything) * (not self.config.rgb_only)
        true = torch.cat([rgb[:, :, :1], shown], 3) + _READ_NOISE * added.repeat(1, 1, 1, 2, 1, 1)
        frames = torch.cat([true, generated], 2)
        each = first[:, :, None].expand(-1, -1, len(chosen), -1, -1, -1)
        valid_logit, parts_logit = self.readout(frames.flatten(0, 2), each.flatten(0, 2))
        labels = parts.flatten(0, 2).long()
        weight = torch.where(labels > 0, self._part_weight, 1.0)
        wrong = weight * F.cross_entropy(parts_logit.float(), labels, reduction="none")
        return (
            F.binary_cross_entropy_with_logits(valid_logit.float(), valid.flatten(0, 2).float()),
            wrong.sum() / mean_over_processes(weight.sum()),
        )

    def check(self, batch: dict[str, Tensor]) -> None:
        super().check(batch)
        views = batch["first_rgb"].shape[1]
        if views < 2 or ("rgb" in batch and views > 2):
            raise ConfigError(f"the unet generator is trained on pairs of views, generates two or more; got {views}")


def _transform(T: Tensor, points: Tensor) -> Tensor:
    """Points (..., 3) moved by poses (..., 4, 4) that broadcast."""
    return (T[..., :3, :3] * points[..., None, :]).sum(-1) + T[..., :3, 3]
