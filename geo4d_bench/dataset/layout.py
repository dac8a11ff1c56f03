"""Whether an episode file may be read: nothing outside itself, nothing larger than itself, nothing but its schema.

An HDF5 file can name other files (external links, external storage, virtual datasets), filters to be loaded from
anywhere, and arrays of any size that cost no byte. All of this is refused before any array is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import h5py
import numpy as np

from geo4d_bench.dataset.schema import CHUNK_BYTES
from geo4d_bench.errors import DatasetError

DIGEST = "simulated_sha256"
"""Attribute: what :func:`simulated_sha256` gave when the file was written; older files lack it."""

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32001: "blosc", 32015: "zstd"}
_RATIOS = {1: 1100, 32001: 1100, 32015: 33_000}
"""How many times smaller plain images get at best: deflate 1030, LZ4 (in Blosc) 255, Zstd 32768 (128 KiB become 4
bytes). An array that is packed more is refused."""
_OBJECTS, _DEPTH, _RANK = 10_000, 4, 4

ARRAYS: dict[str, tuple[tuple[str | int, ...], str]] = {
    "time": (("S",), "f8"), "frames/step": (("K",), "i4"), "states": (("S", "N"), "f8"), "actions": (("S", "A"), "f4"),
    "ee/*/T_world_ee": (("S", 4, 4), "f8"), "ee/*/opening": (("S",), "f8"),
    "objects/*/T_world_obj": (("S", 4, 4), "f8"),
    "views/*/rgb": (("K", "H", "W", 3), "u1"), "views/*/depth": (("K", "H", "W"), "u2"),
    "views/*/seg": (("K", "H", "W"), "u1"), "views/*/K": ((3, 3), "f8"), "views/*/T_world_cam": ((4, 4), "f8"),
}  # fmt: skip
"""Shape and dtype of every array of an episode; ``*`` is an arm, an object or a camera. A letter is a size, the same
one everywhere: ``time`` gives S, ``frames/step`` K."""


def arrays_of(
    arms: Iterable[str] = (), objects: Iterable[str] = (), cameras: Iterable[str] = ()
) -> dict[str, tuple[tuple[str | int, ...], str]]:
    """``ARRAYS`` of an episode with these names, by path."""
    names = {"ee": arms, "objects": objects, "views": cameras}
    return {
        path.replace("*", name): kind for path, kind in ARRAYS.items() for name in names.get(path.split("/")[0], [""])
    }


def check_layout(file: Any) -> None:
    """Refuse an open h5py file that is not laid out as an episode; reads headers and attributes, no array.

    Raises:
        DatasetError: links, storage outside the file, unknown filters, arrays whose size has no bytes behind it, or
            arrays that are missing or of another shape or dtype. The sentence lacks the file's name.
        Exception: whatever h5py raises where the headers themselves are damaged.
    """
    found = {path: _array(path, oid) for path, oid in _datasets(file)}
    attributes = attributes_of(file)
    named = {
        kind: {path.split("/")[1] for path in found if path.startswith(f"{kind}/")} for kind in ("objects", "views")
    }
    cameras = sorted(named["views"].union(json.loads(attributes.get("cameras", "[]"))))  # older files lack ``cameras``
    missing = [f"views/{camera}" for camera in cameras if camera not in named["views"]]
    if missing or "views" not in file or not (cameras or attributes.get("cameras") == "[]"):
        raise DatasetError(f"{missing[0] if missing else 'views'} is missing")
    sizes: dict[str, int] = {}
    for path, (letters, expected_dtype) in arrays_of(json.loads(attributes["arms"]), named["objects"], cameras).items():
        if path not in found:
            raise DatasetError(f"{path} is missing")
        shape, dtype = found[path]
        if len(shape) == len(letters) and letters[0] == "K" and shape[0] != sizes.get("K", shape[0]):
            raise DatasetError(f"{path} has {shape[0]} frames, frames/step has {sizes['K']}")
        fits = len(shape) == len(letters) and all(
            n == (sizes.setdefault(e, n) if isinstance(e, str) else e) for n, e in zip(shape, letters, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(sizes.get(e, "any") if isinstance(e, str) else e) for e in letters)
            raise DatasetError(f"{path} has shape {shape}, expected ({wanted})")
        if dtype != np.dtype(expected_dtype):
            raise DatasetError(f"{path} has dtype {dtype}, expected {expected_dtype}")


def attributes_of(item: Any) -> dict[str, Any]:
    """Attributes of an open file, group or array as Python values; bytes become text (older files have text)."""
    values = {k: v.item() if isinstance(v, np.generic) else v for k, v in item.attrs.items()}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def check_trajectory(file: Any) -> None:
    """Like :func:`check_layout`, of what was simulated alone and but for names and shapes; views may be damaged."""
    for path, oid in _datasets(file, *(path.split("/")[0] for path in arrays_of(["*"], ["*"]))):
        _array(path, oid)


def simulated_sha256(file: Any) -> str:
    """sha256 (hexadecimal) of all that was simulated: the file's attributes and every array outside ``views``."""
    digest = hashlib.sha256()
    attributes = attributes_of(file)
    attributes.pop(DIGEST, None)
    digest.update(json.dumps(attributes, sort_keys=True, default=str).encode())
    for path, oid in sorted(_datasets(file, *(name for name in file if name != "views")), key=lambda item: item[0]):
        values = np.ascontiguousarray(h5py.Dataset(oid)[()])
        digest.update(f"{path} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _datasets(file: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """(path, low-level id) of every array below ``names`` (default: of all); only hard links are followed."""
    pending = [(file.id, name, name, 1) for name in (names or file)][::-1]
    count = 0
    while pending:
        parent, name, path, depth = pending.pop()
        count += 1
        if count > _OBJECTS or depth > _DEPTH:
            raise DatasetError(f"{path}: more groups, or deeper ones, than an episode has")
        if not parent.links.exists(name.encode()):
            continue
        kind = parent.links.get_info(name.encode()).type
        if kind != h5py.h5l.TYPE_HARD:
            raise DatasetError(f"{path} is a link to somewhere else, inside or outside the file: it is not followed")
        oid = h5py.h5o.open(parent, name.encode())
        if isinstance(oid, h5py.h5g.GroupID):
            pending += [(oid, child.decode(), f"{path}/{child.decode()}", depth + 1) for child in oid]
        elif isinstance(oid, h5py.h5d.DatasetID):
            yield path, oid
        else:
            raise DatasetError(f"{path} is neither a group nor an array")


def _array(path: str, oid: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array that lies in this file, with bytes enough for its size."""
    plist = oid.get_create_plist()
    layout = plist.get_layout()  # before the shape: asking a virtual dataset for it may open its sources
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise DatasetError(f"{path} keeps its values in another file, which is not opened")
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    unknown = [code for code in filters if code not in _FILTERS]
    if unknown:
        raise DatasetError(f"{path} needs the HDF5 filter {unknown[0]}; expected {', '.join(_FILTERS.values())} only")
    if oid.get_type().get_class() not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        raise DatasetError(f"{path} holds no plain numbers")
    shape, dtype = tuple(int(n) for n in oid.shape), oid.dtype
    if len(shape) > _RANK:
        raise DatasetError(f"{path} has shape {shape}, expected {_RANK} axes at most")
    declared = math.prod(shape) * dtype.itemsize
    ratio = max((_RATIOS.get(code, 1) for code in filters), default=1)
    if layout == h5py.h5d.CHUNKED and math.prod(plist.get_chunk()) * dtype.itemsize > CHUNK_BYTES:
        raise DatasetError(f"{path} has chunks of shape {plist.get_chunk()}, larger than any image")
    if declared > ratio * oid.get_storage_size():
        raise DatasetError(f"{path} declares shape {shape}, but has only {oid.get_storage_size()} bytes in the file")
    return shape, dtype
