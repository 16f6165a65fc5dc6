"""The laws of a sampler, looked at on the packaged tiny LLaDA or a policy of the author's."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from pydantic import ValidationError
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts, Rollouts
from dmpo.samplers.base import Sampler
from dmpo.samplers.canvas import through_first_eos
from dmpo.testing.bench import (
    EXAMPLES,
    copied,
    difference,
    generator,
    grouped,
    padded,
    same_tensors,
    tiny_policy,
    with_places,
)
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "SamplerBench"]

TOLERANCE = 1e-3
NUM_ROLLOUTS = 3


@final
class SamplerBench:
    """A policy, prompts, and rollouts of them.

    Args:
        sampler: What is tried.
        parameters: Of its Config.
        policy: Who denoises; None: the packaged tiny LLaDA.
        examples: What it answers; None: problems of the tiny LLaDA.
    """

    def __init__(
        self,
        sampler: Sampler,
        parameters: Mapping[str, Any],
        policy: DiffusionPolicy | None,
        examples: Sequence[Example] | None,
    ) -> None:
        """Encode the prompts."""
        self.sampler = sampler
        self.parameters = parameters
        self.policy = policy or tiny_policy()
        self.prompts = with_places(self.policy.encode(list(examples or EXAMPLES)))
        self.num_rollouts = sampler.num_rollouts or NUM_ROLLOUTS
        self.length = int(parameters["gen_length"])

    def drawn(
        self,
        prompts: Prompts | None = None,
        *,
        seed: int = 0,
        sampler: Sampler | None = None,
        plain: bool = False,
    ) -> Rollouts:
        """Sample with the generator that training hands out, or a plain one."""
        prompts = prompts or self.prompts
        source = generator(seed) if plain else grouped(prompts, "rollout", seed)
        return (sampler or self.sampler).sample(
            self.policy, prompts, num_rollouts=self.num_rollouts, generator=source
        )

    @functools.cached_property
    def rollouts(self) -> Rollouts:
        """The rollouts that most laws look at."""
        return self.drawn()


@law
def canvas_is_full(bench: SamplerBench) -> Iterator[str]:
    """Completions are [B, N, D] of known tokens, and no mask token is left."""
    found, policy = bench.rollouts.completions, bench.policy
    shape = (len(bench.prompts.examples), bench.num_rollouts, bench.length)
    if tuple(found.shape) != shape:
        yield f"expected: {list(shape)}; completions are {list(found.shape)}"
    masks = int((found == policy.mask_token_id).sum())
    if masks:
        yield f"expected: every token is drawn; {masks} are still the mask"
    if bool(((found < 0) | (found >= policy.vocab_size)).any()):
        yield f"expected: token ids below {policy.vocab_size}; there are others"


@law
def answer_ends_with_the_first_eos(bench: SamplerBench) -> Iterator[str]:
    """`answer_mask` is True through the first EOS of each rollout, and everywhere without one."""
    rollouts = bench.rollouts
    expected = through_first_eos(rollouts.completions, bench.policy.eos_token_id)
    if not torch.equal(rollouts.answer_mask, expected):
        yield "expected: True up to and including the first EOS; it is otherwise"


@law
def steps_are_forward_passes(bench: SamplerBench) -> Iterator[str]:
    """`num_forwards` is the number of passes; `commit_step` lies from 0 to below it."""
    passes: list[int] = []
    handle = bench.policy.module.register_forward_hook(lambda *_: passes.append(1))
    try:
        rollouts = bench.drawn()
    finally:
        handle.remove()
    if rollouts.num_forwards != len(passes):
        counted = rollouts.num_forwards
        yield f"expected: {len(passes)}, as often as the model ran; num_forwards is {counted}"
    step, last = rollouts.commit_step, max(1, rollouts.num_forwards)
    if step.shape != rollouts.completions.shape or step.is_floating_point():
        yield f"expected: whole numbers [B, N, D]; commit_step is {step.dtype} {list(step.shape)}"
    elif bool(((step < 0) | (step >= last)).any()):
        found = f"{int(step.min())} to {int(step.max())}"
        yield f"expected: from 0 to {last - 1}; commit_step is {found}"


@law
def texts_are_the_completions(bench: SamplerBench) -> Iterator[str]:
    """`texts` are the decoded completions, and the temperature is the config's."""
    rollouts = bench.rollouts
    decoded = bench.policy.decode(rollouts.completions.flatten(0, 1))
    if [text for row in rollouts.texts for text in row] != decoded:
        yield "expected: what policy.decode gives; texts are others"
    config = getattr(bench.sampler, "config", None)
    if config is not None and rollouts.temperature != config.temperature:
        yield f"expected: temperature {config.temperature}; it is {rollouts.temperature}"


