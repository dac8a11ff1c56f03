"""The baseline that a video policy has to beat: the layered generator's trajectory predictor alone, no video at all."""

from __future__ import annotations

import time

from geo4d_bench.policies.generated import TrainedPolicy, calibrated
from geo4d_bench.policies.protocol import ActionChunk, Observation, TaskInfo


class TrajectoryRegression(TrainedPolicy):
    """Moves along the predicted trajectory; nothing is generated or tracked."""

    name = "trajectory_regression"
    preset = "layered_nano"
    ablation = "trajectory_regression"
    colour = "#999933"
    rank = 10.0

    def reset(self, task: TaskInfo, seed: int) -> None:
        self.task = task
        self.timings: dict[str, float] = {}

    def act(self, obs: Observation) -> ActionChunk:
        began = time.perf_counter()
        trajectory = self.generator.predict_trajectory([self.first_frames(obs, self.task)])[0]
        self.timings["generate_ms"] = 1e3 * (time.perf_counter() - began)
        count, widest = self.options.execute, self.task.hand.max_opening_m
        return ActionChunk(
            {arm: obs.T_world_cam_n @ trajectory.T_n_ee[i, :count] for i, arm in enumerate(self.task.arms)},
            {arm: trajectory.opening_m[i, :count].clip(0.0, widest) for i, arm in enumerate(self.task.arms)},
            self.generator.config.dt_s,
        )


TrajectoryRegressionCalibrated = calibrated(TrajectoryRegression)
