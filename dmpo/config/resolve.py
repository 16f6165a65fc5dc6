"""From layers to a complete config: every value filled in, checked, and with its source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from dmpo.config.layers import Leaf, Tree, assigned, leaf_sources, name_of, plain, sourced, stacked
from dmpo.config.run import EvaluationSection, GenerateConfig, PluginSection, RunConfig, SftConfig
from dmpo.errors import ConfigError, UnknownNameError
from dmpo.objectives.base import Objective
from dmpo.objectives.presets import PRESETS
from dmpo.registry import (
    BASELINES,
    LIKELIHOODS,
    OBJECTIVES,
    POLICIES,
    REWARDS,
    SAMPLERS,
    TASKS,
    WEIGHTS,
    PluginConfig,
    Registry,
)
from dmpo.settings import first_validation_message
from dmpo.tasks.base import Task
from dmpo.tasks.sources import is_file_source
from dmpo.training.tracker_kinds import check_tracker_names

__all__ = [
    "Resolved",
    "resolve_generate",
    "resolve_run",
    "resolve_sft",
    "section_registry",
    "written_out",
]

ConfigT = TypeVar("ConfigT", RunConfig, SftConfig, GenerateConfig)

DEFAULT_GEN_LENGTH = 128
"""Canvas length of ``dmpo generate``, which knows no task."""

_REGISTRIES: Mapping[str, Registry[Any]] = {
    "policy": POLICIES,
    "task": TASKS,
    "tasks": TASKS,
    "sampler": SAMPLERS,
    "evaluation.sampler": SAMPLERS,
    "rewards": REWARDS,
    "likelihood": LIKELIHOODS,
    "ratio_likelihood": LIKELIHOODS,
    "weights": WEIGHTS,
    "baseline": BASELINES,
    "objective": OBJECTIVES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Generic[ConfigT]):
    """A complete config and where each of its values came from."""

    config: ConfigT
    """Every parameter of every plugin is written out."""
    provenance: Mapping[str, str]
    """Source of each leaf by dotted path."""

    def plain(self) -> dict[str, Any]:
        """Return the config as plain values, in the order a reader wants."""
        return self.config.model_dump(mode="json")


def section_registry(path: str) -> Registry[Any]:
    """Return the registry a section's name is looked up in (``rewards.0``, ``policy``)."""
    return _REGISTRIES[path] if path in _REGISTRIES else _REGISTRIES[path.split(".")[0]]


def resolve_run(layers: Sequence[Tree]) -> Resolved[RunConfig]:
    """Return the complete config of ``dmpo train``.

    Args:
        layers: Lowest first; the defaults lie beneath them all.

    Raises:
        ConfigError: If a key is unknown or a value wrong; the message starts with the dotted
            path and ends with the value's source.
        PluginError: If a plugin cannot be imported.
    """
    tree = _stack(RunConfig, layers)
    tree["rewards"] = _with_functions(tree["rewards"])
    if "task" in tree:
        tree["task"] = _with_target(tree["task"])
    tree = _with_preset(tree)
    objective = name_of(tree["objective"])
    if objective is not None:
        parts = _objective(objective).default_parts
        tree = _over(sourced(parts, f"default of objective {objective}"), tree)
    draft = _validated(RunConfig, tree)
    tree = _with_format(tree, draft)
    draft = _validated(RunConfig, tree)
    length = _response_length(draft.task, "task", tree)
    tree = _with_length(tree, "sampler", draft.sampler, length)
    inherited = plain(tree["sampler"]).get("gen_length")
    if inherited is not None:
        length = Leaf(inherited, "sampler.gen_length")
    return _completed(
        RunConfig, _with_length(tree, "evaluation.sampler", draft.evaluation.sampler, length)
    )


def resolve_sft(layers: Sequence[Tree]) -> Resolved[SftConfig]:
    """Return the complete config of ``dmpo sft``; see :func:`resolve_run`.

    Each task is trained and measured on a canvas of its own length, so the evaluation's sampler
    takes no other ``gen_length`` than the longest of them.

    Raises:
        ConfigError: If it is given another one, and as :func:`resolve_run`.
    """
    tree = _stack(SftConfig, layers)
    draft = _validated(SftConfig, tree)
    lengths = [_response_length(task, f"tasks.{n}", tree) for n, task in enumerate(draft.tasks)]
    longest = max(lengths, key=lambda leaf: int(leaf.value))
    given = plain(tree["evaluation"]["sampler"]).get("gen_length", longest.value)
    if given != longest.value:
        message = (
            "evaluation.sampler.gen_length: each task is measured on its own canvas length; "
            f"leave it out; given {given!r}."
        )
        raise _with_source(message, tree)
    return _completed(
        SftConfig, _with_length(tree, "evaluation.sampler", draft.evaluation.sampler, longest)
    )


