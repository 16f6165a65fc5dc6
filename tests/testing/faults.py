"""Plugins with one fault each: a copy of a built-in in which something small is otherwise."""

# ruff: noqa: ARG005 (a method keeps its parameters, whatever it does with them)

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import ConfigDict, Field

from dmpo.likelihoods.elbo import ElboLikelihood
from dmpo.objectives.dmpo import DmpoObjective
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.records import Example, Rewards
from dmpo.registry import PluginConfig
from dmpo.rewards.task import TaskReward
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.samplers.random_order import RandomSampler
from dmpo.tasks.digit_sum import DigitSumTask
from dmpo.testing.bench import nudge
from dmpo.weights.advantage import AdvantageWeights
from dmpo.weights.baselines import MeanBaseline, ModelBaseline
from dmpo.weights.tilted import TiltedWeights

SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}
PARAMETERS: dict[str, dict[str, Any]] = {"policy": {"scratch": SMALL}}
"""What the copies are built from."""
COUNT = itertools.count(1)


@dataclass(frozen=True)
class Fault:
    """A law that a faulty plugin breaks."""

    kind: str
    law: str
    plugin: Any
    parameters: dict[str, Any] = field(default_factory=dict)


def copy_of(base: type, **changes: Any) -> Any:
    """Return a class like ``base``, which is final, with some attributes changed."""
    kept = {
        name: value
        for name, value in vars(base).items()
        if name not in ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl")
    }
    return type("Faulty", base.__bases__, {**kept, **changes})


def after_init(base: type, change: Callable[[Any], None]) -> Any:
    """Return a copy that is changed at the end of its construction."""

    def init(self: Any, *arguments: Any) -> None:
        base.__init__(self, *arguments)
        change(self)

    return copy_of(base, __init__=init)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Every plugin, by the example of a baseline


class _Loose(PluginConfig):
    model_config = ConfigDict(extra="ignore")
    strength: float = Field(1.0, description="λ.")


class _Undescribed(PluginConfig):
    strength: float = 1.0


class _BadDefault(PluginConfig):
    strength: float = Field(3.0, le=1, description="λ.")


class _Unwritten(PluginConfig):
    strength: float = Field(1.0, exclude=True, description="λ.")


class _Stranger:
    Config = PluginConfig


class _Derived(MeanBaseline):  # type: ignore[misc]
    """It derives from a concrete class and is not final."""


def other_signature(self, estimator, rewards, ratio, estimated, model_log_ratio):
    return torch.ones_like(rewards)


def by_global_draws(self, estimator, rewards, log_ratio, estimated, model_log_ratio):
    return torch.rand_like(rewards)


PLUGINS = {
    "derives_from_its_interface": _Stranger,
    "config_is_strict": copy_of(MeanBaseline, Config=_Loose),
    "is_final": _Derived,
    "keeps_the_signatures": copy_of(MeanBaseline, weights=other_signature),
    "says_what_it_is": copy_of(MeanBaseline, __doc__=None),
    "config_is_described": copy_of(MeanBaseline, Config=_Undescribed),
    "defaults_are_valid": copy_of(MeanBaseline, Config=_BadDefault),
    "config_can_be_written": copy_of(MeanBaseline, Config=_Unwritten),
    "builds_from_its_config": copy_of(MeanBaseline, __init__=lambda self, config, more: None),
    "leaves_global_randomness_alone": copy_of(MeanBaseline, weights=by_global_draws),
}
PLUGIN_PARAMETERS = {"config_can_be_written": {"strength": 0.5}}


# Policies


def logits_of(change: Callable[..., Any]) -> Any:
    return copy_of(LladaPolicy, logits=change)


def plain(self: Any, *arguments: Any, **named: Any) -> torch.Tensor:
    return TransformersPolicy.logits(self, *arguments, **named)


def last_token_hidden(self: Any, tokens: Any, attention_mask: Any, at: Any) -> Any:
    tokens = tokens.clone()
    tokens[:, -1] = self.mask_token_id
    return plain(self, tokens, attention_mask, at)


