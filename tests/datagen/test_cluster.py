"""Jobs on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geo4d_bench.datagen import job
from geo4d_bench.datagen.redraw import render_dataset
from geo4d_bench.dataset.manifest import read_manifest
from geo4d_bench.errors import ConfigError, DatasetError, WorkerError
from geo4d_bench.evaluation import evaluate
from geo4d_bench.evaluation.evaluate import EvaluateConfig
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.pool import on_cluster
from geo4d_bench.rollout import rollout
from geo4d_bench.rollout.config import RolloutConfig
from geo4d_bench.rollout.ledger import WALL_TIME_COLUMNS

START = """
import signal, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the head node; the second node has one CPU too."""
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        yield nodes.stdout.readline().strip()
        nodes.stdin.close()
        assert nodes.wait(60) == 0


def test_both_nodes_work(address: str) -> None:
    def where(number: int) -> str:
        import time

        import ray

        time.sleep(1.0)  # long enough for the other node to be asked
        return f"{number} {ray.get_runtime_context().get_node_id()}"

    done = [answer.split() for answer in on_cluster(where, [1, 2, 3, 4], address)]
    assert sorted(number for number, _ in done) == ["1", "2", "3", "4"]
    assert len({node for _, node in done}) == 2


def test_an_error_on_a_node_arrives_as_it_was(address: str) -> None:
    def fail(number: int) -> str:
        from geo4d_bench.errors import DatasetError

        raise DatasetError(f"ep_{number}: the disk is full")

    with pytest.raises(DatasetError, match=r"^ep_7: the disk is full$"):
        list(on_cluster(fail, [7], address))


def test_a_process_that_dies_again_and_again_is_told(address: str) -> None:
    def die(_: int) -> str:
        import os

        os.abort()

    with pytest.raises(WorkerError, match=r"died again and again.*run the same command again"):
        list(on_cluster(die, [0], address))


def test_nodes_with_other_source_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geo4d_bench.pool.fingerprint", lambda: "0123456789abcdef")

    def work(_: int) -> str:
        return ""

    with pytest.raises(WorkerError, match=r"node .* this machine 0123456789abcdef: install the same release"):
        list(on_cluster(work, [0], address))


def test_the_dataset_is_the_same_to_the_byte(address: str, tmp_path: Path, tiny_dataset: Any) -> None:
    settings = read_manifest(tiny_dataset.train).settings
    made = job.make_dataset(tmp_path / "there", settings, 2, cluster=address)
    assert made.made == 2
    for folder in ("episodes", "scenes", "hands"):
        files = sorted(path.name for path in (tiny_dataset.train / folder).iterdir())
        assert files == sorted(path.name for path in (tmp_path / "there" / folder).iterdir())
        for name in files:
            assert (tmp_path / "there" / folder / name).read_bytes() == (
                tiny_dataset.train / folder / name
            ).read_bytes()
    again = render_dataset(tmp_path / "there", tmp_path / "again", settings, cluster=address)
    assert again.made == 2
    assert job.make_dataset(tmp_path / "there", settings, 2, cluster="1.2.3.4:5").made == 0  # there is nothing to do


def test_what_is_missing_is_said(tmp_path: Path, tiny_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_manifest(tiny_dataset.train).settings
    with pytest.raises(ConfigError, match=r"--cluster 127.0.0.1:9: no Ray cluster .* 'ray start --head'"):
        job.make_dataset(tmp_path / "out", settings, 1, cluster="127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'geo4d-bench\[cluster\]'"):
        job.make_dataset(tmp_path / "out", settings, 1, cluster="auto")
    with pytest.raises(DatasetError, match=r"ep_000000.hdf5 was finished .* --out must lie where all nodes see it"):
        job.require_here(tmp_path / "out", "ep_000000.hdf5", patience_s=0.1)


def test_episodes_and_windows_are_the_same_from_a_cluster(address: str, tiny_dataset: Any, tmp_path: Path) -> None:
    def rows(path: Path, without: tuple[str, ...]) -> list[dict[str, str]]:
        with path.open() as file:
            return [{k: v for k, v in row.items() if not k.endswith(without)} for row in csv.DictReader(file)]

    played = RolloutConfig(policy="expert", episodes=1, workers=1, out=tmp_path / "here")
    rollout.run(played)
    rollout.run(dataclasses.replace(played, cluster=address, out=tmp_path / "there"))
    here, there = (rows(tmp_path / name / "episodes.csv", WALL_TIME_COLUMNS) for name in ("here", "there"))
    assert here == there
    assert (tmp_path / "there" / "trajectories" / "1000.npz").is_file()

    checkpoint = tmp_path / "checkpoint"
    LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1).build().save_pretrained(
        checkpoint
    )
    scored = EvaluateConfig(
        checkpoint=checkpoint, data=tiny_dataset.eval, views="novel", windows=1, workers=1, out=tmp_path / "a"
    )
    evaluate.run(scored)
    evaluate.run(dataclasses.replace(scored, cluster=address, out=tmp_path / "b"))
    assert rows(tmp_path / "a" / "windows.csv", ("_ms",)) == rows(tmp_path / "b" / "windows.csv", ("_ms",))
