"""Tables, findings and plot of `exact.py`, from its record alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from benchmarks import charts
from tests.oracles.convergence import ALPHA, BETAS, LEARNING_RATE, UPDATES_PER_BUFFER

FULL = 800
"""Steps after which the findings hold."""
SIZES = (4, 16, 64, 256)
LARGEST = SIZES[-1]
LIKELIHOODS = {
    "path": ("path", "path"),
    "path, loss on random masks": ("path", "elbo"),
    "elbo, shared masks": ("elbo", "elbo"),
    "elbo, independent masks": ("elbo_independent", "elbo"),
    "elbo, exact expectation": ("elbo_expectation", "elbo"),
    "mean_field": ("mean_field", "mean_field"),
}
"""What a table calls them: weights by the first, loss by the second."""
BASELINES = {
    "none": ("none", 1.0),
    "mean": ("mean", 1.0),
    "mean, λ = 0.9": ("mean", 0.9),
    "model": ("model", 1.0),
    "individual": ("individual", 1.0),
}
REFERENCES = {"orders agree": True, "orders disagree": False}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def curve_of(
    record: dict,
    likelihood: str,
    baseline: str,
    *,
    size: int = LARGEST,
    reference: str = "orders agree",
    link: str = "softmax",
) -> list[list[float]]:
    """Return the divergences of one run [times, problems]."""
    return run_of(record, likelihood, baseline, size, reference, link)["divergences"]


def run_of(
    record: dict, likelihood: str, baseline: str, size: int, reference: str, link: str
) -> dict:
    """Return one run."""
    wanted = {
        "reference": reference,
        "link": link,
        "likelihood": likelihood,
        "baseline": baseline,
        "num_rollouts": size,
    }
    (found,) = (run for run in record["runs"] if run | wanted == run)
    return found


def cell(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation over problems; bold where the mean is ≤ .001."""
    middle = mean(values)
    spread = math.sqrt(sum((v - middle) ** 2 for v in values) / max(1, len(values) - 1))
    digits = 4 if middle < 0.01 else 3 if middle < 0.1 else 2
    text = f"{middle:.{digits}f} ± {spread:.{digits}f}"
    return f"**{text}**" if middle <= 0.001 else text


def report(record: dict) -> str:
    steps, count = record["steps"][-1], len(record["problems"])
    start = mean(curve_of(record, "path", "mean")[0])
    lines = [
        "# KL(p* ‖ p_θ) by enumeration",
        "",
        f"Vocabulary 3, four tokens, 81 responses, 24 orders; α = {ALPHA}; F = "
        f"{UPDATES_PER_BUFFER}; Adam {BETAS}, learning rate {LEARNING_RATE} falling to 0 on a "
        f"cosine; {steps} gradient steps from the reference, where the divergence is {start:.2f}. "
        f"Mean ± standard deviation over {count} problems (each its own reference, rewards and "
        "draws), in nats. Bold: at most 0.001.",
        "",
        "![divergence against steps and group size](exact.svg)",
        "",
        "Lines: mean over problems; bands: from the smallest to the largest; dashed: how far the "
        "estimator's own target lies from p\\*, by enumeration.",
        "",
        *(findings(record) if steps == FULL else []),
        f"## After {steps} steps, softmax link",
        "",
        "Rows: what the weights compare policies by, and the baseline. The last column starts from "
        "a reference whose 24 orders disagree about p(o).",
        "",
        *main_table(record),
        "",
        *limits_text(record),
        "",
        f"## Against steps, N = {LARGEST}, orders agree, softmax link",
        "",
        *steps_table(record),
        "",
        f"## Linear link after {steps} steps, orders agree",
        "",
        *linear_table(record),
        "",
        "The same distance for the tiny LLaDA on `digit_sum`, by enumeration of 10,000 responses "
        "before and after a short run with each baseline, is in [baselines](baselines.md).",
        "",
        *record["provenance"],
        f"- problems: {', '.join(map(str, record['problems']))} (settings were chosen on 0 to 3); "
        f"{record['cpu_seconds']:.0f} s of one core",
        "",
    ]
    return "\n".join(lines)


def findings(record: dict) -> list[str]:
    """Return what the figures say, each with its own."""

    def end(likelihood: str, baseline: str, **where: Any) -> str:
        return f"{mean(curve_of(record, likelihood, baseline, **where)[-1]):.2g}"

    def spread(likelihood: str, baseline: str) -> str:
        found = run_of(record, likelihood, baseline, LARGEST, "orders agree", "softmax")
        return f"{mean(found['order_spread']):.2g}"

    exact, shared, own = "elbo, exact expectation", "elbo, shared masks", "elbo, independent masks"
    masks, held, agree = "path, loss on random masks", "mean, λ = 0.9", {"link": "linear"}
    apart = {"reference": "orders disagree"}
    return [
        "What it says:",
        "",
        f"- **The method reaches p\\*** with path likelihoods and a large group: "
        f"{end('path', 'mean')} with `mean`, {end('path', 'model')} with `model`, and as near with "
        f"the linear link ({end('path', 'mean', **agree)}, {end('path', 'model', **agree)}). A "
        "group of four needs the baseline: without one it ends at "
        f"{end('path', 'none', size=4)}, behind the start, with `mean` at "
        f"{end('path', 'mean', size=4)}. `individual` leaves p\\* by design.",
        f"- **Noise of the ELBO**: weights from its exact expectation end at {end(exact, 'mean')} "
        f"(`mean`, N = {LARGEST}), from four views at {end(shared, 'mean')}, and if reference and "
        f"behaviour policy are looked at through different masks at {end(own, 'mean')}. A softmax "
        "exponentiates the noise; under the linear link it averages out: "
        f"{end(shared, 'mean', **agree)}.",
        f"- **Bias of the ELBO**: where orders disagree, its exact expectation ends at "
        f"{end(exact, held, **apart)}, which is where its target lies. Path weights with a loss on "
        f"random masks end at {end(masks, held, **apart)} and have no such limit.",
        "- **What a full baseline leaves free**: on random masks, `mean` and `model` at λ = 1 look "
        "at p(o) alone and nothing holds the orders together. Starting from a reference whose "
        "orders agree, they end up disagreeing about log p(o; σ) by "
        f"{spread(exact, 'mean')} nats (standard deviation; exact expectation, `mean`), and the "
        f"bound is no likelihood any more. With λ = 0.9, a tenth of plain self-distillation, it is "
        f"{spread(exact, held)} nats and the divergence {end(exact, held)} in place of "
        f"{end(exact, 'mean')}; with path weights {end(masks, held)} in place of "
        f"{end(masks, 'mean')}; with the noisy ELBO {end(shared, held)} in place of "
        f"{end(shared, 'mean')}. `none` holds them as well ({spread(exact, 'none')} nats), and so "
        f"does a loss on the path's own states (`mean`: {spread('path', 'mean')} nats).",
        "- **`mean_field`** trains the fully hidden state alone: marginals move, the joint does "
        "not.",
        "",
    ]


