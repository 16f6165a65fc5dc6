from __future__ import annotations

import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dmpo.errors import CheckpointError, ConfigError, DataError
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.locate import packaged_directory
from dmpo.records import Example
from dmpo.registry import POLICIES
from tests.paths import FIXTURES, needs_fixtures
from tests.policies.builders import random_sequences, small_policy, trained_lora_policy


def state(policy):
    return {name: value.clone() for name, value in policy.module.state_dict().items()}


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def perturb(policy):
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.ones_like(parameter).cumsum(-1).sin())


def edited_checkpoint(tmp_path, **changes):
    """Save a small policy and rewrite keys of its config.json; None deletes one."""
    small_policy().save(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return LladaConfig(model=str(tmp_path))


def test_llada_is_registered_and_final():
    assert POLICIES.load("llada") is LladaPolicy
    assert issubclass(LladaPolicy, DiffusionPolicy)
    assert LladaPolicy.__final__


def test_one_seed_builds_one_model_and_leaves_the_global_stream_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, other = small_policy(), small_policy()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert equal_states(state(one), state(other))
    assert not equal_states(state(one), state(small_policy(shape={"seed": 1})))


def test_saved_policy_is_read_back_exactly(tmp_path):
    policy = small_policy()
    policy.save(tmp_path)
    again = LladaPolicy(LladaConfig(model=str(tmp_path)))
    batch = random_sequences(policy)
    assert torch.equal(policy.token_logprobs(*batch), again.token_logprobs(*batch))
    ids = [(p.mask_token_id, p.eos_token_id, p.pad_token_id) for p in (policy, again)]
    assert ids[0] == ids[1]
    example = [Example(prompt="1+1=\n")]
    assert torch.equal(policy.encode(example).tokens, again.encode(example).tokens)


def test_load_weights_reads_in_place(tmp_path):
    policy, other = small_policy(), small_policy(shape={"seed": 1})
    policy.save(tmp_path)
    pointers = [parameter.data_ptr() for parameter in other.module.parameters()]
    other.load_weights(tmp_path)
    assert equal_states(state(policy), state(other))
    assert [parameter.data_ptr() for parameter in other.module.parameters()] == pointers


def test_load_weights_refuses_another_shape(tmp_path):
    small_policy(shape={"d_model": 16}).save(tmp_path)
    with pytest.raises(CheckpointError, match="of shape"):
        small_policy().load_weights(tmp_path)


@pytest.mark.parametrize("make", [small_policy, trained_lora_policy])
def test_load_weights_refuses_an_empty_directory(make, tmp_path):
    with pytest.raises(CheckpointError, match="there"):
        make().load_weights(tmp_path)


def test_adapter_is_saved_alone_and_read_back_exactly(tmp_path):
    policy = trained_lora_policy()
    policy.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    fresh = small_policy(lora={"rank": 4, "alpha": 8.0, "dropout": 0.0})
    assert not equal_states(state(policy), state(fresh))
    fresh.load_weights(tmp_path)
    assert equal_states(state(policy), state(fresh))


def test_adapter_names_its_base_and_nothing_else(tmp_path):
    trained_lora_policy().save(tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == "tiny"


@pytest.mark.parametrize("other", [{"rank": 2}, {"targets": "all"}])
def test_adapter_of_another_shape_is_refused(other, tmp_path):
    trained_lora_policy(lora=other).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"the adapter there has other|another rank"):
        trained_lora_policy().load_weights(tmp_path)


@pytest.mark.parametrize(("targets", "modules"), [("paper", 4), ("all", 7)])
def test_lora_trains_adapters_of_its_targets_alone(targets, modules):
    policy = trained_lora_policy(lora={"targets": targets})
    named = policy.module.named_parameters()
    trained = [name for name, parameter in named if parameter.requires_grad]
    assert len(trained) == modules * 2 * 2
    assert all("lora_" in name for name in trained)


def test_new_adapters_change_nothing():
    plain, adapted = small_policy(), small_policy(lora={"rank": 4, "dropout": 0.0})
    batch = random_sequences(plain)
    torch.testing.assert_close(plain.token_logprobs(*batch), adapted.token_logprobs(*batch))


def test_adapters_are_drawn_from_their_seed_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, other = small_policy(lora={}), small_policy(lora={})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert equal_states(state(one), state(other))
    assert not equal_states(state(one), state(small_policy(lora={"seed": 1})))


def test_reference_of_full_fine_tuning_is_the_frozen_copy():
    policy = small_policy()
    batch = random_sequences(policy)
    at_freeze = policy.token_logprobs(*batch).detach()
    policy.freeze_reference()
    perturb(policy)
    current = policy.token_logprobs(*batch).detach()
    with policy.reference():
        reference = policy.token_logprobs(*batch)
    assert torch.equal(reference, at_freeze)
    assert not reference.requires_grad
    assert not torch.equal(current, at_freeze)
    assert torch.equal(policy.token_logprobs(*batch), current)


def test_reference_under_lora_is_the_base_model():
    policy, base = trained_lora_policy(), small_policy()
    batch = random_sequences(policy)
    before = policy.token_logprobs(*batch).detach()
    flags = [parameter.requires_grad for parameter in policy.module.parameters()]
    policy.freeze_reference()
    with policy.reference():
        reference = policy.token_logprobs(*batch)
    assert torch.equal(reference, base.token_logprobs(*batch))
    assert not torch.equal(reference, before)
    assert torch.equal(policy.token_logprobs(*batch), before)
    assert [parameter.requires_grad for parameter in policy.module.parameters()] == flags


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_reference_takes_no_gradient_even_with_recomputation(lora):
    policy = small_policy(lora=lora, gradient_checkpointing=True)
    policy.freeze_reference()
    with policy.reference():
        assert not policy.token_logprobs(*random_sequences(policy)).requires_grad


def test_reference_under_lora_restores_frozen_adapters():
    policy = trained_lora_policy()
    policy.module.requires_grad_(False)
    with policy.reference():
        pass
    assert not any(parameter.requires_grad for parameter in policy.module.parameters())


@pytest.mark.parametrize("make", [small_policy, trained_lora_policy])
def test_reference_is_left_when_its_body_raises(make):
    policy = make()
    policy.freeze_reference()
    perturb(policy)
    batch = random_sequences(policy)
    before = policy.token_logprobs(*batch).detach()
    with pytest.raises(RuntimeError, match="body"), policy.reference():
        raise RuntimeError("body")
    assert torch.equal(policy.token_logprobs(*batch), before)


def test_reference_that_was_never_frozen_is_refused():
    with pytest.raises(ConfigError, match="freeze_reference"), small_policy().reference():
        pass


def test_evaluating_has_neither_dropout_nor_gradient():
    policy = trained_lora_policy(lora={"dropout": 0.5})
    batch = random_sequences(policy)
    noisy = [policy.token_logprobs(*batch) for _ in range(2)]
    assert not torch.equal(*noisy)
    with policy.evaluating():
        quiet = [policy.token_logprobs(*batch) for _ in range(2)]
    assert torch.equal(*quiet)
    assert not quiet[0].requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_every_mode(training):
    policy = trained_lora_policy()
    policy.module.train(training)
    next(iter(policy.module.causal_lm.model.layers)).train(not training)
    before = [module.training for module in policy.module.modules()]
    with policy.evaluating():
        assert not any(module.training for module in policy.module.modules())
    assert [module.training for module in policy.module.modules()] == before


def test_wrapped_module_is_the_one_that_runs():
    policy = small_policy()
    batch = random_sequences(policy)
    before = policy.token_logprobs(*batch)
    calls = []

    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            calls.append(1)
            return self.inner(*args, **kwargs)

    policy.module = Wrapper(policy.module)
    assert torch.equal(policy.token_logprobs(*batch), before)
    assert calls == [1]


@pytest.mark.parametrize("lora", [None, {"rank": 4, "dropout": 0.0}])
def test_gradient_checkpointing_changes_no_gradient(lora):
    plain = small_policy(lora=lora)
    saving = small_policy(lora=lora, gradient_checkpointing=True)
    batch = random_sequences(plain)
    for policy in (plain, saving):
        policy.token_logprobs(*batch).sum().backward()
    for one, other in zip(plain.module.parameters(), saving.module.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad)


def test_gradient_checkpointing_recomputes_the_blocks():
    policy = small_policy(gradient_checkpointing=True)
    calls = []
    norm = policy.module.causal_lm.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append(1))
    policy.token_logprobs(*random_sequences(policy)).sum().backward()
    assert len(calls) == 2


