"""Any function in TRL's signature as reward: ``f(prompts, completions, **columns)``."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from pydantic import Field, field_validator

from dmpo.errors import ConfigError, RewardError, nearest_name
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.rewards.running import row_name, row_of, run_within
from dmpo.tasks.base import Task
from dmpo.user_code import checked_target, load_object

__all__ = ["FunctionReward", "FunctionRewardConfig", "TrainerState"]


LARGEST = torch.finfo(torch.float32).max
"""Rewards are kept in single precision."""
DIAGNOSIS_SECONDS = 10.0


class FunctionRewardConfig(PluginConfig):
    """Parameters of :class:`FunctionReward`."""

    target: str = Field(description="package.module:function or path/to/file.py:function.")

    @field_validator("target")
    @classmethod
    def _has_two_parts(cls, target: str) -> str:
        return checked_target(target, "function")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """What a function learns of the run as ``trainer_state``; TRL's has more."""

    global_step: int
    """Optimizer steps done."""


@final
class FunctionReward(RewardModel):
    """A user's function, called once per buffer with one list entry per rollout, as TRL calls it.

    It gets ``prompts`` and ``completions`` (text: conversations as lists of messages are not
    ours), ``completion_ids`` (token ids up to and including the first EOS) and every column of
    the examples as keyword arguments, each a list with one entry per rollout, group by group. A
    column that an example lacks is None there. Beside them it gets ``trainer_state`` (with
    ``global_step`` alone), ``log_metric(name, value)`` and ``log_extra(name, values)``; what is
    logged becomes a component, if it is made of numbers. What it does not accept is not passed,
    unless it takes ``**kwargs``.

    It returns one number per rollout; None says that it has no opinion: its component is NaN
    there and the total 0. It may be ``async``. A function that raises is called once more row by
    row, for ten seconds at most, only to say which row it raises on.
    """

    Config = FunctionRewardConfig

    def __init__(self, config: FunctionRewardConfig) -> None:
        """Import the function.

        Raises:
            ConfigError: If there is no such file, module or function, or it fails to import.
        """
        self.config = config
        self._function = _load(config.target)
        self._parameters = _parameters(self._function, config.target)
        self._name = config.target.rpartition(":")[2]
        self._step = 0

    def begin_step(self, step: int) -> None:
        """Remember the step for ``trainer_state``."""
        self._step = step

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:  # noqa: ARG002
        """Call the function.

        Raises:
            RewardError: If it raises, needs a column that is not there, or does not return one
                finite number or None per rollout.
        """
        logged: dict[str, Any] = {}
        try:
            returned = self._call(rollouts, logged)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            where = self._row_that_raises(rollouts)
            raise RewardError(
                f"reward function {self.config.target}{where}: {type(error).__name__}: {error}"
            ) from error
        shape = (rollouts.num_prompts, rollouts.num_rollouts)
        values = torch.tensor(_values(returned, rollouts, self.config.target)).reshape(shape)
        extra = {
            name: torch.tensor(found, dtype=torch.float32).expand(rollouts.num_rows)
            for name, value in logged.items()
            if (found := _logged_numbers(value, rollouts.num_rows)) is not None
        }
        # Where it has no opinion, what it logs beside is none either.
        missing = values.isnan()
        components = {
            name: value.reshape(shape).masked_fill(missing, torch.nan)
            for name, value in extra.items()
        }
        return Rewards(total=values.nan_to_num(0.0), components={**components, self._name: values})

    def _call(self, rollouts: Rollouts, logged: dict[str, Any]) -> Any:
        arguments = {
            **_arguments(rollouts),
            "trainer_state": TrainerState(global_step=self._step),
            "log_metric": logged.__setitem__,
            "log_extra": logged.__setitem__,
        }
        accepted = _accepted(self._parameters, arguments, self.config.target)
        returned = self._function(**accepted)
        return _awaited(returned) if inspect.iscoroutine(returned) else returned

    def _row_that_raises(self, rollouts: Rollouts) -> str:
        if rollouts.num_rows == 1:
            return ""
        end = time.monotonic() + DIAGNOSIS_SECONDS
        for row in range(rollouts.num_rows):
            if time.monotonic() > end:
                break
            try:
                self._call(row_of(rollouts, row), {})
            except (Exception, SystemExit):
                return f", {row_name(row, rollouts.num_rollouts)}"
        return ""


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    # A notebook's thread has a loop of its own, in which no other can run.
    return run_within(threading.TIMEOUT_MAX, lambda: asyncio.run(coroutine))


