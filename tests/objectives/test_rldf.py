from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import view_log_probs
from dmpo.registry import LIKELIHOODS
from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of
from tests.oracles.records import rewards_of


def clean_states(threshold: float):
    settings = {"steps": "sampled", "num_views": 2, "correct": False}
    return LIKELIHOODS.build("trace", {**settings, "clip_clean_state": threshold})


@pytest.mark.parametrize("name", ["rldf", "espo"])
def test_only_probable_tokens_and_those_of_the_step_itself_move_the_policy(name):
    objective = registered(name, likelihood=clean_states(0.4), beta=0.0)
    policy = policy_of(2)
    _, batch = step(objective, policy, drawn_buffer(policy))
    scores = view_log_probs(
        policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
    )
    counts = (batch.views.coefficient != 0) & ((scores.exp() >= 0.4) | batch.views.always)
    assert (counts.sum() < (batch.views.coefficient != 0).sum()).item()
    kept = replace(batch.views, coefficient=counts.float(), threshold=0.0, always=None)
    found = gradient(objective, policy, batch)[1]["logits"]
    alone = gradient(objective, policy, replace(batch, views=kept))[1]["logits"]
    assert torch.allclose(found, alone, atol=1e-7)


def test_what_counts_follows_the_current_policy():
    objective = registered("rldf", likelihood=clean_states(0.4), beta=0.0)
    behaviour = policy_of(2)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    one, two = (objective.loss(policy_of(2, seed, scale=1.0), batch).loss.item() for seed in (3, 4))
    everything = replace(batch, views=replace(batch.views, threshold=0.0))
    assert one != pytest.approx(objective.loss(policy_of(2, 3, scale=1.0), everything).loss.item())
    assert one != two


def test_mean_over_tokens_of_the_buffer_is_refused_with_a_threshold():
    with pytest.raises(ConfigError, match=r"^objective.normalisation: which tokens") as error:
        registered("rldf", normalisation="token")
    assert "\n" not in str(error.value)
    assert registered("rldf", likelihood=clean_states(0.0), normalisation="token")


def test_small_spreads_are_not_blown_up():
    objective = registered("rldf")
    policy = policy_of(2)
    rollouts, _ = drawn_buffer(policy)
    total = torch.tensor([[0.0, 0.0, 0.0, 0.002], [0.0, 0.0, 0.0, 2.0]])
    _, batch = step(objective, policy, (rollouts, rewards_of(total)))
    # Sample deviations .001, below the floor of .01, and 1.
    expected = [-0.05, -0.05, -0.05, 0.15, -0.5, -0.5, -0.5, 1.5]
    assert batch.weights.tolist() == pytest.approx(expected)


def test_nothing_corrects_for_which_states_are_drawn():
    policy = policy_of(2)
    _, batch = step(registered("rldf"), policy, drawn_buffer(policy))
    assert batch.views.coefficient.unique().tolist() == [0, 1]
    assert batch.views.threshold == 0.6
