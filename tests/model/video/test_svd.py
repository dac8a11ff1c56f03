"""Loading Stable Video Diffusion: a small checkpoint of random weights in its layout."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from small_svd import save_small_svd
from synthetic_windows import window
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from geo4d_bench.errors import CheckpointError
from geo4d_bench.model.batch import batch_from_windows, frames_of_window
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.video.conditioning import ClipEmbedding
from geo4d_bench.model.video.generator import VideoGenerator

UNET_DEBUG = presets().get("unet_debug")
SVD = presets().get("svd")

CONFIG = dataclasses.replace(SVD, height=64, width=64, frames=3)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("svd")
    save_small_svd(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "svd"))


def test_the_networks_are_those_of_the_folder(whole: Path) -> None:
    generator = VideoGenerator.from_pretrained(whole, CONFIG)
    assert generator.config.unet.block_out_channels == (32, 64)
    assert generator.config.cell == 8
    stock = UNetSpatioTemporalConditionModel.from_pretrained(whole, subfolder="unet").state_dict()
    mine = generator.network.state_dict()
    for name, weight in stock.items():
        shared = name.startswith(("conv_in", "time_", "add_", "down_blocks", "mid_block"))
        for found in [name] if shared else [f"decoders.{view}.{name}" for view in range(2)]:
            assert torch.equal(mine[found], weight), found
    vae = AutoencoderKLTemporalDecoder.from_pretrained(whole, subfolder="vae").state_dict()
    for stream in (generator.codec.images, generator.codec.points):
        assert all(torch.equal(v, vae[k]) for k, v in stream.state_dict().items())
    clip = CLIPVisionModelWithProjection.from_pretrained(whole / "image_encoder").state_dict()
    assert all(torch.equal(v, clip[k]) for k, v in generator.embedding.encoder.state_dict().items())


def test_it_trains_generates_and_comes_back(whole: Path, tmp_path: Path) -> None:
    generator = VideoGenerator.from_pretrained(whole, CONFIG)
    loss = generator.loss(batch_from_windows([window(0, 64, 64)]), torch.Generator().manual_seed(0)).total
    loss.backward()
    trained = {k.split(".")[0] for k, p in generator.named_parameters() if p.grad is not None}
    assert trained == {"network"}
    generator.save_pretrained(tmp_path)
    again = load_generator(tmp_path)
    a, b = (g.eval().generate([frames_of_window(window(1, 64, 64))], [0], steps=2)[0] for g in (generator, again))
    assert (a.rgb == b.rgb).all()
    assert a.rgb.shape == (2, 3, 64, 64, 3)


def test_the_image_encoder_sees_what_clip_expects(whole: Path) -> None:
    generator = VideoGenerator.from_pretrained(whole, CONFIG)
    assert isinstance(generator.embedding, ClipEmbedding)
    # A picture of one colour is that colour at every size.
    first = torch.full((1, 8, 16, 24), 0.2)
    pixels = torch.tensor([(0.6 - m) / s for m, s in ((0.4, 0.2), (0.5, 0.3), (0.6, 0.4))]).view(1, 3, 1, 1)
    expected = generator.embedding.encoder(pixels.expand(-1, -1, 224, 224)).image_embeds
    torch.testing.assert_close(generator.embedding(first)[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(256, 320), (64, 80), (480, 200)])
@torch.no_grad()
def test_the_image_embedding_is_the_pipelines(whole: Path, height: int, width: int) -> None:
    embedding = VideoGenerator.from_pretrained(whole, CONFIG).embedding
    pipeline = StableVideoDiffusionPipeline(
        AutoencoderKLTemporalDecoder.from_pretrained(whole, subfolder="vae"),
        CLIPVisionModelWithProjection.from_pretrained(whole / "image_encoder"),
        UNetSpatioTemporalConditionModel.from_pretrained(whole, subfolder="unet"),
        EulerDiscreteScheduler.from_pretrained(whole, subfolder="scheduler"),
        CLIPImageProcessorPil.from_pretrained(whole / "feature_extractor"),
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)  # noise is what resizing changes most
    expected = pipeline._encode_image(Image.fromarray(image), "cpu", 1, False)
    first = torch.zeros(1, 8, height, width)
    first[0, :3] = torch.from_numpy(image).movedim(-1, 0) / 127.5 - 1.0
    torch.testing.assert_close(embedding(first), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", [
    "unet/config.json", "vae/config.json", "image_encoder/model.safetensors", "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json", "unet/diffusion_pytorch_model.safetensors",
])  # fmt: skip
def test_what_is_missing_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    part, file = missing.split("/")
    with pytest.raises(CheckpointError, match=rf"{part} cannot be read \(.*{file}.*; .* folder in diffusers' layout"):
        VideoGenerator.from_pretrained(folder, CONFIG)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no file named .*safetensors .*layout with safetensors"):
        VideoGenerator.from_pretrained(folder, CONFIG)


def test_cut_off_weights_are_named(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="vae cannot be read"):
        VideoGenerator.from_pretrained(folder, CONFIG)


def test_another_kind_of_checkpoint_is_refused(folder: Path) -> None:
    stock = UNetSpatioTemporalConditionModel.from_pretrained(folder, subfolder="unet")
    UNetSpatioTemporalConditionModel.from_config(dict(stock.config) | {"in_channels": 4}).save_pretrained(
        folder / "unet"
    )
    with pytest.raises(CheckpointError, match="unet has in_channels = 4, expected 8"):
        VideoGenerator.from_pretrained(folder, CONFIG)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "epsilon"}))
    with pytest.raises(CheckpointError, match="has prediction_type = 'epsilon', expected"):
        VideoGenerator.from_pretrained(folder, CONFIG)


@pytest.fixture
def cached(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of owner/small in the hub's cache, of a machine without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--owner--small", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(whole, repository / "snapshots" / commit))


# Of diffusers, about an argument that it passes to the hub itself.
OLD_ARGUMENT = pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument is deprecated:UserWarning")


@OLD_ARGUMENT
def test_a_hub_id_is_found_in_the_hubs_cache(whole: Path, cached: Path) -> None:
    local, hub = (VideoGenerator.from_pretrained(source, CONFIG) for source in (whole, "owner/small"))
    assert hub.config == local.config
    same = local.state_dict()
    loaded = {k: v for k, v in hub.state_dict().items() if "cross_view" not in k}
    assert all(torch.equal(v, same[k]) for k, v in loaded.items())
    (cached / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="owner/small: no such folder, and as a hub id its vae cannot be read"):
        VideoGenerator.from_pretrained("owner/small", CONFIG)


@OLD_ARGUMENT
@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("source", ["owner/other", "no/such/folder"])
def test_an_unknown_hub_id_is_named(source: str) -> None:
    message = (
        f"{source}: no such folder, and as a hub id its scheduler cannot be read .*give a hub id that can be reached"
    )
    with pytest.raises(CheckpointError, match=message):
        VideoGenerator.from_pretrained(source, CONFIG)


def test_a_preset_of_pixels_takes_no_pretrained_latents() -> None:
    with pytest.raises(CheckpointError, match="the preset's are pixels; choose --preset svd"):
        VideoGenerator.from_pretrained(Path(__file__).parent, UNET_DEBUG)
