"""Loading Stable Video Diffusion: a small checkpoint of random weights in its layout."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from safetensors.torch import load_file, save
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
    return Path(shutil.copytree(whole, tmp_path / "svd", copy_function=os.link))


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


UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
CLIP, CONFIG_FILE, PICTURES = "image_encoder/model.safetensors", "unet/config.json", "feature_extractor"


def rewrite(path: Path, content: bytes) -> None:
    """In place of a hard link to the session's file."""
    path.unlink()
    path.write_bytes(content)


def edit(path: Path, **changed: object) -> None:
    """Other tensors or JSON values; None takes one out."""
    if path.suffix == ".json":
        rewrite(path, json.dumps(json.loads(path.read_text()) | changed).encode())
    else:
        tensors = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changed.items()}
        rewrite(path, save({name: tensor for name, tensor in tensors.items() if tensor is not None}, {"format": "pt"}))


def halve(folder: Path, keep: bool = False) -> None:
    """All weights in half precision under the hub's names, in place of or beside the others, which are then spoilt."""
    for path in (folder / name for name in (UNET, VAE, CLIP)):
        half = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
        path.with_suffix(".fp16.safetensors").write_bytes(save(half, {"format": "pt"}))
        path.unlink()
        if keep:
            path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def shard(folder: Path) -> None:
    kinds = (UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, CLIPVisionModelWithProjection)
    for name, kind, size in zip(("unet", "vae", "image_encoder"), kinds, ("1MB", "1MB", "50KB"), strict=True):
        network = kind.from_pretrained(folder, subfolder=name)
        shutil.rmtree(folder / name)
        network.save_pretrained(folder / name, max_shard_size=size)


FORMS: dict[str, Callable[[Path], object]] = {
    "fp16 alone": halve, "fp16 beside pointers": lambda f: halve(f, keep=True), "sharded": shard,
    "SVD-XT": lambda f: edit(f / CONFIG_FILE, num_frames=25), "fp16 too": lambda f: (f / "vae" / "x.fp16.bin").touch(),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_folder_loads(folder: Path, whole: Path, form: Callable[[Path], object]) -> None:
    form(folder)
    found = VideoGenerator.from_pretrained(folder, CONFIG).state_dict()
    for part, name in ((UNET, "network.conv_in.weight"), (VAE, "codec.images.quant_conv.weight")):
        stored = load_file(whole / part)[name.removeprefix("network.").removeprefix("codec.images.")]
        assert torch.equal(found[name], stored) or torch.equal(found[name], stored.half().float())
        assert found[name].dtype == torch.float32


POINTER, PAGE = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\n<!DOCTYPE html><html>"
BIASES = torch.zeros(32)
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no U-Net config": (lambda f: (f / CONFIG_FILE).unlink(), "unet cannot be read .*config.json.*; give"),
    "no VAE config": (lambda f: (f / "vae/config.json").unlink(), "vae cannot be read .*config.json"),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler cannot be read"),
    "no picture config": (lambda f: (f / PICTURES / "preprocessor_config.json").unlink(), f"{PICTURES} cannot be"),
    "no CLIP": (lambda f: (f / CLIP).unlink(), "no file named model.safetensors"),
    "no folder": (lambda f: shutil.rmtree(f / "image_encoder"), "no folder 'image_encoder'; a checkpoint"),
    "pickled": (lambda f: (f / UNET).rename((f / UNET).with_suffix(".bin")), "pickled and never read; convert it: p"),
    "a shard missing": (lambda f: (shard(f), next((f / "unet").glob("*-00002*")).unlink()), "unet cannot .*-00002-of"),
    "cut off": (lambda f: rewrite(f / VAE, (f / VAE).read_bytes()[:-9]), f"{VAE}: not a whole .*; copy it again"),
    "empty": (lambda f: rewrite(f / UNET, b""), f"{UNET}: not a whole safetensors file"),
    "pointer": (lambda f: rewrite(f / UNET, POINTER), f"{UNET}: is a pointer of Git LFS.*'git lfs pull'"),
    "web page": (lambda f: rewrite(f / CLIP, PAGE), f"{CLIP}: is a web page"),
    "config is a web page": (lambda f: rewrite(f / CONFIG_FILE, PAGE), f"{CONFIG_FILE}: is a web page"),
    "config is no JSON": (lambda f: rewrite(f / CONFIG_FILE, b"{"), "config.json: is not JSON"),
    "config is a list": (lambda f: rewrite(f / CONFIG_FILE, b"[]"), "config.json: is no object of JSON"),
    "another config": (lambda f: edit(f / CONFIG_FILE, num_attention_heads=1), "num_attention_heads: Input"),
    "config contradicts": (lambda f: edit(f / CONFIG_FILE, block_out_channels="x"), "unet cannot be read"),
    "U-Net lacks one": (lambda f: edit(f / UNET, conv_in__bias=None), "of unet, 'conv_in.bias' is missing"),
    "VAE lacks one": (lambda f: edit(f / VAE, quant_conv__bias=None), "of vae, 'quant_conv.bias' is missing"),
    "CLIP lacks one": (lambda f: edit(f / CLIP, visual_projection__weight=None), "projection.weight' is missing"),
    "U-Net has more": (lambda f: edit(f / UNET, lora__up=BIASES), "of unet, there is 'lora.up', which the network"),
    "CLIP has more": (lambda f: edit(f / CLIP, lora__up=BIASES), "there is 'lora.up', which the network has not"),
    "U-Net's shape": (lambda f: edit(f / UNET, conv_in__bias=torch.ones(3)), r"'conv_in.bias' is \(3,\), expected \(3"),
    "CLIP's shape": (lambda f: edit(f / CLIP, visual_projection__weight=BIASES), r"weight' is \(32,\), expected \(1"),
    "not finite": (lambda f: edit(f / UNET, conv_in__bias=BIASES / 0), "'conv_in.bias' has values that are no"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_loaded_is_one_sentence(folder: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        VideoGenerator.from_pretrained(folder, CONFIG)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_too_high_or_too_low_is_told_the_right_one(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path, folder / "unet", folder.parent):
        with pytest.raises(CheckpointError, match=f"there is no folder 'scheduler'; give {folder}$"):
            VideoGenerator.from_pretrained(wrong, CONFIG)
    snapshot = tmp_path / "hub" / "models--owner--small" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    with pytest.raises(CheckpointError, match=f"give {snapshot}$"):
        VideoGenerator.from_pretrained(snapshot.parents[1], CONFIG)
    with pytest.raises(CheckpointError, match="is a file, expected a folder"):
        VideoGenerator.from_pretrained(snapshot / UNET, CONFIG)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (CONFIG_FILE, {"in_channels": 4}, "unet has in_channels = 4, expected 8"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "epsilon"},
            "has prediction_type = 'epsilon', expected",
        ),
    ],
)
def test_another_kind_of_checkpoint_is_refused(folder: Path, file: str, change: dict[str, Any], message: str) -> None:
    edit(folder / file, **change)
    if "in_channels" in change:
        edit(folder / UNET, conv_in__weight=torch.zeros(32, 4, 3, 3))
    with pytest.raises(CheckpointError, match=message):
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
