"""Small policies and batches for the tests of this room."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmpo.policies.llada import LladaConfig, LladaPolicy

SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48}


def small_policy(**settings: Any) -> LladaPolicy:
    """Return a random LLaDA of about 20k parameters."""
    shape = {**SHAPE, **settings.pop("shape", {})}
    return LladaPolicy(LladaConfig.model_validate({"scratch": shape, **settings}))


def trained_lora_policy(**settings: Any) -> LladaPolicy:
    """Return a small policy whose adapters are no longer zero."""
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.0, **settings.pop("lora", {})}
    policy = small_policy(lora=lora, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return policy


class Sequences(NamedTuple):
    """A batch with padding on the left."""

    noisy: Tensor
    mask: Tensor
    targets: Tensor
    where: Tensor


def random_sequences(policy: LladaPolicy, *, seed: int = 0, padded: bool = True) -> Sequences:
    """Return five rows of 12 positions; the first 0 to 4 are padding, row 3 asks for nothing."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 90, (5, 12), generator=generator)
    padding = torch.tensor([0, 3, 1, 2, 4]) if padded else torch.zeros(5, dtype=torch.long)
    mask = torch.arange(12) >= padding.unsqueeze(1)
    targets = targets.masked_fill(~mask, policy.pad_token_id)
    where = (torch.rand(5, 12, generator=generator) < 0.5) & mask
    where[3] = False
    return Sequences(policy.corrupt(targets, where), mask, targets, where)
