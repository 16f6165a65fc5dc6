"""How likely given texts are under a policy, and whether greedy decoding would write them.

A text to score is tokens behind other tokens; its own tokens are the whole canvas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dmpo.likelihoods.base import Likelihood, view_log_probs
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts, Rollouts, Views

__all__ = [
    "ScoredText",
    "chunks",
    "greedy_matches",
    "length_batches",
    "named_generator",
    "padded_prompts",
    "text_log_probs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredText:
    """Tokens to score, behind others."""

    context: tuple[int, ...]
    """What stands before; may be empty."""
    target: tuple[int, ...]
    """What is scored; at least one token wherever a function takes it."""
    key: str
    """What the seed of its views is made of."""


def named_generator(seed: int, *purpose: str) -> torch.Generator:
    """Return a generator on the CPU whose stream depends on the seed and some texts alone."""
    key = "\0".join([str(seed), *purpose]).encode("utf-8", "surrogatepass")
    head = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(head)


def chunks(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Return a sequence in pieces of ``size``, the last one shorter."""
    return (list(indices[at]) for at in _slices(len(indices), size))


def length_batches(texts: Sequence[ScoredText], size: int) -> Iterator[list[int]]:
    """Return indices of texts whose targets are equally, and contexts about equally, long.

    Longest first. Texts with nothing to score are left out.

    Args:
        texts: In any order.
        size: Of a batch, at most.
    """
    lengths: dict[int, list[int]] = {}
    for index in sorted(range(len(texts)), key=lambda i: -len(texts[i].context)):
        lengths.setdefault(len(texts[index].target), []).append(index)
    lengths.pop(0, None)
    for length in sorted(lengths, reverse=True):
        yield from chunks(lengths[length], size)


def padded_prompts(rows: Sequence[Sequence[int]], pad_token_id: int) -> Prompts:
    """Return token rows padded on the left to the longest, on the CPU."""
    width = max(map(len, rows))
    tokens = torch.tensor([[pad_token_id] * (width - len(row)) + list(row) for row in rows])
    starts = torch.tensor([[width - len(row)] for row in rows])
    return Prompts(
        examples=tuple(Example(prompt="") for _ in rows),
        tokens=tokens.long().reshape(len(rows), width),
        attention_mask=torch.arange(width) >= starts,
    )


def text_log_probs(
    policy: DiffusionPolicy,
    likelihood: Likelihood,
    texts: Sequence[ScoredText],
    *,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Return log p(target | context) in nats by a likelihood, each text on views of its own.

    Neither the order of texts nor ``batch_size`` changes which views a text is scored on.

    Args:
        policy: The model.
        likelihood: One that need not know how a text was generated.
        texts: Targets of one length.
        batch_size: Noised sequences in a forward pass, at most.
        seed: Of the views, together with each text's ``key``.
    """
    drawn = [
        likelihood.views(_as_rollouts([text], policy), named_generator(seed, text.key))
        for text in texts
    ]
    rollouts = _as_rollouts(texts, policy)
    prompts, completions = rollouts.prompts, rollouts.completions.flatten(0, 1)
    views = _stacked(drawn, prompt_length=prompts.tokens.shape[1])
    num_views = views.hidden.shape[1]
    parts = []
    with policy.evaluating():
        for at in _slices(len(texts), max(1, batch_size // num_views)):
            columns = [
                view_log_probs(
                    policy,
                    prompts.tokens[at],
                    prompts.attention_mask[at],
                    completions[at],
                    views.rows(at).some(some),
                )
                for some in _slices(num_views, batch_size)
            ]
            parts.append(torch.cat(columns, dim=1))
        scores = likelihood.combine(torch.cat(parts), views)
    return [float(score) for score in scores.tolist()]


def greedy_matches(policy: DiffusionPolicy, texts: Sequence[ScoredText]) -> list[bool]:
    """Return whether each target is what greedy decoding writes where it is told the length.

    One block of as many tokens, one token a pass, the most confident first: `low_confidence` at
    temperature 0 (and `suffix_greedy_prediction` of LLaDA's evaluation). A text leaves at the
    first token that is another one, which mostly is in the first pass.

    Args:
        policy: The model.
        texts: Targets of one length.
    """
    rollouts = _as_rollouts(texts, policy)
    prompts, target = rollouts.prompts, rollouts.completions.flatten(0, 1)
    (num_rows, length), start = target.shape, prompts.tokens.shape[1]
    tokens = torch.cat([prompts.tokens, target], dim=1).to(policy.device)
    canvas = torch.ones_like(target, dtype=torch.bool)
    hidden = functional.pad(canvas, (start, 0)).to(tokens.device)
    real = torch.cat([prompts.attention_mask, canvas], dim=1).to(tokens.device)
    is_right = torch.ones(num_rows, dtype=torch.bool, device=tokens.device)
    at = torch.arange(start, start + length, device=tokens.device)
    with policy.evaluating():
        for _ in range(length):
            (live,) = is_right.nonzero(as_tuple=True)
            if not len(live):
                break
            noisy = policy.corrupt(tokens[live], hidden[live])
            logits = policy.logits(noisy, real[live], at.expand(len(live), -1))
            best, token = logits.log_softmax(dim=-1).max(dim=-1)
            place = best.masked_fill(~hidden[live][:, start:], -torch.inf).argmax(dim=1)
            found = token.gather(1, place[:, None]).squeeze(1)
            is_right[live] = found == tokens[live, start + place]
            hidden[live, start + place] = False
    return [bool(right) for right in is_right.tolist()]


def _as_rollouts(texts: Sequence[ScoredText], policy: DiffusionPolicy) -> Rollouts:
    """Return targets of one length as if a sampler had given them, every token an answer's."""
    completions = torch.tensor([[text.target] for text in texts])
    return Rollouts(
        prompts=padded_prompts([text.context for text in texts], policy.pad_token_id),
        completions=completions,
        answer_mask=torch.ones_like(completions, dtype=torch.bool),
        commit_step=torch.zeros_like(completions),
        log_probs=None,
        temperature=1.0,
        num_forwards=0,
        texts=(("",),) * len(texts),
    )


def _stacked(drawn: Sequence[Views], *, prompt_length: int) -> Views:
    """Return the views [1, 1, R, …] of several texts as one [S, R, …]; prompts are padded."""
    prompts: list[Tensor] = [v.prompt_hidden[0] for v in drawn if v.prompt_hidden is not None]
    always: list[Tensor] = [v.always[0] for v in drawn if v.always is not None]
    padded = [functional.pad(p, (prompt_length - p.shape[-1], 0)) for p in prompts]
    return Views(
        hidden=torch.cat([views.hidden[0] for views in drawn]),
        coefficient=torch.cat([views.coefficient[0] for views in drawn]),
        prompt_hidden=torch.cat(padded) if padded else None,
        temperature=drawn[0].temperature,
        threshold=drawn[0].threshold,
        always=torch.cat(always) if always else None,
    )


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))
