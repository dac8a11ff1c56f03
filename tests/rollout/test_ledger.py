"""The ledger with real files and real processes."""

import csv
import dataclasses
import hashlib
import io
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from geo4d_bench import cli
from geo4d_bench.csv_files import read_frame
from geo4d_bench.errors import DatasetError, LedgerError
from geo4d_bench.report import report
from geo4d_bench.rollout.leaderboard import LeaderboardConfig, run
from geo4d_bench.rollout.ledger import COLUMNS, LATER, EpisodeRow, Ledger, canonical_sha256


def row(seed: int = 1000, **changes: object) -> EpisodeRow:
    base = EpisodeRow(
        run_id="0123456789abcdef", settings="", rig="", task="store_cereal", task_version="v1", policy="expert",
        generator="", ablation="none", checkpoint="",
        views="novel", camera_n="cam03", camera_m="cam07", view_angle_deg=21.125,
        sensor="perfect", tracker="", segmenter="", steps=0,
        split="eval", seed=seed, episode=seed - 1000, status="success", success=True, phase="task", plans=12,
        control_steps=240, wall_s=1.5,
        generate_ms=0.0, track_ms=0.25, privileged=True, fingerprint="f" * 16, commit="0123456789ab+",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_columns_are_the_published_ones() -> None:
    assert ",".join(COLUMNS) == (
        "run_id,settings,task,task_version,policy,generator,ablation,checkpoint,views,rig,rooms,camera_n,camera_m,view_angle_deg,elevation_deg,distance_m,fovy_deg,baseline_m,sensor,calibration_deg,calibration_cm,tracker,segmenter,"
        "steps,split,seed,episode,status,success,phase,plans,control_steps,wall_s,generate_ms,track_ms,privileged,fingerprint,commit,"
        "latency_s,stale_share,idle_share,plan_hz"
    )


def test_published_rows_without_rooms_are_of_fixed_ones_and_keep_their_sha256() -> None:
    folder = Path(__file__).parents[2] / "results" / "store_cereal-v1" / "demo"
    published = {
        board["rows_sha256"] for board in csv.DictReader((folder / "leaderboard.csv").read_text().splitlines())
    }
    rows = Ledger(folder / "rollout_expert_novel.csv").rows()
    assert {r.rooms for r in rows} == {"fixed"}
    assert canonical_sha256(rows) in published
    assert canonical_sha256([dataclasses.replace(r, rooms="varied") for r in rows]) not in published


def test_rows_come_back_typed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run" / "episodes.csv")
    rows = [row(1000), row(1001, status="timeout", success=False, phase="start", views='rig, "odd"')]
    assert [ledger.append(r) for r in rows] == [True, True]
    assert ledger.read().rows == tuple(rows)
    assert ledger.read().torn is None


def test_rows_of_older_versions_lack_columns_and_keep_their_hash(tmp_path: Path) -> None:
    kept = [i for i, name in enumerate(COLUMNS) if name not in LATER]
    old = [row(1000), row(1001)]
    assert all(getattr(each, name) == usual for each in old for name, usual in LATER.items())
    path = tmp_path / "episodes.csv"
    path.write_text(written([[line[i] for i in kept] for line in [list(COLUMNS), *(r.text() for r in old)]]))
    ledger = Ledger(path)
    assert ledger.rows() == tuple(old)
    # As the version before these columns computed it, wall times 0.
    cells = [dataclasses.replace(r, wall_s=0.0, generate_ms=0.0, track_ms=0.0).text() for r in old]
    text = written([[line[i] for i in kept] for line in cells], lineterminator="\n")
    assert canonical_sha256(old) == hashlib.sha256(text.encode()).hexdigest()
    new = row(1002, elevation_deg=-3.5, distance_m=1.25, fovy_deg=48.0, baseline_m=0.5, calibration_deg=2.0)
    assert ledger.append(new)
    assert ledger.rows() == (*old, new)
    assert new.title == "expert, calibration 2 deg 0 cm off"


@pytest.mark.parametrize("name", LATER)
def test_the_hash_tells_later_columns_apart(name: str) -> None:
    values: list[object] = [1.0, 2.0] if LATER[name] is None else [0.5, 1.0]
    values = ["varied", "held_out"] if name == "rooms" else values
    assert len({canonical_sha256([row(**{name: v})]) for v in (LATER[name], *values)}) == 3


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


@pytest.mark.parametrize("cut", [3, 20, 100])
def test_a_torn_last_line_is_reported_and_made_again(tmp_path: Path, cut: int) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    for seed in (1000, 1001):
        ledger.append(row(seed))
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-cut])
    contents = ledger.read()
    assert contents.rows == (row(1000),)
    with pytest.raises(LedgerError, match=r"may be cut off .*end it, else give the same rollout again"):
        ledger.rows()
    assert contents.torn == text.splitlines()[-1][: len(text.splitlines()[-1]) + 1 - cut]
    assert ledger.append(row(1001))
    assert ledger.path.read_text() == text


