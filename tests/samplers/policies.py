"""A policy of a few random numbers that keeps a record of what it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel
from torch import Tensor, nn

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts


class RandomPolicy(DiffusionPolicy):
    """Logits depend on every real token and its distance, so padding and order matter."""

    Config = BaseModel

    def __init__(self, *, vocab_size: int = 6, seed: int = 0, scale: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vocab_size = vocab_size + 1
        self.mask_token_id = vocab_size
        self.eos_token_id = self.pad_token_id = 0
        self.max_length = 64
        self.forward_tokens = 0
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []
        self._embedding = torch.randn(self.vocab_size, 16, generator=generator)
        self._distance = torch.randn(2 * self.max_length, 16, generator=generator)
        self._head = scale * torch.randn(16, self.vocab_size, generator=generator) / 4
        self._is_evaluating = False

    @property
    def module(self) -> nn.Module:
        raise NotImplementedError

    @module.setter
    def module(self, module: nn.Module) -> None:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def logits(
        self,
        tokens: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        at: Int[Tensor, "S K"],
    ) -> Float[Tensor, "S K V"]:
        assert self._is_evaluating
        self.asked.append((tokens.clone(), attention_mask.clone(), at.clone()))
        self.forward_tokens += tokens.numel()
        length = tokens.shape[1]
        apart = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        seen = self._embedding[tokens] * attention_mask[..., None]
        state = torch.einsum("bjh,ijh->bih", seen, self._distance[apart + self.max_length]).tanh()
        logits = state.gather(1, at[..., None].expand(-1, -1, 16)) @ self._head
        logits[..., self.mask_token_id] = -1e4
        return logits

    def attended_logits(
        self,
        tokens: Int[Tensor, "S X"],
        at: Int[Tensor, "S K"],
        *,
        position_ids: Int[Tensor, "S X"],
        visible: Bool[Tensor, "S X X"],
    ) -> Float[Tensor, "S K V"]:
        assert self._is_evaluating
        self.forward_tokens += tokens.numel()
        apart = position_ids[:, :, None] - position_ids[:, None, :]
        distance = self._distance[apart + self.max_length] * visible[..., None]
        state = torch.einsum("bjh,bijh->bih", self._embedding[tokens], distance).tanh()
        logits = state.gather(1, at[..., None].expand(-1, -1, 16)) @ self._head
        logits[..., self.mask_token_id] = -1e4
        return logits

    def token_logprobs(
        self,
        noisy: Int[Tensor, "S T"],
        attention_mask: Bool[Tensor, "S T"],
        targets: Int[Tensor, "S T"],
        where: Bool[Tensor, "S T"],
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "S T"]:
        everywhere = torch.arange(noisy.shape[1]).expand_as(noisy)
        log_probs = (self.logits(noisy, attention_mask, everywhere) / temperature).log_softmax(-1)
        return log_probs.gather(-1, targets[..., None])[..., 0] * where

    def corrupt(self, tokens: Int[Tensor, "S T"], where: Bool[Tensor, "S T"]) -> Int[Tensor, "S T"]:
        return tokens.masked_fill(where, self.mask_token_id)

    def freeze_reference(self) -> None:
        raise NotImplementedError

    def reference(self) -> contextlib.AbstractContextManager[None]:
        raise NotImplementedError

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        self._is_evaluating = True
        with torch.no_grad():
            yield
        self._is_evaluating = False

    def encode(self, examples: Sequence[Example]) -> Prompts:
        rows = [[int(token) for token in example.prompt.split()] for example in examples]
        width = max(map(len, rows))
        padding = [width - len(row) for row in rows]
        return Prompts(
            examples=tuple(examples),
            tokens=torch.tensor(
                [[self.pad_token_id] * pad + row for pad, row in zip(padding, rows, strict=True)]
            ),
            attention_mask=torch.arange(width) >= torch.tensor(padding)[:, None],
        )

    def encode_completions(self, texts: Sequence[str], length: int) -> Int[Tensor, "S D"]:
        raise NotImplementedError

    def decode(self, completions: Int[Tensor, "S D"]) -> list[str]:
        return [" ".join(map(str, row)) for row in completions.tolist()]

    def describe(self) -> str:
        return "random logits"

    def save(self, directory: Path) -> None:
        raise NotImplementedError

    def load_weights(self, directory: Path) -> None:
        raise NotImplementedError


def make_prompts(policy: DiffusionPolicy, *texts: str) -> Prompts:
    """Encode prompts written as token ids separated by spaces."""
    return policy.encode([Example(prompt=text) for text in texts])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
