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

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """A batch of encoded prompts, padded on the left."""

    examples: tuple[Example, ...]
    """The B problems, in row order."""
    tokens: Int[Tensor, "B P"]
    """Token ids; padding positions hold the pad id and are never looked at."""
    attention_mask: Bool[Tensor, "B P"]
    """True on real tokens."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewards:
    """What a reward model says of each rollout."""

    total: Float[Tensor, "B N"]
    """The number that training maximises. Higher is better."""
    components: Mapping[str, Float[Tensor, "B N"]]
    """The named parts the total was made of, for the log."""


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

    def flatten_rows(self) -> Views:
        """Return the same views with B and N merged into S."""
        prompt = self.prompt_hidden
        return replace(
            self,
            hidden=self.hidden.flatten(0, 1),
            coefficient=self.coefficient.flatten(0, 1),
            prompt_hidden=None if prompt is None else prompt.flatten(0, 1),
        )

    def rows(self, rows: slice) -> Views:
        """Return the views of a slice of rows; needs the flattened form [S, R, …]."""
        prompt = self.prompt_hidden
        return replace(
            self,
            hidden=self.hidden[rows],
            coefficient=self.coefficient[rows],
            prompt_hidden=None if prompt is None else prompt[rows],
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
    weights: Float[Tensor, " S"]
    """Real weight of each row: weight minus λ times baseline, or the advantage."""
    behaviour_log_probs: Float[Tensor, "S R D"] | None
    """Stored token log-probabilities of the behaviour policy on these views, if needed."""
    reference_log_probs: Float[Tensor, "S R D"] | None
    """The same of the reference, if needed."""
    num_rows_in_buffer: int
    """Rows of the whole buffer (of all slices together)."""
    num_tokens_in_buffer: int
    """Scored completion tokens of the whole buffer."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was learnt while drawing, for the log."""

    @property
    def num_rows(self) -> int:
        """S of this slice."""
        return self.completions.shape[0]

    def rows(self, rows: slice) -> Batch:
        """Return the batch of a slice of rows; normalisers stay those of the buffer."""
        behaviour, reference = self.behaviour_log_probs, self.reference_log_probs
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
        )

    def split(self, num_rows: int) -> Sequence[Batch]:
        """Cut into slices of at most ``num_rows`` rows."""
        starts = range(0, self.num_rows, num_rows)
        return [self.rows(slice(start, start + num_rows)) for start in starts]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LossOutput:
    """Loss of a slice of rows, normalised by the counts of the whole buffer."""

    loss: Float[Tensor, ""]
    """Differentiable; the sum over slices is the loss of the step."""
    metrics: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Detached parts, normalised like the loss, so they add up over slices too."""


def expand_rows(value: Tensor, num_rollouts: int) -> Tensor:
    """Repeat each of B rows N times, group by group: [B, …] → [B·N, …]."""
    return torch.repeat_interleave(value, num_rollouts, dim=0)
