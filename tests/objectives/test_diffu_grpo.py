from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from dmpo.objectives.diffu_grpo import DiffuGrpoConfig, DiffuGrpoObjective
from dmpo.records import Views
from tests.objectives.build import diffu_grpo, gradient, parts, rng
from tests.oracles.likelihood import GivenViews
from tests.oracles.official import OfficialPolicies, group_rollouts, numbers
from tests.oracles.records import rewards_of, rollouts_of
from tests.oracles.tabular import RESPONSES, TabularPolicy, random_table
from tests.paths import FIXTURES, needs_fixtures

DESCRIPTION, TENSORS = numbers("grpo/grpo") if FIXTURES.is_dir() else ({"cases": []}, {})
MASKED = MeanFieldLikelihood(MeanFieldConfig(prompt_mask=0.15))
WHOLE = MeanFieldLikelihood(MeanFieldConfig())


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> OfficialPolicies:
    return OfficialPolicies(tmp_path_factory.mktemp("official"))


def official_views(case) -> GivenViews:
    pattern = TENSORS[f"{case['name']}.prompt_mask_pattern"].reshape(2, 4, 1, 6)
    answer = TENSORS["completion_mask"].bool().reshape(2, 4, 1, 10)
    views = Views(hidden=torch.ones_like(answer), coefficient=answer.float(), prompt_hidden=pattern)
    return GivenViews(views, LikelihoodConfig())


def official_step(policies, case):
    """One update of θ on the buffer of π_v; with one iteration the official π_v is θ itself."""
    settings = {"epsilon": case["epsilon"], "beta": case["beta"]}
    objective = diffu_grpo(official_views(case), **settings)
    behaviour = policies.become("theta" if case["num_iterations"] == 1 else "old")
    rewards = rewards_of(TENSORS["rewards"].reshape(2, 4))
    rollouts = group_rollouts(TENSORS, slice(0, 8))
    experience = objective.prepare(behaviour, rollouts, rewards, rng())
    policy = policies.become("theta")
    return objective, policy, experience, objective.draw(policy, experience, rng(), update=0)


@needs_fixtures
@pytest.mark.parametrize("case", DESCRIPTION["cases"], ids=lambda case: case["name"])
def test_loss_and_gradient_norm_are_the_official_ones(policies, case):
    objective, policy, _, batch = official_step(policies, case)
    loss, gradients = gradient(objective, policy, batch, num_rows=3)
    assert loss == pytest.approx(case["loss"], rel=1e-3, abs=1e-4)
    norm = torch.stack([value.norm() for value in gradients.values()]).norm().item()
    assert norm == pytest.approx(case["grad_norm"], rel=1e-3)


@needs_fixtures
@pytest.mark.parametrize("case", DESCRIPTION["cases"], ids=lambda case: case["name"])
def test_divergence_and_tokens_outside_the_clip_range_are_the_official_ones(policies, case):
    objective, policy, _, batch = official_step(policies, case)
    metrics = {name: value.item() for name, value in objective.loss(policy, batch).metrics.items()}
    assert ("kl" in metrics) == (case["kl"] is not None)
    assert metrics.get("kl", 0.0) == pytest.approx(case["kl"] or 0.0, rel=1e-3, abs=1e-4)
    # What the official code calls its clip ratio counts r·A < clip(r)·A: outside, yet unclipped.
    unclipped = metrics["outside_ratio"] - metrics["clip_ratio"]
    assert unclipped == pytest.approx(case["clip_ratio"], abs=1e-6)


