"""p_θ(o | q) of any policy, by enumeration: short responses over a small alphabet.

For four digits: 10^4 responses, 24 orders, and 4,641 partly hidden canvases, each run through
the model once. What a response is made of outside the alphabet is one outcome more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example
from dmpo.tasks.base import Task


def response_probabilities(
    policy: DiffusionPolicy,
    example: Example,
    alphabet: Tensor,
    length: int,
    *,
    rows_per_forward: int = 512,
) -> Tensor:
    """Return p_θ(o | q), the mean over orders (DMPO Eq. 1), of every response: [A, …, A].

    With f(U) the sum, over the orders of a set U of positions, of the probabilities with which
    its tokens are drawn: f(U ∪ {d}) gathers f(U) · π(o_d | o_U).

    Args:
        policy: Read at temperature 1.
        example: The prompt.
        alphabet: Token ids [A]; axis d of the result is the token at position d.
        length: D, the number of axes.
        rows_per_forward: Canvases in one forward pass.
    """
    positions = range(length)
    sums = {(): torch.ones((1,) * length, dtype=torch.float64)}
    for size in positions:
        for revealed in itertools.combinations(positions, size):
            before = sums.pop(revealed)
            chances = _next_tokens(
                policy, example, alphabet, length, revealed, rows_per_forward=rows_per_forward
            )
            for place, chance in chances.items():
                after = tuple(sorted((*revealed, place)))
                sums[after] = sums.get(after, 0) + before * chance
    return sums[tuple(positions)] / math.factorial(length)


def _next_tokens(
    policy: DiffusionPolicy,
    example: Example,
    alphabet: Tensor,
    length: int,
    revealed: tuple[int, ...],
    *,
    rows_per_forward: int,
) -> dict[int, Tensor]:
    """Return π(o_d | o_U) of each hidden d, for all tokens at U and d; other axes have size 1."""
    size = len(alphabet)
    prompt = policy.encode([example]).tokens
    hidden = [d for d in range(length) if d not in revealed]
    count = size ** len(revealed)
    canvas = torch.full((count, length), policy.mask_token_id)
    if revealed:
        grid = torch.cartesian_prod(*[alphabet] * len(revealed))
        canvas[:, list(revealed)] = grid.reshape(count, len(revealed))
    tokens = torch.cat([prompt.expand(count, -1), canvas], dim=1).to(policy.device)
    at = torch.tensor(hidden, device=policy.device) + prompt.shape[1]
    parts = []
    with policy.evaluating():
        for rows in tokens.split(rows_per_forward):
            everything = torch.ones_like(rows, dtype=torch.bool)
            logits = policy.logits(rows, everything, at.expand(len(rows), -1))
            chances = torch.softmax(logits.double(), dim=-1)
            parts.append(chances[..., alphabet.to(policy.device)].cpu())
    table = torch.cat(parts).reshape(*(size,) * len(revealed), len(hidden), size)
    shown: dict[int, Tensor] = {}
    for index, place in enumerate(hidden):
        axes = sorted((*revealed, place))
        chance = table[..., index, :].movedim(-1, axes.index(place))
        shown[place] = chance.reshape([size if d in axes else 1 for d in range(length)])
    return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTable:
    """What is true of every response to one prompt."""

    texts: Sequence[str]
    """Responses in the order of the flattened probabilities."""
    is_right: Tensor
    """Whether each is right, bool [responses]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactFigures:
    """What sampling would only estimate."""

    accuracy: float
    """Probability of a right answer."""
    effective_answers: float
    """exp of the entropy over right answers: as many equally likely ones."""
    divergence: float
    """KL(p* ‖ p_θ) in nats."""


def answer_table(task: Task, example: Example, alphabet: str, length: int) -> AnswerTable:
    """Return every text over the alphabet with the task's own verdict (its headline figure)."""
    texts = ["".join(letters) for letters in itertools.product(alphabet, repeat=length)]
    right = [task.grade(example, text)[task.headline] == 1 for text in texts]
    return AnswerTable(texts=texts, is_right=torch.tensor(right))


def exact_figures(
    probabilities: Tensor, reference: Tensor, is_right: Tensor, alpha: float
) -> ExactFigures:
    """Return accuracy, diversity and distance from p* ∝ p_ref · exp(r/α), r = 1 where right.

    Args:
        probabilities: p_θ of every response, flattened; they sum to 1 or less.
        reference: The same of the reference.
        is_right: Where r is 1; elsewhere, and for what is not listed, it is 0.
        alpha: α.
    """
    right = probabilities[is_right] / probabilities[is_right].sum()
    log_p, log_ref = _with_rest(probabilities).log(), _with_rest(reference).log()
    rewards = torch.cat([is_right.double(), torch.zeros(1, dtype=torch.float64)])
    log_target = torch.log_softmax(log_ref + rewards / alpha, dim=0)
    return ExactFigures(
        accuracy=float(probabilities[is_right].sum()),
        effective_answers=float(torch.special.entr(right).sum().exp()),
        divergence=float((log_target.exp() * (log_target - log_p)).sum()),
    )


def _with_rest(probabilities: Tensor) -> Tensor:
    """Append the probability of everything that is not listed."""
    rest = (1 - probabilities.sum()).clamp(min=1e-12)
    return torch.cat([probabilities, rest.unsqueeze(0)])
