"""Decoders without their causal mask, and masked language models, as diffusion policies."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dmpo.policies.mdlm import MdlmConfig, MdlmPolicy
from dmpo.records import Example
from dmpo.registry import POLICIES
from tests.policies.mdlm_checkpoints import (
    DECODERS,
    ENCODERS,
    FAMILIES,
    load,
    rewrite,
    write_checkpoint,
)

PADDING = torch.tensor([0, 3, 1, 5])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the directories of one checkpoint of each family, to be read only."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(root / family, family) for family in FAMILIES}


def padded_batch(policy):
    """Return tokens, attention mask, targets and where of four rows padded on the left."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, 20, (4, 20), generator=generator)
    mask = torch.arange(20) >= PADDING.unsqueeze(1)
    where = (torch.rand(4, 20, generator=generator) < 0.5) & mask
    targets = targets.masked_fill(~mask, policy.pad_token_id)
    return policy.corrupt(targets, where), mask, targets, where


def everywhere(tokens):
    return torch.arange(tokens.shape[1]).expand(tokens.shape)


def logits(policy, tokens):
    with policy.evaluating():
        return policy.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), everywhere(tokens))


def library_logits(directory, tokens):
    """Return what the class that the library's own factories choose says."""
    decoder = json.loads((directory / "config.json").read_text())["model_type"] in DECODERS
    name = "AutoModelForCausalLM" if decoder else "AutoModelForMaskedLM"
    model = getattr(transformers, name).from_pretrained(directory).eval()
    with torch.no_grad():
        return model(input_ids=tokens).logits


def shake(policy):
    """Change every trainable weight."""
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.ones_like(parameter).cumsum(-1).sin())


def test_mdlm_is_registered_and_final():
    assert POLICIES.load("mdlm") is MdlmPolicy
    assert MdlmPolicy.__final__


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_looks_both_ways(family, kernel, padding, checkpoints):
    policy = load(checkpoints[family], attention=kernel)
    tokens = torch.arange(5, 17).unsqueeze(0)
    changed = tokens.clone()
    changed[0, -1] = 5
    mask = (torch.arange(12) >= padding).unsqueeze(0)
    at = torch.tensor([[padding, 4]])
    with policy.evaluating():
        one, other = (policy.logits(row, mask, at) for row in (tokens, changed))
    assert (one - other).abs().amax(dim=-1).min() > 1e-4


@pytest.mark.parametrize("family", ENCODERS)
def test_mdlm_encoder_equals_the_library(family, checkpoints):
    policy = load(checkpoints[family])
    tokens = padded_batch(policy)[2][:1]
    assert torch.equal(logits(policy, tokens), library_logits(checkpoints[family], tokens))


