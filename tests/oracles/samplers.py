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


Choice = Callable[[dict[int, Tensor]], list[int]]
"""Distributions of the hidden positions to the positions revealed."""


def threshold_choice(threshold: float) -> Choice:
    def choose(distributions: dict[int, Tensor]) -> list[int]:
        confidence = {p: float(row.max()) for p, row in distributions.items()}
        best = max(confidence, key=lambda p: confidence[p])
        return [p for p in confidence if confidence[p] >= threshold or p == best]

    return choose


def factor_choice(factor: float) -> Choice:
    def choose(distributions: dict[int, Tensor]) -> list[int]:
        confidence = {p: float(row.max()) for p, row in distributions.items()}
        chosen: list[int] = []
        for position in sorted(confidence, key=lambda p: -confidence[p]):
            n = len(chosen) + 1
            if n > 1 and confidence[position] < 1 - factor / (n + 1):
                break
            chosen.append(position)
        return chosen

    return choose


def entropy_choice(gamma: float) -> Choice:
    def choose(distributions: dict[int, Tensor]) -> list[int]:
        entropy = {p: -float(torch.xlogy(row, row).sum()) for p, row in distributions.items()}
        chosen: list[int] = []
        for position in sorted(entropy, key=lambda p: entropy[p]):
            together = [entropy[p] for p in [*chosen, position]]
            if chosen and sum(together) - max(together) > gamma:
                break
            chosen.append(position)
        return chosen

    return choose


def greedy_choice(
    logits: LogitsOf,
    prompt: Sequence[int],
    mask_token_id: int,
    *,
    gen_length: int,
    block_length: int,
    choose: Choice,
    eos_token_id: int | None = None,
) -> tuple[list[int], int]:
    """Return completion and passes of a sampler that reveals what ``choose`` says, greedily.

    With an EOS given, a finished block that has one ends the row, and EOS fills what is left.
    """
    tokens = [*prompt, *[mask_token_id] * gen_length]
    num_forwards = 0
    for first in range(len(prompt), len(tokens), block_length):
        hidden = set(range(first, first + block_length))
        while hidden:
            probabilities = logits(tokens).double().softmax(-1)
            num_forwards += 1
            for position in choose({p: probabilities[p] for p in sorted(hidden)}):
                tokens[position] = int(probabilities[position].argmax())
                hidden.remove(position)
        end = first + block_length
        if eos_token_id is not None and eos_token_id in tokens[len(prompt) : end]:
            tokens[end:] = [eos_token_id] * (len(tokens) - end)
            break
    return tokens[len(prompt) :], num_forwards


def greedy_wino(
    policy,
    prompt: Sequence[int],
    *,
    gen_length: int,
    block_length: int,
    threshold: float,
    threshold_back: float,
) -> tuple[list[int], int]:
    """Return completion and passes of WINO, one row, position by position."""
    tokens = [*prompt, *[policy.mask_token_id] * gen_length]
    num_forwards = 0
    for first in range(len(prompt), len(tokens), block_length):
        block = range(first, first + block_length)
        hidden, drafted_before = set(block), 0
        while hidden:
            own, shadow = _seen_twice(policy, tokens, block)
            num_forwards += 1
            drafts = {p: float(own[p].max()) for p in hidden}
            most = min(max(int(len(hidden) * 0.7), 5), 20)
            ranked = sorted(drafts, key=lambda p: -drafts[p])
            new = [p for p in ranked if drafts[p] > threshold][:most] or ranked[:1]
            doubts = {p: float(shadow[p][tokens[p]]) for p in block if p not in hidden}
            revoked = sorted(
                (p for p in doubts if doubts[p] < threshold_back), key=lambda p: doubts[p]
            )
            if len(revoked) >= drafted_before:
                revoked = revoked[: max(drafted_before - 1, 0)]
            if len(new) == 1:
                revoked = []
            for position in new:
                tokens[position] = int(own[position].argmax())
            for position in revoked:
                tokens[position] = policy.mask_token_id
            hidden = (hidden - set(new)) | set(revoked)
            drafted_before = len(new)
    return tokens[len(prompt) :], num_forwards


def _seen_twice(policy, tokens: list[int], block: range) -> tuple[Tensor, dict[int, Tensor]]:
    """Return probabilities at each position, and at the block's without its own token seen."""
    length = len(tokens)
    everything = [*tokens, *[policy.mask_token_id] * len(block)]
    places = [*range(length), *block]
    visible = torch.zeros(len(everything), len(everything), dtype=torch.bool)
    for i in range(len(everything)):
        for j in range(len(everything)):
            is_shadow = i >= length
            visible[i, j] = j < length if not is_shadow else j >= length or j != places[i]
    with policy.evaluating():
        logits = policy.attended_logits(
            torch.tensor([everything]),
            torch.arange(len(everything))[None],
            position_ids=torch.tensor([places]),
            visible=visible[None],
        )[0]
    probabilities = logits.double().softmax(-1)
    return probabilities[:length], {p: probabilities[length + n] for n, p in enumerate(block)}


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


def parallel_probabilities(
    logits: LogitsOf,
    prompt: Sequence[int],
    mask_token_id: int,
    *,
    temperature: float,
    reveals: Callable[[Tensor, tuple[int, int]], set[int]],
) -> dict[tuple[int, int], float]:
    """Return p(o | prompt) for completions of two tokens where a step may reveal one or both.

    Args:
        logits: The model.
        prompt: What is completed.
        mask_token_id: Tokens below it are those of the vocabulary.
        temperature: Of the draws.
        reveals: Untempered distributions [2, V] and the tokens drawn to who is revealed first.
    """
    start = logits([*prompt, mask_token_id, mask_token_id])[len(prompt) :].double()
    tempered = (start / temperature).softmax(-1)
    pairs = list(itertools.product(range(mask_token_id), repeat=2))
    result = dict.fromkeys(pairs, 0.0)
    for drawn in pairs:
        kept = reveals(start.softmax(-1), drawn)
        chance = float(tempered[0, drawn[0]] * tempered[1, drawn[1]])
        if kept == {0, 1}:
            result[drawn] += chance
            continue
        (first,) = kept
        noisy = [token if d == first else mask_token_id for d, token in enumerate(drawn)]
        position = len(prompt) + 1 - first
        second = (logits([*prompt, *noisy])[position].double() / temperature).softmax(-1)
        for other in range(mask_token_id):
            result[(drawn[0], other) if first == 0 else (other, drawn[1])] += chance * float(
                second[other]
            )
    return result


def chi_square_p_value(observed: Sequence[int], probabilities: Sequence[float]) -> float:
    """Return the p-value of counts under a distribution with no empty cell (Pearson)."""
    total = sum(observed)
    pairs = zip(observed, probabilities, strict=True)
    statistic = sum((count - total * p) ** 2 / (total * p) for count, p in pairs)
    half_df = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_df, half_df.new_tensor(statistic / 2)))
