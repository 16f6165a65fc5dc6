from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import rollout_log_probs, view_log_probs
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from dmpo.likelihoods.trace import TraceConfig, TraceLikelihood
from tests.oracles import likelihood as oracle
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    PROMPT,
    RESPONSES,
    TabularPolicy,
    random_table,
    sample_paths,
)

POLICY = TabularPolicy(random_table(1))
STEPS = torch.tensor([[0, 1, 2, 3], [7, 2, 2, 5], [3, 3, 3, 3]])
LOG_PROBS = torch.tensor([[-0.1, -2.0, -1.0, -0.5]]).expand(3, 4)
ENTROPIES = torch.tensor([[0.1, 0.9, 0.5, 0.7]]).expand(3, 4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trace(**settings):
    return TraceLikelihood(TraceConfig(**settings))


def some_rollouts(**fields):
    given = {"commit_step": STEPS, "log_probs": LOG_PROBS, "entropies": ENTROPIES} | fields
    recorded = {name: None if v is None else v.unsqueeze(0) for name, v in given.items()}
    return rollouts_of(PROMPT, RESPONSES[None, [4, 40, 77]], **recorded)


def evaluated(likelihood, rollouts, policy=POLICY):
    views = likelihood.views(rollouts, rng())
    scores = rollout_log_probs(policy, rollouts, views, rows_per_forward=16)
    return likelihood.combine(scores, views)


# merged


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_one_step_per_view_is_the_path(temperature):
    rollouts = sample_paths(POLICY, 50, rng(), temperature)
    path = PathLikelihood(PathConfig())
    likelihood = trace(merge=1)
    assert torch.allclose(evaluated(likelihood, rollouts), evaluated(path, rollouts))
    views = likelihood.views(rollouts, rng())
    recorded = likelihood.recorded_log_probs(rollouts, views)
    assert torch.allclose(likelihood.combine(recorded, views), rollouts.log_probs.sum(-1))


def test_one_segment_is_the_mean_field():
    rollouts = sample_paths(POLICY, 50, rng())
    one_step = MeanFieldLikelihood(MeanFieldConfig())
    likelihood = trace(num_views=1)
    assert torch.allclose(evaluated(likelihood, rollouts), evaluated(one_step, rollouts))
    assert likelihood.recorded_log_probs(rollouts, likelihood.views(rollouts, rng())) is None


def test_merged_steps_are_scored_under_the_state_before_the_first():
    views = trace(merge=2).views(some_rollouts(), rng())
    # Steps 7, 2, 2, 5 are 2, then 5 and 7 of the second row's path, merged in twos: 2 and 5, 7.
    assert views.hidden[0, 1].int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert views.coefficient[0, 1].int().tolist() == [[0, 1, 1, 1], [1, 0, 0, 0]]
    assert not views.coefficient[0, 2, 1].any()


def test_segments_split_the_steps_of_each_row_evenly():
    views = trace(num_views=2).views(some_rollouts(), rng())
    assert views.coefficient[0, 0].int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert views.coefficient[0, 1].int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert views.coefficient[0, 2].sum().item() == 4


@given(st.integers(1, 6), st.booleans(), st.integers(0, 999))
def test_merged_views_score_every_token_that_counts_once(size, by_number, seed):
    steps = torch.randint(0, 9, (3, 4), generator=rng(seed))
    answer = torch.arange(4) < torch.randint(1, 5, (3, 1), generator=rng(seed))
    rollouts = some_rollouts(commit_step=steps, answer_mask=answer)
    views = trace(**{"num_views" if by_number else "merge": size}).views(rollouts, rng())
    assert torch.equal(views.coefficient[0].sum(-2), answer.float())
    assert not (views.coefficient.bool() & ~views.hidden).any()


def test_rollouts_drawn_at_temperature_0_are_read_at_1():
    rollouts = rollouts_of(PROMPT, RESPONSES[None, :1], temperature=0.0)
    assert trace().views(rollouts, rng()).temperature == 1


# sampled


@pytest.mark.parametrize("probability", ["uniform", "confidence", "entropy"])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_corrected_samples_average_to_the_sum_over_steps(probability, num_views):
    fields = {"commit_step": STEPS, "log_probs": LOG_PROBS, "entropies": ENTROPIES}
    likelihood = trace(steps="sampled", num_views=num_views, probability=probability)
    estimates = oracle.repeated_estimates(
        POLICY, likelihood, RESPONSES[[4, 40, 77]], repeats=1500, **fields
    )
    assert oracle.agree(estimates, evaluated(trace(merge=1), some_rollouts())[0])


def test_as_many_uniform_samples_as_steps_take_each_once():
    likelihood = trace(steps="sampled", num_views=9)
    expected = evaluated(trace(merge=1), some_rollouts())
    assert torch.allclose(evaluated(likelihood, some_rollouts()), expected)


def test_a_step_hit_again_costs_one_view():
    certain = some_rollouts(entropies=torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(3, 4))
    likelihood = trace(steps="sampled", num_views=3, probability="entropy")
    views = likelihood.views(certain, rng())
    assert views.coefficient[0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_steps_without_any_entropy_are_drawn_alike():
    rollouts = some_rollouts(entropies=torch.zeros(3, 4))
    views = trace(steps="sampled", num_views=4, probability="entropy").views(rollouts, rng())
    assert torch.equal(views.coefficient.sum(-2), torch.ones(1, 3, 4))


def test_uncorrected_samples_are_different_steps_of_weight_one():
    rollouts = some_rollouts()
    views = trace(steps="sampled", num_views=3, correct=False).views(rollouts, rng())
    assert (views.coefficient[0, 0].sum(-2) <= 1).all()
    assert views.coefficient[0, 0].sum().item() == 3
    assert views.coefficient[0, 1].sum().item() == 4
    # The third row has one step, all of its tokens in it.
    assert views.coefficient[0, 2].any(-1).sum().item() == 1


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_steps_are_drawn_by_how_improbable_their_tokens_were(temperature):
    shape = (1, 4000, 4)
    rollouts = rollouts_of(
        PROMPT,
        RESPONSES[0].expand(shape),
        commit_step=STEPS[0].expand(shape),
        log_probs=LOG_PROBS[0].expand(shape),
    )
    likelihood = trace(
        steps="sampled",
        num_views=1,
        probability="confidence",
        sampling_temperature=temperature,
        correct=False,
    )
    got = likelihood.views(rollouts, rng()).coefficient[0].sum(-2).mean(0)
    chances = torch.softmax(-LOG_PROBS[0] / temperature, 0)
    assert torch.allclose(got, chances, atol=0.03)


# entropy


def test_steps_of_highest_mean_entropy_come_first():
    views = trace(steps="entropy", num_views=2).views(some_rollouts(), rng())
    assert views.coefficient[0, 0].int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    # Step 2 has tokens of 0.9 and 0.5, mean 0.7, as step 5.
    assert views.coefficient[0, 1].sum((-2, -1)).item() == 3
    assert not views.coefficient[0, 2, 1].any()
    assert trace(steps="entropy").is_deterministic


def test_entropies_of_tokens_that_do_not_count_are_left_out():
    answer = torch.tensor([[True, True, True, False]]).expand(3, 4)
    rollouts = some_rollouts(
        commit_step=torch.tensor([[0, 1, 1, 0]]).expand(3, 4),
        entropies=torch.tensor([[0.1, 0.3, 0.3, 9.0]]).expand(3, 4),
        answer_mask=answer,
    )
    views = trace(steps="entropy", num_views=1).views(rollouts, rng())
    assert views.coefficient[0, 0].int().tolist() == [[0, 1, 1, 0]]


# the clipped clean state


def test_clean_state_counts_probable_tokens_and_always_those_of_the_step():
    likelihood = trace(merge=1, clip_clean_state=0.6)
    rollouts = some_rollouts()
    views = likelihood.views(rollouts, rng())
    assert views.threshold == 0.6
    assert views.coefficient[0, 0, 0].tolist() == [1, 1, 1, 1]
    assert views.always[0, 0, 0].tolist() == [True, False, False, False]
    scores = torch.tensor([0.1, 0.7, 0.5, 0.6001]).log().expand(views.hidden.shape)
    got = likelihood.combine_views(scores, views)[0, 0, 0]
    assert got.item() == pytest.approx(torch.tensor([0.1, 0.7, 0.6001]).log().sum().item())
    assert likelihood.recorded_log_probs(rollouts, views) is None


def test_log_ratio_counts_tokens_by_the_first_policy():
    likelihood = trace(steps="entropy", num_views=1, clip_clean_state=0.6)
    views = likelihood.views(some_rollouts(), rng())
    one = torch.tensor([0.5, 0.9, 0.7, 0.2]).log().expand(views.hidden.shape)
    other = torch.full_like(one, -3.0)
    # View of step 1 of the first row: token 1 always, token 2 is probable, token 3 is not.
    got = likelihood.log_ratio(one, other, views)[0, 0]
    assert got.item() == pytest.approx(one[0, 0, 0, 1:3].sum().item() + 6)


def test_surplus_views_score_nothing_with_a_clean_state_either():
    for settings in ({"merge": 1}, {"steps": "entropy"}, {"steps": "sampled", "correct": False}):
        views = trace(clip_clean_state=0.6, **settings).views(some_rollouts(), rng())
        assert views.coefficient[0, 2].any(-1).sum().item() == 1


# what is refused


@pytest.mark.parametrize(
    ("settings", "lacks", "message"),
    [
        ({"steps": "entropy"}, "entropies", "likelihood.steps: entropies"),
        ({"steps": "sampled", "probability": "entropy"}, "entropies", "carry none"),
        ({"steps": "sampled", "probability": "confidence"}, "log_probs", "confidence needs"),
    ],
)
def test_rollouts_that_lack_what_steps_are_chosen_by_are_refused(settings, lacks, message):
    with pytest.raises(ConfigError, match=message):
        trace(**settings).views(some_rollouts(**{lacks: None}), rng())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge": 2, "num_views": 2}, "give one and leave out the other"),
        ({"steps": "sampled", "merge": 2}, "merge goes with steps: merged"),
        ({"probability": "entropy"}, "probability goes with steps: sampled"),
        ({"steps": "entropy", "correct": False}, "correct goes with steps: sampled"),
        ({"steps": "sampled", "sampling_temperature": 2}, "goes with probability: confidence"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TraceConfig(**settings)


def test_only_confidence_needs_the_recorded_path():
    assert trace(steps="sampled", probability="confidence").needs_path
    assert not trace(steps="sampled", probability="entropy").needs_path
    assert not trace().needs_path


def test_views_that_score_nothing_cost_no_forward_pass():
    rollouts = some_rollouts()
    views = trace(merge=1).views(rollouts, rng()).flatten_rows()
    mask, before = torch.ones(3, 1, dtype=torch.bool), POLICY.forward_tokens
    view_log_probs(POLICY, PROMPT.expand(3, 1), mask, rollouts.completions[0], views)
    # 4 + 3 + 1 steps, each over a prompt token and 4 completion tokens.
    assert POLICY.forward_tokens - before == 8 * 5
