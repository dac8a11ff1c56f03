"""Response curves on rows whose answer is known."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from geo4d_bench import cli
from geo4d_bench.report.curve_fits import halves, isotonic
from geo4d_bench.report.curve_pictures import _looks
from geo4d_bench.report.curves import compute
from geo4d_bench.rollout.ledger import COLUMNS, LATER, EpisodeRow

ROW = EpisodeRow(
    run_id="a" * 16, settings="b" * 16, rig="hemisphere16", task="store_cereal", task_version="v1", policy="mine",
    generator="", ablation="none", checkpoint="c" * 64, views="ring_360", camera_n="az+000", camera_m="az+090",
    view_angle_deg=0.0, sensor="perfect", tracker="", segmenter="", steps=0, split="eval", seed=1000, episode=0,
    status="success", success=True, phase="task", plans=1, control_steps=9, wall_s=1.0, generate_ms=0.0, track_ms=0.0,
    privileged=False, fingerprint="f" * 16, commit="0123456789ab", elevation_deg=12.0, distance_m=0.95, fovy_deg=48.0,
    baseline_m=1.3,
)  # fmt: skip
Floats = npt.NDArray[np.float64]


def played(seed: int, n: int = 240) -> tuple[Floats, Floats, list[str]]:
    """Angles, successes and seeds of a policy whose success falls from 0.9 to half of it at 30 degrees."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.uniform(0, 55, n))
    return x, (rng.uniform(size=n) < 0.9 / (1 + np.exp((x - 30) / 4))).astype(float), [str(i) for i in range(n)]


def test_the_angle_at_which_success_halves_is_found_and_its_interval_covers_it() -> None:
    found = [halves(*played(seed), np.random.default_rng(seed), resamples=100) for seed in range(8)]
    angles = np.array([half.x for half in found])
    assert np.abs(angles - 30).max() < 5
    assert abs(angles.mean() - 30) < 1.5
    assert sum(half.low <= 30 <= half.high for half in found) >= 7
    assert np.mean([half.high - half.low for half in found]) < 9
    assert np.mean([half.at_zero for half in found]) == pytest.approx(0.9, abs=0.05)


def test_success_that_does_not_halve_is_said_to_be_beyond_what_was_played() -> None:
    x, success, seeds = played(0)
    near = x < 22
    half = halves(
        x[near], success[near], [s for s, keep in zip(seeds, near, strict=True) if keep], np.random.default_rng(0)
    )
    assert half.high == np.inf
    assert half.x == np.inf or half.x > 18
    never = halves(x, np.zeros(len(x)), seeds, np.random.default_rng(0))
    assert never.at_zero == 0
    assert np.isnan(never.x)
    far = x > 10
    unseen = halves(x[far], success[far], np.array(seeds)[far].tolist(), np.random.default_rng(0))
    assert np.isnan([unseen.at_zero, unseen.x]).all()  # nothing says what success is at a training camera


def test_rows_that_share_a_seed_are_drawn_together() -> None:
    x, success, seeds = played(3)
    alone = halves(x, success, seeds, np.random.default_rng(0))
    often = (np.tile(v, 4) for v in (x, success))
    assert halves(*often, seeds * 4, np.random.default_rng(0)) == pytest.approx(alone)
    x4, y4 = np.tile(x, 4), np.tile(success, 4)
    apart = halves(x4, y4, [f"{s}/{i}" for i in range(4) for s in seeds], np.random.default_rng(0))
    assert apart.high - apart.low < 0.8 * (alone.high - alone.low)


def test_isotonic_fits_are_monotone_within_their_band_and_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 10, 600)
    truth = 1 + 0.3 * x
    y = truth + rng.standard_normal(600)
    clusters = list(range(600))
    fit = isotonic(x, y, clusters, 1, np.random.default_rng(0), resamples=200)
    assert (np.diff(fit.fit) >= 0).all()
    assert len(fit.x) == 40
    assert fit.n.sum() == 600
    inside = (fit.low <= 1 + 0.3 * fit.x) & (1 + 0.3 * fit.x <= fit.high)
    assert inside.mean() > 0.85
    falling = isotonic(x, y, clusters, -1, np.random.default_rng(0), resamples=50)
    np.testing.assert_allclose(falling.fit, y.mean())  # what rises has a level falling fit


