"""Published camera protocols: their numbers, and that what is drawn has them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from geo4d_bench import cli
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, project
from geo4d_bench.geometry.rig import Perturbation, PerturbedRig, Rig
from geo4d_bench.geometry.se3 import inverse, rotation_angle, transform
from geo4d_bench.rollout.views import resolve
from geo4d_bench.tasks import names, spec
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rigs import make_rig, played_rig

KEY = "store_cereal-v1"
TARGET = np.array(spec("store_cereal").workspace)
LEVELS = [f"libero_plus_{level}" for level in range(1, 6)]
Floats = npt.NDArray[np.float64]


def rig(name: str) -> PerturbedRig:
    found = played_rig(name, spec("store_cereal").workspace)
    assert isinstance(found, PerturbedRig)
    return found


def drawn(name: str, number: int = 150) -> list[tuple[Camera, ...]]:
    return [rig(name).episode(KEY, "eval", seed).cameras for seed in range(number)]


def spherical(camera: Camera) -> Floats:
    """Azimuth and elevation in degrees, and distance."""
    x, y, z = camera.T_world_cam[:3, 3] - TARGET
    r = np.sqrt(x * x + y * y + z * z)
    return np.array([np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(z / r)), r])


def moves(name: str, number: int = 100) -> tuple[Floats, Floats]:
    """Shifts (N, C, 3) in metres, and turns (N, C) in radians, from where the cameras stand before."""
    base, episodes = rig(name).base, drawn(name, number)
    shifts = [[m.T_world_cam[:3, 3] - b.T_world_cam[:3, 3] for m, b in zip(e, base, strict=True)] for e in episodes]
    turns = [
        [float(rotation_angle(m.T_world_cam[:3, :3], b.T_world_cam[:3, :3])) for m, b in zip(e, base, strict=True)]
        for e in episodes
    ]
    return np.array(shifts), np.array(turns)


SOURCES = {
    "libero_plus": (
        "sylvestf/LIBERO-plus/blob/4976dc30028e805ff8094b55501d532c48fec182/libero/libero/benchmark/"
        "task_classification.json",
        "front",
    ),
    "vista_small": (
        "s-tian/VISTA/blob/82ed7055702af35cceffe0ae850d81e7f290cb2b/vipl/vipl/utils/camera_pose_sampler.py",
        "trained",
    ),
    "vista_arc90": (
        "s-tian/VISTA/blob/82ed7055702af35cceffe0ae850d81e7f290cb2b/vipl/vipl/utils/camera_pose_sampler.py",
        "front",
    ),
    "colosseum": (
        "robot-colosseum/robot-colosseum/blob/098a910ae1d490524adb49b8d50735b00a1a62de/colosseum/assets/configs/"
        "close_box.yaml",
        "trained",
    ),
    "robocasa": (
        "robocasa/robocasa/blob/be22d659b02db8f6d7f3a3c3edc742934fdcbaae/robocasa/utils/camera_utils.py",
        "trained",
    ),
}
"""Where the numbers stand, at a commit, and which cameras are moved."""


def test_the_numbers_are_those_of_the_sources() -> None:
    numbers = {name: protocol.perturbation for name, protocol in PROTOCOLS.items()}
    libero = numbers["libero_plus_5"]
    assert (libero.azimuth_deg, libero.elevation_deg, libero.distance) == (75, 15, 2)
    assert libero.angles_deg == (10, 10, 0)
    assert libero.shares == (992, 313, 294)
    assert sum(libero.shares) == 1599
    small = numbers["vista_small"]
    assert (small.position_m, small.turn_deg, small.normal) == (0.03, pytest.approx(np.degrees(0.075)), True)
    arc = numbers["vista_arc90"]
    assert arc == Perturbation(azimuth_deg=45, radius_m=0.05)
    assert (small.angles_deg, small.azimuth_deg, small.elevation_deg, small.distance) == ((0, 0, 0), 0, 0, 1)
    colosseum = numbers["colosseum"]
    assert (colosseum.position_m, colosseum.normal) == (0.1, False)
    assert np.radians(colosseum.angles_deg) == pytest.approx([0.05] * 3)
    robocasa = numbers["robocasa"]
    assert (robocasa.position_m, robocasa.angles_deg, robocasa.normal) == (0.1, (6, 6, 6), True)
    assert sorted(PROTOCOLS) == ["colosseum", *LEVELS, "robocasa", "vista_arc90", "vista_small"]
    for name, protocol in PROTOCOLS.items():
        source, base = SOURCES[re.sub(r"_\d$", "", name)]
        assert (protocol.source, protocol.base) == (f"https://github.com/{source}", base)
    for level, name in enumerate(LEVELS, 1):
        assert numbers[name] == libero.scaled(level / 5)
        assert (numbers[name].azimuth_deg, numbers[name].elevation_deg) == (15 * level, 3 * level)


def test_normal_protocols_have_their_standard_deviations() -> None:
    shifts, turns = moves("vista_small")
    assert shifts.std() == pytest.approx(0.03, rel=0.05)
    assert np.sqrt((turns**2).mean()) == pytest.approx(0.075, rel=0.08)
    shifts, turns = moves("robocasa")
    # Cameras that would not see the work are drawn anew, which takes a little off the tails.
    assert 0.09 < shifts.std() < 0.102
    assert 0.92 < np.sqrt((turns**2).mean()) / (np.radians(6) * np.sqrt(3)) < 1.01
    assert np.abs(shifts).max() > 0.25


def test_colosseum_is_uniform_in_its_box() -> None:
    shifts, turns = moves("colosseum")
    assert np.abs(shifts).max() <= 0.1
    assert shifts.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    assert turns.max() <= 0.05 * np.sqrt(3) + 0.005
    assert np.sqrt((turns**2).mean()) == pytest.approx(0.05, rel=0.08)  # sqrt(3) axes, each 0.05 / sqrt(3)


def test_the_arc_turns_both_cameras_together_about_the_work() -> None:
    base = [spherical(camera) for camera in rig("vista_arc90").base]
    assert [(round(a), round(e, 3), round(r, 3)) for a, e, r in base] == [(45, 12, 0.95), (-45, 12, 0.95)]
    places = np.array([[spherical(camera) for camera in cameras] for cameras in drawn("vista_arc90")])
    turned = places[..., 0] - np.array(base)[:, 0]
    np.testing.assert_allclose(turned[:, 0], turned[:, 1], atol=1e-6)
    assert np.abs(turned).max() <= 45
    assert turned[:, 0].std() == pytest.approx(45 / np.sqrt(3), rel=0.1)
    np.testing.assert_allclose(places[..., 1], 12, atol=1e-6)
    assert places[..., 2].std() == pytest.approx(0.05, rel=0.1)


def test_libero_plus_moves_direction_distance_or_orientation_and_levels_are_nested() -> None:
    base = np.array([spherical(camera) for camera in rig(LEVELS[0]).base])
    aimed = np.array([camera.T_world_cam[:3, 2] for camera in rig(LEVELS[0]).base])
    shares, sizes = [], []
    for level, name in enumerate(LEVELS, 1):
        episodes = drawn(name)
        off = np.array([[spherical(camera) for camera in cameras] for cameras in episodes]) - base
        axes = np.array([[camera.T_world_cam[:3, 2] for camera in cameras] for cameras in episodes])
        directed, farther = (np.abs(off[:, 0, :2]) > 1e-6).any(1), off[:, 0, 2] > 1e-6
        turned = ~directed & ~farther
        assert not (directed & farther).any()
        shares.append([directed.mean(), farther.mean(), turned.mean()])
        assert np.abs(off[directed, :, 0]).max() <= 15 * level
        assert set(off[directed][..., 1].round(6).ravel()) == {0.0, 3.0 * level}
        assert 0.0 < off[farther, :, 2].min() <= off[farther, :, 2].max() <= 0.95 * level / 5
        angles = np.degrees(np.arccos(np.clip((axes[turned] * aimed).sum(-1), -1, 1)))
        assert 1.5 * level < angles.max() <= 2 * level * np.sqrt(2) + 1e-6
        sizes.append([np.abs(off[directed, 0, 0]).mean(), off[farther, 0, 2].mean(), angles.mean()])
    assert len({tuple(share) for share in shares}) == 1  # an episode is moved in one way, whatever the level
    np.testing.assert_allclose(shares[0], np.divide((992, 313, 294), 1599), atol=0.1)
    # The same draws, further along at each level.
    np.testing.assert_allclose(sizes, np.outer(np.arange(1, 6) / 5, sizes[-1]), rtol=0.02)


@pytest.mark.parametrize("name", [LEVELS[4], "colosseum", "robocasa", "vista_arc90", "vista_small"])
@pytest.mark.parametrize("task", names())
def test_every_camera_has_the_work_in_its_image_upright_and_is_a_function_of_the_seed(name: str, task: str) -> None:
    target, key = np.array(spec(task).workspace), spec(task).key
    placed = played_rig(name, spec(task).workspace)
    for seed in range(5000, 5004):
        for camera, again in zip(*(placed.episode(key, "eval", seed).cameras for _ in range(2)), strict=True):
            np.testing.assert_array_equal(camera.T_world_cam, again.T_world_cam)
            u, v = project(transform(inverse(camera.T_world_cam), target), camera.K(64, 80))
            assert -0.5 <= u <= 79.5
            assert -0.5 <= v <= 63.5
            assert camera.T_world_cam[2, 1] < -0.5  # the image's down is down
            assert camera.T_world_cam[2, 3] > 0.3
            assert camera.split == "novel"


@pytest.mark.parametrize("name", ["vista_small", "colosseum", "robocasa"])
def test_trained_cameras_are_moved_from_the_pair_of_seen_views(name: str) -> None:
    training = make_rig("hemisphere16", spec("store_cereal").workspace)
    seen, moved = resolve("seen", training), resolve(name, training)
    for seed in range(5000, 5010):
        pairs = seen.pair(KEY, "eval", seed), moved.pair(KEY, "eval", seed)
        assert [c.name for c in pairs[0]] == [c.name for c in pairs[1]]
        assert 0 < moved.angle_deg(pairs[1]) < 40
    assert moved.name == name


def test_front_pairs_are_a_right_angle_apart_at_every_level() -> None:
    views = resolve("libero_plus_5", make_rig("hemisphere16", spec("store_cereal").workspace))
    pairs = [views.pair(KEY, "eval", seed) for seed in range(40)]
    assert {n.name for n, _ in pairs} == {"front_left", "front_right"}
    assert {round(abs(spherical(n)[0] - spherical(m)[0])) for n, m in pairs} == {90}


def test_the_full_ring_goes_far_past_the_orbit() -> None:
    training, ring = (make_rig(name, spec("store_cereal").workspace) for name in ("hemisphere16", "ring_360"))
    assert isinstance(ring, Rig)
    assert len(ring.cameras) == 36
    angles = [training.angle_to_training_deg(camera) for camera in ring.cameras]
    assert max(angles) > 50
    views = resolve("ring_360", training)
    assert {views.pair(KEY, "eval", seed)[0].name for seed in range(36)} == set(ring.camera_names())


def test_a_protocol_makes_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"only played from .rollout --views robocasa.; give a rig"):
        make_rig("robocasa", TARGET.tolist())
    assert cli.main(["datagen", "--rig", "robocasa", "--out", str(tmp_path / "D")]) == 2
    assert cli.main(["rollout", "--rig", "robocasa", "--policy", "random", "--out", str(tmp_path / "R")]) == 2
    assert capsys.readouterr().err.count("only played from") == 2
    assert list(tmp_path.iterdir()) == []
