"""Where the cameras are and where the hands will go, told from the first frames of any number of views.

It works on normalised points: p of a camera's frame is (p - mean) / scale, the scene's frame is the world's, moved to
the middle of the cube in which hands work and scaled alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from geo4d_bench.model.blocks import Head, product, rotation
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.localise import MAP_POINTS, SceneMap
from geo4d_bench.model.layered.scene import Hands, SceneNetwork

CONDITION_CHANNELS = 8  # rgb, points in the own frame, validity, hand mask
_UPRIGHT = (1.0, 0, 0, 0, 1, 0)


class Poses(NamedTuple):
    """Where V views' normalised points are taken: R (B, V, 3, 3), t (B, V, 3)."""

    R: Tensor
    t: Tensor


class TrajectoryPredictor(nn.Module):
    """The hands' way, and the cameras' poses where they are not known."""

    scene_points: Tensor

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("scene_points", torch.zeros(MAP_POINTS, 3))  # a map of the scene; all 0: there is none
        self._map: tuple[Tensor, SceneMap] | None = None
        self.scene = SceneNetwork(c)
        # Each camera is found in the scene by itself: twelve cameras are learned instead of 132 pairs. A thumbnail is
        # enough to tell a camera: learned in a hundred steps, where a transformer took thousands.
        self.camera = Head(CONDITION_CHANNELS * c.tokens, c.dim, 9) if c.finds_cameras else None
        # View m alone cannot know where camera n is: a guess that fits the training's cameras best is all there is.
        alone = not c.cross_view_attention and not c.calibrated
        self.mean_camera = nn.Parameter(torch.tensor([*_UPRIGHT, 0, 0, 0])) if alone else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the searchable map, which cannot be copied and is made again from ``scene_points``."""
        return self.__dict__ | {"_map": None}

    def forward(self, condition: Tensor, anchor: Tensor, opening: Tensor, cameras: Poses) -> Hands:
        """What each view says of the hands, in camera n's frame (in its own where there is no shared one): one thing
        where everything may flow between the views.

        Args:
            condition: (B, V, N, 8, patch²) first frames in patches.
            anchor: (B, V, A, 3) where the hands are at first, as far as a view knows it, normalised.
            opening: (B, V, A) how far they are open at first, about 0 to 1.
            cameras: of the views in the scene.
        """
        c, (b, views) = self.config, condition.shape[:2]
        R_n, t_n = self.frame_n(cameras)
        anchor_in_scene = product(R_n[:, :, None], anchor[..., None])[..., 0] + t_n[:, :, None]
        unit = c.point_scale_m / c.work_half_m
        together = c.cross_view_attention and c.shared_frame

        def points(x: Tensor) -> Tensor:  # (B, V, N, C, patch²) -> (B or V B, P, C)
            x = x.movedim(3, -1).flatten(2, 3)
            return x.flatten(1, 2) if together else x.flatten(0, 1)

        told = slice(0, 1) if together else slice(None)
        found = self.scene(
            unit * points(in_scene(condition, cameras)),
            points(condition[:, :, :, [0, 1, 2, 7]]),
            points(condition[:, :, :, 6:7])[..., 0] > 0,
            unit * anchor_in_scene[:, told].flatten(0, 1),
            opening[:, told].flatten(0, 1),
        )
        to_n = R_n.transpose(-1, -2)[:, :, None, None]  # (B, V, 1, 1, 3, 3)
        motion = found.position.view(b, -1, c.arms, c.frames, 3) * (c.motion_scale_m / c.point_scale_m)
        turned = found.rotation.view(b, -1, c.arms, c.frames, 3, 3)
        position = anchor[:, :, :, None] + product(to_n, motion[..., None])[..., 0]
        return Hands(
            position=position,
            rotation=product(to_n, turned),
            opening=found.opening.view(b, -1, c.arms, c.frames).expand(b, views, -1, -1),
            start=first_places(c, anchor, position),
        )

    def find_cameras(self, condition: Tensor) -> Poses:
        """From each camera's points to the scene's, told from its first frame."""
        assert self.camera is not None
        camera = self.camera(condition.mean(4).flatten(2)).float()  # (B, V, N * 8) -> (B, V, 9)
        return Poses(rotation(camera[..., :6] + torch.tensor(_UPRIGHT, device=camera.device)), camera[..., 6:])

    def locate(self, condition: Tensor, views: Sequence[Tensor]) -> Poses:
        """The cameras of one sample: guessed, then registered to the map by their points (P, 3), metres."""
        c, guess = self.config, self.find_cameras(condition)
        known = self.scene_points.cpu()
        if not known.any():
            return guess
        if self._map is None or not torch.equal(self._map[0], known):
            self._map = known, SceneMap(np.unique(known.double().numpy(), axis=0), np.asarray(c.work_centre_m))
        T = torch.eye(4).repeat(len(views), 1, 1)
        T[:, :3, :3] = guess.R[0].cpu()
        T[:, :3, 3] = (
            guess.t[0].cpu() * c.point_scale_m
            + torch.tensor(c.work_centre_m)
            - T[:, :3, :3] @ torch.tensor(c.point_mean_m)
        )
        found = [self._map[1].find(p.double().cpu().numpy(), g.double().numpy()) for p, g in zip(views, T, strict=True)]
        return cameras_in_scene(c, torch.from_numpy(np.stack(found).astype(np.float32))[None].to(guess.t.device))

    def frame_n(self, cameras: Poses) -> Poses:
        """Camera n's pose in the scene, as each view knows it; its own where no frame is shared."""
        if not self.config.shared_frame:
            return cameras
        R, t = cameras.R[:, :1].expand_as(cameras.R), cameras.t[:, :1].expand_as(cameras.t)
        if self.mean_camera is None:
            return Poses(R, t)
        alone = rotation(self.mean_camera[:6]).expand_as(R[:, 1:]), self.mean_camera[6:].expand_as(t[:, 1:])
        return Poses(torch.cat([R[:, :1], alone[0]], 1), torch.cat([t[:, :1], alone[1]], 1))

    def in_n(self, cameras: Poses) -> Poses:
        """Each camera's pose in camera n's frame, as each view knows it."""
        R_n, t_n = self.frame_n(cameras)
        to_n = R_n.transpose(-1, -2)
        return Poses(product(to_n, cameras.R), product(to_n, (cameras.t - t_n)[..., None])[..., 0])


