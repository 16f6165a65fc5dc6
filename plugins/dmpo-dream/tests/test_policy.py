from __future__ import annotations

import json

import pytest
import torch
from dmpo_dream.policy import PUBLISHED, DreamPolicy, DreamPolicyConfig
from safetensors.torch import load_file, save_file

from dmpo.cli.main import main
from dmpo.errors import CheckpointError, ConfigError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example
from dmpo.registry import POLICIES

LORA = {"rank": 4, "alpha": 8.0, "dropout": 0.0}


def state(policy):
    return {name: value.clone() for name, value in policy.module.state_dict().items()}


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def random_rows(policy, *, seed=0):
    """Return four rows of 12, the first 0 to 3 of each padding, half of the rest hidden."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 60, (4, 12), generator=generator)
    mask = torch.arange(12) >= torch.arange(4).unsqueeze(1)
    targets = targets.masked_fill(~mask, policy.pad_token_id)
    where = (torch.rand(4, 12, generator=generator) < 0.5) & mask
    where[:, -1] = True
    return policy.corrupt(targets, where), mask, targets, where


def everywhere(tokens):
    return torch.arange(tokens.shape[1]).expand(tokens.shape)


def perturb(policy):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_dream_is_registered_and_final():
    assert POLICIES.load("dream") is DreamPolicy
    assert issubclass(DreamPolicy, DiffusionPolicy)
    assert DreamPolicy.__final__


def test_logits_are_those_of_the_token_at_their_position(official, official_files):
    numbers = load_file(official_files / "forward.safetensors")
    tokens, mask = numbers["input_ids"], torch.ones_like(numbers["input_ids"], dtype=torch.bool)
    logits = official.logits(tokens, mask, everywhere(tokens))
    expected = numbers["aligned_logits"]
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


def test_padded_logits_equal_the_official_ones_aligned(official, official_files):
    numbers = load_file(official_files / "forward.safetensors")
    tokens, mask = numbers["padded.input_ids"], numbers["padded.attention_mask"].bool()
    logits = official.logits(tokens, mask, everywhere(tokens))
    shifted = numbers["padded.logits_with_position_ids"].roll(1, dims=1)
    # The first real token of a row has no real token before it to speak for it.
    spoken_for = mask & mask.roll(1, dims=1)
    spoken_for[:, 0] = False
    torch.testing.assert_close(logits[spoken_for], shifted[spoken_for], atol=2e-4, rtol=1e-4)


def test_rows_padded_on_the_left_equal_the_rows_alone(official):
    noisy, mask, targets, where = random_rows(official)
    where[torch.arange(4), torch.arange(4)] = False  # a prompt's first token is never hidden
    with official.evaluating():
        scores = official.token_logprobs(noisy, mask, targets, where)
        everything = official.logits(noisy, mask, everywhere(noisy)).log_softmax(-1)
        for row in range(4):
            alone = [tensor[row : row + 1, row:] for tensor in (noisy, mask, targets, where)]
            single = official.logits(alone[0], alone[1], everywhere(alone[0])).log_softmax(-1)
            for together, apart in (
                (scores[row, row:], official.token_logprobs(*alone)[0]),
                (everything[row, row + 1 :], single[0, 1:]),
            ):
                torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_ids_are_the_configs_first(official):
    assert (official.mask_token_id, official.eos_token_id, official.pad_token_id) == (158, 155, 155)
    assert (official.vocab_size, official.max_length) == (160, 256)


def test_ids_that_the_config_leaves_out_are_the_tokenizers(broken, small):
    directory = broken(mask_token_id=None, eos_token_id=None, pad_token_id=None)
    policy, expected = DreamPolicy(DreamPolicyConfig(model=str(directory))), small()
    assert policy.mask_token_id == expected.mask_token_id
    assert policy.eos_token_id == policy.pad_token_id == expected.eos_token_id


def test_published_ids_are_known():
    assert (PUBLISHED.mask, PUBLISHED.eos, PUBLISHED.num_rows) == (151666, 151643, 152064)


def test_saved_policy_is_read_back_exactly(small, tmp_path):
    policy = small()
    perturb(policy)
    policy.save(tmp_path)
    again = DreamPolicy(DreamPolicyConfig(model=str(tmp_path)))
    assert equal_states(state(policy), state(again))
    batch = random_rows(policy)
    assert torch.equal(policy.token_logprobs(*batch), again.token_logprobs(*batch))
    example = [Example(prompt="1+1=\n")]
    assert torch.equal(policy.encode(example).tokens, again.encode(example).tokens)
    assert "auto_map" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_load_weights_reads_in_place(small, tmp_path):
    policy, other = small(), small()
    perturb(policy)
    policy.save(tmp_path)
    other.load_weights(tmp_path)
    assert equal_states(state(policy), state(other))


def test_adapter_is_saved_alone_and_read_back_exactly(small, tmp_path):
    policy, fresh = small(lora=LORA), small(lora=LORA)
    perturb(policy)
    policy.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "model.safetensors").exists()
    fresh.load_weights(tmp_path)
    assert equal_states(state(policy), state(fresh))


def test_merged_adapters_are_saved_in_the_official_layout(small, tmp_path):
    policy = small(lora=LORA)
    perturb(policy)
    batch = random_rows(policy)
    with policy.evaluating():
        before = policy.token_logprobs(*batch)
    policy.merge_adapters()
    policy.save(tmp_path)
    again = DreamPolicy(DreamPolicyConfig(model=str(tmp_path)))
    with again.evaluating():
        after = again.token_logprobs(*batch)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "generation_config.json").is_file()


@pytest.mark.parametrize(("start", "end"), [(5, 9), (8, 12), (4, 5)])
def test_pass_over_a_window_of_unchanged_tokens_changes_no_logits(official, start, end):
    noisy, mask, _, _ = random_rows(official)
    at = torch.arange(start, end).expand(4, -1)
    cache = official.new_cache()
    with official.evaluating():
        for _ in range(3):
            logits = official.cached_logits(noisy, mask, at, cache=cache, window=(start, end))
            expected = official.logits(noisy, mask, at)
            torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [None, LORA])
def test_reference_is_the_policy_as_it_was_frozen(small, lora):
    policy = small(lora=lora)
    batch = random_rows(policy)
    before = policy.token_logprobs(*batch).detach()
    policy.freeze_reference()
    perturb(policy)
    with policy.reference():
        reference = policy.token_logprobs(*batch)
    assert torch.equal(reference, before)
    assert not reference.requires_grad
    assert not torch.equal(policy.token_logprobs(*batch), before)


@pytest.mark.parametrize(("targets", "modules"), [("paper", 4), ("all", 7)])
def test_lora_trains_adapters_of_its_targets_alone(small, targets, modules):
    named = small(lora=LORA | {"targets": targets}).module.named_parameters()
    trained = [name for name, parameter in named if parameter.requires_grad]
    assert len(trained) == modules * 2 * 2
    assert all("lora_" in name for name in trained)


def test_gradient_checkpointing_changes_no_gradient(small):
    plain, saving = small(), small(gradient_checkpointing=True)
    for policy in (plain, saving):
        policy.token_logprobs(*random_rows(policy)).sum().backward()
    for one, other in zip(plain.module.parameters(), saving.module.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_description_says_what_it_is_and_what_is_trained(small, small_directory):
    policy = small(lora=LORA)
    assert policy.describe().startswith(f"Dream {small_directory}, ")
    assert f"trains {policy.num_trainable_parameters:,} in adapters" in policy.describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llada"}, "model_type is 'llada'; the dream policy accepts 'Dream'"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'; the dream policy accepts 'Dream'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"num_attention_heads": 5}, "hidden_size 32 is no multiple of num_attention_heads 5"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_he"),
        ({"hidden_size": None}, "hidden_size must be a whole number above 0; it is missing"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings must be a whole number"),
        ({"rope_theta": -1.0}, "rope_theta must be a finite number above 0"),
        ({"hidden_act": "no_such"}, "no_such"),
        ({"num_hidden_layers": 3}, "12 missing tensors"),
        ({"num_hidden_layers": 1}, "12 unexpected tensors"),
        ({"intermediate_size": 40}, r"mlp\.\w+\.weight has shape .*; by config\.json it has"),
        ({"mask_token_id": 4000}, "outside the vocabulary"),
        ({"pad_token_id": 4000}, "outside the vocabulary"),
        ({"mask_token_id": 3}, "mask_token_id"),
        ({"mask_token_id": "x"}, "mask_token_id must be a token's number; given 'x'"),
    ],
)
def test_config_of_another_model_is_one_clear_line(broken, changes, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        DreamPolicy(DreamPolicyConfig(model=str(broken(**changes))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"{ not this"])
def test_missing_and_broken_files_are_one_clear_line(broken, name, content):
    directory = broken()
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.partition(".")[0]) as caught:
        DreamPolicy(DreamPolicyConfig(model=str(directory)))
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(broken):
    file = broken() / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.self_attn.k_proj.bias"][3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"k_proj\.bias holds values that are not finite"):
        DreamPolicy(DreamPolicyConfig(model=str(file.parent)))


def test_model_must_be_named():
    with pytest.raises(ConfigError, match=r"policy\.model: required and not given"):
        POLICIES.build("dream")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "nf4"}, "add adapters"),
        ({"attention": "flash"}, "attention"),
        ({"dtype": "float64"}, "dtype"),
        ({"model": ""}, "model"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        POLICIES.config("dream", {"model": "owner/name", **settings})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "settings", [{"attention": "flash_attention_2"}, {"quantization": "nf4", "lora": LORA}]
)
def test_what_cannot_run_here_is_refused_before_anything_is_fetched(settings):
    with pytest.raises(ConfigError, match=f"policy.{next(iter(settings))}") as caught:
        DreamPolicy(DreamPolicyConfig.model_validate({"model": "owner/name", **settings}))
    assert "\n" not in str(caught.value)


def test_training_runs_end_to_end(small_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {
        "policy": "dream",
        "policy.model": str(small_directory),
        "policy.lora.rank": "4",
        "sampler": "dream",
        "training.prompts_per_buffer": "2",
        "training.rollouts_per_prompt": "4",
        "training.warmup_steps": "0",
        "evaluation.num_examples": "4",
        "steps": "4",
        "output": "out",
    }
    line = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    assert main(["train", *line]) == 0
    assert f"Dream {small_directory}" in capsys.readouterr().out
    steps = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert list(tmp_path.glob("out/**/adapter_model.safetensors"))
    assert main(["eval", "--run", "out", "--num-examples", "2"]) == 0
