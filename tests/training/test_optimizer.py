"""Muon for many matrices at once, in whichever type the processor computes quickly."""

from __future__ import annotations

import pytest
import torch

from geo4d_bench.training.optimizer import Muon, orthogonalized

COEFFICIENTS, STEPS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7


@pytest.mark.parametrize("shape", [(3, 24, 16), (2, 16, 40)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=rng)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalized(matrices, COEFFICIENTS, STEPS, EPS).float() @ v.mT
    values = torch.diagonal(found, dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.3  # the iteration's own band about 1
    assert (found - torch.diag_embed(values)).abs().max() < 0.05


def test_a_step_is_torchs_but_for_rounding() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.ones(s)) for s in ((8, 8), (8, 24), (8, 8))] for _ in range(2))
    settings = {"lr": 0.1, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(1)
    for _ in range(3):
        gradients = [torch.randn(p.shape, generator=rng) for p in ours]
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        # torch iterates in bfloat16, eight bits: a few hundredths of a step, whose entries are 0.2 lr at the mean.
        assert (a - b).abs().max() < 0.1 * 3 * 0.2 * 0.1 * 2
        assert (a - 1.0).abs().mean() > 0.5 * 0.2 * 0.1