@law
def prompts_stay_as_they_are(bench: SamplerBench) -> Iterator[str]:
    """The prompts that were handed in are those of the rollouts, untouched."""
    before = copied(bench.prompts)
    rollouts = bench.drawn()
    if not same_tensors(before, copied(bench.prompts)):
        yield "expected: prompts as they were; sample wrote into them"
    if not same_tensors(before, copied(rollouts.prompts)):
        yield "expected: rollouts.prompts are those that were given; they are others"
    if rollouts.prompts.examples != bench.prompts.examples:
        yield "expected: rollouts.prompts has the examples that were given; they are others"


@law
def same_seed_same_rollouts(bench: SamplerBench) -> Iterator[str]:
    """The same generator gives the same rollouts, be it training's or a plain one."""
    for plain in (False, True):
        one, other = bench.drawn(seed=3, plain=plain), bench.drawn(seed=3, plain=plain)
        if not same_tensors(one, other):
            kind = "plain generators" if plain else "generators of groups"
            yield f"expected: equal rollouts from equal {kind}; they differ"


@law
def generator_is_the_source(bench: SamplerBench) -> Iterator[str]:
    """At a temperature near 1 another generator draws other rollouts, and a group has several."""
    temperature = bench.rollouts.temperature
    if bench.sampler.num_rollouts is not None or not 0.5 <= temperature <= 2:
        return
    if bench.rollouts.completions.equal(bench.drawn(seed=9).completions):
        yield "expected: another seed draws others; they are the same"
    rows = bench.rollouts.completions.flatten(0, 1)
    if len(set(map(tuple, rows.tolist()))) <= len(bench.prompts.examples):
        yield "expected: rollouts of a group differ; all are alike"


@law
def is_deterministic_is_honest(bench: SamplerBench) -> Iterator[str]:
    """Where `is_deterministic`, mostly at temperature 0, completions of a prompt are alike."""
    try:
        config = type(bench.sampler).Config.model_validate({**bench.parameters, "temperature": 0})
    except ValidationError:
        samplers = [bench.sampler]
    else:
        cold: Any = type(bench.sampler)
        samplers = [bench.sampler, cold(config)]
    for sampler in samplers:
        if not sampler.is_deterministic:
            continue
        found, other = (bench.drawn(sampler=sampler, seed=seed).completions for seed in (0, 1))
        if not bool((found == found[:, :1]).all()):
            yield "expected: completions of a prompt are alike, as is_deterministic; they differ"
        if not found.equal(other):
            yield "expected: the seed does not matter, as is_deterministic; it does"


@law
def records_path_is_honest(bench: SamplerBench) -> Iterator[str]:
    """Rollouts have `log_probs` exactly if `records_path`."""
    has, says = bench.rollouts.log_probs is not None, bench.sampler.records_path
    if has != says:
        yield f"expected: log_probs {'there' if says else 'None'}, as records_path is {says}"


@law
def recorded_path_is_exact(bench: SamplerBench) -> Iterator[str]:
    """`log_probs` are what the policy says when the path is replayed, token for token."""
    rollouts = bench.rollouts
    if rollouts.log_probs is None:
        return
    path = PathLikelihood(PathConfig(eos="canvas"))
    views = path.views(rollouts, generator())
    replayed = rollout_log_probs(bench.policy, rollouts, views, rows_per_forward=8)
    found = (views.coefficient.to(replayed.device) * replayed).sum(dim=2)
    if bool((rollouts.log_probs > 1e-6).any()):
        yield "expected: logarithms of probabilities; some are above 0"
    if difference(found, rollouts.log_probs.to(found)) > TOLERANCE:
        away = float((found - rollouts.log_probs.to(found)).abs().max())
        yield f"expected: the replayed log-probabilities; a token's is off by {away:.3g} nats"


