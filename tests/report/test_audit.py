"""``audit``: each diagnosis on episodes in which it is known what it should find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from episode_rows import ledger

from geo4d_bench import cli
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.model.checkpoint import checkpoint_sha256
from geo4d_bench.report import audit
from geo4d_bench.report.audit import AuditConfig, Section


def audited(folder: Path, data: Path | None = None) -> dict[str, Section]:
    found = audit.run(AuditConfig((folder,), data or folder / "data", folder / "audit.md"))
    page = (folder / "audit.md").read_text()
    for section in found.sections:
        assert section.markdown() in page
    return {section.title: section for section in found.sections}


def run(folder: Path, policy: str, k: int, n: int = 20, **changes: object) -> None:
    """Rows that differ from others by their settings, too."""
    name = "".join(map(str, (policy, *changes.values())))
    ledger(folder / name, policy, k, n, run_id=name, **{"settings": name} | changes)


def test_a_task_that_is_solved_without_looking_is_named(tmp_path: Path) -> None:
    run(tmp_path, "replay", 7, checkpoint="d" * 64)
    run(tmp_path, "blind", 0, n=80, checkpoint="d" * 64)
    run(tmp_path, "random", 0)
    run(tmp_path, "mine", 15, checkpoint="c" * 64)
    run(tmp_path, "mine", 9, task="other", checkpoint="c" * 64)
    found = audited(tmp_path)["Shortcuts"]
    verdicts = {row[1].split()[0]: row[-1] for row in found.rows}
    assert verdicts == {
        "replay": "solved without looking",
        "blind": "excluded",
        "random": "not excluded: play 80 episodes or more",
    }
    assert found.warnings == [
        "store_cereal-v1, fixed: replay succeeds in 7 of 20 episodes without looking: widen where things start"
    ]
    missing = dict(found.missing)
    assert len(missing) == 4
    assert missing["proprioception on store_cereal-v1, fixed"] == (
        "geo4d-bench rollout --task store_cereal --policy proprioception --episodes 80"
    )


def test_a_best_that_chance_explains_is_named(tmp_path: Path) -> None:
    run(tmp_path, "mine", 15)
    run(tmp_path, "close", 12)
    run(tmp_path, "far", 0, checkpoint="c" * 64)
    run(tmp_path, "expert", 20)
    found = audited(tmp_path)["Differences"]
    assert [(row[2].split()[0], row[4]) for row in found.rows] == [("close", "+0.15"), ("far", "+0.75")]
    best, single = found.warnings
    assert best.endswith("mine is best by its rate, but not shown to be better than close")
    assert "0 of 1 bests are shown" in found.about
    assert single.startswith("one checkpoint only, so that nothing is shown of the method")
    assert "far on store_cereal-v1" in single


def test_a_best_is_not_shown_to_be_better_than_what_it_was_never_played_against(tmp_path: Path) -> None:
    run(tmp_path, "mine", 20, n=20)
    run(tmp_path, "worse", 0)
    run(tmp_path, "elsewhere", 0, first=9000)
    found = audited(tmp_path)["Differences"]
    assert [row[2] for row in found.rows] == ["worse"]
    assert found.warnings == [
        "store_cereal-v1, novel, hemisphere16, fixed: mine is best by its rate, but not shown to be better than "
        "elsewhere (no seed in common)"
    ]
    assert "0 of 1 bests are shown" in found.about


def test_a_best_that_loses_on_equal_seeds_is_not_shown_to_be_better(tmp_path: Path) -> None:
    ledger(tmp_path / "a", "mine", 0, n=10, run_id="a", settings="s")
    ledger(tmp_path / "b", "mine", 40, n=40, first=3000, run_id="b", settings="s")
    run(tmp_path, "other", 10, n=40)
    found = audited(tmp_path)["Differences"]
    ((_, best, against, n, difference, _, p, _),) = found.rows
    assert (best, against, n, difference, float(p) < 0.05) == ("mine", "other", "10", "-1.00", True)
    assert found.warnings[0].endswith("not shown to be better than other")


def test_crashed_episodes_are_said_to_be_left_out(tmp_path: Path) -> None:
    run(tmp_path, "mine", 3, n=3)
    run(tmp_path, "gone", 0, n=2, status="crash", success=False)
    text = str(audit.run(AuditConfig((tmp_path,), tmp_path, tmp_path / "audit.md")))
    assert text.startswith("3 episodes, 1 runs; 2 crashed episodes are left out, run those rollouts again\n")


@pytest.mark.parametrize(("others", "warned"), [(10, True), (19, False)])
def test_seeds_and_cameras_that_are_fitted_are_named(tmp_path: Path, others: int, warned: bool) -> None:
    run(tmp_path, "mine", 20, views="seen", checkpoint="c" * 64, settings="s")
    run(tmp_path, "mine", others, views="novel", checkpoint="c" * 64)
    run(tmp_path, "mine", others, views="seen", checkpoint="c" * 64, settings="s", first=9000)
    # Played with other options: neither more of the same, nor evidence on seeds.
    run(tmp_path, "mine", 0, n=15, views="seen", checkpoint="c" * 64, settings="t", first=5000)
    found = audited(tmp_path)
    seeds, cameras = found["Overfitting of seeds"], found["Overfitting of cameras"]
    assert [row[0] for row in seeds.rows] == ["store_cereal-v1, seen, hemisphere16, fixed"]
    assert [row[2:6] for row in seeds.rows] == [["1000", "20 / 20", "9000", f"{others} / 20"]]
    assert [row[2:6] for row in cameras.rows] == [["novel", "20 / 20", f"{others} / 20", "20"]]
    assert bool(seeds.warnings) == bool(cameras.warnings) == warned
    (what, command), (_, other) = sorted(seeds.missing)  # novel views and the other options have one first seed
    assert "novel views, with other seeds" in what
    assert "--views novel --rig hemisphere16 --seed 5000 --episodes 20" in command
    assert "--views seen --rig hemisphere16 --seed 9000 --episodes 15" in other


def test_the_best_of_many_equal_policies_is_not_called_better(tmp_path: Path) -> None:
    """Holm's correction is over all pairs: against the worst of 12 alone, chosen by its rate, p would pass."""
    draws = np.random.default_rng(3).random((12, 60)) < 0.5
    for name, won in zip("abcdefghijkl", sorted(draws.tolist(), key=sum), strict=True):
        for seed, success in enumerate(won):
            ledger(tmp_path / name, name, int(success), 1, 1000 + seed, episode=seed, run_id=name, settings=name)
    found = audited(tmp_path)["Differences"]
    least = min(float(row[6]) for row in found.rows)
    assert min(float(row[7]) for row in found.rows) == pytest.approx(min(1.0, least * 66), rel=0.05)


