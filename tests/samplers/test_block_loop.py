from __future__ import annotations

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

from dmpo.errors import ConfigError, PluginError
from dmpo.registry import SAMPLERS
from dmpo.samplers.block_loop import (
    BlockSamplerConfig,
    BlockState,
    Proposal,
    UnmaskingRule,
    fill_canvas,
)
from dmpo.samplers.canvas import through_first_eos
from dmpo.samplers.forward import PlainForward
from dmpo.samplers.low_confidence import LowConfidenceRule
from dmpo.samplers.random_order import RandomOrderRule
from dmpo.samplers.threshold import ThresholdRule
from tests.samplers.policies import RandomPolicy, make_prompts, seeded


class SecondThoughtsRule(UnmaskingRule):
    """Reveals everything, then hides it again, then reveals it for good."""

    sees_tokens = True

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        return torch.ones_like(state.hidden)

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        half = torch.arange(proposal.tokens.shape[1]) % 2 == 0
        return proposal.valid & (
            half if proposal.step == 0 else ~half if proposal.step == 1 else True
        )


class HesitantRule(UnmaskingRule):
    """Reveals one token in each step, none in step 2, where it may also ask for nothing."""

    sees_tokens = False

    def __init__(self, *, asks: bool) -> None:
        self.asks = asks

    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        return state.hidden & (self.asks or state.step < 2)

    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        first = torch.arange(proposal.tokens.shape[1]) == 0
        return proposal.valid & first & (proposal.step < 2)


def fill(policy, prompts, rule, *, num_rollouts=1, seed=0, **settings):
    return fill_canvas(
        policy,
        prompts,
        rule,
        PlainForward(policy),
        BlockSamplerConfig(**settings),
        num_rollouts=num_rollouts,
        generator=seeded(seed),
    )


def test_rows_that_reveal_different_numbers_take_as_many_passes_as_the_slowest():
    policy = RandomPolicy(seed=2)
    prompts = make_prompts(policy, "1 2 3", "4", "5 1")
    rollouts = fill(policy, prompts, ThresholdRule(0.6), gen_length=8, temperature=0)
    per_row = rollouts.commit_step[:, 0].amax(-1) + 1
    assert per_row.unique().numel() > 1
    assert rollouts.num_forwards == int(per_row.max()) == len(policy.asked)


def test_rule_may_hide_what_it_revealed():
    policy = RandomPolicy()
    rollouts = fill(policy, make_prompts(policy, "1"), SecondThoughtsRule(), gen_length=4)
    second, third = policy.asked[1][0][0, 1:], policy.asked[2][0][0, 1:]
    assert (second == policy.mask_token_id).tolist() == [False, True, False, True]
    assert (third == policy.mask_token_id).tolist() == [True, False, True, False]
    assert rollouts.commit_step[0, 0].tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("asks", [True, False])
def test_rule_that_reveals_nothing_is_refused_by_name(asks):
    policy = RandomPolicy()
    prompts = make_prompts(policy, "1", "2")
    with pytest.raises(PluginError, match="HesitantRule revealed no token in step 2") as error:
        fill(policy, prompts, HesitantRule(asks=asks), gen_length=4)
    assert "\n" not in str(error.value)


def test_mask_token_that_is_drawn_counts_as_a_token():
    policy = RandomPolicy()
    policy.eos_token_id, plain = 1, policy.logits

    def mask_everywhere(tokens, attention_mask, at):
        logits = plain(tokens, attention_mask, at)
        logits[..., policy.mask_token_id] = 1e4
        return logits

    policy.logits = mask_everywhere
    rollouts = fill(policy, make_prompts(policy, "1"), LowConfidenceRule((1,) * 4), gen_length=4)
    assert rollouts.completions.tolist() == [[[policy.mask_token_id] * 4]]
    assert rollouts.num_forwards == 4


