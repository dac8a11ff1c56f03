"""The 4D video generator of arXiv 2507.01099: on Stable Video Diffusion, on its network from scratch, or on a video
transformer.

Colours, pointmaps, validity and gripper parts of two views are denoised in one pass, view m's pointmaps in camera n's
frame, which is learned from such targets alone (paper, section 3). A calibrated generator makes both views in one frame
along the world's axes, or for an autoencoder each in its own, which known poses take to camera n's. A plan is read from
the video alone.

It is trained on pairs of views and generates any number of them in one pass: every further view is a view m, with the
same weights. In the U-Net it attends to view n alone, so that each is as if generated with view n by itself; in the
transformer's trunk all views attend to one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.adapters import add_adapters
from geo4d_bench.model.base import Generator, Loss, OptimizerName
from geo4d_bench.model.batch import T_n_cam, apply_ablation
from geo4d_bench.model.blocks import constant, in_bf16, product
from geo4d_bench.model.distributed import local_shard, mean_over_processes
from geo4d_bench.model.types import FirstFrames, Video4D
from geo4d_bench.model.video.autoencoders import LABELS, POINTS, RGB, Autoencoders, Pixels, inpaint
from geo4d_bench.model.video.conditioning import VALID, CellEmbedding, ClipEmbedding, LearnedEmbedding
from geo4d_bench.model.video.config import DiTConfig, UNetConfig, VideoConfig
from geo4d_bench.model.video.diffusion import EDM, RectifiedFlow, expand_as, sample
from geo4d_bench.model.video.dit import CrossView, Layer, VideoTransformer
from geo4d_bench.model.video.labels import label_image, read_changes, read_labels
from geo4d_bench.model.video.losses import hand_error, read_error, robust_points
from geo4d_bench.model.video.svd import Networks, load_svd, random_networks
from geo4d_bench.model.video.unet import DualDecoderUNet

_MOTION, _NOISE = 127.0, 0.0
"""Stable Video Diffusion's usual motion bucket; and no noise is added to the first frames."""
_OPENING_M = 0.08  # how far a gripper opens
_FRAMES = ("rgb", "points", "valid", "parts")  # of a batch, what is a video's own


