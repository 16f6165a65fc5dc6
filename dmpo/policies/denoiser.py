"""The trainable module: a bidirectional transformer and its projection onto the vocabulary.

Everything that needs a gradient happens inside one ``forward``, so an engine may wrap the
module (DDP, FSDP, …) and sees all of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dmpo.errors import ConfigError
from dmpo.policies.flops import ModelPass
from dmpo.policies.kernels import fused_log_probs
from dmpo.policies.kv_cache import KeyValueCache

__all__ = ["Denoiser", "begins_run", "mask_positions"]


def mask_positions(attention_mask: Bool[Tensor, "S T"]) -> Int[Tensor, "S T"]:
    """Return position ids counted over real tokens: 0 on the first one, and on padding."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def begins_run(
    tokens: Int[Tensor, "S T"], attention_mask: Bool[Tensor, "S T"]
) -> Bool[Tensor, " S"]:
    """Return False on rows that equal the one before them in every real token.

    A model says the same of equal rows. They come in runs: all rollouts of a prompt are one
    row before the first token is drawn, and again where a likelihood hides the whole canvas.
    """
    differs = (tokens[1:] != tokens[:-1]) & attention_mask[1:]
    differs |= attention_mask[1:] != attention_mask[:-1]
    return functional.pad(differs.any(dim=1), (1, 0), value=True)


