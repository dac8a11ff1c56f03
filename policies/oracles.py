"""The oracle ladder: policies that are handed the simulator, so that a loss can be pinned to a stage.

``expert`` → ``oracle_pose`` → ``oracle_video`` → a generator's video: each rung replaces one true thing by what the
real pipeline makes of it, and what falls between two rungs belongs to the stage between them.
"""

from __future__ import annotations

from typing import ClassVar

from geo4d_bench.errors import PolicyError
from geo4d_bench.policies.protocol import ActionChunk, Observation, PlanOptions, Policy, SimulatorAccess, TaskInfo
from geo4d_bench.policies.video_policy import VideoPolicy

PLAN_FRAMES, PLAN_DT_S = 10, 0.4


def simulator_of(policy: Policy) -> SimulatorAccess:
    """The simulator that a policy was handed; PolicyError where it was not."""
    if policy.simulator is None:
        raise PolicyError(f"{type(policy).__name__} is an oracle: set its attribute 'simulator' before act()")
    return policy.simulator


class Expert(Policy):
    """The scripted expert, one control step at a time: the ceiling."""

    name = "expert"
    colour, rank = "#009E73", 100.0
    privileged: ClassVar[bool] = True
    needs_images: ClassVar[bool] = False

    def reset(self, task: TaskInfo, seed: int) -> None:
        """Nothing to remember: the expert acts on the state it sees."""

    def act(self, obs: Observation) -> ActionChunk:
        return simulator_of(self).expert_action()


class OraclePose(Policy):
    """The true future poses that the expert would reach, at the rate of a generated plan."""

    name = "oracle_pose"
    rung_above, stage = "expert", "planning at 0.4 s, interpolation, replanning"
    Options: ClassVar[type] = PlanOptions
    colour, rank = "#009E73", 90.0
    privileged: ClassVar[bool] = True
    needs_images: ClassVar[bool] = False

    def reset(self, task: TaskInfo, seed: int) -> None:
        """Nothing to remember."""

    def act(self, obs: Observation) -> ActionChunk:
        # Waypoints beyond those that are carried out would change nothing.
        future = simulator_of(self).expert_future(self.options.execute, PLAN_DT_S, video=False)
        return ActionChunk(future.T_world_ee, future.opening_m, future.dt_s)


class OracleVideo(VideoPolicy):
    """The true future frames, with their true labels, through the tracker that generated video goes through."""

    name = "oracle_video"
    rung_above, stage = "oracle_pose", "tracking the gripper in true frames"
    colour, rank = "#009E73", 80.0
    privileged: ClassVar[bool] = True

    def act(self, obs: Observation) -> ActionChunk:
        future = simulator_of(self).expert_future(PLAN_FRAMES, PLAN_DT_S, video=True)
        if future.video is None:
            raise PolicyError("oracle_video: the simulator's expert_future(video=True) gave no video")
        return self.chunk_from_video(future.video, obs)
