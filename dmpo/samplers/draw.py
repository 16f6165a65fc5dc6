"""Drawing tokens from logits, and the log-probability of what was drawn."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["draw_tokens", "tempered_log_probs"]


def draw_tokens(
    logits: Float[Tensor, "S K V"], temperature: float, generator: torch.Generator
) -> Int[Tensor, "S K"]:
    """Draw from softmax(logits / temperature) by the Gumbel-max trick; argmax at 0.

    The noise is float32: bfloat16 would cut its tail off, float64 gains nothing.

    Args:
        logits: Float32.
        temperature: At least 0.
        generator: Where the noise comes from; not touched at temperature 0.

    Returns:
        One token per position.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    noise = torch.empty(logits.shape, dtype=torch.float32, device=generator.device)
    # −log of an exponential variate is a Gumbel variate.
    noise = noise.exponential_(generator=generator).log_().to(logits.device)
    # argmax(logits / temperature + gumbel), without another tensor of this size.
    return noise.mul_(-temperature).add_(logits).argmax(dim=-1)


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
    chosen = scaled.gather(-1, tokens[..., None])[..., 0]
    return chosen - scaled.logsumexp(dim=-1)
