"""Objects that a user names in code of their own: ``package.module:name`` or ``file.py:name``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dmpo.errors import ConfigError, nearest_name

__all__ = ["checked_target", "load_object"]


def checked_target(target: str, kind: str = "name") -> str:
    """Return a target that has both of its parts.

    Raises:
        ValueError: If it has not; the message calls the second one ``kind``.
    """
    source, _, name = target.rpartition(":")
    if not (source and name):
        raise ValueError(f"must be module:{kind} or file.py:{kind}")
    return target


def load_object(target: str, option: str, kind: str = "object") -> Any:
    """Import what a target names.

    Args:
        target: ``module:name`` or ``path/to/file.py:name``.
        option: What messages call the setting: ``reward.target``.
        kind: What messages call the thing itself.

    Raises:
        ConfigError: If there is no such file, module or name, or it fails to import.
    """
    source, _, name = target.rpartition(":")
    try:
        if source.endswith(".py"):
            module = _load_file(Path(source), option)
        else:
            module = _load_module(source, option)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module may raise
        raise ConfigError(
            f"{option}: {source} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if _is_of(value, module)]
        near = nearest_name(name, own)
        raise ConfigError(
            f"{option}: {source} has no {kind} {name!r}; it has {', '.join(own) or 'none'}."
            + (f" Did you mean {near!r}?" if near else "")
        )
    return getattr(module, name)


def _is_of(value: Any, module: ModuleType) -> bool:
    """Return whether a class or function was written in this module, not imported into it."""
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _load_module(name: str, option: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise ConfigError(
                f"{option}: no module {error.name!r}; a file is named by its path, "
                f"{name.replace('.', '/')}.py:name."
            ) from error
        raise


def _load_file(path: Path, option: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{option}: no file {path}.")
    name = f"_dmpo_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{option}: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while it is being imported.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
