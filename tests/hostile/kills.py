"""Kills one command at random moments, again and again; what comes out has to be what an undisturbed one makes.

``python kills.py FOLDER SEED COMMAND KILLS [COMMAND KILLS ...]``; run by test_kills.py. Prints a line for each command:
how often it was killed and how often it finished, or what was lost.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("hostile", ""))

import numpy as np
from forks import Ended, import_everything, run_forked
from quick_task import QuickTask

RIG = """fovy_deg: 60
cameras:
  - {name: left, position: [0.9, -0.5, 1.5], split: seen}
  - {name: right, position: [0.9, 0.5, 1.5], split: seen}
"""
COMMANDS = {
    "datagen": "datagen --task quick --episodes 3 --rig ../../rig.yaml --height 16 --width 24 --workers 1 --out out",
    "train": (
        "train --data ../../data --preset layered_debug --steps 4 --batch-size 1 --val-windows 0 --n-validations 2 "
        "--threads 1 --precision fp32 --out out"
    ),
    "rollout": (
        "rollout --task quick --policy random --rig ../../rig.yaml --views seen --episodes 3 --workers 1 --out out"
    ),
    "export": "export ../../data --to robomimic --out out/demonstrations.hdf5",
}
TIMES = {"seconds", "windows_per_s", "peak_mib", "wall_s", "generate_ms", "track_ms"}


class LostError(Exception):
    """What a killed command did not make again."""


def main(folder: Path, seed: int, kills: dict[str, int]) -> None:
    prepare()
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    (folder / "rig.yaml").write_text(RIG)
    (folder / "first").mkdir()
    whole(folder / "first", COMMANDS["datagen"])
    (folder / "first/work/out").rename(folder / "data")
    for command, number in kills.items():
        root = folder / command
        root.mkdir()
        began = time.monotonic()
        try:
            killed, finished = kill(root, command, number, seed)
        except LostError as error:
            print(f"outcome of {command}: lost (seed {seed}) {error}", flush=True)
        else:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            took = f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU so far"
            print(f"outcome of {command}: killed {killed} times, finished {finished} times, {took}", flush=True)


def kill(root: Path, command: str, kills: int, seed: int) -> tuple[int, int]:
    """How often it was killed, and how often it finished; LostError."""
    first = whole(root, COMMANDS[command])
    undisturbed = root / "undisturbed"
    (root / "work").rename(undisturbed)
    rng, killed, finished, died_of = np.random.default_rng([5, seed]), 0, 0, "nothing"
    while killed < kills or (root / "work").exists():
        moment: dict[str, Any] = {}
        if killed < kills and rng.random() < 0.5:
            moment = {"seconds": round(rng.uniform(0.0, first.seconds), 3)}
        elif killed < kills:
            moment = {"change": int(rng.integers(1, first.changes + 1))}
        ended = call(root, COMMANDS[command], **moment)
        if ended.code == -9:
            killed, died_of = killed + 1, f"kill {killed + 1} ({moment})"
            if command != "export" or not (root / "work/out/demonstrations.hdf5").exists():
                continue  # an export that is whole is not made twice
        elif ended.code != 0:
            raise LostError(f"after {died_of} the same command failed with {ended.code}:\n{ended.said}")
        check(root, undisturbed, command, died_of)
        finished += 1
        shutil.rmtree(root / "work")
    return killed, finished


def prepare() -> None:
    """Import everything, and build once what all processes begin with: the simulation, its packed scene, its hand."""
    import_everything()
    from geo4d_bench import tasks
    from geo4d_bench.rendering import hand, scene

    tasks.TASKS.register("quick", QuickTask)
    task = tasks.make("quick")
    tasks.make = lambda id: task  # type: ignore[assignment]
    scene.pack_scene = _once(scene.pack_scene)
    model = scene.load_scene(scene.pack_scene(task.scene_xml(), arms=("right",)))
    measured = hand.hand_model(model, "right")
    hand.hand_model = lambda *_: measured


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """With equal arguments it is called once."""
    return functools.lru_cache(lambda *a, **k: function(*a, **k))


def call(root: Path, command: str, **moment: Any) -> Ended:
    """The command line in a process of its own, in ``root/work``."""
    from geo4d_bench import cli

    (root / "work").mkdir(exist_ok=True)
    return run_forked(lambda: cli.main(command.split()), root / "work", log=root / "log.txt", **moment)


def whole(root: Path, command: str) -> Ended:
    ended = call(root, command)
    if ended.code != 0:
        raise LostError(f"it failed undisturbed with {ended.code}:\n{ended.said}")
    return ended


def check(root: Path, undisturbed: Path, command: str, died_of: str) -> None:
    """LostError where the outcome is not the undisturbed one's."""
    found, expected = (files(folder) for folder in (root / "work", undisturbed))
    if found != expected:
        raise LostError(f"after {died_of}: left over {sorted(found - expected)}, missing {sorted(expected - found)}")
    for name in sorted(expected):
        mine, theirs = (content(folder / name) for folder in (root / "work", undisturbed))
        if mine != theirs:
            raise LostError(f"after {died_of}: {name} differs:\n{mine!r:.500}\n{theirs!r:.500}")
    if command == "datagen":
        verified = call(root, "verify out")
        if verified.code != 0:
            raise LostError(f"after {died_of}: verify: {verified.said}")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> Any:
    """What of a file has to be equal: all but times and pictures of them."""
    import pandas as pd
    from safetensors.numpy import load_file

    if path.name == "loss.png" or path.name.startswith(".") or path.suffix == ".lock":
        return None
    if path.name == "trainer.safetensors":  # its metadata holds the seconds
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in load_file(path).items()}
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=list(TIMES), errors="ignore").to_csv()
    if path.suffix == ".sha256":  # of a board, and of rows with times
        return [line for line in path.read_text().splitlines() if not line.endswith("episodes.csv")]
    if path.name == "run.json":
        return json.loads(path.read_text())
    if path.name == "demonstrations.hdf5":  # HDF5 stamps objects with times
        return hdf5(path)
    return path.read_bytes()


def hdf5(path: Path) -> dict[str, Any]:
    import h5py

    found: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        found[f"{name}@"] = sorted((k, str(v)) for k, v in item.attrs.items())
        if isinstance(item, h5py.Dataset):
            found[name] = (str(item.dtype), item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(add)
    return found


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).resolve(), int(sys.argv[2]), dict(zip(sys.argv[3::2], map(int, sys.argv[4::2]), strict=True))
    )
