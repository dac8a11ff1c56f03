"""What identifies a run, and that a folder holds one run: given again it goes on, other settings are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from geo4d_bench.errors import RunError
from geo4d_bench.fingerprint import commit
from geo4d_bench.io import read_json, write_atomic


def run_id(settings: dict[str, Any]) -> str:
    """16 hex digits over everything that decides a run's results."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def claim(folder: Path, kind: str, results: str, settings: dict[str, Any], **options: Any) -> str:
    """Make a folder this run's, and return the run's id.

    Args:
        folder: of the results, new, or of this run.
        kind: what runs there, as it should read in an error: ``rollout``.
        results: name of the file that the run writes first; a folder without it holds nothing yet.
        settings: what decides the results; values of JSON.
        options: what else ``run.json`` says of the run, the latest call's.

    Raises:
        RunError: the folder holds another run; names what differs.
    """
    settings = json.loads(json.dumps(settings, default=str))
    before = read_run(folder)
    if before and before["settings"] != settings and (folder / results).exists():
        raise RunError(
            f"{folder} holds another {kind}: {differences(before['settings'], settings)}; give the same options to go "
            "on, or another --out"
        )
    content = {"run_id": run_id(settings), "settings": settings, "commit": commit(), "options": options}
    write_atomic(folder / "run.json", json.dumps(content, indent=2, default=str) + "\n")
    return str(content["run_id"])


def read_run(folder: Path) -> dict[str, Any] | None:
    """What :func:`claim` wrote: ``run_id``, ``settings``, ``commit``, ``options``; None where there is no such file.

    Raises:
        RunError: it is none of this program's.
    """
    path = folder / "run.json"
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: is not JSON ({error}); mend it, or give another --out to start anew") from None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise RunError(f"{path}: is not of this program; give another --out")
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """``seed 0 there, 5 asked for``, for each setting that differs."""
    pairs = {name: (_flat(before).get(name), _flat(now).get(name)) for name in _flat(before) | _flat(now)}
    return ", ".join(f"{name} {_short(a)} there, {_short(b)} asked for" for name, (a, b) in pairs.items() if a != b)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under their own names."""
    nested = [_flat(value) if isinstance(value, dict) else {name: value} for name, value in settings.items()]
    return {name: value for each in nested for name, value in each.items()}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:24]}..."
