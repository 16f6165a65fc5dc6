"""The trainable module: a bidirectional transformer and its projection onto the vocabulary.

Everything that needs a gradient happens inside one ``forward``, so an engine may wrap the
module (DDP, FSDP, …) and sees all of it.
"""

from __future__ import annotations

from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["Denoiser", "mask_positions"]


def mask_positions(attention_mask: Bool[Tensor, "S T"]) -> Int[Tensor, "S T"]:
    """Return position ids counted over real tokens: 0 on the first one, and on padding."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


@final
class Denoiser(nn.Module):
    """Runs the transformer once and projects onto the vocabulary only where asked.

    Args:
        model: A transformers causal-LM class with its causal mask off (``.model`` is the body,
            ``.lm_head`` the projection), or PEFT's wrapper of one.
        logits_chunk: Positions projected at a time when log-probabilities are wanted.
        shifted: Whether the hidden state at i − 1 speaks for the token at i, as in backbones
            grown out of autoregressive ones; the first token keeps its own.
    """

    def __init__(self, model: nn.Module, *, logits_chunk: int, shifted: bool = False) -> None:
        """Keep the model as a submodule."""
        super().__init__()
        self.model = model
        self.logits_chunk = logits_chunk
        self.shifted = shifted

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself, with adapters' layers in place but no wrapper."""
        unwrap = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    def forward(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        *,
        at: Int[Tensor, "S K"] | None = None,
        where: Bool[Tensor, "S T"] | None = None,
        targets: Int[Tensor, "S T"] | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "S K V"] | Float[Tensor, "S T"]:
        """Return logits at ``at``, or log-probabilities of ``targets`` at ``where``.

        Args:
            tokens: The noised sequences.
            attention_mask: True on real tokens.
            at: Positions whose logits are wanted.
            where: Positions whose log-probabilities are wanted; given together with targets.
            targets: The tokens to score.
            temperature: Logits are divided by it before they are normalised.

        Returns:
            Logits [S, K, V], or log-probabilities [S, T] in nats that are zero outside
            ``where``; float32 either way.
        """
        hidden = self._hidden(tokens, attention_mask)
        if at is not None:
            index = at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
            return cast("Tensor", self.causal_lm.lm_head(hidden.gather(1, index))).float()
        if where is None or targets is None:
            raise ValueError("either `at`, or `where` and `targets`, must be given")
        scores = self._scores(hidden[where], targets[where], temperature)
        return scores.new_zeros(tokens.shape).masked_scatter(where, scores)

    def _hidden(
        self, tokens: Int[Tensor, "S T"], attention_mask: Bool[Tensor, "S T"]
    ) -> Float[Tensor, "S T H"]:
        # Without padding neither a mask nor position ids are needed, and the attention kernels
        # without a mask are the fast ones.
        padded = not bool(attention_mask.all())
        hidden: Tensor = self.causal_lm.model(
            input_ids=tokens,
            attention_mask=attention_mask if padded else None,
            position_ids=mask_positions(attention_mask) if padded else None,
            use_cache=False,
        ).last_hidden_state
        return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1) if self.shifted else hidden

    def _scores(
        self, hidden: Float[Tensor, "M H"], targets: Int[Tensor, " M"], temperature: float
    ) -> Float[Tensor, " M"]:
        """Return log-probabilities chunk by chunk; chunks are recomputed for the gradient."""
        chunks = range(0, hidden.shape[0], self.logits_chunk)
        if len(chunks) <= 1:
            return self._score_chunk(hidden, targets, temperature)
        recompute = torch.is_grad_enabled() and hidden.requires_grad
        parts = []
        for start in chunks:
            rows = slice(start, start + self.logits_chunk)
            arguments = (hidden[rows], targets[rows], temperature)
            if recompute:
                part = checkpoint(
                    self._score_chunk, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                part = self._score_chunk(*arguments)
            parts.append(part)
        return torch.cat(parts)

    def _score_chunk(
        self, hidden: Float[Tensor, "M H"], targets: Int[Tensor, " M"], temperature: float
    ) -> Float[Tensor, " M"]:
        logits = self.causal_lm.lm_head(hidden).float()
        if temperature != 1.0:
            logits = logits / temperature
        return -F.cross_entropy(logits, targets, reduction="none")