@pytest.mark.parametrize("worse", [1, -1])
@pytest.mark.parametrize("best", [0.0, 4.0, 10.0])
def test_a_best_place_is_found_wherever_it_is(best: float, worse: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 10, 600)
    truth = 1 + worse * 0.3 * np.abs(x - best)
    y = truth + 0.5 * rng.standard_normal(600)
    fit = isotonic(x, y, list(range(600)), worse, np.random.default_rng(0), best_place=True, resamples=100)
    peak = np.argmin(worse * fit.fit)
    assert fit.x[peak] == pytest.approx(best, abs=1.5)
    assert (worse * np.diff(fit.fit[peak:]) >= 0).all()
    assert (worse * np.diff(fit.fit[: peak + 1]) <= 0).all()
    expected = 1 + worse * 0.3 * np.abs(fit.x - best)
    assert ((fit.low <= expected) & (expected <= fit.high)).mean() > 0.85


def test_between_two_angles_nothing_is_known() -> None:
    x = np.repeat([0.0, 34.0], 50)
    success = np.tile(np.arange(50), 2) < np.repeat([45, 15], 50)
    half = halves(x, success.astype(float), list(range(100)), np.random.default_rng(0))
    assert (half.low, half.high) == (0.0, 34.0)
    assert 0 < half.x < 34


def test_where_nothing_rises_or_falls_the_band_is_level() -> None:
    ends = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        y = (rng.random(150) < 0.5).astype(float)
        x = rng.uniform(0, 10, 150)
        fit = isotonic(x, y, list(range(150)), -1, rng, best_place=True, resamples=60)
        ends += [fit.low[end] <= 0.5 <= fit.high[end] for end in (0, -1)]
    assert sum(ends) >= 12  # of 16; 10 where up to 40 places are told apart


def save(path: Path, rows: list[EpisodeRow], drop: tuple[str, ...] = ()) -> None:
    """A ledger, as an older version would have written it where columns are dropped."""
    kept = [i for i, name in enumerate(COLUMNS) if name not in drop]
    cells = [list(COLUMNS), *(row.text() for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(line[i] for i in kept) + "\n" for line in cells))


