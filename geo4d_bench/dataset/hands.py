"""Hand models kept beside the data, so that training needs neither MuJoCo nor the scene."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.hand import RIGHT_FINGER, HandModel
from geo4d_bench.io import read_npz, write_atomic


def save_hand(path: Path, hand: HandModel) -> None:
    """Write a hand model as an npz file, in one step."""
    buffer = io.BytesIO()
    np.savez(buffer, **dataclasses.asdict(hand))
    write_atomic(path, buffer.getvalue())


def load_hand(path: Path) -> HandModel:
    """Read a hand model; DatasetError where the file is missing, cut off or holds something else."""
    try:
        stored = read_npz(path)
        arrays: dict[str, Any] = {field.name: stored[field.name] for field in dataclasses.fields(HandModel)}
        count = len(arrays["points"])
        expected = {
            "points": ((count, 3), "f8"), "normals": ((count, 3), "f8"), "part": ((count,), "u1"),
            "finger_axis": ((3,), "f8"), "max_opening_m": ((), "f8"),
        }  # fmt: skip
        for name, (shape, dtype) in expected.items():
            if arrays[name].shape != shape or arrays[name].dtype != dtype or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}")
        if count and arrays["part"].max() > RIGHT_FINGER:
            raise ValueError(f"part has the value {arrays['part'].max()}")
        return HandModel(**arrays | {"max_opening_m": float(arrays["max_opening_m"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: no hand model can be read ({error}); run the same datagen command again: it measures it anew"
        ) from error
