"""DMPO against the official numbers: theirs where they are right, the right ones where not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmpo.diffusion.likelihood import exact_coefficients, reference_coefficients
from dmpo.diffusion.losses import (
    weighted_denoising_cross_entropy,
    weighted_discriminative_loss,
)
from dmpo.diffusion.tilting import effective_sample_size, group_softmax_weights
from dmpo.likelihoods.base import LikelihoodConfig, rollout_log_probs
from dmpo.records import LogRatio, Views
from dmpo.registry import BASELINES, WEIGHTS
from tests.objectives.build import dmpo, gradient, rng
from tests.oracles import losses as oracle
from tests.oracles.likelihood import GivenViews
from tests.oracles.official import (
    OfficialPolicies,
    group_rollouts,
    laid_out,
    numbers,
    official_name,
)
from tests.oracles.records import rewards_of
from tests.paths import FIXTURES, needs_fixtures

pytestmark = needs_fixtures
ELBO_CASES = ["elbo_antithetic", "elbo_independent", "elbo_group0"]
ROWS = {"elbo_group0": slice(0, 4), "loss": slice(0, 4), "non_eos": slice(0, 4)}
DESCRIPTION, TENSORS = numbers("losses/dmpo") if FIXTURES.is_dir() else ({"losses": []}, {})
WDCE = [case for case in DESCRIPTION["losses"] if case["loss"] == "wdce"]
WDDO = [case for case in DESCRIPTION["losses"] if case["loss"] == "ddo"]
BASELINE_CASES = [(c["alpha"], c["baseline"], c["strength"], c["official"]) for c in WDCE]


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> OfficialPolicies:
    return OfficialPolicies(tmp_path_factory.mktemp("official"))


def views_of(masks: torch.Tensor, coefficients, lengths=None) -> Views:
    hidden = laid_out(masks)
    if lengths is None:
        lengths = torch.full(hidden.shape[:2], hidden.shape[-1])
    return Views(hidden=hidden, coefficient=coefficients(hidden, lengths))


def canvas(views: Views) -> GivenViews:
    return GivenViews(views, LikelihoodConfig(eos="canvas"))


def close(got, expected, **tolerance) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(torch.as_tensor(got).float(), expected, **tolerance)


@pytest.mark.parametrize("case", ELBO_CASES)
@pytest.mark.parametrize("which", ["old", "ref"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_elbo_on_the_given_masks(policies, case, which, unbiased):
    rollouts = group_rollouts(TENSORS, ROWS.get(case, slice(0, 8)))
    coefficients = exact_coefficients if unbiased else reference_coefficients
    views = views_of(TENSORS[f"{case}.masks"], coefficients)
    scores = rollout_log_probs(policies.become(which), rollouts, views, rows_per_forward=3)
    name = f"{case}.{'unbiased_' if unbiased else ''}log_prob_{which}"
    got = canvas(views).combine(scores, views).flatten()
    close(got, TENSORS[name], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("case", ELBO_CASES)
def test_cross_entropies_on_the_given_masks(policies, case):
    rollouts = group_rollouts(TENSORS, ROWS.get(case, slice(0, 8)))
    views = views_of(TENSORS[f"{case}.masks"], exact_coefficients)
    scores = rollout_log_probs(policies.become("old"), rollouts, views, rows_per_forward=8)
    close(-scores, laid_out(TENSORS[f"{case}.ce_old"]), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("case", "name", "settings"),
    [
        ("weights_alpha_0.5", "tilted", {"alpha": 0.5}),
        ("weights_alpha_2", "tilted", {"alpha": 2.0}),
        ("weights_alpha_0.04", "tilted", {"alpha": 0.04}),
        ("weights_coeff_0.3", "tilted", {"alpha": 0.5, "coefficient": 0.3}),
        ("weights_alpha_0_coeff_0.7", "tilted", {"alpha": 0, "eta": 0.7}),
        ("weights_two_groups", "tilted", {"alpha": 0.5}),
        (
            "weights_adaptive_0.5",
            "tilted_adaptive",
            {"alpha": 0.5, "threshold": 0.5, "c_max": 0.99},
        ),
        (
            "weights_adaptive_0.8",
            "tilted_adaptive",
            {"alpha": 0.5, "threshold": 0.8, "c_max": 0.99},
        ),
    ],
)
def test_weights_and_individual_baseline(case, name, settings):
    values = {
        key: TENSORS[f"{case}.{key}"].reshape(-1, 4)
        for key in ("log_prob_ref", "log_prob_old", "rewards", "weights_sum1")
    }
    estimator = WEIGHTS.build(name, settings)
    log_ratio = ratio_of(values["log_prob_ref"] - values["log_prob_old"])
    weights = estimator.estimate(values["rewards"], log_ratio)
    close(weights.values / 4, values["weights_sum1"], atol=2e-4, rtol=1e-3)
    close(weights.ess, TENSORS[f"{case}.ess"], atol=1e-4, rtol=1e-3)
    close(
        weights.coefficient[0],
        DESCRIPTION["cases"][case]["coeff"] if "eta" not in settings else 1.0,
        atol=1e-4,
        rtol=1e-4,
    )
    baseline = BASELINES.build("individual")
    negative = baseline.weights(estimator, values["rewards"], log_ratio, weights, None)
    close(negative.flatten() / 4, TENSORS[f"{case}.individual_baseline_sum1"], atol=2e-4, rtol=1e-3)


def ratio_of(value):
    return LogRatio(value=value, standard_error=None)


@pytest.mark.parametrize("index", range(6))
def test_adaptive_coefficient_is_the_exact_one(index):
    case = DESCRIPTION["adaptive_coefficient"]["cases"][index]
    low, high = case["c_range"]
    step = {"alpha": case["alpha"]} if case["alpha"] > 0 else {"alpha": 0, "eta": 1.0}
    settings = {**step, "threshold": case["ess_threshold"], "c_min": low, "c_max": high}
    rewards = torch.tensor([case["rewards"]], dtype=torch.float64)
    ratio = torch.tensor([case["log_ref_minus_log_old"]], dtype=torch.float64)
    weights = WEIGHTS.build("tilted_adaptive", settings).estimate(rewards, ratio_of(ratio))
    assert weights.coefficient.item() == pytest.approx(case["exact_coeff"], abs=1e-9)
    assert weights.ess.item() == pytest.approx(case["exact_ess"], abs=1e-9)


def real_weights(alpha: float, baseline: str, strength: float) -> torch.Tensor:
    """Real weights of the first group, by the library's parts, from official log-probs."""
    case = "weights_alpha_" + f"{alpha:g}"
    keys = ("log_prob_ref", "log_prob_old", "rewards")
    reference, behaviour, rewards = (TENSORS[f"{case}.{key}"].reshape(1, 4) for key in keys)
    estimator = WEIGHTS.build("tilted", {"alpha": alpha})
    part = BASELINES.build(baseline, {} if baseline == "none" else {"strength": strength})
    log_ratio = ratio_of(reference - behaviour)
    weights = estimator.estimate(rewards, log_ratio)
    model = (TENSORS["loss.log_prob_theta"] - TENSORS["loss.log_prob_old"]).reshape(1, 4)
    base = part.weights(estimator, rewards, log_ratio, weights, model)
    return (weights.values - part.strength * base).flatten()


