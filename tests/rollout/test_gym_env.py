"""The Gymnasium ids: pass Gymnasium's own checker, show no object, end as they should, and see what rollouts see."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pickle
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.spatial.transform import Rotation

from geo4d_bench import tasks
from geo4d_bench.errors import ActionError, ConfigError, Geo4DError, UnknownNameError
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rollout.assets import make_assets
from geo4d_bench.rollout.gym_env import TaskEnv
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.rollout.views import resolve
from geo4d_bench.tasks.rigs import make_rig

ID = "geo4d_bench.tasks:geo4d/StoreCereal-v1"
SMALL = {"obs": "rgbd", "height": 16, "width": 24}
PROPRIOCEPTION = {"right_position", "right_rotvec", "right_opening"}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "gymnasium.md"


@pytest.fixture(scope="module")
def simulation() -> tasks.Task:
    return tasks.make("store_cereal")


@pytest.fixture
def env(simulation: tasks.Task) -> Iterator[gymnasium.Env[Any, Any]]:
    made = gymnasium.make(ID, simulation=simulation)
    yield made
    made.close()


def hold(observation: dict[str, Any]) -> np.ndarray:
    """The action that stays where the hand is."""
    return np.concatenate([observation[f"right_{k}"] for k in ("position", "rotvec", "opening")], axis=-1)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("arguments", [{}, SMALL | {"views": ("cam05", "cam00")}], ids=["state", "rgbd"])
def test_it_passes_gymnasiums_checker(arguments: dict[str, Any]) -> None:
    env = gymnasium.make(ID, render_mode="rgb_array", **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Metres and radians are meant: a normalised action would hide the units that datasets and policies share.
        warnings.filterwarnings("ignore", message=".*recommend using a symmetric and normalized space")
        check_env(env.unwrapped)


@pytest.mark.parametrize("task", tasks.names())
def test_each_task_is_registered_with_its_time(task: str) -> None:
    spec = tasks.spec(task)
    (found,) = [each for each in gymnasium.registry.values() if each.kwargs.get("task") == task]
    assert found.id == f"geo4d/{tasks.TASKS.get(task).__name__}-{spec.version}"
    assert found.max_episode_steps == spec.max_seconds * spec.control_hz
    assert found.kwargs == {"task": task}
    assert TaskEnv(task).metadata["render_fps"] == spec.control_hz


def test_the_expert_is_paid_once_and_ends_the_episode(env: gymnasium.Env[Any, Any]) -> None:
    env.reset(seed=1002, options={"split": "eval"})
    inner = env.unwrapped
    assert isinstance(inner, TaskEnv)
    expert, rewards, terminated, truncated, info = inner.simulation.expert(), [], False, False, {}
    while not (terminated or truncated):
        command = expert.command()
        T = command.T_world_ee["right"]
        rotvec = Rotation.from_matrix(T[:3, :3]).as_rotvec()
        action = np.concatenate([T[:3, 3], rotvec, [command.opening_m["right"]]])
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
    assert terminated
    assert (info["is_success"], info["phase"], info["failure"]) == (True, "task", None)
    assert rewards[-1] == 1.0
    assert sum(rewards) == 1.0


def test_the_same_seed_gives_the_same_episode_and_no_seed_a_new_one(env: gymnasium.Env[Any, Any]) -> None:
    first, _ = env.reset(seed=7)
    assert set(first) == PROPRIOCEPTION
    second, _ = env.reset()
    again, _ = env.reset(seed=7)
    second_again, _ = env.reset()
    assert_same(first, again)
    assert_same(second, second_again)
    assert not np.array_equal(first["right_position"], second["right_position"])


def test_an_idle_episode_is_cut_off(simulation: tasks.Task) -> None:
    env = gymnasium.make(ID, simulation=simulation, max_episode_steps=3)
    observation, _ = env.reset(seed=0)
    ends = [env.step(hold(observation))[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


@pytest.mark.parametrize(("views", "rooms"), [("novel", "fixed"), (("cam09", "cam03"), "held_out")])
def test_an_episode_shows_what_a_rollout_with_its_seed_sees(simulation: tasks.Task, views: Any, rooms: Any) -> None:
    env = gymnasium.make(ID, simulation=simulation, **SMALL, views=views, rooms=rooms)
    observation, _ = env.reset(seed=1003, options={"split": "eval"})
    assert set(observation) == PROPRIOCEPTION | {"rgb", "depth", "K", "T_world_cam"}
    for _ in range(2):
        observation = env.step(hold(observation))[0]
    assets = make_assets(simulation, rooms)
    with Renderer(assets.scene, 16, 24) as renderer:
        rig = make_rig("hemisphere16", simulation.spec.workspace)
        assets = dataclasses.replace(assets, renderer=renderer)
        played = Simulator(simulation, "eval", resolve("novel", rig), assets, rooms=rooms)
        state = simulation.snapshot()
        played.begin(1003)
        if views != "novel":
            named = {camera.name: camera for camera in rig.cameras}
            played.cameras = (named["cam09"], named["cam03"])
            played.told = [camera.T_world_cam for camera in played.cameras]
        simulation.restore(state)
        seen = played.observe(both_poses=True)
    np.testing.assert_array_equal(observation["rgb"], seen.rgb)
    np.testing.assert_array_equal(observation["depth"], np.nan_to_num(seen.depth, nan=0.0))
    assert (observation["depth"] > 0.3).mean() > 0.1
    np.testing.assert_array_equal(observation["K"], seen.K)
    np.testing.assert_array_equal(observation["T_world_cam"], [seen.T_world_cam_n, seen.T_world_cam_m])
    env.close()


def test_closing_frees_what_was_made_and_a_pickle_makes_it_anew(simulation: tasks.Task) -> None:
    env = gymnasium.make(ID, **SMALL, render_mode="rgb_array")
    observation, _ = env.reset(seed=5)
    picture = env.render()
    inner = env.unwrapped
    assert isinstance(inner, TaskEnv)
    renderers = list(inner._renderers.values())
    copy = pickle.loads(pickle.dumps(env))
    env.close()
    assert len(renderers) == 2
    assert not any(renderer._finalizer.alive for renderer in renderers)
    with pytest.raises(gymnasium.error.ResetNeeded):
        inner.step(hold(observation))
    env.close()
    assert copy.spec == env.spec
    copy.unwrapped._simulation = simulation  # spares the time to build a third one
    assert_same(copy.reset(seed=5)[0], observation)
    np.testing.assert_array_equal(copy.render(), picture)
    copy.close()


def test_vector_environments_of_both_kinds_show_the_same() -> None:
    found = []
    for mode, context in (("sync", {}), ("async", {"context": "spawn"})):
        envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, vector_kwargs=context, **SMALL)
        first, _ = envs.reset(seed=[3, 4], options={"split": "eval"})
        first = {name: values.copy() for name, values in first.items()}
        second, reward, *_ = envs.step(hold(first))
        found.append((first, {name: values.copy() for name, values in second.items()}, reward))
        envs.close()
    (a, b, _), (c, d, _) = found
    assert_same(a, c)
    assert_same(b, d)
    assert not np.array_equal(a["rgb"][0], a["rgb"][1])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"obs": "rgb"}, ConfigError, "'state' or 'rgbd'"),
        ({"render_mode": "human"}, ConfigError, "rgb_array"),
        ({"rooms": "heldout"}, UnknownNameError, "did you mean 'held_out'"),
        ({"height": 0}, ConfigError, "height"),
        ({"views": "sen"}, UnknownNameError, "seen"),
        ({"views": ("cam00", "cam00")}, ConfigError, "two cameras"),
        ({"views": ("cam00", "cam99")}, ConfigError, "cam15"),
        ({"rig": "hemisphere"}, UnknownNameError, "hemisphere16"),
    ],
)
def test_arguments_are_refused_before_anything_is_built(
    arguments: dict[str, Any], error: type[Geo4DError], words: str
) -> None:
    with pytest.raises(error, match=words):
        TaskEnv("store_cereal", **arguments)


@pytest.mark.parametrize("options", [{"split": "test"}, {"spilt": "eval"}])
def test_options_of_reset_are_refused(env: gymnasium.Env[Any, Any], options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"'train' or 'eval', got .*(test|spilt)"):
        env.reset(options=options)


HERE = np.array([0.0, 0.0, 1.2, np.pi, 0.0, 0.0, 0.04])


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        (np.full(7, np.nan), "x of arm 'right' is nan, expected -2 to 2"),
        (np.where(np.arange(7) == 4, np.inf, HERE), "rotation y of arm 'right' is inf, expected -3.14159 to 3.14159"),
        (HERE + np.eye(7)[2], "z of arm 'right' is 2.2, expected -2 to 2"),
        (HERE * [1, 1, 1, 1, 1, 1, -1], "opening of arm 'right' is -0.04, expected 0 to 0.08"),
        (HERE[:6], r"shape \(6,\), expected \(7,\)"),
        (HERE[None], r"shape \(1, 7\), expected \(7,\)"),
        (["up"] * 7, "could not convert string to float"),
        (None, r"shape \(\), expected \(7,\)"),
    ],
)
def test_an_action_that_is_none_is_named_and_changes_nothing(
    simulation: tasks.Task, action: Any, complaint: str
) -> None:
    inner = TaskEnv("store_cereal", simulation)
    inner.reset(seed=0)
    inner.step(HERE.astype(np.float32))  # whose pi is more than float64's
    before = simulation.physics_state()
    with pytest.raises(ActionError, match=f"^step 1: .*{complaint}"):
        inner.step(action)
    assert np.array_equal(simulation.physics_state(), before)


@pytest.mark.parametrize(
    ("target", "opening", "complaint"),
    [
        (np.full((4, 4), np.nan), 0.04, "values that are not finite"),
        (pose(2.0 * np.eye(3)), 0.04, "a rotation that is not orthonormal"),
        (pose(None, (0.0, 1e9, 0.0)), 0.04, "a position beyond 100 m"),
        (np.eye(3), 0.04, r"got \(3, 3\) and 0.04"),
        (np.eye(4), np.nan, r"got \(4, 4\) and nan"),
        (np.eye(4), "open", "could not convert string to float"),
    ],
)
def test_a_target_that_no_robot_can_be_sent_to_is_named(
    simulation: tasks.Task, target: Any, opening: Any, complaint: str
) -> None:
    simulation.reset(0, "train")
    simulation.step(simulation.expert().command())
    with pytest.raises(ActionError, match=f"^control step 1, arm 'right': .*{complaint}"):
        simulation.step(tasks.Command({"right": target}, {"right": opening}))


def test_films_are_recorded(simulation: tasks.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Gymnasium's own wrapper; its encoder, moviepy, is no dependency: one that keeps the frames stands for it."""
    films: list[tuple[list[np.ndarray], float]] = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: float) -> None:
            films.append((frames, fps))

        def write_videofile(self, path: str, logger: object) -> None:
            Path(path).touch()

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["moviepy.video.io.ImageSequenceClip"].ImageSequenceClip = Clip  # type: ignore[attr-defined]
    made = gymnasium.make(ID, simulation=simulation, render_mode="rgb_array")
    env = gymnasium.wrappers.RecordVideo(made, str(tmp_path / "films"), episode_trigger=lambda _: True)
    observation, _ = env.reset(seed=0)
    env.step(hold(observation))
    env.close()
    ((frames, fps),) = films
    assert fps == 20
    assert [frame.shape for frame in frames] == [(256, 320, 3)] * 2
    assert all(frame.dtype == np.uint8 and frame.std() > 20 for frame in frames)


def test_the_example_of_the_documentation_runs() -> None:
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
    assert code
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code[1], {})
    assert said.getvalue() == "False start 0.0 (2, 64, 80, 3) (2, 64, 80)\n"
