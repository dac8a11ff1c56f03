"""Checkpoints: what is saved comes back, what is broken is named."""

from __future__ import annotations

import dataclasses
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic_windows import window

from geo4d_bench.errors import CheckpointError, ConfigError, UnknownNameError
from geo4d_bench.model.batch import frames_of_window
from geo4d_bench.model.checkpoint import checkpoint_sha256
from geo4d_bench.model.generators import find_config, load_generator, presets
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator

DEBUG = presets().get("layered_debug")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = LayeredGenerator(dataclasses.replace(DEBUG, point_mean_m=(0.1, -0.2, 0.9)))
        with torch.no_grad():
            for p in generator.parameters():
                p.add_(0.02 * torch.randn_like(p))
    generator.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_a_loaded_generator_generates_the_same(folder: Path, tmp_path: Path) -> None:
    first, again = load_generator(folder), tmp_path / "again"
    first.save_pretrained(again)
    second = load_generator(again)
    assert second.config == first.config
    assert second.config.point_mean_m == (0.1, -0.2, 0.9)
    frames = frames_of_window(window(0))
    (a,), (b,) = first.generate([frames], [4]), second.generate([frames], [4])
    for name in ("rgb", "points", "parts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert checkpoint_sha256(again) == checkpoint_sha256(folder)


def test_sha256_names_weights_and_config(folder: Path) -> None:
    before = checkpoint_sha256(folder)
    generator = load_generator(folder)
    with torch.no_grad():
        generator.predictor.camera.out.bias[0] += 1e-3
    generator.save_pretrained(folder)
    assert checkpoint_sha256(folder) != before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file; 'geo4d-bench train'"):
        load_generator(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_cut_off_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_generator(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html>", "is a web page, not the file"),
    ],
)
def test_what_passes_for_weights_is_named(folder: Path, content: bytes, message: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.safetensors: {message}"):
        load_generator(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["predictor.camera.out.bias"][0] = value
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"'predictor.camera.out.bias' has values that are not finite; train or"):
        load_generator(folder)


def test_weights_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dim": 64}))
    with pytest.raises(CheckpointError, match=r"does not fit config.json \(size mismatch for"):
        load_generator(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"height": 16}'])
def test_config_of_another_kind(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="train again with this version"):
        load_generator(folder)


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint_whole(folder: Path) -> None:
    before = checkpoint_sha256(folder)
    generator = load_generator(folder)
    with torch.no_grad():
        generator.predictor.camera.out.bias[0] += 1.0
    with files_no_larger_than(10_000), pytest.raises(CheckpointError, match=r"cannot be written .*free space"):
        generator.save_pretrained(folder)
    assert checkpoint_sha256(folder) == before
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_config_travels_as_json() -> None:
    values = json.loads(DEBUG.to_json())
    assert values.pop("generator") == "layered"
    assert LayeredConfig.from_values(values) == DEBUG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 60}, "don't divide into patches"),
        ({"heads": 5}, "does not divide into 5 heads"),
        ({"frames": 0}, "at least 1"),
        ({"dim": 33, "heads": 3}, "is not even"),
        ({"hand_dilation": -1}, "hand_dilation at least 0"),
        ({"pure_noise_share": 1.5}, "expected 0 to 1"),
        ({"point_scale_m": 0.0}, "must be positive"),
    ],
)
def test_contradictions_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DEBUG, **change)


def test_a_misspelt_preset_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'layered_nano'"):
        presets().get("layered_nan")


@pytest.mark.parametrize("preset", ["layered_nano", "unet_nano"])
def test_a_config_is_found_by_name_or_in_a_file(preset: str, tmp_path: Path) -> None:
    changed = dataclasses.replace(find_config(preset), patch=4)
    (tmp_path / "mine.json").write_text(changed.to_json())
    assert find_config(str(tmp_path / "mine.json")) == changed != find_config(preset)
    with pytest.raises(ConfigError, match=r"theirs.json: cannot be read \(No such file"):
        find_config(str(tmp_path / "theirs.json"))
    for name, wrong in (
        ("height", "64"),
        ("patch", 0),
        ("frames", 3.5),
        ("point_mean_m", None),
        ("point_mean_m", 0.5),
        ("sensor", True),
        ("diffusion", "ddpm"),
        ("latent", "tokens"),
    ):
        (tmp_path / "mine.json").write_text(json.dumps(json.loads(changed.to_json()) | {name: wrong}))
        with pytest.raises(ConfigError, match=rf"mine.json: .*{name}"):
            find_config(str(tmp_path / "mine.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken.json: is not JSON"):
        find_config(str(tmp_path / "broken.json"))


def test_a_gpu_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        load_generator(folder, "cuda")
    assert next(load_generator(folder).parameters()).device.type == "cpu"
