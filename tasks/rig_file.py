"""A user's rig from a YAML file: cameras one by one, a shell that they are drawn from, or a ring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from geo4d_bench.errors import ConfigError, explain
from geo4d_bench.geometry.camera import Camera, ViewSplit, look_at
from geo4d_bench.geometry.rig import AnyRig, DrawnRig, Point, Rig, Shell, on_sphere, point
from geo4d_bench.io import read_file

_Fovy = Annotated[float, Field(ge=1, le=150)]
_Azimuth = Annotated[float, Field(ge=-360, le=360)]
_Elevation = Annotated[float, Field(ge=-89, le=89)]
_Radius = Annotated[float, Field(ge=0.05, le=10)]
_Number = Annotated[int, Field(ge=0, le=100)]
_Step = Annotated[int, Field(ge=1, le=180)]


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

    Positions are metres in the world; ``split`` is ``novel`` where left out. Or a shell about the workspace that
    cameras are drawn from anew for every episode, as ``random16``; or a ring of novel cameras, as ``orbit``::

        fovy_deg: 48
        shell: {azimuth_deg: [-60, 60], elevation_deg: [10, 40], radius_m: [0.8, 1.0], seen: 12, novel: 4}

        fovy_deg: 48
        ring: {azimuth_deg: [-130, 130], step_deg: 5, elevation_deg: 30, radius_m: 1.0, pair_deg: 60}

    Raises:
        ConfigError: the file is missing, is not YAML, or something in it is missing, unknown or out of range.
    """
    where, target = f"rig file {path}", point(workspace)
    try:
        text = json.dumps(yaml.safe_load(read_file(path).decode()), default=str)
        file = _File.model_validate_json(text)
    except OSError as e:
        raise ConfigError(f"{where} cannot be read: {e.strerror}; give the path of a YAML file") from e
    except ValidationError as e:
        raise ConfigError(f"{where}: {explain(e)}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as e:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(e).split())}") from e
    forms = [form for form in (file.cameras, file.shell, file.ring) if form is not None]
    if len(forms) != 1:
        raise ConfigError(f"{where}: expected one of 'cameras', 'shell' and 'ring', got {len(forms)} of them")
    if file.cameras is not None:
        cameras = [_camera(where, c, c.fovy_deg or file.fovy_deg, c.look_at or target) for c in file.cameras]
        return Rig(path.stem, tuple(cameras), target)
    if file.fovy_deg is None:
        raise ConfigError(f"{where}: expected 'fovy_deg', degrees")
    if s := file.shell:
        shell = Shell(s.azimuth_deg, s.elevation_deg, s.radius_m, file.fovy_deg)
        return DrawnRig(path.stem, shell, target, s.seen, s.novel)
    assert file.ring is not None
    return file.ring.place(path.stem, target, file.fovy_deg)


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Camera(_Record):
    name: Annotated[str, Field(min_length=1)]
    position: Point
    look_at: Point | None = None
    fovy_deg: _Fovy | None = None
    split: ViewSplit = "novel"


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
    fovy_deg: _Fovy | None = None
    cameras: Annotated[list[_Camera], Field(min_length=1)] | None = None
    shell: _Shell | None = None
    ring: Ring | None = None


def _camera(where: str, camera: _Camera, fovy_deg: float | None, target: Point) -> Camera:
    if fovy_deg is None:
        raise ConfigError(f"{where}, camera '{camera.name}': expected 'fovy_deg', degrees, of the camera or of all")
    if np.linalg.norm(np.subtract(camera.position, target)) < 0.05:
        raise ConfigError(f"{where}, camera '{camera.name}': 'position' is where it looks at; move it away")
    return Camera(camera.name, look_at(camera.position, target), float(np.radians(fovy_deg)), camera.split)
