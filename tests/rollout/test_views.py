"""Pairs of cameras: drawn from the seed, evenly round a ring, an episode's own where its rig is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError, UnknownNameError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.rollout.views import Views, resolve
from geo4d_bench.tasks import spec
from geo4d_bench.tasks.rigs import make_rig

KEY = "store_cereal-v1"
WORKSPACE = spec("store_cereal").workspace


@pytest.fixture
def views() -> Callable[[str], Views]:
    return lambda name: resolve(name, make_rig("hemisphere16", WORKSPACE))


def test_pairs_are_distinct_drawn_from_the_seed_and_cover_the_cameras(views: Callable[[str], Views]) -> None:
    for name, number in (("seen", 12), ("novel", 4)):
        pairs = [views(name).pair(KEY, "eval", seed) for seed in range(5000, 5100)]
        again = [views(name).pair(KEY, "eval", seed) for seed in range(5000, 5100)]
        assert [(n.name, m.name) for n, m in pairs] == [(n.name, m.name) for n, m in again]
        assert all(n.name != m.name and n.split == m.split == name for n, m in pairs)
        assert len({n.name for n, _ in pairs}) == number


def test_view_angles_are_those_of_the_rig(views: Callable[[str], Views]) -> None:
    novel, rig = views("novel"), make_rig("hemisphere16", WORKSPACE)
    assert isinstance(rig, Rig)
    for seed in range(5000, 5010):
        pair = novel.pair(KEY, "eval", seed)
        assert novel.angle_deg(pair) == pytest.approx(max(rig.angle_to_training_deg(c) for c in pair))
    seen = views("seen")
    assert seen.angle_deg(seen.pair(KEY, "eval", 5000)) == pytest.approx(0.0, abs=1e-5)


def azimuth(camera: Camera) -> int:
    return int(camera.name.removeprefix("az"))


def test_seeds_go_evenly_round_the_orbit_and_pairs_keep_their_angle(views: Callable[[str], Views]) -> None:
    orbit = views("orbit")
    number = len(orbit.rig.camera_names())
    for first in (5000, 5013):
        pairs = [orbit.pair(KEY, "eval", seed) for seed in range(first, first + 2 * number)]
        assert set(Counter(n.name for n, _ in pairs).values()) == {2}
        assert {abs(azimuth(n) - azimuth(m)) for n, m in pairs} == {90}
        # Short runs spread too: no gap is wider than twice an even one, and a camera more.
        for count in (5, 10, 20):
            at = sorted(azimuth(n) for n, _ in pairs[:count])
            gaps = np.diff([-130, *at, 130])
            assert gaps.max() <= 2 * 270 / count + 10, (first, count)
    assert orbit.pair(KEY, "eval", 5000) == orbit.pair("another-v1", "train", 5000)


def test_the_orbits_angles_are_those_to_the_nearest_training_camera(views: Callable[[str], Views]) -> None:
    orbit, training = views("orbit"), make_rig("hemisphere16", WORKSPACE)
    assert isinstance(training, Rig)

    def angle(a: Camera, b: Camera) -> float:
        u, v = (c.T_world_cam[:3, 3] - WORKSPACE for c in (a, b))
        return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)))

    angles = []
    for seed in range(5000, 5027):
        pair = orbit.pair(KEY, "eval", seed)
        expected = max(min(angle(camera, seen) for seen in training.views("seen")) for camera in pair)
        assert orbit.angle_deg(pair) == pytest.approx(expected, abs=1e-5)
        angles.append(expected)
    assert min(angles) < 10.0  # a curve needs both ends
    assert max(angles) > 30.0


def test_random16_gives_each_episode_cameras_of_its_own(views: Callable[[str], Views]) -> None:
    random16, rig = views("random16"), make_rig("random16", WORKSPACE)
    places = []
    for seed in range(5000, 5020):
        n, m = random16.pair(KEY, "eval", seed)
        own = {camera.name: camera for camera in rig.episode(KEY, "eval", seed).cameras}
        for camera in (n, m):
            np.testing.assert_array_equal(camera.T_world_cam, own[camera.name].T_world_cam)
            places.append(camera.T_world_cam[:3, 3])
        assert n.name != m.name
        assert 0.0 < random16.angle_deg((n, m)) < 60.0
    assert len(np.unique(np.round(places, 6), axis=0)) == 40


def test_where_training_was_on_random16_its_splits_are_the_views() -> None:
    training = make_rig("random16", WORKSPACE)
    for name in ("seen", "novel"):
        views = resolve(name, training)
        for seed in range(5000, 5005):
            pair = views.pair(KEY, "eval", seed)
            assert {camera.split for camera in pair} == {name}
            assert views.angle_deg(pair) == 0.0  # within the shell that training cameras filled
    low, far = (resolve("orbit", training).angle_deg(pair) for pair in (ring_pair(0), ring_pair(130)))
    assert low == 0.0
    assert 3.0 < far < 4.1  # 4 degrees of azimuth beyond 126, at 12 degrees of elevation


def ring_pair(azimuth_deg: int) -> tuple[Camera, Camera]:
    rig = make_rig("orbit", WORKSPACE)
    assert isinstance(rig, Rig)
    by_name = {camera.name: camera for camera in rig.cameras}
    return by_name[f"az{azimuth_deg:+04d}"], by_name["az+090"]


def test_a_rig_file_of_the_users_is_a_choice_of_views(views: Callable[[str], Views], tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "fovy_deg: 50\ncameras:\n- {name: a, position: [0.5, 0.8, 1.7]}\n"
        "- {name: b, position: [0.5, -0.8, 1.7]}\n- {name: c, position: [1, 0, 1.7], split: seen}\n"
    )
    mine = views(str(path))
    assert mine.name == "two"
    assert {frozenset(c.name for c in mine.pair(KEY, "eval", seed)) for seed in range(5000, 5010)} == {frozenset("ab")}
    n, _ = mine.pair(KEY, "eval", 5000)
    ahead = inverse(n.T_world_cam) @ [*WORKSPACE, 1.0]
    np.testing.assert_allclose(ahead[:2], 0.0, atol=1e-9)
    path.write_text("fovy_deg: 50\ncameras: [{name: a, position: [0.5, 0.8, 1.7]}]")
    with pytest.raises(ConfigError, match="views 'two' has 1 camera"):
        views(str(path))


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("nove", UnknownNameError, "did you mean 'novel'"),
        ("orbits", UnknownNameError, "did you mean 'orbit'"),
        ("random", UnknownNameError, "'random16'"),
        (
            "xyz",
            UnknownNameError,
            "known: colosseum, hemisphere16, libero_plus_1, .*, ring_360, robocasa, seen, vista_arc90, vista_small",
        ),
        ("rig.yaml", ConfigError, r"rig\.yaml cannot be read"),
    ],
)
def test_unknown_views_are_explained(
    views: Callable[[str], Views], name: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        views(name)


def test_a_rig_that_nothing_was_trained_on_is_no_reference() -> None:
    with pytest.raises(ConfigError, match="'orbit' has no seen camera"):
        resolve("novel", make_rig("orbit", WORKSPACE))