@pytest.mark.parametrize(("alpha", "baseline", "strength", "official"), BASELINE_CASES)
def test_wdce_of_every_baseline_and_strength(policies, alpha, baseline, strength, official):
    weights = real_weights(alpha, baseline, strength)
    objective, batch = official_batch(policies, weights)
    got = objective.loss(policies.policy, batch).loss
    close(got, official, atol=1e-3, rtol=1e-3)
    naive = oracle.wdce(weights, TENSORS["loss.ce_theta"], TENSORS["loss.masks"])
    assert got.item() == pytest.approx(naive, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("case", WDDO)
def test_wddo_equals_the_corrected_value(case):
    masks, entropies = TENSORS["loss.masks"], TENSORS["loss.ce_theta"]
    factor = masks.shape[-1] / masks.sum(-1).clamp(min=1)
    log_ratios = -(factor * entropies.sum(-1)) - TENSORS["loss.log_prob_old"]
    half = len(masks) // 2
    whole = slice(None)
    parts = (slice(half), slice(half, None)) if case["independent_sets"] else (whole, whole)
    loss = weighted_discriminative_loss(
        log_ratios[parts[0]].mean(0),
        log_ratios[parts[1]].mean(0),
        4 * TENSORS["weights_alpha_0.5.weights_sum1"],
        4,
        beta=case["beta"],
        gamma=case["gamma"],
    )
    close(loss, case["right"], atol=1e-4, rtol=1e-4)


def official_batch(policies, weights):
    """The official step: θ's views are ``loss.masks``, weights are given."""
    policy = policies.become("theta")
    objective = dmpo(
        canvas(views_of(TENSORS["loss.masks"], reference_coefficients)),
        weights=("tilted", {"alpha": 0, "eta": 1.0}),
    )
    rollouts = group_rollouts(TENSORS, slice(0, 4))
    experience = objective.prepare(policy, rollouts, rewards_of(torch.zeros(1, 4)), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    return objective, replace(batch, weights=weights)


def test_model_baseline_and_individual_real_weights():
    model = (TENSORS["loss.log_prob_theta"] - TENSORS["loss.log_prob_old"]).reshape(1, 4)
    close(
        group_softmax_weights(model)[0] / 4,
        TENSORS["loss.model_baseline_sum1"],
        atol=1e-5,
        rtol=1e-4,
    )
    real = real_weights(0.5, "individual", 1.0)
    close(real, TENSORS["loss.real_weights_individual_1_mean1"], atol=1e-3, rtol=1e-3)


def test_gradient_of_wdce(policies):
    objective, batch = official_batch(policies, real_weights(0.5, "mean", 1.0))
    _, gradients = gradient(objective, policies.policy, batch, num_rows=3)
    official = {official_name(name): value for name, value in gradients.items()}
    norms = DESCRIPTION["gradient"]["norms"]
    assert official.keys() == norms.keys()
    for name, norm in norms.items():
        assert official[name].norm().item() == pytest.approx(norm, rel=1e-3), name
    for key, name in (
        ("ff_out", "model.transformer.ff_out.weight"),
        ("block0_q_proj", "model.transformer.blocks.0.q_proj.weight"),
    ):
        expected = TENSORS[f"loss.grad.{key}"]
        torch.testing.assert_close(official[name], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("baseline", ["mean", "model"])
def test_baselines_of_two_groups_are_those_of_each_group(baseline):
    weights = 4 * TENSORS["two_groups.weights_sum1"].reshape(2, 4)
    masks, entropies = TENSORS["two_groups.masks"], TENSORS["two_groups.ce_theta"]
    views = views_of(masks, reference_coefficients)
    scores = canvas(views).combine(-laid_out(entropies), views)
    ratio = scores - TENSORS["two_groups.log_prob_old"].reshape(2, 4)
    base = group_softmax_weights(ratio if baseline == "model" else torch.zeros_like(ratio))
    if baseline == "model":
        close(
            base.flatten() / 4,
            TENSORS["two_groups.model_baseline_sum1_right"],
            atol=1e-4,
            rtol=1e-3,
        )
    loss = weighted_denoising_cross_entropy(
        scores.flatten(), (weights - base).flatten(), torch.full((8,), 10), 8
    )
    close(loss, DESCRIPTION["two_groups"][f"{baseline}_right"], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("baseline", ["mean", "model", "individual"])
def test_group_cut_in_two_gives_the_loss_of_the_group(policies, baseline):
    policy = policies.become("theta")
    masks, entropies = TENSORS["split.masks"], TENSORS["split.ce_theta"]
    views = views_of(masks, reference_coefficients)
    scores = canvas(views).combine(-laid_out(entropies), views)
    weights = split_weights(baseline, scores)
    objective, batch = official_batch(policies, weights)
    batch = replace(batch, views=views.flatten_rows())
    pieces = [objective.loss(policy, piece).loss.item() for piece in batch.split(2)]
    close(sum(pieces), DESCRIPTION["split_group"][f"{baseline}_right"], atol=1e-3, rtol=1e-3)


def split_weights(baseline, scores):
    case = "weights_alpha_0.5"
    keys = ("log_prob_ref", "log_prob_old", "rewards")
    reference, behaviour, rewards = (TENSORS[f"{case}.{key}"].reshape(1, 4) for key in keys)
    estimator, part = WEIGHTS.build("tilted", {"alpha": 0.5}), BASELINES.build(baseline)
    log_ratio = ratio_of(reference - behaviour)
    weights = estimator.estimate(rewards, log_ratio)
    base = part.weights(estimator, rewards, log_ratio, weights, scores - behaviour)
    return (weights.values - base).flatten()


def test_tokens_behind_the_first_eos_do_not_count(policies):
    rollouts = group_rollouts(TENSORS, slice(0, 4))
    lengths = rollouts.answer_mask.sum(-1)
    views = views_of(TENSORS["non_eos.masks_right"], reference_coefficients, lengths)
    policy = policies.become("theta")
    objective = dmpo(
        GivenViews(views, LikelihoodConfig(eos="answer")),
        weights=("tilted", {"alpha": 0, "eta": 1.0}),
    )
    experience = objective.prepare(policy, rollouts, rewards_of(torch.zeros(1, 4)), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    loss = objective.loss(policy, replace(batch, weights=real_weights(0.5, "none", 1.0))).loss
    close(loss, DESCRIPTION["mask_non_eos"]["right"], atol=1e-3, rtol=1e-3)
    assert batch.num_tokens_in_buffer == lengths.sum()


def test_effective_sample_size_is_the_group_s():
    weights = 4 * TENSORS["weights_two_groups.weights_sum1"].reshape(2, 4)
    close(effective_sample_size(weights), TENSORS["weights_two_groups.ess"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("strength", "index"), [(1.0, 1), (0.5, 2)])
def test_whole_step_from_policies_to_loss(policies, strength, index):
    rollouts = group_rollouts(TENSORS, slice(0, 4))
    objective = dmpo(
        canvas(views_of(TENSORS["loss.masks"], reference_coefficients)),
        ratio_likelihood=canvas(views_of(TENSORS["elbo_group0.masks"], reference_coefficients)),
        weights=("tilted", {"alpha": 0.5}),
        baseline=("mean", {"strength": strength}),
        rows_per_forward=3,
    )
    rewards = rewards_of(TENSORS["rewards"][:4].reshape(1, 4))
    experience = objective.prepare(policies.become("old"), rollouts, rewards, rng())
    policy = policies.become("theta")
    batch = objective.draw(policy, experience, rng(), update=1)
    losses = [objective.loss(policy, piece).loss.item() for piece in batch.split(3)]
    close(sum(losses), WDCE[index]["official"], atol=2e-3, rtol=2e-3)
