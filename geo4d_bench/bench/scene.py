"""What ``geo4d-bench bench`` measures of the simulator: rendering, control steps, and tracking of hands."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np

from geo4d_bench import tasks
from geo4d_bench.bench.bench import BenchConfig, Measurement, compared, count, median_seconds
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import load_scene, pack_scene
from geo4d_bench.rollout.assets import make_assets
from geo4d_bench.rollout.simulator import Simulator
from geo4d_bench.rollout.views import resolve
from geo4d_bench.tasks import Task
from geo4d_bench.tasks.base import Command
from geo4d_bench.tasks.rigs import make_rig
from geo4d_bench.tasks.robosuite_task import RobosuiteTask
from geo4d_bench.trackers import TRACKERS

HEIGHT, WIDTH = 256, 320


def render(config: BenchConfig) -> list[Measurement]:
    """Sixteen cameras, colour, depth and labels, against what robosuite's camera observations do for the same."""
    task = tasks.make(config.task)
    cameras = make_rig("hemisphere16", task.spec.workspace).episode(task.spec.key, "train", 0).cameras
    states = _states(task)
    nothing = load_scene(pack_scene("<mujoco/>"))
    with Renderer(make_assets(task).scene, HEIGHT, WIDTH) as renderer, Renderer(nothing, HEIGHT, WIDTH) as floor:
        reference = _robosuite_render(task.scene_xml(), cameras)
        mine, its = itertools.cycle(states), itertools.cycle(states)
        ours, theirs, empty = median_seconds(
            config.repeats,
            lambda: renderer.render(next(mine), cameras),
            lambda: reference(next(its)),
            lambda: floor.render(None, cameras),
        )
    name = f"render {task.spec.key}, {len(cameras)} views RGB-D + labels {HEIGHT}x{WIDTH}"
    return [
        compared(name, 1e3 * ours, "ms", 1e3 * theirs),
        Measurement(f"{name}, above an empty scene's", 1e3 * (ours - empty), "ms"),
    ]


def rollout(config: BenchConfig) -> list[Measurement]:
    """A control step and a reset without images, against robosuite's own environment on the same model; and the
    step together with the expert's decision through a whole episode, contacts and all."""
    steps = 20
    task = tasks.make(config.task)
    task.reset(0, "eval")
    hold = Command(task.ee_poses(), task.openings())
    action = task.action(hold)
    if not isinstance(task, RobosuiteTask):
        raise ConfigError(f"bench rollout: {task.spec.key} has no robosuite environment to compare with")
    env = task.robosuite_environment()
    env.reset()

    def repeat(step: Callable[[Any], object], argument: Any) -> None:
        for _ in range(steps):
            step(argument)

    ours_s, theirs_s = median_seconds(config.repeats, lambda: repeat(task.step, hold), lambda: repeat(env.step, action))
    reset_s, their_reset_s = median_seconds(config.repeats, lambda: task.reset(0, "eval"), env.reset)
    of = f"{task.spec.key}, {count(len(task.spec.arms), 'arm')}"
    step_ms, their_step_ms = 1e3 * ours_s / steps, 1e3 * theirs_s / steps
    return [
        compared(f"rollout control step, {of}", step_ms, "ms", their_step_ms),
        compared(f"rollout reset, {of}", 1e3 * reset_s, "ms", 1e3 * their_reset_s),
        Measurement(f"rollout control step with its expert, {of}", _expert_step_ms(task), "ms"),
    ]


def track(config: BenchConfig) -> list[Measurement]:
    """Every hand through ten true frames of two views; a rollout has nothing of its own kind to compare with."""
    simulator = simulator_of(config.task, (64, 80))
    video = simulator.expert_future(10, 0.4, video=True).video
    assert video is not None
    T_n_world = np.linalg.inv(simulator.cameras[0].T_world_cam)
    poses, openings = simulator.task.ee_poses(), simulator.task.openings()
    tracker = TRACKERS.get(config.tracker)(simulator.assets.hand)

    def work() -> None:
        for index, arm in enumerate(simulator.task.spec.arms):
            tracker.track(video, T_n_world @ poses[arm], openings[arm], index)

    (seconds,) = median_seconds(config.repeats, work)
    name = f"{config.tracker}: track {count(len(poses), 'hand')}, one frame of 2 views 64x80"
    return [Measurement(name, 1e3 * seconds / video.rgb.shape[1], "ms")]


def simulator_of(task_name: str, image_size: tuple[int, int]) -> Any:
    """A task's simulator at the start of an episode, seen by a pair of novel cameras."""
    task = tasks.make(task_name)
    assets = make_assets(task)
    assets = dataclasses.replace(assets, renderer=Renderer(assets.scene, *image_size))
    simulator = Simulator(task, "eval", resolve("novel", make_rig("hemisphere16", task.spec.workspace)), assets)
    simulator.begin(1000)
    return simulator


def _states(task: Task) -> list[np.ndarray[Any, Any]]:
    """Moments half a second apart while the expert acts: a picture of one moment drawn again could be remembered."""
    task.reset(0, "eval")
    expert, states = task.expert(), []
    for step in range(round(4 * task.spec.control_hz)):
        if step % round(task.spec.control_hz / 2) == 0:
            states.append(task.physics_state())
        task.step(expert.command())
    return states


def _robosuite_render(xml: str, cameras: tuple[Camera, ...]) -> Callable[[np.ndarray[Any, Any]], object]:
    """The calls that robosuite's camera observables make: colour with depth, then labels, a camera at a time."""
    import mujoco
    from robosuite.utils.binding_utils import MjRenderContextOffscreen, MjSim
    from robosuite.utils.camera_utils import get_real_depth_map

    root = ET.fromstring(xml)
    world = root.find("worldbody")
    assert world is not None
    for camera in cameras:
        T = camera.T_world_cam
        position, axes = (" ".join(map(str, v)) for v in (T[:3, 3], [*T[:3, 0], *-T[:3, 1]]))  # MuJoCo's y points up
        fovy_rad = 2.0 * np.arctan2(0.5 * HEIGHT, camera.K(HEIGHT, WIDTH)[1, 1])
        name, fovy = f"bench_{camera.name}", str(np.degrees(fovy_rad))
        ET.SubElement(world, "camera", name=name, pos=position, xyaxes=axes, fovy=fovy)
    sim = MjSim.from_xml_string(ET.tostring(root, encoding="unicode"))
    context = MjRenderContextOffscreen(sim, device_id=-1)
    sim.add_render_context(context)

    def work(state: np.ndarray[Any, Any]) -> None:
        model, data = sim.model._model, sim.data._data
        mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for update in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
            update(model, data)
        context.gl_ctx.make_current()  # ours was used in between, and robosuite does not check
        for camera in cameras:
            name = f"bench_{camera.name}"
            _, depth = sim.render(camera_name=name, width=WIDTH, height=HEIGHT, depth=True)
            get_real_depth_map(sim, depth)
            sim.render(camera_name=name, width=WIDTH, height=HEIGHT, segmentation=True)

    return work


def _expert_step_ms(task: Task) -> float:
    """Median over the control steps of one episode, milliseconds."""
    task.reset(0, "eval")
    expert, times = task.expert(), []
    for _ in range(round(task.spec.max_seconds * task.spec.control_hz)):
        began = time.perf_counter()
        task.step(expert.command())
        times.append(time.perf_counter() - began)
        if task.success()["task"]:
            break
    return 1e3 * statistics.median(times)
