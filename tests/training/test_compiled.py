"""What is compiled for a GPU computes what it did, under the same names."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from geo4d_bench.model.batch import fake_batch
from geo4d_bench.model.generators import presets
from geo4d_bench.training.compiled import compile_layers

DIT: Any = dataclasses.replace(presets().get("dit_debug"), trunk_layers=0, decoder_layers=3)


def made() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = DIT.build()
        with torch.no_grad():  # zeros hide mistakes
            for parameter in generator.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return generator


def gradient_of(generator: Any) -> Callable[[], torch.Tensor]:
    batch = fake_batch(DIT, 2)

    def take() -> torch.Tensor:
        generator.zero_grad()
        total = generator.loss(batch, torch.Generator().manual_seed(0)).total
        torch.autograd.backward(total)
        return torch.cat([total.detach()[None], *(p.grad.flatten() for p in generator.parameters())])

    return take


def test_compiled_layers_are_the_same_layers() -> None:
    generator = made()
    take, names = gradient_of(generator), list(generator.state_dict())
    eager, graphs = take(), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    assert compile_layers(generator, take, backend) is None
    assert len(generator.layers_to_compile()) == 3 * 3
    assert len(graphs) == 3  # layers over cells, over frames, and between views, each compiled once
    torch.testing.assert_close(take(), eager, rtol=1e-5, atol=1e-6)
    assert len(graphs) == 3
    assert list(generator.state_dict()) == names
    assert all(layer._compiled_call_impl is None for layer in copy.deepcopy(generator).layers_to_compile())


def test_without_a_compiler_a_training_goes_on_and_says_so() -> None:
    generator = made()
    take = gradient_of(generator)
    eager = take()

    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation.\nMore lines.")

    said = compile_layers(generator, take, backend)
    assert said is not None
    assert said.startswith("layers are not compiled, which a GPU would train faster: ")
    assert "working triton installation." in said
    assert "\n" not in said
    assert torch.equal(take(), eager)


def test_memory_that_runs_out_is_no_compilers_fault() -> None:
    def take() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_layers(made(), take, "eager")


def test_there_may_be_nothing_to_compile() -> None:
    assert compile_layers(presets().get("unet_debug").build(), lambda: 1 / 0) is None