def resolve_generate(layers: Sequence[Tree]) -> Resolved[GenerateConfig]:
    """Return the complete config of ``dmpo generate``; see :func:`resolve_run`.

    What stands behind the first EOS is never shown, so a sampler that can stop there does.
    """
    tree = _stack(GenerateConfig, layers)
    sampler = _validated(GenerateConfig, tree).sampler
    tree = _with_length(tree, "sampler", sampler, Leaf(DEFAULT_GEN_LENGTH, "default"))
    tree = _with_default(tree, "sampler", sampler, "stop_at_eos", Leaf(True, "default"))
    return _completed(GenerateConfig, tree)


def _stack(model: type[BaseModel], layers: Sequence[Tree]) -> dict[str, Any]:
    """Lay the layers over the sections that the model itself fills in."""
    defaults: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        if isinstance(value, PluginSection):
            defaults[name] = value.model_dump()
        elif isinstance(value, tuple):
            defaults[name] = [{"name": section.name} for section in value]
        elif isinstance(value, EvaluationSection):
            defaults[name] = {"sampler": value.sampler.model_dump()}
    tree = sourced(defaults, "default")
    for layer in layers:
        tree = stacked(tree, layer)
    return _mapping(tree)


def _over(lower: Tree, upper: Tree) -> dict[str, Any]:
    return _mapping(stacked(lower, upper))


def _mapping(tree: Tree) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ConfigError("config: expected `key: value` pairs.")
    return tree


def _objective(name: str) -> type[Objective]:
    try:
        return OBJECTIVES.load(name)
    except UnknownNameError as error:
        accepted = (*error.accepted, *PRESETS)
        raise UnknownNameError("objective", error.given, accepted) from None


def _with_preset(tree: dict[str, Any]) -> dict[str, Any]:
    """Put the parts of a preset in place of its name; whatever else was chosen stays above."""
    name = name_of(tree["objective"])
    preset = PRESETS.get(name or "")
    if preset is None:
        return tree
    source = f"preset {name}"
    section = {**tree["objective"], "name": Leaf(preset.objective, source)}
    below = {"objective": {"name": preset.objective, **preset.settings}, **preset.parts}
    return _over(sourced(below, source), {**tree, "objective": section})


def _with_functions(rewards: Tree) -> Tree:
    """Read a reward named ``module:function`` as the `function` reward with that target."""
    if not isinstance(rewards, list):
        return rewards
    sections = []
    for section in rewards:
        name = name_of(section)
        if name is not None and ":" in name:
            source = section["name"].source
            section = section | {"name": Leaf("function", source), "target": Leaf(name, source)}
        sections.append(section)
    return sections


def _with_target(task: Tree) -> Tree:
    """Read a task named ``module:object`` or ``problems.jsonl`` as the task of such things."""
    name = name_of(task)
    if name is None or not isinstance(task, dict) or name in TASKS.names():
        return task
    source = task["name"].source
    if ":" in name:
        return task | {"name": Leaf("object", source), "target": Leaf(name, source)}
    if is_file_source(name):
        return task | {"name": Leaf("file", source), "path": Leaf(name, source)}
    return task


def _with_format(tree: dict[str, Any], draft: RunConfig) -> dict[str, Any]:
    """Choose how a task writes its problems where it can do so in two ways and no layer says.

    A family's own small checkpoint, and a model made from scratch, read a short form in a small
    alphabet; whatever else is named reads the paper's prompts.
    """
    if "format" not in TASKS.load(draft.task.name).Config.model_fields:
        return tree
    policy = _plugin_config(draft.policy, "policy", tree)
    model = type(policy).model_fields.get("model")
    is_own = model is not None and getattr(policy, "model", None) == model.default
    is_small = is_own or getattr(policy, "scratch", None) is not None
    form = "compact" if is_small else "paper"
    return _over(assigned("task.format", form, f"policy {draft.policy.name}"), tree)


