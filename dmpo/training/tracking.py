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

from dmpo.evaluation.evaluator import EvaluationResult
from dmpo.evaluation.saved import write_completions, write_tables
from dmpo.training.events import BufferFilled, EvaluationDone, Event, Finished, StepDone

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
        run_directory: Made if it is missing; files that are there are continued.
        accelerator: Whose trackers (TensorBoard, …) get the metrics as well.
        sample_every: Steps between rollouts in samples.jsonl.
        config_text: The resolved configuration, as YAML.
        environment: See :func:`environment_record`.
    """

    def __init__(
        self,
        run_directory: Path,
        accelerator: Accelerator,
        *,
        sample_every: int,
        config_text: str,
        environment: Mapping[str, Any],
    ) -> None:
        """Make the directory and write what is known before the first step."""
        run_directory.mkdir(parents=True, exist_ok=True)
        if config_text:
            (run_directory / "config.yaml").write_text(config_text, encoding="utf-8")
        text = json.dumps(environment, indent=2, ensure_ascii=False) + "\n"
        (run_directory / "environment.json").write_text(text, encoding="utf-8")
        self._directory = run_directory
        self._accelerator = accelerator
        self._sample_every = sample_every
        self._next_sample = 0
        self._evaluations: dict[str, EvaluationResult] = {}
        if accelerator.log_with:
            accelerator.init_trackers("tensorboard")

    def notify(self, event: Event) -> None:
        """Write what belongs to the event; every line is on disk before this returns."""
        match event:
            case StepDone():
                self._append("metrics.jsonl", {"step": event.step, **event.metrics})
                self._accelerator.log(dict(event.metrics), step=event.step)
            case BufferFilled() if event.step >= self._next_sample:
                self._next_sample = event.step + self._sample_every
                for record in sample_records(event):
                    self._append("samples.jsonl", record)
            case EvaluationDone():
                self._write_evaluation(event)
            case Finished():
                self._accelerator.end_training()

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with (self._directory / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write_evaluation(self, event: EvaluationDone) -> None:
        self._evaluations[f"step {event.step}"] = event.result
        path = self._directory / "evaluations" / f"step-{event.step:06d}.jsonl"
        write_completions(path, event.result)
        write_tables(self._directory, self._evaluations)
        figures = event.result.figures.items()
        values = {f"evaluation/{name}": figure.mean for name, figure in figures}
        self._accelerator.log(values, step=event.step)


def sample_records(event: BufferFilled) -> list[dict[str, Any]]:
    """Return a few rollouts of a buffer with their rewards and weights."""
    experience = event.experience
    rollouts, rewards = experience.rollouts, experience.rewards
    return [
        {
            "step": event.step,
            "prompt": example.prompt,
            "completion": rollouts.texts[row][column],
            "reward": float(rewards.total[row, column]),
            "components": {k: float(v[row, column]) for k, v in rewards.components.items()},
            "weight": float(experience.weights.values[row, column]),
        }
        for row, example in enumerate(rollouts.prompts.examples[:SAMPLED_PROMPTS])
        for column in range(min(SAMPLED_ROLLOUTS, rollouts.num_rollouts))
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type
