"""``leaderboard compare`` and ``leaderboard plan``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from episode_rows import ledger

from geo4d_bench import cli
from geo4d_bench.errors import ConfigError, LedgerError
from geo4d_bench.evaluation.statistics import fisher_exact, mcnemar_exact, mcnemar_power, paired_difference
from geo4d_bench.model.checkpoint import checkpoint_sha256
from geo4d_bench.rollout import compare, leaderboard, plan
from geo4d_bench.rollout.compare import CompareConfig
from geo4d_bench.rollout.leaderboard import LeaderboardConfig
from geo4d_bench.rollout.plan import PlanConfig


def compared(a: Path | str, b: Path | str, runs: Path = Path("nowhere"), sequential: bool = False) -> compare.Compared:
    return compare.run(CompareConfig(str(a), str(b), runs, sequential))


def test_two_runs_are_compared_on_equal_seeds(tmp_path: Path) -> None:
    a, b = ledger(tmp_path, "good", 15), ledger(tmp_path, "bad", 5)
    (found,) = compared(a, b).comparisons
    assert (found.k, found.n) == ((15, 5), (20, 20))
    assert found.difference == paired_difference(10, 0, 20)
    assert found.p == mcnemar_exact([True] * 10, [False] * 10)
    text = str(compared(a, b))
    assert "A 15 of 20 (0.75), B 5 of 20 (0.25)" in text
    assert "A - B = +0.500" in text
    assert "p = 0.002 (exact McNemar on 20 equal seeds)" in text
    assert "A alone solved 10 of the 20 episodes, B alone 0" in text


def test_policies_and_checkpoints_are_found_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger(tmp_path, "good", 15, checkpoint="ab12" * 16)
    ledger(tmp_path, "bad", 5)
    for name in ("good", "ab12ab12"):
        assert cli.main(["leaderboard", "compare", name, "bad", "--runs", str(tmp_path)]) == 0
        assert "A: good (ab12ab12)" in capsys.readouterr().out
    assert cli.main(["leaderboard", "compare", "godo", "bad", "--runs", str(tmp_path)]) == 2
    assert "'godo' is neither a file or folder nor a policy or checkpoint" in capsys.readouterr().err


def test_episodes_of_one_alone_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    found = compared(ledger(tmp_path, "good", 15), ledger(tmp_path, "bad", 5, n=12))
    assert found.comparisons[0].n == (12, 12)
    assert "8 episodes whose seed only one of them has are left out" in str(found)


def test_other_seeds_are_compared_unpaired_by_name(tmp_path: Path) -> None:
    a, b = ledger(tmp_path, "good", 15), ledger(tmp_path, "bad", 5, first=9000)
    (found,) = compared(a, b).comparisons
    assert found.p == fisher_exact((15, 5), (20, 20))
    assert "Fisher's exact test, not paired" in str(compared(a, b))
    with pytest.raises(LedgerError, match="no seed in common, and --sequential needs paired episodes"):
        compared(a, b, sequential=True)


def test_several_boards_are_corrected_together(tmp_path: Path) -> None:
    for views in ("seen", "novel"):
        ledger(tmp_path / views, "good", 12, views=views, run_id=f"good{views}")
        ledger(tmp_path / views, "bad", 6, views=views, run_id=f"bad{views}")
    ledger(tmp_path / "orbit", "good", 12, views="orbit", run_id="orbit")
    found = compared("good", "bad", tmp_path)
    p = mcnemar_exact([True] * 6, [False] * 6)
    assert [(each.p, each.p_holm) for each in found.comparisons] == [(p, 2 * p)] * 2
    assert "left out, as only A was played there: store_cereal-v1, orbit views" in str(found)


def test_one_policy_is_compared_between_cameras(tmp_path: Path) -> None:
    a, b = ledger(tmp_path / "s", "mine", 15, views="seen", run_id="other"), ledger(tmp_path / "n", "mine", 5)
    found = compared(a, b)
    assert found.comparisons[0].difference.value == 0.5
    assert "equal seeds are equal starts of the scene" in str(found)


REFUSED = {
    "the same": ({}, {}, "have 20 episodes in common; name two runs that share none"),
    "another version": ({}, {"task_version": "v2"}, "expected one task and version in common"),
    "crashes": ({}, {"status": "crash", "success": False, "views": "seen"}, "has 20 crashed episodes"),
}


@pytest.mark.parametrize(("left", "right", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, left: dict[str, str], right: dict[str, str], sentence: str
) -> None:
    a, b = ledger(tmp_path / "a", "mine", 3, **left), ledger(tmp_path / "b", "mine", 3, **right)
    with pytest.raises(LedgerError, match=sentence):
        compared(a, b)


def test_a_run_is_not_compared_with_what_holds_it(tmp_path: Path) -> None:
    novel = ledger(tmp_path / "n", "mine", 5)
    ledger(tmp_path / "s", "mine", 15, views="seen", run_id="other")
    with pytest.raises(LedgerError, match="have 20 episodes in common"):
        compared("mine", novel, tmp_path)


def test_a_folder_of_several_policies_is_no_side(tmp_path: Path) -> None:
    ledger(tmp_path / "a", "mine", 3)
    ledger(tmp_path / "a", "other", 3)
    with pytest.raises(LedgerError, match=r"holds episodes of mine, perfect depth and of other, perfect depth"):
        compared(tmp_path / "a", ledger(tmp_path / "b", "mine", 4))


def test_a_sequential_comparison_says_when_to_stop(tmp_path: Path) -> None:
    close, far = ledger(tmp_path, "close", 17), ledger(tmp_path, "far", 2)
    good = ledger(tmp_path, "good", 20)
    assert "not decided after 20 episodes" in str(compared(good, close, sequential=True))
    text = str(compared(far, good, sequential=True))
    # From seed 1002 on all are B's: seven in a row have evidence of 26.8.
    assert "decided after 9 of 20 episodes, B is better: stop" in text
    assert "20 decides, error rate 0.05 however often one looks" in text


def training(folder: Path, seed: int, data: str = "d" * 64) -> str:
    """A checkpoint's folder; returns its sha256."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(f"{folder.name}{data}")
    run = {"run_id": "r", "settings": {"seed": seed, "data_sha256": data, "data": folder.name}}
    (folder / "run.json").write_text(json.dumps(run))
    return checkpoint_sha256(folder)


