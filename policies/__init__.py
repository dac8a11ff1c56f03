"""Policies: the protocol, the oracle ladder, the floor, and the policy that plans by generating 4D video.

``make_policy(name, checkpoint)`` gives a factory; each call of the factory gives one episode's own policy object, and
all of them share what is expensive (the loaded generator). Names are looked up here without importing any policy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.model.backbones import Device
from geo4d_bench.policies.protocol import ActionChunk, Future, Observation, Policy, SimulatorAccess, TaskInfo
from geo4d_bench.registry import Registry

__all__ = [
    "ActionChunk",
    "Future",
    "Observation",
    "Policy",
    "PolicyFactory",
    "SimulatorAccess",
    "TaskInfo",
    "make_policy",
    "names",
    "train_options",
]

DEFAULT_EXECUTE = 4
"""Waypoints carried out of each plan before the next one."""


@dataclass(frozen=True)
class PolicyFactory:
    """Makes policy objects, one an episode.

    Attributes:
        name: as registered; of an ablation ``NAME-ABLATION``, so that it stands in every row.
        privileged: it is handed the simulator, and every row of its says so.
        needs_images: where False, observations need no rendered images.
        needs_both_poses: where True, observations need view m's pose too.
        needs_checkpoint: it was loaded from a checkpoint folder.
        checkpoint_sha256: of the checkpoint, 64 hex digits; empty where there is none.
        image_size: (H, W) that its observations must have; None where any size serves.
        arms: number of arms that it can move; None where any number.
        sensor: how the depth that it was trained with was measured; perfect where it was not trained.
        build: makes one policy.
    """

    name: str
    privileged: bool
    needs_images: bool
    needs_both_poses: bool
    needs_checkpoint: bool
    checkpoint_sha256: str
    image_size: tuple[int, int] | None
    arms: int | None
    sensor: SensorName
    build: Callable[[], Policy] = field(repr=False)

    def __call__(self) -> Policy:
        """A policy object for one episode."""
        return self.build()


def names() -> tuple[str, ...]:
    """The registered policies, in alphabetical order."""
    return tuple(_POLICIES)


def make_policy(
    name: str,
    checkpoint: Path | None = None,
    execute: int = DEFAULT_EXECUTE,
    device: Device = "cpu",
    steps: int | None = None,
) -> PolicyFactory:
    """The factory of a policy; loads the checkpoint of those that have one, once.

    Args:
        name: one of :func:`names`.
        checkpoint: folder of a trained generator, for policies that need one; others ignore it.
        execute: waypoints of each plan that are carried out before the next one.
        device: where the generator runs.
        steps: sampling steps of each plan's video; the checkpoint's own number where None.

    Raises:
        UnknownNameError: no such policy, with a suggestion.
        CheckpointError: the policy needs a checkpoint and there is none, or it is incomplete.
        ConfigError: ``execute`` or ``steps`` is not positive, ``steps`` is given to a policy that generates no video,
            the checkpoint is of another setting, or there is no such device.
    """
    if execute < 1:
        raise ConfigError(f"execute is {execute}, expected at least 1 waypoint of each plan")
    make = _POLICIES.get(name)
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}, expected at least 1 sampling step")
    if steps is not None and not name.startswith("geo4d"):
        raise ConfigError(
            f"policy '{name}' generates no video, so that it has no sampling steps to set to {steps}; leave --steps "
            "out, or choose the policy geo4d or geo4d_calibrated"
        )
    return make(_Options(checkpoint, execute, device, steps))


def train_options(name: str) -> str:
    """The options of ``geo4d-bench train`` that make a policy's checkpoint."""
    setting = f"--setting geo4d{'_calibrated' if name.endswith('_calibrated') else ''}"
    return setting + (" --ablation pose_regression" if name.startswith("pose_regression") else "")


@dataclass(frozen=True)
class _Options:
    """What :func:`make_policy` is given besides the name."""

    checkpoint: Path | None
    execute: int
    device: Device
    steps: int | None


_POLICIES: Registry[Callable[[_Options], PolicyFactory]] = Registry("policy")


def _expert(options: _Options) -> PolicyFactory:
    from geo4d_bench.policies.oracles import Expert

    return _plain("expert", Expert, Expert)


def _oracle_pose(options: _Options) -> PolicyFactory:
    from geo4d_bench.policies.oracles import OraclePose

    return _plain("oracle_pose", OraclePose, lambda: OraclePose(options.execute))


def _oracle_video(options: _Options) -> PolicyFactory:
    from geo4d_bench.policies.oracles import OracleVideo

    return _plain("oracle_video", OracleVideo, lambda: OracleVideo(options.execute))


def _random(options: _Options) -> PolicyFactory:
    from geo4d_bench.policies.random import Random

    return _plain("random", Random, Random)


def _generated(name: str, options: _Options) -> PolicyFactory:
    """The policy of a checkpoint: one of video, or of poses read out, in one of the two settings."""
    direct, calibrated = name.startswith("pose_regression"), name.endswith("_calibrated")
    checkpoint = options.checkpoint
    if checkpoint is None or not checkpoint.is_dir():
        got = "none was given" if checkpoint is None else f"{checkpoint} is not a folder"
        raise CheckpointError(
            f"policy '{name}' needs a generator's checkpoint folder and {got}; make one with "
            f"'geo4d-bench train --data data/store_cereal --preset nano {train_options(name)}'"
        )
    from geo4d_bench.policies.geo4d import Geo4D, Geo4DCalibrated, load_generator
    from geo4d_bench.policies.pose_regression import PoseRegression, PoseRegressionCalibrated

    policy: type[Geo4D | PoseRegression] = (
        (PoseRegressionCalibrated if calibrated else PoseRegression)
        if direct
        else (Geo4DCalibrated if calibrated else Geo4D)
    )
    loaded = load_generator(checkpoint, options.device, options.steps)
    config = loaded.generator.config
    regresses = config.ablation == "pose_regression"
    if config.rgb_only:
        raise ConfigError(
            f"{checkpoint} was trained for {config.ablation}: its video has no depth that a hand could be tracked by, "
            "so that there is no policy of it; 'geo4d-bench evaluate' scores its images"
        )
    trained = config.setting.replace("geo4d", "pose_regression") if regresses else config.setting
    if trained != name:
        raise ConfigError(f"{checkpoint} was trained for the policy '{trained}', not '{name}'")
    return PolicyFactory(
        name=name if regresses or config.ablation == "none" else f"{name}-{config.ablation}",
        privileged=policy.privileged,
        needs_images=policy.needs_images,
        needs_both_poses=policy.needs_both_poses,
        needs_checkpoint=True,
        checkpoint_sha256=loaded.sha256,
        image_size=loaded.image_size,
        arms=config.arms,
        sensor=config.sensor,
        build=lambda: policy(loaded, options.execute),
    )


def _plain(name: str, policy: type[Policy], build: Callable[[], Policy]) -> PolicyFactory:
    return PolicyFactory(
        name=name,
        privileged=policy.privileged,
        needs_images=policy.needs_images,
        needs_both_poses=policy.needs_both_poses,
        needs_checkpoint=False,
        checkpoint_sha256="",
        image_size=None,
        arms=None,
        sensor="perfect",
        build=build,
    )


for _name, _maker in (
    ("expert", _expert),
    ("oracle_pose", _oracle_pose),
    ("oracle_video", _oracle_video),
    ("random", _random),
):
    _POLICIES.register(_name, _maker)
for _name in ("geo4d", "geo4d_calibrated", "pose_regression", "pose_regression_calibrated"):
    _POLICIES.register(_name, functools.partial(_generated, _name))
