"""The README.md of an exported model: what it is, how it came about, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dmpo.config.run import RunConfig, SftConfig
from dmpo.evaluation.summary import EvaluationResult
from dmpo.evaluation.table import evaluation_markdown

__all__ = ["model_card"]


def model_card(
    config: RunConfig | SftConfig,
    policy: Any,
    *,
    title: str,
    form: str,
    step: int | None,
    evaluations: Mapping[str, EvaluationResult],
) -> str:
    """Return the card as Markdown under YAML front matter, which the hub reads.

    Args:
        config: The settings of the run.
        policy: The settings of its policy, as the policy's own class has validated them.
        title: What the model is called.
        form: ``adapter``, ``merged`` (adapters added into their base) or ``weights`` (every
            weight was trained).
        step: Gradient steps taken; None: not known.
        evaluations: The run's figures by heading; may be empty.
    """
    base = _base(policy)
    about = {
        **({} if base is None else {"base_model": base}),
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["dmpo", "diffusion", config.policy.name, *_method(config)])),
    }
    parts = [
        f"---\n{yaml.safe_dump(about, sort_keys=False, allow_unicode=True)}---\n",
        f"# {title}\n",
        _opening(config, base, form),
        _table(_training(config, policy, step)),
    ]
    if evaluations:
        parts += ["## Evaluation\n", evaluation_markdown(evaluations)]
    parts += ["## Loading\n", _loading(config, base, form)]
    return "\n".join(parts)


def _base(policy: Any) -> str | None:
    """Return the name of the model that was trained further, if it was not a new one."""
    if getattr(policy, "scratch", None) is not None:
        return None
    return getattr(policy, "model", None)


def _method(config: RunConfig | SftConfig) -> list[str]:
    if isinstance(config, SftConfig):
        return ["sft", *(task.name for task in config.tasks)]
    return [config.objective.name, config.task.name]


def _opening(config: RunConfig | SftConfig, base: str | None, form: str) -> str:
    what = {
        "adapter": "Low-rank adapters for",
        "merged": "Low-rank adapters, added into the weights of",
        "weights": "All weights, trained further from",
    }[form]
    how = "supervised fine-tuning" if isinstance(config, SftConfig) else "reinforcement learning"
    origin = base or "a model of random weights"
    return f"{what} {origin}: a masked diffusion language model after {how} with `dmpo`.\n"


def _training(config: RunConfig | SftConfig, policy: Any, step: int | None) -> dict[str, str]:
    rows = {}
    if isinstance(config, SftConfig):
        rows["method"] = "supervised fine-tuning"
        rows["tasks"] = ", ".join(task.name for task in config.tasks)
    else:
        rows["objective"] = config.objective.name
        rows["likelihood"] = config.likelihood.name
        rows["weights"] = f"{config.weights.name}, baseline {config.baseline.name}"
        rows["task"] = config.task.name
        rows["rewards"] = ", ".join(reward.name for reward in config.rewards)
    rows["gradient steps"] = f"at most {config.training.num_steps}" if step is None else str(step)
    rows["seed"] = str(config.seed)
    if revision := getattr(policy, "revision", None):
        rows["revision of the base"] = revision
    if lora := getattr(policy, "lora", None):
        rows["adapters"] = (
            f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, targets "
            f"{lora.targets}"
        )
    if dtype := getattr(policy, "dtype", None):
        rows["precision in training"] = dtype
    if quantization := getattr(policy, "quantization", None):
        rows["base in training"] = quantization
    return rows


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items()), ""])


def _loading(config: RunConfig | SftConfig, base: str | None, form: str) -> str:
    name = config.policy.name
    if form != "adapter":
        return (
            "The files are in the layout of the base model's own. With this directory's path:\n\n"
            f'```bash\ndmpo generate --policy {name} --model DIRECTORY --prompt "…"\n```\n'
        )
    if base is None:
        return "The base was made by the run itself; `dmpo export RUN --merge` holds both.\n"
    return (
        "In PEFT's own format. The base model must be built as `dmpo` builds it, whose modules "
        "the adapters name:\n\n"
        "```python\nfrom peft import PeftModel\n\nfrom dmpo.registry import POLICIES\n\n"
        f'policy = POLICIES.build("{name}", {{"model": "{base}"}})\n'
        'model = PeftModel.from_pretrained(policy.module.causal_lm, "DIRECTORY")\n```\n\n'
        "`dmpo export RUN --merge` writes a checkpoint that needs neither.\n"
    )
