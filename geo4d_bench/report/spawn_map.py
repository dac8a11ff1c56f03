"""Where each task's objects start, from above: the declared ranges, and where a number of episodes did start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.drawing import figure
from geo4d_bench.geometry import Camera, look_at
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.tasks.base import Spawn, TaskSpec

if TYPE_CHECKING:
    from geo4d_bench.drawing import Image

EPISODES = 40
PIXELS = 640
HALF_WIDTH_M = 0.55
"""Half of what the picture shows, at the height of the workspace."""
_HEIGHT_M = 6.0
"""The camera hangs this far above the workspace: so high that what is tall hardly leans."""
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#AA4499", "#E69F00", "#56B4E9")


def spawn_map(specs: Sequence[TaskSpec], path: Path) -> None:
    """A panel a task: its start of train seed 0 from above, ranges as rectangles, a dot an episode.

    The world's x axis points up in the picture (away from the robots), y to the left. Metres.
    """
    columns = min(3, len(specs))
    rows = -(-len(specs) // columns)
    with figure(5.2 * columns, 6.4 * rows, path) as fig:
        axes = fig.subplots(rows, columns, squeeze=False).ravel()
        for ax, spec in zip(axes, specs, strict=False):
            _panel(ax, spec)
        for ax in axes[len(specs) :]:
            ax.set_axis_off()


def _panel(ax: Any, spec: TaskSpec) -> None:
    image, first, starts = _look_down(spec)
    x0, y0 = spec.workspace[:2]
    h = HALF_WIDTH_M
    ax.imshow(image, extent=(y0 + h, y0 - h, x0 - h, x0 + h), alpha=0.75, interpolation="bilinear")
    for spawn, colour in zip(spec.spawn, _COLOURS, strict=False):
        origin = first[spawn.on][:3, 3] if spawn.on else np.zeros(3)
        (x_low, x_high), (y_low, y_high) = (
            np.array(r) + o for r, o in zip((spawn.x_m, spawn.y_m), origin, strict=False)
        )
        ax.plot(
            [y_low, y_high, y_high, y_low, y_low], [x_low, x_low, x_high, x_high, x_low],
            color=colour, linewidth=1.6, linestyle="--" if spawn.on else "-", label=_described(spawn),
        )  # fmt: skip
        dots = np.stack([poses[spawn.object][:2, 3] for poses in starts])
        ax.plot(dots[:, 1], dots[:, 0], ".", color=colour, markersize=4, alpha=0.7)
    ax.set(
        xlim=(y0 + h, y0 - h), ylim=(x0 - h, x0 + h), xlabel="y (m)", ylabel="x (m)", title=f"{spec.id} {spec.version}"
    )
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.13), handlelength=1.5)


def _described(spawn: Spawn) -> str:
    """The ranges in words; a rectangle around one episode's ``on`` is dashed."""
    parts = [f"{spawn.object}: {_span(spawn.x_m)} x {_span(spawn.y_m)} m"]
    if spawn.on:
        parts.append(f"about the {spawn.on}")
    if spawn.yaw_rad[1] > spawn.yaw_rad[0]:
        parts.append(f"yaw {_span(spawn.yaw_rad)} rad")
    if spawn.lean_rad is not None:
        parts.append(f"lean {_span(spawn.lean_rad)} rad")
    return ", ".join(parts)


def _span(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{low:.3g}" if low == high else f"{low:.2g} to {high:.2g}"


def _look_down(spec: TaskSpec) -> tuple[Image, dict[str, Array], list[dict[str, Array]]]:
    """The view from above at train seed 0, the poses of objects there, and those of ``EPISODES`` seeds."""
    from geo4d_bench import tasks
    from geo4d_bench.rendering.renderer import Renderer
    from geo4d_bench.rollout.assets import make_assets

    task = tasks.make(spec.id)
    workspace = np.array(spec.workspace)
    camera = Camera(
        "above",
        look_at(workspace + np.array([0, 0, _HEIGHT_M]), workspace, up=(1, 0, 0)),
        2 * np.arctan(HALF_WIDTH_M / _HEIGHT_M),
    )
    starts = []
    for seed in range(EPISODES):
        task.reset(seed, "train")
        starts.append(task.object_poses())
    task.reset(0, "train")
    with Renderer(make_assets(task).scene, PIXELS, PIXELS, quality=True, max_depth_m=10.0) as renderer:
        image: Image = renderer.render(task.physics_state(), [camera], seg=False).rgb[0]
    return image, starts[0], starts
