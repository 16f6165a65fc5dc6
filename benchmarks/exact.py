"""KL(p* ‖ p_θ) while training, by enumeration: each baseline, group size and likelihood.

    python benchmarks/exact.py --name exact            # about ten minutes of one core
    python benchmarks/exact.py --steps 80              # a quick look
    python benchmarks/exact.py --name exact --redraw   # tables and plot from exact.json

Vocabulary 3, four tokens, 81 responses, 24 orders, a table for a policy: p*, p_θ and their
divergence are sums, and training goes through the library's own sampler, objective, weights,
baselines and likelihoods (tests/oracles/convergence.py). Four problems, each with a reference,
rewards and draws of its own, are trained side by side. Settings (learning rate, first moment)
were chosen on problems 0 to 3; the results are those of problems 10 to 13.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.exact_report import (
    BASELINES,
    FULL,
    LARGEST,
    LIKELIHOODS,
    REFERENCES,
    SIZES,
    mean,
    plot,
    report,
)
from benchmarks.provenance import provenance
from dmpo.files import replace_text
from tests.oracles.convergence import (
    Choice,
    Problems,
    divergences,
    elbo_limits,
    order_spreads,
    path_limits,
    problems,
    train,
)

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of a table, one group size."""

    reference: str
    link: str
    likelihood: str
    baseline: str
    num_rollouts: int


def settings() -> Iterator[Setting]:
    """Every group size where orders agree, the largest where they do not, and the linear link."""
    for likelihood, baseline in itertools.product(LIKELIHOODS, BASELINES):
        cells = [("orders agree", size) for size in SIZES] + [("orders disagree", LARGEST)]
        for reference, size in cells:
            yield Setting(
                reference=reference,
                link="softmax",
                likelihood=likelihood,
                baseline=baseline,
                num_rollouts=size,
            )
    linear = itertools.product(list(LIKELIHOODS)[:3], ("mean", "mean, λ = 0.9", "model"), (16, 256))
    for likelihood, baseline, size in linear:
        yield Setting(
            reference="orders agree",
            link="linear",
            likelihood=likelihood,
            baseline=baseline,
            num_rollouts=size,
        )


def main() -> None:
    options = parse(sys.argv[1:])
    if options.redraw:
        record = json.loads((RESULTS / f"{options.name}.json").read_text(encoding="utf-8"))
    else:
        record = measured(options)
    text = report(record)
    print(text)
    if options.name:
        replace_text(RESULTS / f"{options.name}.json", compact(record))
        replace_text(RESULTS / f"{options.name}.svg", plot(record))
        replace_text(RESULTS / f"{options.name}.md", text)


def measured(options: argparse.Namespace) -> dict:
    """Run every setting and return what the result files are made of."""
    torch.set_num_threads(1)
    given = {
        name: problems(options.problems, is_consistent=agree) for name, agree in REFERENCES.items()
    }
    times = sorted({options.steps * n // 16 for n in range(17)})
    started = time.process_time()
    runs = []
    for setting in settings():
        found = run(setting, given[setting.reference], options.steps, times)
        runs.append({**asdict(setting), **found})
        end = mean(found["divergences"][-1])
        print(f"{time.process_time() - started:6.0f} s  {setting}  {end:.4f}", flush=True)
    limits = {
        name: {"path": path_limits(each).tolist(), "elbo": elbo_limits(each).tolist()}
        for name, each in given.items()
    }
    return {
        "provenance": provenance(),
        "problems": options.problems,
        "steps": times,
        "cpu_seconds": time.process_time() - started,
        "limits": limits,
        "runs": runs,
    }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=FULL, help="gradient steps of each run")
    parser.add_argument("--problems", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--name", help="write results/NAME.md, NAME.json and NAME.svg")
    parser.add_argument("--redraw", action="store_true", help="run nothing: read NAME.json")
    options = parser.parse_args(arguments)
    if options.redraw and not options.name:
        parser.error("--redraw: say of which --name")
    return options


def run(setting: Setting, given: Problems, steps: int, times: Sequence[int]) -> dict:
    """Return KL(p* ‖ p_θ) at each time, and how far orders disagree at the end, in nats."""
    ratio, loss = LIKELIHOODS[setting.likelihood]
    baseline, strength = BASELINES[setting.baseline]
    choice = Choice(
        ratio=ratio,
        loss=loss,
        weights={"softmax": "tilted", "linear": "linear"}[setting.link],
        baseline=baseline,
        strength=strength,
    )
    found = train(
        choice,
        given,
        num_rollouts=setting.num_rollouts,
        num_steps=steps,
        measure_at=times,
        measure=lambda policy, of: torch.stack(
            [divergences(policy, of), order_spreads(policy, of)]
        ),
    )
    divergence, spread = found.transpose(0, 1).round(decimals=6).tolist()
    return {"divergences": divergence, "order_spread": spread[-1]}


def compact(record: dict) -> str:
    """Return JSON with one run per line."""
    head = {key: value for key, value in record.items() if key != "runs"}
    body = ",\n".join(json.dumps(run, ensure_ascii=False) for run in record["runs"])
    opening = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    return f'{opening},\n "runs": [\n{body}\n]}}\n'


if __name__ == "__main__":
    main()
