"""Configurations: what contradicts itself is refused, and what does not comes back from JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.generators import presets
from geo4d_bench.model.video.config import VideoConfig

UNET_DEBUG, DIT_DEBUG = presets().get("unet_debug"), presets().get("dit_debug")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 20}, "don't divide by 8, the side of the U-Net's largest cell"),
        ({"arms": 3}, "3 arms; its part labels are of at most 2"),
        ({"frames": 0}, "at least 1"),
        ({"condition_dropout": 1.0}, "condition_dropout and pure_noise_share in 0..1"),
        ({"unet": dataclasses.replace(UNET_DEBUG.unet, num_attention_heads=(1,))}, "2 block_out_channels, 1 num"),
        ({"unet": dataclasses.replace(UNET_DEBUG.unet, block_out_channels=(48, 64))}, "give multiples of 32"),
        (
            {"latent": "autoencoder", "width": 64, "height": 64},
            "projection_dim is 1024, the U-Net's cross_attention_dim 16",
        ),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(UNET_DEBUG, **change)


@pytest.mark.parametrize(
    "change", [{"width": 26}, {"heads": 3}, {"decoder_layers": 0}, {"patch": 0}, {"diffusion": "edm"}]
)
def test_contradictions_of_the_transformer_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"divide into patches of 4|all but trunk_layers|patch must be at least 1|rectified_flow"
    ):
        dataclasses.replace(DIT_DEBUG, **change)


@pytest.mark.parametrize("config", [presets().get("svd"), UNET_DEBUG, DIT_DEBUG])
def test_config_travels_as_json(config: VideoConfig) -> None:
    values = json.loads(config.to_json())
    assert values.pop("generator") == config.name
    assert type(config).from_values(values) == config