def test_half_precision_weights_give_float32_results():
    policy = small_policy(dtype="bfloat16")
    batch = random_sequences(policy)
    assert next(policy.module.parameters()).dtype == torch.bfloat16
    assert policy.token_logprobs(*batch).dtype == torch.float32
    at = torch.zeros(5, 1, dtype=torch.long)
    assert policy.logits(batch.noisy, batch.mask, at).dtype == torch.float32


def test_corrupt_writes_the_mask_token_at_where_only():
    policy = small_policy()
    tokens = torch.tensor([[1, 2, 3]])
    noisy = policy.corrupt(tokens, torch.tensor([[False, True, False]]))
    assert noisy.tolist() == [[1, policy.mask_token_id, 3]]
    assert tokens.tolist() == [[1, 2, 3]]


def test_meter_counts_positions_of_every_pass():
    policy = small_policy()
    batch = random_sequences(policy, padded=False)
    with policy.evaluating():
        policy.logits(batch.noisy, batch.mask, torch.zeros(5, 1, dtype=torch.long))
    assert policy.forward_tokens == 60


def test_sequence_beyond_the_context_is_refused():
    policy = small_policy(shape={"max_sequence_length": 8})
    batch = random_sequences(policy)
    with pytest.raises(DataError, match="12 tokens, longer than the model's context of 8"):
        policy.token_logprobs(*batch)


