"""Plugins and their parameters in words."""

from __future__ import annotations

import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dmpo.config.yaml_text import yaml_text
from dmpo.objectives.presets import PRESETS
from dmpo.registry import Registry

__all__ = ["describe_plugin", "describe_preset"]


def describe_plugin(registry: Registry[Any], name: str) -> str:
    """Return name, package, purpose and parameters of a plugin, a few lines of text.

    Raises:
        PluginError: If it cannot be imported.
    """
    entry = registry.entry(name)
    plugin = registry.load(name)
    purpose = (inspect.getdoc(plugin) or "").partition("\n\n")[0].replace("\n", " ")
    lines = [f"{registry.kind} {name} ({entry.distribution}, {entry.target})", f"  {purpose}"]
    for part, section in getattr(plugin, "default_parts", {}).items():
        lines.append(f"  default {part}: {_value(dict(section))}")
    parameters = _parameters(plugin.Config, "")
    lines.append("  parameters:" if parameters else "  no parameters")
    return "\n".join([*lines, *parameters])


def describe_preset(name: str) -> str:
    """Return what a preset of an objective is made of, a few lines of text."""
    preset = PRESETS[name]
    lines = [f"objective preset {name}", f"  {preset.summary}", f"  objective: {preset.objective}"]
    lines += [f"  {key}: {_value(value)}" for key, value in preset.settings.items()]
    lines += [f"  {part}: {_value(dict(section))}" for part, section in preset.parts.items()]
    return "\n".join(lines)


def _parameters(model: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else f"default {_value(_default(field))}"
        lines.append(f"    {prefix}{key}: {_type(field.annotation)}{_bounds(field)}; {default}")
        if field.description:
            lines.append(f"      {field.description}")
        for argument in (field.annotation, *get_args(field.annotation)):
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                lines += _parameters(argument, f"{prefix}{key}.")
    return lines


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _value(value: Any) -> str:
    if isinstance(value, dict | list | tuple | set):
        value = list(value) if not isinstance(value, dict) else value
        return repr(value)
    return yaml_text(value).removesuffix("\n").removesuffix("\n...")


def _type(annotation: Any) -> str:
    """Return a type as people write it: ``int | null``, ``answer | canvas``."""
    if annotation is None or annotation is type(None):
        return "null"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(argument) for argument in arguments)
    if hasattr(annotation, "__metadata__"):
        return _type(arguments[0])
    if origin is not None:
        inner = ", ".join(_type(argument) for argument in arguments if argument is not Ellipsis)
        return f"{origin.__name__} of {inner}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return {"str": "text", "bool": "true | false"}.get(name := _name(annotation), name)


def _name(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(item, attribute)}"
        for attribute, sign in signs.items()
        for item in field.metadata
        if getattr(item, attribute, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""