def test_the_command_that_fills_a_gap_names_all_that_is_unusual(tmp_path: Path) -> None:
    unusual = {"calibration_deg": 2.0, "calibration_cm": 1.0, "latency_s": 0.5, "tracker": "mine", "segmenter": "sam"}
    run(tmp_path, "mine", 3, checkpoint="c" * 64, sensor="stereo", steps=4, **unusual)
    for section in ("seeds", "cameras", "the room"):
        ((_, command),) = audited(tmp_path)[f"Overfitting of {section}"].missing
        assert command.endswith(
            "--episodes 20 --sensor stereo --steps 4 --tracker mine --segmenter sam --calibration-deg 2 "
            "--calibration-cm 1 --realtime 0.5 --checkpoint FOLDER --out FOLDER"
        )


@pytest.mark.parametrize(("others", "warned"), [(10, True), (19, False)])
def test_a_room_that_is_fitted_is_named(tmp_path: Path, others: int, warned: bool) -> None:
    run(tmp_path, "mine", 20, views="seen", checkpoint="c" * 64)
    run(tmp_path, "mine", others, views="seen", checkpoint="c" * 64, rooms="held_out")
    run(tmp_path, "mine", 20, views="novel", checkpoint="c" * 64)
    run(tmp_path, "mine", 0, views="novel", checkpoint="e" * 64, rooms="held_out")  # another checkpoint
    found = audited(tmp_path)["Overfitting of the room"]
    assert [row[:6] for row in found.rows] == [
        ["store_cereal-v1, seen", "mine (cccccccc)", "held_out", "20 / 20", f"{others} / 20", "20"]
    ]
    assert bool(found.warnings) == warned
    ((what, command),) = found.missing
    assert what == "mine (cccccccc), store_cereal-v1, novel views, in held_out rooms"
    assert "--views novel --rig hemisphere16 --rooms held_out --seed 1000 " in command


def test_what_a_checkpoint_was_trained_on_is_told(tmp_path: Path, tiny_dataset: object) -> None:
    data: Path = tiny_dataset.train  # type: ignore[attr-defined]
    dataset = Dataset(data)
    folder = tmp_path / "layered_nano"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    settings = {"seed": 3, "data_sha256": dataset.identity, "sensor": "perfect", "data": "x"}
    (folder / "run.json").write_text(json.dumps({"run_id": "r", "settings": settings}))
    seeds = [entry.seed for entry in dataset.manifest.episodes]
    run(tmp_path, "mine", 2, n=4, checkpoint=checkpoint_sha256(folder), split="train", first=seeds[0])
    run(tmp_path, "replay", 0, checkpoint=dataset.identity)
    run(tmp_path, "lost", 0, checkpoint="e" * 64)
    found = audited(tmp_path, data.parent)["Data"]
    told = {row[1].split()[0]: row for row in found.rows}
    assert told["mine"][2:] == ["3", str(data), "2", "tiny4", "fixed", "perfect", "train, 0", told["mine"][-1]]
    assert told["replay"][-1] == "0"
    assert int(told["mine"][-1]) >= 1
    trained_on, rig, unknown = found.warnings
    assert "was trained on" in trained_on
    assert "of the episodes that it is judged by" in trained_on
    assert "was trained on the rig tiny4" in rig
    assert unknown.startswith("origin unknown, no training or dataset is there: lost (eeeeeeee)")


def test_no_episodes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(tmp_path)]) == 2
    assert f"no episodes in {tmp_path}; 'geo4d-bench rollout' plays some" in capsys.readouterr().err
    run(tmp_path, "mine", 3)
    assert cli.main(["audit", str(tmp_path), str(tmp_path / "gone")]) == 2
    assert f"there is no {tmp_path / 'gone'}; give folders with rollouts" in capsys.readouterr().err
