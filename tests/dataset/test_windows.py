"""Windows cut from a real dataset: shapes, times, geometry of the two views, and what is kept."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.tasks.rigs import make_rig


@pytest.fixture(scope="module")
def windows(tiny_dataset: Any) -> Windows:
    return Windows(tiny_dataset.train, "seen")


def test_shapes_and_types(windows: Windows) -> None:
    window = windows.sample(np.random.default_rng(0))
    height, width = windows.datasets[0].size
    size = (2, 11, height, width)
    assert (window.rgb.shape, window.rgb.dtype) == ((*size, 3), np.uint8)
    assert (window.points.shape, window.points.dtype) == ((*size, 3), np.float32)
    assert (window.parts.shape, window.parts.dtype) == (size, np.uint8)
    assert (window.hand_mask.shape, window.hand_mask.dtype) == (size[2:], np.bool_)
    assert window.K.shape == (2, 3, 3)
    assert window.T_n_m.shape == (4, 4)
    assert window.T_n_ee.shape == (1, 11, 4, 4)
    assert window.opening_m.shape == (1, 11)
    assert set(np.unique(window.parts)) <= {0, 1, 2, 3}


def test_frames_are_dt_apart_and_the_end_is_repeated(windows: Windows) -> None:
    _, episode = windows.episodes[0]
    last = len(episode.steps) - 1
    camera_n, camera_m = windows.cameras
    trajectory = episode.trajectory
    for start in (0, last - 13):
        window = windows.window(0, start, camera_n, camera_m)
        frames = np.minimum(start + 2 * np.arange(11), last)  # 5 Hz rendered, 0.4 s between frames
        assert np.allclose(np.diff(trajectory.time[episode.steps[frames[frames < last]]]), 0.4)
        assert np.array_equal(window.rgb[1], episode.frames(camera_m, frames).rgb)
        T_world_ee = trajectory.T_world_ee["right"][episode.steps[frames]]
        assert np.allclose(episode.T_world_cam(camera_n) @ window.T_n_ee[0], T_world_ee)
        assert np.array_equal(window.opening_m[0], trajectory.opening_m["right"][episode.steps[frames]])
    assert np.array_equal(window.points[:, -1], window.points[:, -2], equal_nan=True)
    with pytest.raises(ConfigError, match=f"frames 0 to {last}"):
        windows.window(0, last + 1, camera_n, camera_m)


def test_a_window_is_disturbed_where_its_future_holds_what_nobody_could_foresee(tiny_dataset: Any) -> None:
    windows = Windows(tiny_dataset.train, "seen", moving=False)
    seen = set()
    for index, (_, episode) in enumerate(windows.episodes):
        at = [step for step, _ in episode.trajectory.disturbances]
        for start in [frame for i, frame in windows.starts if i == index]:
            begin, end = episode.steps[start], episode.steps[min(start + 20, len(episode.steps) - 1)]
            disturbed = windows.window(index, start, *windows.cameras).disturbed
            assert disturbed == any(begin <= step < end for step in at)
            seen.add((bool(at), disturbed))
    assert seen == {(False, False), (True, False), (True, True)}


def test_no_more_future_is_repeated_than_allowed(tiny_dataset: Any) -> None:
    for share, existing in ((0.0, 10), (0.5, 5), (0.9, 1)):
        windows = Windows(tiny_dataset.train, "seen", pad_share=share, moving=False)
        for index, (_, episode) in enumerate(windows.episodes):
            starts = [frame for i, frame in windows.starts if i == index]
            assert starts == list(range(len(episode.steps) - 2 * existing))


def test_view_m_in_frame_n_agrees_with_view_n(windows: Windows) -> None:
    """Where view m's points, moved by T_n_m, come near a flat place of view n's surface, they lie in its plane."""
    for start in (0, 20, 40):
        window = windows.window(0, start, *windows.cameras)
        points_n, points_m = window.points[0, 0], window.points[1, 0].reshape(-1, 3)
        moved = transform(window.T_n_m, points_m[np.isfinite(points_m[:, 0])].astype(np.float64))
        # Triangles between neighbouring pixels of view n that lie on one surface (no jump in depth).
        down, right = points_n[1:, :-1] - points_n[:-1, :-1], points_n[:-1, 1:] - points_n[:-1, :-1]
        z = points_n[:-1, :-1, 2]
        smooth = (np.abs(down[..., 2]) < 0.04 * z) & (np.abs(right[..., 2]) < 0.04 * z)
        normal = np.cross(right, down)[smooth]
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        # The opposite corner lies in the same plane: a flat place, where a plane is the surface.
        corner = (points_n[1:, 1:] - points_n[:-1, :-1])[smooth]
        flat = np.abs((corner * normal).sum(-1)) < 2e-4
        base = points_n[:-1, :-1][smooth][flat]
        distance, nearest = cKDTree(base).query(moved, distance_upper_bound=0.012)
        seen_by_both = np.isfinite(distance)
        assert seen_by_both.sum() > 60
        off = np.abs(
            ((moved[seen_by_both] - base[nearest[seen_by_both]]) * normal[flat][nearest[seen_by_both]]).sum(-1)
        )
        # Nearby points may belong to another surface that meets this one: at a board's edge, under the box.
        assert np.median(off) < 2e-4
        assert np.quantile(off, 0.8) < 1e-3


def test_the_hand_mask_from_proprioception_is_the_labelled_hand(windows: Windows) -> None:
    """Intersection over union with the simulator's labels, on frames before the box is grasped."""
    unions = []
    for start in (0, 5, 10):
        for pair in (windows.cameras, windows.cameras[::-1]):
            window = windows.window(0, start, *pair)
            truth = window.parts[0, 0] > 0
            assert truth.sum() > 15
            unions.append((truth & window.hand_mask).sum() / (truth | window.hand_mask).sum())
    assert min(unions) > 0.8