@final
class Denoiser(nn.Module):
    """Runs the transformer once and projects onto the vocabulary only where asked.

    Args:
        model: A transformers causal-LM class with its causal mask off (``.model`` is the body,
            ``.lm_head`` the projection), or PEFT's wrapper of one.
        logits_chunk: Positions projected at a time when log-probabilities are wanted.
        shifted: Whether the hidden state at i − 1 speaks for the token at i, as in backbones
            grown out of autoregressive ones; the first token keeps its own.
        fuses: Whether Liger's kernel makes log-probabilities, on CUDA where it is installed.

    ``replays`` is set where blocks run as CUDA graphs. ``last_pass`` says what the latest call
    ran over.
    """

    def __init__(
        self, model: nn.Module, *, logits_chunk: int, shifted: bool = False, fuses: bool = True
    ) -> None:
        """Keep the model as a submodule."""
        super().__init__()
        self.model = model
        self.logits_chunk = logits_chunk
        self.shifted = shifted
        self.fuses = fuses
        self.replays = False
        self.last_pass = ModelPass()

    @property
    def _no_split_modules(self) -> Any:
        """Names of the classes whose modules sharding leaves in one piece: a block each."""
        return getattr(self.causal_lm, "_no_split_modules", None)

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself, with adapters' layers in place but no wrapper."""
        unwrap = getattr(self.model, "get_base_model", None)
        return self.model if unwrap is None else unwrap()

    def forward(
        self,
        tokens: Int[Tensor, "U T"],
        attention_mask: Bool[Tensor, "U T"],
        *,
        row_of: Int[Tensor, " S"] | None = None,
        at: Int[Tensor, "S K"] | None = None,
        where: Bool[Tensor, "S T"] | None = None,
        targets: Int[Tensor, "S T"] | None = None,
        temperature: float = 1.0,
        cache: KeyValueCache | None = None,
        window: tuple[int, int] | None = None,
        visible: Bool[Tensor, "U T T"] | None = None,
        position_ids: Int[Tensor, "U T"] | None = None,
        padded: bool | None = None,
    ) -> Float[Tensor, "S K V"] | Float[Tensor, "S T"]:
        """Return logits at ``at``, or log-probabilities of ``targets`` at ``where``.

        Args:
            tokens: The noised sequences.
            attention_mask: True on real tokens.
            row_of: Which sequence each row of what follows looks at; None: every row at its own.
            at: Positions whose logits are wanted.
            where: Positions whose log-probabilities are wanted; given together with targets.
            targets: The tokens to score.
            temperature: Logits are divided by it before they are normalised.
            cache: Keys and values to be filled, or to be used and updated.
            window: The positions to run over with a filled cache: first, and behind the last.
            visible: Which token sees which; None: every real token sees every real token.
            position_ids: Given together with ``visible``.
            padded: Whether there may be padding; None: it is looked for.

        Returns:
            Logits [S, K, V], or log-probabilities [S, T] in nats that are zero outside
            ``where``; float32 either way.
        """
        if self.replays:
            # What the pass before gave is used up.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        if row_of is None:
            row_of = torch.arange(tokens.shape[0], device=tokens.device)
        if visible is not None:
            hidden, start = self._hidden_as_told(tokens, visible, position_ids), 0
        elif cache is not None:
            hidden, start = self._windowed_hidden(tokens, attention_mask, cache, window)
        else:
            hidden, start = self._hidden(tokens, attention_mask, padded), 0
        self.last_pass = ModelPass(
            rows=hidden.shape[0], queries=hidden.shape[1], keys=tokens.shape[1]
        )
        if at is not None:
            self.last_pass = replace(self.last_pass, projected=at.numel())
            return cast(
                "Tensor", self.causal_lm.lm_head(hidden[row_of[:, None], at - start])
            ).float()
        if where is None or targets is None:
            raise ValueError("either `at`, or `where` and `targets`, must be given")
        row, column = where.nonzero(as_tuple=True)
        position = row_of[row] * tokens.shape[1] + column
        scores = self._scores(hidden.flatten(0, 1), position, targets[where], temperature)
        return scores.new_zeros(where.shape).masked_scatter(where, scores)

    def _hidden(
        self,
        tokens: Int[Tensor, "U T"],
        attention_mask: Bool[Tensor, "U T"],
        padded: bool | None,
    ) -> Float[Tensor, "U T H"]:
        # Without padding neither a mask nor position ids are needed, and the attention kernels
        # without a mask are the fast ones.
        if padded is None:
            padded = not bool(attention_mask.all())
        hidden: Tensor = self.causal_lm.model(
            input_ids=tokens,
            attention_mask=attention_mask if padded else None,
            position_ids=mask_positions(attention_mask) if padded else None,
            use_cache=False,
        ).last_hidden_state
        return self._aligned(hidden)

    def _windowed_hidden(
        self,
        tokens: Int[Tensor, "U T"],
        attention_mask: Bool[Tensor, "U T"],
        cache: KeyValueCache,
        window: tuple[int, int] | None,
    ) -> tuple[Float[Tensor, "U W H"], int]:
        """Run over the window alone; the first time, to fill the cache, over everything.

        Returns:
            Hidden states that speak for the tokens of the window, and where the first stands.
        """
        start, end = window if window is not None and cache.is_filled else (0, tokens.shape[1])
        # Where the state before a token speaks for it, the window's first token needs that one.
        first = max(start - 1, 0) if self.shifted else start
        if cache.is_padded is None:  # asked once: rows only become fewer
            cache.is_padded = not bool(attention_mask.all())
        padded = cache.is_padded
        cache.open_window(first)
        hidden: Tensor = self.causal_lm.model(
            input_ids=tokens[:, first:end],
            attention_mask=attention_mask if padded else None,
            position_ids=mask_positions(attention_mask)[:, first:end],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self._aligned(hidden), first

    def _hidden_as_told(
        self,
        tokens: Int[Tensor, "U T"],
        visible: Bool[Tensor, "U T T"],
        position_ids: Int[Tensor, "U T"] | None,
    ) -> Float[Tensor, "U T H"]:
        model = self.causal_lm
        kernel = model.config._attn_implementation
        if self.shifted or kernel not in ("sdpa", "eager"):
            reason = "predicts shifted tokens" if self.shifted else f"runs {kernel} attention"
            raise ConfigError(
                f"sampler: wino needs a policy whose attention can be masked token by token, by "
                f"the kernels sdpa or eager; this one {reason}."
            )
        mask = visible.unsqueeze(1)
        if kernel == "eager":  # which adds its mask to the scores
            dtype = model.get_output_embeddings().weight.dtype
            hide = torch.zeros((), dtype=dtype, device=mask.device)
            mask = torch.where(mask, hide, torch.finfo(dtype).min)
        hidden: Tensor = model.model(
            input_ids=tokens, attention_mask=mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return hidden

    def _aligned(self, hidden: Float[Tensor, "U W H"]) -> Float[Tensor, "U W H"]:
        """Put the state that speaks for each token at its place."""
        return torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1) if self.shifted else hidden

    def _scores(
        self,
        hidden: Float[Tensor, "X H"],
        position: Int[Tensor, " M"],
        targets: Int[Tensor, " M"],
        temperature: float,
    ) -> Float[Tensor, " M"]:
        """Return log-probabilities of the targets at positions of the flattened sequences.

        A position is projected once, however many targets it has. Several chunks are projected
        again for the gradient.
        """
        if self.fuses and temperature == 1.0:
            fused = fused_log_probs(hidden[position], self.causal_lm.lm_head, targets)
            if fused is not None:
                again = len(position) if fused.requires_grad else 0
                self.last_pass = replace(self.last_pass, projected=len(position), reprojected=again)
                return fused
        position, order = position.sort(stable=True)
        distinct, nth = torch.unique_consecutive(position, return_inverse=True)
        sizes = (nth // self.logits_chunk).bincount(minlength=1).tolist()
        chunks = zip(
            torch.split(hidden[distinct], self.logits_chunk),
            torch.split(nth % self.logits_chunk, sizes),
            torch.split(targets[order], sizes),
            strict=True,
        )
        recompute = len(sizes) > 1 and torch.is_grad_enabled() and hidden.requires_grad
        projected = len(distinct)
        self.last_pass = replace(
            self.last_pass, projected=projected, reprojected=projected if recompute else 0
        )
        score = self._recomputed_chunk if recompute else self._score_chunk
        scores = torch.cat([score(*chunk, temperature) for chunk in chunks])
        return torch.empty_like(scores).index_copy(0, order, scores)

    def _score_chunk(
        self,
        hidden: Float[Tensor, "C H"],
        index: Int[Tensor, " M"],
        targets: Int[Tensor, " M"],
        temperature: float,
    ) -> Float[Tensor, " M"]:
        """Return log-probabilities of targets, each at the hidden state that ``index`` names."""
        logits = self.causal_lm.lm_head(hidden).float()
        if temperature != 1.0:
            logits = logits / temperature
        return cast("Tensor", logits.log_softmax(dim=-1)[index, targets])

    def _recomputed_chunk(self, *chunk: Tensor | float) -> Float[Tensor, " M"]:
        """Return :meth:`_score_chunk`, whose logits are made again for the gradient."""
        scores = checkpoint(
            self._score_chunk, *chunk, use_reentrant=False, preserve_rng_state=False
        )
        return cast("Tensor", scores)
