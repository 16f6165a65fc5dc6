"""Plans of memory as the aligned lines that ``--dry-run`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmpo.config.memory import MemoryPlan, Sharding

__all__ = ["fitting", "memory_table", "readable_size"]

ALWAYS_SHOWN = ("weights", "gradients", "optimizer", "reference", "activations", "logits")
"""Uses whose line is there also where they take nothing."""
GIGABYTE = 10**9


def readable_size(num_bytes: int) -> str:
    """Return a number of bytes in the largest unit that it is a whole of."""
    for power, unit in enumerate(("B", "KiB", "MiB")):
        if num_bytes < 1024 ** (power + 1):
            return f"{num_bytes / 1024**power:.0f} {unit}"
    return f"{num_bytes / 1024**3:.1f} GiB"


def memory_table(plans: Mapping[Sharding, MemoryPlan], capacity: int | None = None) -> list[str]:
    """Return one line for each use and for the peak of each phase, with a column for each plan.

    Args:
        plans: The columns; their phases are the same.
        capacity: Bytes of the device here; None: there is none to compare with.
    """
    columns = list(plans.values())
    rows: list[tuple[str, Sequence[str]]] = [("at all times", list(plans))]
    rows += _uses([plan.held for plan in columns])
    for name in columns[0].phases:
        rows.append((f"in {name}", [""] * len(columns)))
        rows += _uses([plan.phases[name].uses for plan in columns])
    rows.append(("in all, at the peak of", [""] * len(columns)))
    rows += [
        (f"  {name}", [readable_size(plan.peaks[name]) for plan in columns])
        for name in columns[0].phases
    ]
    if capacity is not None:
        rows.append(("capacity of the device", [readable_size(capacity)] * len(columns)))
    head = max(len(name) for name, _ in rows)
    width = max(len(value) for _, values in rows for value in values)
    return [
        " ".join([f"{name:<{head}}", *(f" {value:>{width}}" for value in values)]).rstrip()
        for name, values in rows
    ]


def _uses(found: Sequence[Mapping[str, int]]) -> list[tuple[str, Sequence[str]]]:
    names = dict.fromkeys(name for uses in found for name in uses)
    return [
        (f"  {name}", [readable_size(uses[name]) for uses in found])
        for name in names
        if name in ALWAYS_SHOWN or any(uses[name] for uses in found)
    ]


def fitting(
    plans: Mapping[Sharding, MemoryPlan], gigabytes: Sequence[int] = (24, 40, 80, 141)
) -> str:
    """Return which plans fit into GPUs of the usual sizes, a tenth of each left free.

    Args:
        plans: By the way to divide the run.
        gigabytes: Sizes, in units of 10⁹ bytes.
    """
    parts = []
    for size in gigabytes:
        names = [name for name, plan in plans.items() if plan.peak <= 0.9 * size * GIGABYTE]
        parts.append(f"{size} GB: {', '.join(names) or 'none'}")
    return "; ".join(parts)
