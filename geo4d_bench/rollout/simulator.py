"""The live episode: observations for policies, carrying out their action chunks, true futures for oracles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.sensors import SENSORS, Measure, SensorName, start_video
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.hand import part_image, scale_to_hands
from geo4d_bench.geometry.rig import off_pose
from geo4d_bench.geometry.room import RoomsName, draw_room
from geo4d_bench.geometry.se3 import Array, interpolate_poses, inverse, to_camera_n
from geo4d_bench.model.types import Video4D
from geo4d_bench.policies.protocol import ActionChunk, Future, Observation, TaskInfo
from geo4d_bench.rollout.assets import RenderAssets
from geo4d_bench.rollout.ledger import Status
from geo4d_bench.rollout.views import Views
from geo4d_bench.seeding import generator
from geo4d_bench.tasks import Command, Task

if TYPE_CHECKING:
    from geo4d_bench.rendering.renderer import Frame


@dataclass
class Record:
    """What an episode did, a row for each control step (and the start), and each plan.

    Attributes:
        T_world_ee, opening_m: where the hand was, for each arm.
        commanded: T_world_ee asked for at each control step, for each arm.
        plan_step: control step of the observation that each chunk was planned from.  plans: the chunks.
        horizons: T_world_ee (N, 4, 4) of each arm, for each chunk: the whole plan that it is the beginning of.
    """

    T_world_ee: dict[str, list[Array]] = field(default_factory=dict)
    opening_m: dict[str, list[float]] = field(default_factory=dict)
    commanded: dict[str, list[Array]] = field(default_factory=dict)
    plan_step: list[int] = field(default_factory=list)
    plans: list[ActionChunk] = field(default_factory=list)
    horizons: list[dict[str, Array]] = field(default_factory=list)


class Simulator:
    """One simulated robot, begun anew for every episode. Also what oracles are handed (``SimulatorAccess``).

    Args:
        task: the simulation.  split: of the seeds.  views: what camera pairs are drawn from.
        assets: what is shared with the other simulations of the process.
        sensor: how the depth that policies see is measured; oracles' future frames stay true.
        rooms: that of each episode is drawn from this set; ``assets`` were made for it.
        calibration: by how many degrees and centimetres the cameras' poses are off that policies are told.
        latency_s: how long the world goes on while a plan is made.

    Attributes:
        late: that in control steps, rounded up.
        stale_steps: of the episode, carried out while a newer plan was being made.  idle_steps: of these, those for
            which the older plan had nothing left, so that the robot held still.
        told: T_world_cam (4, 4) of the episode's cameras, as policies are told.
        status: how the episode ended; None while it goes on.
    """

    status: Status | None = None

    def __init__(
        self,
        task: Task,
        split: str,
        views: Views,
        assets: RenderAssets,
        sensor: SensorName = "perfect",
        rooms: RoomsName = "fixed",
        calibration: tuple[float, float] = (0.0, 0.0),
        latency_s: float = 0.0,
    ) -> None:
        self.task, self.split, self.views, self.assets = task, split, views, assets
        self.rooms, self.calibration = rooms, calibration
        self.sensor = SENSORS.get(sensor)
        spec = task.spec
        self.info = TaskInfo(
            spec.id, spec.version, spec.arms, spec.language, spec.control_hz, spec.closed_below_m, assets.hand
        )
        self.max_steps = round(spec.max_seconds * spec.control_hz)
        self.late = math.ceil(latency_s * spec.control_hz - 1e-6)

    def begin(self, seed: int) -> None:
        """Start the episode of a seed; its camera pair and its room never influence anything but what is seen."""
        self.cameras = self.views.pair(self.task.spec.key, self.split, seed)
        self.room = draw_room(self.rooms, self.task.spec.key, self.split, seed)
        self.view_angle_deg = self.views.angle_deg(self.cameras)
        turn_deg, shift_cm = self.calibration
        self.told = [
            off_pose(
                camera.T_world_cam,
                turn_deg,
                0.01 * shift_cm,
                generator(self.task.spec.key, self.split, seed, f"calibration/{view}"),
            )
            for view, camera in zip("nm", self.cameras, strict=True)
        ]
        self.control_steps = self.stale_steps = self.idle_steps = 0
        self.record = Record()
        self.status = None
        self._cameras_checked = False
        self._measures: list[Measure] = []
        self._scales: tuple[list[float], list[float]] = ([], [])
        self._seed = seed
        self.task.reset(seed, self.split)
        self._command = Command(self.task.ee_poses(), self.task.openings())
        self._rest: list[Command] = []  # of the current plan, for the time that the next one takes to make
        self._expert = self.task.expert()
        self._remember()

    def observe(self, both_poses: bool = False) -> Observation:
        """What a policy may see now; images have zero height and width where the assets has no renderer, and view m's
        pose is there only where ``both_poses`` asks for it."""
        frame = self.render()
        depth = None if frame is None else self._measure(frame, both_poses)
        return self._observation(frame, depth, self.told, both_poses)

    def true_observation(self, both_poses: bool) -> Observation:
        """See ``SimulatorAccess``."""
        frame = self.render()
        told = [camera.T_world_cam for camera in self.cameras]
        return self._observation(frame, None if frame is None else frame.depth, told, both_poses)

    @property
    def clock_s(self) -> float:
        """Seconds of simulated time since the episode began."""
        return self.control_steps / self.task.spec.control_hz

    def wait(self, after_step: Callable[[], None] | None = None) -> None:
        """The time that a plan takes: the robot goes on with what is left of the one before, then holds still."""
        for step in range(self.late):
            if self.status is not None:
                return
            held = step >= len(self._rest)
            self.stale_steps += 1
            self.idle_steps += held
            self._step(self._command if held else self._rest[step], after_step)

    def execute(
        self, chunk: ActionChunk, horizon: dict[str, Array] | None = None, after_step: Callable[[], None] | None = None
    ) -> None:
        """Carry out a chunk, or as much of it as there is before the episode ends; ActionError where it is unfit.

        Where plans take time, waypoints that are past by now are left out, and what is to be done while the next plan
        is made is left to :meth:`wait`.

        Args:
            chunk: what the policy asks for.
            horizon: T_world_ee (N, 4, 4) for each arm, the whole plan that the chunk is the beginning of, for the
                record; None where the chunk is all.
            after_step: called after every control step.
        """
        spec = self.task.spec
        chunk.check(spec.arms, self.control_steps)
        self.record.plan_step.append(self.control_steps - self.late)
        self.record.plans.append(chunk)
        self.record.horizons.append(horizon or chunk.T_world_ee)
        made = commands(chunk, self._command.T_world_ee, spec.control_hz, self.late)
        now = max(0, len(made) - self.late)
        self._rest = made[now:]
        for command in made[:now]:
            self._step(command, after_step)
            if self.status is not None:
                return

    def expert_action(self) -> ActionChunk:
        """See ``SimulatorAccess``: the expert of this episode, with its memory, one control step."""
        command = self._expert.command()
        return ActionChunk(
            {arm: T[None] for arm, T in command.T_world_ee.items()},
            {arm: np.array([opening]) for arm, opening in command.opening_m.items()},
            1.0 / self.task.spec.control_hz,
        )

    def expert_future(self, frames: int, dt_s: float, video: bool) -> Future:
        """See ``SimulatorAccess``: a fresh expert goes on from the present state; then all is put back."""
        arms = self.task.spec.arms
        poses: dict[str, list[Array]] = {arm: [] for arm in arms}
        openings: dict[str, list[float]] = {arm: [] for arm in arms}
        images: list[Frame] = []
        here = self.task.snapshot()
        try:
            expert = self.task.expert()
            steps = 0
            for frame in range(1, frames + 1):
                while steps < round(frame * dt_s * self.task.spec.control_hz):
                    self.task.step(expert.command())
                    steps += 1
                for arm in arms:
                    poses[arm].append(self.task.ee_poses()[arm])
                    openings[arm].append(self.task.openings()[arm])
                image = self.render() if video else None
                if image is not None:
                    images.append(image)
        finally:
            self.task.restore(here)
        return Future(
            T_world_ee={arm: np.stack(T) for arm, T in poses.items()},
            opening_m={arm: np.array(o) for arm, o in openings.items()},
            dt_s=dt_s,
            video=self._video(images, dt_s) if images else None,
        )

    def render(self) -> Frame | None:
        """Both views at the present state; None where the assets has no renderer.

        Raises:
            SceneError: OpenGL did not draw from the episode's cameras (compared at the first picture after a reset).
        """
        if self.assets.renderer is None:
            return None
        frame = self.assets.renderer.render(
            self.task.physics_state(), self.cameras, check=not self._cameras_checked, room=self.room
        )
        self._cameras_checked = True
        return frame

    def _observation(
        self, frame: Frame | None, depth: npt.NDArray[np.float32] | None, told: Sequence[Array], both_poses: bool
    ) -> Observation:
        height, width = (0, 0) if frame is None else frame.rgb.shape[1:3]
        return Observation(
            rgb=np.zeros((2, 0, 0, 3), np.uint8) if frame is None else frame.rgb,
            depth=np.zeros((2, 0, 0), np.float32) if depth is None else depth,
            K=np.stack([camera.K(height, width) for camera in self.cameras]),
            T_world_cam_n=told[0].copy(),
            T_world_ee=self.task.ee_poses(),
            opening_m=self.task.openings(),
            language=self.task.spec.language,
            T_world_cam_m=told[1].copy() if both_poses else None,
        )

    def _measure(self, frame: Frame, both_poses: bool) -> npt.NDArray[np.float32]:
        """Depth (2, H, W) as the sensor measures it: an episode is one video of each of its two cameras. What is not
        metric is scaled by the hands, in view m where its pose is known, by the median over the episode's looks."""
        if not self._measures:
            key, (height, width) = self.task.spec.key, frame.depth.shape[1:]
            rngs = [generator(key, self.split, self._seed, f"sensor/{view}") for view in "nm"]
            self._measures = [
                start_video(self.sensor, K, height, width, rng) for K, rng in zip(frame.K, rngs, strict=True)
            ]
        depth = np.concatenate([see(depth[None]) for see, depth in zip(self._measures, frame.depth, strict=True)])
        for view in range(0 if self.sensor.metric else 1 + both_poses):
            T_cam_world, opening = inverse(self.told[view]), self.task.openings()
            hands = [(self.assets.hand, T_cam_world @ T, opening[arm]) for arm, T in self.task.ee_poses().items()]
            # A video has one scale: the more looks, the surer it is, though the hand be hidden in some.
            self._scales[view].append(scale_to_hands(depth[view], frame.K[view], hands))
            depth[view] *= np.float32(np.median(self._scales[view]))
        return depth

    def _video(self, images: list[Frame], dt_s: float) -> Video4D:
        scene = self.assets.scene
        K = images[0].K
        T_n_m = inverse(self.cameras[0].T_world_cam) @ self.cameras[1].T_world_cam
        depth = np.stack([image.depth for image in images], axis=1)  # (2, T, H, W)
        points = np.stack([depth_to_points(d, each) for d, each in zip(depth, K, strict=True)])
        return Video4D(
            rgb=np.stack([image.rgb for image in images], axis=1),
            points=to_camera_n(points, T_n_m),
            parts=np.stack([part_image(image.seg, scene.seg_names, scene.arms) for image in images], axis=1),
            K=K,
            dt_s=dt_s,
        )

    def _step(self, command: Command, after_step: Callable[[], None] | None) -> None:
        self.task.step(command)
        self.control_steps += 1
        self._command = command
        self._remember(command)
        self.status = self._judge()
        if after_step is not None:
            after_step()

    def _judge(self) -> Status | None:
        if self.task.success()["task"]:
            return "success"
        if self.task.failure() is not None:
            return "failure"
        return "timeout" if self.control_steps >= self.max_steps else None

    def _remember(self, command: Command | None = None) -> None:
        for arm, T in self.task.ee_poses().items():
            self.record.T_world_ee.setdefault(arm, []).append(T)
            self.record.opening_m.setdefault(arm, []).append(self.task.openings()[arm])
            if command is not None:
                self.record.commanded.setdefault(arm, []).append(command.T_world_ee[arm])


