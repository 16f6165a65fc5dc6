from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.likelihoods.block import BlockConfig, BlockLikelihood
from tests.oracles import likelihood as oracle
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import (
    PROMPT,
    RESPONSES,
    SUBSETS,
    TabularPolicy,
    all_rollouts,
    path_log_probs,
    random_table,
    subset_log_probs,
)

CHOSEN = [4, 40, 77]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block(**settings):
    return BlockLikelihood(BlockConfig(**settings))


def bound(policy, block_length):
    return oracle.block_bound(subset_log_probs(policy).detach(), SUBSETS, block_length)


@pytest.mark.parametrize("block_length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("num_views", [1, 3])
def test_estimates_average_to_the_bound_of_filling_block_after_block(block_length, num_views):
    policy = TabularPolicy(random_table(3))
    likelihood = block(block_length=block_length, num_views=num_views)
    estimates = oracle.repeated_estimates(policy, likelihood, RESPONSES[CHOSEN], repeats=1500)
    assert oracle.agree(estimates, bound(policy, block_length)[CHOSEN])


@given(st.integers(0, 999))
def test_bound_of_one_block_is_the_elbo_and_of_single_tokens_the_log_prob_in_order(seed):
    policy = TabularPolicy(random_table(seed))
    elbo = oracle.enumerated_elbo(subset_log_probs(policy).detach(), SUBSETS)
    assert torch.allclose(bound(policy, 4), elbo)
    assert torch.allclose(bound(policy, 1), path_log_probs(policy)[0])


def test_only_the_chosen_block_is_scored_and_later_ones_are_hidden():
    views = block(block_length=2, num_views=2).views(all_rollouts(), rng())
    first, second = views.hidden[0].unbind(-2)
    # Two views are spread over two blocks: one each.
    assert first[:, 2:].all()
    assert not second[:, :2].any()
    assert not views.coefficient[0, :, 0, 2:].any()
    assert not (views.coefficient[0, :, 1] * ~second).any()


def test_blocks_of_a_row_are_those_of_its_answer():
    answer = torch.tensor([True, True, True, False]).expand(1, 200, 4)
    rollouts = rollouts_of(PROMPT, RESPONSES[0].expand(1, 200, 4), answer_mask=answer)
    views = block(block_length=2, num_views=2).views(rollouts, rng())
    assert views.hidden[..., 3].all()
    assert not views.coefficient[..., 3].any()
    # Two blocks over two views; two sizes of the second, which is a single token: (1 + 1)/1.
    assert set(views.coefficient[0, :, 1, 2].tolist()) == {0.0, 2.0}


def test_no_view_is_spent_on_a_block_behind_the_answer():
    answer = torch.tensor([True, True, False, False]).expand(1, 200, 4)
    rollouts = rollouts_of(PROMPT, RESPONSES[0].expand(1, 200, 4), answer_mask=answer)
    views = block(block_length=2, num_views=2).views(rollouts, rng())
    # One block over two views: (2 + 1)/2 and (2 + 1)/1, halved.
    for view in views.coefficient[0].unbind(-2):
        assert set(view[:, :2].flatten().tolist()) == {0.0, 0.75, 1.5}


def test_context_masks_hide_prompt_and_earlier_blocks_unscored():
    prompts, real = torch.zeros(1, 3, dtype=torch.long), torch.tensor([[False, True, True]])
    rollouts = rollouts_of(prompts, RESPONSES[0].expand(1, 2000, 4), prompt_mask=real)
    views = block(block_length=2, num_views=2, context_mask=0.15).views(rollouts, rng())
    assert not views.prompt_hidden[..., 0].any()
    assert views.prompt_hidden[..., 1:].float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert views.hidden[0, :, 1, :2].float().mean().item() == pytest.approx(0.15, abs=0.02)
    assert not views.coefficient[0, :, 1, :2].any()
    assert block().views(rollouts, rng()).prompt_hidden is None


def test_standard_error_is_the_spread_of_views_and_unknown_from_one():
    likelihood = block(num_views=2)
    views = likelihood.views(all_rollouts(), rng())
    assert not likelihood.standard_error(torch.zeros(views.hidden.shape), views).any()
    one = block(num_views=1)
    views = one.views(all_rollouts(), rng())
    assert one.standard_error(torch.zeros(views.hidden.shape), views) is None
