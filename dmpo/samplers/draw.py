"""Drawing tokens from logits, and the log-probability of what was drawn."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["draw_tokens", "entropies_at", "tempered_log_probs"]

CHUNK_ELEMENTS = 2**20
"""Logits looked at together where every one is read several times: few enough for a CPU's cache."""


def draw_tokens(
    logits: Float[Tensor, "S K V"], temperature: float, uniform: Float[Tensor, "S K"] | None
) -> Int[Tensor, "S K"]:
    """Draw from softmax(logits / temperature); argmax at 0.

    By inversion of the distribution function: one uniform number per position, where the
    Gumbel-max trick wants one per position and token, and their logarithms.

    Args:
        logits: Float32.
        temperature: At least 0.
        uniform: Independent numbers in [0, 1), float64; not looked at, and may be None, at
            temperature 0.

    Returns:
        One token per position.

    Raises:
        ValueError: If there are no numbers to draw by.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if uniform is None:
        raise ValueError("drawing at a temperature above 0 takes a uniform number per position")
    return _inverted(logits, temperature, uniform.to(logits.device))


def _inverted(
    logits: Float[Tensor, "S K V"], temperature: float, uniform: Float[Tensor, "S K"]
) -> Int[Tensor, "S K"]:
    """Return the token at which the distribution function exceeds ``uniform``.

    In two steps, so that nothing of the vocabulary's size is summed up one by one: first the
    run of about √V tokens that holds it, then the token inside. The sums are float64; float32
    would lose the tail of a vocabulary of 100,000.
    """
    num_tokens = logits.shape[-1]
    length = math.isqrt(num_tokens - 1) + 1
    num_runs = -(-num_tokens // length)
    scaled = logits.new_empty(*logits.shape[:-1], num_runs * length)
    torch.mul(logits, 1 / temperature, out=scaled[..., :num_tokens])
    scaled[..., num_tokens:] = -torch.inf
    runs = scaled.softmax(dim=-1).view(*logits.shape[:-1], num_runs, length)
    sums = runs.sum(dim=-1)
    run, within = _first_above(sums, uniform)
    inside = runs.gather(-2, run[..., None, None].expand(*run.shape, 1, length)).squeeze(-2)
    return run * length + _first_above(inside, within)[0]


def _first_above(
    mass: Float[Tensor, "S K X"], uniform: Float[Tensor, "S K"]
) -> tuple[Int[Tensor, "S K"], Float[Tensor, "S K"]]:
    """Return where the running sum of ``mass`` exceeds the share ``uniform`` of its total.

    Returns:
        The index, whose mass is positive, and how far into its mass the point lies, in [0, 1).
    """
    sums = mass.double().cumsum(dim=-1)
    point = uniform[..., None] * sums[..., -1:]
    index = torch.searchsorted(sums, point, right=True)
    own = mass.gather(-1, index).double()
    within = (point - (sums.gather(-1, index) - own)) / own
    almost_one = 1 - torch.finfo(torch.float64).eps
    return index.squeeze(-1), within.clamp(0, almost_one).squeeze(-1)


def tempered_log_probs(
    logits: Float[Tensor, "S K V"], tokens: Int[Tensor, "S K"], temperature: float
) -> Float[Tensor, "S K"]:
    """Return log softmax(logits / temperature) at the given tokens, in nats, float32.

    Args:
        logits: Float32.
        tokens: One token per position.
        temperature: Greater than 0.
    """
    scaled = logits if temperature == 1 else logits / temperature
    # One fused kernel, where the log of a sum of exponentials would take four.
    return scaled.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def entropies_at(
    logits: Float[Tensor, "S K V"], where: Bool[Tensor, "S K"]
) -> Float[Tensor, "S K"]:
    """Return the entropy of softmax(logits) at the positions asked for, in nats, zero elsewhere.

    No more than a few megabytes are held at a time; on the CPU nothing is computed elsewhere.

    Args:
        logits: Float32; −∞ is a token of probability 0.
        where: True at the positions asked for.
    """
    flat, asked = logits.flatten(0, 1), where.flatten()
    is_cpu = logits.device.type == "cpu"
    # Elsewhere it is cheaper to compute all of them than to wait for the device to say which.
    index = asked.nonzero().squeeze(1) if is_cpu else torch.arange(len(flat), device=flat.device)
    rows = max(1, (CHUNK_ELEMENTS if is_cpu else 64 * CHUNK_ELEMENTS) // flat.shape[1])
    found = torch.cat([_entropies(flat[piece]) for piece in torch.split(index, rows)])
    if is_cpu:
        return found.new_zeros(len(flat)).index_copy(0, index, found).view(where.shape)
    return torch.where(where, found.view(where.shape), 0.0)


def _entropies(logits: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """Return log Σe^z − Σz·e^z / Σe^z, where z are the logits minus the largest of them."""
    below = logits - logits.amax(dim=-1, keepdim=True)
    # 10⁻³⁵ of the largest is nothing; numbers below a float's normal range are ten times slower,
    # and 0 times −∞ would not be a number.
    below.clamp_(min=-80)
    mass = below.exp()
    total = mass.sum(dim=-1)
    mean: Tensor = torch.linalg.vecdot(mass, below) / total
    return total.log() - mean
