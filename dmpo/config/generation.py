"""Completing prompts that belong to no task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmpo.config.assembly import build_policy, build_sampler, place_on_accelerator
from dmpo.config.run import GenerateConfig
from dmpo.errors import ConfigError, DataError
from dmpo.records import Example
from dmpo.training.randomness import generator_for

__all__ = ["complete", "read_prompts"]

ROWS_AT_ONCE = 32
"""Completions sampled in one go, at most (one prompt's always are)."""


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: JSON lines with ``prompt`` (.jsonl), or one a line.

    Raises:
        DataError: If the file cannot be read, or a line is not what it should be.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"--file: {path} cannot be read: {reason}.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_prompt(line, f"--file: {path}, line {number}") for number, line in numbered]


def _prompt(line: str, origin: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{origin}: not JSON: {error}.") from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str):
        raise DataError(f"{origin}: expected an object with a text `prompt`.")
    return prompt


def complete(
    config: GenerateConfig, prompts: Sequence[str], *, num_completions: int
) -> list[dict[str, Any]]:
    """Return ``{"prompt": …, "completions": […]}`` for each prompt.

    Args:
        config: Policy and sampler.
        prompts: At least one.
        num_completions: Completions of each, at least 1.

    Raises:
        ConfigError: If several completions are asked for at temperature 0.
    """
    sampler = build_sampler(config.sampler)
    if num_completions > 1 and config.sampler.parameters.get("temperature") == 0:
        raise ConfigError(
            f"--n: {num_completions} completions at temperature 0 would be alike; "
            "give a --temperature above 0."
        )
    policy = build_policy(config.policy)
    place_on_accelerator(policy)
    generator = generator_for(config.seed, 0, 0, "generate")
    step = max(1, ROWS_AT_ONCE // num_completions)
    records: list[dict[str, Any]] = []
    for start in range(0, len(prompts), step):
        chunk = prompts[start : start + step]
        with policy.evaluating():
            rollouts = sampler.sample(
                policy,
                policy.encode([Example(prompt=prompt) for prompt in chunk]),
                num_rollouts=num_completions,
                generator=generator,
            )
        records += [
            {"prompt": prompt, "completions": list(texts)}
            for prompt, texts in zip(chunk, rollouts.texts, strict=True)
        ]
    return records
