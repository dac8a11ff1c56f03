"""Where the cameras are and where the hands will go, predicted from the first frames of any number of views.

An image from a new camera is new to a network. The points in it are not, once they lie in the scene's frame: drawn from
above, from the front and from the side they look as from any other camera (RVT: Goyal et al. 2023,
https://arxiv.org/abs/2306.14896). The hands' trajectory is predicted from such pictures alone.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geo4d_bench.model.blocks import Block, Head, constant, product, rotation
from geo4d_bench.model.layered.condition import INPUT_CHANNELS, Condition, points_in_scene
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.localise import MAP_POINTS, SceneMap
from geo4d_bench.model.layered.patches import to_patches
from geo4d_bench.model.layered.poses import Hands, Poses, camera_poses, initial_positions, rotate
from geo4d_bench.model.layered.sprites import splat

_UPRIGHT = (1.0, 0, 0, 0, 1, 0)
_CHANNELS = 6  # rgb, hand mask, height, whether there is anything
_PATCH = 8
_SEEN_ALONG = ((2, 0, 1), (0, 1, 2), (1, 0, 2))  # axis that is looked along, and the picture's two
_LAYER = 0.03  # of the cube's half edge: what lies this little below the topmost point is mixed with it


class TrajectoryPredictor(nn.Module):
    """The hands' trajectory, and the cameras' poses where they are not known."""

    scene_points: Tensor

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        self.register_buffer("scene_points", torch.zeros(MAP_POINTS, 3))  # a map of the scene; all 0: there is none
        self._map: tuple[Tensor, SceneMap] | None = None
        self.scene = SceneNetwork(c)
        # Each camera is found in the scene by itself: twelve cameras are learned instead of 132 pairs. A thumbnail is
        # enough: learned in a hundred steps, where a transformer took thousands.
        self.camera = Head(INPUT_CHANNELS * c.tokens, c.dim, 9) if c.finds_cameras else None
        # View m alone cannot know where camera n is: a guess that fits the training's cameras best is all there is.
        alone = not c.cross_view_attention and not c.calibrated
        self.mean_camera = nn.Parameter(torch.tensor([*_UPRIGHT, 0, 0, 0])) if alone else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the searchable map, which cannot be copied and is made again from ``scene_points``."""
        return self.__dict__ | {"_map": None}

    def forward(self, condition: Condition, cameras: Poses) -> Hands:
        """What each view predicts of the hands, in camera n's frame (in its own where there is no shared one), given
        the cameras in the scene: the same where everything may flow between the views."""
        c, inputs, anchor, opening = self.config, condition.inputs, condition.anchor, condition.opening
        frame_n = self.frame_n(cameras)
        unit = c.point_scale_m / c.work_half_m
        together = c.cross_view_attention and c.shared_frame

        def points(x: Tensor) -> Tensor:  # (B, V, N, C, patch²) -> (B or V B, P, C)
            x = x.movedim(3, -1).flatten(2, 3)
            return x.flatten(1, 2) if together else x.flatten(0, 1)

        used = slice(0, 1) if together else slice(None)
        out = self.scene(
            unit * points(points_in_scene(inputs, cameras)),
            points(torch.cat([inputs[:, :, :, :3], inputs[:, :, :, 7:]], 3)),
            points(inputs[:, :, :, 6:7])[..., 0] > 0,
            unit * frame_n.apply(anchor)[:, used].flatten(0, 1),
            opening[:, used].flatten(0, 1),
        ).view(len(inputs), -1, c.arms, c.frames, 10)
        to_n = frame_n.R.mT[:, :, None, None]  # (B, V, 1, 1, 3, 3)
        motion = out[..., :3] * (c.motion_scale_m / c.point_scale_m)
        position = anchor[:, :, :, None] + rotate(to_n, motion)
        return Hands(
            position=position,
            rotation=product(to_n, rotation(out[..., 3:9] + constant(_UPRIGHT, out.device))),
            opening=(opening[:, used, :, None] + out[..., 9]).expand(-1, inputs.shape[1], -1, -1),
            start=initial_positions(c, anchor, position),
        )

    def find_cameras(self, inputs: Tensor) -> Poses:
        """Poses that take each camera's points to the scene, from its first frame, see ``Condition.inputs``."""
        assert self.camera is not None
        camera = self.camera(inputs.mean(4).flatten(2)).float()  # (B, V, N * 8) -> (B, V, 9)
        return Poses(rotation(camera[..., :6] + constant(_UPRIGHT, camera.device)), camera[..., 6:])

    def locate(self, inputs: Tensor, points: Tensor, valid: Tensor) -> Poses:
        """The cameras in the scene: guessed, then registered to the map by valid points (B, V, H, W, 3), metres."""
        c, guesses = self.config, [self.find_cameras(sample[None]) for sample in inputs]
        guess = Poses(*(torch.cat(x) for x in zip(*guesses, strict=True)))
        known = self.scene_points.cpu()
        if not known.any():
            return guess
        if self._map is None or not torch.equal(self._map[0], known):
            self._map = known, SceneMap(np.unique(known.double().numpy(), axis=0), np.asarray(c.work_centre_m))
        centre, mean = torch.tensor(c.work_centre_m), torch.tensor(c.point_mean_m)
        T = torch.eye(4).repeat(*valid.shape[:2], 1, 1)
        T[..., :3, :3] = guess.R.cpu()
        T[..., :3, 3] = guess.t.cpu() * c.point_scale_m + centre - T[..., :3, :3] @ mean
        for i in np.ndindex(*valid.shape[:2]):
            seen = points[i][valid[i]].double().cpu().numpy()
            T[i] = torch.from_numpy(self._map[1].find(seen, T[i].double().numpy()))
        return camera_poses(c, T.to(guess.t.device), c.work_centre_m)

    def frame_n(self, cameras: Poses) -> Poses:
        """Camera n's pose in the scene, as each view knows it; its own where no frame is shared."""
        if not self.config.shared_frame:
            return cameras
        if self.mean_camera is None:
            return Poses(*(x[:, :1].expand_as(x) for x in cameras))
        mean = rotation(self.mean_camera[:6]), self.mean_camera[6:]
        pairs = zip(cameras, mean, strict=True)
        return Poses(*(torch.cat([x[:, :1], guess.expand_as(x[:, 1:])], 1) for x, guess in pairs))

    def in_n(self, cameras: Poses) -> Poses:
        """Each camera's pose in camera n's frame, as each view knows it."""
        frame_n = self.frame_n(cameras)
        return Poses(product(frame_n.R.mT, cameras.R), frame_n.undo(cameras.t))