def test_temperature_zero_is_refused():
    policy = small_policy()
    with pytest.raises(ConfigError, match="greater than 0"):
        policy.token_logprobs(*random_sequences(policy), temperature=0.0)


@needs_fixtures
def test_official_checkpoint_with_wider_embedding_is_read(tmp_path):
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(FIXTURES / "llada_tiny" / file, tmp_path / file)
    small_policy().save(tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "tokenizer.json", tmp_path / "tokenizer.json")
    policy = LladaPolicy(LladaConfig(model=str(tmp_path)))
    assert policy.vocab_size == 192
    assert (policy.mask_token_id, policy.eos_token_id, policy.pad_token_id) == (159, 157, 157)
    numbers = load_file(FIXTURES / "llada_tiny" / "forward.safetensors")
    tokens, mask = numbers["padded.input_ids"], numbers["padded.attention_mask"].bool()
    at = torch.arange(tokens.shape[1]).expand(tokens.shape)
    logits = policy.logits(tokens, mask, at)
    torch.testing.assert_close(logits[mask], numbers["padded.logits"][mask], atol=2e-4, rtol=1e-4)
    assert policy.decode(torch.full((1, 3), 190)) == [""]


def test_ids_that_the_config_leaves_out_are_the_tokenizers(tmp_path):
    config = edited_checkpoint(tmp_path, mask_token_id=None, eos_token_id=None, pad_token_id=None)
    policy, expected = LladaPolicy(config), small_policy()
    assert policy.mask_token_id == expected.mask_token_id
    assert policy.eos_token_id == policy.pad_token_id == expected.eos_token_id


