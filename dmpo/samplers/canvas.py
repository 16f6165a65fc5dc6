"""The canvas: prompts, completions as far as they are filled, and how each token got there."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dmpo.diffusion.draws import row_streams
from dmpo.policies.base import DiffusionPolicy, Known
from dmpo.records import Prompts, Rollouts, expand_rows
from dmpo.samplers.forward import StepInput

__all__ = ["Canvas", "through_first_eos"]


@final
class Canvas:
    """The B·N rows that one ``sample`` call fills; written in place.

    Positions ``at`` count from the first completion position; ``rows`` are S of the B·N.

    Args:
        policy: The model whose tokens these are.
        prompts: B prompts.
        gen_length: D.
        num_rollouts: N.
    """

    def __init__(
        self, policy: DiffusionPolicy, prompts: Prompts, gen_length: int, num_rollouts: int
    ) -> None:
        """Put D mask tokens behind each prompt, N times."""
        device = policy.device
        self._policy = policy
        self._prompts = prompts
        self._num_rollouts = num_rollouts
        self._prompt_length = prompts.tokens.shape[1]
        prompt_tokens = expand_rows(prompts.tokens.to(device), num_rollouts)
        prompt_mask = expand_rows(prompts.attention_mask.to(device), num_rollouts)
        shape = (prompt_tokens.shape[0], gen_length)
        noise = torch.full(shape, policy.mask_token_id, dtype=torch.long, device=device)
        self.hidden = torch.ones(shape, dtype=torch.bool, device=device)
        self._tokens = torch.cat([prompt_tokens, noise], dim=1)
        self._attention_mask = torch.cat([prompt_mask, self.hidden], dim=1)
        self._is_padded = not bool(prompts.attention_mask.all())
        self.completions = self._tokens[:, self._prompt_length :]  # a view of the same memory
        self._commit_step = torch.full(shape, -1, dtype=torch.long, device=device)
        self._log_probs = torch.zeros(shape, dtype=torch.float32, device=device)
        self._entropies = torch.zeros(shape, dtype=torch.float32, device=device)

    def streams(self, generator: torch.Generator) -> Int[Tensor, " S"]:
        """Return a stream of random numbers for each of the B·N rows."""
        num_prompts = len(self._prompts.examples)
        return row_streams(
            generator, num_prompts, self._num_rollouts, self._tokens.device
        ).flatten()

    @property
    def live_rows(self) -> Int[Tensor, " S"]:
        """Rows that still hide something, ascending."""
        return self.hidden.any(dim=1).nonzero().squeeze(1)

    def step_input(
        self,
        rows: Int[Tensor, " S"],
        at: Int[Tensor, "S K"],
        valid: Bool[Tensor, "S K"],
        *,
        block: tuple[int, int],
        step: int,
        has_equal_rows: bool,
    ) -> StepInput:
        """Return what a forward pass looks at."""
        everything = len(rows) == len(self._tokens)
        return StepInput(
            rows=rows,
            tokens=self._tokens if everything else self._tokens[rows],
            attention_mask=self._attention_mask if everything else self._attention_mask[rows],
            at=at + self._prompt_length,
            valid=valid,
            hidden_at=self.hidden[rows[:, None], at],
            prompt_length=self._prompt_length,
            block=(block[0] + self._prompt_length, block[1] + self._prompt_length),
            step=step,
            known=Known(is_padded=self._is_padded, has_equal_rows=has_equal_rows),
        )

    def equal_rows(self, rows: Int[Tensor, " S"]) -> Bool[Tensor, ""]:
        """Return whether some row is in every token what the one before it is."""
        everything = len(rows) == len(self._tokens)
        tokens = self._tokens if everything else self._tokens[rows]
        return (tokens[1:] == tokens[:-1]).all(dim=1).any()

    def write(
        self,
        rows: Int[Tensor, " S"],
        at: Int[Tensor, "S K"],
        tokens: Int[Tensor, "S K"],
        *,
        valid: Bool[Tensor, "S K"],
        revealed: Bool[Tensor, "S K"],
        forward: int,
    ) -> Bool[Tensor, "S K"]:
        """Reveal and hide positions as a step decided.

        Args:
            rows: Which rows the step was about.
            at: Positions, each at most once per row.
            tokens: What a position takes if it was hidden and is now revealed.
            valid: False on slots whose position stays as it is.
            revealed: True where the position is revealed after this step; hidden elsewhere.
            forward: Index of the forward pass that gave the tokens.

        Returns:
            True where a hidden position was revealed.
        """
        cells = (rows[:, None], at)
        was_hidden = self.hidden[cells]
        is_hidden = torch.where(valid, ~revealed, was_hidden)
        is_new = was_hidden & ~is_hidden
        written = torch.where(is_new, tokens, self.completions[cells])
        self.completions[cells] = written.masked_fill(is_hidden, self._policy.mask_token_id)
        self.hidden[cells] = is_hidden
        self._commit_step[cells] = self._commit_step[cells].masked_fill(is_new, forward)
        return is_new

    def record(
        self,
        rows: Int[Tensor, " S"],
        at: Int[Tensor, "S K"],
        log_probs: Float[Tensor, "S K"],
        is_new: Bool[Tensor, "S K"],
    ) -> None:
        """Keep the log-probabilities of the tokens that ``write`` called new."""
        cells = (rows[:, None], at)
        self._log_probs[cells] = torch.where(is_new, log_probs, self._log_probs[cells])

    def record_entropies(
        self,
        rows: Int[Tensor, " S"],
        at: Int[Tensor, "S K"],
        entropies: Float[Tensor, "S K"],
        is_new: Bool[Tensor, "S K"],
    ) -> None:
        """Keep the entropies of the distributions that the new tokens were drawn from.

        Args:
            rows: Which rows the step was about.
            at: Its positions.
            entropies: Looked at where ``is_new``.
            is_new: What ``write`` returned.
        """
        cells = (rows[:, None], at)
        self._entropies[cells] = torch.where(is_new, entropies, self._entropies[cells])

    def retire_ended(self, length: int, *, forward: int) -> None:
        """Fill rows that have an EOS among their first ``length`` tokens with EOS to the end.

        Args:
            length: Tokens of the finished blocks.
            forward: Index of the forward pass that finished them.
        """
        ended = (self.completions[:, :length] == self._policy.eos_token_id).any(dim=1)
        rest = ended[:, None] & self.hidden
        self.completions.masked_fill_(rest, self._policy.eos_token_id)
        self._commit_step.masked_fill_(rest, forward)
        self.hidden &= ~rest

    def rollouts(self, temperature: float, num_forwards: int, *, is_exact: bool) -> Rollouts:
        """Return the filled canvas; log-probabilities only if they are exact."""
        completions = self.completions.contiguous()
        answer_mask = through_first_eos(completions, self._policy.eos_token_id)
        texts = self._policy.decode(completions)
        starts = range(0, len(texts), self._num_rollouts)
        return Rollouts(
            prompts=self._prompts,
            completions=self._by_prompt(completions),
            answer_mask=self._by_prompt(answer_mask),
            commit_step=self._by_prompt(self._commit_step),
            log_probs=self._by_prompt(self._log_probs) if is_exact else None,
            entropies=self._by_prompt(self._entropies),
            temperature=temperature,
            num_forwards=num_forwards,
            texts=tuple(tuple(texts[start : start + self._num_rollouts]) for start in starts),
        )

    def _by_prompt(self, value: Tensor) -> Tensor:
        return value.reshape(-1, self._num_rollouts, value.shape[-1])


def through_first_eos(
    completions: Int[Tensor, "*rows D"], eos_token_id: int
) -> Bool[Tensor, "*rows D"]:
    """Return True up to and including the first EOS; all True where there is none."""
    is_eos = completions == eos_token_id
    return is_eos.cumsum(-1) - is_eos.long() == 0