def methods(root: Path, data: str = "d" * 64) -> None:
    """Four training seeds of two policies."""
    for policy, successes in (("good", (14, 15, 16, 17)), ("bad", (8, 9, 10, 11))):
        for seed, k in enumerate(successes):
            name = f"{policy}_{seed}"
            checkpoint = training(root / f"rollout_{name}" / name, seed, data if seed == 0 else "d" * 64)
            ledger(
                root / f"rollout_{name}", policy, k, checkpoint=checkpoint, run_id=name.ljust(16, "0"), settings=name
            )


def test_several_checkpoints_are_training_seeds(tmp_path: Path) -> None:
    methods(tmp_path)
    found = compared("good", "bad", tmp_path)
    (made,) = found.comparisons
    assert list(map(len, made.checkpoints)) == [4, 4]
    assert made.p == pytest.approx(2 / 70)
    assert made.difference.value == pytest.approx(0.3)
    assert made.difference.low < 0.3 < made.difference.high
    assert "(hierarchical bootstrap), " in str(found)
    assert "over episodes alone (Wilson); seeds: 0.70, 0.75, 0.80, 0.85" in str(found)
    assert "taken for training seeds" not in str(found)
    board = leaderboard.run(LeaderboardConfig((tmp_path,), tmp_path / "b.csv"))
    assert any(
        line.startswith("good as a method on store_cereal-v1, novel views of hemisphere16: 0.77")
        for line in board.notes()
    )
    with pytest.raises(LedgerError, match="name one checkpoint a side"):
        compared("good", "bad", tmp_path, sequential=True)


def test_several_checkpoints_are_compared_with_one_policy_that_is_not_trained(tmp_path: Path) -> None:
    methods(tmp_path)
    (made,) = compared("good", ledger(tmp_path / "other", "random", 2), tmp_path).comparisons
    assert list(map(len, made.checkpoints)) == [4, 1]
    assert made.p == pytest.approx(0.4)
    assert np.isnan(made.difference.low)
    assert "4 and 1 training seeds cannot reach a p below 0.4" in "".join(made.notes)