def test_starts_are_kept_where_something_happens(windows: Windows, tiny_dataset: Any) -> None:
    everything = Windows(tiny_dataset.train, "seen", moving=False)
    assert 0 < len(windows) < len(everything)
    for index, (_, episode) in enumerate(windows.episodes):
        kept = {frame for i, frame in windows.starts if i == index}
        allowed = {frame for i, frame in everything.starts if i == index}
        trajectory, steps = episode.trajectory, episode.steps
        position, opening = trajectory.T_world_ee["right"][:, :3, 3], trajectory.opening_m["right"]
        for frame in allowed:
            now, then = steps[frame], steps[min(frame + 1, len(steps) - 1)]
            speed = np.linalg.norm(position[then] - position[now]) / 0.2
            changes = np.ptp(opening[now : now + 21]) > Windows.GRIPPING_M
            if speed > 0.021 or changes:
                assert frame in kept
            elif speed < 0.019 and then > now:
                assert frame not in kept
        # The hand stands nearly still while it closes: these moments must not be lost.
        closing = np.flatnonzero(np.diff(opening[steps]) < -0.01)
        assert len(closing)
        assert set(closing.tolist()) & allowed <= kept


def test_on_a_ring_a_window_s_views_are_a_pair_of_the_ring(windows: Windows) -> None:
    def drawn(rig: str) -> list[tuple[str, str]]:
        windows.datasets[0].__dict__["rig"] = make_rig(rig, (0.0, 0.0, 1.0))
        windows.cameras = windows.datasets[0].rig.camera_names()
        return [windows.draw(np.random.default_rng(seed))[2:] for seed in range(80)]

    windows = copy.copy(windows)
    windows.datasets = (copy.copy(windows.datasets[0]),)
    ring, zoom, others = drawn("ring_360"), drawn("zoom"), drawn("hemisphere16")
    azimuths = [[int(name.removeprefix("az")) for name in pair] for pair in ring]
    assert {(m - n) % 360 for n, m in azimuths} == {90, 270}
    assert len({n for n, _ in azimuths}) > 25
    assert all(n[-2:] == m[-2:] and n != m for n, m in zoom)  # one field of view, left and right
    assert len(set(others)) > 60


