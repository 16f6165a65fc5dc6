"""Groups of a buffer chosen, put together and dealt out: what a change of processes needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dmpo.records import Example, Experience, Rewards, Rollouts, Views
from dmpo.training.metrics import named_by_objective
from dmpo.training.reduction import reduced
from dmpo.training.rollout import joined_rewards, joined_rollouts

__all__ = ["chosen_groups", "joined_buffers", "on_device", "part_of", "pinned"]

Record = TypeVar("Record")


def part_of(count: int, rank: int, num_ranks: int) -> range:
    """Return the places, of ``count``, that a process takes: neighbours, as even as it goes.

    Args:
        count: Things in all.
        rank: The process.
        num_ranks: How many share them; the first ones take one more where it does not divide.
    """
    size, rest = divmod(count, num_ranks)
    first = rank * size + min(rank, rest)
    return range(first, first + size + (rank < rest))


def chosen_groups(buffer: Experience, index: Sequence[int]) -> Experience:
    """Return the named groups of a buffer, in that order."""

    def chosen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[torch.tensor(index, dtype=torch.long, device=value.device)]
        if isinstance(value, Rollouts | Rewards):
            return value.groups(index)
        return _each(value, chosen)

    groups: Experience = _each(buffer, chosen)
    return groups


def joined_buffers(buffers: Sequence[Experience]) -> Experience:
    """Return the groups of several buffers as one, in the order of their places in the run.

    What objectives said of each of them becomes what they say of all.
    """
    if len(buffers) == 1:
        return buffers[0]
    sizes = [float(buffer.rollouts.num_prompts) for buffer in buffers]
    metrics = reduced([named_by_objective(buffer.metrics) for buffer in buffers], sizes)
    whole: Experience = _joined([replace(b, metrics={}) for b in buffers])
    joined = replace(whole, metrics=metrics)
    index = joined.rollouts.prompts.index
    if index is None:
        return joined
    return chosen_groups(joined, index.argsort(stable=True).tolist())


def on_device(record: Record, device: torch.device) -> Record:
    """Return a record with all its tensors on a device."""
    moved: Record = _mapped(record, lambda tensor: tensor.to(device, non_blocking=True))
    return moved


def pinned(record: Record) -> Record:
    """Return a record with its tensors in host memory, page-locked where there is a GPU."""
    is_pinned = torch.cuda.is_available()

    def moved(tensor: Tensor) -> Tensor:
        if tensor.device.type == "cpu":
            return tensor
        there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_pinned)
        return there.copy_(tensor)

    held: Record = _mapped(record, moved)
    return held


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return _each(value, lambda part: _mapped(part, change))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a record, or several, with a change made to each part; anything else as it is."""
    if isinstance(value, Example):
        return value  # a task's own: nothing of it is ours to change
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        return tuple(change(part) for part in value)
    if isinstance(value, list):
        return [change(part) for part in value]
    if isinstance(value, dict):
        return {name: change(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: change(getattr(value, f.name)) for f in fields(value)})
    return value


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(_with_as_many_views(values)))
    if isinstance(first, Rollouts):
        return joined_rollouts(values)
    if isinstance(first, Rewards):
        return joined_rewards(values)
    if isinstance(first, Views):
        values = _equally_padded(values)
    if isinstance(first, tuple):
        return tuple(_joined(parts) for parts in zip(*values, strict=True))
    if is_dataclass(first):
        names = [f.name for f in fields(first)]
        parts = {name: _joined([getattr(value, name) for value in values]) for name in names}
        return replace(first, **parts)  # type: ignore[type-var]
    return first


def _with_as_many_views(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Add views that score nothing, [B, N, R, …], where other parts have more of them."""
    if values[0].dim() < 3 or len({each.shape[2] for each in values}) == 1:
        return values
    most = max(each.shape[2] for each in values)
    return [pad(each, (*(0, 0) * (each.dim() - 3), 0, most - each.shape[2])) for each in values]


def _equally_padded(views: Sequence[Views]) -> Sequence[Views]:
    hidden = [each.prompt_hidden for each in views if each.prompt_hidden is not None]
    if len(hidden) < len(views):
        return views
    longest = max(each.shape[-1] for each in hidden)
    return [
        replace(each, prompt_hidden=pad(own, (longest - own.shape[-1], 0)))
        for each, own in zip(views, hidden, strict=True)
    ]
