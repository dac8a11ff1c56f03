"""``geo4d-bench rig import``: calibration files of other tools become a rig's YAML file. docs/rigs.md."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import tyro
from pydantic import Field
from scipy.spatial.transform import Rotation

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import look_at
from geo4d_bench.geometry.rig import AnyRig, Point
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.io import atomic, read_file
from geo4d_bench.options import check_ranges
from geo4d_bench.tasks.rig_file import FOVY_DEG, LEAST_DEG, MOST_DEG, load_rig, read_mapping

FORMATS = (
    "OpenCV FileStorage (camera_matrix), ROS camera_info YAML, a YAML of translation and rotation, COLMAP's "
    "cameras.txt with images.txt, Kalibr's camchain YAML, DROID's extrinsics JSON"
)
COLMAP_MODELS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "FULL_OPENCV": 12}
"""Numbers of parameters of those that are pinholes with at most OpenCV's distortion; the first of them has one focal
length, and so have the RADIAL ones."""
_COLMAP = (
    "COLMAP's origin, axes and scale are its own: bring them to metres in --frame first (colmap model_aligner), unless "
    "that is done"
)


@dataclass(frozen=True)
class RigImportConfig:
    """Make a rig's file of calibration files."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """OpenCV, ROS, COLMAP, Kalibr or DROID files; intrinsics and poses in files of their own are joined in order."""
    out: Path
    """The YAML file to write."""
    task: str = "store_cereal"
    """Task whose workspace cameras without a pose look at, and whose robot is meant by --frame base."""
    frame: Literal["world", "base"] | None = None
    """What poses are given in: the world, or the base (link 0) of the task's first arm; default base for DROID's, else
    world."""
    position: tuple[tuple[float, float, float], ...] = ()
    """Where each camera without a pose stands, x y z for one after the other, metres in --frame; it looks at the
    workspace."""
    fovy_deg: Annotated[float, Field(ge=LEAST_DEG, le=MOST_DEG)] | None = None
    """Vertical field of view of cameras without intrinsics."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class RigImportResult:
    """``notes``: what was read and what could not be known."""

    out: Path
    rig: AnyRig
    notes: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.rig.camera_names())
        return "\n".join(
            [
                *self.notes,
                f"{self.out}: {names}; all 'seen', write 'split: novel' at those that are only for tests",
                f"look:  geo4d-bench datagen --episodes 1 --rig {self.out} --out X, then geo4d-bench inspect X",
            ]
        )


@dataclass(frozen=True)
class _Part:
    """What a file says of a camera.

    Attributes:
        K: (3, 3), pixel (u, v) centred at (u, v), of images of ``size`` (width, height).
        distortion: OpenCV's coefficients.
        T: (4, 4) OpenCV axes, camera to the poses' frame; with ``chained`` to the camera before it.
        lens_id: COLMAP's camera, whose K this one has.
    """

    name: str
    source: str
    K: Array | None = None
    size: tuple[int, int] = (0, 0)
    distortion: tuple[float, ...] = ()
    T: Array | None = None
    chained: bool = False
    lens_id: str | None = None


def run(config: RigImportConfig) -> RigImportResult:
    """Read, bring the poses into the world, and write.

    Raises:
        ConfigError: a file is of no known kind or cannot be drawn by a pinhole, a pose or a lens is missing, the rig is
            none (see :func:`load_rig`), or ``out`` is there already.
        UnknownNameError: no such task.
    """
    from geo4d_bench import tasks
    from geo4d_bench.tasks.rigs import warn_of_unseen_workspace

    if config.out.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"--out {config.out}: expected a file name that ends in .yaml")
    if config.out.exists():
        raise ConfigError(f"--out {config.out} is there already; give another, or remove it")
    if not config.files:
        raise ConfigError(f"no file was given; expected {FORMATS}")
    spec = tasks.spec(config.task)
    parts = _joined([part for path in config.files for part in _read(path)])
    droid = any(part.source == "DROID" for part in parts)
    frame = config.frame or ("base" if droid else "world")
    T_world_frame = np.eye(4) if frame == "world" else tasks.task_class(config.task).arms[spec.arms[0]].T_world_base
    parts = _placed(parts, config.position, T_world_frame, spec.workspace)
    names = {"world": "the world", "base": f"the base of {spec.id}'s arm '{spec.arms[0]}'"}
    notes = [*_notes(parts, config, names[frame])]
    lines = [f"# {note}" for note in notes] + ["cameras:"]
    for part in parts:
        lines += _yaml(part, config.fovy_deg)
    with atomic(config.out) as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8")
        try:
            rig = load_rig(written, spec.workspace)
        except ConfigError as error:
            text = (
                str(error).replace(f"rig file {written}", f"--out {config.out}").replace(written.stem, config.out.stem)
            )
            colmap = any(part.source == "COLMAP" for part in parts)
            raise ConfigError(text + (f"; {_COLMAP}" if colmap else "")) from None
    rig = dataclasses.replace(rig, name=config.out.stem)
    warn_of_unseen_workspace(rig, 480, 640)
    return RigImportResult(config.out, rig, tuple(notes))


def _joined(parts: Sequence[_Part]) -> list[_Part]:
    """One part a camera: COLMAP's images with their cameras, intrinsics with poses in the order of both."""
    lenses = {part.lens_id: part for part in parts if part.T is None and part.lens_id}
    cameras: list[_Part] = []
    for part in parts:
        if part.lens_id is None:
            cameras.append(part)
        elif part.T is not None:
            if part.lens_id not in lenses:
                raise ConfigError(
                    f"image '{part.name}' is of COLMAP's camera {part.lens_id}: give its cameras.txt, too"
                )
            lens = lenses[part.lens_id]
            cameras.append(dataclasses.replace(part, K=lens.K, size=lens.size, distortion=lens.distortion))
    if lenses and not any(part.lens_id for part in cameras):
        raise ConfigError("COLMAP's cameras.txt has no poses: give its images.txt, too")
    poses = [part for part in cameras if part.K is None and part.source == "ROS pose"]
    bare = [part for part in cameras if part.T is None and part.K is not None]
    if not poses:
        return cameras
    if len(poses) != len(bare):
        raise ConfigError(
            f"{len(bare)} intrinsics without a pose and {len(poses)} poses without intrinsics: expected as many of "
            "each, in one order"
        )
    T = {id(lens): each.T for lens, each in zip(bare, poses, strict=True)}
    return [dataclasses.replace(part, T=T.get(id(part), part.T)) for part in cameras if part not in poses]


