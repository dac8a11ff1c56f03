"""Gymnasium's interface to a task: proprioception in, absolute end-effector targets out, reward on success only."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from geo4d_bench.errors import ActionError, ConfigError
from geo4d_bench.geometry.se3 import pose
from geo4d_bench.tasks import Command, Task, make

Observation = dict[str, npt.NDArray[np.float64]]
Action = npt.NDArray[np.float64]

REACH_M = 2.0  # end-effector positions lie within this of the world's origin, along each axis
MAX_OPENING_M = 0.08
NUMBERS = ("x", "y", "z", "rotation x", "rotation y", "rotation z", "opening")
SLACK = 1e-3  # what is observed may be commanded, and fingers overshoot a little


class TaskEnv(gymnasium.Env[Observation, Action]):
    """One task as a Gymnasium environment.

    The action is, for each arm in turn, x, y, z (metres, world), a rotation vector (radians) and the fingers'
    opening (metres); the observation is the same of the reached pose, and nothing else: no object poses.

    The reward is 1 in the step that completes the task and 0 otherwise. An episode terminates on success and on
    failure, and is truncated after the task's ``max_seconds``. ``reset(seed=..., options={"split": "eval"})``
    chooses the episode; the split is ``train`` where left out.

    Args:
        task: id of the task, such as ``store_cereal``.
        simulation: one of that task that exists already; None makes one.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  Gymnasium's own declaration

    def __init__(self, task: str, simulation: Task | None = None) -> None:
        self._task = simulation or make(task)
        spec = self._task.spec
        low = np.tile([-REACH_M] * 3 + [-np.pi] * 3 + [0.0], len(spec.arms))
        high = np.tile([REACH_M] * 3 + [np.pi] * 3 + [MAX_OPENING_M], len(spec.arms))
        self.action_space: gymnasium.spaces.Box = gymnasium.spaces.Box(low, high, dtype=np.float64)  # type: ignore[assignment]
        parts = {"position": (3, REACH_M), "rotvec": (3, np.pi), "opening": (1, 2 * MAX_OPENING_M)}
        self.observation_space: gymnasium.spaces.Dict = gymnasium.spaces.Dict(  # type: ignore[assignment]
            {
                f"{arm}_{part}": gymnasium.spaces.Box(-limit, limit, (size,), dtype=np.float64)
                for arm in spec.arms
                for part, (size, limit) in parts.items()
            }
        )
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        split = (options or {}).get("split", "train")
        if split not in ("train", "eval"):
            raise ConfigError(f"reset: expected split 'train' or 'eval', got {split!r}")
        episode = int(self.np_random.integers(2**31)) if seed is None else seed
        self._task.reset(episode, split)
        self._steps = 0
        return self._observe(), self._info()

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        spec = self._task.spec
        rows = self._rows(action)
        targets = {arm: pose(Rotation.from_rotvec(row[3:6]).as_matrix(), row[:3]) for arm, row in rows.items()}
        before = self._task.success()["task"]
        self._task.step(Command(targets, {arm: float(row[6]) for arm, row in rows.items()}))
        self._steps += 1
        success = self._task.success()["task"]
        terminated = success or self._task.failure() is not None
        truncated = not terminated and self._steps >= spec.max_seconds * spec.control_hz
        return self._observe(), float(success and not before), terminated, truncated, self._info()

    def _rows(self, action: Action) -> dict[str, Action]:
        """(7,) of each arm; ActionError where an action is not of ``action_space``."""
        arms, space = self._task.spec.arms, self.action_space
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

    def _observe(self) -> Observation:
        openings = self._task.openings()
        observation: Observation = {}
        for arm, T in self._task.ee_poses().items():
            observation[f"{arm}_position"] = T[:3, 3].copy()
            observation[f"{arm}_rotvec"] = Rotation.from_matrix(T[:3, :3]).as_rotvec()
            observation[f"{arm}_opening"] = np.array([openings[arm]])
        return observation

    def _info(self) -> dict[str, Any]:
        return {"phase": self._task.phase(), "success": self._task.success()["task"], "failure": self._task.failure()}
