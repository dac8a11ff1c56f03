"""Camera rigs: named sets of cameras about a task's workspace, declared as data; a user's own come from YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geo4d_bench.geometry.rig import AnyRig, Shell, point
from geo4d_bench.registry import Registry
from geo4d_bench.tasks.rig_file import load_rig
from geo4d_bench.tasks.rig_layouts import Declaration, Drawn, Fixed, Ring, SphereCamera

HEMISPHERE16 = Fixed(
    fovy_deg=48.0,
    # Novel cameras lie among seen ones: each has seen neighbours on either side, none is at an extreme of azimuth,
    # elevation or radius. Nothing looks from behind the robot, where the arm stands before the hand; cameras beyond
    # the shelf look from low down, where the upper board does not hide the hand.
    cameras=(
        SphereCamera(-126, 24, 0.95),
        SphereCamera(-114, 44, 1.00),
        SphereCamera(-104, 12, 0.85),
        SphereCamera(-92, 24, 0.95, "novel"),
        SphereCamera(-80, 31, 1.10),
        SphereCamera(-66, 18, 0.75),
        SphereCamera(-52, 11, 0.95, "novel"),
        SphereCamera(-38, 6, 1.20),
        SphereCamera(34, 8, 1.05),
        SphereCamera(50, 9, 0.85, "novel"),
        SphereCamera(63, 13, 1.15),
        SphereCamera(75, 16, 0.70),
        SphereCamera(89, 26, 0.90, "novel"),
        SphereCamera(100, 42, 1.05),
        SphereCamera(114, 14, 0.80),
        SphereCamera(126, 24, 1.05),
    ),
)

RANDOM16 = Drawn(
    # The space that hemisphere16 stands in. All cameras of an episode come from one distribution, and its novel ones
    # are novel in one sense only: their images are never trained on. They tell how a generator does at new places
    # among those it knows; hemisphere16's novel cameras and the orbit tell how it does away from them. The same
    # 12 + 4 as there, so that a rig is changed without changing anything else.
    shell=Shell(azimuth_deg=(-126.0, 126.0), elevation_deg=(6.0, 44.0), radius_m=(0.70, 1.20), fovy_deg=48.0),
    seen=12,
    novel=4,
)

ORBIT = Ring(
    azimuth_deg=(-130, 130),
    step_deg=10,
    # Low enough that a shelf's upper board hides the hand from no camera for long, high enough to look into a bowl.
    elevation_deg=12.0,
    radius_m=0.95,
    fovy_deg=48.0,
    pair_deg=90,
)

RIGS: Registry[Declaration] = Registry("rig")
RIGS.register("hemisphere16", HEMISPHERE16)
RIGS.register("random16", RANDOM16)
RIGS.register("orbit", ORBIT)


def rig_names() -> list[str]:
    """The names of all rigs, sorted."""
    return list(RIGS)


def is_rig_file(name: str) -> bool:
    """Whether a rig's name means a user's YAML file."""
    return name.endswith((".yaml", ".yml"))


def make_rig(name: str, workspace: Sequence[float]) -> AnyRig:
    """The rig called ``name`` about ``workspace`` (3,) metres in the world, or the one in a ``.yaml`` file.

    Raises:
        UnknownNameError: no such rig.  ConfigError: a file that cannot be read or is not a rig.
    """
    if is_rig_file(name):
        return load_rig(Path(name), workspace)
    return RIGS.get(name).place(name, point(workspace))