def _placed(parts: Sequence[_Part], positions: Sequence[Point], T_world_frame: Array, workspace: Point) -> list[_Part]:
    """The same with ``T`` in the world; ConfigError unless there is a position for each camera without a pose."""
    missing = [part.name for part in parts if part.T is None]
    if len(missing) != len(positions):
        raise ConfigError(
            f"{len(missing)} of the cameras have no pose ({', '.join(missing) or 'none'}) and --position has "
            f"{len(positions)}: expected its x y z for each of them, from where it looks at the workspace, or a file "
            "with their poses"
        )
    left, placed = list(positions), list[_Part]()
    for part in parts:
        if part.T is None:
            T = look_at(transform(T_world_frame, np.array(left.pop(0))), workspace)
        elif part.chained and placed[-1].T is not None:
            T = placed[-1].T @ part.T
        else:
            T = T_world_frame @ part.T
        placed.append(dataclasses.replace(part, T=T))
    return placed


def _notes(parts: Sequence[_Part], config: RigImportConfig, frame: str) -> Iterator[str]:
    sources = ", ".join(dict.fromkeys(part.source for part in parts))
    files = ", ".join(map(str, config.files))
    cameras = f"{len(parts)} camera{'s' * (len(parts) > 1)}"
    yield f"read {cameras} from {sources} ({files}): metres, poses in {frame}, brought into the world"
    if any(part.source == "COLMAP" for part in parts):
        yield _COLMAP
    if any(part.source == "OpenCV" and part.T is not None for part in parts) and not config.position:
        yield "rvec and tvec: the object points of solvePnP were taken for points of that frame"
    if config.position:
        yield "a position was given: the camera looks at the workspace, upright"
    for part in parts:
        if part.K is None:
            degrees = config.fovy_deg or FOVY_DEG
            yield f"'{part.name}' has no intrinsics: its field of view is {degrees:g} degrees high (--fovy-deg)"
        elif shift := _largest_shift(part):
            yield f"'{part.name}': its distortion, up to {shift:.1f} pixels, is left out"


def _largest_shift(part: _Part) -> float:
    """How far the distortion moves a pixel of the image at most."""
    if part.K is None or not any(part.distortion):
        return 0.0
    u, v = np.meshgrid(np.linspace(0, part.size[0] - 1, 33), np.linspace(0, part.size[1] - 1, 33))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1)
    rays = pixels @ np.linalg.inv(part.K).T
    distortion = np.pad(part.distortion, (0, max(0, 8 - len(part.distortion))))  # OpenCV takes 4, 5, 8, 12 or 14
    moved, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), part.K, distortion)
    return float(np.linalg.norm(moved[:, 0] - pixels[:, :2], axis=1).max())


