"""The tracker protocol: a gripper followed through a 4D video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.model.types import EETrajectory, Video4D


@dataclass(frozen=True)
class HandTrack:
    """One hand's track through a video of T frames.

    Attributes:
        T_n_ee: (T, 4, 4) float64 end-effector poses in camera n's frame.
        opening_m: (T,) metres between the fingers.
        confidence: (T,) in [0, 1], comparable between frames and videos; 0 where lost.
        lost: (T,) bool, True where the frame had too little evidence and its pose is extrapolated.
    """

    T_n_ee: Array
    opening_m: Array
    confidence: Array
    lost: npt.NDArray[np.bool_]


class Tracker(ABC):
    """Follows one kind of gripper through videos; one object serves a whole episode.

    Another package subclasses this and names the class as an entry point (docs/adding_a_tracker.md).

    Args:
        hand: the gripper's surface model, end-effector frame.
    """

    name: ClassVar[str]

    def __init__(self, hand: HandModel) -> None:
        self.hand = hand

    @abstractmethod
    def track(self, video: Video4D, T_n_ee_start: Array, opening_start_m: float, arm: int = 0) -> HandTrack:
        """Follow one arm's gripper from a known pose through all frames.

        Args:
            video: T frames; ``parts`` carries the labels of ``part_label(arm, ...)``, ``first_points`` what was seen
                before them.
            T_n_ee_start: (4, 4) the pose ``dt_s`` before frame 0, from forward kinematics, camera n's frame.
            opening_start_m: metres between the fingers at that time.
            arm: index of the arm among the task's.
        """


def tracks(hands: EETrajectory) -> list[HandTrack]:
    """Predicted poses as tracks, one an arm; nothing is lost and the confidence is NaN."""
    return [
        HandTrack(T, opening, np.full(len(T), np.nan), np.zeros(len(T), dtype=bool))
        for T, opening in zip(hands.T_n_ee, hands.opening_m, strict=True)
    ]
