"""What a rollout leaves besides its rows: each episode's trajectory (always) and film (``--video``)."""

from __future__ import annotations

import io
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from geo4d_bench.films import Film as FilmFile
from geo4d_bench.model.types import Video4D
from geo4d_bench.rollout.simulator import Simulator

FILM_SIZE = (256, 320)
FILM_HZ = 5.0


def trajectory_file(simulator: Simulator) -> bytes:
    """An episode's ``trajectories/<seed>.npz`` (S control steps, P plans of at most N waypoints, NaN-padded).

    ``dt_s`` () seconds of a control step; ``camera_names``, ``T_world_cam``, ``fovy_rad`` (2,) of views n and m; where
    one has a lens of its own, its ``fovy_rad`` is NaN and ``lens`` (2, 6) has its ``camera.Lens``, NaN of others;
    ``plan_step`` (P,) control step that a plan was made at; ``plan_time_s`` (P, N) when its waypoints are due, from the
    episode's start; ``plan_executed`` (P,) how many of them were given to the robot. For each arm:
    ``<arm>/T_world_ee`` (S + 1, 4, 4) and ``<arm>/opening_m`` (S + 1,) reached, row 0 at the start;
    ``<arm>/commanded`` (S, 4, 4); ``<arm>/plan_T_world_ee`` (P, N, 4, 4) the whole plan, its unexecuted end included.
    Poses are float32: micrometres.
    """
    record, spec = simulator.record, simulator.task.spec
    longest = max((len(T) for plan in record.horizons for T in plan.values()), default=0)
    plan_dt_s = np.array([chunk.dt_s for chunk in record.plans])
    start_s = np.array(record.plan_step) / spec.control_hz
    arrays: dict[str, npt.NDArray[Any]] = {
        "dt_s": np.array(1.0 / spec.control_hz),
        "camera_names": np.array([camera.name for camera in simulator.cameras]),
        "T_world_cam": np.stack([camera.T_world_cam for camera in simulator.cameras]),
        "fovy_rad": np.array([camera.fovy_rad for camera in simulator.cameras], dtype=np.float64),
        "plan_step": np.array(record.plan_step, dtype=np.int32),
        "plan_time_s": start_s[:, None] + plan_dt_s[:, None] * np.arange(1, longest + 1),
        "plan_executed": np.array([len(chunk.T_world_ee[spec.arms[0]]) for chunk in record.plans], dtype=np.int32),
    }
    lenses = [camera.lens for camera in simulator.cameras]
    if any(lenses):
        arrays["lens"] = np.array([astuple(lens) if lens else [np.nan] * 6 for lens in lenses])
    for arm in spec.arms:
        plans = np.full((len(record.plans), longest, 4, 4), np.nan, dtype=np.float32)
        for index, horizon in enumerate(record.horizons):
            plans[index, : len(horizon[arm])] = horizon[arm]
        arrays |= {
            f"{arm}/T_world_ee": np.array(record.T_world_ee[arm], dtype=np.float32),
            f"{arm}/opening_m": np.array(record.opening_m[arm], dtype=np.float32),
            f"{arm}/commanded": np.array(record.commanded.get(arm, []), dtype=np.float32).reshape(-1, 4, 4),
            f"{arm}/plan_T_world_ee": plans,
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # as if one were named allow_pickle
    return buffer.getvalue()


class Film:
    """Collects an episode's pictures while it runs: both views, and the current plan's frames where there are any.

    Args:
        simulator: the episode's, already begun.
        renderer: at ``FILM_SIZE``; may be shared by films of one process.
    """

    def __init__(self, simulator: Simulator, renderer: Any) -> None:
        self._simulator, self._renderer = simulator, renderer
        self._every = max(1, round(simulator.task.spec.control_hz / FILM_HZ))
        self._frames: list[npt.NDArray[np.uint8]] = []
        self._plan: Video4D | None = None
        self._plan_step = 0
        self.step()

    def plan(self, video: Video4D | None) -> None:
        """The plan that is carried out from now on."""
        self._plan, self._plan_step = video, self._simulator.control_steps - self._simulator.late

    def step(self) -> None:
        """After every control step; takes a picture where one is due."""
        simulator = self._simulator
        if simulator.control_steps % self._every and simulator.status is None:
            return
        state, first = simulator.task.physics_state(), not self._frames
        frame = self._renderer.render(state, simulator.cameras, seg=False, check=first, room=simulator.room)
        self._frames.append(np.concatenate([np.concatenate(list(frame.rgb), axis=1), self._planned()], axis=0))

    def file(self) -> bytes:
        """An MP4: above, what happened in views n and m; below, what was planned (black where nothing was)."""
        planned = any(frame[FILM_SIZE[0] :].any() for frame in self._frames)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "film.mp4"
            with FilmFile(path, FILM_HZ) as film:
                for frame in self._frames:
                    film.append(frame if planned else frame[: FILM_SIZE[0]])
            return path.read_bytes()

    def _planned(self) -> npt.NDArray[np.uint8]:
        height, width = FILM_SIZE
        if self._plan is None:
            return np.zeros((height, 2 * width, 3), np.uint8)
        seconds = (self._simulator.control_steps - self._plan_step) / self._simulator.task.spec.control_hz
        index = min(max(round(seconds / self._plan.dt_s) - 1, 0), self._plan.rgb.shape[1] - 1)
        # Nearest neighbour: a small generated image shall look as small as it is.
        views = [cv2.resize(view[index], (width, height), interpolation=cv2.INTER_NEAREST) for view in self._plan.rgb]
        return np.concatenate(views, axis=1)
