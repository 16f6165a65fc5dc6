"""The laws of a policy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from dmpo.errors import ConfigError, DataError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example
from dmpo.testing.bench import difference, generator, nudge, padded
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "PolicyBench"]

TOLERANCE = 1e-3
"""Of log-probabilities by another way of computing them, as a share of their size."""
CANVAS = 6


@final
class PolicyBench:
    """A policy with a batch of noised sequences.

    Args:
        make: Builds the policy anew.
        texts: Prompts and answers that its tokenizer knows.
        outline: Builds its outline; None: it has none.
    """

    def __init__(
        self,
        make: Callable[[], DiffusionPolicy],
        texts: Sequence[str],
        outline: Callable[[], DiffusionPolicy] | None,
    ) -> None:
        """Encode prompts, put a canvas behind each, and hide some of it."""
        self.make = make
        self.texts = list(texts)
        self.outline = outline
        self.policy = make()
        policy = self.policy
        policy.module.eval()  # dropout may draw from a global stream, and does so only in training
        self.prompts = policy.encode([Example(prompt=text) for text in texts])
        answers = policy.encode_completions(list(reversed(texts)), CANVAS)
        self.tokens = torch.cat([self.prompts.tokens, answers], dim=1)
        canvas = torch.ones_like(answers, dtype=torch.bool)
        self.attention_mask = torch.cat([self.prompts.attention_mask, canvas], dim=1)
        drawn = torch.rand(answers.shape, generator=generator(1)).to(answers.device) < 0.6
        drawn[:, 0] = True
        self.where = torch.cat([torch.zeros_like(self.prompts.attention_mask), drawn], dim=1)
        self.noisy = policy.corrupt(self.tokens.clone(), self.where)
        length = self.tokens.shape[1]
        self.at = torch.arange(length - CANVAS, length).to(answers.device).expand(len(texts), -1)

    def logits(self, policy: DiffusionPolicy | None = None) -> Tensor:
        """Return the logits of the canvas."""
        policy = policy or self.policy
        with policy.evaluating():
            return policy.logits(self.noisy, self.attention_mask, self.at)

    def scores(self, temperature: float = 1.0) -> Tensor:
        """Return log π of the answers where they are hidden."""
        return self.policy.token_logprobs(
            self.noisy, self.attention_mask, self.tokens, self.where, temperature=temperature
        )


@law
def logits_have_the_shape(bench: PolicyBench) -> Iterator[str]:
    """`logits` are finite float32 [S, K, V], one for each row of the output projection."""
    found = bench.logits()
    shape = (*bench.at.shape, bench.policy.vocab_size)
    if tuple(found.shape) != shape or found.dtype != torch.float32:
        yield f"expected: float32 {list(shape)}; they are {found.dtype} {list(found.shape)}"
    elif not bool((found[..., : bench.policy.mask_token_id].isfinite()).all()):
        yield "expected: finite numbers; some are not"


@law
def at_selects(bench: PolicyBench) -> Iterator[str]:
    """`at` says which positions' logits come back, in its order, and changes nothing in them."""
    whole, policy = bench.logits(), bench.policy
    some = bench.at[:, [3, 0, 5]]
    with policy.evaluating():
        found = policy.logits(bench.noisy, bench.attention_mask, some)
    if difference(found, whole[:, [3, 0, 5]]) > TOLERANCE:
        yield "expected: the logits of the named positions; they are others"


@law
def rows_know_nothing_of_each_other(bench: PolicyBench) -> Iterator[str]:
    """A row's logits do not depend on the rows beside it, nor on equal rows running as one."""
    whole, policy = bench.logits(), bench.policy
    twice = torch.tensor([0, 0, *range(len(bench.texts))], device=bench.noisy.device)
    with policy.evaluating():
        found = policy.logits(bench.noisy[twice], bench.attention_mask[twice], bench.at[twice])
        alone = policy.logits(bench.noisy[:1], bench.attention_mask[:1], bench.at[:1])
    if difference(found, whole[twice]) > TOLERANCE or difference(alone, whole[:1]) > TOLERANCE:
        yield "expected: a row's own logits; in another batch they are others"


