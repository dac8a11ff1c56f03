"""Checkpoints in files of a limited size: what comes back, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from geo4d_bench.cli import main
from geo4d_bench.errors import CheckpointError
from geo4d_bench.model.checkpoint import checkpoint_sha256
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.shards import join, split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        presets().get("layered_debug").build().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_shards_come_back_as_the_checkpoint(
    folder: Path, tmp_path: Path, bf16: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, back, mib = tmp_path / "shards", tmp_path / "back", 0.75 if bf16 else 1.25
    options = ["--max-mib", str(mib), *(["--bf16"] if bf16 else [])]
    assert main(["checkpoint", "split", str(folder), "--out", str(shards), *options]) == 0
    files = sorted(shards.iterdir())
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) <= mib * 2**20
    assert main(["checkpoint", "join", *map(str, reversed(files)), "--out", str(back)]) == 0
    assert f"checkpoint: {back}" in capsys.readouterr().out
    ours, theirs = load_file(back / "model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        expected = tensor.bfloat16().to(tensor.dtype) if bf16 and tensor.dtype == torch.float32 else tensor
        assert torch.equal(ours[name], expected), name
    assert load_generator(back).config == load_generator(folder).config
    assert (checkpoint_sha256(back) == checkpoint_sha256(folder)) is not bf16


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _rewrite(path: Path, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | changes)


def _foreign(path: Path) -> None:
    other = presets().get("layered_debug").build()
    other.save_pretrained(path.parent / "other")
    made = split(path.parent / "other", path.parent / "others", 1.25, bf16=False)
    shutil.copy(made[0], path)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "no whole safetensors file"),
        (_flip, "its tensors were changed after it was written; copy it again"),
        (lambda path: _rewrite(path, config="{}"), "its config was changed|of another checkpoint"),
        (lambda path: _rewrite(path, shards="9" * 30), "is no shard of 'geo4d-bench checkpoint split'"),
        (lambda path: save_file(load_file(path), path), "is no shard of 'geo4d-bench checkpoint split'"),
        (_foreign, "is of another checkpoint than"),
        (lambda path: shutil.copy(path.with_name(path.name.replace("00001-", "00002-")), path), "is shard 2, as .* is"),
    ],
    ids=["missing", "cut off", "flipped bit", "other config", "absurd count", "no metadata", "foreign", "doubled"],
)
def test_broken_shards_are_refused(folder: Path, tmp_path: Path, fault: Callable[[Path], object], error: str) -> None:
    shards = split(folder, tmp_path / "shards", 1.25, bf16=False)
    fault(shards[0])
    with pytest.raises(CheckpointError, match=error):
        join(shards, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_what_cannot_be_split_or_joined_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="more than a shard of 1 MiB takes; give a larger --max-mib"):
        split(folder, tmp_path / "a", 1, bf16=False)
    shards = split(folder, tmp_path / "b", 16, bf16=False)
    with pytest.raises(CheckpointError, match="is there already; remove it"):
        split(folder, tmp_path / "b", 16, bf16=True)
    with pytest.raises(CheckpointError, match="is there already; give another --out"):
        join(shards, folder)
    with pytest.raises(CheckpointError, match="no shards"):
        join((), tmp_path / "c")
    several = split(folder, tmp_path / "d", 1.25, bf16=False)
    with pytest.raises(CheckpointError, match=rf"of its {len(several)} shards, 1 is missing"):
        join(several[1:], tmp_path / "c")
