"""Gymnasium's interface to a task: absolute end-effector targets in, proprioception and two RGB-D views out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from scipy.spatial.transform import Rotation

from geo4d_bench import tasks
from geo4d_bench.errors import ActionError, ConfigError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import on_sphere
from geo4d_bench.geometry.room import Room, RoomsName, draw_room
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.rollout.recording import FILM_SIZE
from geo4d_bench.rollout.views import Views, resolve
from geo4d_bench.tasks import Command, Task
from geo4d_bench.tasks.rigs import make_rig

if TYPE_CHECKING:
    from geo4d_bench.rendering.renderer import Frame, Renderer
    from geo4d_bench.rendering.scene import Scene

Observation = dict[str, npt.NDArray[Any]]
Action = npt.NDArray[np.float64]

REACH_M = 2.0  # end-effector positions lie within this of the world's origin, along each axis
MAX_OPENING_M = 0.08
NUMBERS = ("x", "y", "z", "rotation x", "rotation y", "rotation z", "opening")
SLACK = 1e-3  # what is observed may be commanded, and fingers overshoot a little
_LARGEST = 1e6  # of what a camera's K and pose hold
_FILM_FROM = (50.0, 25.0, 1.3)  # azimuth and elevation in degrees, and metres from the workspace


class TaskEnv(gymnasium.Env[Observation, Action]):
    """One task as a Gymnasium environment; make it with ``gymnasium.make``, which ends episodes after the task's
    ``max_seconds`` (``spec.max_episode_steps``).

    The action is, for each arm in turn, x, y, z (metres, world), a rotation vector (radians) and the fingers'
    opening (metres). The observation shows no object's pose. It has, for each arm, of the reached pose
    ``<arm>_position`` (3,) metres in the world, ``<arm>_rotvec`` (3,) radians and ``<arm>_opening`` (1,) metres, and
    with ``obs="rgbd"`` two views (n and m, in this order):

    - ``rgb`` (2, H, W, 3) uint8;
    - ``depth`` (2, H, W) float32 metres along the optical axis, 0 where invalid;
    - ``K`` (2, 3, 3) and ``T_world_cam`` (2, 4, 4) float64 of the cameras.

    The reward is 1 in the step that completes the task and 0 otherwise. An episode terminates on success and on
    failure. ``info`` has ``is_success``, ``phase`` (the last sub-goal reached) and ``failure`` (why it cannot succeed
    any more, or None). ``reset(seed=..., options={"split": "eval"})`` chooses the episode, which is that of
    ``rollout`` with the same seed, views, rig and rooms; the split is ``train`` where left out.

    ``render()`` gives (256, 320, 3) uint8 from a camera that always stands in one place. Simulation and OpenGL
    contexts are made at the first reset, in the process and thread that then uses them, and freed by ``close``. A
    pickled environment is unpickled as a new one with the same arguments.

    Args:
        task: id of the task, such as ``store_cereal``.
        simulation: one of that task that exists already; None makes one.
        obs: ``state`` or ``rgbd``.
        views: what each episode's cameras are drawn from: ``seen``, ``novel``, a rig's name or YAML file; or the names
            of two of ``rig``'s cameras, which all episodes are seen from.
        rig: rig that ``seen``, ``novel`` and names refer to.
        rooms: set that each episode's room is drawn from: ``fixed``, ``varied`` or ``held_out``.
        height, width: pixels of the observed views.
        render_mode: ``rgb_array``, or None.

    Raises:
        ConfigError: an argument is out of range, or robosuite is not installed.
        UnknownNameError: no such task, views, rig or rooms.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012  Gymnasium's own

    def __init__(
        self,
        task: str,
        simulation: Task | None = None,
        *,
        obs: Literal["state", "rgbd"] = "state",
        views: str | tuple[str, str] = "seen",
        rig: str = "hemisphere16",
        rooms: RoomsName = "fixed",
        height: int = 64,
        width: int = 80,
        render_mode: str | None = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "task": task, "obs": obs, "views": views, "rig": rig, "rooms": rooms, "height": height,
            "width": width, "render_mode": render_mode,
        }  # fmt: skip
        if obs not in ("state", "rgbd"):
            raise ConfigError(f"obs is {obs!r}, expected 'state' or 'rgbd'")
        draw_room(rooms, task, "train", 0)  # UnknownNameError where there is no such set
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}, expected 'rgb_array' or None")
        if min(height, width) < 8:
            raise ConfigError(f"height and width are {height} and {width}, expected 8 or more")
        tasks.require_robosuite()
        self.render_mode = render_mode
        self._task_spec = spec = tasks.spec(task)
        self.metadata = {**self.metadata, "render_fps": spec.control_hz}
        self._size = (height, width)
        self._rig = make_rig(rig, spec.workspace)
        self._views: Views | None = None
        if isinstance(views, str):
            self._views = resolve(views, self._rig)
        elif len(set(views)) != 2 or not set(views) <= set(self._rig.camera_names()):
            known = ", ".join(self._rig.camera_names())
            raise ConfigError(f"views are {views!r}, expected two cameras of rig '{self._rig.name}': {known}")
        self._with_images = obs == "rgbd"

        arms = len(spec.arms)
        low, high = ([*[-REACH_M] * 3, *[-np.pi] * 3, 0.0] * arms, [*[REACH_M] * 3, *[np.pi] * 3, MAX_OPENING_M] * arms)
        self.action_space: Box = Box(np.array(low), np.array(high), dtype=np.float64)  # type: ignore[assignment]
        parts = {"position": (3, REACH_M), "rotvec": (3, np.pi), "opening": (1, 2 * MAX_OPENING_M)}
        spaces: dict[str, gymnasium.Space[Any]] = {
            f"{arm}_{part}": Box(-limit, limit, (number,), dtype=np.float64)
            for arm in spec.arms
            for part, (number, limit) in parts.items()
        }
        if self._with_images:
            spaces |= {
                "rgb": Box(0, 255, (2, height, width, 3), np.uint8),
                "depth": Box(0.0, np.float32(_LARGEST), (2, height, width), np.float32),
                "K": Box(-_LARGEST, _LARGEST, (2, 3, 3), np.float64),
                "T_world_cam": Box(-_LARGEST, _LARGEST, (2, 4, 4), np.float64),
            }
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]
        self._given = self._simulation = simulation
        self._scene: Scene | None = None
        self._renderers: dict[bool, Renderer] = {}  # by whether it is for films
        self._cameras: tuple[Camera, Camera] | None = None  # of the episode; None before the first and after close
        self._room: Room | None = None
        self._steps = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self._arguments,), {"spec": self.spec}

    @property
    def simulation(self) -> Task:
        """The running simulation, for experts and oracles: it knows where the objects are."""
        if self._simulation is None:
            self._simulation = tasks.make(self._task_spec.name)
        return self._simulation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        unknown = sorted(set(options or {}) - {"split"})
        split = (options or {}).get("split", "train")
        if unknown or split not in ("train", "eval"):
            got = f"the option {unknown[0]!r}" if unknown else f"{split!r}"
            raise ConfigError(f"reset: expected the option split, 'train' or 'eval', got {got}")
        episode = int(self.np_random.integers(2**31)) if seed is None else seed
        self.simulation.reset(episode, split)
        self._cameras = self._pair(split, episode)
        self._room = draw_room(self._arguments["rooms"], self._task_spec.key, split, episode)
        self._steps = 0
        return self._observe(), self._info()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if self._cameras is None:
            raise gymnasium.error.ResetNeeded("step: call reset first")
        task = self.simulation
        rows = self._rows(action)
        targets = {arm: pose(Rotation.from_rotvec(row[3:6]).as_matrix(), row[:3]) for arm, row in rows.items()}
        before = task.success()["task"]
        task.step(Command(targets, {arm: float(row[6]) for arm, row in rows.items()}))
        self._steps += 1
        success = task.success()["task"]
        terminated = success or task.failure() is not None
        return self._observe(), float(success and not before), terminated, False, self._info()

    def _rows(self, action: Action) -> dict[str, Action]:
        """(7,) of each arm; ActionError where an action is not of ``action_space``."""
        arms, space = self._task_spec.arms, self.action_space
        try:
            rows = np.asarray(action, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ActionError(f"step {self._steps}: an action of numbers was expected, got {error}") from None
        if rows.shape != space.shape:
            raise ActionError(
                f"step {self._steps}: an action has shape {rows.shape}, expected {space.shape}: 7 numbers for each of "
                f"the arms {', '.join(arms)}"
            )
        wrong = ~((rows >= space.low - SLACK) & (rows <= space.high + SLACK))  # NaN too
        if wrong.any():
            at = int(wrong.argmax())
            raise ActionError(
                f"step {self._steps}: {NUMBERS[at % 7]} of arm '{arms[at // 7]}' is {rows[at]:g}, expected "
                f"{space.low[at]:g} to {space.high[at]:g}"
            )
        return dict(zip(arms, rows.reshape(len(arms), 7), strict=True))

    def render(self) -> npt.NDArray[np.uint8] | None:
        """(256, 320, 3) uint8 of the present moment; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._cameras is None:
            raise gymnasium.error.ResetNeeded("render: call reset first")
        T_world_cam = on_sphere(self._task_spec.workspace, *_FILM_FROM)
        camera = Camera("film", T_world_cam, float(np.radians(48.0)), "novel")
        picture: npt.NDArray[np.uint8] = self._render((camera,), film=True).rgb[0]
        return picture

    def close(self) -> None:
        """Free the OpenGL contexts and the simulation."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._simulation, self._scene, self._cameras = self._given, None, None

    def _pair(self, split: str, seed: int) -> tuple[Camera, Camera]:
        """Views n and m of an episode."""
        if self._views is not None:
            return self._views.pair(self._task_spec.key, split, seed)
        named = {camera.name: camera for camera in self._rig.episode(self._task_spec.key, split, seed).cameras}
        n, m = self._arguments["views"]
        return named[n], named[m]

    def _observe(self) -> Observation:
        openings = self.simulation.openings()
        observation: Observation = {}
        for arm, T in self.simulation.ee_poses().items():
            observation[f"{arm}_position"] = T[:3, 3].copy()
            observation[f"{arm}_rotvec"] = Rotation.from_matrix(T[:3, :3]).as_rotvec()
            observation[f"{arm}_opening"] = np.array([openings[arm]])
        if self._with_images:
            assert self._cameras is not None
            frame = self._render(self._cameras, film=False)
            depth = np.nan_to_num(frame.depth, nan=0.0)
            observation |= {"rgb": frame.rgb, "depth": depth, "K": frame.K, "T_world_cam": frame.T_world_cam}
        return observation

    def _render(self, cameras: tuple[Camera, ...], *, film: bool) -> Frame:
        from geo4d_bench.rendering.renderer import Renderer
        from geo4d_bench.rollout.assets import make_assets

        if film not in self._renderers:
            self._scene = self._scene or make_assets(self.simulation, self._arguments["rooms"]).scene
            self._renderers[film] = Renderer(self._scene, *(FILM_SIZE if film else self._size), quality=film)
        check = self._steps == 0  # the first moment of an episode
        state = self.simulation.physics_state()
        return self._renderers[film].render(state, cameras, seg=False, check=check, room=self._room)

    def _info(self) -> dict[str, Any]:
        task = self.simulation
        return {"phase": task.phase(), "is_success": task.success()["task"], "failure": task.failure()}


def _make(arguments: dict[str, Any]) -> TaskEnv:
    return TaskEnv(**arguments)
