"""Files that appear only when they are whole and are read only then, and folders that one command at a time writes."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import socket
import stat
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import psutil

from geo4d_bench.errors import BusyError

if TYPE_CHECKING:
    import numpy.typing as npt

LEFTOVERS = ".*.part*"
"""Pattern of what :func:`atomic` leaves where a process is killed."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write one file to, with the same suffix. When the block ends it is synced to
    disk and becomes ``path``; when the block fails it is removed, and what was at ``path`` stays.

    Raises:
        OSError: the disk is full, the folder cannot be written, or a folder is there; names ``path``.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder is there; name a file", str(path))
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    with naming(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)  # a library may have put a file there that its owner alone can read
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """The system's errors name ``path`` where they name no file, or ``part`` of it: those of a full disk name none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def remove_leftovers(folder: Path, pattern: str = LEFTOVERS) -> None:
    """Remove what killed processes of this machine left in a folder, see :func:`atomic`; not what is being written."""
    for part in folder.glob(pattern):
        writer = part.name.rpartition(".part")[0].rpartition(".")[2]
        if writer.isdigit() and int(writer) != os.getpid() and psutil.pid_exists(int(writer)):
            continue
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file, see :func:`atomic`; text is UTF-8."""
    with atomic(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def check_file(path: Path) -> None:
    """OSError where it is missing or no file: to open a pipe is to wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))


def read_file(path: Path) -> bytes:
    """The bytes of a file; OSError as :func:`check_file`."""
    check_file(path)
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """The value in a JSON file; ValueError where it is cut off, nested too deep, or has a key twice or a NaN."""
    try:
        return json.loads(read_file(path).decode("utf-8-sig"), object_pairs_hook=_each_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def read_zip(source: Path | bytes, largest_bytes: int = 2**28) -> dict[str, bytes]:
    """The files in a zip by their names; ValueError where it is damaged, or unpacks to more than ``largest_bytes``."""
    content = source if isinstance(source, bytes) else read_file(source)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            size = sum(member.file_size for member in packed.infolist())
            if size > largest_bytes:
                raise ValueError(f"it unpacks to {size} bytes")
            return {name: packed.read(name) for name in packed.namelist()}
    except _DAMAGE as error:
        raise ValueError(str(error)) from error


def read_npz(path: Path, largest_bytes: int = 2**26) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file by their names; ValueError as :func:`read_zip`, and where one is damaged or pickled."""
    import numpy as np

    try:
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            for name, content in read_zip(path, largest_bytes).items()
        }
    except _DAMAGE as error:
        raise ValueError(str(error)) from error


# What zipfile raises on damaged bytes, and NumPy: it believes the size in an array's header, and reads it as Python.
_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, MemoryError, SyntaxError, IndexError,
    OverflowError, RecursionError, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this command alone, until the block or the process ends; what killed ones left there goes.

    Raises:
        BusyError: another command holds it; says which.  OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = _locked(path)
    try:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        since = time.strftime("%H:%M")
        holder = f"'{command}' (process {os.getpid()} on {socket.gethostname()}, since {since})"
        with naming(path):
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), holder.encode(errors="surrogateescape"))
        remove_leftovers(folder)
        remove_leftovers(folder, f"*/{LEFTOVERS}")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _locked(path: Path) -> IO[str]:
    """The open lock file; BusyError where another process has it."""
    while True:
        lock = path.open("a+", encoding="utf-8", errors="surrogateescape")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "another command"
            lock.close()
            raise BusyError(
                f"{path.parent} is being written by {holder}; wait for it, stop it, or give another --out"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its holder has removed it meanwhile
