"""What every policy on a transformers backbone shares; a family adds how its files are read."""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dmpo.errors import CheckpointError, ConfigError, DataError
from dmpo.policies.adapters import (
    LoraSettings,
    adapters_disabled,
    attach_lora,
    is_adapted,
    load_adapter,
    merge_lora,
    save_adapter,
)
from dmpo.policies.base import DiffusionPolicy, Known
from dmpo.policies.denoiser import Denoiser, begins_run
from dmpo.policies.flops import FlopCounts, ModelPass, count_flops, tracing
from dmpo.policies.kernels import Compilation, compile_blocks
from dmpo.policies.kv_cache import KeyValueCache
from dmpo.policies.locate import quiet_library
from dmpo.policies.sharded import is_sharded, put_state
from dmpo.policies.text import TextCodec, save_tokenizer
from dmpo.records import Example, Prompts

__all__ = ["TransformersPolicy"]

_DAMAGED = "the files are damaged or of another model; fetch them again"
_REMEDIES: Mapping[str, str] = {
    "float16": "set policy.dtype to bfloat16 or float32, whose range is larger",
    "bfloat16": f"set policy.dtype to float32; if that does not help, {_DAMAGED}",
    "float32": _DAMAGED,
}
"""What to do about logits that are not finite, by precision."""

SHARD_SIZE = "5GB"
"""Largest file of weights, about that of the published checkpoints."""


