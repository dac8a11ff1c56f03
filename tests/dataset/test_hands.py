"""A hand model that is damaged is refused by name; a whole one comes back as it was."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.dataset.hands import load_hand, save_hand
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.hand import HandModel


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(2, 50, 3))
    save_hand(tmp_path / "right.npz", HandModel(points, normals, np.zeros(50, np.uint8), np.eye(3)[1], 0.08))
    return tmp_path / "right.npz"


def test_damaged_bytes_are_refused_or_change_nothing(path: Path) -> None:
    whole, before = path.read_bytes(), load_hand(path)
    rng = np.random.default_rng(1)
    refused = 0
    for index in range(300):
        data = bytearray(whole)
        if index % 2:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        else:
            data = data[: rng.integers(len(data))]
        path.write_bytes(data)
        try:
            after = load_hand(path)
        except DatasetError:
            refused += 1
            continue
        for name in ("points", "normals", "part", "finger_axis", "max_opening_m"):
            assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert refused > 250


def test_other_contents_are_refused(path: Path) -> None:
    with np.load(path) as stored:
        whole = dict(stored)
    for name, value in (
        ("points", whole["points"][:-1]),
        ("points", whole["points"].astype(np.float32)),
        ("normals", np.full((50, 3), np.nan)),
        ("part", np.array(["a", {}], dtype=object)),
        ("max_opening_m", np.zeros(3)),
    ):
        np.savez(path, **(whole | {name: value}))
        with pytest.raises(DatasetError, match=r"right\.npz: no hand model can be read"):
            load_hand(path)
    np.savez(path, **{k: v for k, v in whole.items() if k != "part"})
    with pytest.raises(DatasetError, match=r"right\.npz: no hand model can be read"):
        load_hand(path)


def test_a_declared_size_is_not_believed(path: Path) -> None:
    """A header of a terabyte, and a small zip that unpacks to a gigabyte."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**37, 3)})
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("points.npy", header.getvalue())
    with pytest.raises(DatasetError, match="no hand model"):
        load_hand(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("points.npy", "w") as member:
        for _ in range(80):
            member.write(bytes(2**20))
    with pytest.raises(DatasetError, match="unpacks to"):
        load_hand(path)
