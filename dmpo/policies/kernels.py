"""Faster ways to do the same, where a library or the compiler offers them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["Compilation", "compile_blocks", "fused_log_probs", "is_plain_projection"]

Compilation = Literal["no", "blocks", "graphs"]
"""Nothing; each block by ``torch.compile``; or that, replayed as a CUDA graph."""


@functools.cache
def _fused_loss() -> Callable[..., Tensor] | None:
    """Return Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv 2410.10989), or None."""
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError:
        return None
    fused: Callable[..., Tensor] = liger_fused_linear_cross_entropy
    return fused


def is_plain_projection(layer: Any) -> bool:
    """Return whether a layer is a product with a matrix of floating-point numbers, no more."""
    return type(layer) is nn.Linear and layer.bias is None and layer.weight.is_floating_point()


def fused_log_probs(
    hidden: Float[Tensor, "M H"], projection: Any, targets: Int[Tensor, " M"]
) -> Float[Tensor, " M"] | None:
    """Return log softmax(projection(hidden)) at the targets without whole logits at any time.

    Args:
        hidden: Hidden states on a CUDA device.
        projection: Onto the vocabulary; a module, or for some models more than that.
        targets: A token for each.

    Returns:
        Log-probabilities in nats, float32; None where Liger's kernel is missing or does not fit.
    """
    fused = _fused_loss() if hidden.is_cuda else None
    if fused is None or not is_plain_projection(projection):
        return None
    weight = projection.weight.to(hidden.dtype)
    return -fused(hidden, weight, targets, reduction="none").float()


def compile_blocks(model: nn.Module, how: Compilation) -> None:
    """Have every block of a transformers model compiled when it first runs.

    Block by block, the compiler sees one of them and not thirty-two; sizes may change, as rows
    and prompts do.

    Args:
        model: With blocks of the library's kind.
        how: Nothing is done for ``no``.
    """
    if how == "no":
        return
    mode = "reduce-overhead" if how == "graphs" else None
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # A graph is of one size, so each size gets its own.
            layer.compile(mode=mode, dynamic=None if how == "graphs" else True)
