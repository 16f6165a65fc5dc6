from __future__ import annotations

import pytest
import torch

from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import PROMPT, RESPONSES, TabularPolicy, all_rollouts, random_table


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def padded_rollouts(num_rollouts: int = 2000):
    prompts = torch.zeros(1, 5, dtype=torch.long)
    real = torch.tensor([[False, False, True, True, True]])
    return rollouts_of(prompts, RESPONSES[7].expand(1, num_rollouts, 4), prompt_mask=real)


def test_mean_field_scores_every_token_under_a_fully_hidden_canvas():
    policy = TabularPolicy(random_table(2))
    likelihood = MeanFieldLikelihood(MeanFieldConfig())
    views = likelihood.views(all_rollouts(), rng())
    scores = rollout_log_probs(policy, all_rollouts(), views, rows_per_forward=81)
    log_probs = torch.log_softmax(policy.module(torch.full((1, 4), 3)), -1)[0]
    expected = sum(log_probs[place, RESPONSES[:, place]] for place in range(4))
    assert torch.allclose(likelihood.combine(scores, views)[0], expected)


def test_mean_field_hides_the_whole_canvas_and_scores_the_answer():
    answer = torch.tensor([[[True, True, False, False]]])
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :1], answer_mask=answer)
    views = MeanFieldLikelihood(MeanFieldConfig()).views(rollouts, rng())
    assert views.hidden.all()
    assert views.coefficient.tolist() == [[[[1, 1, 0, 0]]]]


def test_prompt_tokens_are_hidden_at_the_stated_rate_and_padding_never():
    likelihood = MeanFieldLikelihood(MeanFieldConfig(prompt_mask=0.15))
    hidden = likelihood.views(padded_rollouts(), rng()).prompt_hidden
    assert hidden.shape == (1, 2000, 1, 5)
    assert not hidden[..., :2].any()
    assert hidden[..., 2:].float().mean().item() == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(("rate", "known"), [(0.0, True), (0.15, False)])
def test_mean_field_is_deterministic_exactly_without_prompt_masks(rate, known):
    likelihood = MeanFieldLikelihood(MeanFieldConfig(prompt_mask=rate))
    views = likelihood.views(padded_rollouts(3), rng())
    assert likelihood.is_deterministic is known
    assert (views.prompt_hidden is None) is known
    error = likelihood.standard_error(torch.ones(1, 3, 1, 4), views)
    assert (error is not None and not error.any()) is known
