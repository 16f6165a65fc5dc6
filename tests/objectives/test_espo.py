from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.likelihoods.base import view_log_probs
from dmpo.registry import LIKELIHOODS
from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of


def log_likelihoods(objective, policy, batch):
    """Return l of every row, pair by pair: ½(D+1)/k on a subset, ½(D+1)/(D−k) on the rest."""
    scores = view_log_probs(
        policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
    )
    lengths = batch.answer_mask.sum(-1)
    scored = batch.views.hidden & batch.answer_mask.unsqueeze(1)
    totals = []
    for row, length in enumerate(lengths.tolist()):
        pairs = 0.0
        for first in range(2):
            for view in (first, first + 2):
                k = int(scored[row, view].sum())
                pairs += 0.5 * (length + 1) / k * scores[row, view].sum() if k else 0.0
        totals.append(pairs / 2)
    return torch.stack(totals), lengths


def test_ratio_is_that_of_the_likelihood_per_token():
    objective = registered("espo", epsilon=0.99, epsilon_high=99.0, beta=0.0)
    behaviour, policy = policy_of(2), policy_of(2, 3)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    new, lengths = log_likelihoods(objective, policy, batch)
    old, _ = log_likelihoods(objective, behaviour, batch)
    expected = -(batch.weights * ((new - old) / lengths).exp()).mean()
    assert objective.loss(policy, batch).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_divergence_is_half_the_square_per_token():
    objective = registered("espo")
    behaviour, policy = policy_of(2), policy_of(2, 3)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    new, lengths = log_likelihoods(objective, policy, batch)
    with policy.reference():
        reference, _ = log_likelihoods(objective, policy, batch)
    expected = ((new - reference).square() / 2 / lengths).mean()
    found = objective.loss(policy, batch).metrics["kl"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("eos", "is_scored"), [("answer", False), ("canvas", True)])
def test_tokens_behind_the_answer_count_only_where_the_canvas_does(eos, is_scored):
    likelihood = LIKELIHOODS.build("elbo", {"eos": eos})
    objective = registered("espo", likelihood=likelihood, beta=0.0)
    behaviour = policy_of(2)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    only = batch.weights * ~batch.answer_mask.all(-1)  # the one short answer
    other = batch.completions.clone()
    other[~batch.answer_mask] = (other[~batch.answer_mask] + 1) % 3
    found = [
        gradient(objective, policy_of(2, 3), replace(batch, weights=only, completions=tokens))[0]
        for tokens in (batch.completions, other)
    ]
    assert (found[0] != found[1]) == is_scored
