"""Camera rigs: named sets of cameras about a task's workspace; a user's own come from YAML files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera, ViewSplit, project
from geo4d_bench.geometry.rig import (
    AnyRig,
    DrawnRig,
    PerturbedRig,
    PlayedRig,
    Point,
    Rig,
    Shell,
    on_sphere,
    point,
)
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.registry import Registry
from geo4d_bench.tasks.protocols import PROTOCOLS
from geo4d_bench.tasks.rig_file import FOVY_DEG, Ring, load_rig

# Azimuth (degrees about the world's z axis; 0 is beyond the workspace, facing the robot, +90 on its left), elevation
# (degrees), distance from the workspace (metres) and split.
#
# Novel cameras lie among seen ones: each has seen neighbours on either side, none is at an extreme of azimuth,
# elevation or radius. Nothing looks from behind the robot, where the arm stands before the hand; cameras beyond
# the shelf look from low down, where the upper board does not hide the hand.
HEMISPHERE16: tuple[tuple[float, float, float, ViewSplit], ...] = (
    (-126, 24, 0.95, "seen"),
    (-114, 44, 1.00, "seen"),
    (-104, 12, 0.85, "seen"),
    (-92, 24, 0.95, "novel"),
    (-80, 31, 1.10, "seen"),
    (-66, 18, 0.75, "seen"),
    (-52, 11, 0.95, "novel"),
    (-38, 6, 1.20, "seen"),
    (34, 8, 1.05, "seen"),
    (50, 9, 0.85, "novel"),
    (63, 13, 1.15, "seen"),
    (75, 16, 0.70, "seen"),
    (89, 26, 0.90, "novel"),
    (100, 42, 1.05, "seen"),
    (114, 14, 0.80, "seen"),
    (126, 24, 1.05, "seen"),
)

# The space that hemisphere16 stands in. All cameras of an episode come from one distribution, and its novel ones
# are novel in one sense only: their images are never trained on. They tell how a generator does at new places
# among those it knows; hemisphere16's novel cameras and the orbit tell how it does away from them. The same
# 12 + 4 as there, so that a rig is changed without changing anything else.
RANDOM16 = Shell(azimuth_deg=(-126.0, 126.0), elevation_deg=(6.0, 44.0), radius_m=(0.70, 1.20), fovy_deg=FOVY_DEG)

# Wider than what hemisphere16 stands in, on all sides: for training generators that shall know high, near and far
# cameras too. Twelve fixed cameras are memorised; as many drawn anew from here are not.
WIDE = Shell(azimuth_deg=(-130.0, 130.0), elevation_deg=(5.0, 75.0), radius_m=(0.60, 1.30), fovy_deg=FOVY_DEG)

# Low enough that a shelf's upper board hides the hand from no camera for long, high enough to look into a bowl.
ORBIT = Ring(azimuth_deg=(-130, 130), step_deg=10, elevation_deg=12.0, radius_m=0.95, pair_deg=90)

# The same closed: behind the robot the arm hides the hand, and cameras are up to 52 degrees from hemisphere16's.
RING_360 = ORBIT.model_copy(update={"azimuth_deg": (-180, 170)})

# Fields of view of a pair at the ring's front, where nothing else changes: from a long lens, in which the workspace
# fills the image, to a wide one.
ZOOM_FOVY_DEG = range(24, 85, 5)


def _zoom(target: Point) -> Rig:
    cameras = tuple(
        Camera(
            f"{side}{fovy_deg}",
            on_sphere(target, azimuth, ORBIT.elevation_deg, ORBIT.radius_m),
            float(np.radians(fovy_deg)),
            "novel",
        )
        for side, azimuth in (("left", ORBIT.pair_deg / 2), ("right", -ORBIT.pair_deg / 2))
        for fovy_deg in ZOOM_FOVY_DEG
    )
    return Rig("zoom", cameras, target, ring_offset=len(ZOOM_FOVY_DEG))


def _hemisphere16(target: Point) -> Rig:
    fovy_rad = float(np.radians(FOVY_DEG))
    cameras = tuple(
        Camera(f"cam{i:02d}", on_sphere(target, *place), fovy_rad, split)
        for i, (*place, split) in enumerate(HEMISPHERE16)
    )
    return Rig("hemisphere16", cameras, target)


RIGS: Registry[Callable[[Point], AnyRig]] = Registry("rig")
"""Each rig as a function of the point of the world (3,), metres, that it stands about."""
RIGS.register("hemisphere16", _hemisphere16)
RIGS.register("random16", lambda target: DrawnRig("random16", RANDOM16, target, seen=12, novel=4))
for _number in (16, 32, 64):
    RIGS.register(f"wide{_number}", functools.partial(DrawnRig, f"wide{_number}", WIDE, seen=_number - 4, novel=4))
RIGS.register("orbit", lambda target: ORBIT.place("orbit", target, FOVY_DEG))
RIGS.register("ring_360", lambda target: RING_360.place("ring_360", target, FOVY_DEG))
RIGS.register("zoom", _zoom)


def is_rig_file(name: str) -> bool:
    """Whether a rig's name means a user's YAML or JSON file."""
    return Path(name).suffix.lower() in (".yaml", ".yml", ".json")


def make_rig(name: str, workspace: Sequence[float]) -> AnyRig:
    """The rig called ``name`` about ``workspace`` (3,) metres in the world, or the one in a file (.yaml, .yml, .json).

    Raises:
        UnknownNameError: no such rig.  ConfigError: a file that cannot be read or is not a rig, or a protocol's name.
    """
    if is_rig_file(name):
        return load_rig(Path(name), workspace)
    if name in PROTOCOLS:
        raise ConfigError(
            f"'{name}' moves cameras anew for every episode and is only played from (rollout --views {name}); give a "
            f"rig that datasets are made with: {', '.join(RIGS)} or a rig's file"
        )
    return RIGS.get(name)(point(workspace))


def played_rig(name: str, workspace: Sequence[float]) -> PlayedRig:
    """:func:`make_rig`, or that of a published protocol; raises the same."""
    if name not in PROTOCOLS:
        return make_rig(name, workspace)
    target, protocol, fovy_rad = point(workspace), PROTOCOLS[name], float(np.radians(FOVY_DEG))
    if protocol.base == "trained":
        base = _hemisphere16(target).views("seen")
    else:
        base = tuple(
            Camera(side, on_sphere(target, azimuth, ORBIT.elevation_deg, ORBIT.radius_m), fovy_rad)
            for side, azimuth in (("front_left", ORBIT.pair_deg / 2), ("front_right", -ORBIT.pair_deg / 2))
        )
    return PerturbedRig(name, base, target, protocol.perturbation)


def warn_of_unseen_workspace(rig: PlayedRig, height: int, width: int) -> None:
    """Name on stderr the fixed cameras in whose images of that size the workspace does not lie, and those whose pose
    looks as if it were given the wrong way. Whether a camera sees anything, ``Renderer.require_sight`` finds."""

    def off(camera: Camera, T_world_cam: Array) -> float:
        """How far the workspace is from the image's middle: 1 at its edge, infinite behind the camera."""
        pixel = project(transform(inverse(T_world_cam), np.array(rig.target)), camera.K(height, width))
        return float(np.nan_to_num(np.abs(pixel / [(width - 1) / 2, (height - 1) / 2] - 1.0), nan=np.inf).max())

    for camera in rig.cameras if isinstance(rig, Rig) else ():
        T = camera.T_world_cam
        found, T_inverse = off(camera, T), inverse(T)
        if found > 0.3 > off(camera, T_inverse) and T_inverse[2, 1] < 0:  # upright, not so by chance
            fault = "looks at the workspace if its pose is inverted: expected camera-to-world, is it world-to-camera?"
        elif found <= 1:
            continue
        elif off(camera, T @ np.diag([1.0, -1.0, -1.0, 1.0])) <= 1:
            fault = "does not look at the workspace, and would in the other 'convention', opencv or opengl"
        else:
            fault = "does not look at the workspace; turn it, or leave it so if that is meant"
        print(f"warning: camera '{camera.name}' of rig '{rig.name}' {fault}", file=sys.stderr)
