"""What a training takes of a GPU's memory, computed without one: its first step on the meta device, whose tensors have
shapes and no values, with every allocation counted until its end.

What a GPU takes besides is not counted: its context (about 0.5 GiB), workspaces of cuDNN, and gaps between allocations.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from geo4d_bench.bench.bench import BenchConfig, Measurement
from geo4d_bench.errors import ConfigError
from geo4d_bench.model.base import Generator
from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.generators import find_config
from geo4d_bench.training.data import AUXILIARY_WINDOWS

WEIGHTS, FROZEN, GRADIENTS, STATES, AVERAGES, GATHERED = (
    "weights, trained", "weights, frozen", "gradients", "optimiser states", "averaged weights", "weights gathered",
)  # fmt: skip
PARTS = (WEIGHTS, FROZEN, GRADIENTS, STATES, AVERAGES, GATHERED)
_GIB = 2**30
_MOMENTS = {"adamw": 8, "muon": 4}
"""Bytes of float32 moments for a weight."""
_EIGHT_BIT_BLOCK, _EIGHT_BIT_LEAST = 256, 4096
"""torchao's 8-bit moments: weights for one scale, and how many a tensor must have to be held so."""


def memory(config: BenchConfig) -> list[Measurement]:
    """GiB of each card, by what takes them when most is taken, for every way to train the preset there is."""
    c, cards = find_config(config.preset), config.cards
    if config.batch_size % cards:
        raise ConfigError(f"--batch-size {config.batch_size} cannot be shared out evenly among {cards} cards")
    ways: dict[str, dict[str, Any]] = {"": {"lean": c.needs_pretrained}}
    if c.needs_pretrained:
        ways = {
            "--precision fp32": {"bf16": False},
            "": {"lean": True},
            "without checkpointing": {"lean": True, "checkpointing": False},
            "--tune lora": {"lean": True, "lora": True},
        }
        if cards > 1:
            ways = {"--shard": {"lean": True, "cards": cards}}
    size = f"batch {config.batch_size // cards} a card"
    rows = []
    for way, options in ways.items():
        taken = budget(c, config.batch_size // cards, **options)
        on = f" on {cards} cards" if cards > 1 else ""
        name = f"memory of {f'{config.preset} {way}'.strip()}{on}, {size}"
        whole = sum(taken.values())
        named = {part: n for part, n in taken.items() if n > 0 and (part in PARTS or n >= 0.01 * whole)}
        named |= {"activations, all others": whole - sum(named.values()), "together": whole}
        rows += [Measurement(f"{name}: {part}", n / _GIB, "GiB") for part, n in named.items()]
    return rows


def budget(
    c: GeneratorConfig, batch_size: int, *, bf16: bool = True, lean: bool = False, lora: bool = False,
    checkpointing: bool = True, cards: int = 1,
) -> dict[str, int]:  # fmt: skip
    """Bytes of one card by what takes them, ``PARTS`` and activations by the layers that make them, at the moment of a
    training step when they are most.

    Args:
        batch_size: windows of this card.
        bf16: whether autocast computes in bfloat16.  lean: as the trainer saves memory with pretrained weights.
        lora: whether adapters are tuned.  checkpointing: as the config says, or not at all.
        cards: that share out what is trained (FSDP); 1 shares nothing.
    """
    if not checkpointing:
        changes: dict[str, Any] = {"gradient_checkpointing": False}
        c = dataclasses.replace(c, **changes)
    with torch.device("meta"):
        generator = c.build().to("meta")  # a few small tensors are made elsewhere
        if lora:
            generator.add_adapters()
    if lean:
        generator.halve_frozen()
    trained = [p for p in generator.parameters() if p.requires_grad]
    eight_bit = lean and not lora and cards == 1
    fixed = {
        STATES: sum(
            _moment_bytes(p.numel(), _MOMENTS[name], eight_bit and name == "adamw")
            for name, parameters in generator.optimizer_groups().items()
            for p in parameters
        ),
        AVERAGES: 0 if lean and cards == 1 else sum(p.nbytes for p in trained),
    }
    further = batch_size * AUXILIARY_WINDOWS if c.predicts_trajectory else 0
    batch = {k: v.to("meta") for k, v in fake_batch(c, batch_size, further).items()}
    live = _Live(generator)
    casting = _Casting(bf16)
    with mock.patch.object(torch, "autocast", casting.autocast), live.counting(), casting, live:
        total = generator.loss(batch, torch.Generator().manual_seed(0)).total
        # autograd's own door leaves the function mode, under which layers are to be computed anew
        _engine_run_backward((total,), (torch.ones_like(total),), False, False, (), True, accumulate_grad=True)
    taken = {WEIGHTS: 0, FROZEN: 0, GRADIENTS: 0, **live.most} | fixed
    if cards > 1:
        # At most a layer's weights, and ahead of their use those of the next, in the type that is computed in, and the
        # first one's gradient, whole, in that and in float32.
        bytes_each = 2 if bf16 else 4
        sizes = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in generator.layers()]
        rest = sum(p.numel() for p in trained) - sum(sizes)
        taken |= {part: taken[part] // cards for part in (WEIGHTS, GRADIENTS, STATES, AVERAGES)}
        taken[GATHERED] = bytes_each * rest + max(sizes) * (3 * bytes_each + 4)
    return {part: taken[part] for part in (*[p for p in PARTS if p in taken], *sorted(taken.keys() - set(PARTS)))}


def _moment_bytes(numel: int, each: int, eight_bit: bool) -> int:
    if not eight_bit or numel < _EIGHT_BIT_LEAST or numel % _EIGHT_BIT_BLOCK:
        return each * numel
    return 2 * (numel + 4 * numel // _EIGHT_BIT_BLOCK + 4 * 256)  # a byte each, scales, and a table of 256 values


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors on the meta device, by what they belong to, until nothing refers to them."""

    def __init__(self, generator: Generator[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator, self._label = generator, "activations, loss"
        self.now: Counter[str] = Counter()
        self.most: dict[str, int] = {}
        self._held: dict[int, tuple[str, int]] = {}
        for parameter in generator.parameters():
            self._see(parameter, WEIGHTS if parameter.requires_grad else FROZEN)
        for buffer in generator.buffers():
            self._see(buffer, FROZEN)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._see(tensor, self._label)
        return out

    def _see(self, tensor: Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        self._held[key] = (label, storage.nbytes())
        self.now[label] += storage.nbytes()
        weakref.finalize(storage, self._forget, key)
        if self.now.total() > sum(self.most.values()):
            self.most = dict(self.now)

    def _forget(self, key: int) -> None:
        label, size = self._held.pop(key)
        self.now[label] -= size

    def _is_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            key = parameter.grad.untyped_storage()._cdata
            label, size = self._held[key]
            self._held[key] = (GRADIENTS, size)
            self.now.update({label: -size, GRADIENTS: size})

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Know of each tensor which of the generator's parts made it."""
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        hooks: list[Any] = [
            p.register_post_accumulate_grad_hook(self._is_gradient)  # type: ignore[no-untyped-call]
            for p in trained
        ]
        for name, part in self.generator.named_modules():
            hooks.append(part.register_forward_pre_hook(functools.partial(self._in, _group(name))))
            hooks.append(part.register_forward_hook(functools.partial(self._in, _group(name.rpartition(".")[0]))))
        yield
        for hook in hooks:
            hook.remove()

    def _in(self, group: str, *_: object) -> None:
        """What is made from now on is that group's."""
        self._label = f"activations, {group}"


def _group(name: str) -> str:
    """Of a module's name what says where in the generator it is: ``network.decoders.1``."""
    parts = name.split(".")
    return ".".join(parts[: 3 if len(parts) > 2 and parts[2].isdigit() else 2]) or "loss"


class _Casting(TorchFunctionMode):
    """CUDA's autocast to bfloat16 for tensors on the meta device, which has none, and attention by a kernel that never
    holds a whole attention matrix."""

    low = frozenset({
        F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__,
        torch.bmm, torch.baddbmm, torch.addmm,
    })  # fmt: skip
    high = frozenset({
        F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, torch.exp, Tensor.exp, torch.pow,
        Tensor.pow, torch.sum, Tensor.sum, F.mse_loss, F.l1_loss, F.cross_entropy, F.normalize, torch.norm,
    })  # fmt: skip

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key, value = (self._cast(x, torch.bfloat16) for x in args[:3])
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        dtype = torch.bfloat16 if func in self.low else torch.float32 if func in self.high else None
        if dtype is not None:
            args = tuple(self._cast(x, dtype) for x in args)
            kwargs = {name: self._cast(x, dtype) for name, x in kwargs.items()}
        return func(*args, **kwargs)

    @contextmanager
    def autocast(self, device: str, dtype: torch.dtype | None = None, enabled: bool = True) -> Iterator[None]:
        """``torch.autocast``, which refuses the meta device, where a part of a loss leaves it."""
        before, self.enabled = self.enabled, self.enabled and enabled
        yield
        self.enabled = before

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        ours = self.enabled and isinstance(x, Tensor) and x.is_meta and x.is_floating_point()
        return x.to(dtype) if ours else x
