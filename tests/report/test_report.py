"""The report tells what is there and names what is not."""

import re
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest

from geo4d_bench.errors import ConfigError, DatasetError, LedgerError
from geo4d_bench.evaluation import summary
from geo4d_bench.evaluation.scoring import METRICS
from geo4d_bench.report import figures, report
from geo4d_bench.rollout.ledger import EpisodeRow, Ledger

SUCCESSES = {"random": 0, "layered": 2, "oracle_video": 5, "oracle_pose": 6, "expert": 6}


def write_rollout(
    runs: Path, policy: str, views: str, successes: int, episodes: int = 6, steps: int = 0, checkpoint: str = ""
) -> Path:
    folder = runs / f"rollout_{policy}_{views}_{steps}{checkpoint[:2]}"
    folder.mkdir(parents=True)
    for seed in range(episodes):
        success = seed < successes
        row = EpisodeRow(
            run_id=f"{policy}-{views}-{steps}{checkpoint}", settings=f"{policy}-{views}-{steps}{checkpoint}",
            rig="hemisphere16", task="store_cereal", task_version="v1", policy=policy, generator="", ablation="none",
            checkpoint=checkpoint,
            views=views, camera_n="cam00", camera_m="cam05", view_angle_deg=0.0,
            sensor="perfect", tracker="", segmenter="", steps=steps,
            split="eval", seed=seed, episode=seed, status="success" if success else "timeout", success=success,
            phase="task" if success else "grasped",
            plans=3, control_steps=60, wall_s=1.0, generate_ms=0.0, track_ms=0.0,
            privileged=policy not in ("random", "layered"), fingerprint="f" * 16, commit="c" * 12,
        )  # fmt: skip
        Ledger(folder / "episodes.csv").append(row)
    return folder


