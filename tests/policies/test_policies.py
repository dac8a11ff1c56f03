"""The registry, the oracle ladder, the floor, and geo4d with a small generator that has learned nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from synthetic_hand import MAX_OPENING_M, Scene, box_hand, downward, render

from geo4d_bench import policies
from geo4d_bench.errors import ActionError, CheckpointError, ConfigError, PolicyError, UnknownNameError
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.se3 import inverse, pose_error, transform
from geo4d_bench.model.generators import presets
from geo4d_bench.model.types import Video4D
from geo4d_bench.policies.generated import GeneratorOptions
from geo4d_bench.policies.protocol import ActionChunk, Future, Observation, TaskInfo
from geo4d_bench.policies.video_policy import VideoOptions

SCENE = Scene.make()
HAND_MODEL = box_hand()
TASK = TaskInfo("store_cereal", "v1", ("right",), "store the box", 20.0, 0.06, HAND_MODEL)
FRAMES, DT_S = 10, 0.4
PATH = np.array([downward([0.02 * t, 0.01 * t, 0.02 * t], 0.03 * t) for t in range(1 + FRAMES)])
OPENINGS = np.where(np.arange(1 + FRAMES) < 4, 0.08, 0.03)


class Replay:
    """A simulator whose expert does one known thing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.video = render(SCENE, box_hand(0.002), PATH[1:], OPENINGS[1:], rng, dt_s=DT_S)

    def expert_action(self) -> ActionChunk:
        return ActionChunk({"right": PATH[1:2]}, {"right": OPENINGS[1:2]}, 0.05)

    def expert_future(self, frames: int, dt_s: float, video: bool) -> Future:
        assert dt_s == DT_S
        assert frames == FRAMES or not video
        path, openings = PATH[1 : 1 + frames], OPENINGS[1 : 1 + frames]
        return Future({"right": path}, {"right": openings}, DT_S, self.video if video else None)


