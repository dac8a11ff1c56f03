"""The policy protocol: what a policy is given, observes and returns.

A policy sees an allow-list and nothing else: no object poses, no view name, no split. Oracles are handed the
simulator explicitly, through :class:`SimulatorAccess`, and are marked ``privileged`` in every row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ActionError
from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.se3 import Array, unfit_pose
from geo4d_bench.model.types import Video4D
from geo4d_bench.options import Count, check_ranges

LONGEST_S = 100.0
"""Between two waypoints of a plan."""


@dataclass(frozen=True)
class TaskInfo:
    """What every policy may know about a task before it starts.

    Attributes:
        id, version: ``store_cereal``, ``v1``.
        arms: names of the arms, in the order of their labels in images.
        language: the instruction.
        control_hz: rate of the controller.
        closed_below_m: a gripper whose opening is below this is closed or holding something.
        hand: the hand's surface model, the same for every arm.
    """

    id: str
    version: str
    arms: tuple[str, ...]
    language: str
    control_hz: float
    closed_below_m: float
    hand: HandModel


@dataclass(frozen=True)
class Observation:
    """Two calibrated RGB-D views (index 0 is the reference view n, 1 is m) and proprioception.

    Attributes:
        rgb: (2, H, W, 3) uint8.
        depth: (2, H, W) float32 metres along z as the sensor measures it, NaN where invalid; where it is not metric
            scaled by the hands, view m's only for policies that need both poses (docs/sensors.md).
        K: (2, 3, 3).  T_world_cam_n: (4, 4), the reference view's pose.
        T_world_cam_m: (4, 4), view m's pose, for policies with ``needs_both_poses``; None for all others.
        T_world_ee: (4, 4) for each arm.  opening_m: metres between the fingers, for each arm.
        language: the instruction.
    """

    rgb: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    K: Array
    T_world_cam_n: Array
    T_world_ee: dict[str, Array]
    opening_m: dict[str, float]
    language: str
    T_world_cam_m: Array | None = None


@dataclass(frozen=True)
class ActionChunk:
    """Absolute end-effector targets. Waypoint i is due (i + 1) * dt_s after the observation; the harness
    interpolates between waypoints and runs the controller, then asks for the next chunk.

    Attributes:
        T_world_ee: (N, 4, 4) for each arm.  opening_m: (N,) for each arm.  dt_s: seconds between waypoints.
    """

    T_world_ee: dict[str, Array]
    opening_m: dict[str, Array]
    dt_s: float

    def check(self, arms: Sequence[str], control_step: int = 0) -> None:
        """ActionError, which names the step, unless every arm has N rigid poses and N finite openings, N >= 1."""
        at = f"action chunk of control step {control_step}"
        if not 0 < self.dt_s <= LONGEST_S:
            raise ActionError(f"{at}: dt_s is {self.dt_s}, expected seconds > 0, at most {LONGEST_S:g}")
        lengths = set()
        for arm in arms:
            if arm not in self.T_world_ee or arm not in self.opening_m:
                raise ActionError(f"{at}: arm '{arm}' is missing; the task's arms are {', '.join(arms)}")
            try:
                T, o = (np.asarray(x[arm], dtype=np.float64) for x in (self.T_world_ee, self.opening_m))
            except (TypeError, ValueError) as error:
                raise ActionError(f"{at}: arm '{arm}' has poses or openings that are no numbers ({error})") from None
            if T.ndim != 3 or T.shape[1:] != (4, 4) or o.shape != (len(T),) or len(T) == 0:
                raise ActionError(f"{at}: arm '{arm}' has poses {T.shape}, openings {o.shape}; not (N, 4, 4), (N,)")
            if fault := unfit_pose(T):
                raise ActionError(f"{at}: arm '{arm}' has {fault[1]} at waypoint {fault[0]}")
            if not np.isfinite(o).all():
                raise ActionError(
                    f"{at}: arm '{arm}' has openings that are not finite at waypoint {np.isfinite(o).argmin()}"
                )
            lengths.add(len(T))
        if len(lengths) > 1:
            raise ActionError(f"{at}: arms have chunks of different lengths {sorted(lengths)}")


@dataclass(frozen=True)
class Future:
    """What the expert would do from the present state: poses and openings that are REACHED, not commanded.

    Attributes:
        T_world_ee: (N, 4, 4) for each arm.  opening_m: (N,) for each arm.  dt_s: waypoint i is (i + 1) * dt_s ahead.
        video: the true frames of the two views of the episode at the same times, where asked for.
    """

    T_world_ee: dict[str, Array]
    opening_m: dict[str, Array]
    dt_s: float
    video: Video4D | None


class SimulatorAccess(Protocol):
    """What an oracle may do with the simulator. Nothing here changes the live simulation."""

    def expert_action(self) -> ActionChunk:
        """The scripted expert's command for the next control step (N = 1, dt_s = 1 / control_hz)."""
        ...

    def expert_future(self, frames: int, dt_s: float, video: bool) -> Future:
        """Runs the expert on a copy of the present state for ``frames * dt_s`` seconds; renders if ``video``."""
        ...

    def true_observation(self, both_poses: bool) -> Observation:
        """What a policy would see now with perfect depth and the cameras' true poses."""
        ...


