"""docs/dataset.md says what a generated file holds: both are compared, and its example is run."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dataset.md"


@pytest.fixture
def episode(tiny_dataset):
    return sorted((tiny_dataset.train / "episodes").glob("*.hdf5"))[0]


def test_the_table_names_every_array_with_its_shape_and_dtype(episode):
    rows = re.findall(r"^\| `([^`]+)` \| (\([^)]*\)) \| (\w+) \|", DOCUMENT.read_text(), flags=re.M)
    documented = {path: (shape, dtype) for path, shape, dtype in rows}
    with h5py.File(episode) as f:
        found = {}
        first = sorted(f["views"])[0]

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and (not name.startswith("views/") or name.startswith(f"views/{first}/")):
                found[name.replace(first, "cam00")] = item

        f.visititems(visit)
        assert documented.keys() == found.keys()
        height, width = f[f"views/{first}/depth"].shape[1:]
        sizes = {"S": len(f["time"]), "K": len(f["frames/step"]), "H": height, "W": width}
        for name, (shape, dtype) in documented.items():
            assert found[name].dtype == dtype, name
            expected = [sizes.get(s, s) for s in shape.strip("()").replace(" ", "").split(",") if s]
            got = found[name].shape
            assert len(got) == len(expected), name
            for g, e in zip(got, expected, strict=True):
                assert e in ("nstate", "A") or int(e) == g, name


def test_every_attribute_of_the_file_is_named(episode):
    text = DOCUMENT.read_text()
    with h5py.File(episode) as f:
        view = f["views"][sorted(f["views"])[0]]
        attributes = [*f.attrs, *view.attrs, *view["depth"].attrs, *view["seg"].attrs]
    for name in attributes:
        assert f"`{name}`" in text, name


def test_the_example_gives_points_on_the_scene(episode):
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S).group(1)
    with h5py.File(episode) as f:
        first = sorted(f["views"])[0]
        box = f["objects/cereal/T_world_obj"][0][:3, 3]
    code = code.replace("data/store_cereal/episodes/ep_000000.hdf5", str(episode)).replace("cam00", first)
    scope: dict[str, np.ndarray] = {}
    exec(code, scope)
    points = scope["p_world"]
    assert points.shape[1] == 3
    assert np.linalg.norm(points - box, axis=1).min() < 0.15  # half the box's diagonal
