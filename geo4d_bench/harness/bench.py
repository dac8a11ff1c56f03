"""Speed, measured beside a reference in the same run, so that a number means the same on every machine."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tyro.conf import Positional

from geo4d_bench.errors import ConfigError

if TYPE_CHECKING:
    from geo4d_bench.dataset.windows import Windows
    from geo4d_bench.geometry import Camera
    from geo4d_bench.tasks.base import Task

What = Literal["render", "rollout", "generate", "track", "load", "train"]
WARM_UP = 2
HEIGHT, WIDTH = 256, 320


@dataclass(frozen=True)
class BenchConfig:
    what: Positional[What]
    """What to measure."""
    out: Path = Path("runs/bench")
    """Folder of bench.csv; rows of other measurements in it are kept."""
    repeats: int = 7
    """Measurements of each number, after a warm-up; their median is reported."""
    task: str = "store_cereal"
    """Task whose scene, data and checkpoint are used."""
    data: Path | None = None
    """Dataset of load; data/<task> where not given."""
    robomimic: Path | None = None
    """Python that has robomimic, to compare load with; 'make test-exports' makes build/exports/robomimic/bin/python."""
    checkpoint: Path | None = None
    """Generator of generate; runs/<task>/nano where not given."""

    def __post_init__(self) -> None:
        if self.repeats < 5:
            raise ConfigError(f"--repeats is {self.repeats}, expected at least 5: a median of fewer says little")


@dataclass(frozen=True)
class Measurement:
    """One line of bench.csv.

    Attributes:
        value: median, in ``unit``.  reference: the same work done another way, in the same unit, in the same run.
        ratio: how many times better than the reference (above 1 is better than it). Both NaN where there is nothing
            to compare with.
        command: what makes this line again.
    """

    name: str
    value: float
    unit: str
    reference: float
    ratio: float
    command: str


@dataclass(frozen=True)
class Bench:
    """What was measured, and where it is written."""

    rows: tuple[Measurement, ...]
    out: Path

    def __str__(self) -> str:
        lines = []
        for row in self.rows:
            compared = "" if math.isnan(row.ratio) else f"  reference {row.reference:.4g}, ratio {row.ratio:.2f}"
            lines.append(f"{row.name:<46} {row.value:10.4g} {row.unit:<12}{compared}")
        return "\n".join([*lines, f"written: {self.out}"])


def run(config: BenchConfig) -> Bench:
    """Measure, and put the lines into ``out``/bench.csv in place of earlier ones of the same names.

    Raises:
        ConfigError: too few repeats.  DatasetError, CheckpointError: ``load`` or ``generate`` lacks its input.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    measure = {
        "render": _render, "rollout": _rollout, "load": _load, "train": _train, "generate": _generate, "track": _track
    }  # fmt: skip
    rows = tuple(measure[config.what](config))
    path = config.out / "bench.csv"
    _write(path, rows)
    return Bench(rows, path)


