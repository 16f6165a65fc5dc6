"""The formula of a policy's operations against PyTorch's counter of what really ran.

The kernels are eager ones, all of whose products the counter sees; it counts masked pairs like
any other, and so does the formula. The one product that only the counter counts, the angles of
the rotary embedding (2·head_dim/2 per position), is taken off.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dmpo.policies.flops import Cost, FlopCounts, ModelPass
from dmpo.records import Example
from dmpo.registry import SAMPLERS
from tests.policies.builders import random_sequences, small_policy
from tests.policies.mdlm_checkpoints import FAMILIES, load, write_checkpoint

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0}
WAYS = {"full": {}, "paper": {"lora": LORA}, "all": {"lora": {**LORA, "targets": "all"}}}


def counted(work) -> int:
    """Return what the counter sees in ``work``, angles of the rotary embedding left out."""
    with FlopCounterMode(display=False) as counter:
        work()
    counts = counter.get_flop_counts()
    angles = {name: sum(each.values()) for name, each in counts.items() if "rotary" in name}
    return counter.get_total_flops() - sum(angles.values())


def booked(policy, work) -> tuple[int, int]:
    before = policy.forward_flops, policy.backward_flops
    work()
    return policy.forward_flops - before[0], policy.backward_flops - before[1]


def sequences(policy):
    batch = random_sequences(policy)
    return batch._replace(
        targets=batch.targets % 20, noisy=policy.corrupt(batch.targets % 20, batch.where)
    )


def assert_exact(policy, batch) -> None:
    """Hold a pass without gradient, and one with its backward pass, to the counter."""

    def score():
        with policy.evaluating():
            policy.token_logprobs(*batch)

    def train():
        policy.token_logprobs(*batch).sum().backward()

    for work in (score, train, train):
        found = []
        expected = counted(lambda work=work, found=found: found.extend(booked(policy, work)))
        assert sum(found) == expected
        assert (found[1] > 0) == (work is train)


@pytest.mark.parametrize("way", WAYS)
def test_llada_is_counted_exactly(way):
    policy = small_policy(attention="eager", **WAYS[way])
    assert_exact(policy, random_sequences(policy))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_the_library_are_counted_exactly(family, way, tmp_path):
    policy = load(write_checkpoint(tmp_path, family), attention="eager", **WAYS[way])
    assert_exact(policy, sequences(policy))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "bert", "distilbert", "modernbert"])
def test_gradient_checkpointing_adds_the_forward_pass_that_really_runs(family, way, tmp_path):
    policy = load(
        write_checkpoint(tmp_path, family),
        attention="eager",
        gradient_checkpointing=True,
        **WAYS[way],
    )
    assert_exact(policy, sequences(policy))


@pytest.mark.parametrize("way", WAYS)
def test_projection_in_chunks_is_counted_with_what_is_projected_again(way):
    policy = small_policy(attention="eager", logits_chunk=4, **WAYS[way])
    assert_exact(policy, random_sequences(policy))


def test_reference_runs_without_adapters():
    policy = small_policy(attention="eager", lora=LORA)
    batch = random_sequences(policy)

    def score():
        with policy.reference(), policy.evaluating():
            policy.token_logprobs(*batch)

    found = []
    assert counted(lambda: found.extend(booked(policy, score))) == sum(found)
    plain = small_policy(attention="eager")
    assert found == list(booked(plain, lambda: plain.token_logprobs(*batch)))


def test_frozen_reference_counts_as_the_policy_does():
    policy = small_policy(attention="eager")
    policy.freeze_reference()
    batch, found = random_sequences(policy), []

    def score():
        with policy.reference(), policy.evaluating():
            policy.token_logprobs(*batch)

    assert counted(lambda: found.extend(booked(policy, score))) == sum(found) > 0


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_samplers_are_counted_exactly_with_every_cache(cache, shifted, tmp_path):
    policy = load(write_checkpoint(tmp_path, "llama"), attention="eager", shifted=shifted)
    config = {"gen_length": 8, "block_length": 4, "tokens_per_step": 2, "cache": cache}
    assert_sampler_exact(policy, "roar", config)


def test_wino_is_counted_exactly():
    config = {"gen_length": 8, "block_length": 4, "threshold": 0.1, "threshold_back": 0.2}
    assert_sampler_exact(small_policy(attention="eager"), "wino", config)


def assert_sampler_exact(policy, name, config) -> None:
    prompts = policy.encode([Example(prompt="12"), Example(prompt="1+2=")])
    sampler, found = SAMPLERS.build(name, config), []

    def sample():
        sampler.sample(policy, prompts, num_rollouts=2, generator=torch.Generator().manual_seed(0))

    assert counted(lambda: found.extend(booked(policy, sample))) == sum(found)
    assert found[1] == 0


def test_backward_pass_is_booked_when_it_happens():
    policy = small_policy()
    batch = random_sequences(policy)
    loss = policy.token_logprobs(*batch).sum()
    assert policy.backward_flops == 0
    loss.backward()
    assert policy.backward_flops == 2 * policy.forward_flops


def test_merged_adapters_cost_nothing():
    policy, plain = small_policy(lora=LORA), small_policy()
    batch = random_sequences(policy)
    policy.merge_adapters()
    work = [booked(each, lambda each=each: each.token_logprobs(*batch)) for each in (policy, plain)]
    assert work[0] == work[1]


def test_counts_add_up_by_hand():
    counts = FlopCounts(
        token=Cost(forward=10, backward=20, recomputed=9),
        pair=Cost(forward=3, backward=6, recomputed=3),
        position=Cost(forward=100, backward=200, recomputed=0),
    )
    done = ModelPass(rows=2, queries=4, keys=5, projected=3, reprojected=3)
    assert counts.forward(done) == 8 * 10 + 40 * 3 + 3 * 100
    backward = 8 * 20 + 40 * 6 + 3 * 200 + 3 * 100
    assert counts.backward(done, recomputes_blocks=False) == backward
    assert counts.backward(done, recomputes_blocks=True) == backward + 8 * 9 + 40 * 3
