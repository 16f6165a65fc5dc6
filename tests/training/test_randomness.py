from __future__ import annotations

import itertools

import torch

from dmpo.training.randomness import generator_for, seed_for, seeded_dropout


def test_generators_of_the_same_four_facts_agree() -> None:
    first, again = (torch.rand(5, generator=generator_for(1, 0, 7, "draw")) for _ in range(2))
    assert torch.equal(first, again)


def test_every_seed_rank_step_and_purpose_has_a_stream_of_its_own() -> None:
    facts = list(itertools.product(range(3), range(3), range(20), ("rollout", "draw", "prepare")))
    draws = {torch.rand(1, generator=generator_for(*fact)).item() for fact in facts}
    assert len({seed_for(*fact) for fact in facts}) == len(facts)
    assert len(draws) > 0.99 * len(facts)


def test_streams_of_neighbouring_steps_are_uncorrelated() -> None:
    rows = torch.stack([torch.randn(2000, generator=generator_for(0, 0, s, "x")) for s in (0, 1)])
    assert torch.corrcoef(rows)[0, 1].abs() < 0.1


def test_seeded_dropout_repeats_and_leaves_the_global_stream_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded_dropout(5, torch.device("cpu")):
        first = torch.nn.functional.dropout(torch.ones(50))
    assert torch.equal(torch.rand(4), expected)
    with seeded_dropout(5, torch.device("cpu")):
        assert torch.equal(torch.nn.functional.dropout(torch.ones(50)), first)