def main_table(record: dict) -> list[str]:
    sizes = " | ".join(f"N = {size}" for size in SIZES)
    lines = [
        f"| likelihood | baseline | {sizes} | N = {LARGEST}, orders disagree |",
        "| --- | --- |" + " --- |" * (len(SIZES) + 1),
    ]
    for names in itertools.product(LIKELIHOODS, BASELINES):
        curves = [curve_of(record, *names, size=size) for size in SIZES]
        curves.append(curve_of(record, *names, reference="orders disagree"))
        lines.append(f"| {' | '.join(names)} | " + " | ".join(cell(c[-1]) for c in curves) + " |")
    return lines


def limits_text(record: dict) -> list[str]:
    limits = record["limits"]["orders disagree"]
    return [
        "Where orders disagree, two of the targets are not p* themselves, by enumeration: the "
        f"bound's, q ∝ exp(E log p_ref(o; σ) + r/α), lies {cell(limits['elbo'])} from it, and the "
        "policy nearest to the target over whole paths (which favours some orders, as no policy "
        f"can) {cell(limits['path'])}. Path weights with a loss on random masks have no such "
        "limit. Where orders agree, all are 0."
    ]


def steps_table(record: dict) -> list[str]:
    steps = record["steps"]
    shown = [0, 2, 4, 8, len(steps) - 1]
    lines = [
        "| likelihood | baseline | " + " | ".join(f"{steps[n]} steps" for n in shown) + " |",
        "| --- | --- |" + " --- |" * len(shown),
    ]
    for names in itertools.product(LIKELIHOODS, BASELINES):
        curve = curve_of(record, *names)
        cells = " | ".join(cell(curve[n]) for n in shown)
        lines.append(f"| {' | '.join(names)} | {cells} |")
    return lines


def linear_table(record: dict) -> list[str]:
    runs = [run for run in record["runs"] if run["link"] == "linear"]
    sizes = sorted({run["num_rollouts"] for run in runs})
    lines = [
        "| likelihood | baseline | " + " | ".join(f"N = {size}" for size in sizes) + " |",
        "| --- | --- |" + " --- |" * len(sizes),
    ]
    for names in dict.fromkeys((run["likelihood"], run["baseline"]) for run in runs):
        ends = [curve_of(record, *names, size=size, link="linear")[-1] for size in sizes]
        lines.append(f"| {' | '.join(names)} | " + " | ".join(map(cell, ends)) + " |")
    return lines


def plot(record: dict) -> str:
    last = record["steps"][-1]
    agree, disagree = (
        charts.Row(
            title=f"{reference}, N = {LARGEST}",
            x_label="gradient steps",
            x_ticks=(0, last // 2, last),
            is_x_logarithmic=False,
            panels=[step_panel(record, reference, name) for name in LIKELIHOODS],
        )
        for reference in REFERENCES
    )
    by_size = charts.Row(
        title=f"orders agree, after {last} steps",
        x_label="N",
        x_ticks=SIZES,
        is_x_logarithmic=True,
        panels=[size_panel(record, name) for name in LIKELIHOODS],
    )
    return charts.figure(
        [agree, by_size, disagree], list(BASELINES), y_label="KL(p* ‖ p_θ)", y_range=(-4, 1)
    )


def step_panel(record: dict, reference: str, likelihood: str) -> charts.Panel:
    lines = [
        charts.Line(
            label=baseline,
            points=points(
                record["steps"], curve_of(record, likelihood, baseline, reference=reference)
            ),
        )
        for baseline in BASELINES
    ]
    limits = record["limits"][reference]
    level = {"path": mean(limits["path"]), "elbo, exact expectation": mean(limits["elbo"])}.get(
        likelihood, 0.0
    )
    return charts.Panel(title=likelihood, lines=lines, level=level if level > 1e-6 else None)


def size_panel(record: dict, likelihood: str) -> charts.Panel:
    lines = []
    for baseline in BASELINES:
        ends = [curve_of(record, likelihood, baseline, size=size)[-1] for size in SIZES]
        lines.append(charts.Line(label=baseline, points=points(SIZES, ends)))
    return charts.Panel(title=likelihood, lines=lines)


def points(
    positions: Sequence[float], values: Sequence[Sequence[float]]
) -> list[tuple[float, float, float, float]]:
    return [(x, mean(row), min(row), max(row)) for x, row in zip(positions, values, strict=True)]
