"""Trackers: what follows a gripper through a 4D video.

Another package adds one as an entry point of the group ``geo4d_bench.trackers`` (docs/adding_a_tracker.md).
"""

from __future__ import annotations

from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.registry import Registry
from geo4d_bench.trackers.protocol import HandTrack, Tracker

__all__ = ["TRACKERS", "HandTrack", "Tracker", "make_tracker"]

TRACKERS: Registry[type[Tracker]] = Registry(
    "tracker",
    group="geo4d_bench.trackers",
    builtin={"point_cloud": "geo4d_bench.trackers.point_cloud:PointTracker"},
)


def make_tracker(name: str, hand: HandModel) -> Tracker:
    """A tracker for one kind of hand; UnknownNameError, PluginError."""
    return TRACKERS.get(name)(hand)
