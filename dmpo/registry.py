"""The one door through which built-ins and third-party plugins enter.

A plugin is a class registered under an entry-point group (``dmpo.policies``, …). Nothing is
imported until it is asked for; a plugin that cannot be imported is reported by name and
leaves all others usable; so does a name that two packages claim: asking for it is an error that
names both. A class that no package registers yet is named by where it stands:
``module:Class`` or ``path/to/file.py:Class``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from dmpo.errors import ConfigError, PluginError, UnknownNameError
from dmpo.settings import Settings, first_validation_message
from dmpo.user_code import load_object

if TYPE_CHECKING:
    from dmpo.likelihoods.base import Likelihood
    from dmpo.objectives.base import Objective
    from dmpo.policies.base import DiffusionPolicy
    from dmpo.rewards.base import RewardModel
    from dmpo.samplers.base import Sampler
    from dmpo.tasks.base import Task
    from dmpo.weights.base import Baseline, WeightEstimator

__all__ = [
    "BASELINES",
    "LIKELIHOODS",
    "OBJECTIVES",
    "POLICIES",
    "REGISTRIES",
    "REWARDS",
    "SAMPLERS",
    "TASKS",
    "WEIGHTS",
    "PluginConfig",
    "PluginEntry",
    "Registry",
]

T = TypeVar("T")


class PluginConfig(Settings):
    """Base of every plugin's ``Config``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """Where a registered name leads, known without importing it."""

    name: str
    """The name users type."""
    group: str
    """The entry-point group, for example ``dmpo.samplers``."""
    target: str
    """``module:attribute``."""
    distribution: str
    """Name and version of the package that registered it."""


class Registry(Generic[T]):
    """All plugins of one interface, by name.

    Args:
        kind: The interface's everyday name, used in messages (``"sampler"``).
        group: The entry-point group (``"dmpo.samplers"``).
        interface: ``module:attribute`` of the abstract base every plugin must derive from.
    """

    def __init__(self, kind: str, group: str, interface: str) -> None:
        """Remember where to look; nothing is looked up yet."""
        self.kind = kind
        self.group = group
        self._interface = interface

    def entries(self) -> Mapping[str, PluginEntry]:
        """Return every registered name with its target, sorted by name, importing nothing.

        Of a name that two packages claim, the first claim is listed.
        """
        return {name: claims[0] for name, claims in _claims(self.group).items()}

    def names(self) -> tuple[str, ...]:
        """Return the registered names, sorted."""
        return tuple(self.entries())

    def entry(self, name: str) -> PluginEntry:
        """Return what is known of ``name``.

        A name may carry a variant, ``family/variant``, or say where an unregistered class
        stands, ``module:Class``.

        Raises:
            UnknownNameError: If nothing is registered under the name or its family.
            PluginError: If two packages register the name.
        """
        if ":" in name:
            return PluginEntry(
                name=name, group=self.group, target=name, distribution="code of one's own"
            )
        claims = _claims(self.group)
        found = claims.get(name) or claims.get(name.partition("/")[0])
        if found is None:
            raise UnknownNameError(self.kind, name, claims)
        if len(found) > 1:
            owners = " and by ".join(f"{claim.distribution} ({claim.target})" for claim in found)
            raise PluginError(
                f"{self.kind} {name!r} is registered by {owners}; uninstall all but one of them."
            )
        return found[0]

    def load(self, name: str) -> type[T]:
        """Import and return the class registered under ``name``.

        Raises:
            UnknownNameError: If nothing is registered under the name.
            PluginError: If two packages register it, its module cannot be imported, or the
                class does not derive from the interface, leaves a part of it undefined, or has
                no ``Config``.
            ConfigError: If a ``module:Class`` cannot be found or imported.
        """
        entry = self.entry(name)
        if entry.target == name:
            plugin = _own_class(name, _place(name), self.kind)
        else:
            plugin = _import_target(entry, self.kind)
        interface = _attribute(self._interface)
        named = _named(entry, self.kind)
        if not (isinstance(plugin, type) and issubclass(plugin, interface)):
            raise PluginError(
                f"{named} does not derive from {interface.__module__}.{interface.__name__}."
            )
        config = getattr(plugin, "Config", None)
        if not (isinstance(config, type) and issubclass(config, BaseModel)):
            raise PluginError(f"{named} needs a pydantic model as its Config attribute.")
        if missing := ", ".join(sorted(getattr(plugin, "__abstractmethods__", ()))):
            raise PluginError(f"{named} does not define {missing}.")
        return cast("type[T]", plugin)

    def config(
        self, name: str, parameters: Mapping[str, Any], *, field: str | None = None
    ) -> PluginConfig:
        """Validate ``parameters`` by the plugin's own model.

        A name of the form ``family/variant`` hands ``variant`` to the ``Config``'s field of
        that name.

        Args:
            name: A registered name.
            parameters: Everything else that the user's section says.
            field: What errors call the section; the registry's kind if None.

        Raises:
            ConfigError: If a parameter is unknown, of the wrong type or out of range; the
                message starts with the field's dotted name.
        """
        plugin = self.load(name)
        model = cast("type[PluginConfig]", plugin.Config)  # type: ignore[attr-defined]
        given = dict(parameters)
        variant = "" if ":" in name else name.partition("/")[2]
        if variant:
            if "variant" not in model.model_fields:
                raise UnknownNameError(self.kind, name, self.names())
            given.setdefault("variant", variant)
        try:
            return model.model_validate(given)
        except ValidationError as error:
            message = first_validation_message(
                error, model, prefix=field or self.kind, owner=f"{self.kind} {name!r}"
            )
            raise ConfigError(message) from None

    def build(self, name: str, parameters: Mapping[str, Any] | None = None) -> T:
        """Build the plugin from its validated parameters: ``cls(config)``.

        Objectives need their parts beside their config and are built by
        :func:`dmpo.config.assembly.build_objective` instead.

        Raises:
            UnknownNameError: See :meth:`load`.
            PluginError: See :meth:`load`.
            ConfigError: See :meth:`config`.
        """
        plugin = cast("Any", self.load(name))
        return cast("T", plugin(self.config(name, parameters or {})))

    def broken(self) -> dict[str, str]:
        """Import every plugin and return, for those that fail, name and reason."""
        reasons = {}
        for name in self.names():
            try:
                self.load(name)
            except PluginError as error:
                reasons[name] = str(error)
        return reasons


