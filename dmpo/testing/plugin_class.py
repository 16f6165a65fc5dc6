"""What every plugin keeps to, whichever interface it is of: its class, its Config, its building."""

from __future__ import annotations

import abc
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from dmpo.config.resolve import written_out
from dmpo.registry import PluginConfig
from dmpo.settings import first_validation_message
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "Subject"]

NO_SUCH_KEY = "no_such_key_as_this"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A class, and what it is to be a plugin of."""

    plugin: Any
    """The class, if it is one."""
    interface: type
    """The abstract base."""
    config: type[PluginConfig]
    """What its ``Config`` derives from."""
    parameters: Mapping[str, Any]
    """Of the ``Config``."""
    build: Callable[[Any, Any], Any]
    """Builds the plugin of a class and its config."""


@law
def derives_from_its_interface(subject: Subject) -> Iterator[str]:
    """The class derives from the interface's abstract base and leaves nothing of it undefined."""
    plugin, interface = subject.plugin, subject.interface
    if not (isinstance(plugin, type) and issubclass(plugin, interface)):
        yield (
            f"expected: a class that derives from {interface.__module__}.{interface.__name__}; "
            f"given {plugin!r}"
        )
    elif missing := ", ".join(sorted(getattr(plugin, "__abstractmethods__", ()))):
        yield f"expected: every method defined; {plugin.__name__} does not define {missing}"


@law
def is_final(subject: Subject) -> Iterator[str]:
    """The class is marked @final, and all its bases are abstract."""
    plugin = subject.plugin
    if plugin.__dict__.get("__final__") is not True:
        yield f"expected: @typing.final above class {plugin.__name__}; it is not there"
    for base in plugin.__mro__[1:]:
        if base not in (object, abc.ABC) and not inspect.isabstract(base):
            yield (
                f"expected: abstract bases alone; {base.__module__}.{base.__name__} is concrete: "
                "share by functions, or hold one of it"
            )


@law
def keeps_the_signatures(subject: Subject) -> Iterator[str]:
    """Methods take what the interface's take, under the same names."""
    plugin = subject.plugin
    for base in plugin.__mro__[1:]:
        for name in sorted(getattr(base, "__abstractmethods__", ())):
            promised, kept = getattr(base, name), getattr(plugin, name)
            if isinstance(promised, property) or not callable(kept):
                continue
            wanted, given = _parameters(promised), _parameters(kept)
            if wanted != given:
                yield f"expected: {name}({_written(wanted)}); it is {name}({_written(given)})"


@law
def says_what_it_is(subject: Subject) -> Iterator[str]:
    """The class has a docstring, whose first line `dmpo plugins list` shows."""
    if not (subject.plugin.__dict__.get("__doc__") or "").strip():
        yield f"expected: a docstring of {subject.plugin.__name__}'s own; there is none"


@law
def config_is_strict(subject: Subject) -> Iterator[str]:
    """Config is a frozen pydantic model that refuses keys it does not know."""
    model = getattr(subject.plugin, "Config", None)
    if not (isinstance(model, type) and issubclass(model, subject.config)):
        base = f"{subject.config.__module__}.{subject.config.__name__}"
        yield f"expected: a Config that derives from {base}; it is {model!r}"
        return
    if not model.model_config.get("frozen"):
        yield f"expected: frozen; {model.__name__} can be changed after it was made"
    if model.model_config.get("extra") != "forbid":
        extra = model.model_config.get("extra")
        yield f"expected: extra='forbid'; {model.__name__} has {extra!r}: a slip goes unnoticed"


@law
def config_is_described(subject: Subject) -> Iterator[str]:
    """Every field of Config has a description, which `dmpo plugins show` prints."""
    for model in _models(subject.plugin.Config):
        for name, each in model.model_fields.items():
            if not each.description:
                yield f"expected: Field(..., description=...); {model.__name__}.{name} has none"


@law
def defaults_are_valid(subject: Subject) -> Iterator[str]:
    """Every default of Config is a value that Config would accept."""
    for model in _models(subject.plugin.Config):
        for name, each in model.model_fields.items():
            if each.is_required():
                continue
            default = each.get_default(call_default_factory=True)
            accepted: Any = each.annotation
            if each.metadata:
                accepted = Annotated[(accepted, *each.metadata)]
            adapter: TypeAdapter[Any] = TypeAdapter(accepted)
            try:
                adapter.validate_python(default)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                yield f"expected: a valid default; {model.__name__}.{name} = {default!r}: {reason}"


@law
def config_can_be_written(subject: Subject) -> Iterator[str]:
    """Config written to config.yaml and read again is the same config."""
    model = subject.plugin.Config
    config = model.model_validate(dict(subject.parameters))
    written = json.loads(json.dumps(written_out(config)))
    again = model.model_validate(written)
    if again != config:
        yield f"expected: {config!r}; read back it is {again!r}"


@law
def builds_from_its_config(subject: Subject) -> Iterator[str]:
    """The config alone builds the plugin (an objective: config and parts), more than once."""
    model = subject.plugin.Config
    try:
        config = model.model_validate(dict(subject.parameters))
    except ValidationError as error:
        message = first_validation_message(error, model)
        yield (
            f"expected: {model.__name__} takes the parameters that were given "
            f"({', '.join(sorted(subject.parameters)) or 'none'}); it says: {message}"
        )
        return
    for _ in range(2):
        built = subject.build(subject.plugin, config)
        if type(built) is not subject.plugin:
            yield f"expected: a {subject.plugin.__name__}; built was a {type(built).__name__}"
            return


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and those inside it."""
    yield model
    for each in model.model_fields.values():
        for kind in (each.annotation, *get_args(each.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _models(kind)


def _parameters(method: Any) -> list[tuple[str, str, bool]]:
    return [
        (name, each.kind.description, each.default is not each.empty)
        for name, each in inspect.signature(method).parameters.items()
    ]


def _written(parameters: list[tuple[str, str, bool]]) -> str:
    marks = {"variadic positional": "*", "variadic keyword": "**"}
    parts: list[str] = []
    for name, kind, has_default in parameters:
        if kind == "keyword-only" and not any(part.startswith("*") for part in parts):
            parts.append("*")
        parts.append(f"{marks.get(kind, '')}{name}{'=…' if has_default else ''}")
    return ", ".join(parts)


SHAPE: tuple[Law, ...] = (derives_from_its_interface, config_is_strict)
"""Without these nothing else can be looked at."""

LAWS: tuple[Law, ...] = (
    *SHAPE,
    is_final,
    keeps_the_signatures,
    says_what_it_is,
    config_is_described,
    defaults_are_valid,
    config_can_be_written,
    builds_from_its_config,
)
"""The laws of every plugin, in the order they are looked at."""
