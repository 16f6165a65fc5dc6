"""What every registered plugin keeps to, whoever wrote it: the suites walk the registries."""

from __future__ import annotations

import abc
import functools
import inspect
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dmpo.config.resolve import written_out
from dmpo.errors import ConfigError, DataError
from dmpo.likelihoods.base import Likelihood
from dmpo.objectives.base import ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, LogRatio, LossOutput, Rewards, Rollouts
from dmpo.registry import (
    BASELINES,
    LIKELIHOODS,
    OBJECTIVES,
    POLICIES,
    REGISTRIES,
    REWARDS,
    SAMPLERS,
    TASKS,
    WEIGHTS,
)
from dmpo.tasks.base import Task

FILE = Path(__file__)
SOURCES = {"train_source": "words.jsonl", "test_source": "held_out.jsonl"}
REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("policies", "llada"): {
        "scratch": {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}
    },
    ("policies", "mdlm"): {"model": "owner/name"},
    ("policies", "dream"): {"model": "owner/name"},
    ("tasks", "reasoning_gym"): {"variant": "leg_counting"},
    ("tasks", "gsm8k"): {**SOURCES, "validation_size": 4},
    ("tasks", "math500"): {**SOURCES, "validation_size": 4},
    ("tasks", "code"): {"source": "generated"},
    ("tasks", "object"): {"target": f"{FILE}:own_task"},
    ("tasks", "file"): {"path": "problems.jsonl", "response_length": 4},
    ("rewards", "classifier"): {"model": "owner/name"},
    ("rewards", "function"): {"target": f"{FILE}:number_of_ones"},
    ("samplers", "given"): {"columns": ["one", "two", "three"]},
}
"""Parameters without which a plugin cannot be built, or would be large."""
PLUGINS = [(group, name) for group, registry in REGISTRIES.items() for name in registry.names()]
PLAIN = [name for name in TASKS.names() if "variant" not in TASKS.load(name).Config.model_fields]
LOADED = [
    ("policies", "mdlm"),
    ("policies", "dream"),
    ("rewards", "classifier"),
]
"""Plugins that are built from a checkpoint, which tests of their own do."""
BUILT = [p for p in PLUGINS if p[0] != "objectives" and p not in LOADED]
DRAWING = [name for name in SAMPLERS.names() if name != "given"]
LINKED = [name for name in WEIGHTS.names() if WEIGHTS.load(name).has_link]
LENGTH = 8


def number_of_ones(completions: Sequence[str]) -> list[float]:
    return [float(text.count("1")) for text in completions]


def own_task() -> Task:
    return TASKS.build("digit_sum")


def parameters(group: str, name: str) -> dict[str, Any]:
    given = dict(REQUIRED.get((group, name), {}))
    if group == "samplers":
        given["gen_length"] = LENGTH
    return given


def build(group: str, name: str) -> Any:
    return REGISTRIES[group].build(name, parameters(group, name))


def signature_of(method: Any) -> Any:
    """Return parameters with kinds, defaults and types (a decorator may change the result)."""
    return inspect.signature(method).parameters


@functools.cache
def policy(name: str = "llada") -> DiffusionPolicy:
    return POLICIES.build(name, REQUIRED["policies", name])


def sampled(name: str, *, seed: int = 0, num_rollouts: int = 3) -> Rollouts:
    columns = {"one": "1", "two": "22", "three": ""}
    prompts = policy().encode([Example(prompt=p, columns=columns) for p in ("12=", "3412=")])
    generator = torch.Generator().manual_seed(seed)
    with policy().evaluating():
        return build("samplers", name).sample(
            policy(), prompts, num_rollouts=num_rollouts, generator=generator
        )


@functools.cache
def with_path() -> Rollouts:
    return sampled("roar")


