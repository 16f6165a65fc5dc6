"""Every built-in keeps the laws that plugins are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dmpo import testing
from dmpo.records import Example
from dmpo.registry import (
    BASELINES,
    LIKELIHOODS,
    OBJECTIVES,
    POLICIES,
    REWARDS,
    SAMPLERS,
    TASKS,
    WEIGHTS,
    Registry,
)
from tests.policies.mdlm_checkpoints import FAMILIES, write_checkpoint
from tests.rewards.test_classifier import saved
from tests.testing.faults import SMALL

FILE = Path(__file__)
PAIRS = [
    Example(prompt="12=", columns={"chosen": "12", "rejected": "3"}),
    Example(prompt="7=", columns={"chosen": "1", "rejected": ""}),
]


def built_in(registry: Registry[Any]) -> list[str]:
    return [
        name
        for name, entry in registry.entries().items()
        if entry.distribution.startswith("dmpo-dllm ")
    ]


def number_of_ones(completions: Sequence[str]) -> list[float]:
    return [float(text.count("1")) for text in completions]


@pytest.mark.parametrize("name", built_in(OBJECTIVES))
def test_objective_keeps_its_laws(name: str) -> None:
    testing.check_objective(OBJECTIVES.load(name))


@pytest.mark.parametrize("name", built_in(LIKELIHOODS))
def test_likelihood_keeps_its_laws(name: str) -> None:
    testing.check_likelihood(LIKELIHOODS.load(name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("elbo", {"masking": "quadrature", "num_views": 3}),
        ("elbo", {"eos": "canvas", "antithetic": False}),
        ("mean_field", {"prompt_mask": 0.3}),
        ("block", {"block_length": 3, "context_mask": 0.3}),
        ("trace", {"steps": "sampled", "num_views": 2}),
        ("left_to_right", {"num_views": 2}),
    ],
)
def test_likelihood_keeps_its_laws_with_other_settings(name: str, parameters: Any) -> None:
    testing.check_likelihood(LIKELIHOODS.load(name), **parameters)


@pytest.mark.parametrize("name", built_in(WEIGHTS))
def test_weights_keep_their_laws(name: str) -> None:
    testing.check_weights(WEIGHTS.load(name))


@pytest.mark.parametrize("name", built_in(BASELINES))
def test_baseline_keeps_its_laws(name: str) -> None:
    testing.check_baseline(BASELINES.load(name))


@pytest.mark.parametrize("name", [name for name in built_in(SAMPLERS) if name != "given"])
def test_sampler_keeps_its_laws(name: str) -> None:
    testing.check_sampler(SAMPLERS.load(name))


def test_sampler_of_given_completions_keeps_the_laws() -> None:
    testing.check_sampler(SAMPLERS.load("given"), examples=PAIRS)


@pytest.mark.parametrize(
    "parameters",
    [
        {"block_length": 4, "cache": "dual", "tokens_per_step": 2},
        {"block_length": 4, "stop_at_eos": True},
        {"temperature": 0},
        {"cfg_scale": 0.5},
    ],
)
def test_sampler_keeps_its_laws_with_other_settings(parameters: Any) -> None:
    testing.check_sampler(SAMPLERS.load("random"), **parameters)


@pytest.mark.parametrize("name", ["sudoku", "countdown", "digit_sum"])
def test_task_keeps_its_laws(name: str) -> None:
    testing.check_task(TASKS.load(name), policy=POLICIES.build("llada"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gsm8k", {"train_source": "words.jsonl", "test_source": "held_out.jsonl"}),
        ("math500", {"train_source": "words.jsonl", "test_source": "held_out.jsonl"}),
        ("code", {"source": "generated"}),
        ("file", {"path": "problems.jsonl", "response_length": 4}),
        ("object", {"target": "dmpo.tasks.digit_sum:DigitSumTask"}),
        ("sudoku", {"format": "paper", "grader": "published"}),
    ],
)
@pytest.mark.usefixtures("problems")
def test_task_that_asks_for_settings_keeps_its_laws(name: str, parameters: Any) -> None:
    if name in ("gsm8k", "math500"):
        parameters = {**parameters, "validation_size": 4}
    testing.check_task(TASKS.load(name), **parameters)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("task", {}), ("given_order", {}), ("function", {"target": f"{FILE}:number_of_ones"})],
)
def test_reward_keeps_its_laws(name: str, parameters: Any) -> None:
    testing.check_reward(REWARDS.load(name), **parameters)


def test_neural_reward_keeps_its_laws(tmp_path: Path) -> None:
    testing.check_reward(REWARDS.load("classifier"), model=str(saved(tmp_path, 1)))


@pytest.mark.parametrize(
    "parameters", [{}, {"scratch": SMALL}, {"lora": {"rank": 4}}, {"dtype": "bfloat16"}]
)
def test_llada_keeps_the_laws_of_a_policy(parameters: Any) -> None:
    testing.check_policy(POLICIES.load("llada"), **parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_keeps_the_laws_of_a_policy(family: str, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, family)
    testing.check_policy(POLICIES.load("mdlm"), model=str(model))
