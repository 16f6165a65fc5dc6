"""Any state made of tensors, numbers and records, as safetensors beside JSON: no pickle.

The tree is written as JSON in which every tensor is a reference into the safetensors file;
what JSON cannot say (tuples, integer keys, records) is tagged, so reading gives back exactly
what was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmpo import records
from dmpo.errors import CheckpointError

__all__ = ["read_state", "write_state"]

RECORDS: Mapping[str, type] = {
    record.__name__: record
    for record in (
        records.Example,
        records.Experience,
        records.LogRatio,
        records.Prompts,
        records.Rewards,
        records.Rollouts,
        records.Views,
        records.Weights,
    )
}
"""The records that a state may hold: what a buffer is made of."""


def write_state(path: Path, state: Any) -> None:
    """Write ``path.json`` and, if there are tensors, ``path.safetensors``.

    Args:
        path: Without suffix.
        state: Dicts, lists, tuples, tensors, numbers, text, None and the stage records.

    Raises:
        CheckpointError: If something in the state is of another type; names where it is.
    """
    tensors: dict[str, Tensor] = {}
    tree = _to_tree(state, path.name, tensors)
    path.with_suffix(".json").write_text(json.dumps(tree), encoding="utf-8")
    if tensors:
        save_file(tensors, path.with_suffix(".safetensors"))


def read_state(path: Path, device: torch.device) -> Any:
    """Return what :func:`write_state` wrote.

    Args:
        path: Without suffix.
        device: Where tensors go that did not lie on the CPU when they were written.
    """
    tree = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    file = path.with_suffix(".safetensors")
    return _from_tree(tree, load_file(file) if file.exists() else {}, device)


def _to_tree(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place, "on_cpu": value.device.type == "cpu"}
    if isinstance(value, list | tuple):
        items = [_to_tree(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, Mapping):
        return {"dict": [[k, _to_tree(v, f"{place}.{k}", tensors)] for k, v in value.items()]}
    name = type(value).__name__
    if is_dataclass(value) and RECORDS.get(name) is type(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        tree = {key: _to_tree(v, f"{place}.{key}", tensors) for key, v in parts.items()}
        return {"record": name, "fields": tree}
    raise CheckpointError(f"{place}: a {name} cannot be saved in a checkpoint.")


def _from_tree(tree: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        tensor = tensors[tree["tensor"]]
        return tensor if tree["on_cpu"] else tensor.to(device)
    if "list" in tree:
        return [_from_tree(item, tensors, device) for item in tree["list"]]
    if "tuple" in tree:
        return tuple(_from_tree(item, tensors, device) for item in tree["tuple"])
    if "dict" in tree:
        return {key: _from_tree(value, tensors, device) for key, value in tree["dict"]}
    parts = {key: _from_tree(value, tensors, device) for key, value in tree["fields"].items()}
    return RECORDS[tree["record"]](**parts)
