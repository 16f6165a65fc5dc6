"""What a plugin keeps to, as one call: ``check_objective(MyObjective, strength=0.5)``.

Each function looks at every law of an interface and returns nothing, or raises one
:class:`ConformanceError` that names all that are broken.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from dmpo.errors import UnknownNameError
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.objectives.base import Objective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.samplers.base import Sampler, SamplerConfig
from dmpo.tasks.base import Task
from dmpo.tasks.digit_sum import DigitSumConfig, DigitSumTask
from dmpo.testing import (
    baseline,
    likelihood,
    objective,
    plugin_class,
    policy,
    reward,
    sampler,
    task,
    weight,
)
from dmpo.testing.laws import RANDOMNESS, Broken, Law, broken_laws, report
from dmpo.weights.base import Baseline, WeightEstimator

__all__ = [
    "ConformanceError",
    "check_baseline",
    "check_likelihood",
    "check_objective",
    "check_policy",
    "check_reward",
    "check_sampler",
    "check_task",
    "check_weights",
    "laws_of",
]

LENGTH = 8
"""Tokens of a canvas, where a sampler is not told otherwise."""

_LAWS: Mapping[str, tuple[Law, ...]] = {
    "plugin": (*plugin_class.LAWS, RANDOMNESS),
    "policy": policy.LAWS,
    "sampler": sampler.LAWS,
    "task": task.LAWS,
    "reward": reward.LAWS,
    "likelihood": likelihood.LAWS,
    "weights": weight.LAWS,
    "baseline": baseline.LAWS,
    "objective": objective.LAWS,
}


_CALLED: Mapping[str, str] = {"weights": "a weight estimator", "objective": "an objective"}


class ConformanceError(AssertionError):
    """A plugin that breaks laws of its interface; the message names all of them."""

    def __init__(self, message: str, broken: Sequence[Broken] = ()) -> None:
        """Keep what is broken beside the message."""
        super().__init__(message)
        self.broken = tuple(broken)


def laws_of(kind: str) -> Mapping[str, str]:
    """Return what the laws of an interface promise, by name.

    Args:
        kind: ``plugin`` for those of every interface; or ``policy``, ``sampler``, ``task``,
            ``reward``, ``likelihood``, ``weights``, ``baseline``, ``objective``.

    Raises:
        UnknownNameError: If there is no such interface.
    """
    if kind not in _LAWS:
        raise UnknownNameError("kind", kind, _LAWS)
    return {each.name: each.promise for each in _LAWS[kind]}


def check_policy(
    plugin: type[Any],
    /,
    *,
    texts: Sequence[str] = ("12", "7", "345"),
    **parameters: Any,
) -> None:
    """Check a policy.

    Args:
        plugin: The class.
        texts: Prompts and answers of at most 6 tokens that its tokenizer gives back unchanged;
            at least three, of different lengths.
        parameters: Of its ``Config``, for instance ``model=directory``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> policy.PolicyBench:
        make = cast("Callable[[Any], DiffusionPolicy]", plugin)
        outline = getattr(plugin, "outline", None)
        return policy.PolicyBench(
            lambda: make(config), texts, None if outline is None else lambda: outline(config)
        )

    _check(plugin, "policy", DiffusionPolicy, PluginConfig, parameters, bench)


def check_sampler(
    plugin: type[Any],
    /,
    *,
    policy: DiffusionPolicy | None = None,
    examples: Sequence[Example] | None = None,
    **parameters: Any,
) -> None:
    """Check a sampler.

    Args:
        plugin: The class.
        policy: Who denoises; the packaged tiny LLaDA if None.
        examples: What is answered; at least two problems of the tiny LLaDA if None.
        parameters: Of its ``Config``; ``gen_length`` is 8 if it is not given.

    Raises:
        ConformanceError: If a law is broken.
    """
    given = {"gen_length": LENGTH, **parameters}

    def bench(config: Any) -> sampler.SamplerBench:
        return sampler.SamplerBench(_built(plugin, config), given, policy, examples)

    _check(plugin, "sampler", Sampler, SamplerConfig, given, bench)