@pytest.mark.parametrize("name", ["low_confidence", "random", "roar"])
def test_logits_are_asked_only_where_the_current_block_is_hidden(name):
    policy = RandomPolicy()
    sampler = SAMPLERS.build(name, {"gen_length": 8, "block_length": 4})
    prompts = make_prompts(policy, "1 2", "3")
    sampler.sample(policy, prompts, num_rollouts=2, generator=seeded())
    assert len(policy.asked) == 8
    for index, (tokens, _, at) in enumerate(policy.asked):
        block = 2 + 4 * (index // 4)
        assert ((at >= block) & (at < block + 4)).all()
        assert (tokens.gather(1, at) == policy.mask_token_id).all()


@pytest.mark.parametrize(("name", "slots"), [("low_confidence", 4 + 3 + 2 + 1), ("roar", 4)])
def test_logits_are_asked_no_more_often_than_needed(name, slots):
    policy = RandomPolicy()
    sampler = SAMPLERS.build(name, {"gen_length": 4})
    sampler.sample(policy, make_prompts(policy, "1", "2"), num_rollouts=1, generator=seeded())
    assert sum(at.shape[1] for _, _, at in policy.asked) == slots


def test_num_forwards_and_commit_steps_agree_with_the_calls():
    policy = RandomPolicy()
    rollouts = fill(
        policy, make_prompts(policy, "1"), RandomOrderRule((2, 1)), gen_length=6, block_length=3
    )
    assert rollouts.num_forwards == len(policy.asked) == 4
    assert sorted(rollouts.commit_step[0, 0, :3].tolist()) == [0, 0, 1]
    assert sorted(rollouts.commit_step[0, 0, 3:].tolist()) == [2, 2, 3]


def test_row_that_has_filled_its_block_takes_part_in_no_further_pass_of_it():
    policy = RandomPolicy(seed=2)
    prompts = make_prompts(policy, "1 2 3", "4", "5 1")
    rollouts = fill(policy, prompts, ThresholdRule(0.6), gen_length=8, temperature=0)
    passes_of_row = rollouts.commit_step[:, 0].amax(-1) + 1
    assert sum(len(tokens) for tokens, _, _ in policy.asked) == int(passes_of_row.sum())


def test_row_ends_with_a_finished_block_that_has_an_eos():
    policy = RandomPolicy(scale=0.5)
    prompts = make_prompts(policy, "1 2", "3")
    rollouts = fill(
        policy,
        prompts,
        RandomOrderRule((1, 1)),
        num_rollouts=8,
        gen_length=6,
        block_length=2,
        stop_at_eos=True,
    )
    rows, steps = rollouts.completions.flatten(0, 1), rollouts.commit_step.flatten(0, 1)
    ended = (rows[:, :2] == policy.eos_token_id).any(dim=1)
    assert 0 < ended.sum() < len(rows)
    assert (rows[ended, 2:] == policy.eos_token_id).all()
    assert (steps[ended, 2:] == 1).all()
    assert len(policy.asked[2][0]) == int((~ended).sum())
    assert rollouts.log_probs is None


def test_every_row_may_end_before_the_canvas_does():
    policy = RandomPolicy()
    plain = policy.logits

    def always_eos(tokens, attention_mask, at):
        logits = plain(tokens, attention_mask, at)
        logits[..., policy.eos_token_id] = 1e4
        return logits

    policy.logits = always_eos
    rule = RandomOrderRule((2,))
    rollouts = fill(
        policy, make_prompts(policy, "1"), rule, gen_length=8, block_length=2, stop_at_eos=True
    )
    assert rollouts.num_forwards == 1
    assert rollouts.completions.tolist() == [[[policy.eos_token_id] * 8]]


def test_watcher_is_told_of_the_canvas_before_and_after_each_step():
    policy, seen = RandomPolicy(), []
    fill_canvas(
        policy,
        make_prompts(policy, "1", "2 3"),
        RandomOrderRule((2, 1)),
        PlainForward(policy),
        BlockSamplerConfig(gen_length=3),
        num_rollouts=1,
        generator=seeded(),
        on_step=lambda shot: seen.append((int(shot.hidden.sum()), shot.num_forwards)),
    )
    assert seen == [(6, 0), (2, 1), (0, 2)]


def test_rollouts_lie_group_by_group():
    policy = RandomPolicy()
    prompts = make_prompts(policy, "1 2", "3")
    rollouts = fill(policy, prompts, RandomOrderRule((1,) * 4), num_rollouts=3, gen_length=4)
    tokens = policy.asked[0][0].reshape(2, 3, -1)
    assert (tokens[:, :, :2] == prompts.tokens[:, None]).all()
    assert rollouts.completions.shape == (2, 3, 4)
    decoded = policy.decode(rollouts.completions.flatten(0, 1))
    assert [text for group in rollouts.texts for text in group] == decoded


def test_padding_stays_masked_out():
    policy = RandomPolicy()
    fill(policy, make_prompts(policy, "1 2", "3"), RandomOrderRule((1,) * 3), gen_length=3)
    for _, attention_mask, _ in policy.asked:
        assert attention_mask.tolist() == [[True] * 5, [False] + [True] * 4]


@pytest.mark.parametrize("name", ["low_confidence", "random", "roar"])
def test_generator_decides_everything(name):
    policy = RandomPolicy(scale=0.5)
    sampler = SAMPLERS.build(name, {"gen_length": 8, "block_length": 4})
    prompts = make_prompts(policy, "1 2", "3")
    one, same, other = (
        sampler.sample(policy, prompts, num_rollouts=2, generator=seeded(seed)).completions
        for seed in (1, 1, 2)
    )
    assert one.equal(same)
    assert not one.equal(other)


def test_answer_ends_with_the_first_eos():
    tokens = torch.tensor([[5, 0, 3, 0], [0, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 0]])
    expected = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert through_first_eos(tokens, 0).long().tolist() == expected


def test_answer_mask_follows_the_policys_eos():
    policy = RandomPolicy()
    policy.eos_token_id = 2
    rollouts = fill(
        policy, make_prompts(policy, "1"), RandomOrderRule((6,)), num_rollouts=20, gen_length=6
    )
    assert (rollouts.completions == 2).any()
    assert rollouts.answer_mask.equal(through_first_eos(rollouts.completions, 2))


def test_canvas_beyond_the_context_is_refused():
    policy = RandomPolicy()
    with pytest.raises(ConfigError, match=r"gen_length: 63 behind a prompt of 2 .* leaves 62"):
        fill(policy, make_prompts(policy, "1 2"), RandomOrderRule((63,)), gen_length=63)


def test_padding_does_not_count_towards_the_context():
    policy = RandomPolicy()
    policy.max_length = 6
    prompts = make_prompts(policy, "1 2 3", "1 2")
    rollouts = fill(policy, prompts, RandomOrderRule((3,)), gen_length=3)
    assert rollouts.completions.shape == (2, 1, 3)


def test_no_rollouts_are_refused():
    policy = RandomPolicy()
    with pytest.raises(ConfigError, match="num_rollouts: 0 given; at least 1"):
        fill(policy, make_prompts(policy, "1"), RandomOrderRule((2,)), num_rollouts=0, gen_length=2)


BAD_SETTINGS = [
    ("roar", {"gen_length": 9, "block_length": 4}, "length 4 does not divide gen_length 9"),
    ("roar", {"gen_length": 8, "block_length": 2, "tokens_per_step": 3}, "3 exceeds .* 2 tok"),
    ("roar", {"gen_length": 0}, r"sampler\.gen_length: .* given 0"),
    ("roar", {"gen_length": 8, "steps": 4}, r"sampler\.steps: unknown key .*tokens_per_step"),
    ("random", {}, r"sampler\.gen_length: required"),
    ("random", {"gen_length": 8, "block_length": 4, "steps": 3}, "steps 3 .* over 2 blocks"),
    ("low_confidence", {"gen_length": 8, "steps": 9}, "steps 9 exceed gen_length 8"),
    ("low_confidence", {"gen_length": 8, "cfg_scale": -1}, r"sampler\.cfg_scale: .* -1"),
    ("low_confidence", {"gen_length": 8, "temperature": -1}, r"sampler\.temperature: .* -1"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        SAMPLERS.config(name, settings)
    assert "\n" not in str(error.value)
