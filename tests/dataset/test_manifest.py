"""A damaged manifest is a DatasetError that names the file; nothing in it leads out of the dataset."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damaged_episodes import CAMERAS, settings, write

from geo4d_bench.datagen import verify
from geo4d_bench.dataset import rescan
from geo4d_bench.dataset.manifest import Manifest, read_manifest, write_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of one episode."""
    write(tmp_path / "data" / "episodes" / "ep_000000.hdf5")
    rescan.rescan(tmp_path / "data", Manifest(settings()))
    return tmp_path / "data"


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert [e.file for e in manifest.episodes] == ["ep_000000.hdf5"]
    assert manifest.failures == {"start: fell": 1}
    for ours, theirs in zip(manifest.settings.cameras(0), CAMERAS, strict=True):
        assert (ours.name, ours.split, ours.fovy_rad) == (theirs.name, theirs.split, theirs.fovy_rad)
        assert np.array_equal(ours.T_world_cam, theirs.T_world_cam)
    again = folder.parent / "again"
    write_manifest(again, manifest)
    assert (again / "manifest.json").read_text() == (folder / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("episodes", 0, "file"), "../../secret.hdf5"),
        (("episodes", 0, "file"), "/etc/passwd"),
        (("episodes", 0, "file"), "ep_000000.hdf5\n"),
        (("episodes", 0, "scene"), "../" * 20 + "etc/passwd"),
        (("episodes", 0, "sha256"), "ABC"),
        (("episodes", 0, "seed"), 10**400),
        (("episodes", 0, "frames"), -1),
        (("episodes", 0, "steps"), 1.5),
        (("episodes", 0, "failed_attempts"), [["one", 2]]),
        (("episodes", 0, "disturbances"), "push"),
        (("episodes", 0), None),
        (("episodes",), {"a": 1}),
        (("settings", "arms"), ["../../right"]),
        (("settings", "arms"), "right"),
        (("settings", "task"), ["store_cereal"]),
        (("settings", "height"), 10**18),
        (("settings", "width"), True),
        (("settings", "control_hz"), float("nan")),
        (("settings", "video_hz"), float("inf")),
        (("settings", "max_depth_m"), 10**400),
        (("settings", "rig"), []),
        (("settings", "rig", "cameras"), 5),
        (("settings", "rig", "cameras", 0, "name"), "../cam00"),
        (("settings", "rig", "cameras", 0, "name"), "cam01"),
        (("settings", "rig", "cameras", 0, "T_world_cam"), [[1, 2], [3]]),
        (("settings", "rig", "cameras", 0, "split"), "other"),
        (("settings", "rig"), {"per_episode": True, "name": "r", "target": [0, 0, 0], "seen": 10**12, "novel": 0,
                               "shell": {"azimuth_deg": [0, 1], "elevation_deg": [0, 1], "radius_m": [1, 2],
                                         "fovy_deg": 50}}),
        (("settings", "another"), 1),
        (("settings",), None),
    ],
)  # fmt: skip
def test_each_wrong_value_is_refused(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"manifest\.json: not a whole manifest .* it is rebuilt from the files"):
        Dataset(folder)
    with pytest.raises(DatasetError):
        verify.run(verify.VerifyConfig(folder))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '"a"', "[" * 100_000, '{"schema_version": ' + "9" * 5000 + "}", "\0\1\2", "{}"]
)
def test_what_is_no_manifest_at_all_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=r"manifest\.json: not a whole manifest"):
        Dataset(folder)


def test_random_damage_is_refused_or_harmless(folder: Path) -> None:
    """Cut anywhere, bytes changed, values exchanged for others: a DatasetError or a manifest, never another error."""
    whole = (folder / "manifest.json").read_bytes()
    rng = random.Random(5)
    refused = []
    for index in range(400):
        data = bytearray(whole)
        if index % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif index % 3 == 1:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            data = bytearray(json.dumps(_exchange(json.loads(whole), rng)).encode())
        (folder / "manifest.json").write_bytes(data)
        try:
            Dataset(folder)
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 250
    assert all("manifest.json: " in sentence for sentence in refused)


def test_a_damaged_manifest_is_rebuilt_with_the_yield(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    rescan.rescan(folder, Manifest(settings()))
    assert (folder / "manifest.json").read_bytes() == before


def test_stock_is_taken_cheaply_and_notices_changes(folder: Path) -> None:
    """Size and time first; the content where they tell of a change."""
    import os

    episode = folder / "episodes" / "ep_000000.hdf5"
    manifest = read_manifest(folder)
    whole = episode.read_bytes()
    for data, noticed in ((whole[:-1], True), (whole[:5000] + b"\xff" + whole[5001:], True), (whole, False)):
        episode.write_bytes(data)
        _, damaged = rescan.rescan(folder, manifest)
        assert bool(damaged) is noticed
        assert not noticed or damaged[0][0] == "ep_000000.hdf5"
        assert episode.exists() is not noticed
    past = (folder / "manifest.json").stat().st_mtime_ns - 10**10
    os.utime(episode, ns=(past, past))
    assert rescan.rescan(folder, manifest)[1] == []
    episode.unlink()
    assert rescan.rescan(folder, manifest)[1] == [("ep_000000.hdf5", "is missing")]
    shutil.rmtree(folder / "episodes")
    assert rescan.rescan(folder, Manifest(settings()))[0].episodes == ()


def _exchange(content: Any, rng: random.Random) -> Any:
    """One value somewhere in the tree replaced."""
    content = copy.deepcopy(content)
    place, last = content, None
    while isinstance(place, dict | list) and place:
        parent, last = place, rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = parent[last]
        if rng.random() < 0.25:
            break
    parent[last] = rng.choice([None, -1, 1e308, 10**30, "", "../..", [], {}, True, [[[]]], "\ud800", float("nan")])
    return content
