"""The evaluations of one command: every task at every canvas length, by one policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmpo.config.layers import Tree, assigned, merged, sourced
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.registry import TASKS

__all__ = ["Evaluation", "evaluations", "form_layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One task at one canvas length."""

    task: str
    """As it was named."""
    gen_length: int
    """Canvas length D."""
    config: RunConfig
    """All settings."""

    @property
    def heading(self) -> str:
        """What tables and files call it."""
        return f"{self.task.replace('/', '_').replace(':', '_')}-{self.gen_length}"

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured."""
        grader = self.config.task.parameters.get("grader", "default")
        return {"task": self.task, "gen_length": self.gen_length, "grader": grader}


def evaluations(
    layers: Sequence[Tree], top: Tree, tasks: Sequence[str], gen_lengths: Sequence[int]
) -> list[Evaluation]:
    """Return the evaluations of all tasks at all lengths, task by task.

    Args:
        layers: Recipe and file, lowest first.
        top: The command line.
        tasks: Names; none: what the layers say.
        gen_lengths: Canvas lengths; none: what the layers or the task say.

    Raises:
        ConfigError: See :func:`~dmpo.config.resolve.resolve_run`.
    """
    found = []
    named: Sequence[str | None] = tasks or [None]
    lengths: Sequence[int | None] = gen_lengths or [None]
    for task, length in itertools.product(named, lengths):
        layer = top
        if task is not None:
            layer = merged(layer, assigned("task.name", task, "--task"))
        if length is not None:
            path = "evaluation.sampler.gen_length"
            layer = merged(layer, assigned(path, length, "--gen-length"))
        config = resolve_run([*layers, layer]).config
        canvas = int(config.evaluation.sampler.parameters.get("gen_length", 0))
        found.append(Evaluation(task=task or config.task.name, gen_length=canvas, config=config))
    return found


def form_layer(task: str, record: Mapping[str, Any]) -> Tree:
    """Return what a saved completion says of how its problem was written, as a layer.

    One that :func:`~dmpo.evaluation.saved.write_completions` did not write is taken to be in the
    paper's format.
    """
    if task not in TASKS.names() or "format" not in TASKS.load(task).Config.model_fields:
        return {}
    form = "paper" if "columns" not in record or record.get("prefill") else "compact"
    return sourced({"task": {"name": task, "format": form}}, "--from-completions")
