"""Hand models kept beside the data, so that training needs neither MuJoCo nor the scene."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.hand import HandModel


def save_hand(path: Path, hand: HandModel) -> None:
    """Write a hand model as an npz file, in one step."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        points=hand.points,
        normals=hand.normals,
        part=hand.part,
        finger_axis=hand.finger_axis,
        max_opening_m=np.float64(hand.max_opening_m),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def load_hand(path: Path) -> HandModel:
    """Read a hand model; DatasetError where the file is missing or cut off."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return HandModel(
                points=stored["points"],
                normals=stored["normals"],
                part=stored["part"],
                finger_axis=stored["finger_axis"],
                max_opening_m=float(stored["max_opening_m"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: no hand model can be read ({error}); run the datagen command again") from error
