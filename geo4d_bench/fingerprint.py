"""What a result depends on besides its settings: package versions and this project's own source, in one short hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import subprocess
from functools import cache
from pathlib import Path

_PACKAGES = ("mujoco", "robosuite", "numpy", "torch", "small_gicp", "scipy", "diffusers", "transformers")
_DECIDING = (
    "geometry", "rendering", "dataset", "model", "trackers", "policies", "tasks", "datagen", "rollout", "evaluation",
)  # fmt: skip
"""Our packages that decide rows. What draws, reports, times and parses options does not."""


@cache
def fingerprint() -> str:
    """16 hex digits over the versions of the packages that decide numbers and over our own source that does.

    A package that this machine lacks counts as such: datasets are rendered without robosuite too.
    """
    digest = hashlib.sha256()
    for name in _PACKAGES:
        digest.update(f"{name}=={_version(name)}\n".encode())
    for name in _DECIDING:
        spec = importlib.util.find_spec(f"geo4d_bench.{name}")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
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
