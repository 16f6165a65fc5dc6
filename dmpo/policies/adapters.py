"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) by PEFT."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dmpo.errors import CheckpointError
from dmpo.files import replace_text
from dmpo.policies.sharded import is_sharded, put_state
from dmpo.settings import Settings

__all__ = [
    "LORA_TARGETS",
    "LoraSettings",
    "adapters_disabled",
    "attach_lora",
    "is_adapted",
    "load_adapter",
    "merge_lora",
    "save_adapter",
]

_NAMES_END = re.compile(r"(\.weight|\.bias)$")
"""Before which PEFT's modules, unlike its files, have the adapter's name."""

LORA_TARGETS: Mapping[str, tuple[str, ...]] = {
    "paper": ("q_proj", "k_proj", "v_proj", "up_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""Which projections of a block are adapted.

`paper` is what DMPO's and d1's published runs adapt: their target list names all seven by
Llama's names, of which LLaDA's own code bears only these four.
"""


class LoraSettings(Settings):
    """Low-rank adapters in place of full fine-tuning."""

    rank: PositiveInt = Field(128, description="Rank of the update of each matrix.")
    alpha: PositiveFloat = Field(64.0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout in front of the adapters.")
    targets: Literal["paper", "all"] = Field(
        "paper", description="Adapted projections: q, k, v and up, or all seven of a block."
    )
    seed: int = Field(0, ge=0, description="Seed of the adapters' first halves.")


def attach_lora(model: nn.Module, settings: LoraSettings, *, base_name: str) -> nn.Module:
    """Freeze ``model`` and put trainable adapters, which start as no change, into its blocks.

    Args:
        model: A transformers model; it is changed in place. One that does not name its
            projections as Llama does says in ``lora_targets`` what stands for LORA_TARGETS.
        settings: Rank, scale and place of the adapters.
        base_name: What the adapter's files will name as their base.

    Returns:
        PEFT's wrapper of the model.
    """
    targets = getattr(model, "lora_targets", LORA_TARGETS)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets[settings.targets]),
        task_type="CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None,
    )
    # PEFT draws from the global stream, and asks transformers a question by a name about to go.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(settings.seed)
        warnings.simplefilter("ignore", FutureWarning)
        # Adapters stay in float32 over a base in half precision: their steps are too small for it.
        adapted: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=True)
    config.base_model_name_or_path = base_name  # PEFT has put the local path here
    return adapted


@contextmanager
def adapters_disabled(adapted: nn.Module) -> Iterator[None]:
    """Run the base model alone, then restore ``requires_grad`` as it was.

    PEFT's own context turns ``requires_grad`` of the adapter on when it leaves.
    """
    before = [(parameter, parameter.requires_grad) for parameter in adapted.parameters()]
    wrapper: Any = adapted
    try:
        with wrapper.disable_adapter():
            yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)


def save_adapter(
    adapted: nn.Module, directory: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write the adapter alone, in PEFT's own format.

    Args:
        adapted: PEFT's wrapper.
        directory: Where to.
        state: Its whole state, where it holds only a part itself.
    """
    wrapper: Any = adapted
    given = {} if state is None else {"state_dict": dict(state)}
    wrapper.save_pretrained(str(directory), save_embedding_layers=False, **given)
    # PEFT keeps a set of targets and writes it in the order of this process's hash seed.
    file = directory / "adapter_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["target_modules"].sort()
    replace_text(file, json.dumps(content, indent=2) + "\n")


def load_adapter(adapted: nn.Module, directory: Path) -> None:
    """Read, in place, the adapter that ``save_adapter`` wrote.

    Raises:
        CheckpointError: If the file is missing or holds an adapter of another shape.
    """
    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{directory}: no adapter there (adapter_model.safetensors).")
    wrapper: Any = adapted
    before = {name for name, _ in wrapper.named_parameters() if ".lora_" in name}
    try:
        saved = load_peft_weights(str(directory), device="cpu")
    except Exception as error:  # the library raises whatever its readers do
        raise CheckpointError(f"{file}: it cannot be read: {_last_line(error)}") from error
    if is_sharded(wrapper):
        _put_parts(wrapper, saved, directory)
        return
    try:
        result = set_peft_model_state_dict(wrapper, saved)
    except RuntimeError as error:
        raise CheckpointError(
            f"{directory}: the adapter there has another rank or base: {_last_line(error)}"
        ) from error
    missing = sorted(before.intersection(result.missing_keys))
    if missing or result.unexpected_keys:
        wrong = (missing + sorted(result.unexpected_keys))[0]
        raise CheckpointError(f"{directory}: the adapter there has other targets ({wrong}).")


def _put_parts(adapted: nn.Module, saved: Mapping[str, Tensor], directory: Path) -> None:
    """Write an adapter into a wrapper whose weights are shared out; PEFT cannot."""
    own = {name: tensor for name, tensor in adapted.state_dict().items() if ".lora_" in name}
    named = {_NAMES_END.sub(r".default\1", name): tensor for name, tensor in saved.items()}
    for name in own.keys() ^ named.keys():
        raise CheckpointError(f"{directory}: the adapter there has other targets ({name}).")
    for name, tensor in named.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{directory}: the adapter there has another rank or base: {name} is of shape "
                f"{list(tensor.shape)}, not {list(own[name].shape)}."
            )
    put_state(adapted, named)


def merge_lora(adapted: nn.Module) -> nn.Module:
    """Return the base model with the adapters added into its weights, in place.

    The update is multiplied out in the adapters' precision and rounded to the base's.

    Raises:
        CheckpointError: If that gives values that are not numbers.
    """
    wrapper: Any = adapted
    try:
        merged: nn.Module = wrapper.merge_and_unload(safe_merge=True)
    except ValueError as error:  # what PEFT calls values that are not numbers
        raise CheckpointError(f"the adapters cannot be merged: {_last_line(error)}") from error
    return merged.requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Return whether ``model`` is PEFT's wrapper."""
    return isinstance(model, PeftModel)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