def padded_on_the_right(self: Any, examples: Any) -> Any:
    prompts = TransformersPolicy.encode(self, examples)
    return replace(
        prompts, tokens=prompts.tokens.flip(1), attention_mask=prompts.attention_mask.flip(1)
    )


def corrupt_in_place(self: Any, tokens: Any, where: Any) -> Any:
    tokens[where] = self.mask_token_id
    return tokens


@contextlib.contextmanager
def evaluating_for_ever(self: Any) -> Iterator[None]:
    self.module.eval()
    with torch.no_grad():
        yield


def set_once(self: Any, module: Any) -> None:
    if not hasattr(self, "_module"):
        self._module = self._active = module
        self._parts = tuple(module.modules())


def scores_of(self: Any, *arguments: Any, **named: Any) -> torch.Tensor:
    return TransformersPolicy.token_logprobs(self, *arguments, **named)


POLICIES = {
    "special_tokens_are_known": after_init(
        LladaPolicy, lambda self: setattr(self, "mask_token_id", self.eos_token_id)
    ),
    "prompts_are_padded_on_the_left": copy_of(LladaPolicy, encode=padded_on_the_right),
    "text_survives_the_tokens": copy_of(LladaPolicy, decode=lambda self, rows: ["x" for _ in rows]),
    "noise_is_written_where_asked": copy_of(LladaPolicy, corrupt=corrupt_in_place),
    "logits_have_the_shape": logits_of(lambda self, *given: plain(self, *given).double()),
    "at_selects": logits_of(
        lambda self, tokens, mask, at: plain(self, tokens, mask, at.sort(dim=1).values)
    ),
    "rows_know_nothing_of_each_other": logits_of(
        lambda self, *given: plain(self, *given) - plain(self, *given).mean(0)
    ),
    "padding_does_not_matter": logits_of(
        lambda self, tokens, mask, at: plain(self, tokens, torch.ones_like(mask), at)
    ),
    "canvas_is_seen_both_ways": logits_of(last_token_hidden),
    "log_probs_are_those_of_the_logits": copy_of(
        LladaPolicy,
        token_logprobs=lambda self, *given, temperature=1.0: scores_of(self, *given),
    ),
    "log_probs_can_be_learnt_from": copy_of(
        LladaPolicy,
        token_logprobs=lambda self, *given, temperature=1.0: scores_of(self, *given).detach(),
    ),
    "reference_is_what_was_frozen": copy_of(
        LladaPolicy, reference=lambda self: contextlib.nullcontext()
    ),
    "saved_weights_come_back": copy_of(LladaPolicy, load_weights=lambda self, directory: None),
    "positions_are_counted": copy_of(LladaPolicy, _meter=lambda self, *given, **named: None),
    "mode_is_put_back": copy_of(LladaPolicy, evaluating=evaluating_for_ever),
    "module_may_be_wrapped": copy_of(
        LladaPolicy, module=property(lambda self: self._module, set_once)
    ),
    "two_builds_agree": after_init(LladaPolicy, lambda self: nudge(self, next(COUNT), 0.3)),
    "description_is_one_line": copy_of(LladaPolicy, describe=lambda self: "one\ntwo"),
    "caches_agree_or_are_refused": copy_of(
        LladaPolicy,
        cached_logits=lambda self, *given, **named: (
            TransformersPolicy.cached_logits(self, *given, **named) * 2
        ),
    ),
    "visibility_agrees_or_is_refused": copy_of(
        LladaPolicy,
        attended_logits=lambda self, *given, **named: (
            TransformersPolicy.attended_logits(self, *given, **named) * 2
        ),
    ),
    "outline_has_the_same_shape": copy_of(
        LladaPolicy,
        outline=classmethod(
            lambda cls, config: LladaPolicy(LladaConfig(scratch={**SMALL, "n_layers": 2}))
        ),
    ),
}


# Samplers


def sampling(change: Callable[[Any, Any], Any], **more: Any) -> Any:
    """Return a sampler whose rollouts are changed at the end."""

    def sample(self, policy, prompts, *, num_rollouts, generator):
        drawn = BlockSampler.sample(
            self, policy, prompts, num_rollouts=num_rollouts, generator=generator
        )
        return change(policy, drawn)

    return copy_of(RandomSampler, sample=sample, **more)


