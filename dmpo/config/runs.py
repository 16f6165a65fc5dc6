"""Run directories read back: where a run goes on, and with which settings it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo.config.layers import leaves, sourced
from dmpo.config.recipes import file_chain
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.errors import ConfigError
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.run_directory import list_checkpoints, newest_checkpoint

__all__ = [
    "FREE_SETTINGS",
    "Change",
    "Resumption",
    "check_changes",
    "find_resumption",
    "saved_config",
    "settings_changes",
]

FREE_SETTINGS = (
    "training.num_steps",
    "training.max_seconds",
    "training.max_model_tokens",
    "training.max_model_flops",
    "training.auto_micro_batch",
    "training.likelihood_rows",
    "training.micro_batch_rows",
    "training.offload_buffers",
    "training.on_save_error",
    "training.overlap_rewards",
    "training.process_timeout",
    "training.rows_per_forward",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.evaluate_every",
    "training.sample_every",
    "training.max_skipped_in_a_row",
    "evaluation",
    "tracking",
)
"""What a resume may change: how long, how often, in what portions, told to whom; never what is
computed.

Other portions may round otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Where a run goes on."""

    run: Path
    """Its directory."""
    checkpoint: Path | None
    """What it goes on from; None: it had not saved anything yet and begins again."""
    skipped: tuple[str, ...]
    """A line for each damaged checkpoint that is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that a resume gives another value than the run had."""

    path: str
    """Dotted path."""
    before: Any
    """The run's value; None where it had no such setting."""
    after: Any
    """The value given now."""

    def __str__(self) -> str:
        """Return ``path: before, now after``."""
        return f"{self.path}: {self.before!r}, now {self.after!r}"


def find_resumption(path: Path, field: str = "--resume") -> Resumption:
    """Return where to go on: from a run's newest whole checkpoint, or from the one named.

    Args:
        path: A run directory, or one checkpoint in it.
        field: What the path was given for.

    Raises:
        ConfigError: If it is neither.
        CheckpointError: If the named checkpoint is damaged, or all of the run's are.
    """
    place = path.resolve()
    if place.parent.name == "checkpoints" and place in list_checkpoints(place.parents[1]):
        verify_checkpoint(path)
        return Resumption(run=path.parent.parent, checkpoint=path, skipped=())
    if not (path / "config.yaml").is_file():
        raise ConfigError(
            f"{field}: {path} is neither a run directory (it has no config.yaml) nor a "
            "checkpoint in one."
        )
    checkpoint, skipped = newest_checkpoint(path)
    return Resumption(run=path, checkpoint=checkpoint, skipped=tuple(skipped))


def saved_config(resumption: Resumption) -> RunConfig:
    """Return the settings that a run had, as its checkpoint tells: config.yaml may be edited.

    Raises:
        ConfigError: If config.yaml is damaged.
    """
    kept = (resumption.checkpoint or resumption.run) / "config.yaml"
    file = kept if kept.is_file() else resumption.run / "config.yaml"
    return resolve_run(file_chain(file).layers).config


def settings_changes(before: RunConfig, after: RunConfig) -> list[Change]:
    """Return every setting that differs, in the order of the settings."""
    old, new = _values(before), _values(after)
    paths = dict.fromkeys([*old, *new])
    return [
        Change(path=path, before=old.get(path), after=new.get(path))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def check_changes(changes: Sequence[Change], config: RunConfig) -> None:
    """Refuse a resume whose settings would change what the run computes.

    Args:
        changes: Of :func:`settings_changes`.
        config: The settings of the run as it was.

    Raises:
        ConfigError: Naming every such setting with both values.
    """
    refused = [change for change in changes if not _is_free(change.path, config)]
    if refused:
        listed = "; ".join(str(change) for change in refused)
        raise ConfigError(
            f"--resume: the run would go on with other mathematics ({listed}); leave that out, "
            "or start a new run with another --output."
        )


def _is_free(path: str, config: RunConfig) -> bool:
    if path == "training.num_steps" and config.training.schedule != "constant":
        return False  # the learning rate falls to 0 at num_steps
    return any(path == free or path.startswith(f"{free}.") for free in FREE_SETTINGS)


def _values(config: RunConfig) -> dict[str, Any]:
    tree = sourced(config.model_dump(mode="json"), "")
    return {path: leaf.value for path, leaf in leaves(tree).items()}