@functools.cache
def _claims(group: str) -> Mapping[str, tuple[PluginEntry, ...]]:
    found: dict[str, tuple[PluginEntry, ...]] = {}
    for point in metadata.entry_points(group=group):
        package = point.dist
        owner = f"{package.name} {package.version}" if package else "an unnamed package"
        entry = PluginEntry(name=point.name, group=group, target=point.value, distribution=owner)
        if entry not in found.get(point.name, ()):
            found[point.name] = (*found.get(point.name, ()), entry)
    return dict(sorted(found.items()))


def _attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


@functools.cache
def _own_class(target: str, place: Path, kind: str) -> Any:  # noqa: ARG001  (a part of the key)
    """Return a user's own class, the same one each time: it is compared by identity."""
    return load_object(target, kind, "class")


def _named(entry: PluginEntry, kind: str) -> str:
    """Return a plugin as the subject of a sentence."""
    if entry.target == entry.name:
        return f"{kind} {entry.name!r}"
    return f"{kind} {entry.name!r} of {entry.distribution}: {entry.target}"


def _place(target: str) -> Path:
    """Return what tells two targets of one text apart: a file's path starts where one is."""
    return Path(target.rpartition(":")[0]).absolute()


def _import_target(entry: PluginEntry, kind: str) -> Any:
    try:
        return _attribute(entry.target)
    except (Exception, SystemExit) as error:  # whatever a third party's import may raise
        raise PluginError(
            f"{kind} {entry.name!r} of {entry.distribution} cannot be imported from "
            f"{entry.target}: {type(error).__name__}: {error}"
        ) from error


POLICIES: Registry[DiffusionPolicy] = Registry(
    "policy", "dmpo.policies", "dmpo.policies.base:DiffusionPolicy"
)
"""Policies by name."""
SAMPLERS: Registry[Sampler] = Registry("sampler", "dmpo.samplers", "dmpo.samplers.base:Sampler")
"""Samplers by name."""
TASKS: Registry[Task] = Registry("task", "dmpo.tasks", "dmpo.tasks.base:Task")
"""Tasks by name."""
REWARDS: Registry[RewardModel] = Registry("reward", "dmpo.rewards", "dmpo.rewards.base:RewardModel")
"""Reward models by name."""
LIKELIHOODS: Registry[Likelihood] = Registry(
    "likelihood", "dmpo.likelihoods", "dmpo.likelihoods.base:Likelihood"
)
"""Likelihoods by name."""
WEIGHTS: Registry[WeightEstimator] = Registry(
    "weights", "dmpo.weights", "dmpo.weights.base:WeightEstimator"
)
"""Weight estimators by name."""
BASELINES: Registry[Baseline] = Registry("baseline", "dmpo.baselines", "dmpo.weights.base:Baseline")
"""Weight baselines by name."""
OBJECTIVES: Registry[Objective] = Registry(
    "objective", "dmpo.objectives", "dmpo.objectives.base:Objective"
)
"""Objectives by name."""

REGISTRIES: Mapping[str, Registry[Any]] = {
    "policies": POLICIES,
    "samplers": SAMPLERS,
    "tasks": TASKS,
    "rewards": REWARDS,
    "likelihoods": LIKELIHOODS,
    "weights": WEIGHTS,
    "baselines": BASELINES,
    "objectives": OBJECTIVES,
}
"""Every registry by the last part of its entry-point group."""
