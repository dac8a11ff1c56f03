"""Damages an episode file in many seeded ways and reads each; run by test_damage.py as a process of its own.

Prints how many were ``refused`` with a DatasetError and how many read ``equal``; exits with 1 at the first other one.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from geo4d_bench.datagen import verify
from geo4d_bench.dataset.hands import save_hand
from geo4d_bench.dataset.layout import DIGEST
from geo4d_bench.dataset.manifest import Manifest, Settings
from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.rescan import rescan
from geo4d_bench.dataset.types import Trajectory
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.dataset.writer import write_episode
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import Camera, look_at
from geo4d_bench.geometry.hand import HandModel
from geo4d_bench.geometry.rig import Rig

HEIGHT, WIDTH, STEPS = 12, 16, 45
NAME = "ep_000000.hdf5"
SEG_NAMES = ("background", "robot", "hand/right")
CAMERAS = (
    Camera("cam00", look_at((1, 0, 1), (0, 0, 0)), 0.8, "seen"),
    Camera("cam01", look_at((0, 1, 1), (0, 0, 0)), 0.9, "seen"),
)
MEMORY_BYTES = 256 * 2**20
"""Beyond what the process has when it begins to read: a whole file of this kind has 90 kB."""
SECONDS = 5.0

Damage = Callable[[Path, np.random.Generator], None]


def write(path: Path, frames: int = 12) -> Path:
    """A small whole episode, written by the writer itself."""
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (STEPS, 1, 1))
    trajectory = Trajectory(
        task="some_task", version="v1", seed=7, split="train", language="put it there", success=True, phase="task",
        control_hz=20.0, states=rng.normal(size=(STEPS, 5)), actions=rng.normal(size=(STEPS, 7)).astype(np.float32),
        time=np.arange(STEPS) / 20.0, T_world_ee={"right": poses}, opening_m={"right": np.linspace(0, 0.08, STEPS)},
        T_world_obj={"cereal": poses}, scene="ab" * 32, disturbances=((3, "push"),),
    )  # fmt: skip
    shape, images = (2, HEIGHT, WIDTH), []
    for _ in range(frames):
        depth = rng.uniform(0.1, 6, size=shape).astype(np.float32)
        seg = rng.integers(0, 3, size=shape, dtype=np.uint8)
        images.append((rng.integers(0, 256, size=(*shape, 3), dtype=np.uint8), depth, seg))
    write_episode(
        path, trajectory, images, steps=np.arange(frames, dtype=np.int32), video_hz=5.0, cameras=CAMERAS,
        height=HEIGHT, width=WIDTH, seg_names=SEG_NAMES, notes={"failed_attempts": [[6, "start: fell"]]},
    )  # fmt: skip
    return path


def read_all(path: Path) -> str:
    """Everything that readers give of an episode, as one hash; DatasetError where anything is damaged."""
    digest = hashlib.sha256()
    episode = EpisodeFile(path)
    try:
        for value in dataclasses.astuple(episode.trajectory):
            _add(digest, value)
        for camera in episode.cameras:
            _add(digest, (camera.name, camera.split, camera.fovy_rad, camera.T_world_cam))
            frames = episode.frames(camera.name, range(len(episode.steps)))
            _add(digest, (episode.K(camera.name), frames.rgb, frames.depth, frames.seg))
        attributes = {k: v for k, v in episode.attrs.items() if k != DIGEST}  # of older files: may be missing
        _add(digest, (episode.steps, episode.seg_names, json.dumps(attributes, sort_keys=True)))
    finally:
        episode.close()
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        value = tuple(sorted(value.items()))
    if isinstance(value, tuple):
        for item in value:
            _add(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())


# Damage to bytes.


def cut(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def flip_bits(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def overwrite(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    start = int(rng.integers(len(data)))
    count = min(int(rng.integers(1, 4096)), len(data) - start)
    data[start : start + count] = bytes(count) if rng.random() < 0.5 else rng.bytes(count)
    path.write_bytes(data)


def flip_in_the_head(path: Path, rng: np.random.Generator) -> None:
    """Where HDF5 keeps its headers, heaps and indices."""
    data = bytearray(path.read_bytes())
    at = rng.choice(_metadata(data))
    data[at + int(rng.integers(0, 64))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _metadata(data: bytearray) -> list[int]:
    signatures = (b"\x89HDF", b"OHDR", b"OCHK", b"GCOL", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"FAHD", b"FADB")
    found = []
    for signature in signatures:
        at = data.find(signature)
        while at >= 0:
            if at + 64 < len(data):
                found.append(at)
            at = data.find(signature, at + 1)
    return found


# Damage that keeps an HDF5 file: what another program, or a hostile one, might write.


def an_array(file: Any, rng: np.random.Generator) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return str(rng.choice(names))


def wrong_dtype(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        values = file[name][()]
        others = [d for d in ("f2", "f4", "f8", "i8", "u4", ">f8", "c16", "S8", "?") if np.dtype(d) != values.dtype]
        del file[name]
        file[name] = values.astype(str(rng.choice(others)))


def wrong_shape(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        values = file[name][()]
        del file[name]
        file[name] = [values[:-1], values[None], values.ravel()[0], values.reshape(-1), np.concatenate([values] * 2)][
            rng.integers(5)
        ]


def remove(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        del file[str(rng.choice(names))]


def damage_attribute(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        holder = [
            file,
            file,
            file,
            file["views/cam00"],
            file["views/cam01"],
            file["views/cam00/seg"],
            file["views/cam00/depth"],
        ][rng.integers(7)]
        name = str(rng.choice(sorted(holder.attrs)))
        wrong = [None, 7.5, "nonsense", np.zeros(5), b"\xff\xfe", h5py.Empty("f8"), "[[[", "../../etc/passwd"]
        value = wrong[rng.integers(len(wrong))]
        del holder.attrs[name]
        if value is not None:
            holder.attrs[name] = value


def huge_shape(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        old = file[name]
        shape, dtype = list(old.shape), old.dtype
        shape[rng.integers(len(shape))] = int(rng.choice([10**7, 10**9, 10**12, 2**40]))
        chunks = tuple(min(n, 8) for n in shape) if rng.random() < 0.7 else None
        del file[name]
        options = {"compression": "gzip"} if chunks and rng.random() < 0.5 else {}
        file.create_dataset(name, shape=tuple(shape), dtype=dtype, chunks=chunks, **options)


def huge_chunk(path: Path, rng: np.random.Generator) -> None:
    """Zeros pack well: a small file that unpacks to a gigabyte."""
    with h5py.File(path, "r+") as file:
        name = f"views/cam0{rng.integers(2)}/rgb"
        del file[name]
        array = file.create_dataset(
            name, shape=(12, 16384, 1024, 3), dtype="u1", chunks=(12, 16384, 1024, 3), compression="gzip"
        )
        import zlib

        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(bytes(2**20)) for _ in range(48)) + packer.flush()
        array.id.write_direct_chunk((0, 0, 0, 0), packed)


def external_link(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = str(rng.choice(names))
        del file[name]
        file[name] = h5py.ExternalLink(str(path.parent.parent / "secret.hdf5"), name)


def soft_link(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        others = [name, "/", "/views", "/nowhere", "/views/cam01/rgb", "/states"]
        del file[name]
        file[name] = h5py.SoftLink(others[rng.integers(len(others))])


def circle(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        file[["views/again", "ee/right/again", "again", "objects/again"][rng.integers(4)]] = file[
            ["/", "views", "ee"][rng.integers(3)]
        ]


def virtual(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        shape, dtype = file[name].shape, file[name].dtype
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        layout[...] = h5py.VirtualSource(str(path.parent.parent / "secret.hdf5"), name, shape=shape)
        del file[name]
        file.create_virtual_dataset(name, layout)


def external_storage(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        secret = str(path.parent.parent / "secret.hdf5")
        file.create_dataset(name, shape=shape, dtype=dtype, external=[(secret, 0, h5py.h5f.UNLIMITED)])


def foreign_filter(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "r+") as file:
        name = an_array(file, rng)
        values = file[name][()]
        del file[name]
        options = [hdf5plugin.BZip2(), hdf5plugin.LZ4(), hdf5plugin.Bitshuffle()][rng.integers(3)]
        file.create_dataset(name, data=values, chunks=values.shape, **options)


def edited(path: Path, rng: np.random.Generator) -> None:
    """Numbers that another program changed, its checksums right."""
    with h5py.File(path, "r+") as file:
        name = ["states", "actions", "time", "frames/step", "ee/right/opening"][rng.integers(5)]
        values = file[name][()]
        values.flat[rng.integers(values.size)] += 1
        file[name][...] = values


WAYS: tuple[Damage, ...] = (
    cut, flip_bits, flip_bits, flip_bits, overwrite, overwrite, flip_in_the_head, flip_in_the_head, flip_in_the_head,
    wrong_dtype, wrong_shape, remove, damage_attribute, damage_attribute, huge_shape, huge_chunk, external_link,
    soft_link, circle, virtual, external_storage, foreign_filter, edited,
)  # fmt: skip


def main(folder: Path, files: int) -> int:
    dataset, secret = folder / "dataset", folder / "dataset" / "secret.hdf5"
    square = np.stack([np.linspace(0, 0.02, 4)] * 3, axis=-1)
    save_hand(dataset / "hands" / "right.npz", HandModel(square, square, np.zeros(4, np.uint8), np.eye(3)[1], 0.08))
    path = write(dataset / "episodes" / NAME)
    secret.write_bytes(path.read_bytes())
    rescan(dataset, Manifest(settings()))
    whole, expected = path.read_bytes(), read_all(path)
    opened = _Watch(secret)
    _limit_memory()
    counts: Counter[str] = Counter()
    for index in range(files):
        way = WAYS[index % len(WAYS)]
        path.write_bytes(whole)
        way(path, np.random.default_rng([4, index]))
        changed = path.read_bytes() != whole
        opened.happened()  # whoever did the damage may have looked
        began = time.process_time()
        found, sentence = _outcome(path, expected)
        faults = [fault for file, fault in verify.run(verify.VerifyConfig(dataset)).faults if file == NAME]
        what = f"{way.__name__} {index}: {sentence}"
        if time.process_time() - began > SECONDS:
            return _fail(f"{what}: took {time.process_time() - began:.1f} s")
        if found == "different":
            return _fail(f"{what}: read other values without an error")
        if changed and not faults:
            return _fail(f"{what}: verify found no fault")
        if found == "refused" and (str(path) not in sentence or len(sentence) < len(str(path)) + 20):
            return _fail(f"{what}: names neither file nor fault")
        if opened.happened():
            return _fail(f"{what}: opened another file")
        counts[found] += 1
    for found, count in counts.items():
        print(found, count)
    return 0


def _outcome(path: Path, expected: str) -> tuple[str, str]:
    """``refused``, ``equal`` or ``different``; anything but a DatasetError ends the process with its traceback."""
    try:
        windows = Windows(path.parent.parent, ["cam00", "cam01"], horizon=2, dt_s=0.2, moving=False)
        windows.window(0, len(windows) // 2, "cam00", "cam01")
    except DatasetError:
        pass
    try:
        return ("equal" if read_all(path) == expected else "different"), ""
    except DatasetError as error:
        return "refused", str(error)


class _Watch:
    """Whether this process or any other opened a file since it was asked last (inotify; HDF5 opens files in C)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        if self._handle < 0 or libc.inotify_add_watch(self._handle, os.fsencode(path), 0x20) < 0:  # IN_OPEN
            raise OSError(ctypes.get_errno(), "inotify")
        path.read_bytes()
        assert self.happened(), "the watch sees nothing"

    def happened(self) -> bool:
        try:
            return bool(os.read(self._handle, 65536))
        except BlockingIOError:
            return False


def settings() -> Settings:
    return Settings(
        task="some_task", version="v1", split="train", language="put it there", seed=0, arms=("right",),
        objects=("cereal",), control_hz=20.0, video_hz=5.0, rig=Rig("two", CAMERAS, (0.0, 0.0, 0.0)), height=HEIGHT,
        width=WIDTH, max_depth_m=2.0, disturbed_share=0.0, fingerprint="", commit="",
    )  # fmt: skip


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _fail(sentence: str) -> int:
    print(sentence)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
