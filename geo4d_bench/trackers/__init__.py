"""Trackers, which follow a gripper through a 4D video, and segmenters, which label it there.

Another package adds one as an entry point of the group ``geo4d_bench.trackers`` or ``geo4d_bench.segmenters``
(docs/adding_a_tracker.md).
"""

from __future__ import annotations

from geo4d_bench.registry import Registry
from geo4d_bench.trackers.protocol import HandTrack, Tracker
from geo4d_bench.trackers.segmenter import Segmenter

__all__ = ["SEGMENTERS", "TRACKERS", "HandTrack", "Segmenter", "Tracker"]

TRACKERS: Registry[type[Tracker]] = Registry(
    "tracker",
    group="geo4d_bench.trackers",
    builtin={"point_cloud": "geo4d_bench.trackers.point_cloud:PointTracker"},
)

SEGMENTERS: Registry[type[Segmenter]] = Registry(
    "segmenter",
    group="geo4d_bench.segmenters",
    builtin={"trained": "geo4d_bench.trackers.segmenter:TrainedSegmenter"},
)
