from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from dmpo.likelihoods.coupled import CoupledConfig, CoupledLikelihood
from tests.oracles import likelihood as oracle
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    PROMPT,
    RESPONSES,
    SUBSETS,
    TabularPolicy,
    all_rollouts,
    random_table,
    subset_log_probs,
)

CHOSEN = [4, 40, 77]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coupled(**settings):
    return CoupledLikelihood(CoupledConfig(**settings))


@pytest.mark.parametrize("weighting", ["rate", "average"])
@pytest.mark.parametrize("include_full", [False, True])
def test_estimates_average_to_the_enumeration(weighting, include_full):
    policy = TabularPolicy(random_table(3))
    likelihood = coupled(weighting=weighting, include_full=include_full)
    estimates = oracle.repeated_estimates(policy, likelihood, RESPONSES[CHOSEN], repeats=1500)
    scores = subset_log_probs(policy, RESPONSES[CHOSEN]).detach()
    truth = oracle.coupled_mean(scores, SUBSETS, weighting)
    if include_full:
        truth = (truth + scores[-1].sum(-1)) / 2
    assert oracle.agree(estimates, truth)


def test_views_are_everything_a_set_and_its_complement():
    views = coupled().views(all_rollouts(), rng())
    everything, first, second = views.hidden.unbind(-2)
    assert everything.all()
    assert torch.equal(first, ~second)
    assert first.float().mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("include_full", [False, True])
def test_average_counts_every_token_once(include_full):
    views = coupled(weighting="average", include_full=include_full).views(all_rollouts(), rng())
    assert torch.equal(views.coefficient.sum(-2), torch.ones(1, 81, 4))


def test_rate_divides_by_the_probability_of_being_hidden():
    views = coupled(rate_min=0.25, rate_max=0.25).views(all_rollouts(), rng())
    hidden = views.hidden.float()
    expected = hidden * torch.tensor([0.5, 2.0, 2 / 3]).unsqueeze(-1)
    assert torch.allclose(views.coefficient, expected)
    assert coupled(rate_min=0.25, rate_max=0.25, include_full=False).views(
        all_rollouts(), rng()
    ).coefficient.max() == pytest.approx(4)


def test_rate_is_1_1_to_3_times_a_log_prob():
    scale = coupled().views(all_rollouts(), rng()).coefficient.sum(-2)
    # ½ + ½/t, t between 0.2 and 0.8
    assert scale.min() >= 1.1
    assert scale.max() <= 3


def test_tokens_behind_the_answer_are_hidden_in_every_view_and_not_scored():
    answer = torch.tensor([True, True, False, False]).expand(1, 20, 4)
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :20], answer_mask=answer)
    views = coupled().views(rollouts, rng())
    assert views.hidden[..., 2:].all()
    assert not views.coefficient[..., 2:].any()


def test_rates_in_the_wrong_order_are_refused():
    with pytest.raises(ValidationError, match=r"rate_min is 0.5.* rate_max, 0.4"):
        CoupledConfig(rate_min=0.5, rate_max=0.4)
