from __future__ import annotations

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    ORDERS,
    PROMPT,
    RESPONSES,
    TabularPolicy,
    path_log_probs,
    random_table,
    sample_paths,
)

LIKELIHOOD = PathLikelihood(PathConfig())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evaluated(policy, rollouts, likelihood=LIKELIHOOD):
    views = likelihood.views(rollouts, rng())
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=16)
    return likelihood.combine(scores, views)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_path_likelihood_replays_what_the_sampler_recorded(temperature):
    policy = TabularPolicy(random_table(1))
    rollouts = sample_paths(policy, 50, rng(), temperature)
    assert torch.allclose(evaluated(policy, rollouts), rollouts.log_probs.sum(-1))


def test_path_likelihood_is_the_log_prob_along_the_order_used():
    policy = TabularPolicy(random_table(1))
    rollouts = sample_paths(policy, 50, rng())
    table = path_log_probs(policy)
    orders = rollouts.commit_step[0].argsort(-1)
    for row, got in enumerate(evaluated(policy, rollouts)[0]):
        order = (orders[row] == ORDERS).all(-1).nonzero().item()
        response = (rollouts.completions[0, row] == RESPONSES).all(-1).nonzero().item()
        assert got.item() == pytest.approx(table[order, response].item())


def test_path_log_ratio_has_no_noise():
    policy = TabularPolicy(random_table(1))
    rollouts = sample_paths(policy, 5, rng())
    views = LIKELIHOOD.views(rollouts, rng())
    ratios = torch.randn(views.hidden.shape)
    assert not LIKELIHOOD.standard_error(ratios, views).any()


def test_recorded_log_probs_lie_on_the_step_that_committed_the_token():
    policy = TabularPolicy(random_table(1))
    rollouts = sample_paths(policy, 20, rng())
    views = LIKELIHOOD.views(rollouts, rng())
    recorded = LIKELIHOOD.recorded_log_probs(rollouts, views)
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=16)
    assert torch.allclose(recorded, scores)


def test_several_tokens_of_one_step_are_hidden_together():
    step = torch.tensor([[[0, 1, 1, 0]]])
    rollouts = rollouts_of(
        PROMPT, RESPONSES[None, :1], commit_step=step, log_probs=torch.zeros(1, 1, 4)
    )
    views = LIKELIHOOD.views(rollouts, rng())
    assert views.hidden.int().tolist() == [[[[1, 1, 1, 1], [0, 1, 1, 0]]]]
    assert views.coefficient.tolist() == [[[[1, 0, 0, 1], [0, 1, 1, 0]]]]


def test_answer_leaves_out_what_was_drawn_behind_the_first_eos():
    step = torch.tensor([[[0, 2, 1, 3]]])
    rollouts = rollouts_of(
        PROMPT,
        RESPONSES[None, :1],
        commit_step=step,
        log_probs=torch.tensor([[[-1.0, -2.0, -4.0, -8.0]]]),
        answer_mask=torch.tensor([[[True, True, False, False]]]),
    )
    views = LIKELIHOOD.views(rollouts, rng())
    recorded = LIKELIHOOD.recorded_log_probs(rollouts, views)
    assert LIKELIHOOD.combine(recorded, views).item() == -3
    # The state before a step is what it was: tokens behind the EOS not yet drawn are hidden.
    assert views.hidden[0, 0, 0].all()
    canvas = PathLikelihood(PathConfig(eos="canvas"))
    whole = canvas.recorded_log_probs(rollouts, canvas.views(rollouts, rng()))
    assert whole.sum().item() == -15


def test_rollouts_without_a_path_are_refused_and_the_message_names_samplers():
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :1], temperature=0.0)
    with pytest.raises(ConfigError, match="roar"):
        LIKELIHOOD.views(rollouts, rng())
