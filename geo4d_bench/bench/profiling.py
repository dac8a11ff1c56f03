"""Where a training step's time goes, by families of kernels, and what it launches, reads and writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from geo4d_bench.bench.bench import Measurement
from geo4d_bench.model import blocks
from geo4d_bench.model.video import dit

OPTIMISER, COPIES, OTHERS = "optimiser", "copies between host and device", "norms and elementwise"
FAMILIES = {
    COPIES: ("memcpy",),
    "convolutions": ("conv", "fprop", "dgrad", "wgrad"),
    "attention": ("attention", "flash", "fmha", "sdpa"),
    "matrix products": ("gemm", "gemv", "mm", "matmul", "nvjet", "cutlass", "splitk"),
}
"""Parts of the names of a family's kernels (NVIDIA's) or operations (torch's), tried in this order; what has none of
them is ``OTHERS``, and all that the optimisers do is ``OPTIMISER``."""
_STEPS = 3
_NO_KERNEL = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


def profiled(step: Callable[[], object], modules: nn.Module, device: torch.device, of: str) -> list[Measurement]:
    """Lines of a training ``step`` of ``modules``, which has been taken before; its optimisers' part is what
    ``record_function("optimiser")`` surrounds."""
    counted = Operations(modules)
    with FlopCounterMode(display=False) as arithmetic, as_on_a_gpu(), counted:
        step()
    with as_on_a_gpu():
        seconds, kernels = kernel_times(step, device)
    rows = [
        Measurement(f"arithmetic of a step of {of}", 1e-12 * arithmetic.get_total_flops(), "TFLOP"),
        Measurement(f"operations of a step of {of}, as on a GPU", counted.launches.total(), "operations"),
        Measurement(f"bytes read and written by them, {of}", 1e-9 * counted.bytes.total(), "GB"),
        Measurement(f"bytes copied between host and device in a step of {of}", 1e-6 * counted.bytes[COPIES], "MB"),
    ]
    if counted.layers:
        per_layer = counted.in_layers / counted.layers
        rows.append(Measurement(f"operations of a layer's forward pass, {of}", per_layer, "operations"))
    if device.type == "cuda":
        rows.append(Measurement(f"kernels launched in a step of {of}", sum(kernels.values()), "kernels"))
    for family, took in seconds.items():
        many = f"{kernels[family]:.0f} kernels" if kernels else f"{counted.launches[family]} operations on a CPU"
        rows.append(Measurement(f"{family} ({many}) in a step of {of}", 1e3 * took, "ms"))
    return rows


def family_of(name: str) -> str:
    """The family of a kernel or an operation."""
    lower = name.lower()
    return next((f for f, parts in FAMILIES.items() if any(part in lower for part in parts)), OTHERS)


def kernel_times(step: Callable[[], object], device: torch.device) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds in a step by family, the longest first, and how many kernels; without a GPU the time that the processor
    is in torch's operations, and no kernels."""
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as found:
        for _ in range(_STEPS):
            step()
        if gpu:
            torch.cuda.synchronize(device)
    seconds: defaultdict[str, float] = defaultdict(float)
    kernels: defaultdict[str, float] = defaultdict(float)

    for event in found.events() or []:
        if event.device_type != DeviceType.CPU:
            continue
        within = _inside(event, OPTIMISER)
        for kernel in event.kernels:
            family = OPTIMISER if within else family_of(kernel.name)
            seconds[family] += 1e-6 * kernel.duration / _STEPS
            kernels[family] += 1 / _STEPS
        if not gpu and event.name.startswith("aten::"):
            family = OPTIMISER if within else family_of(event.name)
            seconds[family] += 1e-6 * event.self_cpu_time_total / _STEPS
    return dict(sorted(seconds.items(), key=lambda item: -item[1])), kernels


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts by family what computes or copies, which on a GPU is a kernel to launch (or a few), and the bytes of the
    tensors that each takes and gives.

    Attributes:
        in_layers, layers: how many were in the forward passes of a video transformer's layers, and those passes.
    """

    def __init__(self, modules: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.in_layers = self.layers = self._optimising = 0
        self._modules, self._hooks = [m for m in modules.modules() if isinstance(m, dit.Layer)], list[Any]()

    def __enter__(self) -> Any:
        for layer in self._modules:
            self._hooks += [
                layer.register_forward_pre_hook(lambda *_: self._leave(-1)),
                layer.register_forward_hook(lambda *_: self._leave(1)),
            ]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _leave(self, sign: int) -> None:
        self.in_layers += sign * self.launches.total()
        self.layers += sign == 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.namespace == "profiler":  # record_function, which may be nested
            entered = name.startswith("_record_function_enter") and (self._optimising or args[0] == OPTIMISER)
            self._optimising += 1 if entered else -1 if self._optimising else 0
        if func.is_view or name in _NO_KERNEL or func.namespace != "aten":
            return out
        taken, given = ([x for x in tree_leaves(t) if isinstance(x, torch.Tensor)] for t in ((args, kwargs), out))
        family = OPTIMISER if self._optimising else family_of(name)
        if len({x.device.type for x in (*taken, *given) if x.ndim}) > 1:
            family = COPIES
        self.launches[family] += 1
        self.bytes[family] += sum(x.numel() * x.element_size() for x in (*taken, *given))
        return out


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within it attention is one operation, not written out as on a processor, and a transformer's tokens have
    autocast's dtype between layers."""

    def layers_dtype(x: torch.Tensor) -> torch.dtype:
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

    with patch.object(blocks, "written_out", lambda x: False), patch.object(dit, "_layers_dtype", layers_dtype):
        yield


def _inside(event: Any, name: str) -> bool:
    while event is not None:
        if event.name == name:
            return True
        event = event.cpu_parent
    return False
