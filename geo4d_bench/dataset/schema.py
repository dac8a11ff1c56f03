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
    """Filter options of image datasets, for ``h5py.Group.create_dataset``."""
    import hdf5plugin

    return dict(hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.SHUFFLE))


def episode_name(index: int) -> str:
    """``ep_000003.hdf5``"""
    return f"ep_{index:06d}.hdf5"