@pytest.mark.parametrize("family", DECODERS)
def test_mdlm_decoder_equals_the_library_without_its_causal_mask(family, checkpoints):
    policy = load(checkpoints[family])
    tokens = padded_batch(policy)[2][:1]
    config = transformers.AutoConfig.from_pretrained(checkpoints[family])
    causal = library_logits(checkpoints[family], tokens)
    config.is_causal = False
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoints[family], config=config)
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens).logits
    assert torch.equal(logits(policy, tokens), expected)
    assert not torch.allclose(causal, expected, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_padded_batch_equals_single_rows(family, checkpoints):
    policy = load(checkpoints[family])
    noisy, mask, targets, where = padded_batch(policy)
    with policy.evaluating():
        all_logits = policy.logits(noisy, mask, everywhere(noisy))
        scores = policy.token_logprobs(noisy, mask, targets, where)
    for row, padding in enumerate(PADDING.tolist()):
        alone = [rows[row : row + 1, padding:] for rows in (noisy, mask, targets, where)]
        with policy.evaluating():
            single = policy.logits(alone[0], alone[1], everywhere(alone[0]))
            score = policy.token_logprobs(*alone)
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(all_logits[row, padding:], single[0], **close)
        torch.testing.assert_close(scores[row, padding:], score[0], **close)


def test_mdlm_padded_batch_equals_single_rows_within_windows(tmp_path):
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    policy = load(write_checkpoint(tmp_path, "qwen2", **windows))
    noisy, mask, targets, where = padded_batch(policy)
    with policy.evaluating():
        together = policy.token_logprobs(noisy, mask, targets, where)[1:2, 3:]
        alone = policy.token_logprobs(*(rows[1:2, 3:] for rows in (noisy, mask, targets, where)))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_reads_and_writes_the_same_tensors(family, checkpoints, tmp_path):
    load(checkpoints[family]).save(tmp_path)
    written, read = (path / "model.safetensors" for path in (tmp_path, checkpoints[family]))
    assert written.read_bytes() == read.read_bytes()
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (checkpoints[family], tmp_path)
    )
    assert after == before | ({"is_causal": False} if family in DECODERS else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_saved_is_the_librarys_own_checkpoint(family, checkpoints, tmp_path):
    policy = load(checkpoints[family])
    shake(policy)
    policy.save(tmp_path)
    tokens = padded_batch(policy)[2][:1]
    torch.testing.assert_close(library_logits(tmp_path, tokens), logits(policy, tokens))
    assert torch.equal(logits(load(tmp_path), tokens), logits(policy, tokens))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.mask_token_id == policy.mask_token_id


def test_mdlm_keeps_the_type_and_architecture_of_a_renamed_family(checkpoints, tmp_path):
    write_checkpoint(tmp_path / "official", "qwen3")
    rewrite(
        tmp_path / "official" / "config.json",
        model_type="a2d-qwen3",
        architectures=["A2DQwen3LMHeadModel"],
    )
    policy = load(tmp_path / "official")
    tokens = padded_batch(policy)[2][:1]
    assert torch.equal(logits(policy, tokens), logits(load(checkpoints["qwen3"]), tokens))
    policy.save(tmp_path / "ours")
    content = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert content["model_type"] == "a2d-qwen3"
    assert content["architectures"] == ["A2DQwen3LMHeadModel"]


def test_mdlm_shifted_decoder_lets_the_state_before_a_token_speak_for_it(checkpoints):
    plain, shifted = (load(checkpoints["qwen2"], shifted=value) for value in (False, True))
    tokens = padded_batch(plain)[2][:1]
    one, other = logits(plain, tokens), logits(shifted, tokens)
    assert torch.equal(other[:, 1:], one[:, :-1])
    assert torch.equal(other[:, :1], one[:, :1])


@pytest.mark.parametrize(("targets", "modules"), [("paper", (4, 4, 2)), ("all", (7, 6, 4))])
@pytest.mark.parametrize("family", ["llama", "bert", "distilbert", "modernbert"])
def test_mdlm_adapts_the_blocks_and_nothing_else(family, targets, modules, checkpoints):
    policy = load(checkpoints[family], lora={"rank": 2, "targets": targets})
    named = policy.module.named_parameters()
    trained = [name for name, parameter in named if parameter.requires_grad]
    kind, layers = {"llama": (0, 2), "modernbert": (2, 4)}.get(family, (1, 2))
    assert len(trained) == 2 * layers * modules[kind]
    assert all("lora_" in name and "layer" in name for name in trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_adapter_is_saved_alone_and_its_base_is_the_reference(family, checkpoints, tmp_path):
    lora = {"rank": 2, "dropout": 0.0, "targets": "all"}
    base, policy, fresh = (load(checkpoints[family], lora=value) for value in (None, lora, lora))
    tokens = padded_batch(policy)[2][:1]
    torch.testing.assert_close(logits(policy, tokens), logits(base, tokens))
    shake(policy)
    policy.save(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    fresh.load_weights(tmp_path)
    assert torch.equal(logits(fresh, tokens), logits(policy, tokens))
    assert not torch.allclose(logits(policy, tokens), logits(base, tokens), atol=1e-3)
    with policy.reference():
        torch.testing.assert_close(logits(policy, tokens), logits(base, tokens))


@pytest.mark.parametrize("family", ["qwen2", "bert", "modernbert"])
def test_mdlm_merged_adapters_are_the_librarys_own_checkpoint(family, checkpoints, tmp_path):
    policy = load(checkpoints[family], lora={"rank": 2, "dropout": 0.0, "targets": "all"})
    shake(policy)
    tokens = padded_batch(policy)[2][:1]
    before = logits(policy, tokens)
    policy.merge_adapters()
    policy.save(tmp_path)
    torch.testing.assert_close(library_logits(tmp_path, tokens), before, atol=1e-4, rtol=1e-4)
    read = load_file(checkpoints[family] / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == read.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_frozen_copy_is_the_reference_of_full_fine_tuning(family, checkpoints):
    policy = load(checkpoints[family])
    tokens = padded_batch(policy)[2][:1]
    before = logits(policy, tokens)
    policy.freeze_reference()
    shake(policy)
    with policy.reference():
        assert torch.equal(logits(policy, tokens), before)
    assert not torch.allclose(logits(policy, tokens), before, atol=1e-3)


@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.0}])
@pytest.mark.parametrize("family", ["qwen3", "bert", "distilbert", "modernbert"])
def test_mdlm_gradient_checkpointing_changes_no_gradient(family, lora, checkpoints):
    plain, saving = (
        load(checkpoints[family], lora=lora, gradient_checkpointing=value) for value in (0, 1)
    )
    for policy in (plain, saving):
        for module in policy.module.modules():
            module.p = 0.0  # dropout, which the two would draw differently
        policy.token_logprobs(*padded_batch(policy)).sum().backward()
    for one, other in zip(plain.module.parameters(), saving.module.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


def test_mdlm_trains_the_row_of_pad_where_pad_is_eos(tmp_path):
    policy = load(write_checkpoint(tmp_path, "llama"))
    assert policy.pad_token_id == policy.eos_token_id
    noisy, mask, targets, where = padded_batch(policy)
    noisy[0, :3] = policy.eos_token_id
    policy.token_logprobs(noisy, mask, targets, where).sum().backward()
    gradient = policy.module.causal_lm.model.embed_tokens.weight.grad
    assert gradient[policy.eos_token_id].abs().max() > 0


def test_mdlm_half_precision_gives_float32_results(checkpoints):
    for family in ("qwen2", "modernbert"):
        policy = load(checkpoints[family], dtype="bfloat16")
        assert next(policy.module.parameters()).dtype == torch.bfloat16
        assert policy.token_logprobs(*padded_batch(policy)).dtype == torch.float32


def test_mdlm_encoder_puts_the_canvas_behind_a_framed_prompt(checkpoints):
    policy = load(checkpoints["bert"])
    prompts = policy.encode([Example(prompt="1+1="), Example(prompt="1=")])
    cls, sep, pad = 2, 3, 0
    one, plus, equal = (policy.encode_completions([text], 1).item() for text in "1+=")
    assert prompts.tokens.tolist() == [
        [cls, one, plus, one, equal, sep],
        [pad, pad, cls, one, equal, sep],
    ]
    assert (policy.eos_token_id, policy.pad_token_id) == (sep, pad)
    assert policy.decode(torch.tensor([[one, plus, sep, one]])) == ["1+"]


def test_mdlm_description_says_what_runs_and_what_trains(checkpoints):
    text = load(checkpoints["qwen2"], shifted=True, lora={"rank": 2}).describe()
    assert text.startswith(f"qwen2 {checkpoints['qwen2']}, ")
    assert "mask '<|mdm_mask|>', shifted; trains " in text


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": ""},
        {"model": "x/y", "mask_token": ""},
        {"model": "x/y", "quantization": "nf4"},
        {"model": "x/y", "remote_code": True},
    ],
)
def test_mdlm_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValidationError):
        MdlmConfig.model_validate(settings)


