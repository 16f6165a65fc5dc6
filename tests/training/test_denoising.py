from __future__ import annotations

import pytest
import torch

from dmpo.training.denoising import (
    DenoisingBatch,
    Masking,
    denoising_loss,
    draw_noise,
    split_rows,
)
from tests.oracles.training import negative_elbo
from tests.training.runs import small_policy


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(num_rows: int = 6, masking: Masking = "count") -> DenoisingBatch:
    generator = _generator(1)
    hidden, coefficient = draw_noise(num_rows, 4, generator, masking=masking, stratified=True)
    mask = torch.ones(num_rows, 3, dtype=torch.bool)
    mask[0, 0] = False
    return DenoisingBatch(
        prompt_tokens=torch.randint(0, 3, (num_rows, 3), generator=generator),
        prompt_mask=mask,
        responses=torch.randint(0, 3, (num_rows, 4), generator=generator),
        hidden=hidden,
        coefficient=coefficient,
        num_rows_in_batch=num_rows,
    )


@pytest.mark.parametrize("masking", ["count", "bernoulli"])
@pytest.mark.parametrize("stratified", [True, False])
def test_both_draws_are_unbiased_for_the_negative_elbo(masking: Masking, stratified: bool) -> None:
    # A token costs the more, the more of the others are hidden, and the later it comes.
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = negative_elbo(4, lambda hidden, d: float(losses[d]) * (1 + len(hidden)))
    hidden, factor = draw_noise(200_000, 4, _generator(), masking=masking, stratified=stratified)
    sums = factor * (hidden * losses).sum(1) * (1 + hidden.sum(1))
    error = sums.std() / len(sums) ** 0.5
    # t stops at a thousandth, which costs the bernoulli draw a thousandth.
    assert abs(sums.mean() - expected) < 4 * error + 2e-3 * expected


def test_count_draw_never_leaves_a_row_without_a_hidden_token() -> None:
    hidden, factor = draw_noise(1000, 5, _generator(), masking="count", stratified=False)
    counts = hidden.sum(1)
    assert counts.min() == 1
    assert counts.max() == 5
    assert torch.equal(factor, 5 / counts)


def test_stratified_counts_are_spread_evenly_over_the_batch() -> None:
    hidden, _ = draw_noise(20, 5, _generator(), masking="count", stratified=True)
    assert hidden.sum(1).bincount(minlength=6).tolist() == [0, 4, 4, 4, 4, 4]


def test_slices_add_up_to_the_loss_of_the_batch() -> None:
    policy, batch = small_policy(), _batch()
    whole = denoising_loss(policy, batch).loss
    cut = [denoising_loss(policy, piece).loss for piece in split_rows(batch, 4)]
    torch.testing.assert_close(torch.stack(cut).sum(), whole)


def test_loss_is_that_of_the_hidden_tokens_alone() -> None:
    policy, batch = small_policy(), _batch()
    tokens = torch.cat([batch.prompt_tokens, batch.responses], dim=1)
    noisy = tokens.clone()
    noisy[:, 3:][batch.hidden] = policy.mask_token_id
    attention = torch.cat([batch.prompt_mask, torch.ones(6, 4, dtype=torch.bool)], dim=1)
    positions = torch.arange(7).expand(6, 7)
    log_probs = policy.logits(noisy, attention, positions).log_softmax(-1)
    picked = log_probs.gather(-1, tokens[..., None]).squeeze(-1)[:, 3:]
    expected = -(picked * batch.hidden).sum(1) @ batch.coefficient / (6 * 4)
    torch.testing.assert_close(denoising_loss(policy, batch).loss, expected)


def test_prompt_is_read_and_neither_hidden_nor_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = small_policy(), _batch()
    asked = []
    score = policy.token_logprobs

    def watched(noisy, attention_mask, targets, where, **options):
        asked.append((noisy, where))
        return score(noisy, attention_mask, targets, where, **options)

    monkeypatch.setattr(policy, "token_logprobs", watched)
    denoising_loss(policy, batch)
    ((noisy, where),) = asked
    assert torch.equal(noisy[:, :3], batch.prompt_tokens)
    assert not where[:, :3].any()
    assert torch.equal(where[:, 3:], batch.hidden)