def drawing(change: Callable[..., dict[str, Any]]) -> Any:
    """Return a sampler that is asked something else than it was."""

    def sample(self, policy, prompts, *, num_rollouts, generator):
        given = {"prompts": prompts, "num_rollouts": num_rollouts, "generator": generator}
        drawn = BlockSampler.sample(self, policy, **{**given, **change(prompts)})
        return replace(drawn, prompts=prompts)

    return copy_of(RandomSampler, sample=sample)


def set_at(tensor: torch.Tensor, at: Any, value: Any) -> torch.Tensor:
    changed = tensor.clone()
    changed[at] = value
    return changed


def write_into_prompts(policy: Any, drawn: Any) -> Any:
    drawn.prompts.tokens[0, -1] = 0 if drawn.prompts.tokens[0, -1] else 1
    return drawn


def evaluate_for_ever(policy: Any, drawn: Any) -> Any:
    policy.module.eval()
    return drawn


SAMPLERS = {
    "canvas_is_full": sampling(
        lambda policy, drawn: replace(
            drawn, completions=set_at(drawn.completions, (0, 0, 0), policy.mask_token_id)
        )
    ),
    "answer_ends_with_the_first_eos": sampling(
        lambda _, drawn: replace(drawn, answer_mask=~drawn.answer_mask)
    ),
    "steps_are_forward_passes": sampling(
        lambda _, drawn: replace(drawn, num_forwards=drawn.num_forwards + 1)
    ),
    "texts_are_the_completions": sampling(
        lambda _, drawn: replace(drawn, texts=tuple(row[::-1] for row in drawn.texts))
    ),
    "prompts_stay_as_they_are": sampling(write_into_prompts),
    "same_seed_same_rollouts": drawing(lambda _: {"generator": seeded(next(COUNT))}),
    "generator_is_the_source": drawing(lambda _: {"generator": seeded(0)}),
    "is_deterministic_is_honest": after_init(
        RandomSampler, lambda self: setattr(self, "is_deterministic", True)
    ),
    "records_path_is_honest": sampling(lambda _, drawn: replace(drawn, log_probs=None)),
    "recorded_path_is_exact": sampling(
        lambda _, drawn: replace(drawn, log_probs=0.9 * drawn.log_probs)
    ),
    "entropies_are_entropies": sampling(
        lambda _, drawn: replace(drawn, entropies=-drawn.entropies)
    ),
    "neighbours_do_not_matter": drawing(lambda _: {"generator": seeded(7)}),
    "padding_does_not_matter": drawing(
        lambda prompts: {
            "prompts": replace(prompts, attention_mask=torch.ones_like(prompts.attention_mask))
        }
    ),
    "mode_is_put_back": sampling(evaluate_for_ever),
    "number_of_rollouts_is_kept": drawing(lambda _: {"num_rollouts": 3}),
}


# Tasks


def shuffled_examples(self, split):
    examples = DigitSumTask.examples(self, split)
    turn = next(COUNT) % len(examples)
    return (*examples[turn:], *examples[:turn])


TASKS = {
    "splits_are_always_the_same": copy_of(DigitSumTask, examples=shuffled_examples),
    "splits_are_disjoint": copy_of(
        DigitSumTask, examples=lambda self, split: DigitSumTask.examples(self, "train")
    ),
    "prompts_can_be_encoded": copy_of(
        DigitSumTask, examples=lambda self, split: (Example(prompt=" "),)
    ),
    "figures_are_named": copy_of(DigitSumTask, headline="accuracy"),
    "grades_are_shares": copy_of(DigitSumTask, grade=lambda self, example, text: {"right": 1.5}),
    "answers_are_read_from_any_text": copy_of(
        DigitSumTask, read_answer=lambda self, example, text: str(int(text))
    ),
    "grading_is_repeatable": copy_of(
        DigitSumTask, grade_all=lambda self, pairs: [{"right": 1.0} for _ in pairs]
    ),
    "demonstrations_can_be_learnt_from": copy_of(
        DigitSumTask, demonstrate=lambda self, example, rng: "0000"
    ),
    "demonstrations_fit": copy_of(DigitSumTask, response_length=0),
    "saved_problems_can_be_graded_again": copy_of(
        DigitSumTask,
        from_record=lambda self, record: Example(
            prompt=record["prompt"],
            columns={**record["columns"], "sum": record["columns"]["sum"] + 1},
        ),
    ),
    "questions_are_counted": copy_of(DigitSumTask, num_questions=lambda self, example: 0),
}