def observation(height: int, width: int, seed: int = 0) -> Observation:
    """The hand at the path's start before a wall, at any size."""
    rng = np.random.default_rng(seed)
    first = render(SCENE, box_hand(0.002), PATH[:1], OPENINGS[:1], rng)
    rows = np.linspace(0, 63, height).round().astype(int)
    columns = np.linspace(0, 79, width).round().astype(int)
    scale = np.diag([(width - 1) / 79, (height - 1) / 63, 1.0])
    depth = np.stack(
        [
            first.points[0, 0, ..., 2],
            transform(inverse(SCENE.T_world_m) @ SCENE.T_world_n, first.points[1, 0])[..., 2],
        ]
    )
    depth = np.where(np.isnan(depth), np.float32(1.6), depth)[:, rows][:, :, columns]
    return Observation(
        rgb=rng.integers(0, 255, (2, height, width, 3), dtype=np.uint8),
        depth=depth.astype(np.float32),
        K=scale @ SCENE.K,
        T_world_cam_n=SCENE.T_world_n,
        T_world_ee={"right": PATH[0]},
        opening_m={"right": float(OPENINGS[0])},
        language=TASK.language,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of the smallest preset, untrained but for a push off its zero-initialised outputs."""
    import torch

    from geo4d_bench.model.layered.generator import LayeredGenerator

    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = LayeredGenerator(presets().get("layered_debug"))
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(0.05 * torch.randn_like(p))
    generator.save_pretrained(folder)
    return folder


def load(name: str, checkpoint: Path, **options: int | None) -> policies.PolicyFactory:
    own = policies.policy_class(name).Options
    return policies.load_policy(name, TASK.id, own(checkpoint=checkpoint, **options))


# ---- the registry ---------------------------------------------------------------------------------------------------


def test_every_rung_is_registered() -> None:
    assert set(policies.names()) >= {
        "expert",
        "oracle_pose",
        "oracle_video",
        "geo4d",
        "layered",
        "trajectory_regression",
        "random",
    }


def test_a_misspelt_policy_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'oracle_video'"):
        policies.load_policy("oracel_video", TASK.id)


@pytest.mark.parametrize(
    ("name", "preset", "made", "data"),
    [
        ("layered", "layered_nano", "--height 64 --width 80", "data/store_cereal"),
        (
            "geo4d", "dit_nano", "--height 32 --width 40 --rig wide16 --out data/store_cereal_wide16",
            "data/store_cereal_wide16",
        ),
    ],
)  # fmt: skip
def test_a_policy_without_a_checkpoint_says_how_to_make_one(
    tmp_path: Path, name: str, preset: str, made: str, data: str
) -> None:
    datagen, train = f"datagen --task store_cereal {made}'", f"train --data {data} --preset {preset}"
    with pytest.raises(CheckpointError, match=f"{datagen} and then 'geo4d-bench {train}"):
        policies.load_policy(name, "store_cereal", GeneratorOptions(checkpoint=tmp_path / "nothing"))


def test_a_plan_of_no_waypoints_is_refused() -> None:
    with pytest.raises(ConfigError, match="execute"):
        policies.PlanOptions(execute=0)


@pytest.mark.parametrize(
    ("name", "privileged", "needs_images"),
    [("expert", True, False), ("oracle_pose", True, False), ("oracle_video", True, True), ("random", False, False)],
)
def test_factories_say_what_policies_need(name: str, privileged: bool, needs_images: bool) -> None:
    factory = policies.load_policy(name, TASK.id)
    policy = factory.policy
    assert (policy.name, policy.privileged, policy.needs_images) == (name, privileged, needs_images)
    assert (policy.needs_checkpoint, factory.checkpoint_sha256, factory.image_size) == (False, "", None)
    first, second = factory(), factory()
    assert first is not second
    assert (first.privileged, first.needs_images) == (privileged, needs_images)


# ---- oracles --------------------------------------------------------------------------------------------------------


def test_the_expert_passes_its_command_on() -> None:
    policy = policies.load_policy("expert", TASK.id)()
    policy.simulator = Replay()
    policy.reset(TASK, 0)
    chunk = policy.act(observation(64, 80))
    chunk.check(TASK.arms)
    np.testing.assert_array_equal(chunk.T_world_ee["right"], PATH[1:2])
    assert chunk.dt_s == 0.05


@pytest.mark.parametrize("execute", [1, 4, 10])
def test_oracle_pose_takes_the_first_true_poses(execute: int) -> None:
    policy = policies.load_policy("oracle_pose", TASK.id, policies.PlanOptions(execute))()
    policy.simulator = Replay()
    policy.reset(TASK, 0)
    chunk = policy.act(observation(64, 80))
    chunk.check(TASK.arms)
    np.testing.assert_array_equal(chunk.T_world_ee["right"], PATH[1 : 1 + execute])
    np.testing.assert_array_equal(chunk.opening_m["right"], OPENINGS[1 : 1 + execute])


def test_oracle_video_finds_the_poses_in_the_frames() -> None:
    policy = policies.load_policy("oracle_video", TASK.id, VideoOptions(execute=6))()
    policy.simulator = Replay()
    policy.reset(TASK, 0)
    chunk = policy.act(observation(64, 80))
    chunk.check(TASK.arms)
    distance, angle = pose_error(chunk.T_world_ee["right"], PATH[1:7])
    assert distance.max() < 0.0025  # half the spacing of the model's samples
    assert np.degrees(angle).max() < 3.0
    closed = chunk.opening_m["right"] < TASK.closed_below_m
    np.testing.assert_array_equal(closed, OPENINGS[1:7] < TASK.closed_below_m)
    assert policy.last_video is not None
    assert policy.last_tracks["right"].T_n_ee.shape == (FRAMES, 4, 4)
    assert policy.timings["track_ms"] > 0


@pytest.mark.parametrize("name", ["expert", "oracle_pose", "oracle_video"])
def test_an_oracle_without_a_simulator_says_so(name: str) -> None:
    policy = policies.load_policy(name, TASK.id)()
    policy.reset(TASK, 0)
    with pytest.raises(PolicyError, match="simulator"):
        policy.act(observation(64, 80))


# ---- the floor ------------------------------------------------------------------------------------------------------


def test_random_is_seeded_and_bounded() -> None:
    def run(seed: int) -> list[ActionChunk]:
        policy = policies.load_policy("random", TASK.id)()
        policy.reset(TASK, seed)
        return [policy.act(observation(64, 80)) for _ in range(20)]

    first, again, other = run(3), run(3), run(4)
    for a, b in zip(first, again, strict=True):
        a.check(TASK.arms)
        np.testing.assert_array_equal(a.T_world_ee["right"], b.T_world_ee["right"])
        np.testing.assert_array_equal(a.opening_m["right"], b.opening_m["right"])
    assert not np.array_equal(first[0].T_world_ee["right"], other[0].T_world_ee["right"])
    assert not np.array_equal(first[0].T_world_ee["right"], first[1].T_world_ee["right"])
    places = np.concatenate([c.T_world_ee["right"][:, :3, 3] for c in first])
    assert np.linalg.norm(places - PATH[0, :3, 3], axis=1).max() <= 0.25 + 1e-9
    openings = np.concatenate([c.opening_m["right"] for c in first])
    assert 0 <= openings.min() < TASK.closed_below_m < openings.max() <= MAX_OPENING_M


# ---- generated video ------------------------------------------------------------------------------------------------


def test_a_generator_plans_from_an_observation(checkpoint: Path) -> None:
    factory = load("layered", checkpoint, execute=2)
    assert (factory.policy.privileged, factory.policy.needs_images, factory.policy.needs_checkpoint) == (
        False,
        True,
        True,
    )
    assert len(factory.checkpoint_sha256) == 64
    height, width = factory.image_size or (0, 0)
    policy = factory()
    policy.reset(TASK, 5)
    chunk = policy.act(observation(height, width))
    chunk.check(TASK.arms)
    assert chunk.T_world_ee["right"].shape == (2, 4, 4)
    assert chunk.dt_s == policy.last_video.dt_s
    T_n_ee = policy.last_tracks["right"].T_n_ee
    np.testing.assert_allclose(chunk.T_world_ee["right"], SCENE.T_world_n @ T_n_ee[:2], atol=1e-12)
    assert policy.timings["generate_ms"] > 0
    assert policy.timings["track_ms"] > 0


def test_a_plan_does_not_depend_on_its_company(checkpoint: Path) -> None:
    factory = load("layered", checkpoint)
    size = factory.image_size or (0, 0)
    sights = [observation(*size, seed=s) for s in range(3)]

    def videos(groups: list[list[int]]) -> dict[int, Video4D]:
        found = {}
        for group in groups:
            company = [factory() for _ in group]
            for policy, i in zip(company, group, strict=True):
                policy.reset(TASK, 100 + i)
            company[0].act_many(company, [sights[i] for i in group])
            found |= {i: policy.last_video for policy, i in zip(company, group, strict=True)}
        return found

    together, alone = videos([[0, 1, 2]]), videos([[2], [0], [1]])
    for i in range(3):  # how sums are split may differ in the last bit
        np.testing.assert_allclose(together[i].points, alone[i].points, rtol=0, atol=1e-4)
        assert np.mean(together[i].parts != alone[i].parts) < 0.01
        assert np.abs(together[i].rgb.astype(int) - alone[i].rgb).max() <= 1
    again = videos([[0, 1, 2]])
    for i in range(3):
        np.testing.assert_array_equal(together[i].points, again[i].points)


def test_a_plan_is_sampled_in_the_steps_asked_for(checkpoint: Path) -> None:
    obs, videos = observation(16, 24), {}
    for steps in (None, 1, 3):
        policy = load("layered", checkpoint, steps=steps)()
        policy.reset(TASK, 5)
        policy.act(obs)
        videos[steps] = policy.last_video
    policy.reset(TASK, 5)
    (alone,) = policy.generator.generate([policy.first_frames(obs, TASK)], [policy.next_seed()], steps=3)
    np.testing.assert_array_equal(videos[3].rgb, alone.rgb)
    np.testing.assert_array_equal(videos[None].rgb, videos[1].rgb)  # the preset's own number is 1
    assert not np.array_equal(videos[1].rgb, videos[3].rgb)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps is 0, expected at least 1"):
        GeneratorOptions(steps=0)


def test_every_plan_has_its_own_seed_and_every_rerun_the_same(checkpoint: Path) -> None:
    factory = load("layered", checkpoint)
    policy, again, other = factory(), factory(), factory()
    policy.reset(TASK, 1)
    again.reset(TASK, 1)
    other.reset(TASK, 2)
    seeds = [policy.next_seed() for _ in range(5)]
    assert seeds == [again.next_seed() for _ in range(5)]
    assert len({*seeds, *(other.next_seed() for _ in range(5))}) == 10
    policy.reset(TASK, 1)
    assert policy.next_seed() == seeds[0]


def test_the_generator_is_told_where_the_hand_is(checkpoint: Path) -> None:
    from geo4d_bench.policies.generated import frames_of_observation

    obs = observation(64, 80)
    frames = frames_of_observation(obs, TASK)
    assert frames.hand_mask is not None
    # Independent of the mask's own test: the pixels whose depth is not the wall's.
    np.testing.assert_array_equal(frames.hand_mask, obs.depth[0] < 1.5)
    np.testing.assert_array_equal(frames.points[1], depth_to_points(obs.depth[1], obs.K[1]))
    p_world = transform(obs.T_world_cam_n, frames.p_n_ee[0])
    np.testing.assert_allclose(p_world, obs.T_world_ee[TASK.arms[0]][:3, 3], atol=1e-12)
    assert frames.opening_m.tolist() == [obs.opening_m[TASK.arms[0]]]


def test_settings_are_never_mixed(checkpoint: Path, tmp_path: Path) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    with pytest.raises(ConfigError, match="for the policy 'layered', not 'layered_calibrated'"):
        load("layered_calibrated", checkpoint)
    config = dataclasses.replace(presets().get("layered_debug"), calibrated=True)
    LayeredGenerator(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="not 'layered'"):
        load("layered", tmp_path)
    factory = load("layered_calibrated", tmp_path)
    assert factory.policy.needs_both_poses
    assert not load("layered", checkpoint).policy.needs_both_poses
    policy = factory()
    policy.reset(TASK, 0)
    obs = observation(16, 24)
    with pytest.raises(ConfigError, match="poses of both cameras"):
        policy.act(obs)
    policy.act(dataclasses.replace(obs, T_world_cam_m=SCENE.T_world_m)).check(TASK.arms)


def test_trajectory_regression_acts_on_the_predicted_poses(tmp_path: Path) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    config = dataclasses.replace(
        presets().get("layered_debug"),
        calibrated=True,
        generates_video=False,
        work_centre_m=(0.4, 0.0, 0.3),
    )
    LayeredGenerator(config).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match="for the policy 'trajectory_regression_calibrated', not 'layered_calibrated'"
    ):
        load("layered_calibrated", tmp_path)
    factory = load("trajectory_regression_calibrated", tmp_path, execute=2)
    assert (factory.policy.name, factory.policy.needs_both_poses) == ("trajectory_regression_calibrated", True)
    policy = factory()
    policy.reset(TASK, 5)
    obs = dataclasses.replace(observation(*(factory.image_size or (0, 0))), T_world_cam_m=SCENE.T_world_m)
    chunk = policy.act(obs)
    chunk.check(TASK.arms)
    hands = policy.generator.predict_trajectory([policy.first_frames(obs, TASK)])[0]
    np.testing.assert_allclose(chunk.T_world_ee["right"], SCENE.T_world_n @ hands.T_n_ee[0, :2], atol=1e-12)
    assert chunk.T_world_ee["right"].shape == (2, 4, 4)
    np.testing.assert_array_equal(policy.act(obs).T_world_ee["right"], chunk.T_world_ee["right"])


def test_an_ablation_is_told_from_the_policy(tmp_path: Path) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    LayeredGenerator(presets().get("layered_debug").with_ablation("no_mv_attention")).save_pretrained(tmp_path)
    factory = load("layered", tmp_path)
    assert (factory.policy.name, factory.generator, factory.ablation) == ("layered", "layered", "no_mv_attention")


@pytest.mark.parametrize("ablation", ["svd", "svd_mv"])
def test_there_is_no_policy_of_video_without_depth(tmp_path: Path, ablation: str) -> None:

    from geo4d_bench.model.layered.generator import LayeredGenerator

    LayeredGenerator(presets().get("layered_debug").with_ablation(ablation)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"trained for {ablation}: its video has no depth"):
        load("layered", tmp_path)


def test_images_of_another_size_are_refused(checkpoint: Path) -> None:
    policy = load("layered", checkpoint)()
    policy.reset(TASK, 0)
    with pytest.raises(PolicyError, match=r"64 x 80.*trained at 16 x 24"):
        policy.act(observation(64, 80))


def test_policies_of_two_factories_do_not_share_a_call(checkpoint: Path) -> None:
    pair = [load("layered", checkpoint)() for _ in range(2)]
    for policy in pair:
        policy.reset(TASK, 0)
    with pytest.raises(PolicyError, match="one factory"):
        pair[0].act_many(pair, [observation(16, 24)] * 2)


# ---- the protocol ---------------------------------------------------------------------------------------------------

GOOD = ActionChunk({"right": PATH[:2]}, {"right": OPENINGS[:2]}, 0.4)
SKEWED = PATH[:2] @ np.diag([1.0, 1.1, 1.0, 1.0])
MIRRORED = PATH[:2] @ np.diag([1.0, -1.0, 1.0, 1.0])
FAR = np.zeros((2, 4, 4))
FAR[1, 0, 3] = 1e6


@pytest.mark.parametrize(
    ("chunk", "complaint"),
    [
        (ActionChunk({}, {}, 0.4), "arm 'right' is missing"),
        (ActionChunk({"right": PATH[0]}, {"right": OPENINGS[:1]}, 0.4), r"not \(N, 4, 4\)"),
        (ActionChunk({"right": PATH[:2]}, {"right": OPENINGS[:3]}, 0.4), r"not \(N, 4, 4\)"),
        (ActionChunk({"right": PATH[:0]}, {"right": OPENINGS[:0]}, 0.4), r"not \(N, 4, 4\)"),
        (ActionChunk({"right": PATH[:2] * np.nan}, {"right": OPENINGS[:2]}, 0.4), "not finite"),
        (ActionChunk({"right": PATH[:2]}, {"right": OPENINGS[:2] * np.inf}, 0.4), "not finite"),
        (ActionChunk({"right": SKEWED}, {"right": OPENINGS[:2]}, 0.4), "not orthonormal"),
        (ActionChunk({"right": MIRRORED}, {"right": OPENINGS[:2]}, 0.4), "not orthonormal"),
        (ActionChunk({"right": PATH[:2]}, {"right": OPENINGS[:2]}, 0.0), "dt_s"),
        (ActionChunk({"right": PATH[:2]}, {"right": OPENINGS[:2]}, np.inf), "dt_s"),
        (ActionChunk({"right": PATH[:2] + FAR}, {"right": OPENINGS[:2]}, 0.4), "beyond 100 m at waypoint 1"),
        (ActionChunk({"right": PATH[:2]}, {"right": np.array(["open"])}, 0.4), "no numbers"),
    ],
)
def test_unfit_chunks_are_refused(chunk: ActionChunk, complaint: str) -> None:
    GOOD.check(TASK.arms)
    with pytest.raises(ActionError, match=f"^action chunk of control step 8: .*{complaint}"):
        chunk.check(TASK.arms, 8)