def test_methods_are_compared_on_the_episodes_that_all_checkpoints_played(tmp_path: Path) -> None:
    methods(tmp_path)
    late = ledger(tmp_path / "late", "late", 20, first=1010)
    found = compared("good", late, tmp_path)
    assert found.comparisons[0].n == (40, 10)
    assert "50 episodes whose seed not all checkpoints have are left out" in str(found)
    with pytest.raises(LedgerError, match="no seed was played by all checkpoints of A and B"):
        compared("good", ledger(tmp_path / "far", "far", 20, first=9000), tmp_path)


def test_notes_are_of_the_boards_that_are_compared(tmp_path: Path) -> None:
    for views in ("seen", "novel"):  # a checkpoint each, so no training seeds
        ledger(tmp_path / views, "mine", 12, views=views, run_id=views.ljust(16), checkpoint=views.ljust(64, "0"))
        ledger(tmp_path / views, "other", 6, views=views, run_id=f"o{views}".ljust(16))
    text = str(compared("mine", "other", tmp_path))
    assert "training seeds" not in text
    assert "A 12 of 20 (0.60, novel000), B 6 of 20 (0.30)" in text
    assert "A 12 of 20 (0.60, seen0000), B 6 of 20 (0.30)" in text


def test_episodes_of_other_options_are_not_pooled(tmp_path: Path) -> None:
    ledger(tmp_path / "a", "mine", 20, settings="1" * 16)
    ledger(tmp_path / "b", "mine", 0, settings="2" * 16, run_id="2" * 16, first=2000)
    with pytest.raises(
        LedgerError, match="'mine' holds episodes of one checkpoint that were played with other options"
    ):
        compared("mine", ledger(tmp_path / "c", "other", 5), tmp_path)


def test_trainings_that_differ_in_more_than_their_seed_are_no_method(tmp_path: Path) -> None:
    methods(tmp_path, data="e" * 64)
    text = str(compared("good", "bad", tmp_path))
    assert "differ in more than their seed: data_sha256" in text
    assert not leaderboard.run(LeaderboardConfig((tmp_path,), tmp_path / "b.csv")).methods


def test_few_training_seeds_are_said_to_be_few(tmp_path: Path) -> None:
    for policy, k in (("good", 20), ("bad", 0)):
        for seed in range(3):
            name = f"{policy}{seed}"
            ledger(tmp_path / f"{seed}", policy, k, checkpoint=name.ljust(64, "0"), settings=name, run_id=name)
    text = str(compared("good", "bad", tmp_path))
    assert "p = 0.1 (exact permutation of training seeds)" in text
    assert "3 and 3 training seeds cannot reach a p below 0.1" in text


def test_a_plan_has_the_power_that_was_asked_for() -> None:
    found = plan.run(PlanConfig(detect=0.2, success=0.5, discordant=0.4, seed_sd=0.05))
    rng = np.random.default_rng(0)
    draws = rng.multinomial(found.paired, [0.3, 0.1, 0.6], size=2000)
    detected = np.mean([mcnemar_exact([True] * b + [False] * c, [False] * b + [True] * c) <= 0.05 for b, c, _ in draws])
    assert detected == pytest.approx(0.8, abs=0.03)
    assert found.paired < found.unpaired
    assert found.training_seeds[500, True] <= found.training_seeds[20, True] <= found.training_seeds[20, False]
    n = found.unpaired
    wins = zip(*(rng.binomial(n, rate, size=2000).tolist() for rate in (0.5, 0.7)), strict=True)
    assert np.mean([fisher_exact(k, (n, n)) <= 0.05 for k in wins]) == pytest.approx(0.81, abs=0.025)
    text = str(found)
    assert f"{found.paired} episodes each" in text
    assert "assumed: 0.400 of equal seeds" in text


def test_a_plan_holds_for_larger_numbers_too() -> None:
    found = plan.run(PlanConfig(detect=0.2, success=0.4, discordant=1.0))
    powers = [mcnemar_power(n, 0.2, 1.0) for n in range(found.paired - 1, found.paired + 100)]
    assert powers[0] < 0.8 <= min(powers[1:])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"detect": 0.5, "success": 0.7}, "expected at most 1 together"),
        ({"detect": 0.2, "discordant": 0.1}, "expected at least --detect"),
        ({"detect": 0.001}, "expected at least 0.005"),
        ({"detect": 0.1, "success": 0.9, "discordant": 0.9}, r"expected at most 0\.1: no more can be solved by one"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PlanConfig(**options)