def test_samples_come_from_the_generator_alone(windows: Windows) -> None:
    a, b = (windows.sample(np.random.default_rng(3)) for _ in range(2))
    assert (a.episode, a.start, a.cameras) == (b.episode, b.start, b.cameras)
    assert np.array_equal(a.rgb, b.rgb)
    rng = np.random.default_rng(0)
    pairs = {windows.sample(rng).cameras for _ in range(12)}
    assert pairs == {windows.cameras, windows.cameras[::-1]}


@pytest.mark.parametrize("room", [0, 2**30])
def test_a_sensor_measures_what_is_given_and_what_is_to_be_predicted(tiny_dataset: Any, room: int) -> None:
    true, stereo, estimated = (
        Windows(tiny_dataset.train, "seen", sensor=sensor, remember_bytes=room).sample(np.random.default_rng(3))
        for sensor in ("perfect", "stereo", "estimated")  # type: ignore[attr-defined]
    )
    for window in (stereo, estimated):
        assert (window.episode, window.start, window.cameras) == (true.episode, true.start, true.cameras)
        np.testing.assert_array_equal(window.rgb, true.rgb)
        np.testing.assert_array_equal(window.parts, true.parts)
        # Along the ray alone: x / z and y / z are the pixel's.
        both = np.isfinite(window.points[..., 2]) & np.isfinite(true.points[..., 2])
        for axis in (0, 1):
            a, b = (p[..., axis][both] / p[..., 2][both] for p in (window.points, true.points))
            np.testing.assert_allclose(a, b, atol=1e-5)
    relative = {
        name: np.log(window.points[..., 2] / true.points[..., 2]).astype(np.float64)
        for name, window in (("stereo", stereo), ("estimated", estimated))
    }
    valid = np.isfinite(true.points[..., 2])
    assert np.isfinite(relative["estimated"][valid]).all()
    holes = valid & np.isnan(stereo.points[..., 2])
    assert (holes.any((-2, -1))).all()  # in each frame of each view
    assert holes.sum() < 0.3 * valid.sum()
    # Within a view one error belongs to all frames; median, because hands and edges move.
    per_frame = np.nanmedian(relative["estimated"], axis=(-2, -1))  # (2, 11)
    assert max(np.ptp(per_frame[0]), np.ptp(per_frame[1, 1:])) < 0.03  # view m's first frame alone is not scaled
    assert abs(per_frame[0].mean() - per_frame[1].mean()) > 0.003


@pytest.mark.parametrize("room", [0, 2**30])
def test_depth_of_unknown_scale_is_scaled_by_the_hand_where_the_pose_is_known(tiny_dataset: Any, room: int) -> None:
    windows = {
        name: Windows(tiny_dataset.train, "seen", remember_bytes=room, **options)
        for name, options in {
            "true": {},
            "n": {"sensor": "estimated"},
            "both": {"sensor": "estimated", "both_poses": True},
        }.items()
    }
    off: dict[str, list[Any]] = {"n": [], "both": []}
    for i in range(12):
        true, n, both = (w.sample(np.random.default_rng(i)) for w in windows.values())
        np.testing.assert_array_equal(n.points[0], both.points[0])
        for name, window in (("n", n), ("both", both)):
            log = np.log(window.points[:, 0, ..., 2] / true.points[:, 0, ..., 2])
            off[name].append([np.nanmedian(log[v][true.parts[v, 0] > 0]) for v in (0, 1)])
        np.testing.assert_array_equal(n.points[:, 1:], both.points[:, 1:])  # targets know all poses
        # What is to be predicted of hands comes from the robot's model, the rest from the estimate.
        hand = true.parts[:, 1:] > 0
        np.testing.assert_array_equal(both.points[:, 1:][hand], true.points[:, 1:][hand])
        np.testing.assert_array_equal(n.points[:, 1:][hand], true.points[:, 1:][hand])
        assert np.isfinite(true.points[:, 1:][~hand]).any()
        assert not np.array_equal(both.points[:, 1:][~hand], true.points[:, 1:][~hand], equal_nan=True)
    typical = {name: np.nanmedian(np.abs(values), axis=0) for name, values in off.items()}
    assert typical["n"][0] < 0.015  # estimates are off by 5 % and 2 cm
    assert typical["both"][1] < 0.015
    assert typical["n"][1] > 0.02


