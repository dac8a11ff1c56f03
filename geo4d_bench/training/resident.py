"""Batches made on a GPU, of frames that are held there: what travels in a step is which frames, poses and hand masks.

Frames are held as the dataset stores them, 6 bytes a pixel: on the GPU where they fit, else in the machine's memory,
from where a step's frames are copied while the step before is computed. Windows are drawn as
:func:`~geo4d_bench.training.data.make_batch` draws them, and the batch is its own: bit-equal, but for view m's points,
which are moved to camera n's frame in one sum, and lie within a micrometre. A sensor that is not perfect measures on
the processor, whose noise it draws, and the measured depth travels too.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from geo4d_bench.dataset.schema import DEPTH_SCALE_M
from geo4d_bench.dataset.sensors import SENSORS
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.geometry.camera import depth_to_points, ray_slopes
from geo4d_bench.model.batch import AUXILIARY
from geo4d_bench.model.blocks import product
from geo4d_bench.training.data import AUXILIARY_WINDOWS, Batch, WindowSource, batches, drawn, make_batch

_BYTES_A_PIXEL = 3 + 2 + 1
_GPU_SHARE, _HOST_SHARE = 0.25, 0.4
"""Of the memory that is free on the GPU, where a step's activations need most of it, and of the machine's."""
_IMAGES = ("rgb", "depth", "parts")


def hold_frames(source: WindowSource, device: torch.device, processes: int) -> ResidentWindows | None:
    """The frames of ``source`` where ``device`` is a GPU and they fit on it or into its machine's memory, which so many
    ``processes`` share; None else: then batches are made by the processor."""
    if device.type != "cuda" or not isinstance(source, Windows):
        return None
    need = stored_bytes(source)
    if need <= _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return ResidentWindows(source, device)
    if 2 * need * processes <= _HOST_SHARE * psutil.virtual_memory().available:
        return ResidentWindows(source, torch.device("cpu"))
    return None


def device_batches(
    source: WindowSource,
    held: ResidentWindows | None,
    device: torch.device,
    start: int,
    size: int,
    seed: int,
    *,
    part: tuple[int, int] = (0, 1),
    further: int = AUXILIARY_WINDOWS,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Training batches on their device, of ``held`` frames or of the source's windows, from step ``start``; see
    :func:`~geo4d_bench.training.data.make_batch`. Close it as :func:`~geo4d_bench.training.data.batches`."""
    of_windows = partial(make_batch, source) if held is None else held.numbers
    make = partial(of_windows, size, seed, part=part, further=further)
    with closing(batches(make, start, 0 if held else workers, gpu=device if device.type == "cuda" else None)) as stream:
        for batch in stream:
            moved = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            yield moved if held is None else held.batch(moved)


def stored_bytes(windows: Windows) -> int:
    """What the frames of all cameras take."""
    frames = sum(len(file.steps) for _, file in windows.episodes) * len(windows.cameras)
    return _BYTES_A_PIXEL * frames * math.prod(windows.datasets[0].size)


