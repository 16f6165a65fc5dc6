"""The loss of supervised fine-tuning: denoise a demonstrated response (LLaDA Algorithm 2).

Both draws are unbiased for the negative ELBO (METHOD, "Likelihood"): *bernoulli* hides each
token with probability t, t uniform, and weighs by 1/t; *count* hides a random set of m tokens,
m uniform on 1..D, and weighs by D/m, which hides the same shares of tokens with less variance
and never leaves a row without a hidden token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.diffusion.masking import random_subsets, uniform_levels
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import LossOutput

__all__ = ["DenoisingBatch", "Masking", "denoising_loss", "draw_noise", "split_rows"]

Masking = Literal["count", "bernoulli"]
"""How hidden tokens are drawn: a uniform number of them, or each by itself at a uniform rate."""

SMALLEST_RATE = 1e-3
"""Smallest t of the bernoulli draw (LLaDA's), so that 1/t stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenoisingBatch:
    """Demonstrations with their noise drawn."""

    prompt_tokens: Int[Tensor, "S P"]
    """Prompts, padded on the left."""
    prompt_mask: Bool[Tensor, "S P"]
    """True on real prompt tokens."""
    responses: Int[Tensor, "S D"]
    """Responses, filled up with EOS, which is part of them."""
    hidden: Bool[Tensor, "S D"]
    """True where a response token is hidden."""
    coefficient: Float[Tensor, " S"]
    """1/t or D/m of each row."""
    num_rows_in_batch: int | float
    """Rows of the whole batch, all slices together; of several processes their mean."""


def draw_noise(
    num_rows: int,
    length: int,
    generator: torch.Generator,
    *,
    masking: Masking,
    stratified: bool,
) -> tuple[Bool[Tensor, "S D"], Float[Tensor, " S"]]:
    """Return which tokens each row hides, and the row's factor.

    Args:
        num_rows: S.
        length: D.
        generator: The source of randomness, on the CPU.
        masking: See the module.
        stratified: Spread the shares of hidden tokens evenly over the rows of the batch.

    Returns:
        Hidden tokens and factor; the mean of factor · Σ_hidden −log π over draws is the
        negative ELBO.
    """
    levels = uniform_levels((), num_rows, generator, stratified=stratified)
    if masking == "bernoulli":
        rates = SMALLEST_RATE + (1 - SMALLEST_RATE) * levels
        noise = torch.rand(num_rows, length, generator=generator, dtype=rates.dtype)
        return noise < rates[:, None], rates.reciprocal().float()
    counts = (1 + (levels * length).floor().long()).clamp(max=length)
    scored = torch.ones(num_rows, length, dtype=torch.bool)
    hidden = random_subsets(scored, counts[:, None], generator).squeeze(1)
    return hidden, length / counts.float()


def split_rows(batch: DenoisingBatch, num_rows: int) -> list[DenoisingBatch]:
    """Cut into slices of at most ``num_rows`` rows; their losses add up to the batch's."""
    slices = []
    for start in range(0, batch.responses.shape[0], num_rows):
        rows = slice(start, start + num_rows)
        slices.append(
            replace(
                batch,
                prompt_tokens=batch.prompt_tokens[rows],
                prompt_mask=batch.prompt_mask[rows],
                responses=batch.responses[rows],
                hidden=batch.hidden[rows],
                coefficient=batch.coefficient[rows],
            )
        )
    return slices


def denoising_loss(policy: DiffusionPolicy, batch: DenoisingBatch) -> LossOutput:
    """Return mean over rows of coefficient · Σ_hidden −log π / D (LLaDA Eq. 5).

    The prompt is neither hidden nor scored.
    """
    length = batch.responses.shape[1]
    tokens = torch.cat([batch.prompt_tokens, batch.responses], dim=1)
    attention = torch.cat(
        [batch.prompt_mask, torch.ones_like(batch.responses, dtype=torch.bool)], dim=1
    )
    hidden = batch.hidden.to(tokens.device)
    where = torch.cat([torch.zeros_like(batch.prompt_mask), hidden], dim=1)
    log_probs = policy.token_logprobs(policy.corrupt(tokens, where), attention, tokens, where)
    per_row = -log_probs.sum(dim=1) * batch.coefficient.to(log_probs.device) / length
    return LossOutput(loss=per_row.sum() / batch.num_rows_in_batch)
