"""Weights of which each process holds a part (DTensors of FSDP2), and whole ones beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["is_sharded", "put_state", "part_like", "whole"]


def is_sharded(module: nn.Module) -> bool:
    """Return whether a process holds a part of some weight alone."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def whole(value: Any) -> Any:
    """Return a tensor with all of its parts, on the CPU; all processes call it.

    Anything that is no tensor stays as it is.
    """
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def part_like(value: Any, like: Tensor) -> Any:
    """Return this process's part of a whole tensor, cut as another one is; all processes call it.

    What is no tensor of the same shape stays as it is (a count of steps beside moments).
    """
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def put_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors into a module's own, each process its part; all processes call it.

    Args:
        module: Sharded or not.
        state: By names of the module's state; others of it stay as they are.
    """
    own = module.state_dict()
    for name, value in state.items():
        there = own[name]
        there.copy_(part_like(value.to(there.dtype), there))
