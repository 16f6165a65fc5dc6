"""Completing prompts that belong to no task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmpo.config.assembly import build_policy, build_sampler, place_on_accelerator
from dmpo.config.preflight import NamedText, canvas_length, check_prompts
from dmpo.config.run import GenerateConfig
from dmpo.errors import ConfigError, DataError, reading_failure
from dmpo.records import Example
from dmpo.training.randomness import generator_for

__all__ = ["complete", "read_prompts"]

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


def complete(
    config: GenerateConfig, prompts: Sequence[NamedText], *, num_completions: int
) -> list[dict[str, Any]]:
    """Return ``{"prompt": …, "completions": […]}`` for each prompt.

    Args:
        config: Policy and sampler.
        prompts: At least one.
        num_completions: Completions of each.

    Raises:
        ConfigError: If there are to be none, or several at temperature 0.
        DataError: If a prompt is empty, too long, or not expressible.
    """
    if num_completions < 1:
        raise ConfigError(f"--n: must be at least 1; given {num_completions}.")
    sampler = build_sampler(config.sampler)
    if num_completions > 1 and config.sampler.parameters.get("temperature") == 0:
        raise ConfigError(
            f"--n: {num_completions} completions at temperature 0 would be alike; "
            "give a --temperature above 0."
        )
    policy = build_policy(config.policy)
    check_prompts(policy, prompts, room=canvas_length(config.sampler))
    place_on_accelerator(policy)
    generator = generator_for(config.seed, 0, 0, "generate")
    step = max(1, ROWS_AT_ONCE // num_completions)
    records: list[dict[str, Any]] = []
    for start in range(0, len(prompts), step):
        chunk = prompts[start : start + step]
        with policy.evaluating():
            rollouts = sampler.sample(
                policy,
                policy.encode([Example(prompt=prompt.text) for prompt in chunk]),
                num_rollouts=num_completions,
                generator=generator,
            )
        records += [
            {"prompt": prompt.text, "completions": list(texts)}
            for prompt, texts in zip(chunk, rollouts.texts, strict=True)
        ]
    return records