def outcome(success: bool) -> dict[str, object]:
    return {"success": success, "status": "success" if success else "failure"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A made-up set: a ring, a miscalibrated and a noisy run, one of an older version, and an evaluation."""
    folder = tmp_path / "runs"
    x, success, _ = played(5, 120)
    ring = [
        dataclasses.replace(
            ROW, seed=1000 + i, episode=i, view_angle_deg=x[i], camera_n=f"az{i % 36:+04d}",
            elevation_deg=5.0 + i % 36 % 7, **outcome(bool(success[i])),
        )
        for i in range(120)
    ]  # fmt: skip
    save(folder / "ring" / "episodes.csv", ring)
    zoom = [
        dataclasses.replace(
            ROW, run_id="e" * 16, views="zoom", seed=1000 + i, episode=i, fovy_deg=fovy, camera_n=f"z{fovy:.0f}",
            **outcome(False),
        )
        for i, fovy in enumerate((24.0, 84.0) * 20)
    ]  # fmt: skip
    save(folder / "zoom" / "episodes.csv", zoom)
    moving = [
        dataclasses.replace(
            ROW,
            run_id="c" * 16,
            views="shell",
            seed=1000 + i,
            episode=i,
            camera_n=f"cam{i % 2}",
            distance_m=0.9 + i / 50,
        )
        for i in range(4)
    ]
    save(folder / "shell" / "episodes.csv", moving)
    disturbed: list[tuple[str, dict[str, object]]] = [
        *((f"off{degrees}", {"calibration_deg": float(degrees)}) for degrees in (0, 1, 2, 5)),
        *((name, {"sensor": name}) for name in ("stereo", "stereo4", "missing10", "missing50")),
    ]
    for number, (name, changes) in enumerate(disturbed):
        rows = [
            dataclasses.replace(
                ROW, run_id=f"{number:016x}", settings=f"{number + 100:016x}", views="novel", seed=1000 + i, episode=i,
                camera_m=("cam06", "cam09")[i % 2], **changes, **outcome(i % 10 >= number),
            )
            for i in range(20)
        ]  # fmt: skip
        save(folder / name / "episodes.csv", rows)
    old = [
        dataclasses.replace(ROW, policy="old", run_id="d" * 16, seed=1000 + i, episode=i, view_angle_deg=5.0 * i)
        for i in range(10)
    ]
    crashed = dataclasses.replace(old[0], seed=1010, episode=10, success=False, status="crash")
    save(folder / "old" / "episodes.csv", [*old, crashed], tuple(LATER))
    save_evaluation(folder / "mine" / "evaluation")
    return folder


def save_evaluation(folder: Path, **changes: str) -> None:
    """What ``evaluate`` writes of windows that are worse the farther their cameras are."""
    folder.mkdir(parents=True)
    angles = np.arange(24.0)
    pd.DataFrame(
        {
            "run_id": "a" * 16, "views": "novel", "source": "generated", "window": range(24),
            "episode": [f"ep_{i // 4}" for i in range(24)], "camera_n": "cam03", "camera_m": "cam06",
            "view_angle_deg": angles, "elevation_deg": 10.0, "distance_m": 1.0, "fovy_deg": 48.0, "baseline_m": 1.0,
            "gripper_cm": 1.0 + 0.1 * angles, "miou": 0.8 - 0.01 * angles,
        }
    ).to_csv(folder / "windows.csv", index=False)  # fmt: skip
    head = {
        "name": "mine", "task": "store_cereal-v1", "checkpoint": "c" * 64, "sensor": "perfect", "views": "novel",
        "source": "generated", "commit": "0123456789ab",
    }  # fmt: skip
    pd.DataFrame([head | changes]).to_csv(folder / "metrics.csv", index=False)


def test_curves_of_a_folder_of_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["curves", str(runs), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    curves, halving, pairs = (pd.read_csv(out / f"{name}.csv") for name in ("curves", "halving", "pairs"))
    got = set(curves[["contender", "measure", "axis"]].itertuples(index=False, name=None))
    assert got == {
        ("mine", "success", "view_angle_deg"),
        ("mine", "success", "elevation_deg"),
        ("mine", "success", "distance_m"),
        ("mine", "success", "fovy_deg"),
        ("mine, novel views", "success", "calibration_deg"),
        ("mine, novel views", "success", "depth_noise_mm"),
        ("mine, novel views", "success", "depth_missing"),
        ("old", "success", "view_angle_deg"),
        ("mine (cccccccc)", "gripper_cm", "view_angle_deg"),
        ("mine (cccccccc)", "miou", "view_angle_deg"),
    }
    off = curves[curves["axis"] == "calibration_deg"]
    assert off["x"].tolist() == [0, 1, 2, 5]
    np.testing.assert_allclose(off["fit"], [1.0, 0.9, 0.8, 0.7])
    assert (off["n"] == 20).all()
    noise = curves[curves["axis"] == "depth_noise_mm"]
    assert noise["x"].tolist() == pytest.approx([1.448, 5.792], abs=0.01)
    assert curves[curves["axis"] == "depth_missing"]["x"].tolist() == [0.0, 0.1, 0.5]
    error = curves[curves["measure"] == "gripper_cm"]
    np.testing.assert_allclose(error["fit"], 1.0 + 0.1 * error["x"], atol=1e-9)
    mine = halving.set_index("contender").loc["mine"]
    assert mine["low"] <= 30 <= mine["high"]
    # The ring, the shell, and the run whose calibration is right; not what has another field of view.
    assert mine["n"] == 144
    assert mine["n_beyond"] == (played(5, 120)[0] > 5).sum()
    assert mine["success_at_0"] > 0.7
    fovy = curves[curves["axis"] == "fovy_deg"]
    assert fovy["x"].tolist() == [24, 48, 84]
    assert fovy["n"].tolist() == [20, 24 + (played(5, 120)[0] <= 5).sum(), 20]
    assert fovy["mean"].iloc[[0, 2]].tolist() == [0, 0]
    assert halving.set_index("contender").loc["old", "halving_deg"] == np.inf
    assert "shell" not in set(pairs["cameras"])  # its cameras stand elsewhere in each episode
    az = pairs[pairs["cameras"] == "ring_360"]
    assert az[az["contender"] == "mine"]["n"].sum() == 120
    assert az[az["contender"] == "mine"]["k"].sum() == played(5, 120)[1].sum()
    assert "no elevation_deg, distance_m, fovy_deg, baseline_m in rows of old (10 of 10), which are left out" in said
    assert "one baseline_m in all rows of mine" in said
    assert "1 episodes crashed and are left out" in said
    assert "old: success 1.00 at a training camera, not halved within 45 degrees" in said
    assert re.search(r"mine: success 0\.\d\d at a training camera, half of it \d\d degrees from the nearest one", said)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert [name for name in pictures if not name.startswith("pairs")] == [
        f"{measure}_store_cereal-v1.png" for measure in ("gripper_cm", "miou", "success")
    ]
    # On the ring each camera n has one camera m.
    assert [name for name in pictures if name.startswith("pairs")] == ["pairs_store_cereal-v1_hemisphere16.png"]


def test_a_contender_keeps_its_colour_and_no_two_curves_look_alike() -> None:
    names = [f"policy {i}" for i in range(8)]
    looks = _looks([*names, "policy 0, novel views", "policy 0, novel views, stereo depth"])
    assert len(set(looks.values())) == len(looks)
    assert {look[0] for name, look in looks.items() if f"{name},".startswith("policy 0,")} == {looks["policy 0"][0]}
    assert len({looks[name][0] for name in names[:6]}) == 6


def test_what_is_not_alike_is_not_pooled(tmp_path: Path) -> None:
    run = [dataclasses.replace(ROW, seed=1000 + i, episode=i, view_angle_deg=10.0 * i) for i in range(4)]
    save(tmp_path / "moved" / "episodes.csv", [dataclasses.replace(row, views="vista_small") for row in run])
    other = [dataclasses.replace(row, run_id="e" * 16, settings="e" * 16) for row in run[:3]]
    save(tmp_path / "ring" / "episodes.csv", [dataclasses.replace(row, run_id="d" * 16) for row in run])
    save(tmp_path / "other options" / "episodes.csv", other)
    save_evaluation(tmp_path / "fixed")
    save_evaluation(tmp_path / "held_out", rooms="held_out")
    save_evaluation(tmp_path / "stereo", rooms="fixed", sensor="stereo")
    found = compute([tmp_path], tmp_path)
    assert found is not None
    assert set(found.pairs["cameras"]) == {"ring_360"}  # of cameras that move there is no matrix
    assert [note for note in found.notes if "with other options" in note] == [
        "store_cereal-v1: 3 episodes of mine stand there again, played with other options, and count as more of the "
        "same; give the folders of one choice of options"
    ]
    errors = found.curves[found.curves["measure"] == "gripper_cm"]
    assert errors.groupby("contender")["n"].sum().to_dict() == {
        "mine (cccccccc)": 24, "mine (cccccccc), held_out rooms": 24, "mine (cccccccc), stereo depth": 24,
    }  # fmt: skip


def test_nothing_to_draw_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["curves", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no episode and no window in" in capsys.readouterr().err
    assert cli.main(["curves", str(tmp_path), str(tmp_path / "gone"), "--out", str(tmp_path / "out")]) == 2
    assert f"there is no {tmp_path / 'gone'}; give" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
