"""From a run to a checkpoint that stands alone: weights or adapter, tokenizer, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo.config.assembly import build_policy
from dmpo.config.layers import Tree
from dmpo.config.model_card import model_card
from dmpo.config.recipes import file_chain
from dmpo.config.resolve import resolve_run, resolve_sft
from dmpo.config.run import PluginSection, RunConfig, SftConfig
from dmpo.config.runs import find_resumption
from dmpo.errors import CheckpointError, ConfigError
from dmpo.evaluation.saved import read_tables
from dmpo.files import filling, replace_text
from dmpo.registry import POLICIES
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.run_directory import list_checkpoints

__all__ = ["ExportSource", "find_source", "write_export"]

ADAPTER = "adapter_config.json"
"""What a folder holds that has an adapter instead of a model."""
RECORDS = frozenset(
    {
        "config.yaml",
        "environment.json",
        "evaluation.json",
        "evaluation.md",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
    }
)
"""What ``dmpo sft`` writes beside the policy."""
HARDWARE = ("attention", "quantization")
"""Settings of a policy that only say how it ran; merging runs nothing, and on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """What is exported."""

    run: Path
    """The run's directory."""
    weights: Path
    """The folder that holds what the policy saved: a part of a checkpoint, or the run's own."""
    step: int | None
    """Gradient steps taken; None: not recorded."""
    config: RunConfig | SftConfig
    """The settings of the run."""
    skipped: tuple[str, ...]
    """A line for each damaged checkpoint that is newer."""

    @property
    def is_adapter(self) -> bool:
        """Whether the policy saved adapters alone."""
        return (self.weights / ADAPTER).is_file()


def find_source(run: Path, checkpoint: str | None = None) -> ExportSource:
    """Return what to export of a run of ``dmpo train`` or ``dmpo sft``.

    Args:
        run: A run directory, or one checkpoint in it.
        checkpoint: A step of which there is a checkpoint, or a checkpoint's path; None: the
            newest that is whole.

    Raises:
        ConfigError: If ``run`` is neither, has saved nothing yet, or has no such checkpoint.
        CheckpointError: If the named checkpoint is damaged, or all are.
    """
    if checkpoint is not None:
        return _of_checkpoint(_named_checkpoint(run, checkpoint), ())
    found = find_resumption(run, "RUN")
    if found.checkpoint is not None:
        return _of_checkpoint(found.checkpoint, found.skipped)
    layers = file_chain(found.run / "config.yaml").layers
    if not any(isinstance(layer, dict) and "tasks" in layer for layer in layers):
        raise ConfigError(f"RUN: {run} has not saved a checkpoint yet; let it take a step.")
    return _of_sft(found.run, layers)


def write_export(source: ExportSource, output: Path, *, merge: bool) -> str:
    """Write what a policy saved, with a model card, as a directory of its own.

    Args:
        source: Of :func:`find_source`.
        output: Made, with everything in it, or not at all.
        merge: Add adapters into their base; without adapters nothing changes.

    Returns:
        What was written: ``adapter``, ``merged`` or ``weights``.

    Raises:
        ConfigError: If the policy cannot merge its adapters.
        CheckpointError: If the base model is no longer there, or is another, or a file of the run
            is a link that leads out of it.
        OutputError: If ``output`` cannot be written.
    """
    merged = merge and source.is_adapter
    form = "merged" if merged else "adapter" if source.is_adapter else "weights"
    settings = POLICIES.config(source.config.policy.name, source.config.policy.parameters)
    card = model_card(
        source.config,
        settings,
        title=output.absolute().name,
        form=form,
        step=source.step,
        evaluations=read_tables(source.run),
    )
    policy = _merged_policy(source) if merged else None
    files = list(_saved_files(source))
    with filling(output) as folder:
        if policy is not None:
            policy.save(folder)
            if (folder / ADAPTER).exists():
                raise ConfigError(
                    f"--merge: policy {source.config.policy.name!r} cannot merge its adapters; "
                    "export without --merge."
                )
        else:
            for path in files:
                shutil.copyfile(path, folder / path.name)
        replace_text(folder / "README.md", card)
        for path in folder.iterdir():  # weights are written for their owner's eyes alone
            shutil.copymode(folder / "README.md", path)
    return form


def _merged_policy(source: ExportSource) -> Any:
    """Return the policy with its adapters in the weights of the base, which is not quantised."""
    section = source.config.policy
    parameters = {k: v for k, v in section.parameters.items() if k not in HARDWARE}
    policy = build_policy(PluginSection(name=section.name, **parameters))
    policy.load_weights(source.weights)
    policy.merge_adapters()
    return policy


def _saved_files(source: ExportSource) -> Iterator[Path]:
    """Yield what the policy itself saved.

    Raises:
        CheckpointError: If a link leads out of the run: what lies there may be nobody else's
            business, and what is exported is given away.
    """
    for path in sorted(source.weights.iterdir()):
        if path.is_file() and path.name not in RECORDS and not path.name.startswith("."):
            if not path.resolve().is_relative_to(source.run.resolve()):
                raise CheckpointError(
                    f"{path}: it is a link to {path.resolve()}, outside of the run; put the file "
                    "itself there."
                )
            yield path


def _named_checkpoint(run: Path, checkpoint: str) -> Path:
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"RUN: {run} is no run directory (it has no config.yaml).")
    known = list_checkpoints(run)
    for path in known:
        step = path.name.removeprefix("step-")
        if checkpoint in (path.name, step, str(int(step))) or _is_same(path, Path(checkpoint)):
            verify_checkpoint(path)
            return path
    steps = ", ".join(str(int(path.name.removeprefix("step-"))) for path in known)
    raise ConfigError(
        f"--checkpoint: {run} has no checkpoint {checkpoint!r}; "
        f"{f'there are those of steps {steps}.' if known else 'it has none yet.'}"
    )


def _is_same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _of_checkpoint(path: Path, skipped: tuple[str, ...]) -> ExportSource:
    run = path.parent.parent if len(path.parts) > 1 else path.absolute().parents[1]
    kept = path / "config.yaml"
    file = kept if kept.is_file() else run / "config.yaml"
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return ExportSource(
        run=run,
        weights=path / "policy",
        step=int(state["progress"]["step"]),
        config=resolve_run(file_chain(file).layers).config,
        skipped=skipped,
    )


def _of_sft(run: Path, layers: Sequence[Tree]) -> ExportSource:
    source = ExportSource(
        run=run, weights=run, step=None, config=resolve_sft(layers).config, skipped=()
    )
    if not any(path.suffix == ".safetensors" for path in _saved_files(source)):
        raise CheckpointError(f"RUN: {run} has not saved its policy yet; let it end.")
    return source