# Every plugin


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_derives_from_its_interface_and_nothing_concrete(group: str, name: str) -> None:
    plugin = REGISTRIES[group].load(name)
    ancestors = [base for base in plugin.__mro__[1:] if base not in (object, abc.ABC)]
    assert ancestors
    assert all(inspect.isabstract(base) for base in ancestors)


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_is_final_and_concrete(group: str, name: str) -> None:
    plugin = REGISTRIES[group].load(name)
    assert plugin.__dict__.get("__final__") is True
    assert not inspect.isabstract(plugin)


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_keeps_the_signatures_of_its_interface(group: str, name: str) -> None:
    plugin = REGISTRIES[group].load(name)
    for base in plugin.__mro__[1:]:
        for method in getattr(base, "__abstractmethods__", ()):
            promised, kept = getattr(base, method), getattr(plugin, method)
            if not isinstance(promised, property):
                assert signature_of(kept) == signature_of(promised), method


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_and_each_of_its_parameters_are_described(group: str, name: str) -> None:
    plugin = REGISTRIES[group].load(name)
    assert plugin.__doc__
    models = [plugin.Config]
    for model in models:
        assert all(field.description for field in model.model_fields.values())
        kinds = [
            kind for field in model.model_fields.values() for kind in get_args(field.annotation)
        ]
        models += [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_config_is_frozen_and_refuses_unknown_keys(group: str, name: str) -> None:
    given = parameters(group, name)
    assert REGISTRIES[group].load(name).Config.model_config.get("frozen")
    with pytest.raises(ConfigError, match="no_such_key: unknown key"):
        REGISTRIES[group].config(name, {**given, "no_such_key": 1})


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_plugin_config_written_out_validates_to_itself(group: str, name: str) -> None:
    config = REGISTRIES[group].config(name, parameters(group, name))
    written = json.loads(json.dumps(written_out(config)))
    assert REGISTRIES[group].config(name, written) == config


@pytest.mark.parametrize(("group", "name"), BUILT)
def test_plugin_builds_from_its_config_alone(group: str, name: str) -> None:
    plugin = build(group, name)
    assert type(plugin) is REGISTRIES[group].load(name)


# Policies


def test_policy_scores_only_where_it_is_asked() -> None:
    prompts = policy().encode([Example(prompt="1234")])
    where = torch.tensor([[True, False, True, False]])
    noisy = policy().corrupt(prompts.tokens, where)
    scores = policy().token_logprobs(noisy, prompts.attention_mask, prompts.tokens, where)
    assert (noisy == policy().mask_token_id).equal(where)
    assert (scores != 0).equal(where)
    assert (scores <= 0).all()


def test_policy_counts_the_positions_it_runs_over() -> None:
    prompts = policy().encode([Example(prompt="1234")])
    before = policy().forward_tokens
    policy().logits(prompts.tokens, prompts.attention_mask, torch.tensor([[0]]))
    assert policy().forward_tokens == before + 4


# Samplers


@pytest.mark.parametrize("name", DRAWING)
def test_sampler_fills_the_canvas(name: str) -> None:
    rollouts = sampled(name)
    assert rollouts.completions.shape == (2, 3, LENGTH)
    assert (rollouts.commit_step >= 0).all()
    assert (rollouts.commit_step < rollouts.num_forwards).all()


@pytest.mark.parametrize("name", DRAWING)
def test_sampler_draws_the_same_from_the_same_seed(name: str) -> None:
    assert sampled(name, seed=1).completions.equal(sampled(name, seed=1).completions)
    assert not sampled(name, seed=1).completions.equal(sampled(name, seed=2).completions)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_sampler_leaves_the_global_random_stream_alone(name: str) -> None:
    before = torch.get_rng_state()
    sampled(name)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_sampler_records_a_path_exactly_if_it_says_so(name: str) -> None:
    log_probs = sampled(name).log_probs
    assert (log_probs is not None) == build("samplers", name).records_path
    assert log_probs is None or bool((log_probs <= 0).all())


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_sampler_answer_ends_with_the_first_eos(name: str) -> None:
    rollouts = sampled(name)
    ends = (rollouts.completions == policy().eos_token_id).long()
    assert rollouts.answer_mask.equal(ends.cumsum(-1) - ends == 0)


# Tasks


@pytest.mark.usefixtures("problems")
@pytest.mark.parametrize("name", PLAIN)
def test_task_splits_are_disjoint_and_always_the_same(name: str) -> None:
    task: Task = build("tasks", name)
    splits = [[e.prompt for e in task.examples(s)] for s in ("train", "validation", "test")]
    assert all(splits)
    assert sum(map(len, map(set, splits))) == len(set().union(*splits))
    assert splits[2] == [e.prompt for e in build("tasks", name).examples("test")]


@pytest.mark.usefixtures("problems")
@pytest.mark.parametrize("name", PLAIN)
def test_task_grades_garbage_within_bounds(name: str) -> None:
    task: Task = build("tasks", name)
    example = task.examples("test")[0]
    names = task.grade(example, "").keys()
    assert task.headline in names
    assert task.reward_weights.keys() <= names

    @given(st.text() | st.text("0123456789+-*/()=.^e \n", max_size=40))
    def grades_are_shares(completion: str) -> None:
        grades = task.grade(example, completion)
        assert grades.keys() == names
        assert all(math.isfinite(grade) and 0 <= grade <= 1 for grade in grades.values())
        assert isinstance(task.read_answer(example, completion), str | None)

    grades_are_shares()


@pytest.mark.usefixtures("problems")
@pytest.mark.parametrize("name", PLAIN)
def test_task_demonstration_can_be_read_and_repeated(name: str) -> None:
    task: Task = build("tasks", name)
    example = task.examples("train")[0]
    try:
        shown = [task.demonstrate(example, random.Random(0)) for _ in range(2)]
    except DataError:
        return  # the task knows no answers, and says so
    assert shown[0] == shown[1]
    assert task.read_answer(example, shown[0]) is not None
    assert len(shown[0]) <= task.response_length


# Rewards


@pytest.mark.parametrize("name", [n for n in REWARDS.names() if ("rewards", n) not in LOADED])
def test_reward_gives_each_rollout_a_finite_total(name: str) -> None:
    task = TASKS.build("sudoku")
    prompts = policy().encode(task.examples("train")[:2])
    with policy().evaluating():
        rollouts = build("samplers", "roar").sample(
            policy(), prompts, num_rollouts=3, generator=torch.Generator().manual_seed(0)
        )
    rewards: Rewards = build("rewards", name).score(rollouts, task)
    assert rewards.total.shape == (2, 3)
    assert rewards.total.dtype == torch.float32
    assert all(part.isfinite().all() for part in (rewards.total, *rewards.components.values()))


# Likelihoods


@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_likelihood_scores_hidden_tokens_of_the_answer_alone(name: str) -> None:
    rollouts = with_path()
    views = build("likelihoods", name).views(rollouts, torch.Generator().manual_seed(0))
    assert views.coefficient.shape == views.hidden.shape
    assert views.hidden.shape[:2] == rollouts.completions.shape[:2]
    counted = views.coefficient != 0
    assert counted.any()
    assert not (counted & ~views.hidden).any()
    assert not (counted & ~rollouts.answer_mask.unsqueeze(2)).any()


@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_likelihood_combines_to_a_number_per_rollout(name: str) -> None:
    likelihood: Likelihood = build("likelihoods", name)
    views = likelihood.views(with_path(), torch.Generator().manual_seed(0))
    ones = torch.ones(views.hidden.shape)
    assert likelihood.combine(ones, views).shape == (2, 3)
    error = likelihood.standard_error(ones, views)
    assert error is None or bool((error >= 0).all())


@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_likelihood_says_whether_its_views_are_random(name: str) -> None:
    likelihood: Likelihood = build("likelihoods", name)
    drawn = [
        likelihood.views(with_path(), torch.Generator().manual_seed(seed)).hidden
        for seed in (0, 1, 2)
    ]
    assert all(hidden.equal(drawn[0]) for hidden in drawn) == likelihood.is_deterministic


@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_likelihood_asks_for_a_path_exactly_if_it_says_so(name: str) -> None:
    likelihood: Likelihood = build("likelihoods", name)
    rollouts = sampled("low_confidence")
    try:
        likelihood.views(rollouts, torch.Generator().manual_seed(0))
    except ConfigError:
        assert likelihood.needs_path
    else:
        assert not likelihood.needs_path


# Weights and baselines

REWARD_ROWS = st.lists(st.floats(-2, 2), min_size=4, max_size=4)


def noisy_ratio() -> LogRatio:
    value = torch.tensor([[0.5, -0.2, 0.0, 0.3], [0.1, 0.0, -0.4, 0.2]])
    return LogRatio(value=value, standard_error=torch.zeros_like(value))


@pytest.mark.parametrize("name", LINKED)
@given(first=REWARD_ROWS, second=REWARD_ROWS)
def test_linked_weights_have_mean_one(name: str, first: list[float], second: list[float]) -> None:
    estimator = build("weights", name)
    weights = estimator.estimate(torch.tensor([first, second]), noisy_ratio())
    assert weights.values.mean(-1).tolist() == pytest.approx([1, 1], abs=1e-4)
    assert weights.ess.shape == weights.coefficient.shape == (2,)
    log_weights = weights.log_weights
    assert log_weights is not None
    assert torch.allclose(estimator.link(log_weights), weights.values, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in WEIGHTS.names() if name not in LINKED])