def _validated(model: type[ConfigT], tree: Tree) -> ConfigT:
    """Check structure, settings and names; plugins' parameters are not looked at yet."""
    try:
        config = model.model_validate(plain(tree))
    except ValidationError as error:
        raise _with_source(first_validation_message(error, model), tree) from None
    for path, section in _sections(config):
        try:
            section_registry(path).entry(section.name)
        except UnknownNameError as error:
            raise UnknownNameError(path, error.given, error.accepted) from None
    if isinstance(config, RunConfig):
        check_tracker_names(config.tracking)
    return config


def _with_source(message: str, tree: Tree) -> ConfigError:
    """Say behind a message where the value at the path it starts with came from.

    Of a section, what the message names counts, if it names anything, and the command line.
    """
    path = message.partition(":")[0]
    below = {
        leaf: source
        for leaf, source in leaf_sources(tree).items()
        if leaf == path or leaf.startswith(f"{path}.")
    }
    words = set(re.findall(r"\w+", message.removeprefix(path)))
    named = {source for leaf, source in below.items() if leaf.rpartition(".")[2] in words}
    flags = {source for source in below.values() if source.startswith("--")}
    sources = named | flags if named else set(below.values())
    return ConfigError(f"{message} (from {', '.join(sorted(sources))})" if sources else message)


def _plugin_config(section: PluginSection, path: str, tree: Tree) -> PluginConfig:
    try:
        return section_registry(path).config(section.name, section.parameters, field=path)
    except ConfigError as error:
        raise _with_source(str(error), tree) from None


def _response_length(task: PluginSection, path: str, tree: Tree) -> Leaf:
    config = _plugin_config(task, path, tree)
    built: Task = TASKS.load(task.name)(config)  # type: ignore[call-arg]
    return Leaf(built.response_length, f"task {task.name}")


def _with_length(
    tree: dict[str, Any], path: str, section: PluginSection, length: Leaf
) -> dict[str, Any]:
    """Fill in ``gen_length`` where the sampler has one and no layer gave it."""
    return _with_default(tree, path, section, "gen_length", length)


def _with_default(
    tree: dict[str, Any], path: str, section: PluginSection, key: str, leaf: Leaf
) -> dict[str, Any]:
    """Fill in a setting of a sampler where it has one of this name and no layer gave it."""
    if key not in SAMPLERS.load(section.name).Config.model_fields:
        return tree
    return _over(assigned(f"{path}.{key}", leaf.value, leaf.source), tree)


def _completed(model: type[ConfigT], tree: Tree) -> Resolved[ConfigT]:
    """Write out every plugin's parameters and say where each came from."""
    draft = _validated(model, tree)
    values = draft.model_dump(mode="json")
    sources = leaf_sources(tree)
    defaults: dict[str, str] = {}
    for path, section in _sections(draft):
        parameters = written_out(_plugin_config(section, path, tree))
        own = section.model_dump(include=set(type(section).model_fields))  # of a reward: its weight
        target = _value_at(values, path)
        target.clear()
        target.update({**own, **parameters, **own})
        kind = section_registry(path).kind
        defaults[path] = f"default of {kind} {section.name}"
    config = _validated(model, sourced(values, ""))
    provenance = {}
    for path in leaf_sources(sourced(config.model_dump(mode="json"), "")):
        owner = next(
            (text for head, text in defaults.items() if path.startswith(f"{head}.")), "default"
        )
        provenance[path] = sources.get(path, owner)
    return Resolved(config=config, provenance=provenance)


def written_out(config: PluginConfig) -> dict[str, Any]:
    """Return a plugin's parameters as plain values that validate to the same config.

    Defaults are written out, too, unless the plugin refuses to be told some of them beside
    others (options that exclude each other).
    """
    values = config.model_dump(mode="json")
    try:
        type(config).model_validate(values)
    except ValidationError:
        return config.model_dump(mode="json", exclude_unset=True)
    return values


def _sections(
    config: RunConfig | SftConfig | GenerateConfig,
) -> Iterator[tuple[str, PluginSection]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, PluginSection):
            yield name, value
        elif isinstance(value, tuple):
            yield from ((f"{name}.{index}", section) for index, section in enumerate(value))
        elif isinstance(value, EvaluationSection):
            yield f"{name}.sampler", value.sampler


def _value_at(values: Any, path: str) -> dict[str, Any]:
    for part in path.split("."):
        values = values[int(part)] if isinstance(values, list) else values[part]
    found: dict[str, Any] = values
    return found
