"""The question of `benchmarks/noise.py` where KL(p* ‖ p_θ) is a sum, by enumeration.

    python benchmarks/noise_exact.py --name noise_exact     # eight minutes of one core
    python benchmarks/noise_exact.py --steps 40             # a quick look

Link × likelihood × baseline × c × replay. Vocabulary 3, four tokens, 81 responses, a table for a
policy, α = 0.15, groups of 16; training goes through the library's own sampler, objective, weights,
baselines and likelihoods (tests/oracles/convergence.py). Orders agree in the reference. The loss
is always that of four antithetic ELBO views; what differs is what the weights compare policies by.
Every arm has its own learning rate: the one of the least divergence on problems 0 to 4; the figures
are those of problems 10 to 14, each with a reference, rewards and draws of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.baselines import interval
from benchmarks.provenance import provenance
from dmpo.files import replace_text
from tests.oracles.convergence import Choice, problems, train

RESULTS = Path(__file__).parent / "results"
RATES = (0.01, 0.02, 0.04, 0.08)
LIKELIHOODS = {
    "path": {"ratio": "path"},
    "path, adaptive order": {"ratio": "path", "sampler": "peaked"},
    "ELBO, 4 views": {"ratio": "elbo"},
}
COEFFICIENTS = (1.0, 0.2)


def choices() -> Iterator[tuple[str, Choice]]:
    """Yield the name of each likelihood with a whole choice of parts."""
    for link, (likelihood, parts), baseline, c, replay in itertools.product(
        ("tilted", "linear"), LIKELIHOODS.items(), ("none", "mean", "model"), COEFFICIENTS, (1, 4)
    ):
        if not (link == "linear" and baseline == "none"):
            yield (
                likelihood,
                Choice(
                    loss="elbo",
                    weights=link,
                    baseline=baseline,
                    coefficient=c,
                    replay=replay,
                    **parts,
                ),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="gradient steps of each run")
    parser.add_argument("--size", type=int, default=16, help="N, rollouts of one prompt")
    parser.add_argument("--name", help="write results/NAME.json and NAME.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = {"tuning": range(5), "test": range(10, 15)}
    given = {split: problems(list(each), is_consistent=True) for split, each in seeds.items()}

    def ends(choice: Choice, split: str, rate: float) -> list[float]:
        curve = train(
            choice,
            given[split],
            num_rollouts=options.size,
            num_steps=options.steps,
            measure_at=(0, options.steps),
            learning_rate=rate,
        )
        return curve.tolist()[-1]

    started, rows = time.process_time(), []
    for likelihood, choice in choices():
        rate = min(RATES, key=lambda rate: sum(ends(choice, "tuning", rate)))
        found = ends(choice, "test", rate)
        rows.append({"likelihood": likelihood, **asdict(choice), "rate": rate, "ends": found})
        print(f"{time.process_time() - started:5.0f} s {likelihood} {choice} {rate} {found}")
    text = report(rows, options, time.process_time() - started)
    print(text)
    if options.name:
        replace_text(RESULTS / f"{options.name}.json", json.dumps(rows, indent=1) + "\n")
        replace_text(RESULTS / f"{options.name}.md", text)


def report(rows: list[dict], options: argparse.Namespace, seconds: float) -> str:
    """Return a table, the best first."""
    ranked = sorted(rows, key=lambda row: sum(row["ends"]))
    start = "about 0.9 nats at the start"
    lines = [
        "# Ways around likelihood noise, exact testbed",
        "",
        f"KL(p* ‖ p_θ) in nats after {options.steps} steps (N = {options.size}, F = 8, α = 0.15; "
        f"{start}), mean ± half of the 95% t-interval over five problems; learning rates chosen "
        "on five others. The best first.",
        "",
        "| link | weights compare by | baseline | c | buffers replayed | lr | KL(p* ‖ p_θ) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in ranked:
        link = "softmax" if row["weights"] == "tilted" else "linear"
        lines.append(
            f"| {link} | {row['likelihood']} | {row['baseline']} | {row['coefficient']:g} | "
            f"{row['replay']} | {row['rate']:g} | {interval(row['ends'])} |"
        )
    return "\n".join([*lines, "", *provenance(), f"- {seconds:.0f} s of one core", ""])


if __name__ == "__main__":
    main()
