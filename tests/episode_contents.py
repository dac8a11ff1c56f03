"""What two episode files hold, compared to the byte: for the tests of several packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the codecs
import numpy as np


def contents(path: Path) -> dict[str, Any]:
    """Every array and attribute of an HDF5 file, by its path (``@`` before an attribute's name)."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]
        found.update({f"{name}@{key}": np.asarray(value) for key, value in item.attrs.items()})

    with h5py.File(path) as file:
        file.visititems(visit)
        found |= {f"@{key}": np.asarray(value) for key, value in file.attrs.items()}
    return found


def assert_same_contents(ours: Path, theirs: Path) -> None:
    """The same arrays and attributes, byte for byte."""
    a, b = contents(ours), contents(theirs)
    assert a.keys() == b.keys()
    for key, value in b.items():
        assert (a[key].dtype, a[key].shape) == (value.dtype, value.shape), key
        assert a[key].tobytes() == value.tobytes() if value.dtype != object else np.array_equal(a[key], value), key
