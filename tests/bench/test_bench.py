"""Benchmarks write one ledger, line by line, with the reference beside the value."""

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geo4d_bench.bench import model as bench_model
from geo4d_bench.bench import profiling
from geo4d_bench.bench import scene as bench_scene
from geo4d_bench.bench.bench import WARM_UP, BenchConfig, median_seconds, run
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.types import FirstFrames


def test_medians_are_taken_after_the_warm_up_in_turns() -> None:
    calls: list[str] = []
    medians = median_seconds(5, lambda: calls.append("a"), lambda: calls.append("b"))
    assert len(medians) == 2
    assert calls == ["a", "b"] * 7


@pytest.fixture(autouse=True)
def one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks take all that there are, which here other tests use."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def test_rollout_speed_is_written_with_its_reference_and_replaced_when_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench.csv").write_text(
        "name,value,unit,reference,ratio,command\nother,1,ms,2,2,geo4d-bench bench rollout --task another\n"
    )
    monkeypatch.setattr(bench_scene, "_expert_step_ms", lambda task: 7.0)  # of a whole episode
    result = run(BenchConfig("rollout", tmp_path, repeats=5))
    monkeypatch.setattr(bench_scene, "rollout", lambda config: result.rows)
    run(BenchConfig("rollout", tmp_path, repeats=5))
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    of = "store_cereal-v1, 1 arm"
    names = [f"rollout control step, {of}", f"rollout reset, {of}", f"rollout control step with its expert, {of}"]
    assert [row["name"] for row in rows] == ["other", *names]  # another task's figures are kept
    assert {row["command"] for row in rows[1:]} == {"geo4d-bench bench rollout --task store_cereal"}
    for row in result.rows[:2]:
        assert row.value > 0
        assert math.isclose(row.ratio, row.reference / row.value)
    assert result.rows[2].value == 7.0


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(ConfigError, match="--repeats is 3"):
        BenchConfig("render", repeats=3)


class Recorder:
    """Stands where a generator does, and writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.batches: list[int] = []

    def generate(self, conditions: list[FirstFrames], seeds: list[int], steps: int, batch: int = 1) -> None:
        self.asked += [(len(first.K), steps) for first in conditions]
        self.batches.append(batch)


def pair(k: int) -> FirstFrames:
    """View n and a further view, told by its intrinsics."""
    K = np.stack([np.eye(3), k * np.eye(3)])
    return FirstFrames(
        np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.float32), K, None, np.zeros((1, 3)), np.zeros(1)
    )


def test_plans_are_measured_by_steps_by_views_and_by_episodes() -> None:
    by_steps, by_views = Recorder(), Recorder()
    assert set(bench_model.plan_seconds(by_steps, pair(2), 1)) == {1, 2, 4, 8, 25}
    assert by_steps.asked == [(2, steps) for steps in (1, 2, 4, 8, 25)] * (WARM_UP + 1)
    assert set(bench_model.view_seconds(by_views, [pair(k) for k in range(2, 9)], 1)) == {2, 3, 4, 8}
    assert by_views.asked == [(views, 1) for views in (2, 3, 4, 8)] * (WARM_UP + 1)
    together = Recorder()
    assert len(bench_model.batch_seconds(together, [pair(2)] * 3, 1)) == 2
    assert together.batches == [3, 1] * (WARM_UP + 1)


def test_a_training_step_is_measured_in_one_pass_and_in_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "BATCH", 2)
    one, four = bench_model.gradient_seconds("layered_debug", 3)
    assert 0 < one < four


def test_what_a_preset_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_model, "_PRODUCT", {"cpu": 1024})
    monkeypatch.setattr(bench_model, "STEPS", (1, 8))
    monkeypatch.setattr(bench_model, "computes_in_bf16", lambda device: True)  # on any processor: casts are launches
    preset = "dit_debug"
    result = run(BenchConfig("preset", tmp_path, repeats=5, preset=preset, batch_size=2, profile=True))
    trained, arithmetic, memory, waiting, computing, *profiled = result.rows[:-2]
    plans = result.rows[-2:]
    assert trained.name.startswith(f"train {preset} (16x24) on ")
    assert "batch 2" in trained.name
    assert trained.unit == "samples/s"
    assert trained.value > 0
    assert 0 < arithmetic.ratio < 1  # small matrices never reach what a large product does
    assert memory.unit == "GiB"
    assert 0.1 < memory.value < 1000
    assert waiting.name.startswith("waiting for made-up windows in a step, ")
    assert computing.name.startswith("computing in a step, ")
    assert 0 < waiting.value < computing.value
    assert [row.name.split(",")[0] for row in plans] == [
        "generate one plan of 1 step", "generate one plan of 8 steps",
    ]  # fmt: skip
    assert plans[0].value < plans[-1].value
    assert {row.command for row in result.rows} == {
        f"geo4d-bench bench preset --preset {preset} --batch-size 2 --device cpu --profile"
    }
    operations, copied, per_layer = (
        next(row.value for row in profiled if row.name.startswith(name))
        for name in ("operations of a step", "bytes copied between host and device", "operations of a layer's forward")
    )
    families = [row for row in profiled if row.unit == "ms"]
    assert sum(int(row.name.split("(")[1].split()[0]) for row in families) == operations
    assert {row.name.split(" (")[0] for row in families} == {
        "attention", "convolutions", "matrix products", "norms and elementwise", "optimiser",
    }  # fmt: skip
    assert 10 < per_layer <= 15
    assert copied == 0


def test_where_memory_runs_out_a_line_says_so_and_the_next_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(bench_model, "STEPS", (1, 2))
    monkeypatch.setattr(bench_model, "_PRODUCT", {"cpu": 256})
    monkeypatch.setattr(bench_model.TrainingStep, "__call__", full)
    for _ in range(2):  # the file is read again
        result = run(BenchConfig("preset", tmp_path, repeats=5, preset="dit_debug", batch_size=2))
    assert len(result.rows) == 3
    assert re.search("(float32|bfloat16): out of memory", str(result))
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["name"].startswith("train dit_debug (16x24) on ")
    assert rows[0]["name"].endswith(": out of memory")
    assert [row["value"] != "" for row in rows] == [False, True, True]

    def wrong(self: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(bench_model.TrainingStep, "__call__", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(BenchConfig("preset", tmp_path, repeats=5, preset="dit_debug", batch_size=2))


def test_kernels_are_told_by_their_names() -> None:
    for name, family in (
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("fmha_cutlassB_bf16_aligned_64x64_k64_sm80", "attention"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_bf16", "convolutions"),
        ("Memcpy HtoD (Pinned -> Device)", "copies between host and device"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl>", "norms and elementwise"),
        ("void at::native::layer_norm_grad_input_kernel<float>", "norms and elementwise"),
        ("aten::addmm", "matrix products"), ("aten::addcmul", "norms and elementwise"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
    ):  # fmt: skip
        assert profiling.family_of(name) == family, name


def test_images_of_another_size_are_refused(tiny_dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="have 64 x 80 pixels, the preset's 16 x 24"):
        run(BenchConfig("preset", tmp_path, repeats=5, preset="dit_debug", data=tiny_dataset.train))
