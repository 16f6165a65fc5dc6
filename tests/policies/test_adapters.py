from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from dmpo.errors import CheckpointError
from dmpo.policies.adapters import LORA_TARGETS, LoraSettings
from dmpo.policies.llada import LladaConfig, LladaPolicy
from tests.policies.builders import random_sequences, small_policy, trained_lora_policy


def adapters(policy):
    return {n: p for n, p in policy.module.named_parameters() if ".lora_" in n}


def test_defaults_are_those_of_the_published_runs():
    settings = LoraSettings()
    assert (settings.rank, settings.alpha, settings.dropout) == (128, 64.0, 0.05)
    assert settings.targets == "paper"
    assert LORA_TARGETS["paper"] == ("q_proj", "k_proj", "v_proj", "up_proj")
    assert len(LORA_TARGETS["all"]) == 7


def test_update_is_scaled_by_alpha_over_rank():
    policy = small_policy(lora={})
    layer = policy.module.causal_lm.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 0.5
    assert layer.lora_dropout["default"].p == 0.05


@pytest.mark.parametrize("targets", ["paper", "all"])
def test_description_names_the_targets(targets):
    policy = trained_lora_policy(lora={"targets": targets})
    assert f"in adapters ({targets} targets)" in policy.describe()


def test_adapters_stay_in_float32_over_a_base_in_half_precision(tmp_path):
    policy = trained_lora_policy(dtype="bfloat16")
    trained = adapters(policy)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for n, p in policy.module.named_parameters() if n not in trained} == {
        torch.bfloat16
    }
    policy.save(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_gradients_of_adapters_over_half_precision_are_float32():
    policy = trained_lora_policy(dtype="bfloat16", gradient_checkpointing=True)
    policy.token_logprobs(*random_sequences(policy)).sum().backward()
    for parameter in adapters(policy).values():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("targets", ["paper", "all"])
def test_merged_policy_answers_as_the_adapted_one(targets):
    policy = trained_lora_policy(lora={"targets": targets})
    batch = random_sequences(policy)
    with policy.evaluating():
        before = policy.token_logprobs(*batch)
        policy.merge_adapters()
        after = policy.token_logprobs(*batch)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_merged_policy_is_saved_under_the_official_names(tmp_path):
    small_policy().save(tmp_path / "base")
    policy = trained_lora_policy()
    policy.merge_adapters()
    policy.save(tmp_path / "merged")
    base = load_file(tmp_path / "base" / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert base.keys() == merged.keys()
    changed = {n.split(".")[-2] for n in base if not torch.equal(base[n], merged[n])}
    assert changed == set(LORA_TARGETS["paper"])
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    LladaPolicy(LladaConfig(model=str(tmp_path / "merged")))


def test_merged_weights_keep_the_precision_of_the_base(tmp_path):
    policy = trained_lora_policy(dtype="bfloat16")
    policy.merge_adapters()
    policy.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_merging_without_adapters_changes_nothing():
    policy = small_policy()
    before = {name: value.clone() for name, value in policy.module.state_dict().items()}
    policy.merge_adapters()
    after = policy.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_merging_adapters_that_are_not_finite_is_refused():
    policy = trained_lora_policy()
    with torch.no_grad():
        next(iter(adapters(policy).values())).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="adapters cannot be merged"):
        policy.merge_adapters()


def test_merged_policy_trains_every_weight():
    policy = trained_lora_policy()
    policy.merge_adapters()
    assert policy.num_trainable_parameters == policy.num_parameters
