"""What every diffusion language model offers to the rest of the library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, device, nn

from dmpo.errors import ConfigError
from dmpo.records import Example, Prompts
from dmpo.registry import PluginConfig

__all__ = ["DiffusionPolicy", "Known"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a batch already, so that nobody waits for the device to find it out."""

    is_padded: bool
    """Whether some row may hold padding."""
    has_equal_rows: bool
    """Whether some row may equal the one before it."""


class DiffusionPolicy(ABC):
    """A conditional denoiser π_θ(o | q, õ): given a noised sequence, a distribution per token.

    A policy is built from its config alone: ``Policy(config)`` loads weights and tokenizer.
    A backbone that predicts shifted tokens aligns them inside ``logits`` and
    ``token_logprobs``, so nobody else ever knows. Every forward pass adds the number of
    positions it ran over to ``forward_tokens``; rows that are equal may run as one.
    """

    Config: ClassVar[type[PluginConfig]]

    mask_token_id: int
    """The token that stands for noise."""
    eos_token_id: int
    """The token that ends an answer."""
    pad_token_id: int
    """The token that fills prompts on the left."""
    vocab_size: int
    """V: rows of the output projection (may exceed the tokenizer's vocabulary)."""
    max_length: int
    """Longest sequence T the backbone was built for."""
    forward_tokens: int
    """Positions run through the model so far, in any mode; a meter, only ever added to."""
    forward_flops: int = 0
    """Floating-point operations of forward passes so far; stays 0 where a policy has no formula."""
    backward_flops: int = 0
    """The same of backward passes, with all that they compute again."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The trainable module, as the engine may have wrapped it."""

    @module.setter
    @abstractmethod
    def module(self, module: nn.Module) -> None:
        """Put the engine's wrapped module (DDP, FSDP, …) in place of the plain one."""

    @property
    @abstractmethod
    def device(self) -> device:
        """Where inputs must lie."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with transformers' interface, for who needs a text's tokens as they are.

        Raises:
            ConfigError: If the policy has none of that kind.
        """
        raise ConfigError(
            f"policy: {type(self).__name__} shows no tokenizer of transformers' kind, which is "
            "needed here."
        )

    @abstractmethod
    def logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
    ) -> Float[Tensor, "S K V"]:
        """Return the logits *of the tokens at* the requested positions, in float32.

        Args:
            tokens: The noised sequences.
            attention_mask: True on real tokens; padding changes nothing.
            at: Positions in T, the only ones projected onto the vocabulary.

        Returns:
            Unnormalised log-probabilities, float32.
        """

    def known_logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
        known: Known,
    ) -> Float[Tensor, "S K V"]:
        """Return :meth:`logits`, sooner where the policy can use what is known."""
        return self.logits(tokens, attention_mask, at)

    def new_cache(self) -> Any:
        """Return an empty cache for :meth:`cached_logits`, to be used for one block.

        It has ``select(rows)``, which keeps the named rows of the batch alone.

        Raises:
            ConfigError: If the backbone keeps no keys and values.
        """
        raise ConfigError(
            f"sampler.cache: {type(self).__name__} keeps no keys and values; 'none' is accepted."
        )

    def cached_logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
        *,
        cache: Any,
        window: tuple[int, int],
    ) -> Float[Tensor, "S K V"]:
        """Return logits like :meth:`logits`, from a pass over a window of the sequence alone.

        What lies outside is seen as the cache remembers it; the window's keys and values take
        the place of the remembered ones. The first pass with a cache fills it, whatever the
        window (Fast-dLLM, Wu et al. 2025, arXiv 2505.22618, §3.2).

        Args:
            tokens: The noised sequences.
            attention_mask: True on real tokens.
            at: Positions in T, inside the window.
            cache: From :meth:`new_cache`; its rows are those of ``tokens``.
            window: First position in T, and the one behind the last.

        Returns:
            Logits, float32.

        Raises:
            ConfigError: If the backbone keeps no keys and values.
        """
        raise ConfigError(
            f"sampler.cache: {type(self).__name__} keeps no keys and values; 'none' is accepted."
        )

    def attended_logits(
        self,
        tokens: Int[Tensor, "S X"],
        at: Int[Tensor, "S K"],
        *,
        position_ids: Int[Tensor, "S X"],
        visible: Bool[Tensor, "S X X"],
    ) -> Float[Tensor, "S K V"]:
        """Return logits where each token sees what it is told to see, and stands where told.

        Args:
            tokens: X tokens a row, in any arrangement.
            at: Which of them logits are wanted of.
            position_ids: Where each token stands; two may stand at one place.
            visible: True at [s, i, j] if token i sees token j.

        Returns:
            Logits, float32.

        Raises:
            ConfigError: If the backbone cannot be told.
        """
        raise ConfigError(
            f"sampler: {type(self).__name__} cannot be told which token sees which; choose a "
            "sampler other than wino."
        )

    @abstractmethod
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

        The vocabulary is projected only at ``where`` and in chunks, so no more logits than
        one chunk's exist at a time.

        Args:
            noisy: The noised sequences.
            attention_mask: True on real tokens.
            targets: The tokens to score.
            where: Positions to score.
            temperature: Logits are divided by it first; greater than 0.

        Returns:
            Log-probabilities in nats, float32.
        """

    @abstractmethod
    def corrupt(self, tokens: Int[Tensor, "S T"], where: Bool[Tensor, "S T"]) -> Int[Tensor, "S T"]:
        """Write noise at ``where`` (mask tokens for an absorbing process)."""

    @abstractmethod
    def freeze_reference(self) -> None:
        """Make the current weights π_ref: by a frozen copy, or at no cost under LoRA."""

    @property
    def reference_module(self) -> nn.Module | None:
        """The frozen copy that is π_ref; None where there is none."""
        return None

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """Context in which the policy is π_ref (adapters off, or the frozen copy)."""

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[None]:
        """Context without gradients and dropout; restores the mode it found."""

    @abstractmethod
    def encode(self, examples: Sequence[Example]) -> Prompts:
        """Tokenize prompts and pad them on the left.

        Raises:
            DataError: If a prompt is empty or longer than the model's context.
        """

    @abstractmethod
    def encode_completions(self, texts: Sequence[str], length: int) -> Int[Tensor, "S D"]:
        """Tokenize answers onto a canvas of ``length``, filled up with EOS.

        Raises:
            DataError: If an answer does not fit.
        """

    @abstractmethod
    def decode(self, completions: Int[Tensor, "S D"]) -> list[str]:
        """Return the text of each canvas up to its first EOS, special tokens left out."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line: which checkpoint this is, how large, and what of it is trained."""

    @abstractmethod
    def save(self, directory: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write weights (or the adapter), config and tokenizer in the official layout.

        Args:
            directory: Made if it is missing.
            state: Whole tensors by their names in ``module``, where this process holds only a
                part of them; None: it holds them all.
        """

    def merge_adapters(self) -> None:  # noqa: B027  (a policy without adapters has none to merge)
        """Add adapters, where there are any, into the weights, so that ``save`` writes them all.

        The policy answers as before; its reference is no longer the model without adapters.
        """

    @abstractmethod
    def load_weights(self, directory: Path) -> None:
        """Read back, in place, the trainable weights that ``save`` wrote.

        Raises:
            CheckpointError: If files are missing or of another shape.
        """
