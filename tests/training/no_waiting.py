"""Tells without a GPU whether a program would wait for it: on the meta device, which computes no values."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.masked_select, aten.equal, aten._linalg_check_errors,
    aten.linalg_matrix_exp, aten._unique2, aten.unique_dim, aten.bincount,
}  # fmt: skip
"""To read a value, to learn how large a result is, to tell of an error."""


class Waited(Exception):
    """A GPU would have been waited for."""


class NoWaiting(TorchDispatchMode):
    """Refuses what waits, and what takes a tensor from one device to another or mixes both: a copy from memory that is
    not pinned waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if func.overloadpacket in WAITS or len({x.device.type for x in tensors}) > 1:
            raise Waited(f"{func} of {[(x.device.type, tuple(x.shape)) for x in tensors]}")
        return out
