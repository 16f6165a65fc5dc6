"""Rollouts made of given texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dmpo.records import Example, Prompts, Rollouts


def rollouts_of(examples: Sequence[Example], texts: Sequence[Sequence[str]]) -> Rollouts:
    """Return rollouts with these texts; each token id is the character's code, 0 ends a text."""
    num_prompts, num_rollouts = len(texts), len(texts[0])
    length = max(len(text) for row in texts for text in row) + 1
    shape = (num_prompts, num_rollouts, length)
    completions = torch.zeros(shape, dtype=torch.long)
    for b, row in enumerate(texts):
        for n, text in enumerate(row):
            completions[b, n, : len(text)] = torch.tensor([ord(c) for c in text], dtype=torch.long)
    ended = (completions == 0).cumsum(dim=2) - (completions == 0).long()
    mask = torch.ones(num_prompts, 1, dtype=torch.bool)
    prompts = Prompts(examples=tuple(examples), tokens=mask.long(), attention_mask=mask)
    return Rollouts(
        prompts=prompts,
        completions=completions,
        answer_mask=ended == 0,
        commit_step=torch.zeros(shape, dtype=torch.long),
        log_probs=None,
        temperature=1.0,
        num_forwards=1,
        texts=tuple(tuple(row) for row in texts),
    )


def examples_of(*columns: Mapping[str, Any]) -> list[Example]:
    """Return one example per mapping of columns, prompts q0, q1, …"""
    return [Example(prompt=f"q{index}", columns=row) for index, row in enumerate(columns)]
