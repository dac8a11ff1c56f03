"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) while a network is fine-tuned; checkpoints have none."""

from __future__ import annotations

from torch import Tensor, nn

from geo4d_bench.errors import ConfigError

RANK = 64
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(network: nn.Module, names: str) -> None:
    """Freeze all of a network, and add trained matrices of ``RANK``, whose product is zero at first, to its linear
    layers with a name that matches; ConfigError where peft is missing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("--tune lora needs peft, which is not installed; pip install 'geo4d-bench[svd]'") from None
    network.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), network)


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the adapters added to what they adapt, under the names that a network without them has."""
    plain = {}
    for name, value in weights.items():
        if name.endswith((_DOWN, _UP)):
            continue
        layer, base, rest = name.rpartition(_BASE)
        if base and rest == "weight":
            added = weights[layer + _UP].float() @ weights[layer + _DOWN].float()  # alpha is the rank: a scale of 1
            value = value + added.to(value)
        plain[name.replace(_BASE, ".")] = value
    return plain
