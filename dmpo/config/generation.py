"""Completing prompts that belong to no task."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from dmpo.config.assembly import build_policy, build_sampler, place_on_accelerator
from dmpo.config.preflight import NamedText, canvas_length, check_prompts
from dmpo.config.run import GenerateConfig
from dmpo.errors import ConfigError, DataError, reading_failure
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Rollouts
from dmpo.samplers.block_loop import Snapshot
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.training.randomness import generator_for

__all__ = ["Completed", "Completer", "read_prompts"]

ROWS_AT_ONCE = 32
"""Completions sampled in one go, at most (one prompt's always are)."""


def read_prompts(path: Path) -> list[NamedText]:
    """Return the prompts of a file: JSON lines with ``prompt`` (.jsonl), or one a line.

    Raises:
        DataError: If the file cannot be read, a line is not what it should be, or there is
            no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"--file: {path} cannot be read: {reading_failure(error)}.") from None
    # Only "\n" ends a line of JSONL: text inside may hold the other separators of Unicode.
    is_json = path.suffix == ".jsonl"
    lines = text.split("\n") if is_json else text.splitlines()
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            name = f"--file: {path}, line {number}"
            prompts.append(NamedText(name, _prompt(line, name) if is_json else line))
    if not prompts:
        raise DataError(f"--file: {path} holds no prompt.")
    return prompts


def _prompt(line: str, origin: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin}: not JSON: {reading_failure(error)}.") from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str):
        raise DataError(f"{origin}: expected an object with a text `prompt`.")
    return prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A prompt, its completions, and what they cost."""

    prompt: str
    """What the policy read."""
    completions: tuple[str, ...]
    """Texts up to the first EOS, N of them."""
    num_tokens: tuple[int, ...]
    """Tokens of each completion, its first EOS included, none behind it."""
    num_forwards: int
    """Forward passes of the batch that the prompt was completed in, others of which may have
    needed more of them than this one."""

    @property
    def tokens_per_forward(self) -> float:
        """Tokens of a completion, on average, over the forward passes of the batch."""
        passes = len(self.completions) * self.num_forwards
        return sum(self.num_tokens) / passes if passes else 0.0

    def record(self) -> dict[str, Any]:
        """Return what is written as a line of JSON."""
        return {
            "prompt": self.prompt,
            "completions": list(self.completions),
            "tokens": list(self.num_tokens),
            "forward_passes": self.num_forwards,
            "tokens_per_forward": round(self.tokens_per_forward, 4),
        }


@final
class Completer:
    """A policy and a sampler, ready to complete prompts.

    The draws of one batch follow those of the batch before.

    Args:
        config: Policy and sampler.
        num_completions: N, completions of each prompt.
        is_watched: Whether ``complete`` will be asked to show its steps.

    Raises:
        ConfigError: If there are to be no completions, or several at temperature 0, or if the
            sampler cannot be watched.
    """

    def __init__(
        self, config: GenerateConfig, *, num_completions: int = 1, is_watched: bool = False
    ) -> None:
        """Check what can be checked in an instant, then load the policy."""
        _check_count(config, num_completions)
        self._sampler = build_sampler(config.sampler)
        if is_watched and not isinstance(self._sampler, BlockSampler):
            raise ConfigError(
                f"--watch: sampler {config.sampler.name!r} does not show its steps (it is no "
                "BlockSampler); leave --watch out, or choose another sampler."
            )
        self.policy: DiffusionPolicy = build_policy(config.policy)
        self._num_completions = num_completions
        self._room = canvas_length(config.sampler)
        self._generator = generator_for(config.seed, 0, 0, "generate")
        self._is_placed = False

    @property
    def block_size(self) -> int:
        """Tokens that the sampler fills before it goes on to the next ones."""
        sampler = self._sampler
        return sampler.config.block_size if isinstance(sampler, BlockSampler) else self._room

    @property
    def prompts_at_once(self) -> int:
        """Prompts that one batch should hold, at most."""
        return max(1, ROWS_AT_ONCE // self._num_completions)

    def check(self, prompts: Sequence[NamedText]) -> None:
        """Find out whether the policy can read every prompt and has room for an answer.

        Raises:
            DataError: Naming the first that is empty, too long, or not expressible.
        """
        check_prompts(self.policy, prompts, room=self._room)

    def complete(
        self, prompts: Sequence[str], on_step: Callable[[Snapshot], None] | None = None
    ) -> list[Completed]:
        """Complete some prompts in one batch.

        Args:
            prompts: At least one; checked before.
            on_step: Told of the canvas after each step; needs a sampler that can be watched.

        Returns:
            One entry per prompt, in order.
        """
        if not self._is_placed:
            place_on_accelerator(self.policy)
            self._is_placed = True
        sample = self._sampler.sample
        if on_step is not None and isinstance(self._sampler, BlockSampler):
            sample = functools.partial(self._sampler.watched_sample, on_step=on_step)
        with self.policy.evaluating():
            rollouts = sample(
                self.policy,
                self.policy.encode([Example(prompt=prompt) for prompt in prompts]),
                num_rollouts=self._num_completions,
                generator=self._generator,
            )
        return _completed(prompts, rollouts)


def _check_count(config: GenerateConfig, num_completions: int) -> None:
    if num_completions < 1:
        raise ConfigError(f"--n: must be at least 1; given {num_completions}.")
    if num_completions > 1 and config.sampler.parameters.get("temperature") == 0:
        raise ConfigError(
            f"--n: {num_completions} completions at temperature 0 would be alike; "
            "give a --temperature above 0."
        )


def _completed(prompts: Sequence[str], rollouts: Rollouts) -> list[Completed]:
    counts = rollouts.answer_mask.sum(dim=-1).tolist()
    return [
        Completed(
            prompt=prompt,
            completions=texts,
            num_tokens=tuple(tokens),
            num_forwards=rollouts.num_forwards,
        )
        for prompt, texts, tokens in zip(prompts, rollouts.texts, counts, strict=True)
    ]
