from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dmpo.diffusion.enumeration import expected_log_prob, marginal_log_prob
from dmpo.errors import ConfigError
from dmpo.records import Example, Rollouts
from dmpo.registry import SAMPLERS
from dmpo.training.drift import (
    enumerated_log_probs,
    first_rollouts,
    is_drift_due,
    measure_drift,
)
from tests.oracles.enumeration import response_probabilities
from tests.training.runs import small_objective, small_policy, small_settings, small_trainer

PROMPTS = [Example(prompt=text) for text in ("10=", "21=", "02=")]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(policy, *, length: int = 3, num_rollouts: int = 4) -> Rollouts:
    sampler = SAMPLERS.build("roar", {"gen_length": length})
    return sampler.sample(
        policy, policy.encode(PROMPTS), num_rollouts=num_rollouts, generator=generator()
    )


def moved_policy():
    policy = small_policy()
    policy.freeze_reference()
    with torch.no_grad():
        for weight in policy.module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator(1)))
    return policy


def test_enumerated_log_probability_equals_the_oracles() -> None:
    policy = moved_policy()
    rollouts = drawn(policy, length=3, num_rollouts=2)
    found = marginal_log_prob(enumerated_log_probs(policy, rollouts, rows_per_forward=2))
    alphabet = rollouts.completions.unique()
    for row, example in enumerate(PROMPTS):
        table = response_probabilities(policy, example, alphabet, 3).log()
        at = torch.searchsorted(alphabet, rollouts.completions[row])
        expected = torch.stack([table[tuple(index)] for index in at])
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_gap_is_the_exact_one_and_positive() -> None:
    policy = moved_policy()
    rollouts = drawn(policy)
    table = enumerated_log_probs(policy, rollouts, rows_per_forward=100)
    expected = (marginal_log_prob(table) - expected_log_prob(table)).mean()
    figures = measure_drift(policy, rollouts, generator(), rows_per_forward=2)
    assert figures["drift/elbo_gap"] == pytest.approx(float(expected), abs=1e-6)
    assert figures["drift/elbo_gap"] > 0


def test_kl_agrees_with_the_enumerated_elbos_within_its_error() -> None:
    policy = moved_policy()
    rollouts = drawn(policy, num_rollouts=16)
    here = expected_log_prob(enumerated_log_probs(policy, rollouts, rows_per_forward=50))
    with policy.reference():
        there = expected_log_prob(enumerated_log_probs(policy, rollouts, rows_per_forward=50))
    exact = float((here - there).mean())
    found = measure_drift(policy, rollouts, generator(), rows_per_forward=50, num_views=32)
    error = found["drift/kl_reference_error"]
    assert error > 0
    assert abs(found["drift/kl_reference"] - exact) < 3 * error


def test_drift_from_itself_is_zero() -> None:
    policy = small_policy()
    policy.freeze_reference()
    figures = measure_drift(policy, drawn(policy), generator(), rows_per_forward=8)
    assert figures["drift/kl_reference"] == figures["drift/kl_reference_error"] == 0


def test_long_canvas_is_not_enumerated() -> None:
    policy = moved_policy()
    figures = measure_drift(policy, drawn(policy, length=9), generator(), rows_per_forward=8)
    assert figures.keys() == {"drift/kl_reference", "drift/kl_reference_error"}


def test_policy_without_reference_is_refused() -> None:
    policy = small_policy()
    with pytest.raises(ConfigError, match="frozen copy"):
        measure_drift(policy, drawn(policy), generator(), rows_per_forward=8)


@pytest.mark.parametrize(("count", "shape"), [(2, (2, 1)), (3, (3, 1)), (7, (3, 2)), (99, (3, 4))])
def test_first_rollouts_take_every_prompt_before_more_of_one(count, shape) -> None:
    rollouts = first_rollouts(drawn(small_policy()), count)
    assert rollouts.completions.shape[:2] == shape
    assert (len(rollouts.texts), len(rollouts.texts[0])) == shape


def test_drift_is_due_at_the_buffer_after_each_multiple() -> None:
    due = [step for step in range(0, 40, 4) if is_drift_due(step, 10, 4)]
    assert due == [0, 12, 20, 32]
    assert not is_drift_due(0, None, 4)


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_run_measures_drift_and_counts_it_to_nothing(tmp_path: Path, alpha: float) -> None:
    lines = {}
    for name, every in (("plain", None), ("measured", 5)):
        settings = small_settings(num_steps=9, measure_drift_every=every)
        objective = small_objective(alpha=alpha)
        small_trainer(tmp_path / name, settings, objective=objective).train()
        text = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines[name] = [json.loads(line) for line in text.splitlines()]
    has_kl = ["drift/kl_reference" in line for line in lines["measured"]]
    assert has_kl == [True] * 4 + [False] * 4 + [True]
    assert lines["measured"][0]["drift/kl_reference"] == 0
    assert lines["measured"][8]["drift/elbo_gap"] > 0
    assert lines["measured"][0]["tokens/drift"] > 0 == lines["plain"][0]["tokens/drift"]
    for one, other in zip(lines["plain"], lines["measured"], strict=True):
        for name in ("loss/total", "tokens/model_total", "flops/total", "reward/mean"):
            assert one[name] == other[name]


def test_resumed_run_repeats_what_was_measured_before_it_stopped(tmp_path: Path) -> None:
    def settings(num_steps: int):
        return small_settings(num_steps=num_steps, measure_drift_every=4)

    small_trainer(tmp_path / "whole", settings(8)).train()
    path = small_trainer(tmp_path / "cut", settings(6)).train().checkpoint
    trainer = small_trainer(tmp_path / "cut", settings(8))
    trainer.restore(path)
    trainer.train()
    whole, cut = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open(encoding="utf-8")]
        for name in ("whole", "cut")
    )
    for name in ("drift/kl_reference", "drift/elbo_gap", "flops/total"):
        assert [line[name] for line in cut] == [line[name] for line in whole]
