"""The families of one ratio, against losses written unit by unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig, view_log_probs
from dmpo.objectives.ratio import RatioObjective
from dmpo.records import Views
from dmpo.registry import LIKELIHOODS, OBJECTIVES
from tests.objectives.buffers import move
from tests.objectives.build import gradient, rng
from tests.objectives.registered import drawn_buffer, first_tokens, registered, step
from tests.oracles.likelihood import GivenViews
from tests.oracles.losses import policy_gradient_loss, ratio_loss
from tests.oracles.records import rewards_of
from tests.oracles.tabular import TabularPolicy, random_table

FAMILIES = [
    name for name in OBJECTIVES.names() if issubclass(OBJECTIVES.load(name), RatioObjective)
]
OF_LEVEL = {
    "token": "diffu_grpo",
    "view_token": "just_grpo",
    "view": "egspo",
    "draw": "bgpo",
    "response": "espo",
}
NORMALISATIONS = ("token", "response", "view", "canvas")


def policy_of(*seeds: int, scale: float = 0.4) -> TabularPolicy:
    """Return a policy that moved by each seed after its reference was frozen."""
    policy = TabularPolicy(random_table(1))
    policy.freeze_reference()
    for seed in seeds:
        move(policy, seed, scale)
    return policy


def odd_views(seed: int = 11) -> GivenViews:
    """Three views of two groups of four, some of them empty, with any coefficients."""
    hidden = torch.rand(2, 4, 3, 4, generator=rng(seed)) < 0.6
    hidden[0, 1, :, 2:] = False  # behind the short answer of ``drawn_buffer``
    hidden[1, 2, 1] = False
    coefficient = hidden * (0.3 + torch.rand(2, 4, 3, 1, generator=rng(seed + 1)))
    return GivenViews(Views(hidden=hidden, coefficient=coefficient), LikelihoodConfig())


def expected(objective, policy, batch, **options):
    """Return the naive loss of a batch, and its gradient."""
    policy.module.zero_grad(set_to_none=True)
    log_probs = view_log_probs(
        policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
    )
    stored, reference = batch.behaviour_log_probs, batch.reference_log_probs
    behaviour = log_probs.detach() if stored is None else stored
    loss = ratio_loss(
        log_probs,
        behaviour,
        behaviour if reference is None else reference,
        batch.views.coefficient,
        batch.weights,
        objective.parts.likelihood.lengths(batch.answer_mask).tolist(),
        level=objective.level,
        normalisation=objective.config.normalisation,
        divides=objective.divides_by_size,
        bounded=objective.level == "draw",
        **options,
    )
    loss.backward()
    return loss.item(), policy.table.grad.clone()


def agree(objective, policy, batch, **options) -> None:
    loss, table = expected(objective, policy, batch, **options)
    found, gradients = gradient(objective, policy, batch)
    assert found == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert torch.allclose(gradients["logits"], table, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("level", OF_LEVEL)
def test_every_level_and_normalisation_is_the_loss_written_unit_by_unit(level, normalisation):
    settings = {"normalisation": normalisation, "epsilon": 0.1, "epsilon_high": 0.3}
    more = {"stepwise": 0.0} if level == "view" else {}
    objective = registered(
        OF_LEVEL[level], likelihood=odd_views(), **settings, beta=0.5, dual_clip=1.5, **more
    )
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    kind = objective.config.divergence
    options = {"low": 0.1, "high": 0.3, "dual_clip": 1.5, "beta": 0.5, "divergence": kind}
    agree(objective, policy_of(2, 3), batch, **options)


@pytest.mark.parametrize("to", ["reference", "behaviour"])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("level", ["token", "response"])
def test_every_divergence_is_that_of_each_unit(level, kind, to):
    objective = registered(
        OF_LEVEL[level], likelihood=odd_views(), beta=0.7, divergence=kind, divergence_to=to
    )
    assert objective.needs_reference == (to == "reference")
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    assert (batch.reference_log_probs is None) == (to == "behaviour")
    low = objective.config.epsilon
    agree(objective, policy_of(2, 3), batch, low=low, high=low, beta=0.7, divergence=kind)


@pytest.mark.parametrize("level", OF_LEVEL)
def test_dual_clip_bounds_the_loss_of_a_bad_response(level):
    more = {"stepwise": 0.0} if level == "view" else {}
    losses = []
    for dual_clip in (None, 1.2):
        objective = registered(
            OF_LEVEL[level], likelihood=odd_views(), beta=0.0, dual_clip=dual_clip, **more
        )
        _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
        bad = replace(batch, weights=-torch.ones_like(batch.weights))
        losses.append(objective.loss(policy_of(2, 3, scale=1.0), bad).loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_ratio_of_the_behaviour_policy_gives_the_policy_gradient_of_the_units(name):
    objective = registered(name, beta=0.0, score=first_tokens)
    policy = policy_of(2)
    _, batch = step(objective, policy, drawn_buffer(policy))
    batch = replace(batch, views=replace(batch.views, threshold=0.0))
    log_probs = view_log_probs(
        policy, batch.prompt_tokens, batch.prompt_mask, batch.completions, batch.views
    )
    policy_gradient_loss(
        log_probs,
        batch.views.coefficient,
        batch.weights,
        objective.parts.likelihood.lengths(batch.answer_mask).tolist(),
        level=objective.level,
        normalisation=objective.config.normalisation,
        divides=objective.divides_by_size,
    ).backward()
    table = policy.table.grad.clone()
    _, gradients = gradient(objective, policy, batch)
    assert torch.allclose(gradients["logits"], table, rtol=1e-4, atol=1e-7)
    assert objective.loss(policy, batch).metrics["outside_ratio"].item() == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_one_update_per_buffer_needs_no_stored_log_probs(name):
    objective = registered(name, updates=1, score=first_tokens)
    policy = policy_of(2)
    _, batch = step(objective, policy, drawn_buffer(policy))
    assert batch.behaviour_log_probs is None
    assert objective.loss(policy, batch).metrics["outside_ratio"].item() == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_group_without_spread_has_no_gradient(name):
    settings = {"stepwise": 0.0} if name == "egspo" else {}
    objective = registered(name, beta=0.0, **settings)
    behaviour = policy_of(2)
    rollouts, _ = drawn_buffer(behaviour)
    flat = rewards_of(torch.full((2, 4), 0.3))
    _, batch = step(objective, behaviour, (rollouts, flat))
    _, gradients = gradient(objective, policy_of(2, 3), batch)
    assert not gradients["logits"].any()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "espo"])
def test_likelihood_that_is_no_sum_is_refused_where_the_ratio_is_of_a_part(name):
    with pytest.raises(ConfigError, match=r"^likelihood: .*EuboLikelihood only has a value"):
        registered(name, likelihood=LIKELIHOODS.build("eubo"))


def test_likelihood_that_is_no_sum_serves_a_ratio_of_responses():
    objective = registered("espo", likelihood=LIKELIHOODS.build("eubo"))
    behaviour, policy = policy_of(2), policy_of(2, 3)
    _, batch = step(objective, behaviour, drawn_buffer(behaviour))
    assert gradient(objective, policy, batch)[1]["logits"].isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_views_may_be_cut_apart_where_each_has_units_of_its_own(name):
    objective = registered(name, score=first_tokens)
    assert objective.is_sum_over_views == (objective.level not in ("token", "response"))
    if objective.is_sum_over_views:
        _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
        whole, gradients = gradient(objective, policy_of(2, 3), batch)
        cut, pieces = gradient(objective, policy_of(2, 3), batch, 3, 1)
        assert cut == pytest.approx(whole, abs=1e-6)
        assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-7)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("level", ["view_token", "view", "draw"])
def test_views_cut_apart_add_up_in_every_normalisation(level, normalisation):
    more = {"stepwise": 0.0} if level == "view" else {}
    settings = {"normalisation": normalisation, "beta": 0.3}
    objective = registered(OF_LEVEL[level], likelihood=odd_views(), **settings, **more)
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    whole, gradients = gradient(objective, policy_of(2, 3), batch)
    cut, pieces = gradient(objective, policy_of(2, 3), batch, 8, 2)
    assert cut == pytest.approx(whole, abs=1e-6)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-7)


def test_views_stay_together_where_a_threshold_decides_what_a_response_weighs():
    assert not registered("rldf", normalisation="response").is_sum_over_views
