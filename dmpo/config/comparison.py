"""What ``dmpo compare`` can be told, and the runs that it stands for: arms × grid × seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dmpo.config.layers import Tree, assigned, merged
from dmpo.config.recipes import file_chain, recipe_chain
from dmpo.config.resolve import Resolved, resolve_run
from dmpo.config.run import DEFAULT_RECIPE, RunConfig
from dmpo.config.runs import settings_changes
from dmpo.config.yaml_text import read_yaml_file, yaml_text
from dmpo.errors import ConfigError, nearest_name
from dmpo.settings import Settings, first_validation_message
from dmpo.training.events import StopReason
from dmpo.training.metrics import METRICS

__all__ = [
    "BaseSection",
    "BudgetSection",
    "ComparisonConfig",
    "PlannedRun",
    "check_same_run",
    "planned_runs",
    "read_comparison",
]

NAME: Final = re.compile(r"\w[\w.+=-]*")
"""What an arm may be called: it is a folder's name as well."""
_LIMITS: Final[Mapping[str, StopReason]] = {
    "model_tokens": "max_model_tokens",
    "flops": "max_model_flops",
    "steps": "num_steps",
    "seconds": "max_seconds",
}
"""Kinds of budget, and the setting under ``training`` that each is given to."""
EVALUATION_METRICS: Final = ("headline", "distinct_right")
"""Metrics of the evaluations that have a name of their own; others: ``evaluation/<figure>``."""

Values = dict[str, Any]


class BaseSection(Settings):
    """The settings that all runs share."""

    recipe: str | None = Field(
        None, description="A shipped recipe's name, or a path to one; null: `sudoku`."
    )
    config: str | None = Field(None, description="A YAML file of settings over the recipe.")
    set: Values = Field({}, description="Settings over both, by dotted path.")


class BudgetSection(Settings):
    """When every run stops: exactly one of these."""

    model_tokens: PositiveFloat | None = Field(
        None, description="Model tokens of training (forward 1, backward 2)."
    )
    flops: PositiveFloat | None = Field(
        None, description="Floating-point operations of the model in training."
    )
    steps: PositiveInt | None = Field(None, description="Gradient steps.")
    seconds: PositiveFloat | None = Field(None, description="Seconds of training.")

    @model_validator(mode="after")
    def _check_one(self) -> BudgetSection:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError(f"give exactly one of {', '.join(_LIMITS)}")
        return self

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(iter(self.model_dump(exclude_none=True)))

    @property
    def amount(self) -> float:
        """How much of it."""
        return float(self.model_dump(exclude_none=True)[self.kind])

    @property
    def limit(self) -> StopReason:
        """The setting under ``training`` that it is given to, and so why a run ends."""
        return _LIMITS[self.kind]


class ComparisonConfig(Settings):
    """Everything ``dmpo compare`` can be told."""

    description: str = Field("", description="What the comparison is for.")
    base: BaseSection = Field(
        default_factory=BaseSection, description="The settings that all runs share."
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = Field(
        (0, 1, 2), description="Each arm runs once with each."
    )
    arms: dict[str, Values] = Field(
        {}, description="By name, the settings that an arm has over the base, by dotted path."
    )
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="By dotted path, the values that every arm is crossed with."
    )
    budget: BudgetSection | None = Field(
        None, description="When every run stops; null: where its own settings say."
    )
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        (*EVALUATION_METRICS, "reward/mean"),
        description="Columns and curves: headline, distinct_right, evaluation/<figure>, or any "
        "name of metrics.jsonl.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> ComparisonConfig:
        if not (self.arms or self.grid):
            raise ValueError("arms: nothing to compare; name arms, or a grid")
        for field in ("seeds", "metrics"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ValueError(f"{field}: a value is given twice")
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"arms: {name!r} cannot be the name of a folder; letters, digits and . _ + = - "
                    "are accepted"
                )
        for name in self.metrics:
            _check_metric(name)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a comparison."""

    arm: str
    """Name of its arm."""
    seed: int
    """Seed of everything random in it."""
    resolved: Resolved[RunConfig]
    """All of its settings."""

    @property
    def place(self) -> Path:
        """Its directory, below the comparison's."""
        return Path("runs") / self.arm / f"seed-{self.seed}"

    def config_text(self) -> str:
        """Return its settings as a YAML file that gives the same run."""
        return yaml_text(self.resolved.plain())


def read_comparison(path: Path) -> ComparisonConfig:
    """Return the spec that a YAML file holds.

    Raises:
        ConfigError: If it cannot be read, or a key or value is wrong; the message starts with
            the file and the dotted path.
    """
    values = read_yaml_file(path)
    for section, keys in (("arms", values.get("arms")), ("base", ["set"])):
        _fill_empty(values.get(section), keys)
    try:
        return ComparisonConfig.model_validate(values)
    except ValidationError as error:
        message = first_validation_message(error, ComparisonConfig)
        raise ConfigError(f"{path}: {message}") from None


