"""A user's rig from a YAML or JSON file: cameras one by one, a shell that they are drawn from, or a ring."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from scipy.spatial.transform import Rotation

from geo4d_bench.dataset.manifest import Four, Name, Number
from geo4d_bench.dataset.schema import Pixels
from geo4d_bench.errors import ConfigError, explain
from geo4d_bench.geometry.camera import Camera, Lens, ViewSplit, look_at
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Point, Rig, Shell, on_sphere, point
from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.io import read_file

NEAREST_M, FARTHEST_M = 0.05, 10.0
"""How far from the workspace a camera may stand."""
FOVY_DEG = 48.0
"""Vertical field of view where none is given."""
LEAST_DEG, MOST_DEG = 1.0, 150.0
"""How wide a field of view may be."""

_Field = Annotated[float, Field(ge=LEAST_DEG, le=MOST_DEG)]
_Azimuth = Annotated[float, Field(ge=-360, le=360)]
_Elevation = Annotated[float, Field(ge=-89, le=89)]
_Radius = Annotated[float, Field(ge=NEAREST_M, le=FARTHEST_M)]
_Number = Annotated[int, Field(ge=0, le=100)]
_Step = Annotated[int, Field(ge=1, le=180)]
_Point = tuple[Number, Number, Number]


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"expected [low, high], got {list(ends)}")
    return ends


def _whole_degrees(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[1] - ends[0] >= 360 or ends[0] % 1 or ends[1] % 1:
        raise ValueError(f"expected whole degrees, less than a full turn, got {list(ends)}")
    return ends


_RISING = AfterValidator(_rising)


def load_rig(path: Path, workspace: Sequence[float]) -> AnyRig:
    """A user's rig about ``workspace`` (3,), named after the file. It has one of three forms. Cameras one by one, each
    with its place, and what it looks at (the task's workspace where left out)::

        fovy_deg: 55
        cameras:
          - {name: left, position: [0.4, 0.8, 1.7]}
          - {name: right, position: [0.4, -0.8, 1.7], look_at: [0, 0, 1.4], fovy_deg: 40, split: novel}

    Positions are metres in the world; ``split`` is ``novel`` where left out; poses and lenses are given in more ways
    (docs/rigs.md). Or a shell about the workspace that cameras are drawn from anew for every episode, as ``random16``;
    or a ring of novel cameras, as ``orbit``::

        fovy_deg: 48
        shell: {azimuth_deg: [-60, 60], elevation_deg: [10, 40], radius_m: [0.8, 1.0], seen: 12, novel: 4}

        fovy_deg: 48
        ring: {azimuth_deg: [-130, 130], step_deg: 5, elevation_deg: 30, radius_m: 1.0, pair_deg: 60}

    Raises:
        ConfigError: the file is missing, is not YAML or JSON, or something in it is missing, unknown or out of range.
    """
    where, target = f"rig file {path}", point(workspace)
    values = read_mapping(path, where)
    forms = [form for form in ("cameras", "shell", "ring") if form in values]
    if len(forms) != 1:
        hint = "; 'geo4d-bench rig import' makes a rig of a calibration file" if not forms else ""
        raise ConfigError(f"{where}: expected one of 'cameras', 'shell' and 'ring', got {len(forms)} of them{hint}")
    try:
        name = TypeAdapter(Name).validate_python(path.stem)
        file = _File.model_validate_json(json.dumps(values, default=str))
    except ValidationError as e:
        raise ConfigError(f"{where}: {explain(e)}") from None
    if file.cameras is not None:
        return Rig(name, tuple(_camera(where, c, file.fovy_deg, target) for c in file.cameras), target)
    if s := file.shell:
        shell = Shell(s.azimuth_deg, s.elevation_deg, s.radius_m, file.fovy_deg)
        return DrawnRig(name, shell, target, s.seen, s.novel)
    if file.ring is None:
        raise ConfigError(f"{where}: '{forms[0]}' is empty")
    return file.ring.place(name, target, file.fovy_deg)


def read_mapping(path: Path, where: str) -> dict[str, Any]:
    """A ``.json`` file, or any other as YAML, whose ``name`` values are text as it stands there.

    Numbers are read as YAML 1.2 and JSON have them. ConfigError, which begins with ``where``: the file cannot be read,
    is neither, has a key twice, or holds something else than keys with values.
    """
    try:
        content = read_file(path)
        if content.startswith((b"%YAML:", b"<?xml")):
            raise ConfigError(f"{where} is a calibration file: 'geo4d-bench rig import {path}' makes a rig of it")
        if path.suffix.lower() == ".json":
            values = json.loads(content, object_pairs_hook=_json_object)
        else:
            values = yaml.load(content, _Loader)  # a SafeLoader
        json.dumps(values, default=str)  # ValueError where an alias holds itself
    except OSError as e:
        raise ConfigError(f"{where} cannot be read: {e.strerror}; give the path of a YAML or JSON file") from e
    except yaml.MarkedYAMLError as e:
        line = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
        tab = " (a tab; indent with spaces)" if "'\\t'" in str(e.problem) else ""
        raise ConfigError(f"{where} is not YAML: {line}{e.problem}{tab}") from e
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        raise ConfigError(f"{where} is not YAML or JSON: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(values, dict):
        found = "nothing" if values is None else "a list" if isinstance(values, list) else f"{values!r:.40}"
        raise ConfigError(f"{where}: expected keys with values, such as 'cameras:', got {found}")
    return values


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2 (``8e-1`` is one, ``010`` is ten, ``1:30`` none), without dates; what
    stands after ``name:`` is text, and a key that comes twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key, value in node.value:
            if key.value in keys and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
            if key.value == "name" and isinstance(value, yaml.ScalarNode):
                value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag.rsplit(":", 1)[1] not in ("int", "float", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+.0123456789"),
)


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    for key in values:
        if sum(key == other for other, _ in pairs) > 1:
            raise ValueError(f"'{key}' is given twice")
    name = values.get("name")
    if isinstance(name, float):
        raise ValueError(f"the name {name} is a number; quote it")
    if type(name) is int:
        values["name"] = str(name)
    return values


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Camera(_Record):
    name: Name
    position: _Point | None = None
    look_at: _Point | None = None
    up: _Point | None = None
    roll_deg: Annotated[float, Field(ge=-360, le=360)] | None = None
    T_world_cam: tuple[Four, Four, Four, Four] | None = None
    quaternion_xyzw: Four | None = None
    quaternion_wxyz: Four | None = None
    convention: Literal["opencv", "opengl"] | None = None
    fovy_deg: _Field | None = None
    fovx_deg: _Field | None = None
    K: tuple[_Point, _Point, _Point] | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    split: ViewSplit = "novel"

    def given(self, *names: str) -> list[str]:
        """Those of the names that the file has."""
        return [name for name in names if getattr(self, name) is not None]


class _Shell(_Record):
    azimuth_deg: Annotated[tuple[_Azimuth, _Azimuth], _RISING]
    elevation_deg: Annotated[tuple[_Elevation, _Elevation], _RISING]
    radius_m: Annotated[tuple[_Radius, _Radius], _RISING]
    seen: _Number = 0
    novel: _Number = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.azimuth_deg[1] - self.azimuth_deg[0] > 360:
            raise ValueError(f"expected 'azimuth_deg' to span at most 360 degrees, got {list(self.azimuth_deg)}")
        if self.seen + self.novel < 1:
            raise ValueError("expected the numbers of cameras, 'seen' and 'novel', got 0 of each")
        return self


class Ring(_Record):
    """Novel cameras at one elevation and radius, for curves of success against the view's angle.

    They are named by their azimuth: ``az-130`` ... ``az+000`` ... ``az+130``.

    Attributes:
        azimuth_deg: (first, last) camera's azimuth.  step_deg: between neighbours.
        pair_deg: between view n and view m of an episode, a multiple of ``step_deg``.
    """

    azimuth_deg: Annotated[tuple[_Azimuth, _Azimuth], _RISING, AfterValidator(_whole_degrees)]
    step_deg: _Step
    elevation_deg: _Elevation
    radius_m: _Radius
    pair_deg: _Step

    def place(self, name: str, target: Point, fovy_deg: float) -> Rig:
        """The rig about ``target`` (3,), metres in the world; ConfigError where ``pair_deg`` fits no pair of it."""
        first, last = map(round, self.azimuth_deg)
        azimuths = range(first, last + 1, self.step_deg)
        offset, rest = divmod(self.pair_deg, self.step_deg)
        if rest or not 1 <= offset <= len(azimuths) // 2:
            raise ConfigError(
                f"ring '{name}': expected 'pair_deg' as a multiple of its step, {self.step_deg} degrees, and at most "
                f"half the ring, {len(azimuths) // 2 * self.step_deg} degrees, got {self.pair_deg}"
            )
        fovy_rad = float(np.radians(fovy_deg))
        cameras = tuple(
            Camera(f"az{a:+04d}", on_sphere(target, a, self.elevation_deg, self.radius_m), fovy_rad, "novel")
            for a in azimuths
        )
        return Rig(name, cameras, target, offset)


class _File(_Record):
    fovy_deg: _Field = FOVY_DEG
    cameras: Annotated[list[_Camera], Field(min_length=1, max_length=100)] | None = None
    shell: _Shell | None = None
    ring: Ring | None = None


def _camera(where: str, camera: _Camera, fovy_deg: float, target: Point) -> Camera:
    try:
        T_world_cam = _pose(camera, target)
        require_place(T_world_cam, target)
        lens = _lens(camera, fovy_deg)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{where}, camera '{camera.name}': {error}") from None
    if isinstance(lens, Lens):
        return Camera(camera.name, T_world_cam, None, camera.split, lens)
    return Camera(camera.name, T_world_cam, lens, camera.split)


def _pose(camera: _Camera, target: Point) -> Array:
    """T_world_cam (4, 4), OpenCV axes; ValueError where it is not given once, or not as one."""
    full = camera.given("T_world_cam", "quaternion_xyzw", "quaternion_wxyz")
    if not full:
        if camera.position is None:
            raise ValueError("expected 'position' or 'T_world_cam', metres in the world")
        if camera.convention:
            raise ValueError("'convention' is of 'T_world_cam' or a quaternion, and there is none")
        at = camera.look_at or target
        if np.linalg.norm(np.subtract(camera.position, at)) < NEAREST_M:
            raise ValueError("'position' is where it looks at; move it away")
        T = look_at(camera.position, at, camera.up)
        if camera.roll_deg is not None:
            T[:3, :3] = T[:3, :3] @ Rotation.from_euler("z", camera.roll_deg, degrees=True).as_matrix()
        return T
    excess = full[1:] + camera.given("look_at", "up", "roll_deg")
    if full[0] == "T_world_cam":
        excess += camera.given("position")
    elif camera.position is None:
        raise ValueError(f"expected 'position' beside '{full[0]}', metres in the world")
    if excess:
        raise ValueError(f"expected '{full[0]}' or '{excess[0]}', got both")
    if camera.convention is None:
        raise ValueError(
            f"expected 'convention' beside '{full[0]}': opencv (x right, y down, z forward) or opengl (x right, y up, "
            "z backward; so do Blender and NeRF)"
        )
    if camera.T_world_cam is not None:
        T = np.array(camera.T_world_cam)
        if np.abs(T[3] - [0, 0, 0, 1]).max() > 1e-6:
            transposed = np.abs(T[:, 3] - [0, 0, 0, 1]).max() < 1e-6
            hint = "it is stored by columns: transpose it" if transposed else "it must be a rigid pose"
            raise ValueError(f"expected 'T_world_cam' with [0, 0, 0, 1] as its last row, got {T[3].tolist()}; {hint}")
        T[:3, :3] = nearest_rotation(T[:3, :3])
    else:
        assert camera.position is not None
        quaternion = np.array(getattr(camera, full[0]))
        if abs(np.linalg.norm(quaternion) - 1.0) > 0.01:
            raise ValueError(f"expected '{full[0]}' of length 1, got length {np.linalg.norm(quaternion):.3g}")
        xyzw = np.roll(quaternion, -1) if camera.quaternion_wxyz else quaternion
        T = pose(Rotation.from_quat(xyzw).as_matrix(), camera.position)
    if camera.convention == "opengl":
        T[:3, 1:3] *= -1.0
    return T


def nearest_rotation(R: Array) -> Array:
    """The rotation (3, 3) next to one of rounded numbers; ValueError where it is none, says what it is instead."""
    off = np.abs(R.T @ R - np.eye(3)).max()
    if off > 0.02:
        lengths = np.linalg.norm(R, axis=0)
        scaled = np.ptp(lengths) < 0.02 * lengths.max()
        what = f"scaled by {lengths.mean():.4g}: divide it by that" if scaled else f"off by {off:.2g}"
        raise ValueError(
            f"expected a rotation in 'T_world_cam' (columns of length 1 at right angles), but it is {what}"
        )
    if np.linalg.det(R) < 0:
        raise ValueError("the rotation of 'T_world_cam' has left-handed axes (determinant -1): turn one axis round")
    U, _, Vt = np.linalg.svd(R)
    return np.asarray(U @ Vt)


def require_place(T_world_cam: Array, target: Point) -> None:
    """ValueError where a camera stands too far from the workspace, in it, or below the floor."""
    position = T_world_cam[:3, 3]
    distance = float(np.linalg.norm(position - target))
    if not NEAREST_M <= distance <= FARTHEST_M:
        unit = "; are these millimetres?" if distance > 100 else ""
        raise ValueError(
            f"it stands {distance:.4g} m from the workspace, expected {NEAREST_M:g} to {FARTHEST_M:g} m: positions are "
            f"metres in the world{unit}"
        )
    if position[2] < 0:
        raise ValueError(f"it stands below the floor, which is z = 0 (z = {position[2]:.4g})")


def _lens(camera: _Camera, fovy_deg: float) -> float | Lens:
    """The vertical field of view in radians, or what is given in its place; ValueError."""
    own = camera.given("fovy_deg", "fovx_deg", "K")
    if len(own) > 1:
        raise ValueError(f"expected one of 'fovy_deg', 'fovx_deg' and 'K', got {' and '.join(own)}")
    sizes = camera.given("width", "height")
    if camera.K is None and sizes:
        raise ValueError(f"'{sizes[0]}' is of the image that 'K' was calibrated with, and there is no 'K'")
    if camera.K is not None:
        if camera.width is None or camera.height is None:
            raise ValueError("expected 'width' and 'height' of the image that 'K' was calibrated with, pixels")
        return calibrated(np.array(camera.K), camera.width, camera.height)
    if camera.fovx_deg is not None:
        f = 0.5 / float(np.tan(0.5 * np.radians(camera.fovx_deg)))
        return Lens(f, f, 0.0, 0.0, 1.0, 0.0)
    return float(np.radians(camera.fovy_deg or fovy_deg))


def calibrated(K: Array, width: int, height: int) -> Lens:
    """The lens of intrinsics (3, 3) for images of a size, pixel (u, v) centred at (u, v); ValueError."""
    (fx, skew, cx), (shear, fy, cy), last = K.tolist()
    if abs(skew) > 1e-6 * abs(fx) or shear or last != [0.0, 0.0, 1.0]:
        raise ValueError(f"expected 'K' as [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {K.tolist()}")
    for name, f, size in (("width", fx, width), ("height", fy, height)):
        degrees = 2 * np.degrees(np.arctan2(0.5 * size, f))
        if not LEAST_DEG <= degrees <= MOST_DEG:
            raise ValueError(
                f"the focal length {f:g} over the {name} of {size} pixels makes a field of view of {degrees:.3g} "
                f"degrees, expected {LEAST_DEG:g} to {MOST_DEG:g}: is 'K' in pixels of that image?"
            )
    if not (0 <= cx <= width - 1 and 0 <= cy <= height - 1):
        raise ValueError(
            f"the principal point ({cx:g}, {cy:g}) is outside the image of {width} x {height} pixels: is 'K' of "
            "another size?"
        )
    return Lens(fx, fy, cx - (width - 1) / 2, cy - (height - 1) / 2, float(width), float(height))
