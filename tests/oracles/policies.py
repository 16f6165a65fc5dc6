"""Naive forms of what a policy computes: one row at a time, every logit, float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmpo.policies.llada import LladaPolicy


def row_logits(policy: LladaPolicy, tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the logits [T, V] of one row run alone, without its padding; zero on padding."""
    model = policy.module.causal_lm
    real = attention_mask.nonzero().squeeze(1)
    logits = model(input_ids=tokens[real].unsqueeze(0)).logits[0]
    full = torch.zeros(len(tokens), logits.shape[-1])
    full[real] = logits
    return full


def naive_token_logprobs(
    policy: LladaPolicy,
    noisy: Tensor,
    attention_mask: Tensor,
    targets: Tensor,
    where: Tensor,
    temperature: float,
) -> Tensor:
    """Return log π(target) at ``where`` from full logits, token by token."""
    out = torch.zeros(noisy.shape, dtype=torch.float64)
    for s in range(noisy.shape[0]):
        logits = row_logits(policy, noisy[s], attention_mask[s]).double() / temperature
        log_probs = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
        for t in where[s].nonzero().squeeze(1).tolist():
            out[s, t] = log_probs[t, targets[s, t]]
    return out


def first_eos(row: Sequence[int], eos: int) -> list[int]:
    """Return the tokens in front of the first EOS."""
    kept = []
    for token in row:
        if token == eos:
            break
        kept.append(token)
    return kept
