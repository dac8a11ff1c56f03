"""A training whose weights, gradients and moments several processes share out (FSDP), each holding a part of every one.

Before a layer computes, its weights are gathered, and let go after it; in the backward pass too.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from geo4d_bench.model.base import Generator


def shard(model: nn.Module, generator: Generator[Any], bf16: bool) -> None:
    """Share out the trained weights of ``model``, whose forward pass is the loss of ``generator``, in place. What is
    frozen stays whole in every process. Gradients come out as means over the processes, as with
    ``DistributedDataParallel``."""
    mesh = init_device_mesh(next(generator.parameters()).device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    frozen = {p for p in generator.parameters() if not p.requires_grad}
    # A residual block's output is a view; nothing writes into it.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for part in (*generator.layers(), model):
        fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=frozen)


def without_weights(generator: Generator[Any]) -> Generator[Any]:
    """A copy whose parameters are on the meta device, to be filled for a validation: it takes no memory."""
    empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in generator.parameters()}
    return copy.deepcopy(generator, empty)
