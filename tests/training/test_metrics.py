from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmpo.records import Example, Experience, LogRatio, Prompts, Rewards, Rollouts, Weights
from dmpo.training.metrics import (
    buffer_metrics,
    log_ratio_warnings,
    missing_warnings,
    named_by_objective,
    phase_metrics,
    right_answers,
    unique_answers,
)
from dmpo.training.phases import PHASES, PhaseTotals
from tests.training.runs import CountingTask, small_parts, small_trainer


@pytest.fixture
def experience() -> Experience:
    """Two prompts with two rollouts each, of which the second prompt's earn the same."""
    prompts = Prompts(
        examples=tuple(Example(prompt=f"{d}0=", columns={"digit": d}) for d in "12"),
        tokens=torch.zeros(2, 3, dtype=torch.long),
        attention_mask=torch.ones(2, 3, dtype=torch.bool),
    )
    lengths = torch.tensor([[2, 1], [2, 2]])
    rollouts = Rollouts(
        prompts=prompts,
        completions=torch.zeros(2, 2, 2, dtype=torch.long),
        answer_mask=torch.arange(2) < lengths[..., None],
        commit_step=torch.zeros(2, 2, 2, dtype=torch.long),
        log_probs=torch.tensor([[[-1.0, -2.0], [-3.0, -100.0]], [[0.0, 0.0], [0.0, -1.0]]]),
        temperature=1.0,
        num_forwards=3,
        texts=(("11", "="), ("20", "20")),
    )
    total = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    weights = Weights(
        values=torch.ones(2, 2),
        log_weights=torch.zeros(2, 2),
        ess=torch.tensor([0.5, 1.0]),
        coefficient=torch.tensor([0.2, 0.4]),
    )
    return Experience(
        rollouts=rollouts,
        rewards=Rewards(total=total, components={"share": total}),
        weights=weights,
        baseline_weights=None,
        log_ratio=None,
        views=(),
        behaviour_log_probs=(),
        reference_log_probs=(),
        metrics={"weight_max": 3.0, "temper": 2.0},
    )


def test_buffer_metrics_have_the_values_found_by_hand(experience: Experience) -> None:
    metrics = buffer_metrics(experience, CountingTask())
    expected = {
        "reward/mean": 0.5,
        "reward/std": 0.125**0.5,
        "reward/flat_groups": 0.5,
        "reward/component/share": 0.5,
        "reward/missing": 0.0,
        "weights/ess": 0.75,
        "weights/coefficient": 0.3,
        "weights/max": 3.0,
        "objective/temper": 2.0,
        "rollout/length": 7 / 4,
        "rollout/negative_log_prob": (1 + 2 + 3 + 0 + 0 + 0 + 1) / 7,
        "rollout/unique_answers": (1 + 1) / 2,
        "rollout/unreadable": 1 / 4,
        "rollout/right": 0.0,
        "rollout/pass_at_n": 0.0,
        "rollout/unique_right_answers": 0.0,
        "rollout/forward_passes": 3.0,
    }
    assert metrics == pytest.approx(expected)


def test_entropy_is_left_out_where_the_sampler_records_none(experience: Experience) -> None:
    silent = replace(experience, rollouts=replace(experience.rollouts, log_probs=None))
    assert "rollout/negative_log_prob" not in buffer_metrics(silent, CountingTask())


def test_entropy_and_drift_are_means_over_answer_tokens_and_rollouts(
    experience: Experience,
) -> None:
    entropies = torch.tensor([[[1.0, 2.0], [3.0, 100.0]], [[0.5, 0.5], [0.0, 1.0]]])
    ratio = LogRatio(value=torch.tensor([[-1.0, -2.0], [0.0, 1.0]]), standard_error=None)
    changed = replace(
        experience,
        rollouts=replace(experience.rollouts, entropies=entropies),
        log_ratio=ratio,
    )
    metrics = buffer_metrics(changed, CountingTask())
    assert metrics["rollout/entropy"] == pytest.approx(8 / 7)
    assert metrics["drift/kl_reference"] == pytest.approx(0.5)


def test_unique_answers_count_readable_ones_per_group(experience: Experience) -> None:
    rollouts = replace(experience.rollouts, texts=(("11", "10"), ("x", "x")))
    assert unique_answers(CountingTask(), rollouts) == (1.0, 0.5)


def test_right_answers_count_rollouts_groups_and_distinct_answers(experience: Experience) -> None:
    rollouts = replace(experience.rollouts, texts=(("1111", "1111"), ("20", "20")))
    assert right_answers(CountingTask(), rollouts) == {
        "rollout/right": 1 / 2,
        "rollout/pass_at_n": 1 / 2,
        "rollout/unique_right_answers": 1 / 2,
    }


@pytest.mark.parametrize(
    ("noise", "spread", "warns"), [(2.0, 1.0, True), (0.5, 1.0, False), (2.0, 0.0, False)]
)
def test_warning_comes_where_noise_exceeds_the_reward(
    noise: float, spread: float, warns: bool
) -> None:
    metrics = {"log_ratio/standard_error": noise, "log_ratio/reward_spread": spread}
    warnings = log_ratio_warnings(metrics)
    assert bool(warnings) == warns
    assert all("2 nats" in warning and "1 nats" in warning for warning in warnings)


def test_names_that_objectives_use_are_all_known(tmp_path: Path) -> None:
    parts = small_parts()
    trainer = small_trainer(tmp_path, policy=parts.policy, objective=parts.objective)
    trainer.train()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert "objective/" not in text
    assert named_by_objective({"new": 1.0}) == {"objective/new": 1.0}


def test_phase_metrics_count_training_alone_in_rates() -> None:
    seconds = dict.fromkeys(PHASES, 0.0) | {"loss": 2.0, "evaluation": 50.0}
    tokens = dict.fromkeys(PHASES, 0) | {"loss": 10, "rollout": 10, "evaluation": 500}
    flops = dict.fromkeys(PHASES, 0) | {"loss": 30, "evaluation": 500}
    totals = PhaseTotals(seconds=seconds, tokens=tokens, forward_flops=flops, backward_flops=flops)
    metrics = phase_metrics(totals)
    assert metrics["tokens/model"] == 40
    assert metrics["tokens/per_second"] == 20
    assert metrics["time/evaluation"] == 50
    assert (metrics["tokens/forward"], metrics["tokens/backward"]) == (20, 10)
    assert (metrics["flops/forward"], metrics["flops/backward"]) == (30, 30)
    assert (metrics["flops/loss"], metrics["flops/evaluation"]) == (60, 1000)


def test_mean_of_a_component_leaves_missing_rows_out(experience: Experience) -> None:
    total = experience.rewards.total
    share = torch.tensor([[1.0, torch.nan], [torch.nan, 0.5]])
    rewards = Rewards(total=total, components={"share": share})
    metrics = buffer_metrics(replace(experience, rewards=rewards), CountingTask())
    assert metrics["reward/component/share"] == 0.75
    assert metrics["reward/missing"] == 0.5
    (warning,) = missing_warnings(metrics)
    assert warning.startswith("50% of the rollouts have no reward at all")


def test_nothing_is_said_where_every_rollout_has_a_reward() -> None:
    assert missing_warnings({"reward/missing": 0.0}) == ()
