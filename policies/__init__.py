"""Policies: the protocol, the oracle ladder, the floor, and the policies that plan with a generator.

:func:`policy_class` finds a policy by its name, :func:`load_policy` loads it. Another package adds one as an entry
point of the group ``geo4d_bench.policies`` (docs/adding_a_policy.md); every generator has one by itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.policies.protocol import (
    ActionChunk,
    Future,
    Observation,
    PlanOptions,
    Policy,
    PolicyFactory,
    SimulatorAccess,
    TaskInfo,
)
from geo4d_bench.registry import Registry, unknown_name

if TYPE_CHECKING:
    from geo4d_bench.policies.true_stages import Replacement

__all__ = [
    "POLICIES",
    "ActionChunk",
    "Future",
    "Observation",
    "PlanOptions",
    "Policy",
    "PolicyFactory",
    "SimulatorAccess",
    "TaskInfo",
    "load_policy",
    "names",
    "policy_class",
]

POLICIES: Registry[type[Policy]] = Registry(
    "policy",
    group="geo4d_bench.policies",
    builtin={
        "expert": "geo4d_bench.policies.oracles:Expert",
        "oracle_pose": "geo4d_bench.policies.oracles:OraclePose",
        "oracle_video": "geo4d_bench.policies.oracles:OracleVideo",
        "random": "geo4d_bench.policies.random:Random",
        "blind": "geo4d_bench.policies.blind:Blind",
        "replay": "geo4d_bench.policies.blind:Replay",
        "proprioception": "geo4d_bench.policies.blind:Proprioception",
        "geo4d": "geo4d_bench.policies.generated:Geo4D",
        "geo4d_calibrated": "geo4d_bench.policies.generated:Geo4DCalibrated",
        "layered": "geo4d_bench.policies.generated:Layered",
        "layered_calibrated": "geo4d_bench.policies.generated:LayeredCalibrated",
        "trajectory_regression": "geo4d_bench.policies.trajectory_regression:TrajectoryRegression",
        "hierarchical": "geo4d_bench.policies.hierarchical:Hierarchical",
        "trajectory_regression_calibrated": "geo4d_bench.policies.trajectory_regression:TrajectoryRegressionCalibrated",
    },
)


def names() -> list[str]:
    """All policies, in alphabetical order."""
    return sorted({*POLICIES, *_of_generators()})


def policy_class(name: str) -> type[Policy]:
    """The policy called ``name``; UnknownNameError with the nearest names where there is none."""
    if name in POLICIES:
        return POLICIES.get(name)
    of_generators = _of_generators()
    if name in of_generators:
        from geo4d_bench.policies.generated import policy_of_generator

        return policy_of_generator(*of_generators[name])
    raise unknown_name("policy", name, names())


def load_policy(name: str, task: str, options: Any = None, replacement: Replacement | None = None) -> PolicyFactory:
    """The factory of a policy, loaded once for all episodes.

    Args:
        name: one of :func:`names`.
        task: id of the task, of which the default checkpoint is.
        options: an instance of the policy's ``Options``; its defaults where None.
        replacement: the stage of it that is replaced by the truth, see ``policies.true_stages``.

    Raises:
        UnknownNameError: no such policy.
        CheckpointError: the policy needs a checkpoint and there is none, or it is incomplete.
        ConfigError: an option is out of range, or the checkpoint is another policy's.
    """
    policy = policy_class(name)
    options = policy.Options() if options is None else options
    if policy.needs_checkpoint:
        folder: Path | None = options.checkpoint or policy.default_checkpoint(task)
        if folder is None or not folder.is_dir():
            there = f"there is none at {folder}" if folder is not None else "none is named"
            how = policy.train_command(task, folder)
            raise CheckpointError(
                f"policy '{name}' needs a trained checkpoint and {there}; "
                f"{f'make one with {how}, or ' if how else ''}name one with --checkpoint"
            )
        options = dataclasses.replace(options, checkpoint=folder)
    if replacement is None:
        return policy.load(options)
    from geo4d_bench.policies.true_stages import with_truth

    changed = with_truth(policy, replacement)
    factory = changed.load(options)
    if not isinstance(factory(), changed):
        raise ConfigError(
            f"policy '{name}': load() of {policy.__name__} makes objects of a class that it names itself, so that no "
            "stage of them can be replaced; let it make them with cls(...)"
        )
    return factory


def _of_generators() -> dict[str, tuple[str, bool]]:
    """Policies of other packages' generators: (generator, whether calibrated) by the policy's name."""
    from geo4d_bench.model.generators import GENERATORS

    found = {}
    for name, config in GENERATORS.items():
        for calibrated in (False, True):
            policy = config.policy + ("_calibrated" if calibrated else "")
            if policy not in POLICIES:
                found[policy] = (name, calibrated)
    return found