# Rewards


def scoring(change: Callable[[Any, Any], Any]) -> Any:
    def score(self, rollouts, task):
        return change(rollouts, TaskReward.score(self, rollouts, task))

    return copy_of(TaskReward, score=score)


def refuse_one(rollouts: Any, rewards: Any) -> Any:
    if rollouts.num_rollouts == 1:
        raise ValueError("a group of one has no spread")
    return rewards


def write_into_rollouts(rollouts: Any, rewards: Any) -> Any:
    rollouts.completions.add_(1)
    return rewards


def by_place(rollouts: Any, rewards: Any) -> Any:
    places = torch.arange(rollouts.num_prompts, dtype=torch.float32)[:, None]
    return replace(rewards, total=rewards.total + places)


REWARDS = {
    "total_is_finite": scoring(
        lambda _, rewards: replace(rewards, total=torch.full_like(rewards.total, torch.inf))
    ),
    "components_are_named": scoring(lambda _, rewards: replace(rewards, components={})),
    "no_opinion_is_zero": scoring(
        lambda _, rewards: Rewards(
            total=torch.ones_like(rewards.total),
            components={"none": torch.full_like(rewards.total, torch.nan)},
        )
    ),
    "scoring_is_repeatable": scoring(
        lambda _, rewards: replace(rewards, total=rewards.total + next(COUNT))
    ),
    "prompts_are_scored_by_themselves": scoring(by_place),
    "any_number_of_rollouts_is_scored": scoring(refuse_one),
    "rollouts_stay_as_they_are": scoring(write_into_rollouts),
}


# Likelihoods


def viewing(change: Callable[[Any, Any], Any]) -> Any:
    def views(self, rollouts, generator):
        return change(rollouts, ElboLikelihood.views(self, rollouts, generator))

    return copy_of(ElboLikelihood, views=views)


def viewing_by(source: Callable[[], torch.Generator]) -> Any:
    def views(self, rollouts, generator):
        return ElboLikelihood.views(self, rollouts, source())

    return copy_of(ElboLikelihood, views=views)


def whole_prompts_hidden(rollouts: Any, views: Any) -> Any:
    shape = (*views.hidden.shape[:3], rollouts.prompts.tokens.shape[1])
    return replace(views, prompt_hidden=torch.ones(shape, dtype=torch.bool))


def write_into_answers(rollouts: Any, views: Any) -> Any:
    rollouts.answer_mask.logical_not_()
    return views


LIKELIHOODS = {
    "views_have_the_shape": viewing(
        lambda _, views: replace(views, coefficient=views.coefficient[:, :, :1])
    ),
    "only_hidden_tokens_count": viewing(
        lambda _, views: replace(views, coefficient=views.coefficient + 1)
    ),
    "only_the_answer_counts": viewing(
        lambda _, views: replace(views, coefficient=views.hidden.float())
    ),
    "padding_is_never_hidden": viewing(whole_prompts_hidden),
    "same_seed_same_views": viewing_by(lambda: seeded(next(COUNT))),
    "order_of_groups_does_not_matter": viewing_by(lambda: seeded(7)),
    "neither_padding_nor_portions_matter": viewing(
        lambda rollouts, views: replace(
            views, coefficient=views.coefficient * rollouts.prompts.tokens.shape[1]
        )
    ),
    "value_is_one_number_per_rollout": copy_of(
        ElboLikelihood,
        combine=lambda self, scores, views: scores.sum((-2, -1)) / 0.0,
    ),
    "log_ratio_is_the_difference": copy_of(
        ElboLikelihood,
        log_ratio=lambda self, one, other, views: (one - other).sum((-2, -1)),
    ),
    "is_linear_is_honest": copy_of(
        ElboLikelihood,
        combine=lambda self, scores, views: self.combine_views(scores, views).mean(-1),
    ),
    "standard_error_is_one": copy_of(
        ElboLikelihood,
        standard_error=lambda self, ratios, views: -torch.ones(ratios.shape[:-2]),
    ),
    "exact_means_deterministic": copy_of(ElboLikelihood, is_exact=True),
    "needs_path_is_honest": copy_of(ElboLikelihood, needs_path=True),
    "recorded_log_probs_are_the_policys": copy_of(
        ElboLikelihood,
        recorded_log_probs=lambda self, rollouts, views: torch.zeros(views.hidden.shape),
    ),
    "rollouts_stay_as_they_are": viewing(write_into_answers),
}


