"""The live episode on the real task: chunks, futures, observations."""

from collections.abc import Callable

import numpy as np
import pytest

from geo4d_bench.errors import PolicyError, SceneError
from geo4d_bench.geometry.hand import part_label, scale_to_hands
from geo4d_bench.geometry.se3 import inverse, pose, pose_error, transform
from geo4d_bench.policies.protocol import ActionChunk, Observation
from geo4d_bench.rollout.assets import RenderAssets
from geo4d_bench.rollout.simulator import Simulator, commands
from geo4d_bench.rollout.views import Views
from geo4d_bench.tasks import Task

ARM = "right"
KEY = "store_cereal-v1"
HZ = 20.0


def turned(angle: float, x: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return pose([[c, -s, 0], [s, c, 0], [0, 0, 1]], (x, 0, 0))


def chunk(poses: list[np.ndarray], openings: list[float], dt_s: float) -> ActionChunk:
    return ActionChunk({ARM: np.stack(poses)}, {ARM: np.array(openings)}, dt_s)


def test_commands_go_evenly_through_the_waypoints_at_control_rate() -> None:
    made = commands(chunk([turned(0.4, 0.1), turned(0.4, 0.3)], [0.08, 0.0], 0.4), {ARM: turned(0.0, 0.0)}, HZ)
    assert len(made) == 16
    for k, command in enumerate(made, start=1):
        t = k / 8  # waypoints are 8 control steps apart
        expected = turned(0.4 * min(t, 1), 0.1 * t if t <= 1 else 0.1 + 0.2 * (t - 1))
        distance, angle = pose_error(command.T_world_ee[ARM], expected)
        assert distance < 1e-12
        assert angle < 1e-9
        assert command.opening_m[ARM] == (0.08 if k <= 8 else 0.0)


def test_a_waypoint_a_control_step_is_commanded_as_it_is() -> None:
    made = commands(chunk([turned(0.3, 0.2)], [0.02], 1 / HZ), {ARM: turned(0.0, 0.0)}, HZ)
    assert len(made) == 1
    np.testing.assert_allclose(made[0].T_world_ee[ARM], turned(0.3, 0.2), atol=1e-12)


def test_waypoints_need_not_fall_on_control_steps() -> None:
    made = commands(chunk([turned(0, 0.1), turned(0, 0.2), turned(0, 0.3)], [1.0, 2.0, 3.0], 0.12), {ARM: pose()}, HZ)
    assert len(made) == 7  # 0.36 s
    assert [c.opening_m[ARM] for c in made] == [1, 1, 2, 2, 3, 3, 3]
    np.testing.assert_allclose([c.T_world_ee[ARM][0, 3] for c in made], 0.1 / 0.12 * np.arange(1, 8) / HZ)


def test_an_unfit_chunk_is_refused(simulator: Simulator) -> None:
    simulator.begin(1000)
    with pytest.raises(PolicyError, match="not finite"):
        simulator.execute(chunk([np.full((4, 4), np.nan)], [0.0], 0.1))
    assert simulator.control_steps == 0


def test_the_expert_through_chunks_is_the_expert_itself(simulator: Simulator) -> None:
    simulator.begin(1001)
    for _ in range(30):
        simulator.execute(simulator.expert_action())
    through_chunks = simulator.task.physics_state()
    simulator.task.reset(1001, "eval")
    expert = simulator.task.expert()
    for _ in range(30):
        simulator.task.step(expert.command())
    # Interpolation between 4x4 matrices goes through quaternions, so the last bits of a command may differ.
    np.testing.assert_allclose(through_chunks, simulator.task.physics_state(), atol=1e-6)


def test_a_future_leaves_the_live_episode_as_it_is_to_the_bit(simulator: Simulator) -> None:
    def play(look_ahead: bool) -> np.ndarray:
        simulator.begin(1002)
        for step in range(24):
            if look_ahead and step in (0, 11, 12):
                simulator.expert_future(2, 0.4, video=step == 11)
            simulator.execute(simulator.expert_action())
        return simulator.task.physics_state()

    np.testing.assert_array_equal(play(False), play(True))


def test_a_future_is_what_a_fresh_expert_then_does(simulator: Simulator) -> None:
    simulator.begin(1003)
    for _ in range(10):
        simulator.execute(simulator.expert_action())
    future = simulator.expert_future(3, 0.4, video=True)
    assert future.video is not None
    expert = simulator.task.expert()
    T_n_world = inverse(simulator.cameras[0].T_world_cam)
    T_n_m = T_n_world @ simulator.cameras[1].T_world_cam
    for k in range(3):
        for _ in range(8):
            simulator.task.step(expert.command())
        frame = simulator.render()
        assert frame is not None
        np.testing.assert_array_equal(future.T_world_ee[ARM][k], simulator.task.ee_poses()[ARM])
        assert future.opening_m[ARM][k] == simulator.task.openings()[ARM]
        np.testing.assert_array_equal(future.video.rgb[:, k], frame.rgb)
        np.testing.assert_allclose(future.video.points[0, k, ..., 2], frame.depth[0], atol=1e-6)
        # View m's points, taken back to its own camera, have its depth as z.
        back = transform(inverse(T_n_m), future.video.points[1, k])
        np.testing.assert_allclose(back[..., 2], frame.depth[1], atol=1e-5)


def test_both_views_points_of_the_hand_lie_on_the_hand(simulator: Simulator) -> None:
    simulator.begin(1004)
    future = simulator.expert_future(1, 0.4, video=True)
    assert future.video is not None
    hand_n = transform(
        inverse(simulator.cameras[0].T_world_cam), transform(future.T_world_ee[ARM][0], np.zeros((1, 3)))
    )
    T_n_ee = inverse(simulator.cameras[0].T_world_cam) @ future.T_world_ee[ARM][0]
    surface = transform(T_n_ee, simulator.assets.hand.at_opening(float(future.opening_m[ARM][0])))
    for view in (0, 1):
        on_hand = np.isin(future.video.parts[view, 0], [part_label(0, part) for part in range(3)])
        points = future.video.points[view, 0][on_hand]
        assert len(points) > 10
        assert np.linalg.norm(np.nanmedian(points, axis=0) - hand_n[0]) < 0.15
        nearest = np.linalg.norm(points[:, None] - surface[None], axis=-1).min(axis=1)
        # Samples of the hand are 4 mm apart and its drawn meshes are simplified.
        assert np.nanmedian(nearest) < 0.01


def test_the_view_pair_changes_only_what_the_cameras_see(
    task: Task, views: Callable[[str], Views], assets: RenderAssets
) -> None:
    seen = {}
    for name in ("seen", "novel"):
        simulator = Simulator(task, "eval", views(name), assets)
        simulator.begin(1005)
        for _ in range(5):
            simulator.execute(simulator.expert_action())
        seen[name] = (simulator.observe(), simulator.task.physics_state(), simulator.cameras)
    (a, state_a, cameras_a), (b, state_b, cameras_b) = seen["seen"], seen["novel"]
    assert {c.split for c in cameras_a} == {"seen"}
    assert {c.split for c in cameras_b} == {"novel"}
    np.testing.assert_array_equal(state_a, state_b)
    may_differ = {"rgb", "depth", "K", "T_world_cam_n"}
    for name in vars(a):
        if name not in may_differ:
            np.testing.assert_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert not np.array_equal(a.rgb, b.rgb)
    assert not np.array_equal(a.T_world_cam_n, b.T_world_cam_n)
    assert a.T_world_cam_m is None
    both = simulator.observe(both_poses=True)
    np.testing.assert_array_equal(both.T_world_cam_m, cameras_b[1].T_world_cam)


def test_both_cameras_poses_are_told_wrong_by_as_much_as_asked_each_in_its_own_way(
    task: Task, views: Callable[[str], Views], blind_assets: RenderAssets
) -> None:
    simulator = Simulator(task, "eval", views("novel"), blind_assets, calibration=(2.0, 5.0))
    off = []
    for seed in (1000, 1001, 1000):
        simulator.begin(seed)
        obs = simulator.observe(both_poses=True)
        for camera, told in zip(simulator.cameras, (obs.T_world_cam_n, obs.T_world_cam_m), strict=True):
            assert told is not None
            assert pose_error(camera.T_world_cam, told) == pytest.approx((0.05, np.radians(2)), abs=1e-9)
            off.append(told[:3, 3] - camera.T_world_cam[:3, 3])
    np.testing.assert_array_equal(off[:2], off[4:])
    assert np.linalg.norm(np.diff(off[:4], axis=0), axis=1).min() > 0.005


@pytest.mark.parametrize("both_poses", [False, True])
def test_a_true_observation_has_no_error_and_leaves_the_measured_ones_as_they_are(
    task: Task, views: Callable[[str], Views], assets: RenderAssets, both_poses: bool
) -> None:
    def look(asked: bool) -> tuple[list[Observation], list[Observation]]:
        simulator = Simulator(task, "eval", views("novel"), assets, sensor="stereo", calibration=(2.0, 5.0))
        simulator.begin(1000)
        true = [simulator.true_observation(both_poses)] if asked else []
        return true, [simulator.observe(both_poses), simulator.observe(both_poses)]

    (true,), measured = look(asked=True)
    perfect = Simulator(task, "eval", views("novel"), assets)
    perfect.begin(1000)
    for field, value in vars(perfect.observe(both_poses)).items():
        np.testing.assert_equal(getattr(true, field), value)
    for one, other in zip(measured, look(asked=False)[1], strict=True):
        np.testing.assert_array_equal(one.depth, other.depth)
        assert not np.array_equal(one.depth, true.depth, equal_nan=True)
        assert not np.array_equal(one.T_world_cam_n, true.T_world_cam_n)


def test_without_a_renderer_images_are_empty(
    task: Task, views: Callable[[str], Views], blind_assets: RenderAssets
) -> None:
    simulator = Simulator(task, "eval", views("novel"), blind_assets)
    simulator.begin(1000)
    obs = simulator.observe()
    assert obs.rgb.shape == (2, 0, 0, 3)
    assert obs.depth.shape == (2, 0, 0)
    assert simulator.expert_future(1, 0.05, video=False).video is None


def test_a_camera_that_opengl_does_not_draw_from_ends_the_episode(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared after every reset: the first episode of a process may be right and the next one's camera be stuck."""
    renderer = simulator.assets.renderer
    assert renderer is not None
    simulator.begin(5000)
    simulator.observe()
    first = simulator.cameras
    stuck = renderer._aim
    monkeypatch.setattr(renderer, "_aim", lambda K, T: stuck(K, first[0].T_world_cam))
    simulator.begin(next(s for s in range(5001, 5100) if simulator.views.pair(KEY, "eval", s)[0] != first[0]))
    either = "|".join(camera.name for camera in simulator.cameras)
    with pytest.raises(SceneError, match=f"'({either})' as asked: its rotation"):
        simulator.observe()
    with pytest.raises(SceneError, match="as asked"):  # still not seen as it should be
        simulator.expert_future(1, 0.05, video=True)
    monkeypatch.undo()
    assert simulator.observe().rgb.any()


def test_a_policy_sees_through_the_sensor_and_the_episode_is_one_video(
    task: Task, views: Callable[[str], Views], assets: RenderAssets
) -> None:
    simulator = Simulator(task, "eval", views("novel"), assets, sensor="estimated")
    seen = []
    for _ in range(2):
        simulator.begin(1006)
        frame = simulator.render()
        assert frame is not None
        first = simulator.observe().depth
        for _ in range(3):
            simulator.execute(simulator.expert_action())
        then, frame_then = simulator.observe().depth, simulator.render()
        assert frame_then is not None
        seen.append((first, then))
        error, error_then = np.log(first / frame.depth), np.log(then / frame_then.depth)
        assert np.nanmax(np.abs(error)) > 0.01
        # One scale, shift and field for each camera. View m has only another drift, of 0.2 %; view n is scaled by
        # the hand at each look.
        change = np.nanmedian(error_then - error, axis=(1, 2))
        assert abs(change[1]) < 5 * 0.002
        assert abs(change[0]) < 0.02
        assert abs(np.nanmedian(error[0]) - np.nanmedian(error[1])) > 0.003
    np.testing.assert_array_equal(seen[0], seen[1])  # begun again, the same video
    future = simulator.expert_future(1, 0.05, video=True)
    assert future.video is not None
    perfect = Simulator(task, "eval", views("novel"), assets)
    perfect.begin(1006)
    for _ in range(3):
        perfect.execute(perfect.expert_action())
    expected = perfect.expert_future(1, 0.05, video=True)
    assert expected.video is not None
    np.testing.assert_array_equal(future.video.points, expected.video.points)  # what oracles are told stays true


def test_depth_of_unknown_scale_is_scaled_by_the_hand_where_the_pose_is_known(
    task: Task, views: Callable[[str], Views], assets: RenderAssets
) -> None:
    simulator = Simulator(task, "eval", views("seen"), assets, sensor="estimated")
    depth = []
    for both_poses in (False, True):
        simulator.begin(1006)  # the same video, begun again
        depth.append(simulator.observe(both_poses).depth)
    one, both = depth
    np.testing.assert_array_equal(one[0], both[0])
    frame = simulator.render()
    assert frame is not None
    for view, measured in ((0, both[0]), (1, one[1])):
        T_cam_ee = inverse(simulator.cameras[view].T_world_cam) @ simulator.task.ee_poses()[ARM]
        hands = [(assets.hand, T_cam_ee, simulator.task.openings()[ARM])]
        scale = scale_to_hands(measured, frame.K[view], hands)
        if view == 0:
            assert scale == pytest.approx(1.0, abs=0.01)  # it was scaled
        else:
            assert abs(scale - 1.0) > 0.003
            np.testing.assert_allclose(both[1], np.float32(scale) * one[1], rtol=1e-6)