def test_mdlm_published_bert_is_read_without_its_sentence_pair_task(tmp_path, checkpoints):
    config = transformers.BertConfig.from_pretrained(checkpoints["bert"])
    model = transformers.BertForPreTraining(config)
    model.save_pretrained(tmp_path / "official")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "official" / name).write_bytes((checkpoints["bert"] / name).read_bytes())
    load(tmp_path / "official").save(tmp_path / "ours")
    official, ours = (
        load_file(tmp_path / name / "model.safetensors") for name in ("official", "ours")
    )
    left_out = official.keys() - ours.keys()
    assert all(name.startswith(("bert.pooler", "cls.seq_relationship")) for name in left_out)
    assert all(torch.equal(official[name], tensor) for name, tensor in ours.items())


def test_mdlm_first_published_names_of_berts_tensors_are_kept(tmp_path):
    file = write_checkpoint(tmp_path / "official", "bert") / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(file)
    for name in list(tensors):
        for new, published in old.items():
            if name.endswith(new):
                tensors[name.replace(new, published)] = tensors.pop(name)
    save_file(tensors, file, {"format": "pt"})
    load(tmp_path / "official").save(tmp_path / "ours")
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == file.read_bytes()


def test_mdlm_bert_that_was_made_a_decoder_looks_both_ways(tmp_path, checkpoints):
    policy = load(write_checkpoint(tmp_path, "bert", is_decoder=True))
    tokens = padded_batch(policy)[2][:1]
    assert torch.equal(logits(policy, tokens), logits(load(checkpoints["bert"]), tokens))


def test_mdlm_is_saved_whatever_the_settings_of_generation(tmp_path):
    write_checkpoint(tmp_path / "one", "qwen2")
    unsound = {"do_sample": False, "temperature": 0.7}
    (tmp_path / "one" / "generation_config.json").write_text(json.dumps(unsound))
    load(tmp_path / "one").save(tmp_path / "two")
    assert load(tmp_path / "two").max_length == 32
