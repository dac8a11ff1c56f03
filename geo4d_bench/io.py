"""Files that appear only when they are whole, and folders that one command at a time writes."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from geo4d_bench.errors import BusyError

LEFTOVERS = ".*.part*"
"""Pattern of what :func:`atomic` leaves where a process is killed."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write one file to, with the same suffix. When the block ends it is synced to
    disk and becomes ``path``; when the block fails it is removed, and what was at ``path`` stays.

    Raises:
        OSError: the disk is full, or the folder cannot be written; names ``path``.
    """
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


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file, see :func:`atomic`; text is UTF-8."""
    with atomic(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this command alone, until the block or the process ends.

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
