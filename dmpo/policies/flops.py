"""Floating-point operations of a policy's passes, by formula.

A product of an [n, k] and a [k, m] matrix counts 2·n·k·m, as in PyTorch's ``FlopCounterMode``;
norms, softmaxes, rotations and lookups count nothing. A linear layer of in × out weights so
costs 2·in·out per token, and its backward pass the same again for the gradient of its input,
where one is asked for, and of its weights, where they train. Attention costs 4·heads·head_dim
per layer and pair of query and key, and twice that backwards; pairs that a mask hides count, as
the dense kernels compute them. What is computed again for the gradient is booked there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

__all__ = ["Cost", "FlopCounts", "GradientTrace", "ModelPass", "count_flops", "tracing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPass:
    """What one forward pass ran over."""

    rows: int = 0
    """U, sequences; equal ones ran as one."""
    queries: int = 0
    """Positions of each that ran through the model: all of them, or a cache's window."""
    keys: int = 0
    """Positions of each that they attend to."""
    projected: int = 0
    """Positions projected onto the vocabulary, over all rows."""
    reprojected: int = 0
    """Those of them that are projected once more for the gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Floating-point operations per unit: a token, a pair, a projected position."""

    forward: int
    """Of the forward pass."""
    backward: int
    """Of the backward pass."""
    recomputed: int
    """Of the forward pass once more, where blocks keep nothing for the gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCounts:
    """The formula of one model: what its linear layers, its attention and its projection cost."""

    token: Cost
    """Linear layers of the body, per token."""
    pair: Cost
    """Attention of all layers, per query and key."""
    position: Cost
    """Projection onto the vocabulary, per position."""

    def forward(self, done: ModelPass) -> int:
        """Return the operations of a forward pass."""
        tokens = done.rows * done.queries
        return (
            tokens * (self.token.forward + done.keys * self.pair.forward)
            + done.projected * self.position.forward
        )

    def backward(self, done: ModelPass, *, recomputes_blocks: bool) -> int:
        """Return the operations of its backward pass, all that is computed again included.

        Args:
            done: The forward pass.
            recomputes_blocks: Whether blocks are checkpointed (gradient checkpointing).
        """
        tokens = done.rows * done.queries
        count = (
            tokens * (self.token.backward + done.keys * self.pair.backward)
            + done.projected * self.position.backward
            + done.reprojected * self.position.forward
        )
        if recomputes_blocks:
            count += tokens * (self.token.recomputed + done.keys * self.pair.recomputed)
        return count


@dataclass(slots=True, kw_only=True)
class GradientTrace:
    """What a forward pass showed of where gradients go, by the names of modules."""

    input_takes_gradient: set[str] = field(default_factory=set)
    """Linear layers whose input takes a gradient: something before them trains."""
    last_of_block: dict[str, str] = field(default_factory=dict)
    """The last module with weights that each block ran."""


@contextmanager
def tracing(model: nn.Module) -> Iterator[GradientTrace]:
    """Watch one forward pass; its results are as they would be.

    Args:
        model: A transformers model, with adapters' layers in place.

    Yields:
        The trace, filled while the pass runs.
    """
    trace = GradientTrace()
    blocks = _blocks(model)
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if any(True for _ in module.children()) or not any(True for _ in module.parameters()):
                continue
            hook = module.register_forward_pre_hook(_recorder(trace, name, _block_of(name, blocks)))
            hooks.callback(hook.remove)
        yield trace


def _recorder(trace: GradientTrace, name: str, block: str | None) -> Any:
    def record(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if getattr(inputs[0], "requires_grad", False):
            trace.input_takes_gradient.add(name)
        if block is not None:
            trace.last_of_block[block] = name

    return record


def count_flops(
    model: Any, trace: GradientTrace | None = None, *, with_adapters: bool = True
) -> FlopCounts:
    """Return the formula of a transformers model.

    Args:
        model: With ``.model`` as its body; everything else of it is the projection. Layers with
            adapters, and those in 4 bits, count by their sizes.
        trace: Of a pass with gradient; None: every layer's input takes one.
        with_adapters: Whether the adapters run.
    """
    body = {id(module) for module in model.model.modules()}
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (with_adapters or ".lora_" not in name)
    ]
    inside = [(name, module) for name, module in linear if id(module) in body]
    outside = [(name, module) for name, module in linear if id(module) not in body]
    config = model.config
    head_dim = getattr(config, "head_dim", None)
    width = config.num_attention_heads * head_dim if head_dim else config.hidden_size
    attention = 4 * width * config.num_hidden_layers
    return FlopCounts(
        token=_linear_cost(inside, trace, _blocks(model)),
        pair=Cost(forward=attention, backward=2 * attention, recomputed=attention),
        position=_linear_cost(outside, trace, ()),
    )


def _linear_cost(
    layers: Iterable[tuple[str, nn.Linear]], trace: GradientTrace | None, blocks: Iterable[str]
) -> Cost:
    forward = backward = recomputed = 0
    # Computing a block again stops where the last thing that its gradient needs is there, and
    # the result of a linear layer at its end is not needed.
    spared = set() if trace is None else set(trace.last_of_block.values())
    blocks = tuple(blocks)
    for name, layer in layers:
        once = 2 * layer.in_features * layer.out_features
        forward += once
        takes_gradient = trace is None or name in trace.input_takes_gradient
        backward += once * (takes_gradient + layer.weight.requires_grad)
        if name not in spared and _block_of(name, blocks) is not None:
            recomputed += once
    return Cost(forward=forward, backward=backward, recomputed=recomputed)


def _blocks(model: nn.Module) -> tuple[str, ...]:
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
    )


def _block_of(name: str, blocks: Iterable[str]) -> str | None:
    return next((block for block in blocks if name.startswith(f"{block}.")), None)
