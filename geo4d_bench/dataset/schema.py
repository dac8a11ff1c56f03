"""What is written where in a dataset, and how its images are coded."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from geo4d_bench.errors import ConfigError

SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
EPISODES, SCENES, HANDS = "episodes", "scenes", "hands"

DEPTH_SCALE_M = 1e-4
"""Metres a unit of the stored depth (uint16): steps of 0.1 mm, 6.55 m at most; 0 is invalid."""

IMAGES = ("rgb", "depth", "seg")


CHUNK_FRAMES = 8
"""Frames of a camera that are compressed together."""
CHUNK_BYTES = 2**28
"""The most that they may take unpacked: whoever reads a frame unpacks them all."""
MAX_SIDE = 2**14
"""Pixels along an image's side; OpenGL draws no more on most machines."""
Pixels = Annotated[int, Field(ge=8, le=MAX_SIDE)]


def require_storable(height: int, width: int) -> None:
    """ConfigError where images of so many pixels are larger than a reader accepts."""
    most = CHUNK_BYTES // (3 * CHUNK_FRAMES)
    if height * width > most:
        raise ConfigError(
            f"--height {height} --width {width}: {height * width:,} pixels in an image, expected at most {most:,} (as "
            f"3344 x 3344 has); give smaller images"
        )


def codec() -> dict[str, Any]:
    """Filter options of image datasets, for ``h5py.Group.create_dataset``.

    Measured on RGB, depth and labels of store_cereal, at 64 x 80 / 128 x 160 / 256 x 320 pixels, one frame in a chunk
    with LZ4HC against eight with Zstd: 43 / 39 / 35 against 13 / 11 / 9 % of the raw bytes, since what stands still is
    kept once; 0.5 / 1.1 / 4.8 against 0.07 / 0.2 / 0.9 ms to write a frame; 2.1 / 1.9 / 4.8 against 0.9 / 2.2 / 5.5 ms
    to read one camera's 11 frames of a training window (21 lie between the first and the last).
    """
    return dict(load_codecs().Zstd(clevel=3))


def load_codecs() -> Any:
    """The module ``hdf5plugin``, which registers its codecs with HDF5, its Zstd bound to itself.

    Mesa brings the system's libzstd along (through LLVM) for the whole process. A plugin that is loaded after it
    would call that one instead, and the same frames would give other bytes than where the plugin was loaded first.
    """
    if "hdf5plugin" not in sys.modules and hasattr(os, "RTLD_DEEPBIND"):
        spec = importlib.util.find_spec("hdf5plugin")
        library = Path(spec.origin if spec and spec.origin else "").parent / "plugins" / "libh5zstd.so"
        if library.is_file():
            ctypes.CDLL(str(library), mode=os.RTLD_LOCAL | os.RTLD_DEEPBIND)
    import hdf5plugin

    return hdf5plugin


def episode_name(index: int) -> str:
    """``ep_000003.hdf5``"""
    return f"ep_{index:06d}.hdf5"
