"""Finite weights with logits that are not: refused by the first pass, and looked at in no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from dmpo.errors import CheckpointError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from tests.policies.builders import random_sequences, small_policy, trained_lora_policy

ASKED = ("logits", "cached_logits", "attended_logits", "token_logprobs")


def overflow(policy: LladaPolicy, *, by: float = 30_000.0) -> LladaPolicy:
    """Give the layers' norms weights that fit into the precision, and whose products do not."""
    with torch.no_grad():
        for name, weight in policy.module.named_parameters():
            if "norm" in name:
                weight.fill_(by)
    return policy


def ask(policy: LladaPolicy, kind: str) -> torch.Tensor:
    """Run the model over a small batch."""
    noisy, mask, targets, where = random_sequences(policy, padded=False)
    at = torch.arange(noisy.shape[1]).expand_as(noisy)
    if kind == "token_logprobs":
        return policy.token_logprobs(noisy, mask, targets, where)
    if kind == "cached_logits":
        cache = policy.new_cache()
        return policy.cached_logits(noisy, mask, at, cache=cache, window=(0, noisy.shape[1]))
    if kind == "attended_logits":
        visible = torch.ones(*noisy.shape, noisy.shape[1], dtype=torch.bool)
        return policy.attended_logits(noisy, at, position_ids=at, visible=visible)
    return policy.logits(noisy, mask, at)


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("with_gradient", [True, False])
def test_first_pass_refuses_logits_that_are_not_finite(kind: str, with_gradient: bool) -> None:
    policy = overflow(small_policy(dtype="float16"))
    with torch.set_grad_enabled(with_gradient), pytest.raises(CheckpointError) as caught:
        ask(policy, kind)
    assert str(caught.value) == (
        "policy.model: tiny: its weights are finite, but its first logits in float16 are not: set "
        "policy.dtype to bfloat16 or float32, whose range is larger."
    )
    with pytest.raises(CheckpointError):  # and the next one is no less the first
        ask(policy, kind)


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [("bfloat16", "set policy.dtype to float32; if that"), ("float32", "the files are damaged")],
)
def test_remedy_is_that_of_the_precision(dtype: str, remedy: str) -> None:
    policy = overflow(small_policy(dtype=dtype), by=3e38)
    with pytest.raises(CheckpointError, match=f"first logits in {dtype} are not: {remedy}"):
        ask(policy, "logits")


@pytest.mark.parametrize("kind", ASKED)
def test_same_weights_in_a_precision_of_larger_range_are_accepted(kind: str) -> None:
    assert ask(overflow(small_policy(dtype="bfloat16")), kind).isfinite().all()


@pytest.mark.parametrize("kind", ASKED)
def test_later_passes_are_not_looked_at(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    ask(policy, kind)
    monkeypatch.setattr("torch.aminmax", None)
    ask(policy, kind)


def test_pass_that_projects_nothing_proves_nothing() -> None:
    policy = overflow(small_policy(dtype="float16"))
    noisy, mask, targets, where = random_sequences(policy)
    policy.token_logprobs(noisy, mask, targets, torch.zeros_like(where))
    with pytest.raises(CheckpointError):
        ask(policy, "token_logprobs")


@pytest.mark.parametrize("lora", [False, True])
def test_weights_that_are_read_back_are_looked_at_again(tmp_path: Path, lora: bool) -> None:
    build = trained_lora_policy if lora else small_policy
    bad = build(dtype="float16")
    with torch.no_grad():
        for name, weight in bad.module.named_parameters():
            if "lora_B" in name if lora else "norm" in name:
                weight.fill_(3e38 if lora else 30_000.0)
    bad.save(tmp_path)
    policy = build(dtype="float16")
    ask(policy, "logits")
    policy.load_weights(tmp_path)
    with pytest.raises(CheckpointError, match=f"policy.model: {tmp_path}: its weights are finite"):
        ask(policy, "logits")


def test_reference_of_adapters_is_looked_at(tmp_path: Path) -> None:
    policy = overflow(trained_lora_policy(dtype="float16"))
    with policy.reference(), pytest.raises(CheckpointError, match="first logits in float16"):
        ask(policy, "token_logprobs")


@pytest.fixture
def one_process(tmp_path: Path):
    """A group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", ["logits", "token_logprobs"])
def test_wrapped_module_is_looked_at(kind: str) -> None:
    def wrapped(policy: LladaPolicy) -> LladaPolicy:
        policy.module = DistributedDataParallel(policy.module)
        return policy

    assert ask(wrapped(small_policy(dtype="float16")), kind).isfinite().all()
    with pytest.raises(CheckpointError, match="first logits in float16"):
        ask(wrapped(overflow(small_policy(dtype="float16"))), kind)


def test_checkpoint_on_disk_is_named(tmp_path: Path) -> None:
    overflow(small_policy(dtype="float16")).save(tmp_path)
    policy = LladaPolicy(LladaConfig(model=str(tmp_path), dtype="float16"))
    assert all(bool(weight.isfinite().all()) for weight in policy.module.parameters())
    with pytest.raises(CheckpointError, match=f"policy.model: {tmp_path}: "):
        ask(policy, "logits")
