"""The entropy of the distribution that each token was drawn from (DMPO, Appendix C.3)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.registry import SAMPLERS
from dmpo.samplers import draw
from dmpo.samplers.block_loop import BlockSamplerConfig, fill_canvas
from dmpo.samplers.draw import entropies_at
from dmpo.samplers.forward import PlainForward
from tests.samplers.policies import RandomPolicy, make_prompts, seeded
from tests.samplers.test_block_loop import SecondThoughtsRule

SETTINGS = {
    "roar": {"tokens_per_step": 2},
    "low_confidence": {"steps": 3},
    "entropy_bound": {"gamma": 0.5},
    "factor": {},
}


def entropy(logits: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Categorical(logits=logits.double()).entropy()


def replayed(policy: RandomPolicy, rollouts) -> torch.Tensor:
    """Return the entropies of the canvas as it stood before each step, asked row by row."""
    steps, tokens = rollouts.commit_step.flatten(0, 1), rollouts.completions.flatten(0, 1)
    prompts = rollouts.prompts.tokens.repeat_interleave(rollouts.num_rollouts, dim=0)
    mask = rollouts.prompts.attention_mask.repeat_interleave(rollouts.num_rollouts, dim=0)
    result = torch.zeros(steps.shape, dtype=torch.float64)
    for row, column in torch.cartesian_prod(*map(torch.arange, steps.shape)).tolist():
        hidden = steps[row] >= steps[row, column]
        canvas = tokens[row].masked_fill(hidden, policy.mask_token_id)
        whole = torch.cat([prompts[row], canvas])[None]
        seen = torch.cat([mask[row], torch.ones_like(hidden)])[None]
        at = torch.tensor([[prompts.shape[1] + column]])
        with policy.evaluating():
            result[row, column] = entropy(policy.logits(whole, seen, at)[0, 0])
    return result.reshape(rollouts.commit_step.shape)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    name=st.sampled_from(sorted(SETTINGS)),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_entropies_are_those_of_the_untempered_logits_at_the_step_that_commits(
    seed, name, temperature
):
    policy = RandomPolicy(seed=seed, scale=1.0)
    config = {"gen_length": 6, "block_length": 3, "temperature": temperature, **SETTINGS[name]}
    if name == "low_confidence":
        config["steps"] = 4
    rollouts = SAMPLERS.build(name, config).sample(
        policy, make_prompts(policy, "1 2 3", "4"), num_rollouts=2, generator=seeded(seed)
    )
    torch.testing.assert_close(
        rollouts.entropies.double(), replayed(policy, rollouts), atol=2e-6, rtol=2e-5
    )


def test_a_token_that_is_revoked_gets_the_entropy_of_its_last_draw():
    policy = RandomPolicy()
    kept: list[torch.Tensor] = []
    plain = policy.logits

    def remembering(tokens, attention_mask, at):
        kept.append(plain(tokens, attention_mask, at))
        return kept[-1]

    policy.logits = remembering
    rollouts = fill_canvas(
        policy,
        make_prompts(policy, "1"),
        SecondThoughtsRule(),
        PlainForward(policy),
        BlockSamplerConfig(gen_length=4),
        num_rollouts=1,
        generator=seeded(),
    )
    first, second, third = (entropy(logits[0]) for logits in kept)
    expected = torch.stack([third[0], second[1], third[2], second[3]])
    torch.testing.assert_close(rollouts.entropies[0, 0].double(), expected, atol=1e-6, rtol=1e-5)
    assert not torch.isclose(rollouts.entropies[0, 0, 0].double(), first[0])


def test_tokens_that_stop_at_eos_fills_in_have_no_entropy():
    policy = RandomPolicy(scale=0.5)
    config = {"gen_length": 6, "block_length": 2, "stop_at_eos": True}
    rollouts = SAMPLERS.build("roar", config).sample(
        policy, make_prompts(policy, "1 2", "3"), num_rollouts=8, generator=seeded()
    )
    ended = (rollouts.completions[..., :2] == policy.eos_token_id).any(-1)
    assert ended.any()
    assert (rollouts.entropies[ended][:, 2:] == 0).all()
    assert (rollouts.entropies[..., :2] > 0).all()


def test_wino_has_the_entropy_of_the_draft_it_keeps():
    policy = RandomPolicy(seed=3)
    sampler = SAMPLERS.build("wino", {"gen_length": 8, "threshold": 0.3, "threshold_back": 0.5})
    rollouts = sampler.sample(
        policy, make_prompts(policy, "1 2", "3"), num_rollouts=3, generator=seeded()
    )
    assert (rollouts.entropies > 0).all()


@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_entropies_do_not_depend_on_how_many_are_computed_at_once(chunk, monkeypatch):
    monkeypatch.setattr(draw, "CHUNK_ELEMENTS", chunk)
    logits = 5 * torch.randn(3, 4, 11, generator=seeded())
    where = torch.rand(3, 4, generator=seeded()) < 0.6
    torch.testing.assert_close(
        entropies_at(logits, where)[where].double(), entropy(logits[where]), atol=1e-6, rtol=1e-5
    )


def test_a_token_that_is_impossible_adds_nothing_to_the_entropy():
    logits = torch.tensor([[[0.0, 0.0, -torch.inf], [5.0, -torch.inf, -torch.inf]]])
    found = entropies_at(logits, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0]]).log())


def test_entropy_is_near_zero_where_one_token_is_certain():
    logits = torch.tensor([[[200.0, 0.0, 0.0]]])
    assert float(entropies_at(logits, torch.ones(1, 1, dtype=torch.bool))) == pytest.approx(0)
