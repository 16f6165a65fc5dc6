"""From the name of a model to a directory of its files, without the network where possible."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers.utils import logging as library_logging

from dmpo.errors import CheckpointError, ConfigError, reading_failure

__all__ = [
    "ADAPTER",
    "INDEX",
    "WEIGHTS",
    "has_all_weights",
    "has_weights",
    "model_directory",
    "packaged_directory",
    "quiet_library",
    "read_model_config",
    "shard_names",
]

WEIGHTS = "model.safetensors"
"""A model's weights in one file."""
ADAPTER = "adapter_config.json"
"""What a folder with an adapter holds."""
INDEX = "model.safetensors.index.json"
"""Which shard holds which tensor."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of the files that PyTorch writes."""

_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt")


def packaged_directory(name: str) -> Path:
    """Return where the package keeps the checkpoint ``name`` of its own."""
    return Path(str(resources.files("dmpo"))) / "assets" / name


def model_directory(model: str, revision: str | None, *, needs_weights: bool = True) -> Path:
    """Return the local directory of a path or hub id; the local cache comes first.

    Args:
        model: A directory, or ``owner/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        needs_weights: Whether a model's weights are fetched, too, where they are not here.

    Raises:
        ConfigError: If a revision is given for a directory.
        CheckpointError: If there is no such directory, nor such a model on the hub.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise ConfigError(f"policy.revision: {model} is a directory and has no revisions.")
        return directory
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise CheckpointError(
            f"policy.model: {model} is neither a directory nor a model's name on the hub "
            "(owner/name)."
        )
    reason = ""
    is_enough = has_all_weights if needs_weights else _has_config
    patterns = [name for name in _FILES if needs_weights or name != "*.safetensors"]
    for offline in (True, False):
        try:
            found = Path(
                snapshot_download(
                    model,
                    revision=revision,
                    allow_patterns=patterns,
                    local_files_only=offline,
                )
            )
        except Exception as error:  # the hub's client raises whatever its transport does
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        # A download that broke off has left a part in the cache: the hub has the rest.
        if is_enough(found):
            return found
        reason = (
            "some of its files are missing in the local cache"
            if has_weights(found)
            else "it has no safetensors weights"
        )
    raise CheckpointError(
        f"policy.model: {model}{f' (revision {revision})' if revision else ''} is not a directory "
        f"here and could not be fetched from the hub: {reason}"
    )


def has_weights(directory: Path) -> bool:
    """Return whether a directory holds a model's safetensors, whole or in shards."""
    return any((directory / name).is_file() for name in (WEIGHTS, INDEX))


def _no_weights(directory: Path) -> str:
    """Say that there are no safetensors, and why what there is instead is not read."""
    pickles = sorted(path.name for ending in _PICKLES for path in directory.glob(f"*{ending}"))
    if not pickles:
        return f"no {WEIGHTS} there."
    return (
        f"no {WEIGHTS} there. {pickles[0]} is not read: it is a pickle, which runs whatever code "
        "stands in it; where you trust it, save the model as safetensors elsewhere."
    )


def shard_names(directory: Path) -> list[str]:
    """Return the files that ``model.safetensors.index.json`` lists.

    Raises:
        CheckpointError: If it is missing, unreadable, or names a file outside its folder.
    """
    index = directory / INDEX
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: {_no_weights(directory)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: it cannot be read: {reading_failure(error)}; fetch it again."
        ) from error
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{index}: it has no weight_map from tensors to files.")
    for tensor, name in files.items():
        if not isinstance(name, str) or name in ("", ".", "..") or {"/", "\\"} & set(name):
            raise CheckpointError(
                f"{index}: {tensor} must lie in a file of this folder; given {name!r}."
            )
    return sorted(set(files.values()))


def _has_config(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def has_all_weights(directory: Path) -> bool:
    """Return whether all files of weights are there; what is wrong with an index shows later."""
    if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file():
        return has_weights(directory)
    try:
        return all((directory / name).is_file() for name in shard_names(directory))
    except CheckpointError:
        return True


def read_model_config(
    directory: Path, *, model_type: str, family: str, needs_weights: bool = True
) -> dict[str, Any]:
    """Return the content of ``config.json`` after checking that the files are of the family.

    Args:
        directory: A model's directory.
        model_type: What ``config.json`` must say.
        family: The policy's name, for messages.
        needs_weights: Whether weights must be there.

    Raises:
        CheckpointError: If files are missing, unreadable or of another family.
    """
    file = directory / "config.json"
    if (directory / ADAPTER).is_file() and not file.is_file():
        raise CheckpointError(
            f"{directory}: it holds an adapter, not a model; merge it into its base with "
            "`dmpo export RUN --merge`, or name the base."
        )
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{directory}: no config.json there.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: it cannot be read: {reading_failure(error)}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: it holds no object, but {str(content)[:40]!r}.")
    found = content.get("model_type")
    if found != model_type:
        raise CheckpointError(
            f"{directory}: its model_type is {found!r}; the {family} policy accepts "
            f"{model_type!r}. Choose the policy of that family with --policy."
        )
    if needs_weights and not has_weights(directory):
        raise CheckpointError(f"{directory}: {_no_weights(directory)}")
    return content


@contextmanager
def quiet_library() -> Iterator[None]:
    """Hold back the library's progress bars and load reports; restore them afterwards."""
    bars, verbosity = library_logging.is_progress_bar_enabled(), library_logging.get_verbosity()
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()