# Weights


def weighing(change: Callable[[Any, Any, Any], Any], base: type = TiltedWeights) -> Any:
    """Return weights whose estimate is made by a function of estimator, rewards and log-ratio."""

    def estimate(self, rewards, log_ratio):
        return change(lambda r: base.estimate(self, r, log_ratio), rewards, log_ratio)

    return copy_of(base, estimate=estimate)


def changed(change: Callable[[Any], dict[str, Any]]) -> Any:
    return weighing(lambda plain, rewards, _: replace(found := plain(rewards), **change(found)))


def write_into_rewards(plain: Any, rewards: Any, log_ratio: Any) -> Any:
    rewards.sub_(1)
    return plain(rewards)


WEIGHTS = {
    "weights_have_the_shape": changed(lambda found: {"coefficient": 0 * found.coefficient}),
    "mean_is_one": changed(lambda found: {"values": 2 * found.values}),
    "log_weights_follow_the_coefficient": changed(
        lambda found: {"coefficient": found.coefficient / 2}
    ),
    "has_link_is_honest": copy_of(AdvantageWeights, link=lambda self, log_weights: log_weights),
    "order_in_a_group_does_not_matter": changed(
        lambda found: {"values": found.values * torch.arange(found.values.shape[1])}
    ),
    "constant_reward_does_not_matter": weighing(
        lambda plain, rewards, _: plain(rewards * rewards.mean(-1, keepdim=True))
    ),
    "groups_know_nothing_of_each_other": weighing(
        lambda plain, rewards, _: plain(rewards / rewards.std())
    ),
    "better_rewards_never_weigh_less": weighing(lambda plain, rewards, _: plain(-rewards)),
    "sample_size_is_a_share": changed(lambda found: {"ess": 9 * found.ess}),
    "needs_reference_is_honest": copy_of(
        TiltedWeights, needs_reference=property(lambda self: False)
    ),
    "rewards_stay_as_they_are": weighing(write_into_rewards),
}


# Baselines


def subtracting(change: Callable[[Any, Any], Any], base: type = MeanBaseline) -> Any:
    """Return a baseline made by a function of rewards and log p_θ − log p_v."""

    def weights(self, estimator, rewards, log_ratio, estimated, model_log_ratio):
        return change(rewards, model_log_ratio)

    return copy_of(base, weights=weights)


BASELINES = {
    "baseline_has_the_shape": subtracting(lambda rewards, _: rewards / 0.0),
    "strength_is_a_share": after_init(MeanBaseline, lambda self: setattr(self, "strength", 2.0)),
    "groups_know_nothing_of_each_other": subtracting(
        lambda rewards, _: rewards.mean().expand_as(rewards)
    ),
    "order_in_a_group_does_not_matter": subtracting(lambda rewards, _: rewards.cumsum(-1)),
    "needs_model_log_ratio_is_honest": copy_of(MeanBaseline, needs_model_log_ratio=True),
    "baseline_has_no_gradient": subtracting(lambda _, model: model.exp(), ModelBaseline),
    "rewards_stay_as_they_are": subtracting(lambda rewards, _: rewards.mul_(2)),
}


# Objectives


def losing(change: Callable[[Any, Any], Any], **more: Any) -> Any:
    """Return an objective whose loss is changed by a function of the output and the batch."""

    def loss(self, policy, batch):
        return change(DmpoObjective.loss(self, policy, batch), batch)

    return copy_of(DmpoObjective, loss=loss, **more)


