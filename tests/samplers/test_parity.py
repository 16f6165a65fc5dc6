"""The official samplers' tokens, on the official layout's tiny model, at temperature 0."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.records import Example, Prompts
from dmpo.samplers.block_loop import BlockSamplerConfig, fill_canvas
from dmpo.samplers.forward import PlainForward
from dmpo.samplers.low_confidence import LowConfidenceConfig, LowConfidenceSampler
from tests.oracles.samplers import logits_of, replay_path
from tests.paths import FIXTURES, needs_fixtures
from tests.samplers.policies import seeded
from tests.samplers.test_block_loop import ThresholdRule

pytestmark = needs_fixtures

SCHEDULED = [
    "llada_blocks",
    "llada_one_block",
    "llada_uneven_steps",
    "llada_uneven_steps_remainder",
    "llada_cfg",
    "pd_fixed",
    "pd_fixed_one_block",
]
OURS = {"steps", "gen_length", "block_length", "cfg_scale", "temperature"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    copy = tmp_path_factory.mktemp("model") / "llada_tiny"
    shutil.copytree(FIXTURES / "llada_tiny", copy)
    tokenizer = Tokenizer(WordLevel({f"t{token}": token for token in range(160)}, unk_token="t0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(copy / "tokenizer.json"))
    return copy


@pytest.fixture(scope="module")
def policy(directory):
    return LladaPolicy(LladaConfig(model=str(directory)))


@pytest.fixture(scope="module")
def recorded():
    cases = json.loads((FIXTURES / "samplers" / "cases.json").read_text())
    arguments = {case["name"]: case for case in cases["cases"]}
    return arguments, load_file(FIXTURES / "samplers" / "cases.safetensors")


def prompts_of(tokens, attention_mask=None) -> Prompts:
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
    examples = tuple(Example(prompt="") for _ in tokens)
    return Prompts(examples=examples, tokens=tokens, attention_mask=mask.bool())


@pytest.mark.parametrize("name", SCHEDULED)
def test_low_confidence_equals_the_official_sampler(policy, recorded, name):
    case, tensors = recorded[0][name], recorded[1]
    config = {key: value for key, value in case["arguments"].items() if key in OURS}
    rollouts = LowConfidenceSampler(LowConfidenceConfig(**config)).sample(
        policy, prompts_of(tensors[f"{name}.prompt_ids"]), num_rollouts=1, generator=seeded()
    )
    length = config["gen_length"]
    assert rollouts.completions[:, 0].equal(tensors[f"{name}.output_ids"][:, -length:])
    assert rollouts.commit_step[:, 0].equal(tensors[f"{name}.commit_forward"])
    assert rollouts.num_forwards == case["forward_calls"]


@pytest.mark.parametrize("name", ["pd_threshold_0.9", "pd_threshold_0.5"])
def test_loop_with_a_threshold_rule_equals_the_official_sampler(policy, recorded, name):
    case, tensors = recorded[0][name], recorded[1]
    arguments = case["arguments"]
    lengths = {key: arguments[key] for key in ("gen_length", "block_length")}
    rollouts = fill_canvas(
        policy,
        prompts_of(tensors[f"{name}.prompt_ids"]),
        ThresholdRule(arguments["threshold_pd"]),
        PlainForward(policy),
        BlockSamplerConfig(**lengths, temperature=0),
        num_rollouts=1,
        generator=seeded(),
    )
    expected = tensors[f"{name}.output_ids"][:, -lengths["gen_length"] :]
    assert rollouts.completions[:, 0].equal(expected)
    assert rollouts.num_forwards == case["forward_calls"]


def test_padded_batch_equals_the_official_sampler_that_honours_the_mask(policy):
    tensors = load_file(FIXTURES / "samplers" / "padded.safetensors")
    config = LowConfidenceConfig(gen_length=16, block_length=8, steps=16, temperature=0)
    prompts = prompts_of(tensors["prompt_ids"], tensors["attention_mask"])
    rollouts = LowConfidenceSampler(config).sample(
        policy, prompts, num_rollouts=1, generator=seeded()
    )
    assert rollouts.completions[:, 0].equal(tensors["output_ids"][:, -16:])
    assert rollouts.num_forwards == 16
    assert not rollouts.completions[:, 0].equal(tensors["output_ids_mask_ignored"][:, -16:])


def test_replay_of_an_official_path_gives_its_log_probs(directory, tmp_path):
    """Ties the oracle that our recorded log-probabilities are compared with to the official."""
    shutil.copytree(directory, tmp_path / "old")
    save_file(
        load_file(FIXTURES / "llada_tiny" / "old.safetensors"),
        tmp_path / "old" / "model.safetensors",
        metadata={"format": "pt"},
    )
    old = LladaPolicy(LladaConfig(model=str(tmp_path / "old")))
    path = load_file(FIXTURES / "losses" / "roar_path.safetensors")
    keys = ("prompt_ids", "completion_ids", "commit_step", "log_prob_old")
    for prompt, *row, expected in zip(*(path[key].tolist() for key in keys), strict=True):
        log_probs = replay_path(logits_of(old, len(prompt)), prompt, *row, 159, 1.0)
        assert log_probs == pytest.approx(expected, abs=2e-4)
