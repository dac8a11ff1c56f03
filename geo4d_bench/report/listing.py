"""``geo4d-bench tasks``: what there is to choose from, in words and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from geo4d_bench import tasks
from geo4d_bench.drawing import Image, figure
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, look_at
from geo4d_bench.geometry.rig import DrawnRig, PerturbedRig, PlayedRig, Rig
from geo4d_bench.geometry.room import RoomsName, draw_room
from geo4d_bench.report.pictures import task_sheet
from geo4d_bench.tasks import Task, TaskSpec
from geo4d_bench.tasks.base import Spawn
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rigs import RIGS, make_rig, played_rig

PREVIEW_RIG = "hemisphere16"
PREVIEW_SIZE = (176, 220)
"""Height and width in pixels of one camera's picture."""
PICTURES = (".png", ".jpg", ".jpeg")
ROOM_EPISODES: dict[RoomsName, int] = {"fixed": 1, "varied": 3, "held_out": 3}
ROOM_CAMERAS, ROOM_SIZE = (6, 13), (120, 150)
SPAWN_EPISODES = 40
SPAWN_PIXELS = 640
HALF_WIDTH_M = 0.55
"""Half of what the picture shows, at the height of the workspace."""
_HEIGHT_M = 6.0
"""The camera hangs this far above the workspace: so high that what is tall hardly leans."""
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#AA4499", "#E69F00", "#56B4E9")


@dataclass(frozen=True)
class TasksConfig:
    """List the tasks and camera rigs, or draw the tasks."""

    task: str | None = None
    """List or draw only this one."""
    preview: Path | None = None
    """Also draw each task from all 16 cameras of hemisphere16 into this picture (.png)."""
    rooms: Path | None = None
    """Also draw each task in rooms of every set into this picture (.png)."""
    spawns: Path | None = None
    """Also draw where each task's objects start, from above, into this picture (.png)."""

    def __post_init__(self) -> None:
        for option, path in (("preview", self.preview), ("rooms", self.rooms), ("spawns", self.spawns)):
            if path is not None and path.suffix.lower() not in PICTURES:
                raise ConfigError(f"--{option} {path}: expected a file name that ends in {', '.join(PICTURES)}")


@dataclass(frozen=True)
class Listing:
    """The tasks that were asked for, all rigs as placed about the first one's workspace, and pictures if any."""

    tasks: tuple[TaskSpec, ...]
    rigs: tuple[PlayedRig, ...]
    pictures: tuple[Path, ...]

    def __str__(self) -> str:
        lines = ["tasks"]
        for spec in self.tasks:
            arms = f"{len(spec.arms)} arm{'s' if len(spec.arms) > 1 else ''}"
            lines.append(
                f"  {spec.name}  ({spec.version}, {arms}, {spec.control_hz:g} Hz, at most {spec.max_seconds:g} s)"
            )
            lines += [f"    {spec.language}", f"    phases: {' → '.join(spec.phases)}"]
        protocol = next(rig for rig in self.rigs if isinstance(rig, Rig) and rig.views("seen"))
        lines += ["rigs", *(f"  {_described(rig, protocol)}" for rig in self.rigs)]
        lines += [f"picture: {path}" for path in self.pictures]
        return "\n".join([*lines, f"next: geo4d-bench datagen --task {self.tasks[0].name}"])


def run(config: TasksConfig) -> Listing:
    """List tasks and rigs without building a simulation; with a picture asked for, build each task and draw it.

    Raises:
        UnknownNameError: no such task.  SceneError: this machine cannot render.
    """
    chosen = [config.task] if config.task else tasks.names()
    specs = tuple(map(tasks.spec, chosen))
    # Later versions look like the first.
    scenes = tuple(spec for name, spec in zip(chosen, specs, strict=True) if name == spec.id) or specs
    draws = ((_preview, scenes, config.preview), (_rooms, scenes, config.rooms), (_spawn_map, specs, config.spawns))
    if any(path is not None for *_, path in draws):
        from geo4d_bench.rendering.opengl import require_opengl

        require_opengl()
    pictures = []
    for draw, shown, path in draws:
        if path is not None:
            draw(shown, path)
            pictures.append(path)
    return Listing(specs, tuple(played_rig(name, specs[0].workspace) for name in (*RIGS, *PROTOCOLS)), tuple(pictures))


def _described(rig: PlayedRig, protocol: Rig) -> str:
    seen, novel = len(rig.camera_names("seen")), len(rig.camera_names("novel"))
    count = f"{seen} seen and {novel} novel cameras" if seen else f"{novel} novel cameras"
    if isinstance(rig, DrawnRig):
        return f"{rig.name}  {count}, drawn anew for every episode"
    if isinstance(rig, PerturbedRig):
        return f"{rig.name}  {count}, moved anew for every episode (rollout --views)"
    measured = rig if seen else protocol
    angles = [measured.angle_to_training_deg(camera) for camera in rig.views("novel")]
    if not angles:
        return f"{rig.name}  {count}"
    of = "seen one" if seen else f"seen camera of {protocol.name}"
    return f"{rig.name}  {count}, {min(angles):.0f} to {max(angles):.0f} degrees from the nearest {of}"