def scaled(factor: Callable[[Any], Any]) -> Any:
    return losing(lambda output, batch: replace(output, loss=output.loss * factor(batch)))


def batching(change: Callable[[Any, Any, Any], Any], **more: Any) -> Any:
    """Return an objective whose batch is changed."""

    def draw(self, policy, experience, generator, *, update):
        batch = DmpoObjective.draw(self, policy, experience, generator, update=update)
        return change(policy, batch, experience)

    return copy_of(DmpoObjective, draw=draw, **more)


def ask_the_policy(policy: Any, batch: Any, experience: Any) -> Any:
    at = torch.zeros(batch.num_rows, 1, dtype=torch.long)
    with policy.evaluating():
        policy.logits(batch.completions, torch.ones_like(batch.answer_mask), at)
    return batch


def draw_anew(self, policy, experience, generator, *, update):
    return DmpoObjective.draw(self, policy, experience, seeded(next(COUNT)), update=update)


def prepare_with(change: Callable[[Any, Any], Any]) -> Any:
    def prepare(self, policy, rollouts, rewards, generator):
        return change(policy, DmpoObjective.prepare(self, policy, rollouts, rewards, generator))

    return copy_of(DmpoObjective, prepare=prepare)


def evaluating_prepared(policy: Any, experience: Any) -> Any:
    policy.module.eval()
    return experience


OBJECTIVES = {
    "default_parts_are_registered": copy_of(
        DmpoObjective, default_parts={**DmpoObjective.default_parts, "reward": {"name": "task"}}
    ),
    "every_row_is_there": batching(lambda _, batch, __: replace(batch, num_rows_in_buffer=3)),
    "loss_is_finite": scaled(lambda batch: torch.inf),
    "gradient_reaches_the_weights": losing(
        lambda output, _: replace(output, loss=output.loss.detach())
    ),
    "loss_is_deterministic": scaled(lambda batch: next(COUNT)),
    "slices_of_rows_add_up": scaled(lambda batch: batch.num_rows_in_buffer / batch.num_rows),
    "slices_of_views_add_up": scaled(lambda batch: batch.views.hidden.shape[1]),
    "metrics_add_up": losing(lambda output, _: replace(output, metrics={"one": torch.ones(())})),
    "buffer_metrics_are_numbers": prepare_with(
        lambda _, experience: replace(experience, metrics={"none": float("nan")})
    ),
    "weightless_rows_add_nothing": losing(
        lambda output, batch: replace(output, loss=output.loss + 0.1 * batch.num_rows)
    ),
    "order_of_groups_does_not_matter": batching(
        lambda _, batch, __: replace(batch, weights=batch.weights * torch.arange(batch.num_rows))
    ),
    "padding_does_not_matter": scaled(lambda batch: batch.prompt_tokens.shape[1]),
    "same_seed_same_step": copy_of(DmpoObjective, draw=draw_anew),
    "prepare_and_draw_keep_the_policy": prepare_with(evaluating_prepared),
    "nothing_stored_has_a_gradient": batching(
        lambda _, batch, __: replace(batch, weights=batch.weights.clone().requires_grad_())
    ),
    "needs_reference_is_honest": copy_of(
        DmpoObjective, needs_reference=property(lambda self: False)
    ),
    "draw_asks_policy_is_honest": batching(ask_the_policy),
}

FAULTY = {
    "plugin": PLUGINS,
    "policy": POLICIES,
    "sampler": SAMPLERS,
    "task": TASKS,
    "reward": REWARDS,
    "likelihood": LIKELIHOODS,
    "weights": WEIGHTS,
    "baseline": BASELINES,
    "objective": OBJECTIVES,
}
"""A faulty plugin for each law of each kind."""

FAULTS = [
    Fault(
        kind,
        law,
        plugin,
        PARAMETERS.get(kind, {}) if kind != "plugin" else PLUGIN_PARAMETERS.get(law, {}),
    )
    for kind, table in FAULTY.items()
    for law, plugin in table.items()
]
