"""No sampling at all: completions that stand in the data, such as pairs of a preference file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from pydantic import Field, field_validator, model_validator

from dmpo.errors import ConfigError, DataError, nearest_name
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts, Rollouts
from dmpo.samplers.base import Sampler, SamplerConfig
from dmpo.samplers.canvas import through_first_eos

__all__ = ["GivenConfig", "GivenSampler"]


class GivenConfig(SamplerConfig):
    """Where the completions stand."""

    columns: tuple[str, ...] = Field(
        ("chosen", "rejected"),
        min_length=1,
        description="Columns of an example that hold a completion each, the best first.",
    )

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) < len(columns):
            raise ValueError(f"a column is named twice in {', '.join(columns)}")
        return columns

    @model_validator(mode="after")
    def _check_temperature(self) -> GivenConfig:
        if self.temperature != 1:
            raise ValueError(
                f"temperature = {self.temperature} has no effect: nothing is drawn; leave it out"
            )
        return self


@final
class GivenSampler(Sampler):
    """Puts the texts of an example's columns on the canvas, filled up with EOS.

    N is the number of columns. No model is asked, so there is no path, and log-probabilities of
    the behaviour policy do not exist: the texts are somebody else's.
    """

    Config = GivenConfig

    def __init__(self, config: GivenConfig) -> None:
        """Keep the config."""
        self.config = config
        self.records_path = False
        self.num_rollouts = len(config.columns)

    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Rollouts:
        """Return the given completions of each prompt, in the order of the columns.

        Raises:
            ConfigError: If N is not the number of columns.
            DataError: If a prompt lacks a column, or its text does not fit the canvas.
        """
        columns, length = self.config.columns, self.config.gen_length
        if num_rollouts != len(columns):
            raise ConfigError(
                f"training.rollouts_per_prompt: {num_rollouts} rollouts are asked for, and sampler "
                f"'given' has {len(columns)} (sampler.columns: {', '.join(columns)}); set it to "
                f"{len(columns)}."
            )
        rows = [
            _encoded(policy, _text(example, number, column), length, number, column)
            for number, example in enumerate(prompts.examples)
            for column in columns
        ]
        completions = torch.cat(rows)
        texts = policy.decode(completions)
        shape = (len(prompts.examples), num_rollouts, length)
        return Rollouts(
            prompts=prompts,
            completions=completions.reshape(shape),
            answer_mask=through_first_eos(completions, policy.eos_token_id).reshape(shape),
            commit_step=torch.zeros_like(completions).reshape(shape),
            log_probs=None,
            temperature=self.config.temperature,
            num_forwards=0,
            texts=_grouped(texts, num_rollouts),
        )


def _text(example: Example, number: int, column: str) -> str:
    """Return the completion of a column."""
    name = f"sampler.columns: prompt {number} ({example.prompt!r:.40})"
    if column not in example.columns:
        near = nearest_name(column, example.columns)
        raise DataError(
            f"{name} has no column {column!r}; it has "
            f"{', '.join(map(repr, example.columns)) or 'none'}."
            + (f" Did you mean {near!r}?" if near else "")
        )
    value: Any = example.columns[column]
    if not isinstance(value, str):
        raise DataError(f"{name}: column {column!r} must be text, found {value!r:.80}.")
    return value


def _encoded(
    policy: DiffusionPolicy, text: str, length: int, number: int, column: str
) -> torch.Tensor:
    """Return one text on a canvas of its own, [1, D]."""
    try:
        return policy.encode_completions([text], length)
    except DataError as error:
        reason = str(error).removeprefix("completion 0: ")
        raise DataError(f"prompt {number}, column {column!r}: {reason}") from None


def _grouped(texts: Sequence[str], size: int) -> tuple[tuple[str, ...], ...]:
    starts = range(0, len(texts), size)
    return tuple(tuple(texts[start : start + size]) for start in starts)
