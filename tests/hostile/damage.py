"""Damages the files that readers are given, each in a process of its own, with little memory and a watchdog.

``python damage.py FOLDER FILES SEED [FIRST [STEP]]``; run by test_damage.py. A reader has to refuse a damaged file with
a Geo4DError (or an OSError, of which the command line makes a sentence), or to read what the whole file says. A file
without checksums whose values are changed, and that is well-formed, may read as what it says. Prints each other outcome
with its number, and how many there were of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("hostile", "", "model"))

import damaged_episodes as episodes
import numpy as np
from forks import import_everything, run_forked

PATIENCE_S = 20.0
MEMORY_BYTES = 512 * 2**20
REFUSED, EQUAL, OTHER, WRONG = 0, 3, 4, 5  # exit codes of a process that has read a file

Rng = np.random.Generator
Damage = Callable[[Path, Rng], None]


# ---------------------------------------------------------------------- damage to any file


def cut(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(1, len(content))])


def empty(path: Path, rng: Rng) -> None:
    path.write_bytes(b"")


def noise(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 2000))))


def flip_bits(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 9)):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def zero_block(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content)))
    count = min(int(rng.integers(8, 512)), len(content) - start)
    content[start : start + count] = bytes(count)
    path.write_bytes(content)


def not_utf8(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    at = int(rng.integers(len(content)))
    path.write_bytes(content[:at] + b"\xff\xfe\xc3\x28" + content[at:])


def another_kind(path: Path, rng: Rng) -> None:
    kinds = [b"{}", b"[]", b"null"]
    kinds += [b"a: b\n", b"a,b\n1,2\n", b"PK\x05\x06" + bytes(18), b"\x89HDF\r\n\x1a\n" + bytes(99)]
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    kinds += [buffer.getvalue(), struct.pack("<Q", 2) + b"{}"]
    path.write_bytes(kinds[rng.integers(len(kinds))])


def a_folder(path: Path, rng: Rng) -> None:
    path.unlink()
    path.mkdir()


def link_to_itself(path: Path, rng: Rng) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path, rng: Rng) -> None:
    path.unlink()
    os.mkfifo(path)


def missing(path: Path, rng: Rng) -> None:
    path.unlink()


def unreadable(path: Path, rng: Rng) -> None:
    path.chmod(0)


ANY: tuple[Damage, ...] = (
    cut, cut, empty, noise, flip_bits, flip_bits, zero_block, not_utf8, another_kind, another_kind, a_folder,
    link_to_itself, pipe, missing, unreadable,
)  # fmt: skip

# ---------------------------------------------------------------------- JSON and YAML, which is written as JSON is


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in _places(each, (*path, key)))]


def _with(text: str, rng: Rng, change: Callable[[Any, Any], None]) -> str:
    whole = [json.loads(text)]
    place = [place for place in _places(whole) if place][rng.integers(len(_places(whole)) - 1)]
    holder: Any = whole
    for key in place[:-1]:
        holder = holder[key]
    change(holder, place[-1])
    return json.dumps(whole[0] if whole else None, indent=1)


def _put(*values: Any) -> Damage:
    def put(path: Path, rng: Rng) -> None:
        value = values[rng.integers(len(values))]
        path.write_text(_with(path.read_text(), rng, lambda holder, key: holder.__setitem__(key, value)))

    return put


def remove_key(path: Path, rng: Rng) -> None:
    path.write_text(_with(path.read_text(), rng, lambda holder, key: holder.__delitem__(key)))


def unknown_key(path: Path, rng: Rng) -> None:
    path.write_text(path.read_text().replace("{", '{"surplus": 1, ', 1))


def key_twice(path: Path, rng: Rng) -> None:
    """With other values, of which the later stands first."""
    values = json.loads(path.read_text())
    name = list(values)[rng.integers(len(values))]
    other = json.dumps({name: [values[name]]})[1:-1]
    path.write_text("{" + json.dumps(values)[1:-1] + ", " + other + "}")


def deep(path: Path, rng: Rng) -> None:
    text = path.read_text()
    at = text.rindex("}")
    path.write_text(text[:at] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}")


wrong_type = _put(None, True, "text", [], {}, [[1]], {"a": 1})
huge_number = _put(10**400, -(10**400), 1e300, -1e300, 2**63, -1)
not_a_number = _put(float("nan"), float("inf"), -float("inf"))
JSON: tuple[Damage, ...] = (
    wrong_type, wrong_type, wrong_type, huge_number, huge_number, not_a_number, remove_key, remove_key, unknown_key,
    key_twice, deep,
)  # fmt: skip

# ---------------------------------------------------------------------- CSV


def _cells(path: Path, rng: Rng, change: Callable[[list[list[str]], int, int], None]) -> None:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    change(rows, int(rng.integers(1, len(rows))), int(rng.integers(len(rows[0]))))
    path.write_text("".join(",".join(row) + "\n" for row in rows))


def cell(path: Path, rng: Rng) -> None:
    value = ["", "nan", "inf", "1e999", "-1", "text", "9" * 400, "\x00", '"', "0x10"][rng.integers(10)]
    _cells(path, rng, lambda rows, r, c: rows[r].__setitem__(c, value))


def heading(path: Path, rng: Rng) -> None:
    _cells(path, rng, lambda rows, r, c: rows[0].__setitem__(c, ["", "other", rows[0][0], rows[0][-1]][r % 4]))


def short_row(path: Path, rng: Rng) -> None:
    _cells(path, rng, lambda rows, r, c: rows.__setitem__(r, rows[r][: max(c, 1)]))


def long_row(path: Path, rng: Rng) -> None:
    _cells(path, rng, lambda rows, r, c: rows[r].extend(["1"] * (c + 1)))


def row_twice(path: Path, rng: Rng) -> None:
    _cells(path, rng, lambda rows, r, c: rows.insert(r, rows[r]))


def no_column(path: Path, rng: Rng) -> None:
    _cells(path, rng, lambda rows, r, c: [row.pop(c) for row in rows] and None)


CSV: tuple[Damage, ...] = (cell, cell, cell, heading, short_row, long_row, row_twice, no_column)

# ---------------------------------------------------------------------- safetensors and zip


def _header(path: Path, change: Callable[[dict[str, Any], list[str]], None]) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header, [name for name in header if name != "__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def tensor_kind(path: Path, rng: Rng) -> None:
    def change(header: dict[str, Any], names: list[str]) -> None:
        tensor = header[names[rng.integers(len(names))]]
        key, value = [
            ("dtype", "F8_E4M3"), ("dtype", "I64"), ("dtype", "X"), ("shape", [2**40, 2**40]), ("shape", [-1]),
            ("shape", "a"),
            ("data_offsets", [0, 2**62]), ("data_offsets", [5, 1]), ("shape", []),
        ][rng.integers(9)]  # fmt: skip
        tensor[key] = value

    _header(path, change)


def tensor_name(path: Path, rng: Rng) -> None:
    def change(header: dict[str, Any], names: list[str]) -> None:
        name = names[rng.integers(len(names))]
        header[["other", "a/b/c", "", "x/0/y"][rng.integers(4)]] = header.pop(name)

    _header(path, change)


def tensor_metadata(path: Path, rng: Rng) -> None:
    found = [None, {}, {"step": "x"}, {"step": "-5"}, {"step": "1e9"}, {"run_id": 5}][rng.integers(6)]
    _header(path, lambda header, names: header.__setitem__("__metadata__", found))


def tensor_nan(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    at = start + 4 * int(rng.integers((len(content) - start) // 4))
    content[at : at + 4] = struct.pack("<f", [float("nan"), float("inf")][rng.integers(2)])[: len(content) - at]
    path.write_bytes(content)


def header_length(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", [0, 2**40, 2**63, len(content)][rng.integers(4)]) + content[8:])


TENSORS: tuple[Damage, ...] = (tensor_kind, tensor_kind, tensor_name, tensor_metadata, tensor_nan, header_length)


def _members(path: Path, change: Callable[[dict[str, bytes], str], None], rng: Rng) -> None:
    with zipfile.ZipFile(path) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    change(members, sorted(members)[rng.integers(len(members))])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)


def member_gone(path: Path, rng: Rng) -> None:
    _members(path, lambda members, name: members.pop(name) and None, rng)


def member_other(path: Path, rng: Rng) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"pickled": 1}], dtype=object), allow_pickle=True)
    others = [b"", b"{}", b"text", rng.bytes(500), buffer.getvalue()]
    _members(path, lambda members, name: members.__setitem__(name, others[rng.integers(5)]), rng)


def member_huge(path: Path, rng: Rng) -> None:
    _members(path, lambda members, name: members.__setitem__(name, members[name][:100] + bytes(600 * 2**20)), rng)


ZIP: tuple[Damage, ...] = (member_gone, member_other, member_other)

# ---------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Reader:
    """What reads a file, and the files of it that are damaged.

    Attributes:
        read: of the folder that holds them, to a digest of everything that was read.
        damage: by file, what is done to it.
        summed: whether a change of any value is to be noticed, since the file has checksums.
        values: damage that may leave a well-formed file with other values.
    """

    read: Callable[[Path], str]
    damage: dict[str, tuple[Damage, ...]]
    summed: bool = False
    values: frozenset[Damage] = field(default=frozenset({flip_bits, zero_block}))


TEXT_VALUES = frozenset({flip_bits, zero_block, cut, remove_key, huge_number, cell, row_twice, no_column, heading})
TENSOR_VALUES = frozenset({flip_bits, zero_block, tensor_name, tensor_metadata, not_utf8})


def digest(value: Any) -> str:
    found = hashlib.sha256()
    episodes._add(found, value)
    return found.hexdigest()


def read_rig(folder: Path) -> str:
    from geo4d_bench.tasks.rigs import make_rig

    rig = make_rig(str(folder / "rig.yaml"), (0.0, 0.0, 1.0))
    return digest(tuple((c.name, c.split, c.fovy_rad, c.T_world_cam) for c in rig.cameras))


def read_manifest(folder: Path) -> str:
    from geo4d_bench.dataset.manifest import read_manifest, settings_json

    found = read_manifest(folder / "dataset")
    return json.dumps([settings_json(found.settings), [dataclasses.asdict(e) for e in found.episodes]], sort_keys=True)


def read_episode(folder: Path) -> str:
    return episodes.read_all(folder / "dataset/episodes" / episodes.NAME)


def read_scene(folder: Path) -> str:
    from geo4d_bench.rendering.scene import load_scene

    scene = load_scene(folder / "scene.zip")
    names = ("geom_pos", "geom_size", "geom_rgba", "body_pos", "mesh_vert", "mesh_face", "qpos0", "geom_type")
    return digest((scene.seg_names, scene.arms, scene.geom_label, *(getattr(scene.model, name) for name in names)))


def read_hand(folder: Path) -> str:
    from geo4d_bench.dataset.hands import load_hand

    return digest(dataclasses.astuple(load_hand(folder / "dataset/hands/right.npz")))


def read_checkpoint(folder: Path) -> str:
    from geo4d_bench.model.checkpoint import checkpoint_sha256
    from geo4d_bench.model.generators import load_generator

    checkpoint_sha256(folder / "checkpoint")
    generator = load_generator(folder / "checkpoint")
    weights = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}
    return digest((generator.config.to_json(), weights))


def read_training(folder: Path) -> str:
    """What ``train`` reads when it goes on: the claim on the folder, the state and the logs."""
    from damage_inputs import trainer

    made = trainer(folder / "training")
    weights = {name: tensor.detach().numpy() for name, tensor in made.generator.state_dict().items()}
    moments = {name: tensor.numpy() for name, tensor in made.optimizers.state().items()}
    return digest((weights, moments, repr(made.progress), repr(made.rows), repr(made.fit_rows)))


def read_ledger(folder: Path) -> str:
    from geo4d_bench.rollout import leaderboard

    board = leaderboard.run(leaderboard.LeaderboardConfig((folder / "rollout",), folder / "leaderboard.csv"))
    return (folder / "leaderboard.csv").read_text() + repr(board.notes()).replace(str(folder), "")


def read_windows(folder: Path) -> str:
    from geo4d_bench.evaluation.window_store import WindowStore

    store = WindowStore(folder / "evaluation", "run")
    there = [(views, i) for views in ("seen", "novel") for i in range(4) if (views, i) in store]
    return digest((repr(there), *(store.features(v, [i], "generated/derivatives") for v, i in there))) + (
        store.frame(there).to_csv() if there else ""
    )


def read_report(folder: Path) -> str:
    """The parts of ``report`` that are read from tables and trajectories."""
    from geo4d_bench.report import figures, rollouts, sections

    drawn: list[Any] = []
    for name in ("gripper_error_chart", "trajectory_chart"):
        setattr(figures, name, lambda table, *_: drawn.append(table))
    sections.training_chart = lambda log, *_: drawn.append(log)
    page = sections.Page("quick", folder / "page")
    sections.add_evaluations(page, folder / "report")
    sections.add_trainings(page, folder / "report")
    drawn.append(rollouts._read_trajectory(folder / "report/1.npz"))
    return digest(repr(page.values)) + digest(repr([d.to_csv() if hasattr(d, "to_csv") else d for d in drawn]))


def read_tables(folder: Path) -> str:
    from geo4d_bench.report.tables import TablesConfig, run

    run(TablesConfig((folder / "page.md",)))
    return (folder / "page.md").read_text()


def read_predictions(folder: Path) -> str:
    from damage_inputs import checked_predictions

    return digest(checked_predictions(folder))


def read_preset(folder: Path) -> str:
    from geo4d_bench.model.generators import find_config

    return find_config(str(folder / "preset.json")).to_json()


def read_segmenter(folder: Path) -> str:
    from geo4d_bench.dataset.hands import load_hand
    from geo4d_bench.trackers.segmenter import TrainedSegmenter

    os.chdir(folder)
    TrainedSegmenter.version("quick")
    made = TrainedSegmenter(load_hand(folder / "dataset/hands/right.npz"), "quick")
    return digest({name: tensor.numpy() for name, tensor in made._network.state_dict().items()})


def read_i3d(folder: Path) -> str:
    from geo4d_bench.evaluation.i3d import I3D

    I3D.load(folder / "i3d.safetensors")
    return "never"


READERS: dict[str, Reader] = {
    "rig": Reader(read_rig, {"rig.yaml": (*ANY, *JSON)}, values=TEXT_VALUES | {wrong_type}),
    "manifest": Reader(read_manifest, {"dataset/manifest.json": (*ANY, *JSON)}, values=TEXT_VALUES),
    "episode": Reader(read_episode, {f"dataset/episodes/{episodes.NAME}": ANY}, summed=True),
    "scene": Reader(read_scene, {"scene.zip": (*ANY, *ZIP, member_huge)}, summed=True),
    "hand": Reader(read_hand, {"dataset/hands/right.npz": (*ANY, *ZIP, member_huge)}, summed=True),
    "checkpoint": Reader(
        read_checkpoint,
        {"checkpoint/config.json": (*ANY, *JSON), "checkpoint/model.safetensors": (*ANY, *TENSORS)},
        values=TEXT_VALUES - {cut} | TENSOR_VALUES,
    ),
    "training": Reader(
        read_training,
        {
            "training/trainer.safetensors": (*ANY, *TENSORS),
            "training/training_log.csv": (*ANY, *CSV),
            "training/run.json": (*ANY, *JSON),
        },
        values=TEXT_VALUES | TENSOR_VALUES | {missing, tensor_nan},
    ),
    "ledger": Reader(
        read_ledger,
        {"rollout/episodes.csv": (*ANY, *CSV), "rollout/run.json": (*ANY, *JSON)},
        values=TEXT_VALUES | {missing, not_utf8},
    ),
    "windows": Reader(
        read_windows,
        {"evaluation/windows.csv": (*ANY, *CSV), "evaluation/features.safetensors": (*ANY, *TENSORS)},
        values=TEXT_VALUES | TENSOR_VALUES | {missing, tensor_nan},
    ),
    "report": Reader(
        read_report,
        {
            "report/metrics.csv": (*ANY, *CSV),
            "report/gripper_error_by_frame.csv": (*ANY, *CSV),
            "report/training_log.csv": (*ANY, *CSV),
            "report/1.npz": (*ANY, *ZIP, member_huge),
        },
        values=TEXT_VALUES | {missing, link_to_itself},
    ),
    "tables": Reader(
        read_tables,
        {"report/metrics.csv": (*ANY, *CSV), "rollout/episodes.csv": (*ANY, *CSV), "page.md": ANY},
        values=TEXT_VALUES | {noise, another_kind, empty},
    ),
    "predictions": Reader(
        read_predictions,
        {"predictions/manifest.json": (*ANY, *JSON), "predictions/windows/seen_00000.safetensors": (*ANY, *TENSORS)},
        values=TENSOR_VALUES | TEXT_VALUES,
    ),
    "preset": Reader(read_preset, {"preset.json": (*ANY, *JSON)}, values=TEXT_VALUES - {cut}),
    "segmenter": Reader(read_segmenter, {"runs/quick/segmenter.safetensors": (*ANY, *TENSORS)}, values=TENSOR_VALUES),
    "i3d": Reader(read_i3d, {"i3d.safetensors": (*ANY, *TENSORS)}),
}


def cases(first: int, files: int, step: int) -> dict[int, tuple[str, str, Damage]]:
    """(reader, file, damage) by number: each in turn, all of them again and again."""
    every = [
        (name, file, damage)
        for name, reader in READERS.items()
        for file, ways in reader.damage.items()
        for damage in ways
        if damage is not unreadable or os.geteuid() != 0  # who may read everything
    ]
    found = {number: every[number % len(every)] for number in range(first, first + files, step)}
    if len(found) > 100:  # a sample has each file and each kind of damage
        assert {case[1] for case in found.values()} == {case[1] for case in every}
        assert {case[2] for case in found.values()} == {case[2] for case in every}
    return found


def main(folder: Path, files: int, seed: int, first: int = 0, step: int = 1) -> int:
    from damage_inputs import prepare

    import_everything()
    whole = folder / "whole"
    prepare(whole)
    expected: dict[str, str] = {}
    for name, reader in READERS.items():
        if name != "i3d":  # of which there is no whole one: its weights are not ours
            ended = _read(name, reader, whole, folder)
            if ended[0] != OTHER:
                print(f"{name}: the whole file is not read: {ended}")
                return 1
            expected[name] = ended[1]
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number, (name, file, damage) in cases(first, files, step).items():
        damaged = folder / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        damaged.mkdir()
        for entry in whole.iterdir():  # a copy of what is damaged, links to the rest
            if entry.name != Path(file).parts[0]:
                (damaged / entry.name).symlink_to(entry)
            elif entry.is_dir():
                shutil.copytree(entry, damaged / entry.name)
            else:
                shutil.copyfile(entry, damaged / entry.name)
        damage(damaged / file, np.random.default_rng([6, seed, number]))
        code, said = _read(name, READERS[name], damaged, folder, expected.get(name))
        allowed = damage in READERS[name].values and not READERS[name].summed
        if code in (REFUSED, EQUAL) or (code == OTHER and allowed):
            counts[{REFUSED: "refused", EQUAL: "equal", OTHER: "other"}[code]] += 1
            continue
        counts["wrong"] += 1
        what = {OTHER: "read other values without an error", WRONG: "raised"}.get(code, f"ended with {code}")
        way = getattr(damage, "__name__", damage)
        print(f"number {number}: {name}, {file}, {way}: {what} {said[-1500:]}", flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(" ".join(f"{what} {count}" for what, count in sorted(counts.items())), end="")
    print(f" in {time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU")
    return 1 if counts["wrong"] else 0


def _read(name: str, reader: Reader, files: Path, folder: Path, expected: str | None = None) -> tuple[int, str]:
    """How reading ended, and what it printed: the digest, or the error."""

    def work() -> int:
        from geo4d_bench.errors import Geo4DError

        try:
            found = hashlib.sha256(reader.read(files).encode()).hexdigest()
        except (Geo4DError, OSError) as error:
            print(f"{type(error).__name__}: {error}")
            return REFUSED
        except BaseException:
            import traceback

            traceback.print_exc()
            return WRONG
        print(found, end="")
        return EQUAL if found == expected else OTHER

    ended = run_forked(work, files, log=folder / "log.txt", memory_bytes=MEMORY_BYTES, patience_s=PATIENCE_S)
    return ended.code, ended.said


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), *map(int, sys.argv[2:])))