def _yaml(part: _Part, fovy_deg: float | None) -> list[str]:
    assert part.T is not None
    values: dict[str, Any] = {"convention": "opencv", "T_world_cam": part.T.tolist(), "split": "seen"}
    if part.K is not None:
        values |= {"K": part.K.tolist(), "width": part.size[0], "height": part.size[1]}
    elif fovy_deg is not None:
        values["fovy_deg"] = fovy_deg
    name = json.dumps(re.sub(r"[/\\]", "_", part.name), ensure_ascii=False)
    return [f"  - name: {name}", *(f"    {key}: {json.dumps(value)}" for key, value in values.items())]


def _read(path: Path) -> list[_Part]:
    """The cameras of a file, by what is in it; ConfigError where it is of no known kind."""
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text; expected {FORMATS}") from None
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    first = next((line.split() for line in lines if line.strip()), [])
    try:
        if text.startswith("%YAML:") or "opencv_storage" in text[:200] or "opencv-matrix" in text:
            return _opencv(path)
        if len(first) >= 5 and first[0].isdigit() and re.fullmatch(r"[A-Z_]+", first[1]):
            return [_colmap_camera(path, line.split()) for line in lines if line.strip()]
        if _is_colmap_image(first):
            return [_colmap_image(line) for line in lines if _is_colmap_image(line.split())]
        try:
            values = read_mapping(path, str(path))
        except ConfigError as error:
            raise ConfigError(f"{error}; expected {FORMATS}") from None
        if any(isinstance(v, dict) and "intrinsics" in v for v in values.values()):
            return _kalibr(path, values)
        if {"camera_matrix", "K", "k"} & set(values):
            return [_ros_camera(path, values)]
        if (found := _transform(values)) is not None:
            return [_Part(path.stem, "ROS pose", T=found)]
        if cameras := _droid(path, values):
            return cameras
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, cv2.error) as error:
        raise ConfigError(f"{path}: a value is missing or is not what it should be ({error!r:.120})") from error
    raise ConfigError(f"{path} is of no known kind; expected {FORMATS}")


def _K(fx: float, fy: float, cx: float, cy: float) -> Array:
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _require_pinhole(path: Path, model: str, known: Iterable[str]) -> None:
    if model not in known:
        raise ConfigError(
            f"{path}: a lens of the model '{model}' is no pinhole; undistort its images and give the pinhole that "
            f"comes out (known: {', '.join(filter(None, known))})"
        )


def _opencv(path: Path) -> list[_Part]:
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)

    def matrix(*names: str) -> Array | None:
        found = (file.getNode(name).mat() for name in names if file.getNode(name).isMap())
        return next((np.asarray(each, dtype=np.float64) for each in found if each is not None), None)

    def number(*names: str) -> int:
        nodes = (file.getNode(name) for name in names)
        return next((int(node.real()) for node in nodes if node.isInt() or node.isReal()), 0)

    K = matrix("camera_matrix", "Camera_Matrix", "cameraMatrix", "K", "M1")
    size = number("image_width", "image_Width", "width"), number("image_height", "image_Height", "height")
    distortion = matrix("distortion_coefficients", "Distortion_Coefficients", "distCoeffs", "D", "D1")
    rvec, tvec = matrix("rvec"), matrix("tvec")
    if K is None or not all(size):
        raise ConfigError(f"{path}: expected camera_matrix, image_width and image_height in an OpenCV file")
    if file.getNode("fisheye_model").real() == 1:
        _require_pinhole(path, "fisheye", ["plumb_bob"])
    T = None
    if rvec is not None and tvec is not None:
        T = inverse(pose(Rotation.from_rotvec(rvec.ravel()).as_matrix(), tvec.ravel()))
    return [_Part(path.stem, "OpenCV", K, size, () if distortion is None else tuple(distortion.ravel().tolist()), T)]


def _ros_camera(path: Path, values: dict[str, Any]) -> _Part:
    _require_pinhole(path, values.get("distortion_model", ""), ["", "none", "plumb_bob", "rational_polynomial"])

    def listed(*keys: str) -> list[float]:
        found: Any = next((values[key] for key in keys if key in values), [])
        return list(found["data"] if isinstance(found, dict) else found)

    K, D = listed("camera_matrix", "K", "k"), listed("distortion_coefficients", "D", "d")
    width, height = (values[f"image_{key}" if f"image_{key}" in values else key] for key in ("width", "height"))
    name = values.get("camera_name") or path.stem
    matrix = np.array(K, dtype=np.float64).reshape(3, 3)
    return _Part(str(name), "ROS", matrix, (int(width), int(height)), tuple(map(float, D)))


