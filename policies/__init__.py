"""Policies: the protocol, geo4d, trackers, oracles, floors. A policy sees observations only."""

from geo4d_bench.policies.protocol import ActionChunk, Future, Observation, Policy, SimulatorAccess, TaskInfo

__all__ = ["ActionChunk", "Future", "Observation", "Policy", "SimulatorAccess", "TaskInfo"]
