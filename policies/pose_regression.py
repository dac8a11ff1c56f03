"""The baseline that a video policy has to beat: the same network, its hands' poses read out, no video in between."""

from __future__ import annotations

import time

import numpy as np

from geo4d_bench.model.video import ForeseenHands
from geo4d_bench.policies.geo4d import LoadedGenerator
from geo4d_bench.policies.protocol import ActionChunk, Observation, Policy, TaskInfo
from geo4d_bench.policies.trackers import HandTrack


class PoseRegression(Policy):
    """Moves along the poses that the network foresees, without cameras' poses; nothing is generated or tracked.

    Args:
        loaded: a generator of the ablation ``pose_regression``, shared between episodes.
        execute: waypoints of each plan that are carried out before the next one.
    """

    def __init__(self, loaded: LoadedGenerator, execute: int) -> None:
        self.loaded, self.execute = loaded, execute
        self.timings: dict[str, float] = {}

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.task, self.timings = task, {}

    def act(self, obs: Observation) -> ActionChunk:
        began = time.perf_counter()
        from geo4d_bench.model.generator import Generator

        generator = self.loaded.generator
        assert isinstance(generator, Generator)  # the other backbone has no such ablation
        hands = generator.foresee([self.loaded.first_frames(obs, self.task)])[0]
        self.timings["generate_ms"] = 1e3 * (time.perf_counter() - began)
        return ActionChunk(
            {arm: obs.T_world_cam_n @ hands.T_n_ee[i, : self.execute] for i, arm in enumerate(self.task.arms)},
            {
                arm: hands.opening_m[i, : self.execute].clip(0.0, self.task.hand.max_opening_m)
                for i, arm in enumerate(self.task.arms)
            },
            generator.config.dt_s,
        )


class PoseRegressionCalibrated(PoseRegression):
    """:class:`PoseRegression` that is given the poses of both cameras."""

    needs_both_poses = True


def tracks(hands: ForeseenHands) -> list[HandTrack]:
    """The poses as a tracker would give them, an arm each; nothing is lost, and nothing is known of confidence."""
    return [
        HandTrack(T, opening, np.full(len(T), np.nan), np.zeros(len(T), dtype=bool))
        for T, opening in zip(hands.T_n_ee, hands.opening_m, strict=True)
    ]
