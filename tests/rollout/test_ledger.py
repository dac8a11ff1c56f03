"""The ledger with real files and real processes."""

import dataclasses
import multiprocessing
from pathlib import Path

import pytest

from geo4d_bench.errors import LedgerError
from geo4d_bench.rollout.ledger import COLUMNS, EpisodeRow, Ledger, canonical_sha256


def row(seed: int = 1000, **changes: object) -> EpisodeRow:
    base = EpisodeRow(
        run_id="0123456789abcdef", settings="", rig="", task="store_cereal", task_version="v1", policy="expert",
        generator="", ablation="none", checkpoint="",
        views="novel", camera_n="cam03", camera_m="cam07", view_angle_deg=21.125,
        sensor="perfect", tracker="", segmenter="", steps=0,
        split="eval", seed=seed, episode=seed - 1000, status="success", success=True, phase="task", plans=12,
        control_steps=240, wall_s=1.5,
        generate_ms=0.0, track_ms=0.25, privileged=True, fingerprint="f" * 16, commit="abc+",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_columns_are_the_published_ones() -> None:
    assert ",".join(COLUMNS) == (
        "run_id,settings,task,task_version,policy,generator,ablation,checkpoint,views,rig,camera_n,camera_m,view_angle_deg,sensor,tracker,segmenter,"
        "steps,split,seed,episode,status,success,phase,plans,control_steps,wall_s,generate_ms,track_ms,privileged,fingerprint,commit"
    )


def test_rows_come_back_typed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run" / "episodes.csv")
    rows = [row(1000), row(1001, status="timeout", success=False, phase="start", views='rig, "odd"')]
    assert [ledger.append(r) for r in rows] == [True, True]
    assert ledger.read().rows == tuple(rows)
    assert ledger.read().torn is None


def test_no_file_is_an_empty_ledger(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "episodes.csv").read().rows == ()


def test_an_episode_is_never_doubled_and_a_crash_is_replaced(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    assert ledger.append(row(1001, status="crash", success=False))
    assert ledger.append(row(1000))
    assert not ledger.append(row(1000, success=False, status="failure"))
    assert ledger.append(row(1001))
    assert ledger.read().rows == (row(1000), row(1001))
    assert len(ledger.path.read_text().splitlines()) == 3


def write_rows(path: Path, first: int, number: int) -> None:
    for seed in range(first, first + number):
        Ledger(path).append(row(seed, commit="x" * 3000))  # long rows, so that a torn write would show


def test_two_processes_never_tear_a_row(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    context = multiprocessing.get_context("fork")
    # The ranges overlap: ten episodes are raced for, and must be there once.
    writers = [context.Process(target=write_rows, args=(path, first, 40)) for first in (1000, 1030)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert sorted(r.seed for r in Ledger(path).read().rows) == list(range(1000, 1070))


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_reported_and_made_again(tmp_path: Path, cut: int) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    for seed in (1000, 1001):
        ledger.append(row(seed))
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-cut])
    contents = ledger.read()
    assert contents.rows == (row(1000),)
    assert contents.torn == text.splitlines()[-1][: len(text.splitlines()[-1]) + 1 - cut]
    assert ledger.append(row(1001))
    assert ledger.path.read_text() == text


def test_a_torn_header_is_made_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    ledger.path.write_text("run_id,task,ta")
    assert ledger.append(row())
    assert ledger.read().rows == (row(),)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    ledger.path.write_text("run_id,task,score\n1,2,3\n")
    with pytest.raises(LedgerError, match=r"missing: settings, task_version.*unknown: score.*--out"):
        ledger.read()
    with pytest.raises(LedgerError):
        ledger.append(row())


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",240,", ",many,", "line 2: column control_steps holds 'many'"),
        (",success,true,", ",success,1,", "line 2: column success holds '1'"),
        (",success,true,", ",won,true,", "line 2: column status holds 'won'"),
        (",expert,,", ",expert,", "line 2: 30 cells, expected 31"),
    ],
)
def test_a_spoilt_line_is_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    ledger.append(row())
    text = ledger.path.read_text()
    assert old in text
    ledger.path.write_text(text.replace(old, new))
    with pytest.raises(LedgerError, match=sentence):
        ledger.read()


def test_the_hash_forgets_wall_times_and_order_only() -> None:
    slow = [row(1001, wall_s=9.0, generate_ms=3.0, track_ms=1.0), row(1000, wall_s=8.0)]
    assert canonical_sha256([row(1000), row(1001)]) == canonical_sha256(slow)
    assert canonical_sha256([row(1000)]) != canonical_sha256([row(1000, control_steps=241)])


def test_a_digest_tells_sensors_and_steps_apart() -> None:
    changes: list[dict[str, object]] = [
        {}, {"sensor": "stereo"}, {"sensor": "estimated"}, {"steps": 4}, {"steps": 1}, {"sensor": "stereo", "steps": 4},
        {"settings": "f" * 16}, {"rig": "random16"}, {"ablation": "no_mask"}, {"generator": "unet"},
    ]  # fmt: skip
    assert len({canonical_sha256([row(**change)]) for change in changes}) == len(changes)