@dataclass(frozen=True)
class NoOptions:
    """Options of a policy that has none."""


@dataclass(frozen=True)
class PlanOptions:
    """Options of a policy that plans several waypoints at once."""

    execute: Count = 4
    """Waypoints of each plan that are carried out before the next one."""

    def __post_init__(self) -> None:
        check_ranges(self)


class Policy(ABC):
    """A policy for one episode at a time.

    The harness calls ``reset`` once an episode, then ``act`` whenever the last chunk has been carried out. A policy of
    another package subclasses this and names the class as an entry point of the group ``geo4d_bench.policies``
    (docs/adding_a_policy.md). What it declares is all that the command line, the leaderboard and the report know of it.

    Args:
        options: an instance of ``Options``.
    """

    name: ClassVar[str]
    """In ``--policy`` and in every row."""
    Options: ClassVar[type] = NoOptions
    """A frozen dataclass whose fields become command-line options, their docstrings the help."""
    rank: ClassVar[float] = 50.0
    """Place on the ladder: charts and tables go from 0 (``random``) to 100 (``expert``)."""
    rung_above: ClassVar[str] = ""
    """The policy that has the truth in place of one stage of this one; empty where there is none."""
    stage: ClassVar[str] = ""
    """That stage, to which the report gives what is lost from ``rung_above`` to here."""
    colour: ClassVar[str] = "#AA4499"
    """In charts, as #RRGGBB."""
    privileged: ClassVar[bool] = False
    """Oracles are handed the simulator before ``reset`` (attribute ``simulator``) and marked in every row."""
    needs_images: ClassVar[bool] = True
    """Where False the harness renders nothing: ``rgb``, ``depth`` have zero height and width."""
    needs_both_poses: ClassVar[bool] = False
    """Where True, observations have view m's pose too: not the paper's setting, and with rows of its own."""
    needs_checkpoint: ClassVar[bool] = False
    """Whether it is trained; its options then have a field ``checkpoint``."""
    simulator: SimulatorAccess | None = None
    clock_s: float = 0.0
    """Seconds of simulated time since the episode began; the harness sets it before each ``act``."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def load(cls, options: Any) -> PolicyFactory:
        """What makes the policy objects of a rollout, one an episode; override it to load once what they share."""
        return PolicyFactory(cls, lambda: cls(options))

    @classmethod
    def default_checkpoint(cls, task: str) -> Path | None:
        """Where a checkpoint is looked for when none is named; None of a policy that needs one to be named."""
        return None

    @classmethod
    def train_command(cls, task: str, out: Path | None) -> str:
        """The command that makes a checkpoint for it on a task's demonstrations; empty where there is none."""
        return ""

    @abstractmethod
    def reset(self, task: TaskInfo, seed: int) -> None:
        """Start an episode; ``seed`` is all the randomness a policy may use."""

    @abstractmethod
    def act(self, obs: Observation) -> ActionChunk:
        """Plan from one observation."""

    @classmethod
    def act_many(cls, policies: Sequence[Policy], observations: Sequence[Observation]) -> list[ActionChunk]:
        """Plan for several episodes at once; override where one call of a model can serve them all."""
        return [p.act(o) for p, o in zip(policies, observations, strict=True)]


@dataclass(frozen=True)
class PolicyFactory:
    """Makes the policy objects of a rollout, one an episode, which share what is expensive.

    Attributes:
        policy: their class.
        build: makes one.
        ablation: what its generator lacks, one of ``model.config.ABLATIONS``.
        generator: name of the generator that it plans with; empty where there is none.
        checkpoint_sha256: of its checkpoint, 64 hex digits; empty where there is none.
        image_size: (H, W) that its observations must have; None where any size serves.
        fast_checkpoint_sha256: of the second one, with which it corrects its plans; empty where there is none.
        arms: number of arms that it can move; None where any number.
        sensor: how the depth that it was trained with was measured; perfect where it was not trained.
        rig: name of the rig whose seen cameras it was trained on; hemisphere16 where it was not trained.
        finds_cameras: whether its generator searches for the cameras' poses.
    """

    policy: type[Policy]
    build: Callable[[], Policy] = field(repr=False)
    generator: str = ""
    ablation: str = "none"
    checkpoint_sha256: str = ""
    fast_checkpoint_sha256: str = ""
    image_size: tuple[int, int] | None = None
    arms: int | None = None
    sensor: SensorName = "perfect"
    rig: str = "hemisphere16"
    finds_cameras: bool = False

    def __call__(self) -> Policy:
        """A policy object for one episode."""
        return self.build()
