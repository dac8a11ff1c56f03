"""Layers compiled for a GPU, where norms, gates and casts become a kernel of one pass over memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from geo4d_bench.model.base import Generator


def compile_layers(
    generator: Generator[Any], take_gradient: Callable[[], object], backend: str = "inductor"
) -> str | None:
    """Compile ``generator.layers_to_compile()`` in place: weights keep their names, and copies are not compiled.

    ``take_gradient`` computes a gradient as a training step does, for which everything is compiled. Where that fails,
    for want of Triton or a C compiler for example, nothing is compiled, and a sentence that says so is returned.
    """
    layers = generator.layers_to_compile()
    if not layers:
        return None
    for layer in layers:
        layer.compile(backend=backend, dynamic=False, fullgraph=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # compilers warn of what is theirs
            take_gradient()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a compiler's fault may be anything
        for layer in layers:
            layer._compiled_call_impl = None
        torch._dynamo.reset()
        cause = getattr(error, "inner_exception", error)
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        return f"layers are not compiled, which a GPU would train faster: {reason}"
    return None
