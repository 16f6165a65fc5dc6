from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import ConfigError
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from dmpo.objectives.wd1pp import Wd1ppConfig, Wd1ppObjective, signed_softmax_weights
from dmpo.records import Rewards, Rollouts
from tests.objectives.buffers import move, moved_policy, padded
from tests.objectives.build import gradient, parts, rng
from tests.oracles.records import rewards_of, rollouts_of
from tests.oracles.tabular import MASK, TabularPolicy, random_table, sample_paths

PATH = PathLikelihood(PathConfig())


def number_of_twos(rollouts: Rollouts) -> Rewards:
    return rewards_of((rollouts.completions == 2).sum(-1).float())


def wd1pp(*, score=number_of_twos, updates=4, likelihood=PATH, choices=None, **settings):
    chosen = {"weights": ("advantage", {}), "baseline": ("none", {}), **(choices or {})}
    made = replace(parts(likelihood, updates=updates, **chosen), score=score)
    return Wd1ppObjective(Wd1ppConfig(**settings), made)


def buffer(policy: TabularPolicy, num_prompts: int = 2) -> tuple[Rollouts, Rewards]:
    each = [sample_paths(policy, 3, rng(seed)) for seed in range(num_prompts)]
    rollouts = rollouts_of(
        torch.cat([part.prompts.tokens for part in each]),
        torch.cat([part.completions for part in each]),
        commit_step=torch.cat([part.commit_step for part in each]),
        log_probs=torch.cat([part.log_probs for part in each]),
    )
    return rollouts, number_of_twos(rollouts)


def test_weights_are_two_softmaxes_over_the_states_of_a_prompt() -> None:
    rewards = torch.tensor([[[0.0, 1.0], [2.0, 9.0]]])
    used = torch.tensor([[[True, True], [True, False]]])
    values = [0.0, 1.0, 2.0]
    up = [math.exp(v) / sum(map(math.exp, values)) for v in values]
    down = [math.exp(-v) / sum(math.exp(-u) for u in values) for v in values]
    expected = [4 * (a - b) for a, b in zip(up, down, strict=True)]
    got = signed_softmax_weights(rewards, used).flatten().tolist()
    assert got == pytest.approx([*expected, 0.0])


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.floats(-5, 5))
def test_weights_sum_to_zero_whatever_is_added_to_all_rewards(values, shift) -> None:
    rewards = torch.tensor(values, dtype=torch.float64).reshape(1, 3, 2)
    used = torch.ones(1, 3, 2, dtype=torch.bool)
    weights = signed_softmax_weights(rewards, used)
    assert weights.sum().item() == pytest.approx(0, abs=1e-9)
    assert torch.allclose(signed_softmax_weights(rewards + shift, used), weights)


def test_prompt_without_any_state_has_weights_of_zero() -> None:
    used = torch.zeros(1, 2, 2, dtype=torch.bool)
    assert not signed_softmax_weights(torch.ones(1, 2, 2), used).any()


def naive(policy, batch, *, beta: float, confidence=None):
    """The loss state by state, from the table itself."""
    total = 0.0
    num_rows, num_views, length = batch.views.hidden.shape
    for row in range(num_rows):
        for view in range(num_views):
            hidden = batch.views.hidden[row, view]
            canvas = batch.completions[row].masked_fill(hidden, MASK)
            places = hidden.nonzero().flatten().tolist()
            texts = batch.view_targets[row, view]
            scores = torch.log_softmax(policy.module(canvas[None])[0], -1)
            mean, square = 0.0, 0.0
            for d in places:
                trust = 1.0 if confidence is None else confidence[row, view, d]
                mean = mean + trust * scores[d, texts[d]] / len(places)
                away = scores[d, texts[d]] - batch.reference_log_probs[row, view, d]
                square = square + trust * 0.5 * away**2 / len(places)
            factor = length / len(places)
            total = total - batch.weights[row, view] * factor * mean + beta * square
    return total / num_rows / num_views


