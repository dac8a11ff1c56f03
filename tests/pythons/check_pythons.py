"""What ``make test-pythons`` does: the wheel on every Python of this machine, installed without the Makefile.

Each supported Python gets an environment of its own, ``doctor``, and one episode; the oldest one NumPy 1.26 too. A
Python that is too old is refused in one sentence. The environments are removed again: with CUDA, torch takes 5 GB.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "pythons"
OLDEST, NEWEST = (3, 11), (3, 14)
NUMPY_1 = "numpy==1.26.4"
Version = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="versions such as 3.13; every Python that is found where not given")
    wanted = parser.parse_args().only
    found = pythons()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    too_old = [version for version in found if version < OLDEST]
    if too_old:
        check_refusal(found[max(too_old)])
    supported = [v for v in sorted(found) if OLDEST <= v <= NEWEST and (not wanted or f"{v[0]}.{v[1]}" in wanted)]
    if not supported or len(supported) < len(wanted or ()):
        sys.exit(f"not all of {wanted or '3.11 to 3.14'} are on this machine: found {sorted(found)}")
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", WORK, ROOT)
    (wheel,) = WORK.glob("geo4d_bench-*.whl")
    episodes = {}
    for version in supported:
        episodes |= check_python(found[version], version, wheel, numpy_1=version == supported[0] and version < (3, 13))
    steps = {row["control_steps"] for row in episodes.values()}
    if {row["status"] for row in episodes.values()} != {"success"} or len(steps) != 1:
        sys.exit(f"the episode did not end alike everywhere: {episodes}")
    print(f"{len(episodes)} passed, 0 failed")


def pythons() -> dict[Version, Path]:
    """Every CPython that can make an environment, by version: on PATH, in /usr/bin, and pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names = [f"python3.{minor}" for minor in range(6, 20)]
    candidates = [Path(path) for name in names if (path := shutil.which(name))]
    candidates += [Path("/usr/bin") / name for name in names] + sorted(pyenv.glob("*/bin/python3"))
    found: dict[Version, Path] = {}
    for path in candidates:
        ask = "import ensurepip, sys; print('%d %d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", ask], capture_output=True, text=True) if path.exists() else None
        if done is not None and re.fullmatch(r"\d+ \d+\n", done.stdout):
            major, minor = done.stdout.split()
            found.setdefault((int(major), int(minor)), path)
    return found


def check_refusal(python: Path) -> None:
    """``make setup`` with an unsupported Python is one sentence, before anything is downloaded."""
    copy = WORK / "refused"
    copy.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    command = ["make", "--no-print-directory", "setup", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [""]
    if done.returncode == 0 or "geo4d-bench needs Python 3.11 to 3.14" not in said[0] or (copy / ".venv").exists():
        sys.exit(f"{python} was not refused in a sentence: {done.stdout}{done.stderr}")
    print(f"{python}: refused: {said[0]}", flush=True)


def check_python(python: Path, version: Version, wheel: Path, *, numpy_1: bool) -> dict[str, dict[str, str]]:
    """Install, ``doctor``, one episode; returns the episode's row by environment."""
    name = f"{version[0]}.{version[1]}"
    home = WORK / name
    began = time.monotonic()
    run(python, "-m", "venv", home / "venv")
    installed = home / "venv" / "bin" / "python"
    pip = [installed, "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt"]
    run(*pip, "pip")
    run(*pip, "torch")
    run(*pip, wheel)
    run(*pip, "--no-deps", "robosuite")
    rows = {name: episode(home, "rollout")}
    if numpy_1:
        run(installed, "-m", "pip", "install", "-q", "--no-compile", NUMPY_1)
        rows[f"{name} with {NUMPY_1}"] = episode(home, "rollout_numpy_1")
    shutil.rmtree(home)
    print(f"{python}: {' and '.join(rows)} in {time.monotonic() - began:.0f} s", flush=True)
    return rows


def episode(home: Path, name: str) -> dict[str, str]:
    program = home / "venv" / "bin" / "geo4d-bench"
    run(program, "doctor", cwd=home)
    run(program, "rollout", "--policy", "expert", "--episodes", "1", "--out", name, cwd=home)
    with (home / name / "episodes.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def run(*command: object, cwd: Path = ROOT) -> None:
    """Run it quietly; what it said is shown where it fails."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
