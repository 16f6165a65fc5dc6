from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from dmpo.policies.denoiser import Denoiser, begins_run, mask_positions
from tests.oracles.policies import naive_token_logprobs, row_logits
from tests.policies.builders import Sequences, random_sequences, small_policy

POLICY = small_policy()


def repeated(batch, *counts):
    """Repeat whole rows, and hide the same tokens under targets that differ."""
    times = torch.tensor(counts)
    noisy, mask, targets, where = (part.repeat_interleave(times, dim=0) for part in batch)
    return Sequences(noisy, mask, (targets + torch.arange(len(targets))[:, None]) % 90, where)


def projected_rows(policy):
    """Count the rows that reach the output projection."""
    counts = []

    def count(_module, inputs, _output):
        counts.append(inputs[0].numel() // inputs[0].shape[-1])

    return counts, policy.module.causal_lm.lm_head.register_forward_hook(count)


def gradients(policy, *, chunk, batch):
    policy.module.logits_chunk = chunk
    policy.module.zero_grad()
    scores = policy.token_logprobs(*batch)
    (scores * torch.linspace(-1, 2, scores.numel()).reshape(scores.shape)).sum().backward()
    return scores.detach(), [parameter.grad.clone() for parameter in policy.module.parameters()]


def test_mask_positions_count_real_tokens():
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    assert mask_positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([1.0, 0.3, 2.5]))
def test_token_logprobs_equal_the_naive_form(seed, temperature):
    batch = random_sequences(POLICY, seed=seed)
    with torch.no_grad():
        ours = POLICY.token_logprobs(*batch, temperature=temperature)
        naive = naive_token_logprobs(POLICY, *batch, temperature)
    torch.testing.assert_close(ours.double(), naive, atol=2e-5, rtol=1e-5)


def test_token_logprobs_are_zero_outside_where():
    batch = random_sequences(POLICY)
    scores = POLICY.token_logprobs(*batch)
    assert (scores[~batch.where] == 0).all()
    assert (scores[batch.where] < 0).all()


def test_logits_are_those_at_the_positions_asked_for():
    batch = random_sequences(POLICY)
    at = torch.tensor([[11, 5], [4, 4], [9, 6], [2, 3], [7, 11]])
    logits = POLICY.logits(batch.noisy, batch.mask, at)
    naive = torch.stack(
        [row_logits(POLICY, batch.noisy[s], batch.mask[s])[at[s]] for s in range(5)]
    )
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, naive, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding_changes_nothing(attention):
    policy = small_policy(attention=attention)
    batch = random_sequences(policy)
    together = policy.token_logprobs(*batch)
    for s in (0, 1, 2, 4):
        real = batch.mask[s]
        alone = policy.token_logprobs(*(part[s : s + 1, real] for part in batch))
        torch.testing.assert_close(together[s : s + 1, real], alone, atol=1e-5, rtol=1e-5)


def test_padding_ids_change_nothing():
    batch = random_sequences(POLICY)
    other = batch.noisy.masked_fill(~batch.mask, 17)
    assert torch.equal(POLICY.token_logprobs(*batch), POLICY.token_logprobs(other, *batch[1:]))


