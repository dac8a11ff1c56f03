"""Typed objects of the dataset: a recorded trajectory, and a training window cut from its rendered views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geo4d_bench.geometry.se3 import Array


@dataclass(frozen=True)
class Trajectory:
    """One simulated episode, before any image is rendered (S control steps; row s is the state BEFORE action s).

    Attributes:
        task, version, seed, split, language: what was simulated.
        success: whether the whole task was done; phase: the last phase reached.
        control_hz: steps a second.
        states: (S, nstate) float64 mjSTATE_FULLPHYSICS.  actions: (S, A) float32.  time: (S,) seconds.
        T_world_ee: (S, 4, 4) for each arm.  opening_m: (S,) for each arm.  T_world_obj: (S, 4, 4) for each object.
        disturbances: (step, name) of every disturbance.
        scene: sha256 of the packed scene.
    """

    task: str
    version: str
    seed: int
    split: str
    language: str
    success: bool
    phase: str
    control_hz: float
    states: Array
    actions: npt.NDArray[np.float32]
    time: Array
    T_world_ee: dict[str, Array]
    opening_m: dict[str, Array]
    T_world_obj: dict[str, Array]
    scene: str
    disturbances: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Window:
    """One condition frame (index 0) and T future frames of two views; n is index 0, m is index 1.

    Attributes:
        rgb: (2, 1 + T, H, W, 3) uint8.
        points: (2, 1 + T, H, W, 3) float32 metres, each view's in its OWN camera frame, NaN where invalid; as the
            sensor measures them; where it is not metric scaled by the hands, and future hands true (docs/sensors.md).
            Training targets of view m are ``transform(T_n_m, points[1])``; its condition stays in its own frame.
        parts: (2, 1 + T, H, W) uint8, 0 or ``geometry.hand.part_label(arm, part)``.
        hand_mask: (H, W) bool: view n's first-frame hand pixels from proprioception (``geometry.hand.hand_mask``),
            as a policy computes them at run time.
        K: (2, 3, 3).  T_n_m: (4, 4) pose of camera m in camera n.  T_world_n: (4, 4) pose of camera n.
        T_n_ee: (arms, 1 + T, 4, 4).  opening_m: (arms, 1 + T).
        dt_s: seconds between frames.
        episode, start, cameras: where the window comes from.
        disturbed: whether something that nobody could predict happens from frame 0 to T: a slip, a push.
    """

    rgb: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float32]
    parts: npt.NDArray[np.uint8]
    hand_mask: npt.NDArray[np.bool_]
    K: Array
    T_n_m: Array
    T_world_n: Array
    T_n_ee: Array
    opening_m: Array
    dt_s: float
    episode: str
    start: int
    cameras: tuple[str, str]
    disturbed: bool = False
