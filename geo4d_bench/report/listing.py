"""``geo4d-bench tasks``: what there is to choose from, in words and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench import tasks
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry import AnyRig, DrawnRig, Rig
from geo4d_bench.tasks import TaskSpec
from geo4d_bench.tasks.rigs import RIGS, make_rig

if TYPE_CHECKING:
    from geo4d_bench.drawing import Image

PREVIEW_RIG = "hemisphere16"
PREVIEW_SIZE = (176, 220)
"""Height and width in pixels of one camera's picture."""
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class TasksConfig:
    """List the tasks and camera rigs, or draw the tasks."""

    task: str | None = None
    """List or draw only this one."""
    preview: Path | None = None
    """Also draw each task from all 16 cameras of hemisphere16 into this picture (.png)."""
    spawns: Path | None = None
    """Also draw where each task's objects start, from above, into this picture (.png)."""

    def __post_init__(self) -> None:
        for option, path in (("preview", self.preview), ("spawns", self.spawns)):
            if path is not None and path.suffix.lower() not in PICTURES:
                raise ConfigError(f"--{option} {path}: expected a file name that ends in {', '.join(PICTURES)}")


@dataclass(frozen=True)
class Listing:
    """The tasks that were asked for, all rigs as placed about the first one's workspace, and pictures if any."""

    tasks: tuple[TaskSpec, ...]
    rigs: tuple[AnyRig, ...]
    pictures: tuple[Path, ...]

    def __str__(self) -> str:
        lines = ["tasks"]
        for spec in self.tasks:
            arms = f"{len(spec.arms)} arm{'s' if len(spec.arms) > 1 else ''}"
            lines += [
                f"  {spec.id} {spec.version}  ({arms}, {spec.control_hz:g} Hz, at most {spec.max_seconds:g} s)",
                f"    {spec.language}",
                f"    phases: {' → '.join(spec.phases)}",
            ]
        protocol = next(rig for rig in self.rigs if isinstance(rig, Rig) and rig.views("seen"))
        lines += ["rigs", *(f"  {_described(rig, protocol)}" for rig in self.rigs)]
        lines += [f"picture: {path}" for path in self.pictures]
        lines.append("next: geo4d-bench datagen --task " + self.tasks[0].id)
        return "\n".join(lines)


def run(config: TasksConfig) -> Listing:
    """List tasks and rigs without building a simulation; with ``preview``, build each and draw it.

    Raises:
        UnknownNameError: no such task.  SceneError: this machine cannot render.
    """
    specs = tuple(tasks.spec(name) for name in ([config.task] if config.task else tasks.names()))
    if config.preview is not None:
        _preview(specs, config.preview)
    if config.spawns is not None:
        from geo4d_bench.report.spawn_map import spawn_map

        spawn_map(specs, config.spawns)
    pictures = tuple(path for path in (config.preview, config.spawns) if path is not None)
    return Listing(specs, tuple(make_rig(name, specs[0].workspace) for name in RIGS), pictures)


def _described(rig: AnyRig, protocol: Rig) -> str:
    seen, novel = len(rig.camera_names("seen")), len(rig.camera_names("novel"))
    count = f"{seen} seen and {novel} novel cameras" if seen else f"{novel} novel cameras"
    if isinstance(rig, DrawnRig):
        return f"{rig.name}  {count}, drawn anew for every episode"
    measured = rig if seen else protocol
    angles = [measured.angle_to_training_deg(camera) for camera in rig.views("novel")]
    if not angles:
        return f"{rig.name}  {count}"
    of = "seen one" if seen else f"seen camera of {protocol.name}"
    return f"{rig.name}  {count}, {min(angles):.0f} to {max(angles):.0f} degrees from the nearest {of}"


def _preview(specs: tuple[TaskSpec, ...], path: Path) -> None:
    """A row a task at the start of its first training episode."""
    from tqdm import tqdm

    from geo4d_bench.report.pictures import TaskRow, task_sheet

    rows = []
    for spec in tqdm(specs, desc="preview", unit="task"):
        rig = make_rig(PREVIEW_RIG, spec.workspace).episode(spec.key, "train", 0)
        rows.append(TaskRow(spec.id, spec.language, _pictures(spec, rig)))
    task_sheet(rows, [(camera.name, camera.split) for camera in rig.cameras], path)


def _pictures(spec: TaskSpec, rig: Rig) -> Image:
    """(V, H, W, 3) from every camera of the rig, of the packed scene: what datasets and policies are shown."""
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rollout.assets import make_assets

    task = tasks.make(spec.id)
    task.reset(0, "train")
    with Renderer(make_assets(task).scene, *PREVIEW_SIZE, quality=True) as renderer:
        return renderer.render(task.physics_state(), rig.cameras, seg=False, check=True).rgb
