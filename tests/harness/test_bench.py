"""Benchmarks write one ledger, line by line, with the reference beside the value."""

import csv
import math
from pathlib import Path

import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.harness.bench import BenchConfig, median_seconds, run


def test_medians_are_taken_after_the_warm_up_in_turns() -> None:
    calls: list[str] = []
    medians = median_seconds(5, lambda: calls.append("a"), lambda: calls.append("b"))
    assert len(medians) == 2
    assert calls == ["a", "b"] * 7


def test_rollout_speed_is_written_with_its_reference_and_replaced_when_measured_again(tmp_path: Path) -> None:
    (tmp_path / "bench.csv").write_text(
        "name,value,unit,reference,ratio,command\nother,1,ms,2,2,geo4d-bench bench rollout --task another\n"
    )
    for _ in range(2):
        result = run(BenchConfig("rollout", tmp_path, repeats=5))
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    of = "store_cereal-v1, 1 arm"
    names = [f"rollout control step, {of}", f"rollout reset, {of}", f"rollout control step with its expert, {of}"]
    assert [row["name"] for row in rows] == ["other", *names]  # another task's figures are kept
    assert {row["command"] for row in rows[1:]} == {"geo4d-bench bench rollout --task store_cereal"}
    for row in result.rows[:2]:
        assert row.value > 0
        assert math.isclose(row.ratio, row.reference / row.value)
    assert result.rows[2].value > 0


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(ConfigError, match="--repeats is 3"):
        BenchConfig("render", repeats=3)
