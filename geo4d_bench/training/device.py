"""What a device can do, and how much memory it took."""

from __future__ import annotations

import resource
import sys

import torch


def computes_in_bf16(device: torch.device, precision: str = "auto") -> bool:
    """Whether to compute in bfloat16: emulated, it would be slower than float32."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peak_mib(device: torch.device) -> float:
    """The most memory that this process has held: of the GPU where it has one, else of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
