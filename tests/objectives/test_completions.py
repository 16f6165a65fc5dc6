from __future__ import annotations

import torch

from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.completions import complete_views, score_completions
from dmpo.records import Rewards, Views
from tests.objectives.buffers import padded, two_groups
from tests.objectives.build import rng
from tests.oracles.tabular import MASK, TabularPolicy, random_table

LIKELIHOOD = ElboLikelihood(ElboConfig())


def completed(policy, rollouts, views, *, temperature=0.0, rows=99, seed=3):
    return complete_views(
        policy, rollouts, views, rng(seed), temperature=temperature, rows_per_forward=rows
    )


def test_greedy_completion_is_the_argmax_at_every_hidden_token():
    policy, (rollouts, _) = TabularPolicy(random_table(2)), two_groups()
    views = LIKELIHOOD.views(rollouts, rng())
    found = completed(policy, rollouts, views)
    for place in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)):
        b, n, r = place.tolist()
        hidden, tokens = views.hidden[b, n, r], rollouts.completions[b, n]
        logits = policy.module(tokens.masked_fill(hidden, MASK).unsqueeze(0))[0]
        if views.coefficient[b, n, r].any():
            assert torch.equal(found[b, n, r], torch.where(hidden, logits.argmax(-1), tokens))
        else:
            assert torch.equal(found[b, n, r], tokens)


def test_completions_depend_neither_on_the_size_of_a_pass_nor_on_padding():
    policy, (rollouts, _) = TabularPolicy(random_table(2)), two_groups()
    views = LIKELIHOOD.views(rollouts, rng())
    whole = completed(policy, rollouts, views, temperature=0.7)
    assert torch.equal(whole, completed(policy, rollouts, views, temperature=0.7, rows=1))
    assert torch.equal(whole, completed(policy, padded(rollouts), views, temperature=0.7))


def test_views_that_score_nothing_cost_no_pass():
    policy, (rollouts, _) = TabularPolicy(random_table(2)), two_groups()
    views = LIKELIHOOD.views(rollouts, rng())
    silent = Views(hidden=views.hidden, coefficient=torch.zeros_like(views.coefficient))
    found = completed(policy, rollouts, silent)
    assert policy.forward_tokens == 0
    assert torch.equal(found, rollouts.completions.unsqueeze(2).expand_as(found))


def test_texts_are_graded_as_answers_to_their_own_prompt():
    policy, (rollouts, _) = TabularPolicy(random_table(2)), two_groups()
    completions = completed(policy, rollouts, LIKELIHOOD.views(rollouts, rng()))

    def score(made):
        assert made.prompts is rollouts.prompts
        first = [[float(text[0]) for text in group] for group in made.texts]
        prompt = torch.arange(2.0).unsqueeze(-1)
        return Rewards(total=torch.tensor(first) + 10 * prompt, components={})

    found = score_completions(policy, score, rollouts, completions)
    prompt = 10 * torch.arange(2.0).reshape(2, 1, 1)
    assert torch.equal(found, completions[..., 0] + prompt)
