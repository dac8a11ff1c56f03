"""Two rates: a slow plan by video, corrected between plans by a fast predictor that sees new frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.geometry.se3 import Array, interpolate_poses
from geo4d_bench.options import Count
from geo4d_bench.policies.generated import GeneratedVideo, GeneratorOptions, Layered, TrainedOptions
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, PolicyFactory, TaskInfo
from geo4d_bench.policies.trajectory_regression import TrajectoryRegression

_SLACK_S = 1e-6


@dataclass(frozen=True)
class HierarchicalOptions(GeneratorOptions):
    """Options of ``hierarchical``."""

    fast_checkpoint: Path | None = None
    """Checkpoint of trajectory_regression that corrects the video plans of --checkpoint."""
    execute: Count = 10
    """Waypoints of a video plan that are used."""
    fast_execute: Count = 1
    """Waypoints that are carried out before the next correction."""
    slow_latency: Annotated[float, Field(ge=0, le=100)] = 2.0
    """Seconds of simulated time that a video plan takes; --realtime is what a correction takes."""
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the correction in a hand's pose: 0 keeps the video plan, 1 replaces it."""


@dataclass(frozen=True)
class _Plan:
    """A video plan: when it was asked for, the hands' poses (4, 4) then, and its waypoints."""

    made_s: float
    start: dict[str, Array]
    chunk: ActionChunk

    @property
    def times_s(self) -> Array:
        """(1 + N,) when the hands are where: at the start, and at each waypoint."""
        number = len(next(iter(self.chunk.T_world_ee.values())))
        return np.asarray(self.made_s + self.chunk.dt_s * np.arange(1 + number), dtype=np.float64)


class Hierarchical(Policy):
    """Follows a generator's video plan, of which each call gives the next waypoints, averaged with those that
    ``trajectory_regression`` predicts from the present frames for the same moments.

    A video plan is there ``slow_latency`` simulated seconds after it was asked for, at the first call from then on; it
    is asked for when what is left of the one before lasts that long. A hand's pose is ``(1 - weight)`` the video plan
    and ``weight`` the prediction, linear in position and spherical in rotation; the fingers follow the video plan.
    Where no video plan reaches, the prediction is followed alone.

    Args:
        options: its options.  slow: makes the video plans.  fast: corrects them.
    """

    name = "hierarchical"
    Options: ClassVar[type] = HierarchicalOptions
    needs_checkpoint = True
    colour, rank = "#332288", 32.0

    def __init__(self, options: Any, slow: Policy, fast: Policy) -> None:
        super().__init__(options)
        self.slow, self.fast = slow, fast

    @classmethod
    def load(cls, options: Any) -> PolicyFactory:
        """Load both checkpoints once for all episodes.

        Raises:
            CheckpointError: one of them is missing or incomplete.
            ConfigError: they are not of a video policy and of ``trajectory_regression``, or do not fit each other.
        """
        from geo4d_bench.model.checkpoint import CONFIG_NAME, existing
        from geo4d_bench.model.generators import find_config
        from geo4d_bench.policies import policy_class

        if options.fast_checkpoint is None or not options.fast_checkpoint.is_dir():
            there = f"there is none at {options.fast_checkpoint}" if options.fast_checkpoint else "none is named"
            raise CheckpointError(
                f"policy '{cls.name}' needs a trained checkpoint of {TrajectoryRegression.name}, and {there}; name one "
                "with --fast-checkpoint ('geo4d-bench train --ablation trajectory_regression' makes it)"
            )
        config = find_config(str(existing(options.checkpoint, CONFIG_NAME)))
        board_name = config.board_name or ""
        planner = policy_class(board_name) if board_name else Policy
        if not issubclass(planner, GeneratedVideo) or planner.needs_both_poses:
            raise ConfigError(
                f"{options.checkpoint} was trained for '{board_name}', expected a policy that plans by video and is "
                "not calibrated, such as layered or geo4d; name another one with --checkpoint"
            )
        plan_s = min(options.execute, config.frames) * config.dt_s
        if options.slow_latency >= plan_s - _SLACK_S:
            raise ConfigError(
                f"--slow-latency is {options.slow_latency:g} s, and a video plan lasts {plan_s:g} s (--execute "
                f"{options.execute}): it is past when it comes, and would never be used; expected less"
            )
        slow = planner.load(options)
        fast = TrajectoryRegression.load(
            TrainedOptions(options.fast_execute, checkpoint=options.fast_checkpoint, device=options.device)
        )
        for what in ("image_size", "arms", "sensor"):
            ours, other = getattr(slow, what), getattr(fast, what)
            if ours != other:
                raise ConfigError(
                    f"{options.checkpoint} and {options.fast_checkpoint} differ in {what.replace('_', ' ')} ({ours} "
                    f"and {other}); train both on the same data"
                )
        return replace(
            slow,
            policy=cls,
            build=lambda: cls(options, slow(), fast()),
            fast_checkpoint_sha256=fast.checkpoint_sha256,
        )

    @classmethod
    def default_checkpoint(cls, task: str) -> Path:
        return Layered.default_checkpoint(task)

    @classmethod
    def train_command(cls, task: str, out: Path | None) -> str:
        return Layered.train_command(task, out)

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.task = task
        self.slow.reset(task, seed)
        self.fast.reset(task, seed)
        self.plan: _Plan | None = None
        self.coming: _Plan | None = None
        self.timings: dict[str, float] = {}

    def act(self, obs: Observation) -> ActionChunk:
        self.timings = {}
        self._arrive()
        left_s = 0.0 if self.plan is None else self.plan.times_s[-1] - self.clock_s
        if self.coming is None and left_s <= self.options.slow_latency + _SLACK_S:
            self.coming = _Plan(self.clock_s, obs.T_world_ee, self._timed(self.slow, obs))
            self._arrive()
        return self._corrected(self._timed(self.fast, obs))

    def _arrive(self) -> None:
        if self.coming is not None and self.clock_s >= self.coming.made_s + self.options.slow_latency - _SLACK_S:
            self.plan, self.coming = self.coming, None

    def _timed(self, policy: Policy, obs: Observation) -> ActionChunk:
        chunk = policy.act(obs)
        for name, ms in getattr(policy, "timings", {}).items():
            self.timings[name] = self.timings.get(name, 0.0) + ms
        return chunk

    def _corrected(self, fast: ActionChunk) -> ActionChunk:
        """The waypoints of a prediction that was made now, averaged with the video plan as far as that reaches."""
        if self.plan is None:
            return fast
        number = len(next(iter(fast.T_world_ee.values())))
        times, at = self.plan.times_s, self.clock_s + fast.dt_s * np.arange(1, 1 + number)
        at = at[at <= times[-1] + _SLACK_S]
        segment = np.clip(np.searchsorted(times, at - _SLACK_S) - 1, 0, len(times) - 2)
        poses, openings = {}, {}
        for arm, T_fast in fast.T_world_ee.items():
            planned = self.plan.chunk
            T_slow = interpolate_poses(times, np.concatenate([self.plan.start[arm][None], planned.T_world_ee[arm]]), at)
            between = [
                interpolate_poses([0.0, 1.0], pair, [self.options.weight]) for pair in zip(T_slow, T_fast, strict=False)
            ]
            poses[arm] = np.concatenate([*between, T_fast[len(at) :]])
            openings[arm] = np.concatenate([planned.opening_m[arm][segment], fast.opening_m[arm][len(at) :]])
        return ActionChunk(poses, openings, fast.dt_s)
