"""The second stage: a recorded trajectory becomes an episode file with images. Needs MuJoCo, not robosuite."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.manifest import Settings
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.dataset.writer import Frame, write_episode
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.room import RoomsName
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.rooms import load_scene_for

# Mesa's software renderer reads this when a process makes its first context. Threads of its own cost more than they
# bring at these sizes (4.7 s an episode of 128 x 160 with two, 3.8 s without), and every worker has a core to itself.
os.environ.setdefault("LP_NUM_THREADS", "0")


def frame_steps(steps: int, control_hz: float, video_hz: float) -> npt.NDArray[np.int32]:
    """(K,) control steps that are rendered; ConfigError where control_hz is not a multiple of video_hz."""
    every = control_hz / video_hz if video_hz > 0 else 0.0
    if every < 1 or abs(every - round(every)) > 1e-6:
        raise ConfigError(f"video_hz={video_hz:g} does not divide the control rate {control_hz:g} Hz; choose another")
    return np.arange(0, steps, round(every), dtype=np.int32)


def renderer_of(scene: Path, settings: Settings) -> Renderer | None:
    """What draws a packed scene as a dataset's settings say; None where it has no views."""
    if settings.views == "none":
        return None
    return scene_renderer(scene, settings.height, settings.width, settings.max_depth_m, settings.rooms)


@functools.lru_cache(maxsize=1)
def scene_renderer(scene: Path, height: int, width: int, max_depth_m: float, rooms: RoomsName) -> Renderer:
    """The renderer of a packed scene; a process keeps the last one, since most datasets have one scene.
    ``scene_renderer.cache_clear()`` frees its OpenGL context."""
    return Renderer(load_scene_for(scene, rooms), height, width, max_depth_m=max_depth_m)


def render_episode(
    path: Path, trajectory: Trajectory, renderer: Renderer | None, settings: Settings, notes: Mapping[str, Any]
) -> None:
    """Render a trajectory's frames from its dataset's cameras into an episode file, a few frames in memory at a time.

    The file appears under ``path`` only when it is whole. ``renderer`` draws the scene that the trajectory names; a
    dataset without views needs none.

    Raises:
        DatasetError: the disk is full or the folder cannot be written.
        SceneError: the states do not fit the renderer's scene, or a camera does not stand where it was asked to.
    """
    steps = frame_steps(len(trajectory.time), trajectory.control_hz, settings.video_hz)
    cameras, room = settings.cameras(trajectory.seed), settings.room(trajectory.seed)
    notes = {name: value for name, value in notes.items() if name != "rooms"}
    if room is not None:
        notes["rooms"] = settings.rooms
    frames: Iterator[Frame] = iter(())
    if renderer is not None:
        states = (trajectory.states[step] for step in steps)
        drawn = (renderer.render(state, cameras, check=index == 0, room=room) for index, state in enumerate(states))
        frames = ((frame.rgb, frame.depth, frame.seg) for frame in drawn)
    write_episode(
        path,
        trajectory,
        frames,
        steps=steps,
        video_hz=settings.video_hz,
        cameras=cameras,
        height=settings.height,
        width=settings.width,
        seg_names=renderer.scene.seg_names if renderer else (),
        notes=notes,
    )
