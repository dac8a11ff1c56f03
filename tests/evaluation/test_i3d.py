"""I3D in the layout of ``pytorch-i3d``, on random weights: no real ones are to be had offline."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.evaluation.frechet import extractors
from geo4d_bench.evaluation.i3d import I3D, Unit3D

UNITS = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"] + [
    f"Mixed_{m}.{b}"
    for m in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
    for b in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
]
NAMES = {
    f"{unit}.{name}"
    for unit in UNITS
    for name in ("conv3d.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
} | {"logits.conv3d.weight", "logits.conv3d.bias"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random tensors under the port's names, without the counters that its old files lack."""
    torch.manual_seed(0)
    gain = 6**0.5  # from torch's initialisation to He's, with which signals survive many layers
    tensors = {k: v.clone() for k, v in I3D().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert tensors.keys() == NAMES
    tensors |= {k: v * gain for k, v in tensors.items() if k.endswith("conv3d.weight")}
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file(tensors, path)
    return path


def video(frames: int = 10) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)


def test_features_are_the_logits_of_the_file_given(weights: Path, tmp_path: Path) -> None:
    own, fvd = extractors(weights)
    assert (own.metric, fvd.metric) == ("frechet_derivatives", "fvd")
    assert fvd.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    logits = fvd.features(video())
    assert (logits.shape, logits.dtype) == ((400,), np.float32)
    assert np.abs(logits - fvd.features(video()[::-1].copy())).max() > 1e-6  # it sees time

    tensors = load_file(weights)
    tensors["logits.conv3d.bias"] += 1.0
    save_file(tensors, tmp_path / "moved.safetensors")
    moved = I3D.load(tmp_path / "moved.safetensors").features(video())
    np.testing.assert_allclose(moved, logits + 1.0, atol=1e-5)
    tensors["logits.conv3d.weight"].zero_()
    save_file(tensors, tmp_path / "constant.safetensors")
    constant = I3D.load(tmp_path / "constant.safetensors").features(video())
    np.testing.assert_allclose(constant, tensors["logits.conv3d.bias"].numpy(), atol=1e-6)


def test_padding_is_tensorflows() -> None:
    """Ones under a kernel of ones count the cells inside: 10 cells, kernel 7, stride 2 are padded by 2 and 3."""
    unit = Unit3D(1, 1, 7, stride=2, normalised=False)
    with torch.no_grad():
        unit.conv3d.weight.fill_(1.0)
        assert unit.conv3d.bias is not None
        unit.conv3d.bias.zero_()
        counted = unit(torch.ones(1, 1, 10, 10, 10))[0, 0]
    inside = torch.tensor([min(s + 7, 10) - max(s, 0) for s in range(-2, 8, 2)], dtype=torch.float32)
    torch.testing.assert_close(counted, inside[:, None, None] * inside[:, None] * inside)


def test_wrong_weights_are_one_sentence(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    path = tmp_path / "wrong.safetensors"
    save_file({k: v for k, v in tensors.items() if k != "Mixed_4d.b2b.bn.bias"}, path)
    with pytest.raises(CheckpointError, match=r"'Mixed_4d\.b2b\.bn\.bias' is missing"):
        I3D.load(path)
    save_file(tensors | {"logits.conv3d.bias": torch.zeros(600)}, path)
    with pytest.raises(CheckpointError, match=r"\(600,\), expected \(400,\)"):
        I3D.load(path)
    path.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="whole safetensors"):
        I3D.load(path)
    with pytest.raises(ConfigError, match="9 frames"):
        I3D.load(weights).features(video(8))