def _logged_numbers(value: Any, num_rows: int) -> list[float] | float | None:
    found = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(found, numbers.Real):
        return float(found)
    if not isinstance(found, Sequence) or len(found) != num_rows:
        return None
    if all(each is None or isinstance(each, numbers.Real) for each in found):
        return [math.nan if each is None else float(each) for each in found]
    return None


def _arguments(rollouts: Rollouts) -> dict[str, list[Any]]:
    repeats = range(rollouts.num_rollouts)
    examples = [example for example in rollouts.prompts.examples for _ in repeats]
    names = dict.fromkeys(name for example in rollouts.prompts.examples for name in example.columns)
    columns = {name: [example.columns.get(name) for example in examples] for name in names}
    ids = rollouts.completions.flatten(0, 1).tolist()
    lengths = rollouts.answer_mask.flatten(0, 1).sum(dim=1).tolist()
    return {
        **columns,
        "prompts": [example.prompt for example in examples],
        "completions": [text for texts in rollouts.texts for text in texts],
        "completion_ids": [row[:length] for row, length in zip(ids, lengths, strict=True)],
    }


def _parameters(function: Callable[..., Any], target: str) -> tuple[inspect.Parameter, ...]:
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"reward.target: {target} does not tell its arguments.") from error
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"reward.target: {target} takes {parameter.name!r} by position alone; arguments "
                "are given by name: leave out the `/`."
            )
    return parameters


def _accepted(
    parameters: Sequence[inspect.Parameter], arguments: Mapping[str, Any], target: str
) -> Mapping[str, Any]:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        accepted = dict(arguments)
    else:
        names = {parameter.name for parameter in parameters}
        accepted = {name: value for name, value in arguments.items() if name in names}
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if not variadic and parameter.default is parameter.empty and parameter.name not in accepted:
            near = nearest_name(parameter.name, arguments)
            raise RewardError(
                f"reward function {target} needs {parameter.name!r}; there are "
                f"{', '.join(sorted(arguments))}." + (f" Did you mean {near!r}?" if near else "")
            )
    return accepted


def _values(returned: Any, rollouts: Rollouts, target: str) -> list[float]:
    found = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise RewardError(
            f"reward function {target} returned {type(returned).__name__}, not a list of "
            f"{rollouts.num_rows} numbers."
        )
    if len(found) != rollouts.num_rows:
        raise RewardError(
            f"reward function {target} returned {len(found)} values for "
            f"{rollouts.num_rows} rollouts."
        )
    return [_number(value, row, rollouts, target) for row, value in enumerate(found)]


def _number(value: Any, row: int, rollouts: Rollouts, target: str) -> float:
    if value is None:
        return math.nan
    number: Any = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    is_real = isinstance(number, numbers.Real)
    if is_real and abs(number) <= LARGEST:  # which NaN is not
        return float(number)
    raise RewardError(
        f"reward function {target}, {row_name(row, rollouts.num_rollouts)}: "
        f"{value!r:.80} is not a finite number of single precision."
    )


def _load(target: str) -> Callable[..., Any]:
    found = load_object(target, "reward.target", "function")
    if inspect.isclass(found) or not callable(found):
        source, _, name = target.rpartition(":")
        kind = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
        raise ConfigError(f"reward.target: {name} of {source} is no function, but {kind}.")
    return found  # type: ignore[no-any-return]