def test_later_tokens_change_earlier_logits():
    tokens = torch.randint(0, 90, (1, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, -1] = (tokens[0, -1] + 1) % 90
    mask, at = torch.ones(1, 8, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long)
    difference = POLICY.logits(tokens, mask, at) - POLICY.logits(changed, mask, at)
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunk_size_changes_neither_values_nor_gradients(chunk):
    policy = small_policy()
    batch = random_sequences(policy)
    scores, grads = gradients(policy, chunk=1024, batch=batch)
    chunked, chunked_grads = gradients(policy, chunk=chunk, batch=batch)
    torch.testing.assert_close(chunked, scores, atol=1e-6, rtol=1e-6)
    for one, other in zip(grads, chunked_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_vocabulary_is_projected_only_where_asked():
    policy = small_policy(logits_chunk=4)
    batch = random_sequences(policy)
    counts, hook = projected_rows(policy)
    with policy.evaluating():
        policy.token_logprobs(*batch)
        assert sum(counts) == int(batch.where.sum())
        assert max(counts) <= 4
        counts.clear()
        policy.logits(batch.noisy, batch.mask, torch.zeros(5, 3, dtype=torch.long))
    hook.remove()
    assert counts == [15]


@pytest.mark.parametrize(("chunk", "passes"), [(4, 2), (1024, 1)])
def test_several_chunks_are_recomputed_for_the_gradient_and_one_is_kept(chunk, passes):
    policy = small_policy(logits_chunk=chunk)
    batch = random_sequences(policy)
    counts, hook = projected_rows(policy)
    policy.token_logprobs(*batch).sum().backward()
    hook.remove()
    assert sum(counts) == passes * int(batch.where.sum())


def test_nothing_asked_for_projects_nothing_and_still_has_a_gradient():
    policy = small_policy()
    batch = random_sequences(policy)._replace(where=torch.zeros(5, 12, dtype=torch.bool))
    counts, hook = projected_rows(policy)
    scores = policy.token_logprobs(*batch)
    scores.sum().backward()
    hook.remove()
    assert sum(counts) == 0
    assert (scores == 0).all()
    assert all(parameter.grad is not None for parameter in policy.module.parameters())


def test_rows_that_ask_for_nothing_do_not_run():
    policy = small_policy()
    policy.token_logprobs(*random_sequences(policy))
    assert policy.forward_tokens == 4 * 12


def test_run_begins_where_a_real_token_or_the_padding_differs():
    tokens = torch.tensor([[1, 2, 3], [1, 2, 3], [9, 2, 3], [8, 2, 3], [8, 2, 4], [1, 2, 3]])
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[2:4, 0] = False
    assert begins_run(tokens, mask).tolist() == [True, False, True, False, True, True]
    assert begins_run(tokens[:1], mask[:1]).tolist() == [True]


@pytest.mark.parametrize("chunk", [3, 1024])
def test_equal_rows_run_once_and_give_what_they_give_alone(chunk):
    policy = small_policy(logits_chunk=chunk)
    batch = repeated(random_sequences(policy), 3, 1, 2, 4, 2)
    scores = policy.token_logprobs(*batch)
    assert policy.forward_tokens == 4 * 12
    naive = naive_token_logprobs(policy, *batch, 1.0)
    torch.testing.assert_close(scores.double(), naive, atol=2e-5, rtol=1e-5)


def test_equal_rows_give_the_gradient_that_they_give_alone():
    policy = small_policy()
    batch = repeated(random_sequences(policy), 3, 1, 2, 4, 2)
    weights = torch.linspace(-1, 2, batch.where.numel()).reshape(batch.where.shape)
    (policy.token_logprobs(*batch) * weights).sum().backward()
    together = [parameter.grad.clone() for parameter in policy.module.parameters()]
    policy.module.zero_grad()
    for s in range(len(weights)):
        alone = policy.token_logprobs(*(part[s : s + 1] for part in batch))
        (alone * weights[s]).sum().backward()
    for one, parameter in zip(together, policy.module.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-5)


def test_position_is_projected_once_however_many_targets_it_has():
    policy = small_policy(logits_chunk=4)
    batch = random_sequences(policy)
    counts, hook = projected_rows(policy)
    with policy.evaluating():
        policy.token_logprobs(*repeated(batch, 3, 1, 2, 4, 2))
    hook.remove()
    assert sum(counts) == int(batch.where.sum())


def test_equal_rows_may_ask_for_logits_at_different_positions():
    policy = small_policy()
    batch = repeated(random_sequences(policy), 1, 2, 1, 2, 1)
    at = torch.tensor([[11, 5], [4, 4], [9, 6], [2, 3], [7, 11], [5, 6], [8, 8]])
    logits = policy.logits(batch.noisy, batch.mask, at)
    assert policy.forward_tokens == 5 * 12
    naive = [row_logits(policy, batch.noisy[s], batch.mask[s])[at[s]] for s in range(7)]
    torch.testing.assert_close(logits, torch.stack(naive), atol=1e-5, rtol=1e-5)


def test_shifted_denoiser_reads_the_state_before():
    config = LlamaConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=16,
        vocab_size=20,
    )
    config.is_causal = False
    model = LlamaForCausalLM(config).eval()
    tokens, mask = torch.arange(6).unsqueeze(0), torch.ones(1, 6, dtype=torch.bool)
    at = torch.arange(6).unsqueeze(0)
    plain = Denoiser(model, logits_chunk=8)(tokens, mask, at=at)
    shifted = Denoiser(model, logits_chunk=8, shifted=True)(tokens, mask, at=at)
    assert torch.equal(shifted, plain[:, [0, 0, 1, 2, 3, 4]])


def test_forward_without_a_question_is_refused():
    with pytest.raises(ValueError, match="must be given"):
        POLICY.module(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))
