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
from dmpo.samplers.factor import FactorConfig, FactorRule, FactorSampler
from dmpo.samplers.low_confidence import LowConfidenceConfig, LowConfidenceSampler
from dmpo.samplers.threshold import ThresholdConfig, ThresholdSampler, sure_enough
from dmpo.samplers.wino import WinoConfig, WinoSampler
from tests.oracles.samplers import logits_of, replay_path
from tests.paths import FIXTURES, needs_fixtures
from tests.samplers.policies import seeded

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


def fast_sampler(name, arguments):
    """Return our sampler for an official run with the given arguments."""
    kind = name.partition("_")[0]
    config = {key: arguments[key] for key in ("gen_length", "block_length", "temperature")}
    if kind == "wino":
        thresholds = {
            "threshold": arguments["threshold_wino"],
            "threshold_back": arguments["threshold_wino_back"],
        }
        return WinoSampler(WinoConfig(**config, **thresholds))
    config["cache"] = "none" if kind == "pd" else kind
    if "threshold_pd" in arguments:
        return ThresholdSampler(ThresholdConfig(**config, threshold=arguments["threshold_pd"]))
    if "factor" in arguments:
        return FactorSampler(FactorConfig(**config, factor=arguments["factor"], reference=True))
    return LowConfidenceSampler(LowConfidenceConfig(**config, steps=arguments["steps"]))


FAST = [
    f"{kind}_{rule}"
    for kind in ("pd", "prefix", "dual")
    for rule in (
        "fixed",
        "fixed_one_block",
        "threshold_0.9",
        "threshold_0.5",
        "factor_1",
        "factor_0.5",
    )
]


@pytest.mark.parametrize("name", FAST)
def test_fast_sampler_equals_the_official_one(policy, recorded, name):
    case, tensors = recorded[0][name], recorded[1]
    sampler = fast_sampler(name, case["arguments"])
    rollouts = sampler.sample(
        policy, prompts_of(tensors[f"{name}.prompt_ids"]), num_rollouts=1, generator=seeded()
    )
    length = sampler.config.gen_length
    assert rollouts.completions[:, 0].equal(tensors[f"{name}.output_ids"][:, -length:])
    assert rollouts.commit_step[:, 0].equal(tensors[f"{name}.commit_forward"])
    assert rollouts.num_forwards == case["forward_calls"]


@pytest.mark.parametrize("name", ["wino_default", "wino_one_block", "wino_low"])
def test_wino_equals_the_official_sampler_row_by_row_and_in_a_batch(policy, recorded, name):
    case, tensors = recorded[0][name], recorded[1]
    sampler = fast_sampler(name, case["arguments"])
    prompts, expected = tensors[f"{name}.prompt_ids"], tensors[f"{name}.output_ids"]
    length = sampler.config.gen_length
    together = sampler.sample(policy, prompts_of(prompts), num_rollouts=1, generator=seeded())
    assert together.completions[:, 0].equal(expected[:, -length:])
    for row, calls in enumerate(case["forward_calls"]):
        alone = sampler.sample(
            policy, prompts_of(prompts[row : row + 1]), num_rollouts=1, generator=seeded()
        )
        assert alone.completions[0].equal(expected[row : row + 1, -length:])
        assert alone.num_forwards == calls


def test_threshold_and_factor_reveal_what_the_official_rules_reveal():
    """Compared are the confidences revealed: which of two equal ones is chance."""
    for row in json.loads((FIXTURES / "samplers" / "rules.json").read_text())["rows"]:
        confidence = torch.tensor([row["confidences"]])
        valid = torch.ones_like(confidence, dtype=torch.bool)
        ours = {
            f"factor_{factor}_{name}": FactorRule(float(factor), reference=reference).safe(
                confidence, valid
            )
            for factor in (0.5, 1, 2)
            for reference, name in ((True, "official"), (False, "rule"))
        }
        for threshold in (0.6, 0.9):
            ours[f"threshold_{threshold}"] = sure_enough(confidence, valid, threshold)
        for name, chosen in ours.items():
            expected = confidence[0, row[name]].sort().values
            assert confidence[chosen].sort().values.equal(expected), name


@pytest.mark.parametrize("kind", ["prefix", "dual"])
def test_cached_logits_equal_the_official_ones_in_consecutive_steps(policy, kind):
    tensors = load_file(FIXTURES / "samplers" / "cache.safetensors")
    start, end, cache = 15, 23 if kind == "dual" else 31, policy.new_cache()
    everywhere = torch.arange(31).expand(2, -1)
    for step, positions in ((0, everywhere), (1, everywhere[:, start:end]), (2, None)):
        tokens = tensors[f"step{step}.input_ids"]
        at = everywhere[:, start:end] if positions is None else positions
        with policy.evaluating():
            logits = policy.cached_logits(
                tokens, torch.ones_like(tokens).bool(), at, cache=cache, window=(start, end)
            )
        expected = tensors["step0.full_logits" if step == 0 else f"step{step}.{kind}_logits"]
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


def test_logits_under_a_shadow_equal_the_official_ones(policy):
    tensors = load_file(FIXTURES / "samplers" / "wino_forward.safetensors")
    tokens = tensors["input_ids"]
    with policy.evaluating():
        logits = policy.attended_logits(
            tokens,
            torch.arange(tokens.shape[1])[None],
            position_ids=tensors["position_ids"],
            visible=tensors["attention_mask"][:, 0],
        )
    torch.testing.assert_close(logits, tensors["logits"], atol=2e-4, rtol=1e-4)


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