@law
def entropies_are_entropies(bench: SamplerBench) -> Iterator[str]:
    """`entropies` is None, or [B, N, D] of finite numbers of at least 0."""
    found = bench.rollouts.entropies
    if found is None:
        return
    if found.shape != bench.rollouts.completions.shape:
        yield f"expected: [B, N, D]; entropies are {list(found.shape)}"
    elif not bool((found.isfinite() & (found >= -1e-5)).all()):
        yield "expected: finite numbers of at least 0; some are not"


@law
def neighbours_do_not_matter(bench: SamplerBench) -> Iterator[str]:
    """With training's generator a prompt's rollouts do not depend on the prompts beside it."""
    for row in range(len(bench.prompts.examples)):
        alone = bench.drawn(bench.prompts.rows([row]).trimmed())
        yield from _differences(bench.rollouts.groups([row]), alone, f"prompt {row} alone")


@law
def padding_does_not_matter(bench: SamplerBench) -> Iterator[str]:
    """More padding on the left of the prompts changes nothing, whatever tokens it is made of."""
    wide = bench.drawn(padded(bench.prompts))
    yield from _differences(bench.rollouts, wide, "with wider prompts")


@law
def mode_is_put_back(bench: SamplerBench) -> Iterator[str]:
    """Sampling leaves no gradient and puts the policy's mode back."""
    module = bench.policy.module
    was = {name: each.training for name, each in module.named_modules()}
    module.train()
    rollouts = bench.drawn()
    if not all(each.training for each in module.modules()):
        yield "expected: the policy trains again; part of it still evaluates"
    for name, each in module.named_modules():
        each.training = was[name]
    if any(tensor.requires_grad for tensor in _floats(rollouts)):
        yield "expected: plain numbers; rollouts carry a gradient"
    if any(weight.grad is not None for weight in module.parameters()):
        yield "expected: no gradient; some weight has one"


@law
def number_of_rollouts_is_kept(bench: SamplerBench) -> Iterator[str]:
    """As many rollouts come as are asked for; where N is fixed, another is refused."""
    asked = 1 if bench.num_rollouts != 1 else 2
    try:
        rollouts = bench.sampler.sample(
            bench.policy, bench.prompts, num_rollouts=asked, generator=generator()
        )
    except ConfigError as error:
        if bench.sampler.num_rollouts is None:
            yield f"expected: num_rollouts={asked} is taken; {error}"
        return
    if bench.sampler.num_rollouts is not None:
        yield f"expected: a ConfigError for any N but {bench.sampler.num_rollouts}; none came"
    elif rollouts.num_rollouts != asked:
        yield f"expected: {asked} of each prompt; there are {rollouts.num_rollouts}"


def _differences(one: Rollouts, other: Rollouts, what: str) -> Iterator[str]:
    if not one.completions.equal(other.completions):
        yield f"expected: the same completions; {what}, they are others"
        return
    # Passes are counted over the rows that run together, so only their order is a row's own.
    orders = [each.commit_step.argsort(dim=-1, stable=True) for each in (one, other)]
    if not orders[0].equal(orders[1]):
        yield f"expected: tokens fixed in the same order; {what}, it is another"
    if one.log_probs is not None and other.log_probs is not None:
        away = difference(one.log_probs, other.log_probs)
        if away > TOLERANCE:
            yield f"expected: the same log_probs; {what}, they are off by {away:.3g}"


def _floats(rollouts: Rollouts) -> Iterator[Tensor]:
    for each in (rollouts.log_probs, rollouts.entropies):
        if each is not None:
            yield each


LAWS: tuple[Law, ...] = (
    canvas_is_full,
    answer_ends_with_the_first_eos,
    steps_are_forward_passes,
    texts_are_the_completions,
    prompts_stay_as_they_are,
    same_seed_same_rollouts,
    generator_is_the_source,
    is_deterministic_is_honest,
    records_path_is_honest,
    recorded_path_is_exact,
    entropies_are_entropies,
    neighbours_do_not_matter,
    padding_does_not_matter,
    mode_is_put_back,
    number_of_rollouts_is_kept,
)
"""The laws of a sampler, in the order they are looked at."""