@law
def padding_does_not_matter(bench: PolicyBench) -> Iterator[str]:
    """Padding on the left changes nothing, whatever tokens it is made of."""
    width, policy = 3, bench.policy
    wide = padded(bench.prompts, width)
    canvas = bench.noisy[:, -CANVAS:]
    noisy = torch.cat([wide.tokens, canvas], dim=1)
    mask = torch.cat([wide.attention_mask, torch.ones_like(canvas, dtype=torch.bool)], dim=1)
    with policy.evaluating():
        found = policy.logits(noisy, mask, bench.at + width)
    if difference(found, bench.logits()) > TOLERANCE:
        away = difference(found, bench.logits())
        yield f"expected: the same logits; with {width} more columns they are off by {away:.3g}"


@law
def canvas_is_seen_both_ways(bench: PolicyBench) -> Iterator[str]:
    """A token's logits depend on the tokens behind it, too: attention is not causal."""
    policy, other = bench.policy, bench.noisy.clone()
    visible = int(bench.tokens[0, -CANVAS])
    other[:, -1] = visible if int(other[0, -1]) != visible else policy.eos_token_id
    with policy.evaluating():
        found, before = (
            policy.logits(tokens, bench.attention_mask, bench.at[:, :1])
            for tokens in (other, bench.noisy)
        )
    if difference(found, before) == 0:
        yield "expected: the first token's logits follow the last token; they do not"


@law
def log_probs_are_those_of_the_logits(bench: PolicyBench) -> Iterator[str]:
    """`token_logprobs` is log softmax(logits / temperature) at `where`, zero elsewhere, float32."""
    for temperature in (1.0, 0.5):
        with bench.policy.evaluating():
            found = bench.scores(temperature)
        if found.shape != bench.tokens.shape or found.dtype != torch.float32:
            yield f"expected: float32 [S, T]; they are {found.dtype} {list(found.shape)}"
            return
        if bool(found[~bench.where].any()):
            yield "expected: zero where nothing is asked for; it is not"
        targets = bench.tokens[:, -CANVAS:, None]
        expected = (bench.logits() / temperature).log_softmax(-1).gather(-1, targets)[..., 0]
        expected = expected * bench.where[:, -CANVAS:]
        away = difference(found[:, -CANVAS:], expected)
        if away > TOLERANCE:
            yield f"expected: log softmax at temperature {temperature}; off by {away:.3g}"


@law
def log_probs_can_be_learnt_from(bench: PolicyBench) -> Iterator[str]:
    """`token_logprobs` has a finite gradient that is not zero at the trained weights."""
    module = bench.policy.module
    module.zero_grad(set_to_none=True)
    scores = bench.scores()
    if not scores.requires_grad:
        yield "expected: a gradient; there is none"
        return
    scores.sum().backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    module.zero_grad(set_to_none=True)
    if not any(bool(each.any()) for each in gradients):
        yield "expected: some weight moves; every gradient is zero"
    if not all(bool(each.isfinite().all()) for each in gradients):
        yield "expected: finite gradients; some are not"


@law
def noise_is_written_where_asked(bench: PolicyBench) -> Iterator[str]:
    """`corrupt` writes the mask token at `where` and nothing anywhere else, into a copy."""
    before = bench.tokens.clone()
    noisy = bench.policy.corrupt(bench.tokens, bench.where)
    if not torch.equal(before, bench.tokens):
        yield "expected: a copy; the tokens that were handed in have changed"
    if not bool((noisy[bench.where] == bench.policy.mask_token_id).all()):
        yield f"expected: mask_token_id {bench.policy.mask_token_id} at where; there is another"
    if not torch.equal(noisy[~bench.where], before[~bench.where]):
        yield "expected: other tokens as they were; some changed"


@law
def special_tokens_are_known(bench: PolicyBench) -> Iterator[str]:
    """Mask, EOS and pad are rows of the vocabulary; the mask is neither of the two others."""
    policy = bench.policy
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(policy, name)
        if not (isinstance(token, int) and 0 <= token < policy.vocab_size):
            yield f"expected: from 0 to {policy.vocab_size - 1}; {name} is {token!r}"
    if policy.mask_token_id in (policy.eos_token_id, policy.pad_token_id):
        yield "expected: a mask token of its own; it is EOS or pad as well"