def write_trajectory(path: Path) -> None:
    path.parent.mkdir(parents=True)
    executed = np.tile(np.eye(4), (61, 1, 1))
    executed[:, :3, 3] = np.linspace([0.4, -0.1, 1.2], [0.6, 0.2, 0.9], 61)
    plans = np.tile(np.eye(4), (3, 10, 1, 1))
    plans[:, :, :3, 3] = executed[np.minimum(np.array([0, 20, 40])[:, None] + 8 * np.arange(1, 11), 60), :3, 3]
    plans[2, 5:] = np.nan
    arrays = {
        "right/T_world_ee": executed,
        "right/plan_T_world_ee": plans,
        "plan_step": np.array([0, 20, 40]),
        "plan_time_s": np.array([[0.0], [1.0], [2.0]]) + 0.4 * np.arange(1, 11),
        "dt_s": np.array(0.05),
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_evaluation(folder: Path) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = []
    for views in ("seen", "novel"):
        for source, scale in (("copy_first_frame", 10.0), ("generated", 4.0), ("true_frames", 0.8)):
            for window in range(6):
                row = {"views": views, "source": source, "window": window, "episode": f"ep_{window // 2}"}
                row |= {name: float(rng.uniform()) for name in METRICS}
                row |= {"gripper_cm": scale + window, "generate_ms": 50.0, "track_ms": np.nan}
                row |= {name: scale * (t + 1) / 3 for t, name in enumerate(summary.frame_columns(3))}
                rows.append(row)
    windows = pd.DataFrame(rows)
    summary.by_source(windows).assign(split="eval").to_csv(folder / "metrics.csv", index=False)
    summary.by_frame(windows, 0.4).assign(split="eval").to_csv(folder / "gripper_error_by_frame.csv", index=False)
    iio.imwrite(folder / "generated_novel.png", rng.integers(0, 255, (160, 700, 3), dtype=np.uint8))


def write_training(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    n = 40
    held_out = ["" if i % 10 else f"{12 - i / 5:.2f}" for i in range(n)]
    log = {
        "step": range(1, n + 1),
        "seconds": np.arange(n) * 2.0,
        "loss": 3 / (1 + np.arange(n)),
        "held_out_cm": held_out,
    }
    pd.DataFrame(log).to_csv(folder / "training_log.csv", index=False)


def test_every_missing_part_is_named_with_its_command(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    result = report.run(report.ReportConfig(runs=tmp_path / "runs", data=tmp_path / "data"))
    commands = [gap.command.split()[1] for gap in result.gaps]
    assert sorted(commands) == ["datagen", "evaluate", "rollout", "rollout", "train"]
    text = result.page.read_text()
    assert all(gap.command in text for gap in result.gaps)
    assert result.pictures == ()
    assert result.board is None
    assert "<img" not in text


def test_neither_runs_nor_data_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="geo4d-bench datagen"):
        report.run(report.ReportConfig(runs=tmp_path / "no", data=tmp_path / "nothing"))


def test_a_full_report(tmp_path: Path, tiny_dataset: Any) -> None:
    runs = tmp_path / "runs"
    for policy, successes in SUCCESSES.items():
        for views in ("seen", "novel"):
            folder = write_rollout(runs, policy, views, max(0, successes - (views == "novel")))
            if policy == "layered":
                write_trajectory(folder / "trajectories" / "0.npz")
    write_evaluation(runs / "nano" / "evaluation")
    write_training(runs / "nano")
    result = report.run(report.ReportConfig(runs=runs, data=tiny_dataset.train))

    assert result.gaps == ()
    names = {p.name for p in result.pictures}
    assert {
        "cameras.png",
        "success.png",
        "gripper_error_nano.png",
        "generated_novel_nano.png",
        "training_nano.png",
    } <= names
    assert {"trajectory_layered_seen_success.png", "trajectory_layered_novel_success.png"} <= names
    for path in result.pictures:
        image = iio.imread(path)
        assert image.shape[1] > 600
        assert image.std() > 5  # something is drawn

    text = result.page.read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(links) == len(result.pictures) + 1
    assert all((result.page.parent / link).is_file() for link in links)
    board = pd.read_csv(result.page.parent / "leaderboard.csv")
    assert len(board) == 2 * len(SUCCESSES)
    layered = board[(board.policy == "layered") & (board.views == "novel")].iloc[0]
    assert (layered.k, layered.n) == (1, 6)
    assert "1 / 6" in text
    # oracle_video solves 5 of 6 seen episodes and layered 2 of them: three are lost by generating.
    assert "-50 (3 lost, 0 gained of 6)" in text
    # The mean of the gripper errors 4 ... 9 cm of the generated windows.
    assert "<td>6.5<br>" in text
    # The audit is a part of the page.
    assert "<h3>Shortcuts</h3>" in text
    assert "<code>blind</code> plays the average" in text
    assert "<code>geo4d-bench rollout --task store_cereal --policy blind" in text


def test_lacking_rungs_are_named(tmp_path: Path) -> None:
    write_rollout(tmp_path / "runs", "expert", "seen", 6)
    result = report.run(report.ReportConfig(runs=tmp_path / "runs", data=tmp_path / "data"))
    gap = next(g for g in result.gaps if "rungs" in g.what)
    assert "layered on novel views" in gap.what
    assert "expert on seen views" not in gap.what


def test_runs_with_another_number_of_steps_are_named_and_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charts = []
    monkeypatch.setattr(figures, "success_chart", lambda rows, path: charts.append(list(rows["label"])))
    runs = tmp_path / "runs"
    for policy, successes, steps in (("oracle_video", 6, 0), ("layered", 2, 0), ("layered", 5, 4), ("layered", 4, 1)):
        folder = write_rollout(runs, policy, "novel", successes, steps=steps)
        if steps:
            write_trajectory(folder / "trajectories" / "0.npz")
    result = report.run(report.ReportConfig(runs=runs, data=tmp_path / "data"))
    assert charts == [["oracle_video", "layered (4 steps)", "layered (1 step)", "layered"]]
    text = result.page.read_text()
    table = re.findall(r'<tr><td class="text novel">novel</td><td class="text">([^<]*)</td>', text)
    assert table == ["oracle_video *", "layered (4 steps)", "layered (1 step)", "layered"]
    for label in ("layered, novel views<", "layered, novel views, 4 steps<", "layered, novel views, 1 step<"):
        assert label in text
    # What is lost to generating, and the trajectories, are of the checkpoint's own steps.
    assert "-67 (4 lost, 0 gained of 6)" in text
    assert "a policy that plans by video" in text
    board = pd.read_csv(result.page.parent / "leaderboard.csv")
    assert list(zip(board.policy, board.steps, strict=True)) == [
        ("oracle_video", 0), ("layered", 4), ("layered", 1), ("layered", 0),
    ]  # fmt: skip


def test_checkpoints_of_one_policy_are_kept_apart(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_rollout(runs, "oracle_video", "novel", 6)
    for checkpoint, successes in (("a" * 64, 5), ("b" * 64, 0)):
        write_rollout(runs, "layered", "novel", successes, checkpoint=checkpoint)
    text = report.run(report.ReportConfig(runs=runs, data=tmp_path / "data")).page.read_text()
    table = re.findall(r'<tr><td class="text novel">novel</td><td class="text">([^<]*)</td>', text)
    assert table == ["oracle_video *", "layered (aaaaaaaa)", "layered (bbbbbbbb)"]
    assert "layered, novel views, aaaaaaaa<" in text
    for checkpoint, change in (
        ("aaaaaaaa", "-17 (1 lost, 0 gained of 6)"),
        ("bbbbbbbb", "-100 (6 lost, 0 gained of 6)"),
    ):
        assert re.search(rf"layered \({checkpoint}\).*?{re.escape(change)}", text, re.DOTALL)


def test_a_damaged_table_is_a_dataset_error(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "nano" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("something,else\n1,2\n")
    with pytest.raises(DatasetError, match="has no column 'views'"):
        report.run(report.ReportConfig(runs=tmp_path / "runs", data=tmp_path / "data"))


def test_a_damaged_trajectory_is_a_ledger_error(tmp_path: Path) -> None:
    folder = write_rollout(tmp_path / "runs", "layered", "novel", 2)
    write_trajectory(folder / "trajectories" / "0.npz")
    whole = (folder / "trajectories" / "0.npz").read_bytes()
    (folder / "trajectories" / "0.npz").write_bytes(whole[:-200])
    with pytest.raises(LedgerError, match="run that rollout again"):
        report.run(report.ReportConfig(runs=tmp_path / "runs", data=tmp_path / "data"))
