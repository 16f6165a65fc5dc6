"""What flows between the rooms: one frozen record per arrow of Algorithm 1.

One legend of axes holds everywhere:

| letter | axis |
| --- | --- |
| B | prompts in a buffer |
| N | rollouts of one prompt: a *group* |
| S | rows, S = B·N flattened group by group, or a slice of them |
| P | prompt positions, padded on the left |
| D | completion positions: the canvas that a sampler fills |
| T | all positions, T = P + D |
| R | views of one rollout: noised copies that a likelihood looks at |
| K | requested positions |
| V | vocabulary (rows of the output projection) |

Masks are boolean. Log-probabilities are in nats and kept in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Batch",
    "Example",
    "Experience",
    "LogRatio",
    "LossOutput",
    "Prompts",
    "Rewards",
    "Rollouts",
    "Split",
    "Views",
    "Weights",
    "expand_rows",
    "first_used_column",
]

Split = Literal["train", "validation", "test"]
"""The three disjoint parts of a task."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One problem of a task."""

    prompt: str
    """What the policy reads."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What a grader or a reward function reads beside the prompt: answer, puzzle, …"""
    prefill: str = ""
    """The beginning of the answer that the policy is given; a completion is what follows it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """A batch of encoded prompts, padded on the left."""

    examples: tuple[Example, ...]
    """The B problems, in row order."""
    tokens: Int[Tensor, "B P"]
    """Token ids; padding positions hold the pad id and are never looked at."""
    attention_mask: Bool[Tensor, "B P"]
    """True on real tokens."""
    index: Int[Tensor, " B"] | None = None
    """Place of each prompt in the order of the run, over all processes: what is drawn for it
    depends on this alone. None: the prompts are told apart by their rows."""

    def rows(self, rows: Sequence[int]) -> Prompts:
        """Return the named prompts, in that order; padding stays."""
        at = torch.tensor(rows, dtype=torch.long)
        there = at.to(self.tokens.device)
        return Prompts(
            examples=tuple(self.examples[row] for row in rows),
            tokens=self.tokens[there],
            attention_mask=self.attention_mask[there],
            index=None if self.index is None else self.index[at],
        )

    def trimmed(self) -> Prompts:
        """Leave out the columns on the left in which no prompt has a token."""
        first = first_used_column(self.attention_mask)
        if first == 0:
            return self
        return replace(
            self, tokens=self.tokens[:, first:], attention_mask=self.attention_mask[:, first:]
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollouts:
    """N completions for each of B prompts, as a sampler produced them."""

    prompts: Prompts
    """The prompts they answer."""
    completions: Int[Tensor, "B N D"]
    """Token ids of the filled canvas."""
    answer_mask: Bool[Tensor, "B N D"]
    """True up to and including the first EOS; all True where there is none."""
    commit_step: Int[Tensor, "B N D"]
    """Denoising step (from 0) at which each token was fixed."""
    log_probs: Float[Tensor, "B N D"] | None
    """Log-probability of each token at the moment it was drawn, in nats, at ``temperature``.

    Their sum is the exact log-probability of the path under the behaviour policy. None where
    the unmasking rule looked at the drawn tokens, where guidance was used or at temperature 0:
    there the tokens were not drawn from the policy's own distribution."""
    temperature: float
    """Sampling temperature; 0 means argmax."""
    num_forwards: int
    """Forward passes of the policy, each over the whole batch."""
    texts: tuple[tuple[str, ...], ...]
    """Decoded completions, B times N; special tokens left out."""
    entropies: Float[Tensor, "B N D"] | None = None
    """Entropy of the untempered distribution each token was drawn from, in nats (DMPO, Appendix
    C.3); None where the sampler does not say."""

    @property
    def num_prompts(self) -> int:
        """B."""
        return self.completions.shape[0]

    @property
    def num_rollouts(self) -> int:
        """N."""
        return self.completions.shape[1]

    @property
    def num_rows(self) -> int:
        """S = B·N."""
        return self.num_prompts * self.num_rollouts

    def groups(self, index: Sequence[int]) -> Rollouts:
        """Return the rollouts of the named prompts, in that order."""
        at = torch.tensor(index, dtype=torch.long, device=self.completions.device)
        entropies = self.entropies
        return replace(
            self,
            prompts=self.prompts.rows(index),
            completions=self.completions[at],
            answer_mask=self.answer_mask[at],
            commit_step=self.commit_step[at],
            log_probs=None if self.log_probs is None else self.log_probs[at],
            entropies=None if entropies is None else entropies[at],
            texts=tuple(self.texts[i] for i in index),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards:
    """What a reward model says of each rollout."""

    total: Float[Tensor, "B N"]
    """The number that training maximises. Higher is better."""
    components: Mapping[str, Float[Tensor, "B N"]]
    """The named parts the total was made of, for the log."""

    def groups(self, index: Sequence[int]) -> Rewards:
        """Return the rewards of the named prompts, in that order."""
        at = torch.tensor(index, dtype=torch.long, device=self.total.device)
        return Rewards(
            total=self.total[at],
            components={name: values[at] for name, values in self.components.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """Noised copies of each rollout, and how their token log-probabilities are added up."""

    hidden: Bool[Tensor, "*rows R D"]
    """True where the completion token is hidden from the policy. Leading axes: B N, or S."""
    coefficient: Float[Tensor, "*rows R D"]
    """Factor of log π(o_d | view r) in the likelihood; zero outside ``hidden``."""
    prompt_hidden: Bool[Tensor, "*rows R P"] | None = None
    """True where a prompt token is hidden as well (diffu-GRPO); None: the prompt is whole."""
    temperature: float = 1.0
    """Temperature at which log π is read: 1, or the one the tokens were drawn at."""
    threshold: float = 0.0
    """Tokens whose probability under the policy that reads the view is below it do not count,
    unless ``always`` names them."""
    always: Bool[Tensor, "*rows R D"] | None = None
    """True on tokens that count whatever their probability; None: none of them."""

    def flatten_rows(self) -> Views:
        """Return the same views with B and N merged into S."""
        return self._each(lambda value: value.flatten(0, 1))

    def rows(self, rows: slice | Int[Tensor, " k"]) -> Views:
        """Return the views of some rows; needs the flattened form [S, R, …]."""
        return self._each(lambda value: value[rows])

    def some(self, views: slice) -> Views:
        """Return some of the views of every row; needs the flattened form [S, R, …]."""
        return self._each(lambda value: value[:, views])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Views:
        prompt, always = self.prompt_hidden, self.always
        return replace(
            self,
            hidden=change(self.hidden),
            coefficient=change(self.coefficient),
            prompt_hidden=None if prompt is None else change(prompt),
            always=None if always is None else change(always),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogRatio:
    """log p_ref − log p_v of every rollout."""

    value: Float[Tensor, "B N"]
    """In nats."""
    standard_error: Float[Tensor, "B N"] | None
    """Standard error of ``value`` over the likelihood's independent replicates, in nats; zero
    for an exact likelihood, None where a single replicate cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """Weights of the rollouts of a buffer, before a baseline is subtracted."""

    values: Float[Tensor, "B N"]
    """Mean 1 in each group for `tilted` and `linear`; the advantage for `advantage`."""
    log_weights: Float[Tensor, "B N"] | None
    """ℓ, what the link was applied to, in nats; None for `advantage`."""
    ess: Float[Tensor, " B"]
    """Effective sample size of each group as a fraction of N, (Σw)²/(N Σw²)."""
    coefficient: Float[Tensor, " B"]
    """The proximal coefficient c that was used for each prompt."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Experience:
    """Everything frozen about one buffer, made once and used for F gradient steps."""

    rollouts: Rollouts
    """The rollouts of the buffer."""
    rewards: Rewards
    """Their rewards."""
    weights: Weights
    """Their weights, baseline not yet subtracted."""
    baseline_weights: Float[Tensor, "B N"] | None
    """w_base where it does not depend on the current policy; None where it does."""
    log_ratio: LogRatio | None
    """log p_ref − log p_v; None where no reference is needed."""
    views: tuple[Views, ...]
    """Stored views [B, N, R, …]: one set shared by every update, or one per update, or none."""
    behaviour_log_probs: tuple[Float[Tensor, "B N R D"], ...]
    """Token log-probabilities under the behaviour policy on ``views``; may be empty."""
    reference_log_probs: tuple[Float[Tensor, "B N R D"], ...]
    """The same under the reference; empty where it is not needed."""
    view_weights: Float[Tensor, "B N R"] | None = None
    """A weight per view in place of one per rollout (one advantage per denoising step)."""
    view_targets: Int[Tensor, "B N R D"] | None = None
    """Tokens that each view is trained towards in place of the rollout's own (wd1++)."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the log says about this buffer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one gradient step looks at: rows with their views and weights, all draws made.

    Any slice of rows is a Batch again (``rows``), and the losses of the slices add up to the
    loss of the whole, because every normaliser is that of the whole buffer.
    """

    prompt_tokens: Int[Tensor, "S P"]
    """Prompt token ids."""
    prompt_mask: Bool[Tensor, "S P"]
    """True on real prompt tokens."""
    completions: Int[Tensor, "S D"]
    """Completion token ids."""
    answer_mask: Bool[Tensor, "S D"]
    """True up to and including the first EOS."""
    views: Views
    """Views [S, R, …] of these rows."""
    weights: Float[Tensor, " S"] | Float[Tensor, "S R"]
    """Real weight of each row: weight minus λ times baseline, or the advantage; or one of each
    view."""
    behaviour_log_probs: Float[Tensor, "S R D"] | None
    """Stored token log-probabilities of the behaviour policy on these views, if needed."""
    reference_log_probs: Float[Tensor, "S R D"] | None
    """The same of the reference, if needed."""
    num_rows_in_buffer: int | float
    """Rows of the whole buffer, all slices together; of several processes their mean, because
    they take the mean of their gradients."""
    num_tokens_in_buffer: float
    """Scored completion tokens of the whole buffer, each as often as its views weigh it; of several
    processes their mean."""
    view_targets: Int[Tensor, "S R D"] | None = None
    """Tokens that each view is trained towards in place of ``completions``."""
    row_weights: Float[Tensor, " S"] | None = None
    """What all views of a row weigh together, where a loss divides by it (ratios)."""
    share_kept: float = 1.0
    """Share of the buffer's rows that the step looks at; the others weigh nothing."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was learnt while drawing, for the log."""

    @property
    def num_rows(self) -> int:
        """S of this slice."""
        return self.completions.shape[0]

    def rows(self, rows: slice | Int[Tensor, " k"]) -> Batch:
        """Return the batch of some rows; normalisers stay those of the buffer."""
        behaviour, reference = self.behaviour_log_probs, self.reference_log_probs
        targets, row_weights = self.view_targets, self.row_weights
        return replace(
            self,
            prompt_tokens=self.prompt_tokens[rows],
            prompt_mask=self.prompt_mask[rows],
            completions=self.completions[rows],
            answer_mask=self.answer_mask[rows],
            views=self.views.rows(rows),
            weights=self.weights[rows],
            behaviour_log_probs=None if behaviour is None else behaviour[rows],
            reference_log_probs=None if reference is None else reference[rows],
            view_targets=None if targets is None else targets[rows],
            row_weights=None if row_weights is None else row_weights[rows],
        )

    @property
    def weight_sizes(self) -> Float[Tensor, " S"]:
        """|w| of each row; of several views, the largest."""
        size = self.weights.abs()
        return size if size.dim() == 1 else size.amax(dim=1)

    def kept(self, where: Bool[Tensor, " S"]) -> Batch:
        """Return the rows at ``where``; normalisers stay, so the others count as 0."""
        rows = where.nonzero().squeeze(1)
        share = self.share_kept * len(rows) / max(1, self.num_rows)
        return replace(self.rows(rows), share_kept=share)

    def by_length(self) -> Batch:
        """Return the rows with the shortest prompts first, so that slices hold little padding."""
        lengths = self.prompt_mask.sum(dim=1)
        if bool((lengths == lengths[:1]).all()):
            return self
        return self.rows(lengths.argsort(stable=True))

    def split(self, num_rows: int, num_views: int | None = None) -> Sequence[Batch]:
        """Cut into slices of at most ``num_rows`` rows.

        Args:
            num_rows: At least 1.
            num_views: Cut the views of the rows apart, too, for losses that are sums over them.
        """
        starts = range(0, self.num_rows, num_rows)
        slices = [self.rows(slice(start, start + num_rows)) for start in starts]
        if num_views is None:
            return slices
        starts = range(0, self.views.hidden.shape[1], num_views)
        return [
            piece._some_views(slice(start, start + num_views))
            for piece in slices
            for start in starts
        ]

    def _some_views(self, views: slice) -> Batch:
        behaviour, reference = self.behaviour_log_probs, self.reference_log_probs
        targets, weights = self.view_targets, self.weights
        return replace(
            self,
            views=self.views.some(views),
            weights=weights if weights.dim() == 1 else weights[:, views],
            behaviour_log_probs=None if behaviour is None else behaviour[:, views],
            reference_log_probs=None if reference is None else reference[:, views],
            view_targets=None if targets is None else targets[:, views],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossOutput:
    """Loss of a slice of rows, normalised by the counts of the whole buffer."""

    loss: Float[Tensor, ""]
    """Differentiable; the sum over slices is the loss of the step."""
    metrics: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Detached parts, normalised like the loss, so they add up over slices too."""


def first_used_column(mask: Bool[Tensor, "S P"]) -> int:
    """Return the first column that is True in any row; 0 if there is none."""
    return int(mask.any(dim=0).to(torch.uint8).argmax()) if mask.numel() else 0


def expand_rows(value: Tensor, num_rollouts: int) -> Tensor:
    """Repeat each of B rows N times, group by group: [B, …] → [B·N, …]."""
    return torch.repeat_interleave(value, num_rollouts, dim=0)