@law
def prompts_are_padded_on_the_left(bench: PolicyBench) -> Iterator[str]:
    """`encode` pads on the left; an empty prompt, or one too long, is a DataError."""
    prompts, policy = bench.prompts, bench.policy
    mask = prompts.attention_mask
    if mask.dtype != torch.bool or not bool((mask.long().diff(dim=1) >= 0).all()):
        yield "expected: a boolean mask, False and then True in each row; it is otherwise"
    if not bool((prompts.tokens[~mask] == policy.pad_token_id).all()):
        yield f"expected: pad_token_id {policy.pad_token_id} where the mask is False; it is not"
    if bool((prompts.tokens == policy.mask_token_id).any()):
        yield "expected: no mask token in a prompt; there is one"
    too_long = " ".join(bench.texts) * policy.max_length
    for what, text in (("empty", ""), ("longer than the context", too_long)):
        try:
            policy.encode([Example(prompt=text)])
        except DataError:
            continue
        yield f"expected: a DataError for a prompt that is {what}; there was none"


@law
def text_survives_the_tokens(bench: PolicyBench) -> Iterator[str]:
    """`decode` gives back what `encode_completions` was given, up to the first EOS."""
    policy, length = bench.policy, CANVAS + 2
    canvas = policy.encode_completions(bench.texts, length)
    if tuple(canvas.shape) != (len(bench.texts), length):
        yield f"expected: [{len(bench.texts)}, {length}]; it is {list(canvas.shape)}"
    if not bool((canvas[:, -1] == policy.eos_token_id).all()):
        yield "expected: filled up with EOS; the last token is another"
    decoded = policy.decode(canvas)
    if decoded != bench.texts:
        yield f"expected: {bench.texts}; decoded is {decoded}"
    try:
        policy.encode_completions([bench.texts[0] * (length + 1)], length)
    except DataError:
        return
    yield "expected: a DataError for an answer that does not fit; there was none"


@law
def reference_is_what_was_frozen(bench: PolicyBench) -> Iterator[str]:
    """`reference()` is the policy as it was at `freeze_reference`, however the weights move."""
    policy = bench.make()
    policy.freeze_reference()
    before = bench.logits(policy)
    with policy.reference():
        frozen = bench.logits(policy)
    if difference(before, frozen) > TOLERANCE:
        yield "expected: the policy and its new reference agree; they do not"
    nudge(policy, 4, 0.2)
    with policy.reference():
        later = bench.logits(policy)
    if difference(frozen, later) > TOLERANCE:
        yield "expected: the reference stays when weights move; it moved with them"
    if difference(before, bench.logits(policy)) == 0:
        yield "expected: the policy follows its weights; behind reference() it does not"


@law
def saved_weights_come_back(bench: PolicyBench) -> Iterator[str]:
    """`save`, then `load_weights` in a policy of other weights, gives the same logits."""
    policy = bench.make()
    nudge(policy, 5, 0.2)
    expected = bench.logits(policy)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "new" / "folder"
        policy.save(directory)
        nudge(policy, 6, 0.2)
        policy.load_weights(directory)
    if difference(expected, bench.logits(policy)) > 1e-5:
        yield "expected: the logits of when it was saved; they are others"


@law
def positions_are_counted(bench: PolicyBench) -> Iterator[str]:
    """`forward_tokens` grows by the positions of every pass: rows that differ, times T."""
    policy, size = bench.policy, bench.tokens.numel()
    for name, act in (("logits", bench.logits), ("token_logprobs", bench.scores)):
        before = policy.forward_tokens
        act()
        grown = policy.forward_tokens - before
        if grown != size:
            yield f"expected: {size} more after {name}; it is {grown}"


@law
def mode_is_put_back(bench: PolicyBench) -> Iterator[str]:
    """`evaluating()` switches gradients and dropout off and puts back the mode it found."""
    policy, module = bench.policy, bench.policy.module
    for mode in (True, False):
        module.train(mode)
        with policy.evaluating():
            if any(each.training for each in module.modules()) or torch.is_grad_enabled():
                yield "expected: evaluation mode without gradients inside; it is not"
            with policy.evaluating():
                pass
            if any(each.training for each in module.modules()):
                yield "expected: the inner of two contexts changes nothing; it does"
        if any(each.training != mode for each in module.modules()):
            yield f"expected: training={mode} as before; part of the module has another"
    module.eval()