def test_a_window_by_its_key_is_always_the_same(tiny_dataset: Any) -> None:
    windows = Windows(tiny_dataset.train, "seen", sensor="stereo")
    a, b = (windows.window(0, 10, *windows.cameras) for _ in range(2))
    np.testing.assert_array_equal(a.points, b.points)
    other = windows.window(0, 11, *windows.cameras)
    assert not np.array_equal(a.points[:, 2:], other.points[:, :-2], equal_nan=True)


def test_novel_cameras_are_apart_from_seen_ones(tiny_dataset: Any, tiny_rig: Any) -> None:
    seen, novel = (Windows(tiny_dataset.train, s).cameras for s in ("seen", "novel"))  # type: ignore[arg-type]
    assert set(seen) == {c.name for c in tiny_rig.views("seen")}
    assert set(novel) == {c.name for c in tiny_rig.views("novel")}
    several = Windows([tiny_dataset.train, Dataset(tiny_dataset.eval)], [seen[0], novel[0]])
    assert several.cameras == (seen[0], novel[0])
    assert len(several.episodes) == 3


def test_wrong_uses_are_refused(tiny_dataset: Any) -> None:
    with pytest.raises(ConfigError, match="multiple of one frame"):
        Windows(tiny_dataset.train, dt_s=0.3)
    with pytest.raises(ConfigError, match="two cameras"):
        Windows(tiny_dataset.train, ["cam00"])
    with pytest.raises(ConfigError, match="no camera 'cam99'"):
        Windows(tiny_dataset.train, ["cam00", "cam99"])
    with pytest.raises(ConfigError, match="no window of 500 frames"):
        Windows(tiny_dataset.train, horizon=500)
    with pytest.raises(DatasetError, match="no such dataset"):
        Windows(tiny_dataset.train / "nowhere")


def test_poses_of_both_views_agree(windows: Windows) -> None:
    window = windows.window(0, 0, *windows.cameras)
    _, episode = windows.episodes[0]
    n, m = (episode.T_world_cam(c) for c in windows.cameras)
    assert np.allclose(window.T_n_m, inverse(n) @ m)


@pytest.mark.parametrize("episodes_that_fit", [0, 0.5, 2])
def test_windows_do_not_depend_on_what_is_remembered(tiny_dataset: Any, episodes_that_fit: float) -> None:
    plain = Windows(tiny_dataset.train, "seen", remember_bytes=0)
    height, width = plain.datasets[0].size
    frames = [len(episode.steps) for _, episode in plain.episodes]
    room = int(episodes_that_fit * max(frames) * len(plain.cameras) * height * width * 6)
    remembering = Windows(tiny_dataset.train, "seen", remember_bytes=room)
    for turn in range(2):
        for seed in range(6):
            expected = plain.sample(np.random.default_rng(seed))
            found = remembering.sample(np.random.default_rng(seed))
            for name, value in vars(expected).items():
                np.testing.assert_array_equal(getattr(found, name), value, err_msg=f"{turn} {name}")
            found.rgb[:], found.points[:], found.parts[:] = 0, 0, 0  # whoever changes a window changes no other
    kept = remembering._remembered_bytes
    assert kept <= room
    assert (kept > 0) == (episodes_that_fit > 0)
    assert not pickle.loads(pickle.dumps(remembering))._remembered, "a process begins with nothing"