class ResidentWindows:
    """All frames of a dataset's windows, held in the memory of ``home``: the device that makes batches, or the CPU.

    Raises:
        DatasetError: frames cannot be read.
    """

    def __init__(self, windows: Windows, home: torch.device) -> None:
        self.windows, self.home = windows, home
        self.perfect = windows.sensor is SENSORS.get("perfect")
        keys = [(episode, camera) for episode in range(len(windows.episodes)) for camera in windows.cameras]
        counts = [len(windows.episodes[episode][1].steps) for episode, _ in keys]
        self._first = dict(zip(keys, np.cumsum([0, *counts]).tolist(), strict=False))
        shape = (sum(counts), *windows.datasets[0].size)
        self.rgb = torch.empty((*shape, 3), dtype=torch.uint8, device=home)
        self.depth = torch.empty(shape, dtype=torch.int16, device=home)  # the bits of uint16, which torch cannot index
        self.parts = torch.empty(shape, dtype=torch.uint8, device=home)
        self._masks: dict[tuple[int, int, str], npt.NDArray[np.uint8]] = {}
        for key, count in zip(tqdm(keys, desc="frames to memory", disable=None), counts, strict=True):
            read, parts = windows.read(*key)
            units = np.rint(np.nan_to_num(read.depth / np.float32(DEPTH_SCALE_M))).astype(np.uint16)
            at = slice(self._first[key], self._first[key] + count)
            for held, images in ((self.rgb, read.rgb), (self.depth, units.view(np.int16)), (self.parts, parts)):
                held[at] = torch.from_numpy(images)

    def numbers(
        self, size: int, seed: int, step: int, part: tuple[int, int] = (0, 1), further: int = AUXILIARY_WINDOWS
    ) -> Batch:
        """What :meth:`batch` needs to know of a step's windows, see ``make_batch``."""
        found = self._numbers("window", size, seed, step, part)
        if further:
            more = self._numbers("further", further * size, seed, step, part, first_alone=True)
            found |= {AUXILIARY + k: v for k, v in more.items()}
        return found

    def batch(self, numbers: Batch) -> Batch:
        """The batch, on the device where its ``numbers`` are."""
        more = {k.removeprefix(AUXILIARY): v for k, v in numbers.items() if k.startswith(AUXILIARY)}
        made = self._batch({k: v for k, v in numbers.items() if not k.startswith(AUXILIARY)})
        return made | ({AUXILIARY + k: v for k, v in self._batch(more).items()} if more else {})

    def _numbers(
        self, kind: str, count: int, seed: int, step: int, part: tuple[int, int], first_alone: bool = False
    ) -> Batch:
        windows = drawn(lambda rng: self._window(rng, first_alone), kind, count, seed, step, part)
        stacked = {k: torch.from_numpy(np.stack([window[k] for window in windows])) for k in windows[0]}
        return self._gathered(stacked) if self.home.type == "cpu" else stacked

    def _window(self, rng: np.random.Generator, first_alone: bool) -> dict[str, npt.NDArray[Any]]:
        key = self.windows.draw(rng)
        episode, start, *cameras = key
        place = self.windows.place(*key)
        height, width = self.windows.datasets[0].size
        T_n_ee, T_n_m = place.T_n_ee.astype(np.float32), place.T_n_m.astype(np.float32)
        slopes = [ray_slopes(K, height, width) for K in place.K]
        found: dict[str, npt.NDArray[Any]] = {
            "x": np.stack([x for x, _ in slopes]),
            "y": np.stack([y for _, y in slopes]),
            "T_world_cam": np.stack([place.T_world_n, place.T_world_n @ place.T_n_m]).astype(np.float32),
            "first_hand": T_n_ee[:, 0, :3, 3].copy(),
            "opening": place.opening_m[:, 0].astype(np.float32),
            "hand": T_n_ee[:, 1:, :3, 3].copy(),
            "hand_rotation": T_n_ee[:, 1:, :3, :3].copy(),
            "hand_opening": place.opening_m[:, 1:].astype(np.float32),
        }
        frames = np.stack([self._first[episode, camera] + place.frames for camera in cameras])
        if self.perfect:
            mask_key = (episode, start, cameras[0])
            if mask_key not in self._masks:
                first = self.windows.read(episode, cameras[0], place.frames[:1])[0].depth[0]
                mask = self.windows.hand_mask(episode, place, depth_to_points(first, place.K[0]))
                self._masks[mask_key] = np.packbits(mask)
            mask = np.unpackbits(self._masks[mask_key], count=height * width).view(bool).reshape(height, width)
        else:
            window = self.windows.window(*key, rng)
            depth, mask = window.points[..., 2], window.hand_mask
            found["first_depth"] = depth[:, 0].copy()
            if not first_alone:
                found["depth"] = depth[:, 1:].copy()
        found |= {"hand_mask": mask, "first_frames": frames[:, 0].copy()}
        return found if first_alone else found | {"frames": frames[:, 1:].copy(), "T_n_m": T_n_m}

    def _gathered(self, numbers: Batch) -> Batch:
        """With images in place of which ones; where the frames are held."""
        found = dict(numbers)
        for prefix in ("first_", ""):
            if (index := found.pop(f"{prefix}frames", None)) is None:
                continue
            for name in _IMAGES:
                if (name == "parts" and prefix) or f"{prefix}{name}" in found:
                    continue
                held: Tensor = getattr(self, name)
                found[prefix + name] = held.index_select(0, index.flatten()).view(*index.shape, *held.shape[1:])
        return found

    def _batch(self, numbers: Batch) -> Batch:
        found = self._gathered(numbers)
        x, y, T_n_m = found.pop("x"), found.pop("y"), found.pop("T_n_m", None)
        size = (*y.shape, x.shape[-1])
        x, y = x[:, :, None].expand(size), y[..., None].expand(size)
        rays = torch.stack([x, y, torch.ones_like(x)], -1)
        metres, valid = _metres(found.pop("first_depth"))
        found |= {"rays": rays, "first_points": rays * metres[..., None], "first_valid": valid}
        if T_n_m is None:
            return found
        # A pixel's point in camera n's frame is R ray * depth + t.
        turned = product(T_n_m[:, None, None, :3, :3], rays[:, 1, ..., None])[..., 0]
        in_n = torch.stack([rays[:, 0], turned], 1)
        offset = torch.stack([torch.zeros_like(T_n_m[:, :3, 3]), T_n_m[:, :3, 3]], 1)
        metres, valid = _metres(found.pop("depth"))
        points = torch.addcmul(offset[:, :, None, None, None], in_n[:, :, None], metres[..., None])
        return found | {"points": points.masked_fill_(~valid[..., None], 0.0), "valid": valid}


def _metres(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Depth in metres, 0 where invalid, and whether it is valid, of measured metres or stored units."""
    if depth.dtype == torch.int16:
        metres = (depth.int() & 0xFFFF).float() * DEPTH_SCALE_M
        return metres, metres > 0
    valid = torch.isfinite(depth)
    return depth.masked_fill(~valid, 0.0), valid
