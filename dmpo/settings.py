"""What every setting has in common: which values it takes, and how a wrong one is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from dmpo.errors import nearest_name

__all__ = ["Settings", "first_validation_message", "flattened"]

MAX_SHOWN = 80
"""Characters of a wrong value that a message repeats."""

_WORDS: Mapping[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be `key: value` pairs",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "model_type": "must be `key: value` pairs",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}
"""What pydantic's kinds of complaint are called here."""


class Settings(BaseModel):
    """Base of everything that can be set: frozen, and strict where a slip would go unnoticed.

    Unknown keys are errors, and so are numbers that are not finite and a truth value where
    something else belongs, which Python would count as 0 or 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and not _takes_truth(
            cls.model_fields[info.field_name].annotation
        ):
            raise ValueError("must not be true or false")
        return value


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_truth, get_args(annotation)))


def first_validation_message(
    error: ValidationError, model: type[BaseModel], *, prefix: str = "", owner: str = ""
) -> str:
    """Return one line for the first complaint of a pydantic error.

    Args:
        error: What pydantic raised.
        model: The model that was being filled: its fields are the accepted names.
        prefix: Put before the field's dotted path.
        owner: Whose keys these are, named where one is unknown: ``sampler 'roar'``.

    Returns:
        ``prefix.field: what is wrong; given …`` with the nearest name for an unknown key.
    """
    detail = error.errors()[0]
    location = [str(part) for part in detail["loc"]]
    path = ".".join(([prefix] if prefix else []) + [part or "''" for part in location])
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        accepted = _accepted_fields(model, location[:-1])
        of_whom = f" of {owner}" if owner and len(location) == 1 else ""
        return (
            f"{path}: unknown key{of_whom}; accepted: {', '.join(sorted(accepted)) or 'none'}."
            + _hint(location[-1], accepted)
        )
    if kind == "missing":
        return f"{path}: required and not given."
    message = _WORDS.get(kind, detail["msg"].removeprefix("Value error, "))
    message = message.replace("Input should be", "must be").rstrip(".")
    # A check of several fields together is handed all of them, and names those that matter.
    if not location or (kind == "value_error" and isinstance(given, Mapping)):
        return f"{path}: {message}." if path else f"{message}."
    choices = _choices(model, location) if kind == "literal_error" else ()
    return f"{path}: {message}; given {_shown(given)}." + _hint(str(given), choices)


def _hint(given: str, accepted: Iterable[str]) -> str:
    near = nearest_name(given, accepted)
    return f" Did you mean {near!r}?" if near else ""


def _shown(value: Any) -> str:
    """Return a value as YAML spells it, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    text = words[value] if is_word else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _choices(model: type[BaseModel], location: list[str]) -> list[str]:
    field = _model_at(model, location[:-1]).model_fields.get(location[-1])
    return [str(choice) for choice in _leaves(field.annotation)] if field else []


def _leaves(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [leaf for argument in arguments for leaf in _leaves(argument)] or [annotation]


def _accepted_fields(model: type[BaseModel], location: list[str]) -> tuple[str, ...]:
    return tuple(_model_at(model, location).model_fields)


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(part)
        model = _nested_model(field.annotation if field else None) or model
    return model


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside ``Model``, ``Model | None``, ``list[Model]`` and their like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    candidates = (_nested_model(argument) for argument in get_args(annotation))
    return next((model for model in candidates if model is not None), None)


def flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a tree of settings by their dotted paths; what is empty is a leaf."""
    return dict(_paths(tree, ""))


def _paths(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list) and value:
        children = [(str(index), child) for index, child in enumerate(value)]
    else:
        yield path, value
        return
    for key, child in children:
        yield from _paths(child, f"{path}.{key}" if path else key)