def planned_runs(spec: ComparisonConfig) -> list[PlannedRun]:
    """Return every run that a spec stands for, seed by seed, so that all arms advance together.

    Raises:
        ConfigError: If a setting of the base, of an arm or of the grid is wrong; the message
            starts with the arm.
        PluginError: If a plugin cannot be imported.
    """
    for path in spec.base.set:
        _check_free(path, spec.budget, "base.set")
    shared = _base_layers(spec.base)
    arms = {}
    for name, settings in _crossed(spec).items():
        for path in settings:
            _check_free(path, spec.budget, f"arms.{name}")
        arms[name] = _layer(settings, f"arms.{name}")
    return [
        PlannedRun(arm=name, seed=seed, resolved=_resolved(spec, shared, name, layer, seed))
        for seed in spec.seeds
        for name, layer in arms.items()
    ]


def check_same_run(planned: PlannedRun, before: RunConfig) -> None:
    """Refuse to go on with a run that had other settings; a limit may have been raised.

    Args:
        planned: The run as the spec has it now.
        before: The settings that the run in the directory had.

    Raises:
        ConfigError: Naming the first difference.
    """
    after = planned.resolved.config
    for change in settings_changes(before, after):
        if change.path in ("training.checkpoint_every", "training.keep_checkpoints"):
            continue
        is_limit = change.path.removeprefix("training.") in _LIMITS.values()
        is_raised = is_limit and _is_more(change.before, change.after)
        if not is_raised or after.training.schedule != "constant":
            raise ConfigError(
                f"arms.{planned.arm}: {planned.place} has run with other settings ({change}); give "
                "the arm another name, or name another --output."
            )


def _is_more(before: int | float | None, after: int | float | None) -> bool:
    """Return whether a limit was raised; None is none at all."""
    return before is not None and (after is None or after > before)


def _fill_empty(section: Any, keys: Any) -> None:
    """Read ``dmpo:`` with nothing behind it as no settings."""
    if isinstance(section, dict):
        section.update({key: {} for key in keys or () if section.get(key, {}) is None})


def _check_metric(name: str) -> None:
    patterns = [re.sub(r"<\w+>", r"[^\\s]+", re.escape(metric)) for metric in METRICS]
    known = "|".join((*EVALUATION_METRICS, r"(evaluation|objective)/\S+", *patterns))
    if not re.fullmatch(known, name):
        near = nearest_name(name, (*EVALUATION_METRICS, *METRICS))
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(
            f"metrics: unknown name {name!r}; accepted: {', '.join(EVALUATION_METRICS)}, "
            f"evaluation/<figure>, and the names of metrics.jsonl.{hint}"
        )


def _check_free(path: str, budget: BudgetSection | None, owner: str) -> None:
    """Refuse a setting that the spec gives in another place."""
    if path == "seed":
        raise ConfigError(f"{owner}.seed: `seeds` gives it.")
    if budget is not None and path == f"training.{budget.limit}":
        raise ConfigError(f"{owner}.{path}: `budget.{budget.kind}` gives it.")


def _base_layers(base: BaseSection) -> list[Tree]:
    layers: list[Tree] = []
    for field, given, chain in (
        ("recipe", base.recipe or (None if base.config else DEFAULT_RECIPE), recipe_chain),
        ("config", base.config, lambda path: file_chain(Path(path))),
    ):
        try:
            layers += chain(given).layers if given else ()
        except ConfigError as error:
            raise ConfigError(f"base.{field}: {error}") from None
    return [*layers, _layer(base.set, "base.set")]


def _layer(settings: Values, source: str) -> Tree:
    layer: Tree = {}
    for path, value in settings.items():
        layer = merged(layer, assigned(path, value, source))
    return layer


def _resolved(
    spec: ComparisonConfig, shared: Sequence[Tree], arm: str, layer: Tree, seed: int
) -> Resolved[RunConfig]:
    layers = [*shared, layer, assigned("seed", seed, "seeds")]
    if spec.budget is not None:
        kind, amount = spec.budget.kind, spec.budget.amount
        value = int(amount) if kind == "steps" else amount
        layers.append(assigned(f"training.{spec.budget.limit}", value, f"budget.{kind}"))
    try:
        return resolve_run(layers)
    except ConfigError as error:
        raise ConfigError(f"arms.{arm}: {error}") from None


def _crossed(spec: ComparisonConfig) -> dict[str, Values]:
    """Return the settings of every arm crossed with every point of the grid, by name."""
    arms = spec.arms or {"": {}}
    found: dict[str, Values] = {}
    for (name, settings), values in itertools.product(
        arms.items(), itertools.product(*spec.grid.values())
    ):
        point = dict(zip(spec.grid, values, strict=True))
        for path in point:
            if path in settings:
                raise ConfigError(f"arms.{name}.{path}: `grid` gives it to every arm.")
        full = "-".join(filter(None, (name, *(_suffix(*item) for item in point.items()))))
        if full in found:
            raise ConfigError(f"grid: two arms would both be called {full!r}; name them as arms.")
        found[full] = {**settings, **point}
    return found


def _suffix(path: str, value: Any) -> str:
    """Return ``baseline=none`` for a point of the grid, in characters that a folder may have."""
    return re.sub(r"[^\w.+=-]+", "+", f"{path.rpartition('.')[2]}={_word(value)}").strip("+")


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = (f"{key}={_word(item)}" for key, item in value.items() if key != "name")
        return "+".join((*([str(value["name"])] if "name" in value else []), *rest))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
