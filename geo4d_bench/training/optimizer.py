"""What turns gradients into steps: Muon for the matrices inside the transformer, AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of a weight matrix.
Measured on store_cereal with ``nano``, 2 cores, the same minutes: held-out hand error 4.1 against 5.8 cm after 3.6
minutes (one run each), though a step takes a fifth longer.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.base import OptimizerName
from geo4d_bench.model.checkpoint import load_optimizer_state, optimizer_state
from geo4d_bench.training.device import computes_in_bf16


class Optimizers:
    """Two optimisers as one, of ``Generator.optimizer_groups``; both follow one learning rate, because Muon's steps are
    scaled to AdamW's size."""

    def __init__(
        self,
        groups: dict[OptimizerName, list[nn.Parameter]],
        learning_rate: float,
        weight_decay: float,
        eight_bit: bool = False,
    ) -> None:
        """``eight_bit``: AdamW's moments take a byte each, and a scale for 256 of them; ConfigError where torchao is
        missing."""
        settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
        adamw = _eight_bit_adamw() if eight_bit else functools.partial(torch.optim.AdamW, fused=True)
        self.all: list[torch.optim.Optimizer] = [adamw(groups["adamw"], betas=(0.9, 0.95), **settings)]
        if muons := groups.get("muon"):
            self.all.append(Muon(muons, adjust_lr_fn="match_rms_adamw", **settings))

    def set_rate(self, learning_rate: float) -> None:
        for optimizer in self.all:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def zero_grad(self) -> None:
        for optimizer in self.all:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self.all:
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Moments by ``<optimiser>/<parameter>/<moment>``."""
        return {f"{k}/{key}": v for k, each in enumerate(self.all) for key, v in optimizer_state(each).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` returned."""
        for k, optimizer in enumerate(self.all):
            own = {key.removeprefix(f"{k}/"): v for key, v in state.items() if key.startswith(f"{k}/")}
            load_optimizer_state(optimizer, own)


def _eight_bit_adamw() -> Callable[..., torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError:
        raise ConfigError(
            "fine-tuning in bfloat16 needs torchao, for 8-bit moments, which is not installed; "
            "pip install 'geo4d-bench[svd]', or train with --precision fp32"
        ) from None

    class EightBitAdamW(AdamW8bit):  # type: ignore[misc]
        """torchao's compiles a step for every shape; on a processor that takes minutes and a C++ compiler."""

        def step(self, closure: Any = None) -> Any:
            on_cpu = self.param_groups[0]["params"][0].is_cpu
            with torch.compiler.set_stance("force_eager") if on_cpu else nullcontext():
                return super().step(closure)

    return EightBitAdamW


class Muon(torch.optim.Muon):
    """torch's Muon with ``match_rms_adamw``, but matrices of one shape are orthogonalised together, and in bfloat16
    only where the device computes in it: emulated, as torch's own does it, it took six sevenths of a step of ``nano``.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            alike: defaultdict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[tuple(parameter.shape)].append(parameter)
            for (rows, columns), parameters in alike.items():
                for parameter in parameters:
                    if not self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                momenta = [self.state[p]["momentum_buffer"] for p in parameters]
                gradients = [p.grad for p in parameters if p.grad is not None]
                torch._foreach_lerp_(momenta, gradients, 1.0 - group["momentum"])
                ahead = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # Nesterov's
                steps = orthogonalized(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
                size = 0.2 * math.sqrt(max(rows, columns))
                torch._foreach_add_(parameters, list(steps.to(ahead.dtype)), alpha=-group["lr"] * size)


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """(N, R, C) matrices U S V^T as about U V^T: a quintic Newton-Schulz iteration brings singular values near 1.

    ``torch.optim._muon._zeropower_via_newtonschulz`` for many at once; in bfloat16 where the device computes in it,
    else in their own type.
    """
    a, b, c = coefficients
    x = matrices.bfloat16() if computes_in_bf16(matrices.device) else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
