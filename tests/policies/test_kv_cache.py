from __future__ import annotations

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.policies.kv_cache import KeyValueCache
from tests.policies.builders import random_sequences, small_policy


def cached(policy, tokens, mask, at, cache, window):
    with policy.evaluating():
        return policy.cached_logits(tokens, mask, at, cache=cache, window=window)


def plain(policy, tokens, mask, at):
    with policy.evaluating():
        return policy.logits(tokens, mask, at)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("window", [(6, 9), (6, 12), (0, 12), (11, 12)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_window_of_unchanged_tokens_has_the_logits_of_the_whole(padded, window, attention):
    policy = small_policy(attention=attention)
    noisy, mask, *_ = random_sequences(policy, padded=padded)
    at = torch.arange(*window).expand(5, -1)
    cache = policy.new_cache()
    everywhere = torch.arange(12).expand(5, -1)
    filled = cached(policy, noisy, mask, everywhere, cache, window)
    again = cached(policy, noisy, mask, at, cache, window)
    expected = plain(policy, noisy, mask, everywhere)
    real = mask.unsqueeze(-1)
    torch.testing.assert_close(filled * real, expected * real, atol=1e-5, rtol=1e-5)
    inside = real[:, slice(*window)]
    torch.testing.assert_close(
        again * inside, expected[:, slice(*window)] * inside, atol=1e-5, rtol=1e-5
    )


def test_window_of_shifted_predictions_begins_one_token_early():
    policy = small_policy()
    policy._denoiser.shifted = True
    noisy, mask, *_ = random_sequences(policy, padded=False)
    cache, at = policy.new_cache(), torch.arange(6, 9).expand(5, -1)
    cached(policy, noisy, mask, at, cache, (6, 9))
    again = cached(policy, noisy, mask, at, cache, (6, 9))
    torch.testing.assert_close(again, plain(policy, noisy, mask, at), atol=1e-5, rtol=1e-5)


def test_what_lies_outside_the_window_is_seen_as_it_was():
    policy = small_policy()
    noisy, mask, *_ = random_sequences(policy, padded=False)
    cache, at = policy.new_cache(), torch.arange(6, 9).expand(5, -1)
    before = cached(policy, noisy, mask, at, cache, (6, 9))
    changed = noisy.clone()
    changed[:, 2] = 5
    same = cached(policy, changed, mask, at, cache, (6, 9))
    torch.testing.assert_close(same, before, atol=1e-5, rtol=1e-5)
    assert not plain(policy, changed, mask, at).allclose(before, atol=1e-3)


def test_what_lies_inside_the_window_is_seen_as_it_is():
    policy = small_policy()
    noisy, mask, *_ = random_sequences(policy, padded=False)
    cache, at = policy.new_cache(), torch.arange(6, 9).expand(5, -1)
    cached(policy, noisy, mask, at, cache, (0, 12))
    changed = noisy.clone()
    changed[:, 2] = 5
    seen = cached(policy, changed, mask, at, cache, (0, 12))
    torch.testing.assert_close(seen, plain(policy, changed, mask, at), atol=1e-5, rtol=1e-5)


def test_equal_rows_fill_the_cache_in_one_pass_and_part_afterwards():
    policy = small_policy()
    noisy, mask, *_ = random_sequences(policy, padded=False)
    tokens, at = noisy[:1].repeat(4, 1), torch.arange(6, 9).expand(4, -1)
    cache, before = policy.new_cache(), policy.forward_tokens
    cached(policy, tokens, mask[:1].repeat(4, 1), at, cache, (6, 9))
    assert policy.forward_tokens - before == 12
    tokens[:, 6] = torch.arange(4)
    apart = cached(policy, tokens, mask[:1].repeat(4, 1), at, cache, (6, 9))
    assert policy.forward_tokens - before == 12 + 4 * 3
    alone = policy.new_cache()
    cached(policy, noisy[:1], mask[:1], at[:1], alone, (6, 9))
    expected = cached(policy, tokens[2:3], mask[:1], at[:1], alone, (6, 9))
    torch.testing.assert_close(apart[2:3], expected, atol=1e-5, rtol=1e-5)


def test_cache_keeps_the_selected_rows_alone():
    policy = small_policy()
    noisy, mask, *_ = random_sequences(policy)
    cache, at = policy.new_cache(), torch.arange(6, 9).expand(5, -1)
    everything = cached(policy, noisy, mask, at, cache, (6, 9))
    rows = torch.tensor([1, 3])
    cache.select(rows)
    some = cached(policy, noisy[rows], mask[rows], at[rows], cache, (6, 9))
    torch.testing.assert_close(some, everything[rows], atol=1e-5, rtol=1e-5)


def test_new_cache_is_empty():
    cache = small_policy().new_cache()
    assert isinstance(cache, KeyValueCache)
    assert not cache.is_filled


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_token_that_is_not_visible_changes_nothing(attention):
    policy = small_policy(attention=attention)
    tokens = torch.randint(0, 90, (2, 7), generator=torch.Generator().manual_seed(0))
    visible = torch.ones(2, 7, 7, dtype=torch.bool)
    visible[:, :, 4] = False
    wanted = {"position_ids": torch.arange(7).expand(2, -1), "visible": visible}
    others = torch.tensor([0, 1, 2, 3, 5, 6]).expand(2, -1)
    changed = tokens.clone()
    changed[:, 4] = 7
    with policy.evaluating():
        one = policy.attended_logits(tokens, others, **wanted)
        other = policy.attended_logits(changed, others, **wanted)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_shifted_predictions_cannot_be_masked_token_by_token():
    policy = small_policy()
    policy._denoiser.shifted = True
    tokens = torch.zeros(1, 3, dtype=torch.long)
    at = torch.arange(3)[None]
    visible = torch.ones(1, 3, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"wino needs a policy .* predicts shifted tokens"):
        policy.attended_logits(tokens, at, position_ids=at, visible=visible)