def check_task(
    plugin: type[Any], /, *, policy: DiffusionPolicy | None = None, **parameters: Any
) -> None:
    """Check a task.

    Args:
        plugin: The class.
        policy: Who is to read its prompts and answers; None: nobody.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> task.TaskBench:
        return task.TaskBench(lambda: cast("Task", _built(plugin, config)), policy)

    _check(plugin, "task", Task, PluginConfig, parameters, bench)


def check_reward(plugin: type[Any], /, *, task: Task | None = None, **parameters: Any) -> None:
    """Check a reward model.

    Args:
        plugin: The class.
        task: Whose problems are answered; `digit_sum` if None.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> reward.RewardBench:
        asked = task or DigitSumTask(DigitSumConfig())
        return reward.RewardBench(_built(plugin, config), asked)

    _check(plugin, "reward", RewardModel, PluginConfig, parameters, bench)


def check_likelihood(plugin: type[Any], /, **parameters: Any) -> None:
    """Check a likelihood.

    Args:
        plugin: The class.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> likelihood.LikelihoodBench:
        return likelihood.LikelihoodBench(_built(plugin, config), by_default=not parameters)

    _check(plugin, "likelihood", Likelihood, LikelihoodConfig, parameters, bench)


def check_weights(plugin: type[Any], /, **parameters: Any) -> None:
    """Check a weight estimator.

    Args:
        plugin: The class.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> weight.WeightBench:
        return weight.WeightBench(_built(plugin, config))

    _check(plugin, "weights", WeightEstimator, PluginConfig, parameters, bench)


def check_baseline(plugin: type[Any], /, **parameters: Any) -> None:
    """Check a weight baseline.

    Args:
        plugin: The class.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def bench(config: Any) -> baseline.BaselineBench:
        return baseline.BaselineBench(_built(plugin, config))

    _check(plugin, "baseline", Baseline, PluginConfig, parameters, bench)


def check_objective(
    plugin: type[Any],
    /,
    *,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    **parameters: Any,
) -> None:
    """Check an objective.

    Args:
        plugin: The class.
        parts: Names and parameters of ``likelihood``, ``weights`` or ``baseline``, in place of its
            ``default_parts``.
        parameters: Of its ``Config``.

    Raises:
        ConformanceError: If a law is broken.
    """

    def build(plugin: Any, config: Any) -> Any:
        return plugin(config, objective.default_parts(plugin, parts))

    def bench(config: Any) -> objective.ObjectiveBench:
        return objective.ObjectiveBench(build(plugin, config))

    _check(plugin, "objective", Objective, PluginConfig, parameters, bench, build)


def _built(plugin: Any, config: Any) -> Any:
    return plugin(config)


def _check(
    plugin: Any,
    kind: str,
    interface: type,
    config: type[PluginConfig],
    parameters: Mapping[str, Any],
    bench: Callable[[Any], Any],
    build: Callable[[Any, Any], Any] = _built,
) -> None:
    """Look at the laws of every plugin, and at those of its interface if it can be built."""
    subject = plugin_class.Subject(
        plugin=plugin, interface=interface, config=config, parameters=parameters, build=build
    )
    own = _LAWS[kind]
    home = _home(plugin)
    broken = broken_laws(subject, plugin_class.SHAPE, home=home)
    if not broken:
        broken = broken_laws(subject, plugin_class.LAWS, home=home)
    looked = len(plugin_class.LAWS)
    if not {each.law for each in broken} & _FATAL:
        made = bench(plugin.Config.model_validate(dict(parameters)))
        broken += broken_laws(made, own, home=home)
        looked += len(own) + 1
    if broken:
        name = getattr(plugin, "__name__", repr(plugin))
        called = _CALLED.get(kind, f"a {kind}")
        raise ConformanceError(report(name, called, broken, num_laws=looked), broken)


_FATAL = {*(each.name for each in plugin_class.SHAPE), plugin_class.builds_from_its_config.name}
"""Without these there is nothing to look at."""


def _home(plugin: Any) -> str:
    try:
        return inspect.getfile(plugin)
    except (OSError, TypeError):
        return ""