def _transform(values: dict[str, Any]) -> Array | None:
    """(4, 4) of a translation and a rotation (x, y, z, w), as lists or by their letters, at whatever depth of
    ``transform``, ``transformation`` or ``pose``; None where there are none."""
    for key in ("transform", "transformation", "pose"):
        if isinstance(values.get(key), dict):
            return _transform(values[key])
    t = next((values[key] for key in ("translation", "position") if key in values), None)
    q = next((values[key] for key in ("rotation", "orientation") if key in values), None)
    if {"x", "y", "z", "qx", "qy", "qz", "qw"} <= set(values):  # easy_handeye
        t, q = [values[key] for key in "xyz"], [values[f"q{key}"] for key in "xyzw"]
    if t is None or q is None:
        return None
    t, q = ([v[key] for key in letters] if isinstance(v, dict) else v for v, letters in ((t, "xyz"), (q, "xyzw")))
    return pose(_rotation(q).as_matrix(), np.array(t, dtype=np.float64).reshape(3))


def _rotation(xyzw: Sequence[float]) -> Rotation:
    length = float(np.linalg.norm(xyzw))
    if len(xyzw) != 4 or abs(length - 1.0) > 0.01:
        raise ValueError(f"expected a quaternion of 4 numbers and length 1, got length {length:.3g}")
    return Rotation.from_quat(xyzw)


def _colmap_camera(path: Path, words: Sequence[str]) -> _Part:
    model, numbers = words[1], [float(word) for word in words[4:]]
    _require_pinhole(path, model, COLMAP_MODELS)
    if len(numbers) != COLMAP_MODELS[model]:
        raise ValueError(f"{model} has {COLMAP_MODELS[model]} parameters, got {len(numbers)}")
    if "SIMPLE" in model or model == "RADIAL":
        numbers.insert(0, numbers[0])
    fx, fy, cx, cy, *distortion = numbers
    # COLMAP's pixel (0, 0) is the image's corner, ours the first pixel's centre.
    K = _K(fx, fy, cx - 0.5, cy - 0.5)
    return _Part(words[0], "COLMAP", K, (int(words[2]), int(words[3])), tuple(distortion), lens_id=words[0])


def _is_colmap_image(words: Sequence[str]) -> bool:
    """Whether it is an image's line; the other lines are points, three numbers each."""
    number = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
    return (
        len(words) >= 10
        and all(number.fullmatch(word) for word in words[:9])
        and not all(number.fullmatch(word) for word in words[9:])
    )


def _colmap_image(line: str) -> _Part:
    words = line.split(maxsplit=9)
    w, x, y, z, *t = map(float, words[1:8])
    T_cam_world = pose(_rotation([x, y, z, w]).as_matrix(), t)
    return _Part(Path(words[9].strip()).with_suffix("").as_posix(), "COLMAP", T=inverse(T_cam_world), lens_id=words[8])


def _kalibr(path: Path, values: dict[str, Any]) -> list[_Part]:
    parts = []
    for name, each in values.items():
        _require_pinhole(path, each.get("camera_model", "pinhole"), ["pinhole"])
        _require_pinhole(path, each.get("distortion_model", "none"), ["none", "radtan"])
        width, height = each["resolution"]
        T_this_before = each.get("T_cn_cnm1")
        T = None if T_this_before is None else inverse(np.array(T_this_before, dtype=np.float64).reshape(4, 4))
        distortion = tuple(map(float, each.get("distortion_coeffs", ())))
        parts.append(
            _Part(name, "Kalibr", _K(*each["intrinsics"]), (width, height), distortion, T, chained=T is not None)
        )
    if parts[0].chained:
        raise ValueError(f"'{parts[0].name}' has a T_cn_cnm1, but there is no camera before it")
    return parts


def _droid(path: Path, values: dict[str, Any]) -> list[_Part]:
    """A camera's serial number -> x y z (metres) and Euler angles about the fixed x, y, z (radians) in the robot's
    base; the empty list where the file is another."""

    def six(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 6 and all(isinstance(x, int | float) for x in value)

    found = {key: v["pose"] if isinstance(v, dict) and "pose" in v else v for key, v in values.items()}
    poses = {key: value for key, value in found.items() if six(value)}
    episodes = [v for v in values.values() if isinstance(v, dict) and any(map(six, v.values()))]
    if not poses and len(episodes) > 1:
        raise ConfigError(f"{path} has the cameras of {len(episodes)} episodes; give a file with those of one")
    if not poses and episodes:
        return _droid(path, episodes[0])
    return [
        _Part(key, "DROID", T=pose(Rotation.from_euler("xyz", value[3:]).as_matrix(), value[:3]))
        for key, value in poses.items()
    ]