@needs_fixtures
@pytest.mark.parametrize("case", DESCRIPTION["cases"], ids=lambda case: case["name"])
def test_log_probs_and_advantages_are_the_official_ones(policies, case):
    _, _, experience, batch = official_step(policies, case)
    which = "theta" if case["num_iterations"] == 1 else "old"
    answer = TENSORS["completion_mask"].bool()
    got = experience.behaviour_log_probs[0].reshape(8, 10)
    expected = TENSORS[f"{case['name']}.logps_{which}"]
    torch.testing.assert_close(got[answer], expected[answer], atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(batch.weights, TENSORS[f"{case['name']}.advantages"])
    if case["beta"] > 0:
        reference = experience.reference_log_probs[0].reshape(8, 10)
        expected = TENSORS[f"{case['name']}.logps_ref"]
        torch.testing.assert_close(reference[answer], expected[answer], atol=5e-4, rtol=1e-4)


def buffer(seed: int = 0):
    index = torch.randint(0, 81, (2, 4), generator=rng(seed))
    answer = torch.ones(2, 4, 4, dtype=torch.bool)
    answer[0, 1, 2:] = False
    prompts = torch.zeros(2, 3, dtype=torch.long)
    rollouts = rollouts_of(prompts, RESPONSES[index], answer_mask=answer)
    return rollouts, rewards_of(torch.rand(2, 4, generator=rng(seed + 1)))


def moved_policy() -> TabularPolicy:
    policy = TabularPolicy(random_table(1))
    policy.freeze_reference()
    move(policy)
    return policy


def move(policy, seed: int = 5, scale: float = 1.0) -> None:
    with torch.no_grad():
        policy.table.add_(random_table(seed, scale))


@given(st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows):
    policy, objective = moved_policy(), diffu_grpo(MASKED)
    experience = objective.prepare(policy, *buffer(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_loss_of_the_behaviour_policy_has_ratio_one_and_no_divergence_from_itself():
    policy = TabularPolicy(random_table(1))
    policy.freeze_reference()
    objective = diffu_grpo(MASKED)
    experience = objective.prepare(policy, *buffer(), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    output = objective.loss(policy, batch)
    lengths = batch.answer_mask.sum(-1)
    expected = -(batch.weights * lengths).sum() / lengths.sum()
    assert output.loss.item() == pytest.approx(expected.item())
    assert output.metrics["kl"].item() == 0
    assert output.metrics["outside_ratio"].item() == 0


def test_every_update_has_views_of_its_own_and_the_log_probs_on_them():
    policy, objective = moved_policy(), diffu_grpo(MASKED, updates=3)
    experience = objective.prepare(policy, *buffer(), rng())
    assert len(experience.views) == len(experience.behaviour_log_probs) == 3
    first, second = experience.views[0].prompt_hidden, experience.views[1].prompt_hidden
    assert not torch.equal(first, second)
    batch = objective.draw(policy, experience, rng(), update=2)
    assert torch.equal(batch.views.prompt_hidden, experience.views[2].prompt_hidden.flatten(0, 1))


def test_deterministic_views_are_stored_once():
    policy, objective = moved_policy(), diffu_grpo(WHOLE, updates=3)
    experience = objective.prepare(policy, *buffer(), rng())
    assert len(experience.views) == 1
    assert objective.draw(policy, experience, rng(), update=2).num_rows == 8


def test_without_beta_no_reference_is_needed():
    objective = diffu_grpo(WHOLE, beta=0.0)
    experience = objective.prepare(TabularPolicy(random_table(1)), *buffer(), rng())
    assert not objective.needs_reference
    assert experience.reference_log_probs == ()
    assert diffu_grpo(WHOLE).needs_reference


def test_clip_range_can_be_wider_above():
    policy = moved_policy()
    losses = []
    for high in (None, 5.0):
        objective = diffu_grpo(WHOLE, epsilon=0.1, epsilon_high=high, beta=0.0)
        experience = objective.prepare(moved_policy(), *buffer(), rng())
        move(policy)
        losses.append(objective.loss(policy, objective.draw(policy, experience, rng(), update=0)))
        policy = moved_policy()
    assert losses[1].metrics["clip_ratio"] < losses[0].metrics["clip_ratio"]
    assert losses[1].loss < losses[0].loss


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": ("tilted", {"alpha": 0.1})}, "objective.beta"),
        (
            {"weights": ("tilted", {"alpha": 0, "eta": 1.0}), "baseline": ("model", {})},
            "freezes its advantages",
        ),
        (
            {
                "weights": ("advantage", {}),
                "baseline": ("none", {}),
                "ratio_likelihood": ElboLikelihood(ElboConfig()),
            },
            "no effect",
        ),
    ],
)
def test_parts_that_do_not_go_with_it_are_refused(choices, message):
    with pytest.raises(ConfigError, match=message):
        DiffuGrpoObjective(DiffuGrpoConfig(), parts(WHOLE, **choices))


def test_clip_range_below_zero_ratio_is_refused():
    with pytest.raises(ValidationError, match="less than 1"):
        DiffuGrpoConfig(epsilon=1.5)
