"""From graded completions to figures with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmpo.evaluation.figures import Figure, pass_at_k, pooled, powers_up_to, summarize

__all__ = [
    "EvaluatedChunk",
    "EvaluatedCompletion",
    "EvaluationResult",
    "distinct_right",
    "majorities",
    "passes_at",
    "evaluation_result",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedCompletion:
    """One completion with its grades."""

    index: int
    """Position of the problem in the split."""
    prompt: str
    """What the policy read."""
    completion: str
    """What it wrote."""
    answer: str | None
    """The answer in the task's canonical form, if one could be read."""
    grades: Mapping[str, float]
    """The task's figures."""
    length: int | None
    """Effective tokens: those of the answer, the first EOS included; None: not known."""
    num_questions: int = 1
    """How many yes-or-no questions the headline figure is a share of."""
    entropy: float | None = None
    """Entropy of the distribution that a token of the answer was drawn from, before temperature,
    mean in nats; None where the sampler does not record it."""
    prefill: str = ""
    """The beginning of the answer that the policy was given."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What the grader read beside the prompt, so that the completion can be graded again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedChunk:
    """The completions that were sampled at once."""

    first_index: int
    """Position of the first problem in the split."""
    num_forwards: int
    """Forward passes of the policy."""
    seconds: float
    """Sampling and grading."""
    completions: tuple[EvaluatedCompletion, ...]
    """Problem by problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation found."""

    split: str
    """Part of the task that was used."""
    headline: str
    """The figure that stands first."""
    accuracy: float
    """The headline over all its questions, each counted once: for Sudoku, right cells over blank
    cells. The mean of the headline figure where every problem is one question."""
    accuracy_interval: tuple[float, float]
    """Ends of its 95% interval."""
    figures: Mapping[str, Figure]
    """Every figure of the task's grader, the headline first; means over problems."""
    num_examples: int
    """Problems tried."""
    samples_per_prompt: int
    """Completions of each."""
    response_length: float | None
    """Mean effective tokens: those of the answer, the first EOS included; None: not known."""
    distinct_right: float | None
    """Mean number of distinct right answers per problem; None with one sample each."""
    num_forwards: int
    """Forward passes of the policy, over all batches; 0 where completions were read."""
    seconds: float
    """Sampling and grading, added up over processes."""
    tokens_per_second: float | None
    """Effective tokens per second of one process; None where completions were read."""
    completions: tuple[EvaluatedCompletion, ...]
    """Every completion, problem by problem."""
    pass_at: Mapping[int, Figure] = field(default_factory=dict)
    """pass@k of the headline (a grade of 1 is right) for k = 1, 2, 4, …; empty with one sample."""
    majority: Figure | None = None
    """The headline of the answer that most samples of a problem agree on; None with one sample."""
    entropy: float | None = None
    """Entropy of the distribution that an answer token was drawn from, before temperature, mean
    over answer tokens in nats; None where the sampler does not record it."""

    @property
    def score(self) -> float:
        """Mean of the headline figure."""
        return self.figures[self.headline].mean


def evaluation_result(
    chunks: Sequence[EvaluatedChunk], *, headline: str, split: str
) -> EvaluationResult:
    """Return the figures of chunks that together hold every problem once.

    Args:
        chunks: In any order; every problem has the same number of samples.
        headline: The figure that stands first.
        split: Where the problems are from.

    Returns:
        Figures over all problems, in the order of the split.
    """
    completions = [
        completion
        for chunk in sorted(chunks, key=lambda chunk: chunk.first_index)
        for completion in chunk.completions
    ]
    groups = _by_problem(completions)
    samples = len(groups[0])
    names = [headline, *(name for name in completions[0].grades if name != headline)]
    figures = {n: summarize([[c.grades[n] for c in group] for group in groups]) for n in names}
    lengths = [completion.length or 0 for completion in completions]
    accuracy = _accuracy(groups, headline, figures[headline])
    is_sampled = any(chunk.num_forwards for chunk in chunks)
    seconds = sum(chunk.seconds for chunk in chunks)
    return EvaluationResult(
        split=split,
        headline=headline,
        accuracy=accuracy.mean,
        accuracy_interval=(accuracy.low, accuracy.high),
        figures=figures,
        num_examples=len(groups),
        samples_per_prompt=samples,
        response_length=sum(lengths) / len(lengths) if any(lengths) else None,
        distinct_right=distinct_right(groups, headline) if samples > 1 else None,
        num_forwards=sum(chunk.num_forwards for chunk in chunks),
        seconds=seconds,
        tokens_per_second=sum(lengths) / seconds if is_sampled else None,
        completions=tuple(completions),
        pass_at=passes_at(groups, headline) if samples > 1 else {},
        majority=majorities(groups, headline) if samples > 1 else None,
        entropy=_entropy(completions),
    )


def distinct_right(groups: Sequence[Sequence[EvaluatedCompletion]], headline: str) -> float:
    """Return the mean number of distinct answers per problem whose headline figure is 1."""
    right = [{c.answer for c in group if c.grades[headline] == 1} for group in groups]
    return sum(map(len, right)) / len(right)


def passes_at(groups: Sequence[Sequence[EvaluatedCompletion]], headline: str) -> dict[int, Figure]:
    """Return pass@k over problems, for k = 1, 2, 4, … and the number of samples."""
    num_samples = len(groups[0])
    right = [sum(c.grades[headline] == 1 for c in group) for group in groups]
    return {
        k: summarize([[pass_at_k(num_samples, count, k)] for count in right])
        for k in powers_up_to(num_samples)
    }


def majorities(groups: Sequence[Sequence[EvaluatedCompletion]], headline: str) -> Figure:
    """Return the headline of each problem's most frequent answer (Wang et al. 2022, 2203.11171).

    Of equally frequent ones the first counts; where no sample has an answer, the grade is that
    of the first sample.
    """
    chosen = []
    for group in groups:
        votes = Counter(c.answer for c in group if c.answer is not None)
        winner = votes.most_common(1)[0][0] if votes else group[0].answer
        chosen.append([next(c.grades[headline] for c in group if c.answer == winner)])
    return summarize(chosen)


def _by_problem(completions: Sequence[EvaluatedCompletion]) -> list[list[EvaluatedCompletion]]:
    groups: dict[int, list[EvaluatedCompletion]] = {}
    for completion in completions:
        groups.setdefault(completion.index, []).append(completion)
    return list(groups.values())


def _accuracy(
    groups: Sequence[Sequence[EvaluatedCompletion]], headline: str, figure: Figure
) -> Figure:
    sizes = [group[0].num_questions for group in groups]
    if len(set(sizes)) == 1:
        return figure
    return pooled([[c.grades[headline] for c in group] for group in groups], sizes)


def _entropy(completions: Sequence[EvaluatedCompletion]) -> float | None:
    known = [
        (completion.entropy, completion.length)
        for completion in completions
        if completion.entropy is not None and completion.length
    ]
    if not known:
        return None
    return sum(entropy * length for entropy, length in known) / sum(length for _, length in known)