def test_a_torn_header_is_made_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "episodes.csv")
    ledger.path.write_text("run_id,settings,ta")
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
        (",expert,,", ",expert,", "line 2: 37 cells, expected 38"),
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


# What pandas, spreadsheets, editors and git make of tables.

ROWS = (
    row(1000, checkpoint="c" * 64, settings="a" * 16, view_angle_deg=0.0, wall_s=2.0),
    row(1001, checkpoint="c" * 64, settings="a" * 16, success=False, status="timeout", phase="start", views="novel"),
    row(1002, checkpoint="c" * 64, settings="a" * 16, wall_s=1.125, rig="my rig"),
)
Change = Callable[[str], str | bytes]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def written(rows: list[list[str]], **dialect: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows(rows)  # type: ignore[arg-type]
    return buffer.getvalue()


def changed(column: str, value: Callable[[str], str], rows: tuple[int, ...] = (1, 2, 3)) -> Change:
    def change(text: str) -> str:
        table = cells(text)
        for number in rows:
            table[number][COLUMNS.index(column)] = value(table[number][COLUMNS.index(column)])
        return written(table, lineterminator="\n")

    return change


def reordered(text: str) -> str:
    return written([line[::-1] for line in cells(text)])


def widened(name: str, values: tuple[str, ...]) -> Change:
    return lambda text: written([[*line, value] for line, value in zip(cells(text), (name, *values), strict=True)])


def by_pandas(text: str, **options: object) -> str:
    return str(pd.read_csv(io.StringIO(text)).to_csv(**options))


def by_excel(text: str, mark: str) -> str:
    """Booleans in capitals, numbers without zeros at their ends, with ``mark`` before their decimals."""
    upper = {"true": "TRUE", "false": "FALSE"}

    def shown(cell: str) -> str:
        return f"{float(cell):g}".replace(".", mark) if re.fullmatch(r"\d+\.\d{3}", cell) else upper.get(cell, cell)

    return written([[shown(c) for c in line] for line in cells(text)], delimiter=";" if mark == "," else ",")


SAME: dict[str, Change] = {
    "pandas": lambda text: by_pandas(text, index=False),
    "pandas with an index": lambda text: by_pandas(text),
    "pandas twice": lambda text: by_pandas(by_pandas(text)),
    "pandas, a number missing meanwhile": changed("seed", lambda cell: f"{cell}.0"),
    "Excel": lambda text: by_excel(text, "."),
    "Excel, German": lambda text: b"\xef\xbb\xbf" + by_excel(text, ",").encode(),
    "Excel, Unicode text": lambda text: written(cells(text), delimiter="\t").encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16, big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "byte order mark": lambda text: text.encode("utf-8-sig"),
    "everything quoted": lambda text: written(cells(text), quoting=csv.QUOTE_ALL),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "no line end": lambda text: text.removesuffix("\n"),
    "blank lines": lambda text: "\n" + text.replace("\n", "\n\n") + " \n\n",
    "rows of empty cells": lambda text: text + "," * (len(COLUMNS) - 1) + "\n",
    "empty columns": lambda text: text.replace("\n", ",,\n"),
    "spaces": lambda text: text.replace(",", " , ").replace("\n", " \n"),
    "columns in another order": reordered,
    "rows in another order": lambda text: written([cells(text)[i] for i in (0, 3, 1, 2)]),
    "two files put together": lambda text: text + text.splitlines()[0] + "\n",
}
REFUSED: dict[str, tuple[Change, str]] = {
    "rounded seed": (changed("seed", lambda c: "1.23E+15"), "line 2: column seed holds '1.23E.15', not a int"),
    "rounded seeds, all digits": (changed("seed", lambda c: "1230"), "line 3: seed 1230 is not that of episode 1"),
    "hash as a number": (changed("settings", lambda c: "1.23E+15"), "line 2: column settings .* 16 hexadecimal digits"),
    "hash as infinity": (changed("run_id", lambda c: "inf"), "line 2: column run_id holds 'inf'"),
    "zeros lost": (changed("fingerprint", lambda c: "123", (3,)), "line 4: column fingerprint holds '123'"),
    "thousands": (changed("view_angle_deg", lambda c: "21125"), "line 2: .* view_angle_deg 21125"),
    "decimal commas between commas": (changed("wall_s", lambda c: "1,5"), "line 2: holds '1,5', .* decimal points"),
    "NaN": (changed("wall_s", lambda c: "nan", (2,)), "line 3: column wall_s holds 'nan'"),
    "empty": (changed("plans", lambda c: "", (2,)), "line 3: column plans holds ''"),
    "another language": (changed("success", lambda c: "WAHR"), "line 2: column success holds 'WAHR'"),
    "hashes where a cell is narrow": (changed("wall_s", lambda c: "####"), "line 2: column wall_s holds '####'"),
    "one column sorted": (changed("success", lambda c: "true", (2,)), "line 3: status timeout with success true"),
    "column added": (widened("note", ("", "odd", "")), "unknown: note"),
    "unnamed column added": (widened("", ("", "odd", "")), "line 1: '' stands there twice or is no name"),
    "column twice": (widened("seed", ("1", "2", "3")), "line 1: 'seed' stands there twice"),
    "column lost": (lambda t: written([line[:-1] for line in cells(t)]), "missing: commit"),
    "header lost": (lambda t: "".join(t.splitlines(keepends=True)[1:]), "line 1: .* first line must be the header"),
    "row twice": (lambda t: t + t.splitlines()[2] + "\n", "line 5: seed 1001 .* twice, before in line 3"),
    "conflict": (
        lambda t: t.replace("\n", "\n<<<<<<< HEAD\n", 1) + "=======\n>>>>>>> theirs\n", "line 2: git left a conflict",
    ),
    "cell lost": (lambda t: t.replace(",novel,", ",", 2), "line 2: 37 cells, expected 38"),
    "quote lost": (lambda t: t.replace(",start,", ',"start,'), "line 3: a quoted cell has no end"),
    "not UTF-8": (
        lambda t: str(changed("rig", lambda c: "caf\xe9", (2,))(t)).encode("latin-1"), "line 3: not UTF-8 text",
    ),
    "zeros at its end": (lambda t: t + "\0" * 9, "line 5: holds zero bytes"),
    "cut off": (lambda t: t[:-3], "last line has no end and may be cut off .* same rollout again"),
    "cut off between cells": (lambda t: t.rpartition(",")[0], "last line has no end and may be cut off"),
    "no line end, another order": (lambda t: reordered(t).removesuffix("\r\n"), "may be cut off .*if it is whole, end"),
    "another file": (lambda t: "hello", "first line is not the header"),
}  # fmt: skip


def save(path: Path, content: str | bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path.read_bytes()


@pytest.fixture
def text(tmp_path: Path) -> str:
    ledger = Ledger(tmp_path / "whole.csv")
    for each in ROWS:
        ledger.append(each)
    return ledger.path.read_text()


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_what_only_looks_different_is_read_as_it_was(tmp_path: Path, text: str, change: Change) -> None:
    ledger, clean = Ledger(tmp_path / "touched.csv"), Ledger(tmp_path / "whole.csv")
    save(ledger.path, change(text))
    assert sorted(ledger.rows(), key=lambda r: r.seed) == list(ROWS)
    for each in (ledger, clean):
        each.append(row(1003))
    assert ledger.path.read_bytes() == clean.path.read_bytes()


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_may_have_lost_something_is_refused_and_stays(
    tmp_path: Path, text: str, change: Change, sentence: str
) -> None:
    ledger = Ledger(tmp_path / "touched.csv")
    before = save(ledger.path, change(text))
    with pytest.raises(LedgerError, match=sentence) as refused:
        ledger.rows()
    assert str(ledger.path) in str(refused.value)
    assert "delete" not in str(refused.value)
    if ledger_is_readable := "cut off" in sentence:
        assert ledger.read().torn
    else:
        with pytest.raises(LedgerError, match=sentence):
            ledger.append(row(1003))
    assert ledger_is_readable or ledger.path.read_bytes() == before


def test_boards_and_reports_of_touched_ledgers(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    board = run(LeaderboardConfig((tmp_path / "whole.csv",), tmp_path / "board.csv"))
    for name in ("pandas with an index", "Excel, German", "Excel, Unicode text", "no line end"):
        path = tmp_path / "runs" / "one" / "episodes.csv"
        save(path, SAME[name](text))
        assert run(LeaderboardConfig((path,), tmp_path / "board.csv")).rows == board.rows
        result = report.run(report.ReportConfig(runs=tmp_path / "runs", data=tmp_path / "none"))
        assert result.board is not None
        assert result.board.rows == board.rows
    for name in ("cut off", "conflict", "one column sorted"):
        change, sentence = REFUSED[name]
        before = save(path, change(text))
        for command in ("leaderboard", str(path)), ("report", "--runs", str(tmp_path / "runs")):
            assert cli.main([*command, "--out", str(tmp_path / "out.csv")]) == 2
            assert re.search(sentence, capsys.readouterr().err)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t, None),
        (by_pandas, None),
        (lambda t: t.replace(",", ";").replace(".", ",").encode("utf-16"), None),
        (lambda t: t.removesuffix("\n"), "may be cut off"),
        (lambda t: t + t.splitlines()[1] + "\n", "line 4: has the views, source of line 2"),
        (lambda t: t.replace("12.5", "#####"), "line 3: column gripper_cm holds '#####', not a number"),
        (lambda t: t.replace("12.5", '"12,5"'), "line 3: holds '12,5', which may be a decimal comma"),
        (lambda t: t.replace("source", "kind"), "has no column 'source'"),
        (lambda t: t.replace("\n", "\n=======\n", 1), "line 2: git left a conflict"),
    ],
)
def test_tables_of_an_evaluation_are_read_alike(tmp_path: Path, change: Change, sentence: str | None) -> None:
    path = tmp_path / "metrics.csv"
    save(
        path, change("name,calibrated,views,source,windows,gripper_cm\n007,True,seen,a,64,\n007,True,seen,b,64,12.5\n")
    )
    if sentence is not None:
        with pytest.raises(DatasetError, match=sentence):
            read_frame(path, ("views", "source"))
        return
    frame = read_frame(path, ("views", "source"))
    assert frame["calibrated"].tolist() == [True, True]
    assert frame["windows"].tolist() == [64, 64]
    assert frame["gripper_cm"].isna().tolist() == [True, False]
    assert frame["gripper_cm"][1] == 12.5