class TransformersPolicy(DiffusionPolicy):
    """A policy around a :class:`Denoiser` and a :class:`TextCodec`.

    A family derives a final class, whose constructor loads model and tokenizer and calls
    :meth:`_assemble`, and says how weights are read back.
    """

    _denoiser: Denoiser
    _module: nn.Module
    _parts: tuple[nn.Module, ...]
    _active: nn.Module
    _frozen: Denoiser | None
    _codec: TextCodec
    _flops: FlopCounts
    _reference_flops: FlopCounts
    _is_traced: bool
    _recomputes_blocks: bool
    _is_reference: bool
    _origin: str
    _is_proven: bool

    @abstractmethod
    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        """Return the weights in ``directory`` under the names of the model's state.

        Raises:
            CheckpointError: If they are missing or of another family.
        """

    def _assemble(
        self,
        model: Any,
        codec: TextCodec,
        *,
        mask_token_id: int,
        lora: LoraSettings | None,
        base_name: str,
        gradient_checkpointing: bool,
        logits_chunk: int,
        shifted: bool = False,
        fused_projection: bool = True,
        compilation: Compilation = "no",
    ) -> None:
        """Put the parts together; called once, by the constructor."""
        self.mask_token_id = mask_token_id
        self.eos_token_id = codec.eos_token_id
        self.pad_token_id = codec.pad_token_id
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.max_length = codec.max_length
        self.forward_tokens = 0
        if gradient_checkpointing:
            _checkpoint_blocks(model)
        if lora is not None:
            model = attach_lora(model, lora, base_name=base_name)
        self._codec = codec
        compile_blocks(model, compilation)
        self._denoiser = Denoiser(
            model, logits_chunk=logits_chunk, shifted=shifted, fuses=fused_projection
        ).train()
        self._denoiser.replays = compilation == "graphs"
        self.module = self._denoiser
        self._frozen = None
        self._recomputes_blocks = gradient_checkpointing
        self._is_reference = False
        self._origin = base_name
        self._is_proven = False
        self._count_flops()

    @property
    def module(self) -> nn.Module:
        """The trainable module, as the engine may have wrapped it."""
        return self._module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._module = self._active = module
        self._parts = tuple(module.modules())

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return next(self._denoiser.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, adapters included."""
        # Asked of the library: a tensor in 4 bits has half as many elements as weights.
        return int(self._denoiser.causal_lm.num_parameters())

    @property
    def num_trainable_parameters(self) -> int:
        """Parameters that training changes."""
        parameters = self._denoiser.parameters()
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)

    def logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
    ) -> Float[Tensor, "S K V"]:
        """Return the logits of the tokens at the requested positions, in float32.

        Raises:
            CheckpointError: If the first logits since weights were loaded are not finite.
        """
        return self._run(tokens, attention_mask, at=at)

    def known_logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
        known: Known,
    ) -> Float[Tensor, "S K V"]:
        """Return :meth:`logits`; nothing is asked of the device where rows are known to differ."""
        if known.has_equal_rows:
            return self._run(tokens, attention_mask, at=at, padded=known.is_padded)
        self._meter(tokens, num_positions=tokens.shape[1])
        return self._pass(tokens, attention_mask, at=at, padded=known.is_padded)

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache, to be used for one block."""
        return KeyValueCache()

    def cached_logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
        *,
        cache: Any,
        window: tuple[int, int],
    ) -> Float[Tensor, "S K V"]:
        """Return logits from a pass over a window; the first one fills the cache."""
        if cache.is_filled:
            self._meter(tokens, num_positions=window[1] - window[0])
            return self._pass(tokens, attention_mask, at=at, cache=cache, window=window)
        logits, row_of = self._run_distinct(tokens, attention_mask, at=at, cache=cache)
        if row_of is not None:
            cache.select(row_of)
        return logits

    def attended_logits(
        self,
        tokens: Int[Tensor, "S X"],
        at: Int[Tensor, "S K"],
        *,
        position_ids: Int[Tensor, "S X"],
        visible: Bool[Tensor, "S X X"],
    ) -> Float[Tensor, "S K V"]:
        """Return logits where each token sees what it is told to see.

        Raises:
            ConfigError: If the backbone predicts shifted tokens, or its attention kernel takes
                no mask per pair of tokens.
        """
        self.forward_tokens += tokens.numel()
        everything = torch.ones_like(tokens, dtype=torch.bool)
        return self._pass(tokens, everything, at=at, position_ids=position_ids, visible=visible)

    def token_logprobs(
        self,
        noisy: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        targets: Int[Tensor, "S T"],
        where: Bool[Tensor, "S T"],
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "S T"]:
        """Return log π(target | noisy) at ``where`` and zero elsewhere; differentiable.

        Rows in which nothing is asked for do not run through the model.

        Raises:
            ConfigError: If the temperature is not greater than 0.
            CheckpointError: If the first ones since weights were loaded are not finite.
        """
        if temperature <= 0:
            raise ConfigError(f"temperature: must be greater than 0 here; given {temperature}.")
        asked = where.any(dim=1)
        if bool(asked.all()):
            return self._score_rows(noisy, attention_mask, targets, where, temperature)
        # With nothing asked for at all one row still runs, so that every process takes part in
        # the forward and the backward pass.
        rows = asked.nonzero().squeeze(1) if bool(asked.any()) else asked[:1].long() * 0
        scores = self._score_rows(
            noisy[rows], attention_mask[rows], targets[rows], where[rows], temperature
        )
        return scores.new_zeros(noisy.shape).index_copy(0, rows, scores)

    def corrupt(self, tokens: Int[Tensor, "S T"], where: Bool[Tensor, "S T"]) -> Int[Tensor, "S T"]:
        """Write mask tokens at ``where``."""
        return tokens.masked_fill(where, self.mask_token_id)

    def freeze_reference(self) -> None:
        """Make the current weights π_ref by a frozen copy.

        With adapters the base model is π_ref and nothing is copied.
        """
        if is_adapted(self._denoiser.model):
            return
        self._frozen = copy.deepcopy(self._denoiser).requires_grad_(False).eval()

    @property
    def reference_module(self) -> nn.Module | None:
        """The frozen copy that is π_ref; None under adapters, or before one was made."""
        return self._frozen

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Context in which the policy is π_ref, which takes no gradient.

        Raises:
            ConfigError: If there are no adapters and ``freeze_reference`` was not called.
        """
        if is_adapted(self._denoiser.model):
            with torch.no_grad(), adapters_disabled(self._denoiser.model):
                self._is_reference = True
                try:
                    yield
                finally:
                    self._is_reference = False
            return
        if self._frozen is None:
            raise ConfigError(
                "reference: full fine-tuning needs a frozen copy of the model; call "
                "freeze_reference() before training, or train adapters (policy.lora)."
            )
        active = self._active
        self._active = self._frozen.to(self.device)
        try:
            with torch.no_grad():
                yield
        finally:
            self._active = active

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context without gradients and dropout; restores the mode it found."""
        # Contexts nest, and setting the mode of a hundred modules is slow: set what changes.
        training = [module for module in self._parts if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that prompts and answers go through."""
        return self._codec.tokenizer

    def encode(self, examples: Sequence[Example]) -> Prompts:
        """Tokenize prompts and pad them on the left."""
        return self._codec.encode(examples, self.device)

    def encode_completions(self, texts: Sequence[str], length: int) -> Int[Tensor, "S D"]:
        """Tokenize answers onto a canvas of ``length``, filled up with EOS."""
        return self._codec.encode_completions(texts, length, self.device)

    def decode(self, completions: Int[Tensor, "S D"]) -> list[str]:
        """Return the text of each canvas up to its first EOS, special tokens left out."""
        return self._codec.decode(completions)

    def save(self, directory: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write weights, config and tokenizer in the official layout, or the adapter alone."""
        directory.mkdir(parents=True, exist_ok=True)
        model: Any = self._denoiser.model
        own = None if state is None else _inside_model(state)
        with quiet_library():
            if is_adapted(model):
                save_adapter(model, directory, own)
            else:
                model.save_pretrained(str(directory), state_dict=own, max_shard_size=SHARD_SIZE)
                save_tokenizer(self._codec.tokenizer, directory)

    def merge_adapters(self) -> None:
        """Add the adapters into the base model's weights, in its precision."""
        if is_adapted(self._denoiser.model):
            self._denoiser.model = merge_lora(self._denoiser.model)
            self.module = self._denoiser
            self._count_flops()

    def load_weights(self, directory: Path) -> None:
        """Read back, in place, the trainable weights that ``save`` wrote.

        Raises:
            CheckpointError: If files are missing or of another shape.
        """
        model = self._denoiser.model
        self._origin, self._is_proven = str(directory), False
        if is_adapted(model):
            load_adapter(model, directory)
            return
        state = self._read_state(directory)
        for name, tensor in model.state_dict().items():
            saved = state.get(name)
            if saved is None or saved.shape != tensor.shape:
                found = "missing" if saved is None else f"of shape {list(saved.shape)}"
                raise CheckpointError(
                    f"{directory}: {name} is {found}; the policy's is of shape "
                    f"{list(tensor.shape)}."
                )
        if is_sharded(model):
            put_state(model, state)
        else:
            model.load_state_dict(state)

    def _score_rows(
        self,
        noisy: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        targets: Int[Tensor, "S T"],
        where: Bool[Tensor, "S T"],
        temperature: float,
    ) -> Float[Tensor, "S T"]:
        return self._run(
            noisy, attention_mask, where=where, targets=targets, temperature=temperature
        )

    def _run(
        self, tokens: Int[Tensor, "S T"], attention_mask: Bool[Tensor, "S T"], **wanted: Any
    ) -> Tensor:
        return self._run_distinct(tokens, attention_mask, **wanted)[0]

    def _run_distinct(
        self, tokens: Int[Tensor, "S T"], attention_mask: Bool[Tensor, "S T"], **wanted: Any
    ) -> tuple[Tensor, Int[Tensor, " S"] | None]:
        """Run the module in use, once for every run of equal rows; they share their dropout.

        Returns:
            What was wanted, and which of the rows run each row is; None: they all ran.
        """
        begins, row_of = begins_run(tokens, attention_mask), None
        if not bool(begins.all()):
            row_of = begins.cumsum(0) - 1
            tokens, attention_mask = tokens[begins], attention_mask[begins]
        self._meter(tokens, num_positions=tokens.shape[1])
        return self._pass(tokens, attention_mask, row_of=row_of, **wanted), row_of

    def _pass(
        self, tokens: Int[Tensor, "U T"], attention_mask: Bool[Tensor, "U T"], **wanted: Any
    ) -> Tensor:
        """Run the module in use and book what it computes, a backward pass when it comes."""
        running = self._active if isinstance(self._active, Denoiser) else self._denoiser
        # What wraps a module for its gradient need not be asked where there is none, and would
        # have processes wait for each other.
        module = self._active if torch.is_grad_enabled() else running
        if self._is_traced or not torch.is_grad_enabled():
            result = module(tokens, attention_mask, **wanted)
        else:
            model = running.causal_lm
            with tracing(model) as trace:
                result = module(tokens, attention_mask, **wanted)
            if result.requires_grad:
                self._flops, self._is_traced = count_flops(model, trace), True
        done = running.last_pass
        if not self._is_proven and done.projected:
            self._prove(result)
        counts = self._reference_flops if self._is_reference else self._flops
        self.forward_flops += counts.forward(done)
        if result.requires_grad:
            recomputes = self._recomputes_blocks and self._denoiser.training
            book = functools.partial(self._book_backward, done, recomputes_blocks=recomputes)
            result.register_hook(book)
        return cast("Tensor", result)

    def _prove(self, result: Tensor) -> None:
        """Refuse weights that are finite, as the loader has seen, and whose logits are not.

        Looked at is one pass alone, because that waits for the device.
        """
        smallest, largest = torch.aminmax(result.detach())  # no copy, as isfinite would make
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            # Adapters may be held in another precision than what the model computes in.
            dtype = self._denoiser.causal_lm.get_output_embeddings().weight.dtype
            precision = str(dtype).removeprefix("torch.")
            raise CheckpointError(
                f"policy.model: {self._origin}: its weights are finite, but its first logits in "
                f"{precision} are not: {_REMEDIES.get(precision, _DAMAGED)}."
            )
        self._is_proven = True

    def _book_backward(
        self, done: ModelPass, _gradient: Tensor, *, recomputes_blocks: bool
    ) -> None:
        self.backward_flops += self._flops.backward(done, recomputes_blocks=recomputes_blocks)

    def _count_flops(self) -> None:
        """Set the formulas up; where gradients go is seen in the first pass that takes one."""
        model = self._denoiser.causal_lm
        self._flops = count_flops(model)
        self._reference_flops = count_flops(model, with_adapters=False)
        self._is_traced = False

    def _meter(self, tokens: Int[Tensor, "U T"], *, num_positions: int) -> None:
        if tokens.shape[1] > self.max_length:
            raise DataError(
                f"sequence: {tokens.shape[1]} tokens, longer than the model's context of "
                f"{self.max_length}; shorten the prompt or gen_length."
            )
        self.forward_tokens += tokens.shape[0] * num_positions


def _inside_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a denoiser's state by the names of the model in it."""
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def _checkpoint_blocks(model: Any) -> None:
    # The library is renaming this method; the old name warns where the new one exists.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    # It also makes the embedding's output ask for a gradient, which only the reentrant kind needs.
    model.disable_input_require_grads()
