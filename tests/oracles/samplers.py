"""Samplers written out: one row, whole sequence, whole vocabulary, Python loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LogitsOf = Callable[[list[int]], Tensor]
"""Tokens of one unpadded row to logits [T, V]."""


def logits_of(policy, prompt_length: int, cfg_scale: float = 0.0) -> LogitsOf:
    """Return a policy's logits of single rows, guided if asked."""

    def plain(tokens: list[int]) -> Tensor:
        row = torch.tensor([tokens])
        everywhere = torch.arange(len(tokens))[None]
        with policy.evaluating():
            return policy.logits(row, torch.ones_like(row, dtype=torch.bool), everywhere)[0]

    def guided(tokens: list[int]) -> Tensor:
        without = plain([policy.mask_token_id] * prompt_length + tokens[prompt_length:])
        return without + (cfg_scale + 1) * (plain(tokens) - without)

    return guided if cfg_scale > 0 else plain


def counts_per_step(num_tokens: int, num_steps: int) -> list[int]:
    counts = [0] * num_steps
    for token in range(num_tokens):
        counts[token % num_steps] += 1
    return counts


def greedy_low_confidence(
    logits: LogitsOf,
    prompt: Sequence[int],
    mask_token_id: int,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
) -> tuple[list[int], list[int]]:
    """Return completion and commit steps of LLaDA's sampler at temperature 0."""
    tokens = [*prompt, *[mask_token_id] * gen_length]
    commit: dict[int, int] = {}
    num_blocks = gen_length // block_length
    forward = 0
    for block in range(num_blocks):
        first = len(prompt) + block * block_length
        for count in counts_per_step(block_length, steps // num_blocks):
            probabilities = logits(tokens).double().softmax(-1)
            hidden = [p for p in range(first, first + block_length) if p not in commit]
            hidden.sort(key=lambda p: -float(probabilities[p].max()))
            for position in hidden[:count]:
                tokens[position] = int(probabilities[position].argmax())
                commit[position] = forward
            forward += 1
    return tokens[len(prompt) :], [commit[len(prompt) + d] for d in range(gen_length)]


def greedy_threshold(
    logits: LogitsOf,
    prompt: Sequence[int],
    mask_token_id: int,
    *,
    gen_length: int,
    threshold: float,
) -> list[int]:
    """Return the completion that reveals all above a threshold, and always the best, one block."""
    tokens = [*prompt, *[mask_token_id] * gen_length]
    hidden = set(range(len(prompt), len(tokens)))
    while hidden:
        probabilities = logits(tokens).double().softmax(-1)
        confidence = {p: float(probabilities[p].max()) for p in hidden}
        best = max(confidence, key=lambda p: confidence[p])
        for position in [p for p in hidden if confidence[p] > threshold or p == best]:
            tokens[position] = int(probabilities[position].argmax())
            hidden.remove(position)
    return tokens[len(prompt) :]


def replay_path(
    logits: LogitsOf,
    prompt: Sequence[int],
    completion: Sequence[int],
    commit_step: Sequence[int],
    mask_token_id: int,
    temperature: float,
) -> list[float]:
    """Return the log-probability of each token when it was drawn, along the given order."""
    result = []
    for token, step in zip(completion, commit_step, strict=True):
        noisy = [
            o if s < step else mask_token_id for o, s in zip(completion, commit_step, strict=True)
        ]
        position = len(prompt) + len(result)
        distribution = (logits([*prompt, *noisy])[position].double() / temperature).log_softmax(-1)
        result.append(float(distribution[token]))
    return result


def random_order_probabilities(
    logits: LogitsOf, prompt: Sequence[int], mask_token_id: int, *, temperature: float
) -> dict[tuple[int, int], float]:
    """Return p(o | prompt) for all completions of two tokens, one per step in random order."""
    vocabulary = range(mask_token_id)
    return {
        pair: sum(
            0.5
            * math.exp(sum(replay_path(logits, prompt, pair, order, mask_token_id, temperature)))
            for order in ((0, 1), (1, 0))
        )
        for pair in itertools.product(vocabulary, repeat=2)
    }


def low_confidence_probabilities(
    logits: LogitsOf,
    prompt: Sequence[int],
    mask_token_id: int,
    *,
    temperature: float,
    confidence_temperature: float = 1.0,
) -> dict[tuple[int, int], float]:
    """The same for LLaDA's rule: both are drawn, the more confident one stays."""
    start = logits([*prompt, mask_token_id, mask_token_id])[len(prompt) :].double()
    tempered = (start / temperature).softmax(-1)
    confidence = (start / confidence_temperature).softmax(-1)
    pairs = list(itertools.product(range(mask_token_id), repeat=2))
    result = dict.fromkeys(pairs, 0.0)
    for drawn in pairs:
        kept = 0 if confidence[0, drawn[0]] > confidence[1, drawn[1]] else 1
        chance = float(tempered[0, drawn[0]] * tempered[1, drawn[1]])
        noisy = [token if d == kept else mask_token_id for d, token in enumerate(drawn)]
        second = (logits([*prompt, *noisy])[len(prompt) + 1 - kept].double() / temperature).softmax(
            -1
        )
        for other in range(mask_token_id):
            pair = (drawn[0], other) if kept == 0 else (other, drawn[1])
            result[pair] += chance * float(second[other])
    return result


def chi_square_p_value(observed: Sequence[int], probabilities: Sequence[float]) -> float:
    """Return the p-value of counts under a distribution with no empty cell (Pearson)."""
    total = sum(observed)
    pairs = zip(observed, probabilities, strict=True)
    statistic = sum((count - total * p) ** 2 / (total * p) for count, p in pairs)
    half_df = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_df, half_df.new_tensor(statistic / 2)))
