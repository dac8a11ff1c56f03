"""What is written where in a dataset, and how its images are coded."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
EPISODES, SCENES, HANDS = "episodes", "scenes", "hands"

DEPTH_SCALE_M = 1e-4
"""Metres a unit of the stored depth (uint16): steps of 0.1 mm, 6.55 m at most; 0 is invalid."""

IMAGES = ("rgb", "depth", "seg")


def codec() -> dict[str, Any]:
    """Filter options of image datasets, for ``h5py.Group.create_dataset``.

    Measured on 64 x 80 frames of store_cereal (RGB, depth, labels of one frame; raw 30 KiB, 25 us): LZ4HC 12.3 KiB,
    read in 38 us; LZ4 15.0 KiB, 35 us; Zstd 10.3 KiB, 92 us; gzip 9.7 KiB, 137 us. A training window reads 22, so
    decoding decides. Shuffled bytes or bits compress these images no better.
    """
    import hdf5plugin

    return dict(hdf5plugin.Blosc(cname="lz4hc", clevel=3, shuffle=hdf5plugin.Blosc.NOSHUFFLE))


def episode_name(index: int) -> str:
    """``ep_000003.hdf5``"""
    return f"ep_{index:06d}.hdf5"