def test_weights_without_a_link_say_so(name: str) -> None:
    with pytest.raises(ConfigError):
        build("weights", name).link(torch.zeros(1, 2))


@pytest.mark.parametrize("name", WEIGHTS.names())
def test_better_rewards_never_weigh_less(name: str) -> None:
    rewards = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.5, 1.0]])
    even = LogRatio(value=torch.zeros_like(rewards), standard_error=torch.zeros_like(rewards))
    values = build("weights", name).estimate(rewards, even).values
    assert (values.diff(dim=-1) >= -1e-6).all()


@pytest.mark.parametrize("name", BASELINES.names())
@pytest.mark.parametrize("linked", LINKED)
def test_baseline_gives_each_rollout_a_finite_weight(name: str, linked: str) -> None:
    estimator, baseline = build("weights", linked), build("baselines", name)
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.0, 0.0]])
    estimated = estimator.estimate(rewards, noisy_ratio())
    delta = torch.zeros_like(rewards) if baseline.needs_model_log_ratio else None
    base = baseline.weights(estimator, rewards, noisy_ratio(), estimated, delta)
    assert base.shape == rewards.shape
    assert base.isfinite().all()
    assert 0 <= baseline.strength <= 1


# Objectives


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_objective_loss_of_slices_adds_up_to_the_whole(name: str) -> None:
    objective = with_default_parts(name)
    policy().freeze_reference()
    rollouts, generator = with_path(), torch.Generator().manual_seed(0)
    rewards = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        experience = objective.prepare(
            policy(), rollouts, Rewards(total=rewards, components={}), generator
        )
        batch = objective.draw(policy(), experience, generator, update=0)
        whole: LossOutput = objective.loss(policy(), batch)
        parts = [objective.loss(policy(), rows).loss for rows in batch.split(4)]
    assert whole.loss.isfinite()
    assert sum(parts).item() == pytest.approx(whole.loss.item(), abs=1e-5)  # type: ignore[union-attr]


def with_default_parts(name: str) -> Any:
    plugin = OBJECTIVES.load(name)
    parts = {part: dict(section) for part, section in plugin.default_parts.items()}
    built = {
        part: registry.build(parts[part].pop("name"), parts[part])
        for part, registry in (
            ("likelihood", LIKELIHOODS),
            ("weights", WEIGHTS),
            ("baseline", BASELINES),
        )
    }
    return plugin(  # type: ignore[call-arg]
        OBJECTIVES.config(name, {}),
        ObjectiveParts(
            **built,
            ratio_likelihood=built["likelihood"],
            updates_per_buffer=2,
            rows_per_forward=4,
            score=rewarded_for_ones,
        ),
    )


def rewarded_for_ones(rollouts: Rollouts) -> Rewards:
    total = torch.tensor([number_of_ones(texts) for texts in rollouts.texts])
    return Rewards(total=total, components={})