def test_ids_that_nobody_names_are_refused_where_the_published_ones_cannot_be(tmp_path):
    config = edited_checkpoint(tmp_path, mask_token_id=None)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mask_token": None}))
    with pytest.raises(CheckpointError, match="mask_token_id is missing") as caught:
        LladaPolicy(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "Dream"}, "model_type is 'Dream'; the llada policy accepts 'llada'"),
        ({"alibi": True}, "alibi is True"),
        ({"n_heads": 5}, "d_model 32 is no multiple of n_heads 5"),
        ({"n_heads": 0}, "n_heads must be a whole number above 0; given 0"),
        ({"max_sequence_length": "x"}, "max_sequence_length must be a whole number above 0"),
        ({"rope_theta": float("nan")}, "rope_theta must be a finite number above 0; given nan"),
        ({"eos_token_id": "x"}, "eos_token_id must be a token's number; given 'x'"),
        ({"n_layers": 3}, "9 missing tensors"),
        ({"n_layers": 1}, "9 unexpected tensors"),
        ({"mlp_hidden_size": 40}, r"mlp\.\w+\.weight has shape .*; by config\.json it has"),
        ({"mask_token_id": 4000}, "outside the vocabulary"),
        ({"mask_token_id": 94}, "are both 94"),
    ],
)
def test_config_of_another_model_is_one_clear_line(changes, message, tmp_path):
    if changes.get("mask_token_id") == 94:
        changes = {"mask_token_id": 94, "eos_token_id": 94}
    with pytest.raises(CheckpointError, match=message) as caught:
        LladaPolicy(edited_checkpoint(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_missing_file_is_named(file, message, tmp_path):
    small_policy().save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        LladaPolicy(LladaConfig(model=str(tmp_path)))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_file_is_one_clear_line(file, tmp_path):
    small_policy().save(tmp_path)
    (tmp_path / file).write_bytes(b"{ not this")
    with pytest.raises(CheckpointError) as caught:
        LladaPolicy(LladaConfig(model=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    small_policy().save(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state["model.transformer.ln_f.weight"][3] = float("nan")
    save_file(state, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds values that are not"):
        LladaPolicy(LladaConfig(model=str(tmp_path)))


def test_tokenizer_of_another_model_is_refused(tmp_path):
    small_policy().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["a"] = 5000
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="it has token 5000; the model has 98 rows"):
        LladaPolicy(LladaConfig(model=str(tmp_path)))


def test_path_that_is_not_there_is_refused():
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        LladaPolicy(LladaConfig(model="./no/such/place"))


def test_adapter_directory_is_not_a_model(tmp_path):
    trained_lora_policy().save(tmp_path)
    with pytest.raises(CheckpointError, match="holds an adapter"):
        LladaPolicy(LladaConfig(model=str(tmp_path)))


def test_revision_of_a_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no revisions"):
        LladaPolicy(LladaConfig(model=str(tmp_path), revision="main"))


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "x/y", "scratch": {}},
        {"revision": "main"},
        {"scratch": {"d_model": 30}},
        {"scratch": {"characters": "aa"}},
        {"logits_chunk": 0},
        {"lora": {"rank": 0}},
        {"lora": {"targets": "q_proj"}},
        {"remote_code": True},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValidationError):
        LladaConfig.model_validate(settings)


def test_config_survives_being_written_and_read():
    config = LladaConfig.model_validate({"scratch": {"d_model": 32}, "lora": {}})
    assert LladaConfig.model_validate(config.model_dump()) == config


def test_description_says_what_runs_and_what_trains():
    assert small_policy().describe() == "new LLaDA, 23.8k parameters, random weights"
    assert "trains 2.18k in adapters (paper targets)" in trained_lora_policy().describe()


def test_parameter_counts_are_those_of_the_shape():
    policy = small_policy()
    block = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert policy.num_parameters == 2 * block + 32 + 2 * 98 * 32
    assert policy.num_trainable_parameters == policy.num_parameters


def test_default_is_the_checkpoint_inside_the_package():
    policy = LladaPolicy(LladaConfig())
    assert policy.describe().startswith("tiny LLaDA")
    files = packaged_directory("tiny_llada").iterdir()
    assert sum(file.stat().st_size for file in files) <= 4 * 2**20