def commands(chunk: ActionChunk, start: dict[str, Array], control_hz: float, past: int = 0) -> list[Command]:
    """A chunk as commands at control rate, without its first ``past`` control steps.

    Poses go from ``start`` (4, 4), the last commanded pose of each arm, through the waypoints that are not past: linear
    in position, spherical in rotation. The fingers are commanded waypoint i's opening throughout the segment that leads
    to it.
    """
    number = len(next(iter(chunk.T_world_ee.values())))
    steps = max(1, round(number * chunk.dt_s * control_hz))
    if past >= steps:
        return []
    began = past / control_hz
    due = chunk.dt_s * np.arange(1, number + 1)
    ahead = due > began * (1 + 1e-9)
    times = np.concatenate([[began], due[ahead]])
    at = np.arange(past + 1, steps + 1) / control_hz
    # A small slack, so that a step that falls on a waypoint belongs to the segment before it.
    segment = [min(number, max(1, math.ceil(t / chunk.dt_s - 1e-6))) - 1 for t in at]
    paths = {
        arm: interpolate_poses(times, np.concatenate([start[arm][None], T[ahead]]), at)
        for arm, T in chunk.T_world_ee.items()
    }
    return [
        Command(
            {arm: paths[arm][k] for arm in paths},
            {arm: float(opening[segment[k]]) for arm, opening in chunk.opening_m.items()},
        )
        for k in range(len(at))
    ]