def first_places(c: LayeredConfig, anchor: Tensor, position: Tensor) -> Tensor:
    """(B, V, A, 3) where hands (B, V, A, T, 3) are at first: a view that is not told takes the first frame foreseen."""
    if c.view_m_gets_ee:
        return anchor
    return torch.cat([anchor[:, :1], position.expand(-1, anchor.shape[1], -1, -1, -1)[:, 1:, :, 0]], 1)


def in_own_frames(hands: Hands, in_n: Poses) -> Hands:
    """Hands in camera n's frame, as each of V views (``in_n``) has them in its own."""
    b, views = in_n.t.shape[:2]
    to_own = in_n.R.transpose(-1, -2)[:, :, None]  # (B, V, 1, 3, 3)
    start = hands.start.expand(b, views, -1, -1) - in_n.t[:, :, None]
    position = hands.position.expand(b, views, -1, -1, -1) - in_n.t[:, :, None, None]
    return Hands(
        position=product(to_own[:, :, None], position[..., None])[..., 0],
        rotation=product(to_own[:, :, None], hands.rotation.expand(b, views, -1, -1, -1, -1)),
        opening=hands.opening.expand(b, views, -1, -1),
        start=product(to_own, start[..., None])[..., 0],
    )


def in_scene(condition: Tensor, cameras: Poses) -> Tensor:
    """(B, V, N, 3, P) each view's own points, moved to the scene's frame; 0 where invalid."""
    R, t = cameras
    return (product(R[:, :, None], condition[:, :, :, 3:6]) + t[:, :, None, :, None]) * condition[:, :, :, 6:7]


def cameras_in_scene(c: LayeredConfig, T_world_cam: Tensor) -> Poses:
    """Poses (B, V, 4, 4) in the world, metres, as they move normalised points to the scene's frame."""
    mean, centre = (torch.tensor(m, device=T_world_cam.device) for m in (c.point_mean_m, c.work_centre_m))
    R = T_world_cam[..., :3, :3]
    return Poses(R, (product(R, mean[:, None])[..., 0] + T_world_cam[..., :3, 3] - centre) / c.point_scale_m)


def cameras_in_n(c: LayeredConfig, T_n_cam: Tensor) -> Poses:
    """Poses (B, V, 4, 4) in camera n's frame, metres, as they move normalised points."""
    mean = torch.tensor(c.point_mean_m, device=T_n_cam.device)
    R = T_n_cam[..., :3, :3]
    return Poses(R, (product(R, mean[:, None])[..., 0] + T_n_cam[..., :3, 3] - mean) / c.point_scale_m)


def identity_poses(views: Tensor) -> Poses:
    """Poses that move nothing, for images (B, V, ...)."""
    shape = views.shape[:2]
    return Poses(torch.eye(3, device=views.device).expand(*shape, 3, 3), torch.zeros((*shape, 3), device=views.device))
