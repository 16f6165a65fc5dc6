"""Everything a run writes down, as it happens.

config.yaml       environment.json    metrics.jsonl    samples.jsonl    tensorboard/
evaluation.json   evaluation.md       evaluations/step-000000.jsonl
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, final

import torch
from accelerate import Accelerator

from dmpo.errors import DataError
from dmpo.evaluation.saved import read_tables, write_completions, write_tables
from dmpo.evaluation.summary import EvaluationResult
from dmpo.files import append_line, read_lines, replace_text
from dmpo.training.events import BufferFilled, EvaluationDone, Event, StepDone
from dmpo.training.rollout import token_texts
from dmpo.training.tracker_kinds import EndState
from dmpo.training.trackers import Trackers

__all__ = ["Tracker", "environment_record"]

SAMPLED_PROMPTS = 3
"""Prompts of a buffer that samples.jsonl shows."""
SAMPLED_ROLLOUTS = 2
"""Rollouts of each."""
PACKAGES = ("dmpo-dllm", "torch", "transformers", "accelerate", "peft", "safetensors", "datasets")
"""Whose versions environment.json records."""


def environment_record(
    seed: int, command: Sequence[str], device: torch.device, num_processes: int
) -> dict[str, Any]:
    """Return what a reader needs to repeat a run: versions, machine, seed and command."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "num_processes": num_processes,
        "seed": seed,
        "command": list(command) or sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


@final
class Tracker:
    """Writes the run directory from the loop's events; only the main process has one.

    Args:
        run_directory: Exists, and holds nothing later than ``first_step``.
        accelerator: Ended with the run.
        trackers: Get the metrics as well (TensorBoard, …); not open yet.
        first_step: Steps taken already; above 0, what is there is continued.
        sample_every: Steps between rollouts in samples.jsonl.
        config_text: The resolved configuration, as YAML.
        environment: See :func:`environment_record`.

    Raises:
        OutputError: If the directory cannot be written; so do all methods.
    """

    def __init__(
        self,
        run_directory: Path,
        accelerator: Accelerator,
        trackers: Trackers,
        *,
        first_step: int,
        sample_every: int,
        config_text: str,
        environment: Mapping[str, Any],
    ) -> None:
        """Write what is known before the first step."""
        self._directory = run_directory
        self._accelerator = accelerator
        self._trackers = trackers
        self._sample_every = sample_every
        self._next_sample = _last_sampled(run_directory) + sample_every if first_step else 0
        # An evaluation of this very step is made again: the checkpoint is older than it.
        earlier = [f"step {step}" for step in range(first_step)]
        found = _saved_evaluations(run_directory) if first_step else {}
        self._evaluations = {heading: found[heading] for heading in earlier if heading in found}
        if self._evaluations.keys() != found.keys():
            write_tables(run_directory, self._evaluations)
        if config_text:
            replace_text(run_directory / "config.yaml", config_text)
        self._write_environment(environment, first_step)
        trackers.start(first_step=first_step, config_text=config_text)

    def notify(self, event: Event) -> None:
        """Write what belongs to the event; a kill after this returns loses none of it."""
        match event:
            case StepDone():
                self._append("metrics.jsonl", {"step": event.step, **event.metrics})
                self._trackers.log(event.metrics, event.step)
            case BufferFilled() if event.step >= self._next_sample:
                self._next_sample = event.step + self._sample_every
                for record in sample_records(event):
                    self._append("samples.jsonl", record)
            case EvaluationDone():
                self._write_evaluation(event)

    def close(self, state: EndState) -> None:
        """Have the trackers write what they hold back, and tell them how the run ended."""
        self._trackers.close(state)
        self._accelerator.end_training()

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        append_line(self._directory / name, json.dumps(record, ensure_ascii=False))

    def _write_evaluation(self, event: EvaluationDone) -> None:
        self._evaluations[f"step {event.step}"] = event.result
        path = self._directory / "evaluations" / f"step-{event.step:06d}.jsonl"
        write_completions(path, event.result)
        write_tables(self._directory, self._evaluations)
        figures = event.result.figures.items()
        means = {f"evaluation/{name}": figure.mean for name, figure in figures}
        self._trackers.log(means, event.step, is_evaluation=True)

    def _write_environment(self, environment: Mapping[str, Any], first_step: int) -> None:
        """Keep the record of the beginning; a resume adds its own to a list inside it."""
        path = self._directory / "environment.json"
        record = dict(environment)
        if first_step:
            try:
                begun = json.loads(path.read_text(encoding="utf-8"))
                resumes = [*begun.get("resumes", ()), {"step": first_step, **environment}]
                record = {**begun, "resumes": resumes}
            except (OSError, ValueError, AttributeError, TypeError):
                record = {**record, "resumes": [{"step": first_step}]}
        replace_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _saved_evaluations(run_directory: Path) -> dict[str, EvaluationResult]:
    """Return the tables of a run; none if they were damaged, which must not end a run."""
    try:
        return read_tables(run_directory)
    except DataError:
        return {}


def _last_sampled(run_directory: Path) -> int:
    """Return the step of the last line of samples.jsonl; 0 if there is none."""
    path = run_directory / "samples.jsonl"
    lines = read_lines(path) if path.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def sample_records(event: BufferFilled) -> list[dict[str, Any]]:
    """Return a few rollouts of a buffer: rewards, weights, and how their tokens came about."""
    experience = event.experience
    rollouts, rewards = experience.rollouts, experience.rewards
    baseline = experience.baseline_weights
    return [
        {
            "step": event.step,
            "prompt": example.prompt,
            "completion": rollouts.texts[row][column],
            "reward": float(rewards.total[row, column]),
            "components": {
                name: None if values[row, column].isnan() else float(values[row, column])
                for name, values in rewards.components.items()
            },
            "weight": float(experience.weights.values[row, column]),
            "group": row,
            "rollout": column,
            "group_size": rollouts.num_rollouts,
            # 1 for the best; rollouts with one reward share the best rank of them.
            "rank": 1 + int((rewards.total[row] > rewards.total[row, column]).sum()),
            "ess": float(experience.weights.ess[row]),
            "baseline_weight": None if baseline is None else float(baseline[row, column]),
            **_token_record(event, row, column),
        }
        for row, example in enumerate(rollouts.prompts.examples[:SAMPLED_PROMPTS])
        for column in range(min(SAMPLED_ROLLOUTS, rollouts.num_rollouts))
    ]


def _token_record(event: BufferFilled, row: int, column: int) -> dict[str, Any]:
    """Return the tokens of an answer, when each was fixed, and how sure the policy was."""
    rollouts = event.experience.rollouts
    length = int(rollouts.answer_mask[row, column].sum())
    steps = rollouts.commit_step[row, column]
    record: dict[str, Any] = {
        "commit_steps": steps[:length].tolist(),
        "denoising_steps": 1 + int(steps.max()),
    }
    if event.decode is not None:
        record["tokens"] = token_texts(event.decode, rollouts.completions[row, column, :length])
    for name, values in (("log_probs", rollouts.log_probs), ("entropies", rollouts.entropies)):
        if values is not None:
            record[name] = [round(each, 4) for each in values[row, column, :length].tolist()]
    return record


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type