class VideoGenerator(Generator[VideoConfig]):
    """A generator of 4D video on pretrained ``networks`` of the config's sizes, or on random ones.

    Attributes:
        streams: what is denoised together; view m attends to view n in the last one.
    """

    def __init__(self, config: VideoConfig, networks: Networks | None = None) -> None:
        super().__init__(config)
        c = config
        self.diffusion = EDM() if c.diffusion == "edm" else RectifiedFlow(c.pure_noise_share)
        self.streams = (LABELS, RGB) if c.rgb_only else (LABELS, RGB, POINTS)
        self.network: DualDecoderUNet | VideoTransformer
        self.codec: Autoencoders | Pixels = Pixels(c.patch)
        self.embedding: nn.Module | None = None
        if isinstance(c, DiTConfig):
            self.network = VideoTransformer(c, len(self.streams), 4 * c.arms)
            self.embedding = CellEmbedding(c.cell, c.dim)
        elif isinstance(c, UNetConfig):
            self._build_unet(c, networks or random_networks(c))

    def _build_unet(self, c: UNetConfig, networks: Networks) -> None:
        unet, autoencoder, image_encoder = networks
        heads = c.unet.cross_view_heads if c.cross_view_attention else 0
        self.network = DualDecoderUNet(unet, heads, c.shared_decoders, 4 * c.arms)
        self.network.gradient_checkpointing = c.gradient_checkpointing
        if autoencoder is None or image_encoder is None:
            self.embedding = LearnedEmbedding(c.unet.cross_attention_dim)
            self.network.write_out_attention()
            # Untrained, the model copies the first frame (where the output is the clean latent).
            for name, parameter in self.network.decoders.named_parameters():
                if "conv_out" in name:
                    nn.init.zeros_(parameter)
        else:
            self.codec, self.embedding = Autoencoders(autoencoder), ClipEmbedding(image_encoder, c.image_encoder)

    def optimizer_groups(self) -> dict[OptimizerName, list[nn.Parameter]]:
        """Matrices inside a transformer's layers are Muon's, all else AdamW's."""
        groups: dict[OptimizerName, list[nn.Parameter]] = {"adamw": [], "muon": []}
        for name, parameter in self.named_parameters():
            inside = isinstance(self.network, VideoTransformer) and not {"trunk", "layers", "cross_view"}.isdisjoint(
                name.split(".")
            )
            if parameter.requires_grad:
                groups["muon" if inside and name.endswith(".weight") else "adamw"].append(parameter)
        return groups

    def add_adapters(self) -> None:
        """Low-rank additions to the attention of the pretrained U-Net. What was added to it, and its first and last
        convolutions, are trained in full; views n and m have adapters of their own, as they have decoders."""
        network = self.network
        if self.config.pixels or not isinstance(network, DualDecoderUNet):
            return super().add_adapters()
        add_adapters(network, r"(down_blocks|mid_block|decoders)\..*\.to_(q|k|v|out\.0)")
        ends = [part for d in network.decoders for name, part in d.named_children() if name != "up_blocks"]
        for part in (network.cross_view, network.proprioception, network.conv_in, *ends):
            part.requires_grad_(True)
        return None

    def halve_frozen(self) -> None:
        """The codec and the image embedding whole; of the network its matrices: norms are float32 under autocast."""
        for part in (self.codec, self.embedding):
            if part is not None and not any(p.requires_grad for p in part.parameters()):
                part.to(torch.bfloat16)
        for parameter in self.network.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()

    def layers(self) -> list[nn.Module]:
        if isinstance(self.network, DualDecoderUNet):
            return self.network.layers()
        return [m for m in self.network.modules() if isinstance(m, Layer | CrossView)]

    def layers_to_compile(self) -> list[nn.Module]:
        """The transformer's; a U-Net's are of too many shapes."""
        return self.layers() if isinstance(self.network, VideoTransformer) else []

    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Mean of (w + M) e of the denoised latents D against the true z, with the diffusion's weight w and M on and
        near hands, over all streams of both views; and what counts besides on grippers, see
        :mod:`geo4d_bench.model.video.losses`.

        The error e is (D - z)², but for pixels' points the pseudo-Huber loss of their distance d, sqrt(d² + c²) - c
        (Song and Dhariwal 2023, https://arxiv.org/abs/2310.14189): where a hand may or may not be, squares ask for a
        point between it and what is behind.
        """
        self.check(batch)
        batch, frames = apply_ablation(self.config, batch), None
        if isinstance(self.config, DiTConfig) and self.config.loss_frames < self.config.frames:
            order = torch.randperm(self.config.frames, generator=rng, device=rng.device)
            frames = order[: self.config.loss_frames].sort().values.to(batch["rgb"].device)
            batch = batch | {k: batch[k].index_select(2, frames) for k in (*_FRAMES, "hand_opening")}
        first = self._first(batch)
        z, known = self._latents(*self._targets(batch))
        device = z.device
        draw = self.diffusion.draw_levels
        level = local_shard(lambda shape, generator, device: draw(shape[0], generator), (len(z),), rng).to(device)
        noise = local_shard(torch.randn, z.shape, rng).to(device)
        keep = (local_shard(torch.rand, (len(z), 2), rng) >= self.config.condition_dropout).to(device).T
        condition, context = self._condition(first)
        given = _Given(
            condition * expand_as(keep[0], condition),
            None if context is None else context * expand_as(keep[1], context),
            self._proprioception(batch),
            frames,
        )
        denoised = self._denoise(self.diffusion.add_noise(z, noise, level), level, given)
        hand_weight = self.config.hand_weight if self.config.weight_gripper else 0.0
        near = self._near_hand(batch["parts"])
        weight = expand_as(self.diffusion.loss_weight(level), z) + hand_weight * near
        of_stream = [self.config.point_weight if s == POINTS else 1.0 for s in self.streams]
        weight = weight * constant(tuple(of_stream), device).view(-1, 1, 1, 1, 1)
        error = self._errors(denoised, z) * known
        summed = (weight * error).sum() + hand_error(self.config, error, z)
        total = summed / mean_over_processes(known.sum()).clamp(min=1.0)
        total = total + read_error(self.config, denoised, z, known, near)
        others = (0, 1, 3, 4, 5, 6)
        errors = error.detach().mean(others) / known.mean(others).clamp(min=1e-6)
        return Loss(total=total, parts=dict(zip(("labels", "rgb", "points"), errors, strict=False)))

    def _errors(self, denoised: Tensor, z: Tensor) -> Tensor:
        """What each latent (B, V, S, T, C, h, w) counts by, see :meth:`loss`."""
        if not self.config.pixels or self.config.rgb_only:
            return (denoised - z).square()
        squares = (denoised - z)[:, :, :POINTS].square()
        return torch.cat([squares, robust_points(denoised, z)[:, :, None]], 2)

    def fit_autoencoder(
        self, batches: Iterable[dict[str, Tensor]], state: dict[str, Tensor] | None = None
    ) -> list[dict[str, float]]:
        """Fine-tune the pointmap autoencoder, see :meth:`Autoencoders.fit_pointmaps`; ConfigError where there is no
        autoencoder, or there are no pointmaps."""
        if not isinstance(self.codec, Autoencoders):
            raise ConfigError("latents are pixels: there is no autoencoder to fit; choose a preset that has one")
        if self.config.rgb_only:
            raise ConfigError(f"{self.config.ablation} has no pointmaps to fit an autoencoder to; leave the steps out")
        videos = (self._targets(apply_ablation(self.config, batch)) for batch in batches)
        pairs = ((images[POINTS].flatten(0, 1), valid.flatten(0, 1)) for images, valid in videos)
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
        given = _Given(*self._condition(self._first(batch)), self._proprioception(batch))
        views = len(conditions[0].rgb)
        noise = torch.cat([self._noise(seed, views) for seed in seeds]).to(device, non_blocking=True)
        with in_bf16(device):  # the network alone: what decodes its output would round points by millimetres
            z = sample(self.diffusion, lambda x, level: self._denoise(x, level, given), noise, steps)
        z = z / self.codec.scale
        images = {
            stream: _unflattened(self.codec.decode(stream, z[:, :, k].flatten(0, 2), c.frames), *z.shape[:2], c.frames)
            for k, stream in enumerate(self.streams)
        }
        parts, seen = read_labels(images[LABELS], c.arms, c.paint_fingers)
        change = read_changes(images[LABELS], c.arms)
        opening = (batch["opening"][..., None] + _OPENING_M * change).clamp(0.0, _OPENING_M)
        seen |= parts > 0  # wherever a hand is shown it has a place
        rgb = images[RGB].movedim(3, -1)
        if c.rgb_only:
            return self.as_videos(conditions, rgb, torch.zeros_like(rgb), torch.zeros_like(seen), parts, opening)
        points = expanded(images[POINTS]) if c.pixels else images[POINTS]
        back = torch.linalg.inv_ex(self._frames(batch)[1]).inverse
        metres = _transform(back, points.movedim(3, -1) * c.point_scale_m)
        return self.as_videos(conditions, rgb, metres, seen, parts, opening)

    def _noise(self, seed: int, views: int) -> Tensor:
        """(1, V, S, T, C, h, w); that of a view is the same however many follow."""
        c, rng = self.config, torch.Generator().manual_seed(seed)
        shape = len(self.streams), c.frames, c.channels, c.height // c.cell, c.width // c.cell
        return torch.cat([torch.randn((1, n, *shape), generator=rng) for n in (2, *[1] * (views - 2))], 1)

    def _denoise(self, x: Tensor, level: Tensor, given: _Given) -> Tensor:
        """The clean latents (B, V, S, T, C, h, w) estimated from noisy ``x`` at levels (B, V)."""
        c = self.config
        scaled, time = self.diffusion.network_input(x, level)
        # The networks want views and streams first: (B, V, S, ...) -> (V, S, B, ...).
        if isinstance(self.network, VideoTransformer):
            first = given.condition.movedim(0, 2)
            output = self.network(scaled.movedim(0, 2), time, first, given.context, given.proprioception, given.frames)
        else:
            assert given.context is not None
            added_time = constant((1.0 / c.dt_s - 1.0, _MOTION, _NOISE), x.device)  # SVD is given fps - 1
            both = torch.cat([scaled, given.condition.expand(-1, -1, -1, c.frames, -1, -1, -1)], 4)
            context = given.context.transpose(0, 1)
            output = self.network(both.movedim(0, 2), time, context, added_time, given.proprioception)
        output = output.movedim(2, 0).float()
        if isinstance(self.network, DualDecoderUNet) and c.pixels and c.diffusion == "rectified_flow":
            output = output + given.condition
        return self.diffusion.denoised(output, x, level)

    def _condition(self, first: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unscaled latents (B, V, S, 1, C, h, w) of first frames (B, V, 14, H, W), and embeddings (B, V, L, D)."""
        images, shape = first.flatten(0, 1), first.shape[:2]
        valid, hand = images[:, VALID : VALID + 1], images[:, VALID + 1 : VALID + 2]
        labels = torch.cat([2.0 * valid - 1.0, hand, torch.zeros_like(hand)], 1)
        of_stream = {LABELS: labels, RGB: images[:, :3], POINTS: images[:, 3:6]}
        latents = torch.stack([self.codec.encode(s, of_stream[s]) for s in self.streams], 1)
        stacked = latents.view(*shape, len(self.streams), 1, *latents.shape[2:])
        return stacked, None if self.embedding is None else self.embedding(images).unflatten(0, shape)

    def _proprioception(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, 4 arms): normalised places of the hands in camera n's frame, and openings; zeros with RGB alone."""
        c = self.config
        place = (batch["first_hand"] - self._mean(batch["first_hand"])) / c.point_scale_m
        openness = (2.0 * batch["opening"] / _OPENING_M - 1.0).clamp(-1.0, 1.0)  # from closed to open
        both = torch.cat([place, openness[..., None]], -1).flatten(1)
        return both * (not c.rgb_only)

    def _first(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, V, 14, H, W), see :mod:`geo4d_bench.model.video.conditioning`."""
        c, rgb = self.config, batch["first_rgb"].float() / 127.5 - 1.0
        valid = batch["first_valid"][:, :, None].float() * (not c.rgb_only)
        hand = torch.zeros_like(valid)
        hand[:, 0, 0] = batch["hand_mask"] * self._sign_of_nearest_hand(batch)
        T = self._frames(batch)[0]
        points = self._points(_transform(T, batch["first_points"]), valid)
        camera = T[:, :, None, None, :3, 3]
        rays = F.normalize(_transform(T, batch["rays"]) - camera, dim=-1)
        where = (camera / c.point_scale_m).expand_as(rays)
        return torch.cat([rgb.movedim(-1, 2), points, valid, hand, rays.movedim(-1, 2), where.movedim(-1, 2)], 2)

    def _sign_of_nearest_hand(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, H, W) 1 where view n's first points are nearer to the first arm's hand, -1 to the second's, as labels."""
        off = batch["first_points"][:, 0, None] - batch["first_hand"][:, :, None, None]
        return 1.0 - 2.0 * off.square().sum(-1).argmin(1)

    def _targets(self, batch: dict[str, Tensor]) -> tuple[dict[int, Tensor], Tensor]:
        """Images (B, V, T, 3, H, W) by stream, and validity (B, V, T, 1, H, W) bool."""
        points = _transform(self._frames(batch)[1], batch["points"])
        valid = batch["valid"][:, :, :, None]
        rgb = batch["rgb"].float() / 127.5 - 1.0
        change = ((batch["hand_opening"] - batch["opening"][..., None]) / _OPENING_M).clamp(-1.0, 1.0)
        return {
            LABELS: label_image(batch["parts"], batch["valid"], change.mT[:, None], self.config.paint_fingers),
            RGB: rgb.movedim(-1, 3),
            POINTS: self._points(points, valid & (not self.config.rgb_only)),
        }, valid

    def _mean(self, like: Tensor) -> Tensor:
        return constant(self.config.point_mean_m, like.device)

    def _frames(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, V, 4, 4) each: what takes a view's first points, and what takes its targets, from camera n's frame, to
        the frame in which the network sees them.

        Pixels' origin is where the hands are at first, which view m's first points of unknown pose cannot be moved to;
        where the poses are known, all are along the world's axes, so that what is done looks the same from everywhere.
        An autoencoder expects points about their mean, as a camera sees them.
        """
        c, views = self.config, batch["first_rgb"].shape[1]
        hand = batch["first_hand"].mean(1)  # camera n's frame
        mean = self._mean(hand).expand_as(hand)
        from_mean = _moved(mean)[:, None].expand(-1, views, -1, -1)
        if c.rgb_only:
            return from_mean, from_mean
        if not c.pixels:
            if not c.calibrated:
                return from_mean, from_mean
            return from_mean, product(from_mean, torch.linalg.inv_ex(T_n_cam(batch)).inverse)
        if not c.calibrated:
            from_hand = _moved(hand)[:, None]
            own = torch.cat([from_hand, from_mean[:, 1:]], 1)
            return own, from_hand.expand(-1, views, -1, -1) if c.shared_frame else own
        axes = torch.zeros_like(from_mean[:, :1])
        axes[..., :3, :3], axes[..., 3, 3] = batch["T_world_cam"][:, :1, :3, :3], 1.0
        from_n = product(axes, _moved(hand)[:, None])
        return product(from_n, T_n_cam(batch)), from_n.expand(-1, views, -1, -1)

    def _points(self, points: Tensor, valid: Tensor) -> Tensor:
        """Points (..., H, W, 3) in metres, normalised, (..., 3, H, W); where invalid (..., 1, H, W) 0, or inpainted
        for an autoencoder."""
        normalised = (points / self.config.point_scale_m).movedim(-1, -3)
        if self.config.pixels:
            return contracted(normalised) * valid
        return inpaint(normalised.flatten(0, -4), valid.flatten(0, -4).bool()).view(normalised.shape)

    def _latents(self, images: dict[int, Tensor], valid: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled latents (B, V, S, T, C, h, w) of the targets, and 1 where they are known, else 0."""
        shape = valid.shape[:3]
        encoded = [self.codec.encode(s, images[s].flatten(0, 2)) for s in self.streams]
        z = torch.stack([_unflattened(image, *shape) for image in encoded], 2)
        known = _unflattened(self.codec.known(valid.flatten(0, 2)), *shape)
        of_stream = [known if s == POINTS else torch.ones_like(known) for s in self.streams]
        return z * self.codec.scale, torch.stack(of_stream, 2)

    def _near_hand(self, parts: Tensor) -> Tensor:
        """(B, V, 1, T, 1, h, w) 1 in cells within ``hand_dilation`` cells of one that shows a hand."""
        radius = self.config.hand_dilation
        cells = F.max_pool2d((parts > 0).float().flatten(0, 2)[:, None], self.config.cell)
        near = F.max_pool2d(cells, 2 * radius + 1, 1, radius)
        return near.view(*parts.shape[:2], 1, parts.shape[2], 1, *near.shape[-2:])

    def check(self, batch: dict[str, Tensor]) -> None:
        super().check(batch)
        views = batch["first_rgb"].shape[1]
        if views < 2 or ("rgb" in batch and views > 2):
            raise ConfigError(
                f"the {self.config.name} generator is trained on pairs of views, generates two or more; got {views}"
            )


class _Given(NamedTuple):
    """What a network is given besides noisy latents and their level."""

    condition: Tensor  # (B, V, S, 1, C, h, w)
    context: Tensor | None  # (B, V, L, D)
    proprioception: Tensor  # (B, 4 arms)
    frames: Tensor | None = None  # which these are, where they are not all


def _unflattened(x: Tensor, *shape: int) -> Tensor:
    """(N, ...) -> (shape..., ...)."""
    return x.view(*shape, *x.shape[1:])


def contracted(points: Tensor) -> Tensor:
    """Points (..., 3, H, W) drawn into the unit ball, p / (1 + |p|), so that near ones are told apart best."""
    return points / (1.0 + points.square().sum(-3, keepdim=True).sqrt())


def expanded(points: Tensor) -> Tensor:
    """The points (..., 3, H, W) that :func:`contracted` made these of; none is farther than 19."""
    norm = points.square().sum(-3, keepdim=True).sqrt()
    inside = norm.clamp(max=0.95)
    return points * inside / (norm.clamp(min=1e-6) * (1.0 - inside))


def _moved(origin: Tensor) -> Tensor:
    """(..., 4, 4) what takes points to a frame with its origin (..., 3) there."""
    T = torch.eye(4, device=origin.device).repeat(*origin.shape[:-1], 1, 1)
    T[..., :3, 3] = -origin
    return T


def _transform(T: Tensor, points: Tensor) -> Tensor:
    """Points (B, V, ..., 3) moved by poses (B, V, 4, 4)."""
    T = T.view(*T.shape[:2], *[1] * (points.ndim - 3), 4, 4)
    x, y, z = points.float()[..., None].unbind(-2)
    moved = torch.addcmul(T[..., :3, 3], x, T[..., :3, 0])
    return moved.addcmul_(y, T[..., :3, 1]).addcmul_(z, T[..., :3, 2])
