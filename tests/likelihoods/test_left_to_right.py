from __future__ import annotations

import pytest
import torch

from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.left_to_right import LeftToRightConfig, LeftToRightLikelihood
from tests.oracles import likelihood as oracle
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    ORDERS,
    PROMPT,
    RESPONSES,
    TabularPolicy,
    all_rollouts,
    path_log_probs,
    random_table,
)

CHOSEN = [4, 40, 77]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def left_to_right(**settings):
    return LeftToRightLikelihood(LeftToRightConfig(**settings))


def in_order(policy):
    assert ORDERS[0].tolist() == [0, 1, 2, 3]
    return path_log_probs(policy).detach()[0]


def test_likelihood_is_the_log_prob_in_order():
    policy = TabularPolicy(random_table(1))
    views = left_to_right().views(all_rollouts(), rng())
    scores = rollout_log_probs(policy, all_rollouts(), views, rows_per_forward=81)
    assert torch.allclose(left_to_right().combine(scores, views)[0], in_order(policy))
    assert not left_to_right().standard_error(scores, views).any()


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_sampled_positions_average_to_it(num_views):
    policy = TabularPolicy(random_table(3))
    likelihood = left_to_right(num_views=num_views)
    estimates = oracle.repeated_estimates(policy, likelihood, RESPONSES[CHOSEN], repeats=1500)
    assert oracle.agree(estimates, in_order(policy)[CHOSEN])


def test_as_many_views_as_tokens_look_at_each_once():
    policy = TabularPolicy(random_table(3))
    for num_views in (4, 9):
        likelihood = left_to_right(num_views=num_views)
        views = likelihood.views(all_rollouts(), rng())
        scores = rollout_log_probs(policy, all_rollouts(), views, rows_per_forward=81)
        assert torch.allclose(likelihood.combine(scores, views)[0], in_order(policy))
        assert not likelihood.standard_error(scores, views).any()


def test_views_hide_the_suffix_and_end_with_the_longest_answer():
    answer = torch.tensor([[[True, True, True, False], [True, False, False, False]]])
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :2], answer_mask=answer)
    views = left_to_right().views(rollouts, rng())
    assert views.hidden[0, 0].int().tolist() == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert views.coefficient[0, 0].int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert views.coefficient[0, 1].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_positions_of_a_row_differ():
    views = left_to_right(num_views=3).views(all_rollouts(), rng())
    assert (views.coefficient[0].sum(-2) <= 4 / 3 + 1e-6).all()
    assert torch.allclose(views.coefficient.sum((-2, -1)), torch.tensor(4.0))


def test_standard_error_is_that_of_terms_drawn_without_replacement():
    likelihood = left_to_right(num_views=2)
    views = likelihood.views(rollouts_of(PROMPT, RESPONSES[None, :1]), rng())
    ratios = torch.tensor([1.0, 2.0, 3.0, 5.0]).expand(views.hidden.shape)
    x = (views.coefficient * ratios).sum(-1).flatten()
    # n = 2 of D = 4: √(2/1 · Σ(x − x̄)² · ½)
    expected = ((x - x.mean()).square().sum()).sqrt()
    assert likelihood.standard_error(ratios, views).item() == pytest.approx(expected.item())
    assert left_to_right(num_views=1).standard_error(ratios, views) is None


def test_likelihood_of_every_position_is_exact_and_of_some_is_not():
    assert left_to_right().is_exact
    assert left_to_right().is_deterministic
    assert not left_to_right(num_views=2).is_exact
    assert not left_to_right(num_views=2).is_deterministic
