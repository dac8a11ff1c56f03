"""What a result depends on besides its settings: package versions and this project's own source, in one short hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from functools import cache
from pathlib import Path

_PACKAGES = ("mujoco", "robosuite", "numpy", "torch", "small_gicp", "scipy", "diffusers", "transformers")


@cache
def fingerprint() -> str:
    """16 hex digits over the versions of the packages that decide numbers and over every source file of ours.

    A package that this machine lacks counts as such: datasets are rendered without robosuite too.
    """
    import geo4d_bench
    import geo4d_bench.datagen
    import geo4d_bench.policies
    import geo4d_bench.tasks

    digest = hashlib.sha256()
    for name in _PACKAGES:
        digest.update(f"{name}=={_version(name)}\n".encode())
    for package in (geo4d_bench, geo4d_bench.tasks, geo4d_bench.datagen, geo4d_bench.policies):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@cache
def commit() -> str:
    """The git commit of the source, with ``+`` where the tree differs from it; ``unknown`` outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
