"""Any function in TRL's signature as reward: ``f(prompts, completions, **columns)``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, final

import torch
from pydantic import Field, field_validator

from dmpo.errors import ConfigError, RewardError, nearest_name
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task

__all__ = ["FunctionReward", "FunctionRewardConfig"]


LARGEST = torch.finfo(torch.float32).max
"""Rewards are kept in single precision."""


class FunctionRewardConfig(PluginConfig):
    """Parameters of :class:`FunctionReward`."""

    target: str = Field(description="package.module:function or path/to/file.py:function.")

    @field_validator("target")
    @classmethod
    def _has_two_parts(cls, target: str) -> str:
        source, _, name = target.rpartition(":")
        if not (source and name):
            raise ValueError("must be module:function or file.py:function")
        return target


@final
class FunctionReward(RewardModel):
    """A user's function, called once per buffer with one list entry per rollout.

    It gets ``prompts`` and ``completions`` (text), ``completion_ids`` (token ids up to and
    including the first EOS) and every column of the examples as keyword arguments, each a list
    with one entry per rollout, group by group; what it does not accept is not passed, unless
    it takes ``**kwargs``. A column that an example lacks is None there. It returns one number per
    rollout; None says that it has no opinion, and that rollout gets nothing from it: 0.
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

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:  # noqa: ARG002
        """Call the function.

        Raises:
            RewardError: If it raises, needs a column that is not there, or does not return one
                finite number or None per rollout.
        """
        arguments = _accepted(self._parameters, _arguments(rollouts), self.config.target)
        try:
            returned = self._function(**arguments)
            values = _values(returned, rollouts, self.config.target)
        except RewardError:
            raise
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            raise RewardError(
                f"reward function {self.config.target}: {type(error).__name__}: {error}"
            ) from error
        component = torch.tensor(values).reshape(rollouts.num_prompts, rollouts.num_rollouts)
        return Rewards(total=component, components={self._name: component})


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
    parameters: Sequence[inspect.Parameter], arguments: Mapping[str, list[Any]], target: str
) -> Mapping[str, list[Any]]:
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
    if inspect.iscoroutine(returned):
        returned.close()
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
        return 0.0
    number: Any = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
    is_real = isinstance(number, numbers.Real)
    if is_real and abs(number) <= LARGEST:  # which NaN is not
        return float(number)
    prompt, rollout = divmod(row, rollouts.num_rollouts)
    raise RewardError(
        f"reward function {target}, row {row} (prompt {prompt}, rollout {rollout}): "
        f"{value!r:.80} is not a finite number of single precision."
    )


def _load(target: str) -> Callable[..., Any]:
    source, _, name = target.rpartition(":")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module may raise
        raise ConfigError(
            f"reward.target: {source} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if inspect.isclass(function) or not (function is None or callable(function)):
        kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
        raise ConfigError(f"reward.target: {name} of {source} is no function, but {kind}.")
    if function is None:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = nearest_name(name, functions)
        raise ConfigError(
            f"reward.target: {source} has no function {name!r}; it has "
            f"{', '.join(functions) or 'none'}." + (f" Did you mean {near!r}?" if near else "")
        )
    return function  # type: ignore[no-any-return]


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ConfigError(
                f"reward.target: no module {error.name!r}; a file is named by its path, "
                f"{name.replace('.', '/')}.py:function."
            ) from error
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"reward.target: no file {path}.")
    name = f"_dmpo_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"reward.target: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while it is being imported.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