def _first_images(task: Task, cameras: Sequence[Camera], size: tuple[int, int]) -> Image:
    """(V, H, W, 3) at the start of the first training episode: the packed scene, as datasets and policies show it."""
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rollout.assets import make_assets

    task.reset(0, "train")
    with Renderer(make_assets(task).scene, *size, quality=True) as renderer:
        return renderer.render(task.physics_state(), cameras, seg=False, check=True).rgb


def _preview(specs: Sequence[TaskSpec], path: Path) -> None:
    """One row per task, one column per camera."""
    images: list[Image] = []
    cameras: tuple[Camera, ...] = ()
    for spec in tqdm(specs, desc="preview", unit="task"):
        cameras = make_rig(PREVIEW_RIG, spec.workspace).episode(spec.key, "train", 0).cameras
        images.append(_first_images(tasks.make(spec.name), cameras, PREVIEW_SIZE))
    titles = [f"{spec.id}:  {spec.language}" for spec in specs]
    task_sheet(titles, np.stack(images), [(f"{c.name} {c.split}", c.split) for c in cameras], path)


def _rooms(specs: Sequence[TaskSpec], path: Path) -> None:
    """One row per task, one column per training episode and set of rooms, from two cameras in turn."""
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rollout.assets import make_assets

    images: list[Image] = []
    for spec in tqdm(specs, desc="rooms", unit="task"):
        task = tasks.make(spec.name)
        cameras = make_rig(PREVIEW_RIG, spec.workspace).episode(spec.key, "train", 0).cameras
        row = []
        for rooms, episodes in ROOM_EPISODES.items():
            with Renderer(make_assets(task, rooms).scene, *ROOM_SIZE, quality=True) as renderer:
                for seed in range(episodes):
                    task.reset(seed, "train")
                    camera, room = cameras[ROOM_CAMERAS[seed % 2]], draw_room(rooms, spec.key, "train", seed)
                    row.append(renderer.render(task.physics_state(), [camera], seg=False, room=room).rgb[0])
        images.append(np.stack(row))
    columns = [(r, "novel" if r == "held_out" else "seen") for r, count in ROOM_EPISODES.items() for _ in range(count)]
    task_sheet([spec.id for spec in specs], np.stack(images), columns, path)


def _spawn_map(specs: Sequence[TaskSpec], path: Path) -> None:
    """One panel per task: its start of train seed 0 from above, ranges as rectangles, one dot per episode.

    The world's x axis points up in the picture (away from the robots), y to the left. Metres.
    """
    columns = min(3, len(specs))
    rows = -(-len(specs) // columns)
    with figure(5.2 * columns, 5.8 * rows, path) as fig:
        axes = fig.subplots(rows, columns, squeeze=False).ravel()
        for ax, spec in zip(axes, specs, strict=False):
            _spawn_panel(ax, spec)
        for ax in axes[len(specs) :]:
            ax.set_axis_off()


def _spawn_panel(ax: Any, spec: TaskSpec) -> None:
    task = tasks.make(spec.name)
    starts = []
    for seed in range(SPAWN_EPISODES):
        task.reset(seed, "train")
        starts.append(task.object_poses())
    above = look_at(np.add(spec.workspace, (0, 0, _HEIGHT_M)), np.array(spec.workspace), up=(1, 0, 0))
    camera = Camera("above", above, 2 * np.arctan(HALF_WIDTH_M / _HEIGHT_M))
    image = _first_images(task, [camera], (SPAWN_PIXELS, SPAWN_PIXELS))[0]
    x0, y0 = spec.workspace[:2]
    x_shown, y_shown = (x0 - HALF_WIDTH_M, x0 + HALF_WIDTH_M), (y0 + HALF_WIDTH_M, y0 - HALF_WIDTH_M)
    ax.imshow(image, extent=(*y_shown, *x_shown), alpha=0.75, interpolation="bilinear")
    for spawn, colour in zip(spec.spawn, _COLOURS, strict=False):
        x, y = starts[0][spawn.on][:2, 3] if spawn.on else (0.0, 0.0)
        (x_low, x_high), (y_low, y_high) = np.add(spawn.x_m, x), np.add(spawn.y_m, y)
        ax.plot(
            [y_low, y_high, y_high, y_low, y_low], [x_low, x_low, x_high, x_high, x_low],
            color=colour, linewidth=1.6, linestyle="--" if spawn.on else "-", label=_spawn_text(spawn),
        )  # fmt: skip
        dots = np.stack([poses[spawn.object][:2, 3] for poses in starts])
        ax.plot(dots[:, 1], dots[:, 0], ".", color=colour, markersize=4, alpha=0.7)
    ax.set(xlim=y_shown, ylim=x_shown, xlabel="y (m)", ylabel="x (m)", title=f"{spec.id} {spec.version}")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), handlelength=1.5)


def _spawn_text(spawn: Spawn) -> str:
    """The ranges in words; a rectangle around one episode's ``on`` is dashed."""
    parts = [f"{spawn.object}: x {_span(spawn.x_m)}, y {_span(spawn.y_m)} m"]
    if spawn.on:
        parts.append(f"about the {spawn.on}")
    if spawn.yaw_rad[1] > spawn.yaw_rad[0]:
        parts.append(f"yaw {_span(spawn.yaw_rad)} rad")
    if spawn.lean_rad is not None:
        parts.append(f"lean {_span(spawn.lean_rad)} rad")
    return textwrap.fill(", ".join(parts), 52)


def _span(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{low:.3g}" if low == high else f"{low:.2g} to {high:.2g}"
