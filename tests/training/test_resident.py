"""Batches of frames that are held in memory are those that the processor makes of windows; a GPU is played here."""

import csv
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import psutil
import pytest
import torch
from no_waiting import NoWaiting

from geo4d_bench.dataset.reader import EpisodeFile
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.model.generators import presets
from geo4d_bench.training import resident, trainer
from geo4d_bench.training.data import make_batch
from geo4d_bench.training.resident import ResidentWindows, hold_frames, stored_bytes
from geo4d_bench.training.train import TrainConfig, run

CPU, GPU = torch.device("cpu"), SimpleNamespace(type="cuda")


class Tiny(Protocol):
    train: Path
    eval: Path


@pytest.fixture
def moving_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every episode has cameras of its own, as where a rig draws them."""
    K, T_world_cam = EpisodeFile.K, EpisodeFile.T_world_cam

    def turned(file: EpisodeFile, camera: str) -> Any:
        angle = 0.1 * int(file.name[-1])
        T = np.eye(4)
        T[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        return T_world_cam(file, camera) @ T

    zoom = np.diag([1.1, 1.1, 1.0])
    monkeypatch.setattr(
        EpisodeFile, "K", lambda file, camera: K(file, camera) @ zoom if file.name[-1] == "1" else K(file, camera)
    )
    monkeypatch.setattr(EpisodeFile, "T_world_cam", turned)


@pytest.mark.usefixtures("moving_cameras")
@pytest.mark.parametrize("home", [CPU, GPU])
@pytest.mark.parametrize(
    ("sensor", "both_poses"), [("perfect", False), ("stereo", True), ("estimated", False), ("estimated", True)]
)
def test_a_batch_is_the_same(tiny_dataset: Tiny, sensor: Any, both_poses: bool, home: Any) -> None:
    windows = Windows([tiny_dataset.train, tiny_dataset.eval], sensor=sensor, both_poses=both_poses)
    held = ResidentWindows(windows, CPU)
    held.home = home
    for step, further in ((0, 0), (7, 2)):
        given = {"size": 6, "seed": 3, "step": step, "part": (1, 2), "further": further}
        numbers = held.numbers(**given)
        if home is GPU and sensor == "perfect":
            assert max(v[0].nbytes for v in numbers.values()) == 64 * 80  # the hand's mask; no image
        made, expected = held.batch(numbers), make_batch(windows, **given)
        assert made.keys() == expected.keys()
        for name, true in expected.items():
            assert made[name].dtype == true.dtype
            if name == "points":
                assert torch.equal(made[name][:, 0], true[:, 0])
                torch.testing.assert_close(made[name], true, rtol=0, atol=1e-6)
            else:
                assert torch.equal(made[name], true), name
    assert len(held._masks) == (len({*held._masks}) if sensor == "perfect" else 0)


def test_making_a_batch_never_waits_for_the_device(tiny_dataset: Tiny) -> None:
    held = ResidentWindows(Windows(tiny_dataset.train), CPU)
    held.home = GPU  # type: ignore[assignment]
    numbers = {k: v.to("meta") for k, v in held.numbers(2, seed=0, step=0).items()}
    held.rgb, held.depth, held.parts = (x.to("meta") for x in (held.rgb, held.depth, held.parts))
    with NoWaiting():
        assert {v.device.type for v in held.batch(numbers).values()} == {"meta"}


def test_frames_are_held_where_there_is_room(tiny_dataset: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(tiny_dataset.train)
    need = stored_bytes(windows)
    assert need == 6 * 64 * 80 * 2 * sum(len(e.steps) for e in windows.datasets[0].episodes)
    free = {"gpu": 4 * need, "host": 5 * need}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["gpu"], 10 * need))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free["host"]))
    monkeypatch.setattr(resident, "ResidentWindows", lambda windows, home: home)
    assert hold_frames(windows, GPU, 1) is GPU  # type: ignore[arg-type, comparison-overlap]
    free["gpu"] -= 4
    assert hold_frames(windows, GPU, 1) == CPU  # type: ignore[arg-type, comparison-overlap]
    assert hold_frames(windows, GPU, 2) is None  # type: ignore[arg-type]
    assert hold_frames(windows, CPU, 1) is None


def test_a_training_on_held_frames_is_the_same(
    tiny_dataset: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, preset = [], tmp_path / "small.json"
    c = dataclasses.replace(presets().get("dit_debug"), height=64, width=80, frames=10, patch=16)
    preset.write_text(c.to_json())
    for name in ("windows", "held"):
        if name == "held":
            monkeypatch.setattr(trainer, "hold_frames", lambda source, device, processes: ResidentWindows(source, CPU))
        run(
            TrainConfig(
                data=tiny_dataset.train, preset=str(preset), steps=3, batch_size=2, out=tmp_path / name, threads=1,
                val_windows=0, n_validations=1, precision="fp32", workers=1 if name == "held" else 0,
            )
        )  # fmt: skip
        with (tmp_path / name / "training_log.csv").open() as file:
            logs.append(np.array([float(row["loss"]) for row in csv.DictReader(file)]))
    np.testing.assert_allclose(*logs, rtol=1e-4)