def median_seconds(repeats: int, *works: Callable[[], object]) -> tuple[float, ...]:
    """Median wall time of each of ``works`` after a warm-up, taking turns, so that a busy machine slows all alike."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(WARM_UP + repeats):
        for work, measured in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            if turn >= WARM_UP:
                measured.append(time.perf_counter() - began)
    return tuple(statistics.median(measured) for measured in times)


def _row(
    config: BenchConfig, name: str, value: float, unit: str, reference: float, more_is_better: bool
) -> Measurement:
    ratio = value / reference if more_is_better else reference / value
    return Measurement(name, value, unit, reference, ratio, _command(config))


def _alone(config: BenchConfig, name: str, value: float, unit: str) -> Measurement:
    """A number that has nothing of its own kind to compare with."""
    return Measurement(name, value, unit, math.nan, math.nan, _command(config))


def _command(config: BenchConfig) -> str:
    given = {"robomimic": config.robomimic, "data": config.data, "checkpoint": config.checkpoint}
    read = {"load": ("data", "robomimic"), "generate": ("checkpoint",)}.get(config.what, ())
    options = "".join(f" --{name} {given[name]}" for name in read if given[name] is not None)
    return f"geo4d-bench bench {config.what} --task {config.task}{options}"


def _render(config: BenchConfig) -> list[Measurement]:
    """Sixteen cameras, colour, depth and labels, against what robosuite's camera observations do for the same."""
    from geo4d_bench import tasks
    from geo4d_bench.harness.stage import make_stage
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rendering.scene import load_scene, pack_scene
    from geo4d_bench.tasks.rigs import make_rig

    task = tasks.make(config.task)
    cameras = make_rig("hemisphere16", task.spec.workspace).episode(task.spec.key, "train", 0).cameras
    states = _states(task)
    nothing = load_scene(pack_scene("<mujoco/>"))
    with Renderer(make_stage(task).scene, HEIGHT, WIDTH) as renderer, Renderer(nothing, HEIGHT, WIDTH) as floor:
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
        _row(config, name, 1e3 * ours, "ms", 1e3 * theirs, more_is_better=False),
        _alone(config, f"{name}, above an empty scene's", 1e3 * (ours - empty), "ms"),
    ]


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
        x, y = camera.T_world_cam[:3, 0], -camera.T_world_cam[:3, 1]  # MuJoCo's y points up in the image
        ET.SubElement(
            world,
            "camera",
            name=f"bench_{camera.name}",
            pos=" ".join(map(str, camera.T_world_cam[:3, 3])),
            xyaxes=" ".join(map(str, [*x, *y])),
            fovy=str(np.degrees(camera.fovy_rad)),
        )
    sim = MjSim.from_xml_string(ET.tostring(root, encoding="unicode"))
    context = MjRenderContextOffscreen(sim, device_id=-1)
    sim.add_render_context(context)

    def work(state: np.ndarray[Any, Any]) -> None:
        mujoco.mj_setState(sim.model._model, sim.data._data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_kinematics(sim.model._model, sim.data._data)
        mujoco.mj_comPos(sim.model._model, sim.data._data)
        mujoco.mj_camlight(sim.model._model, sim.data._data)
        context.gl_ctx.make_current()  # ours was used in between; robosuite never asks whose turn it is
        for camera in cameras:
            name = f"bench_{camera.name}"
            _, depth = sim.render(camera_name=name, width=WIDTH, height=HEIGHT, depth=True)
            get_real_depth_map(sim, depth)
            sim.render(camera_name=name, width=WIDTH, height=HEIGHT, segmentation=True)

    return work


def _rollout(config: BenchConfig) -> list[Measurement]:
    """A control step and a reset without images, against robosuite's own environment on the same model; and the
    step together with the expert's decision through a whole episode, contacts and all."""
    from geo4d_bench import tasks
    from geo4d_bench.tasks.base import Command
    from geo4d_bench.tasks.robosuite_task import RobosuiteTask

    steps = 20
    task = tasks.make(config.task)
    task.reset(0, "eval")
    hold = Command(task.ee_poses(), task.openings())
    action = task.action(hold)
    if not isinstance(task, RobosuiteTask):
        raise ConfigError(f"bench rollout: {task.spec.key} has no robosuite environment to compare with")
    env = task.robosuite_environment()
    env.reset()

    def ours() -> None:
        for _ in range(steps):
            task.step(hold)

    def theirs() -> None:
        for _ in range(steps):
            env.step(action)

    ours_s, theirs_s = median_seconds(config.repeats, ours, theirs)
    reset_s, their_reset_s = median_seconds(config.repeats, lambda: task.reset(0, "eval"), env.reset)
    of = f"{task.spec.key}, {_count(len(task.spec.arms), 'arm')}"
    step_ms, their_step_ms = 1e3 * ours_s / steps, 1e3 * theirs_s / steps
    return [
        _row(config, f"rollout control step, {of}", step_ms, "ms", their_step_ms, more_is_better=False),
        _row(config, f"rollout reset, {of}", 1e3 * reset_s, "ms", 1e3 * their_reset_s, more_is_better=False),
        _alone(config, f"rollout control step with its expert, {of}", _expert_step_ms(task), "ms"),
    ]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


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


def _generate(config: BenchConfig) -> list[Measurement]:
    """Plans of the generator: against the time that the robot takes to carry out what is executed of them, by steps
    against 25, by views against generating pair by pair."""
    import torch

    from geo4d_bench.geometry.rig import Rig
    from geo4d_bench.harness import bench_model
    from geo4d_bench.harness.rollout import RolloutConfig
    from geo4d_bench.model.backbones import load_generator
    from geo4d_bench.model.generator import Generator
    from geo4d_bench.tasks.rigs import make_rig

    settings = RolloutConfig(task=config.task, checkpoint=config.checkpoint)
    torch.set_num_threads(os.cpu_count() or 1)
    generator = load_generator(settings.checkpoint_folder)
    if not generator.config.draws:
        raise ConfigError(f"{settings.checkpoint_folder}: was trained for pose_regression, which generates nothing")
    c = generator.config
    simulator = _simulator(config, (c.height, c.width))
    rig = make_rig("hemisphere16", simulator.task.spec.workspace)
    assert isinstance(rig, Rig)
    pairs = bench_model.first_frames_of_pairs(simulator, list(rig.views("seen"))[: max(bench_model.VIEWS)])
    seconds = functools.partial(median_seconds, config.repeats)
    by_steps = bench_model.plan_seconds(generator, pairs[0], seconds)
    # The other backbone generates two views.
    by_views = bench_model.view_seconds(generator, pairs, seconds) if isinstance(generator, Generator) else {}
    frames = f"{c.frames} frames"
    size = f"{c.height}x{c.width}"
    executed_ms = 1e3 * settings.execute * c.dt_s
    rows = [
        _row(config, f"generate one plan, {frames} x 2 views {size}", 1e3 * by_steps[1], "ms", executed_ms, False),
    ]
    for steps, took in by_steps.items():
        name = f"generate one plan of {_count(steps, 'step')}, {frames} x 2 views {size}"
        rows.append(_row(config, name, 1e3 * took, "ms", 1e3 * by_steps[max(by_steps)], False))
    for views, took in by_views.items():
        name = f"generate {views} views in one pass, {frames} {size}"
        rows.append(_row(config, name, 1e3 * took, "ms", 1e3 * (views - 1) * by_views[2], False))
    return rows


def _train(config: BenchConfig) -> list[Measurement]:
    """One pass for both views and modalities against four passes through the same network."""
    from geo4d_bench.harness import bench_model

    one, four = bench_model.training_seconds("nano", functools.partial(median_seconds, config.repeats))
    name = "train nano, 2 views and 2 modalities in one pass"
    return [_row(config, name, bench_model.BATCH / one, "samples/s", bench_model.BATCH / four, more_is_better=True)]


def _track(config: BenchConfig) -> list[Measurement]:
    """Every hand through ten true frames of two views; a rollout has nothing of its own kind to compare with."""
    from geo4d_bench.policies.trackers import PointTracker

    simulator = _simulator(config, (64, 80))
    future = simulator.expert_future(10, 0.4, video=True)
    video = future.video
    assert video is not None
    T_n_world = np.linalg.inv(simulator.cameras[0].T_world_cam)
    poses, openings = simulator.task.ee_poses(), simulator.task.openings()
    tracker = PointTracker(simulator.stage.hand)

    def work() -> None:
        for index, arm in enumerate(simulator.task.spec.arms):
            tracker.track(video, T_n_world @ poses[arm], openings[arm], index)

    (seconds,) = median_seconds(config.repeats, work)
    name = f"track {_count(len(poses), 'hand')}, one frame of 2 views 64x80"
    return [_alone(config, name, 1e3 * seconds / video.rgb.shape[1], "ms")]


def _simulator(config: BenchConfig, image_size: tuple[int, int]) -> Any:
    from geo4d_bench import tasks
    from geo4d_bench.harness.simulator import Simulator
    from geo4d_bench.harness.stage import make_stage
    from geo4d_bench.harness.views import resolve
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.tasks.rigs import make_rig

    task = tasks.make(config.task)
    stage = make_stage(task)
    stage = dataclasses.replace(stage, renderer=Renderer(stage.scene, *image_size))
    simulator = Simulator(task, "eval", resolve("novel", make_rig("hemisphere16", task.spec.workspace)), stage)
    simulator.begin(1000)
    return simulator


def _load(config: BenchConfig) -> list[Measurement]:
    """Training windows read from the dataset, against copying arrays of the same size in memory."""
    from geo4d_bench.dataset.windows import Windows

    folder, number = config.data or Path("data") / config.task, 32
    packed, memory = Windows(folder, "seen", remember_bytes=0), Windows(folder, "seen")
    for _, episode in packed.episodes:  # opened once in a training
        for camera in packed.cameras:
            episode.K(camera)
    for index in range(len(memory.episodes)):
        for n, m in itertools.pairwise(memory.cameras):
            memory.window(index, 0, n, m)
    window = packed.sample(np.random.default_rng(0))
    arrays = [value for value in vars(window).values() if isinstance(value, np.ndarray)]
    rng = np.random.default_rng(0)
    from_file, from_memory, copy = median_seconds(
        config.repeats,
        lambda: [packed.sample(rng) for _ in range(number)],
        lambda: [memory.sample(rng) for _ in range(number)],
        lambda: [[a.copy() for a in arrays] for _ in range(number)],
    )
    ours = {"images in memory": number / from_memory, "images from files": number / from_file}
    references = {"a copy": number / copy}
    if config.robomimic is not None:
        if not config.robomimic.is_file():
            raise ConfigError(f"--robomimic {config.robomimic} is not there; 'make test-exports' makes one")
        references["robomimic"] = number / _robomimic_seconds(packed, number, config.repeats, config.robomimic)
    return [
        _row(config, f"load windows, {how}, against {what}", value, "windows/s", reference, more_is_better=True)
        for what, reference in references.items()
        for how, value in ours.items()
    ]


def _robomimic_seconds(windows: Windows, number: int, repeats: int, python: Path) -> float:
    """Median time of robomimic's loader for sequences of as many frames: RGB, depth and labels of two cameras of the
    same episodes, stored as ``export`` stores images for it (gzip, a chunk a frame). It makes no points, no masks."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "robomimic.hdf5"
        with h5py.File(path, "w") as file:
            for index, (_, episode) in enumerate(windows.episodes):
                demo = file.create_group(f"data/demo_{index}")
                count = len(episode.steps)
                demo.attrs["num_samples"] = count
                demo["actions"] = episode.trajectory.actions[episode.steps]
                for camera in windows.cameras[:2]:
                    for name, kind in (("rgb", "image"), ("depth", "depth"), ("seg", "labels")):
                        images = episode.file[f"views/{camera}/{name}"][()]
                        images = images.reshape(*images.shape[:3], -1)
                        demo.create_dataset(
                            f"obs/{camera}_{kind}", data=images, chunks=(1, *images.shape[1:]), compression="gzip"
                        )
        script = Path(__file__).with_name("robomimic_loader.py")
        numbers = map(str, (windows.horizon + 1, number, repeats))
        done = subprocess.run([python, "-W", "ignore", script, path, *numbers], capture_output=True, text=True)
    if done.returncode != 0:
        raise ConfigError(f"--robomimic {python}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    return float(statistics.median(json.loads(done.stdout.strip().splitlines()[-1])))


def _write(path: Path, rows: tuple[Measurement, ...]) -> None:
    columns = [f.name for f in dataclasses.fields(Measurement)]
    kept: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            kept = [line for line in csv.DictReader(file) if line.get("command") != rows[0].command]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("bench.csv.new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        for row in rows:
            cells = dataclasses.asdict(row)
            writer.writerow(
                {k: ("" if math.isnan(v) else f"{v:.5g}") if isinstance(v, float) else v for k, v in cells.items()}
            )
    fresh.replace(path)
