"""What ablations change in a batch before anything looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

from geo4d_bench.model.blocks import product
from geo4d_bench.model.config import GeneratorConfig


def apply_ablation(c: GeneratorConfig, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch (see :func:`geo4d_bench.model.batch.batch_from_windows`) as a generator with this config gets it.

    ``no_mask`` follows the paper's release: an invalid pixel is the point (0, 0, 0) of its own camera's frame, which
    for view m is moved to camera n's frame like any other, and counts. ``native_frame`` leaves view m's points in
    camera m's frame.
    """
    if not c.mask_invalid:
        batch = batch | {
            "first_points": batch["first_points"].where(batch["first_valid"][..., None], torch.zeros(())),
            "first_valid": torch.ones_like(batch["first_valid"]),
        }
        if "points" in batch:
            centre = T_n_cam(batch)[:, :, None, None, None, :3, 3]
            batch["points"] = batch["points"].where(batch["valid"][..., None], centre)
            batch["valid"] = torch.ones_like(batch["valid"])
    if not c.shared_frame and "points" in batch:
        T = T_n_cam(batch)[:, 1]
        to_m = T[:, None, None, None, :3, :3].transpose(-1, -2)
        own = product(to_m, (batch["points"][:, 1] - T[:, None, None, None, :3, 3])[..., None])[..., 0]
        batch = batch | {"points": torch.stack([batch["points"][:, 0], own * batch["valid"][:, 1, ..., None]], 1)}
    return batch


def T_n_cam(batch: dict[str, Tensor]) -> Tensor:
    """(B, V, 4, 4) poses of all cameras in camera n's frame."""
    T_world_cam = batch["T_world_cam"].double()
    T: Tensor = torch.linalg.inv(T_world_cam[:, :1]) @ T_world_cam
    return T.float()
