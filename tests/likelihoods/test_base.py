from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.likelihoods.base import rollout_log_probs, scored_tokens, view_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.records import Views
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import PROMPT, RESPONSES, TabularPolicy, all_rollouts, random_table

POLICY = TabularPolicy(random_table(0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def elbo_views(rollouts, **settings):
    return ElboLikelihood(ElboConfig(**settings)).views(rollouts, rng())


@given(st.integers(1, 90))
def test_log_probs_do_not_depend_on_the_chunk_size(rows):
    rollouts = all_rollouts()
    views = elbo_views(rollouts)
    whole = rollout_log_probs(POLICY, rollouts, views, rows_per_forward=81)
    assert torch.equal(whole, rollout_log_probs(POLICY, rollouts, views, rows_per_forward=rows))


def test_log_probs_follow_the_order_of_rows():
    order = torch.randperm(81, generator=rng())
    views = elbo_views(all_rollouts()).flatten_rows()
    prompts, mask = PROMPT.expand(81, 1), torch.ones(81, 1, dtype=torch.bool)
    once = view_log_probs(POLICY, prompts, mask, RESPONSES, views)
    moved = Views(hidden=views.hidden[order], coefficient=views.coefficient[order])
    again = view_log_probs(POLICY, prompts, mask, RESPONSES[order], moved)
    assert torch.equal(once[order], again)


def test_log_probs_are_those_of_hidden_tokens_with_a_coefficient_and_zero_elsewhere():
    rollouts = rollouts_of(PROMPT, RESPONSES[None, 5:6])
    hidden = torch.tensor([[[[True, True, False, False]]]])
    views = Views(hidden=hidden, coefficient=torch.tensor([[[[1.0, 0, 0, 0]]]]))
    got = rollout_log_probs(POLICY, rollouts, views, rows_per_forward=1)
    canvas = torch.tensor([[3, 3, *RESPONSES[5, 2:].tolist()]])
    expected = torch.log_softmax(POLICY.module(canvas), -1)[0, 0, RESPONSES[5, 0]]
    assert got.flatten().tolist() == pytest.approx([expected.item(), 0, 0, 0])


def test_log_probs_are_read_at_the_temperature_of_the_views():
    rollouts = rollouts_of(PROMPT, RESPONSES[None, 5:6])
    hidden = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    views = Views(hidden=hidden, coefficient=hidden.float(), temperature=0.5)
    got = rollout_log_probs(POLICY, rollouts, views, rows_per_forward=1)
    logits = POLICY.module(torch.tensor([[3, 3, 3, 3]]))[0] / 0.5
    expected = torch.log_softmax(logits, -1).gather(-1, RESPONSES[5].unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(got.flatten(), expected)


def test_rollout_log_probs_carry_no_gradient_and_view_log_probs_do():
    rollouts = all_rollouts()
    views = elbo_views(rollouts)
    assert not rollout_log_probs(POLICY, rollouts, views, rows_per_forward=9).requires_grad
    flat = views.flatten_rows()
    mask = torch.ones(81, 1, dtype=torch.bool)
    assert view_log_probs(POLICY, PROMPT.expand(81, 1), mask, RESPONSES, flat).requires_grad


def test_scored_tokens_are_the_answer_s_or_the_whole_canvas():
    answer = torch.tensor([[True, True, False]])
    assert scored_tokens(answer, "answer").tolist() == [[True, True, False]]
    assert scored_tokens(answer, "canvas").tolist() == [[True, True, True]]