@law
def module_may_be_wrapped(bench: PolicyBench) -> Iterator[str]:
    """A pass with a gradient goes through `module` as an engine has wrapped it."""
    policy, inner = bench.policy, bench.policy.module
    wrapped = _Wrapper(inner)
    policy.module = wrapped
    try:
        bench.scores()
    finally:
        policy.module = inner
    if not wrapped.passes:
        yield "expected: token_logprobs runs the module that was put in; it ran another"


@law
def two_builds_agree(bench: PolicyBench) -> Iterator[str]:
    """A config built twice is the same policy: random weights come from a seed of the config."""
    if difference(bench.logits(), bench.logits(bench.make())) > 1e-5:
        yield "expected: the same logits; those of a second policy differ"


@law
def description_is_one_line(bench: PolicyBench) -> Iterator[str]:
    """`describe` returns one line."""
    text = bench.policy.describe()
    if not text.strip() or len(text.splitlines()) != 1:
        yield f"expected: one line; it is {text!r:.80}"


@law
def caches_agree_or_are_refused(bench: PolicyBench) -> Iterator[str]:
    """The first pass with a cache gives the plain logits; a policy without caches says so."""
    policy, end = bench.policy, bench.tokens.shape[1]
    window = (end - CANVAS, end)
    with policy.evaluating():
        try:
            cache = policy.new_cache()
            first, second = (
                policy.cached_logits(
                    bench.noisy, bench.attention_mask, bench.at, cache=cache, window=window
                )
                for _ in range(2)
            )
        except ConfigError:
            return
    for what, found in (("first", first), ("second", second)):
        away = difference(found, bench.logits())
        if away > TOLERANCE:
            yield f"expected: the plain logits; the {what} pass with a cache is off by {away:.3g}"


@law
def visibility_agrees_or_is_refused(bench: PolicyBench) -> Iterator[str]:
    """`attended_logits` where all see all gives the plain logits; or it is refused."""
    policy = bench.policy
    row = bench.attention_mask.sum(dim=1).argmax()
    start = int((~bench.attention_mask[row]).sum())
    tokens = bench.noisy[row, start:][None]
    length = tokens.shape[1]
    places = torch.arange(length, device=tokens.device)[None]
    with policy.evaluating():
        try:
            found = policy.attended_logits(
                tokens,
                bench.at[:1] - start,
                position_ids=places,
                visible=torch.ones(1, length, length, dtype=torch.bool, device=tokens.device),
            )
        except ConfigError:
            return
    if difference(found, bench.logits()[row][None]) > TOLERANCE:
        yield "expected: the plain logits; they are others"


@law
def outline_has_the_same_shape(bench: PolicyBench) -> Iterator[str]:
    """`outline(config)`, if there is one, has the policy's weights by name, shape and dtype."""
    if bench.outline is None:
        return
    outlined, real = _shapes(bench.outline()), _shapes(bench.policy)
    for name in sorted({*outlined, *real}):
        if outlined.get(name) != real.get(name):
            yield f"expected: {name} {real.get(name)}; the outline has {outlined.get(name)}"
            return


class _Wrapper(nn.Module):
    """What an engine puts around a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes = 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Count, and hand on."""
        self.passes += 1
        return self.inner(*arguments, **named)


def _shapes(policy: DiffusionPolicy) -> dict[str, tuple[list[int], torch.dtype]]:
    return {
        name: (list(weight.shape), weight.dtype)
        for name, weight in policy.module.named_parameters()
    }


LAWS: tuple[Law, ...] = (
    special_tokens_are_known,
    prompts_are_padded_on_the_left,
    text_survives_the_tokens,
    noise_is_written_where_asked,
    logits_have_the_shape,
    at_selects,
    rows_know_nothing_of_each_other,
    padding_does_not_matter,
    canvas_is_seen_both_ways,
    log_probs_are_those_of_the_logits,
    log_probs_can_be_learnt_from,
    reference_is_what_was_frozen,
    saved_weights_come_back,
    positions_are_counted,
    mode_is_put_back,
    module_may_be_wrapped,
    two_builds_agree,
    description_is_one_line,
    caches_agree_or_are_refused,
    visibility_agrees_or_is_refused,
    outline_has_the_same_shape,
)
"""The laws of a policy, in the order they are looked at."""