class SceneNetwork(nn.Module):
    """Points of the first frames in, the hands' motion in the scene's axes out."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed = nn.Linear(_CHANNELS * _PATCH**2, c.dim)
        self.position = nn.Parameter(0.02 * torch.randn(1 + 3 * (c.scene_cells // _PATCH) ** 2, c.dim))
        self.embed_hands = nn.Linear(4 * c.arms, c.dim)
        self.blocks = nn.ModuleList(Block(c.dim, c.heads) for _ in range(c.scene_layers))
        self.norm = nn.LayerNorm(c.dim)
        self.out = Head(c.dim + 4 * c.arms, c.dim, c.arms * c.frames * 10)

    def forward(self, points: Tensor, features: Tensor, valid: Tensor, anchor: Tensor, opening: Tensor) -> Tensor:
        """(B, A * T * 10): motion since the first frames in motion units (3), two rows of the rotation minus the
        identity's (6), change of opening (1).

        Args:
            points: (B, P, 3) in the scene's frame, in half edges of the cube in which the hands work.
            features: (B, P, 4) colour in -1..1 and hand mask.  valid: (B, P) bool.
            anchor: (B, A, 3) where the hands are at first, as ``points``.  opening: (B, A).
        """
        pictures = scene_pictures(points, features, valid, self.config.scene_cells)
        patches = to_patches(pictures[:, :, None], _PATCH).flatten(3).flatten(1, 2)  # (B, 3 N, 6 * 64)
        hands = torch.cat([anchor, opening[..., None]], -1).flatten(1)
        x = torch.cat([self.embed_hands(hands)[:, None], self.embed(patches)], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.out(torch.cat([self.norm(x[:, 0]), hands], -1)).float())


def scene_pictures(points: Tensor, features: Tensor, valid: Tensor, cells: int) -> Tensor:
    """(B, 3, cells, cells, 6) orthographic pictures of a cloud along z, x and y: in each cell the mean features of the
    points that are nearly topmost, the height of the topmost one, and 1.

    Args:
        points: (B, P, 3) of which those in the cube -1..1 are drawn.
        features: (B, P, 4).  valid: (B, P) bool.
    """
    inside = valid & (points.abs() < 1).all(-1)
    points = torch.where(inside[..., None], points, 0.0)
    cell = ((points + 1) * (0.5 * cells)).long().clamp(0, cells - 1)
    pictures = []
    for along, row, column in _SEEN_ALONG:
        index = torch.where(inside, cell[..., row] * cells + cell[..., column], cells**2)
        mean, depth, there = splat(index, -points[..., along], features, cells**2, _LAYER)
        pictures.append(torch.cat([mean, -depth * there, there], -1).view(-1, cells, cells, _CHANNELS))
    return torch.stack(pictures, 1)
