"""A task of the user's own, named where it stands: ``--task my_module:MyTask``."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, final

from pydantic import Field, ValidationError, field_validator

from dmpo.errors import ConfigError
from dmpo.records import Example, Split
from dmpo.registry import PluginConfig
from dmpo.settings import first_validation_message
from dmpo.tasks.base import Task
from dmpo.user_code import checked_target, load_object

__all__ = ["ObjectTask", "ObjectTaskConfig"]

OPTION = "task.target"


class ObjectTaskConfig(PluginConfig):
    """Parameters of :class:`ObjectTask`."""

    target: str = Field(description="package.module:name or path/to/file.py:name.")
    parameters: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Fields of the class's own Config, or arguments of the function.",
    )

    @field_validator("target")
    @classmethod
    def _has_two_parts(cls, target: str) -> str:
        return checked_target(target)


@final
class ObjectTask(Task):
    """A task without an entry point: everything is the named object's.

    The target is a :class:`~dmpo.tasks.base.Task` class, which is built from ``parameters``
    through its ``Config``; a task; or a function that returns one, called with ``parameters``.
    """

    Config = ObjectTaskConfig

    def __init__(self, config: ObjectTaskConfig) -> None:
        """Import the object and build the task.

        Raises:
            ConfigError: If there is none, or it makes no task of the parameters.
        """
        self.config = config
        self._task = _built(load_object(config.target, OPTION), config)
        self.reward_weights: Mapping[str, float] = self._task.reward_weights
        self.headline = self._task.headline
        self.response_length = self._task.response_length

    def examples(self, split: Split) -> Sequence[Example]:
        """See the object's own."""
        return self._task.examples(split)

    def read_answer(self, example: Example, completion: str) -> str | None:
        """See the object's own."""
        return self._task.read_answer(example, completion)

    def grade(self, example: Example, completion: str) -> Mapping[str, float]:
        """See the object's own."""
        return self._task.grade(example, completion)

    def grade_all(self, pairs: Sequence[tuple[Example, str]]) -> list[Mapping[str, float]]:
        """See the object's own."""
        return self._task.grade_all(pairs)

    def num_questions(self, example: Example) -> int:
        """See the object's own."""
        return self._task.num_questions(example)

    def from_record(self, record: Mapping[str, Any]) -> Example:
        """See the object's own."""
        return self._task.from_record(record)

    def demonstrate(self, example: Example, rng: random.Random) -> str:
        """See the object's own."""
        return self._task.demonstrate(example, rng)


def _built(found: Any, config: ObjectTaskConfig) -> Task:
    target, parameters = config.target, dict(config.parameters)
    if isinstance(found, type) and issubclass(found, Task):
        if missing := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
            raise ConfigError(f"{OPTION}: {target} does not define {missing}.")
        try:
            settings = found.Config.model_validate(parameters)
        except ValidationError as error:
            message = first_validation_message(
                error, found.Config, prefix="task.parameters", owner=target
            )
            raise ConfigError(message) from None
        found = found(settings)  # type: ignore[call-arg]  # by contract: cls(config)
    elif callable(found) and not isinstance(found, Task):
        try:
            found = found(**parameters)
        except (Exception, SystemExit) as error:  # whatever a user's function may raise
            raise ConfigError(f"{OPTION}: {target}: {type(error).__name__}: {error}") from error
    elif parameters:
        raise ConfigError(f"task.parameters: {target} is a task already and takes none.")
    if not isinstance(found, Task):
        raise ConfigError(
            f"{OPTION}: {target} must be a dmpo Task, a class or a function that makes one; it is "
            f"of type {type(found).__name__}."
        )
    return found
