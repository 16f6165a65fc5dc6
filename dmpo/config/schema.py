"""The JSON schema of a run's settings, every registered plugin's parameters included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dmpo.config.resolve import section_registry
from dmpo.config.run import RunConfig
from dmpo.errors import PluginError
from dmpo.objectives.presets import PRESETS
from dmpo.registry import REGISTRIES, Registry

__all__ = ["run_schema"]

_FILLED_IN = ("gen_length",)
"""Parameters that a plugin requires and that resolving fills in."""


def run_schema() -> dict[str, Any]:
    """Return the schema of a settings file of ``dmpo train``.

    Nothing is required, since a file may stand on another one. Plugins that cannot be imported
    are left out.
    """
    schema = RunConfig.model_json_schema()
    definitions: dict[str, Any] = {
        name: definition
        for name, definition in schema["$defs"].items()
        if name not in ("PluginSection", "RewardSection")
    }
    for group, registry in REGISTRIES.items():
        definitions[f"section.{group}"] = _section(group, registry, definitions)
    for path in RunConfig.model_fields:
        if path not in ("seed", "training", "evaluation", "rewards", "tracking"):
            description = schema["properties"][path]["description"]
            schema["properties"][path] = {"description": description, **_reference(path)}
    rewards = schema["properties"]["rewards"]
    rewards["items"] = {"$ref": "#/$defs/section.rewards"}
    sampler = definitions["EvaluationSection"]["properties"]["sampler"]
    sampler["$ref"] = "#/$defs/section.samplers"
    schema["properties"] |= {
        "extends": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "description": "The recipes or files this one stands on, lowest first.",
        },
        "description": {"type": "string", "description": "What it is for."},
        "hardware": {"type": "string", "description": "What it is sized for: 8 x 40 GB."},
    }
    schema.pop("required", None)
    schema["$defs"] = definitions
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _reference(path: str) -> dict[str, Any]:
    registry = section_registry(path)
    group = next(group for group, other in REGISTRIES.items() if other is registry)
    reference = {"$ref": f"#/$defs/section.{group}"}
    return reference if path != "ratio_likelihood" else {"anyOf": [reference, {"type": "null"}]}


def _section(group: str, registry: Registry[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what a section may be: a name, or a name with that plugin's parameters."""
    names: dict[str, Any] = {"enum": list(registry.names())}
    choices: list[dict[str, Any]] = [names]
    for name in registry.names():
        try:
            choices.append(_plugin(group, name, registry, definitions))
        except PluginError:
            names["enum"].remove(name)
    if group == "objectives":
        names["enum"] += list(PRESETS)
        choices += _presets(choices[1:])
    if group == "rewards":
        weight = {"type": "number"}
        for choice in choices[1:]:
            choice["properties"].setdefault("weight", weight)
        function = {"type": "string", "pattern": ":"}
        choices += [
            function,
            {
                "type": "object",
                "properties": {"name": function, "weight": weight},
                "required": ["name"],
                "additionalProperties": False,
            },
        ]
    return {"anyOf": choices}


def _presets(objectives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the schema of each preset's section: that of the objective it is, renamed."""
    by_title = {schema["title"]: schema for schema in objectives}
    return [
        {
            **by_title[preset.objective],
            "title": name,
            "properties": {**by_title[preset.objective]["properties"], "name": {"const": name}},
        }
        for name, preset in PRESETS.items()
        if preset.objective in by_title
    ]


def _plugin(
    group: str, name: str, registry: Registry[Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    """Return the schema of one plugin's section; nested models go into ``definitions``."""
    prefix = f"{group}.{name}."
    schema: dict[str, Any] = registry.load(name).Config.model_json_schema(
        ref_template="#/$defs/" + prefix + "{model}"
    )
    for key, definition in schema.pop("$defs", {}).items():
        definitions[prefix + key] = definition
    required = [key for key in schema.pop("required", []) if key not in _FILLED_IN]
    # ``family/variant`` is the name of a plugin that has variants.
    given: Mapping[str, Any] = (
        {"pattern": f"^{re.escape(name)}(/.+)?$", "type": "string"}
        if "variant" in schema.get("properties", {})
        else {"const": name}
    )
    schema["title"] = name
    schema["properties"] = {"name": given, **schema.get("properties", {})}
    schema["required"] = ["name", *required]
    return schema
