"""A training's batch shared out among processes, each with its own GPU: what they must do as one.

Random numbers are drawn for the whole batch by every process, each of which uses its own rows, and weighted means have
one denominator, so that several processes compute what one would on the whole batch. In one process nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


def local_shard(draw: Callable[..., Tensor], shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """This process's rows of ``draw(whole shape, generator=rng)``, on the device of ``rng``; ``shape`` is that of its
    own part of a batch."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)
    whole = draw((count * shape[0], *shape[1:]), generator=rng, device=rng.device)
    return whole[rank * shape[0] : (rank + 1) * shape[0]]


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient; itself in one process."""
    if not _several():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