@pytest.mark.parametrize("confidence", [False, True])
def test_loss_and_gradient_are_those_of_plain_python(confidence) -> None:
    policy, objective = moved_policy(), wd1pp(beta=0.3, confidence=confidence)
    experience = objective.prepare(policy, *buffer(policy), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    loss, got = gradient(objective, policy, batch, num_rows=4)
    policy.module.zero_grad(set_to_none=True)
    trust = batch.behaviour_log_probs.exp() if confidence else None
    expected = naive(policy, batch, beta=0.3, confidence=trust)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(got["logits"], policy.table.grad, atol=1e-6)


def test_texts_keep_what_a_state_shows_and_are_what_is_scored() -> None:
    policy, objective = moved_policy(), wd1pp(psi=0.5)
    rollouts, rewards = buffer(policy)
    experience = objective.prepare(policy, rollouts, rewards, rng())
    texts, hidden = experience.view_targets, experience.views[0].hidden
    shown = rollouts.completions.unsqueeze(2).expand_as(texts)
    assert torch.equal(texts[~hidden], shown[~hidden])
    twos = (texts == 2).sum(-1).float()
    everything = torch.ones_like(twos, dtype=torch.bool)
    expected = signed_softmax_weights(0.5 * twos, everything)
    assert torch.allclose(experience.view_weights, expected)
    assert experience.metrics["state_reward"] == pytest.approx(twos.mean().item())


class WithEos(TabularPolicy):
    """Token 0 ends an answer."""

    eos_token_id = 0


@pytest.mark.parametrize("eos", ["answer", "canvas"])
def test_what_is_predicted_behind_the_first_eos_is_not_scored(eos) -> None:
    policy = WithEos(random_table(1))
    likelihood = PathLikelihood(PathConfig(eos=eos))
    rollouts, rewards = buffer(policy)
    objective = wd1pp(likelihood=likelihood, beta=0.0)
    experience = objective.prepare(policy, rollouts, rewards, rng())
    texts, views = experience.view_targets, experience.views[0]
    ends = (texts == 0).long()
    behind = ends.cumsum(-1) - ends > 0
    assert (views.hidden & behind).any()
    assert (views.coefficient[views.hidden & behind] != 0).any() == (eos == "canvas")


def test_equal_rewards_of_all_texts_give_no_gradient() -> None:
    def flat(rollouts: Rollouts) -> Rewards:
        return rewards_of(torch.ones(rollouts.num_prompts, rollouts.num_rollouts))

    policy, objective = moved_policy(), wd1pp(score=flat, beta=0.0)
    experience = objective.prepare(policy, *buffer(policy), rng())
    _, gradients = gradient(objective, policy, objective.draw(policy, experience, rng(), update=0))
    assert torch.allclose(gradients["logits"], torch.zeros(()).double(), atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows: int, num_views: int) -> None:
    policy, objective = moved_policy(), wd1pp()
    experience = objective.prepare(policy, *buffer(policy), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    whole, gradients = gradient(objective, policy, batch)
    assert objective.is_sum_over_views
    cut, pieces = gradient(objective, policy, batch, num_rows, num_views)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_padding_left_of_the_prompt_changes_nothing() -> None:
    policy, objective, losses = moved_policy(), wd1pp(), []
    rollouts, rewards = buffer(policy)
    for each in (rollouts, padded(rollouts)):
        experience = objective.prepare(policy, each, rewards, rng())
        batch = objective.draw(policy, experience, rng(), update=0)
        losses.append(objective.loss(policy, batch).loss)
    assert torch.equal(*losses)


def test_reference_and_behaviour_are_asked_only_where_they_count() -> None:
    objective = wd1pp(beta=0.0)
    assert not objective.needs_reference
    assert objective.ignores_weightless_rows
    policy = TabularPolicy(random_table(1))
    experience = objective.prepare(policy, *buffer(policy), rng())
    assert experience.behaviour_log_probs == experience.reference_log_probs == ()
    assert not wd1pp().ignores_weightless_rows


@pytest.mark.parametrize(
    "choices",
    [{"weights": ("tilted", {"alpha": 0.1})}, {"weights": ("advantage", {"scale": "std"})}],
)
def test_parts_without_effect_are_refused(choices) -> None:
    with pytest.raises(ConfigError, match=r"weights, baseline: wd1pp weighs states"):
        wd1pp(choices=choices)


def test_missing_reward_is_refused() -> None:
    policy = moved_policy()
    with pytest.raises(ConfigError, match="was given no reward"):
        wd1pp(score=None).prepare(policy, *buffer(policy), rng())


def test_ratio_likelihood_of_its_own_is_refused() -> None:
    elbo = ElboLikelihood(ElboConfig())
    with pytest.raises(ConfigError, match="wd1pp has no ratio"):
        wd1pp(choices={"ratio_likelihood": elbo})
