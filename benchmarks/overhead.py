"""How much of a training step is the model's own work, and where the rest goes.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py --name overhead     # the demo's recipe
    OMP_NUM_THREADS=1 python benchmarks/overhead.py --recipe sudoku_paper --rounds 3

The run is that of `dmpo train --plain`: the recipe's parts, its trainer, every file written; on the
CPU. A *period* is one buffer filled and its F gradient steps, with everything between them. An
observer cuts the run into periods and measures two of them in turn, round after round:

- a plain period, step by step; after each step, outside of its time, the *floor* of that step:
  the same forward and backward passes, shapes and number, on the bare transformers module with
  inputs built before: no sampler, no objective, no optimizer, no log;
- a profiled period: the self time of each operator under torch.profiler.

**Share** is the time in the kernels of `NEEDED` over the time of a period. `NEEDED` holds kernels
that compute something: matrix products, attention, norms, activations and rotations, embedding
and gathers, softmax and cross-entropy, the draw of tokens, the optimizer; and the concatenation
that turns the halves of queries and keys, which is how the model rotates them (a row of its own,
for whoever would leave it out). Left out, even inside the model, is all else that moves data or
keeps books: copies, casts, fills, views, allocation, autograd's own code, Python (that of
transformers too). A few kernels with the same names run outside model and optimizer (weights,
metrics), on a few hundred numbers each.

Kernel time and the time of the period come from the same profiled period, so that whatever else
the machine does meets both alike. Their ratio is a lower bound, as the profiler's own time (some
70,000 events a period) lies between the kernels. The share takes it out: it is the bound times
the processor time of a profiled period over that of a plain one, each that of its quietest round,
since neighbours on the machine change a period by more than the profiler does. *With kernels that
move data* adds `MOVING`: copies and fills, nearly all of them inside the model, where transformers
asks for them.

**Floor / step** asks the same without a profiler and without a list of names, on the plain period.
It counts transformers' own Python and copies to the floor, and the optimizer and the draw of
tokens not. Passes of a frozen reference (alpha above 0, full fine-tuning) are not in the floor.

Both want a quiet machine; the lower bound does not. One thread, because with several the kernels'
share says how well they spread over cores, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from provenance import provenance, versions
from rich.console import Console
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dmpo.config.assembly import build_light_parts, build_training_parts
from dmpo.config.layers import sourced
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run
from dmpo.files import replace_text
from dmpo.policies.denoiser import Denoiser, mask_positions
from dmpo.training.events import Event, StepDone
from dmpo.training.live import PlainView
from dmpo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2
"""Periods before the first round: one for lazy imports and caches, one whose calls are kept."""

NEEDED: Mapping[str, str] = {
    "matrix products": "mm addmm bmm baddbmm",
    "attention": "_scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention_for_cpu_backward _softmax _softmax_backward_data",
    "rotary embedding: turned halves": "cat",
    "norms, activations, rotations, residuals": "add add_ sub mul mul_ div div_ neg pow rsqrt mean "
    "sum silu silu_backward",
    "embedding, gathers": "index_select embedding_dense_backward gather scatter_ index "
    "_index_put_impl_",
    "softmax, cross-entropy": "_log_softmax _log_softmax_backward_data nll_loss_forward "
    "nll_loss_backward logsumexp",
    "draw of tokens": "exponential_ log_ argmax",
    "optimizer, clip": "_fused_adamw_ linalg_vector_norm lerp_ addcmul_ addcdiv_ sqrt",
}
"""Kernels that compute something, as torch.profiler calls them after `aten::`."""

MOVING = "copy_ stack clone fill_ zero_ masked_fill_ masked_scatter_ where"
"""Kernels that move or set data."""
MOVED = "copies, casts, fills"

GROUPS = {
    f"aten::{kernel}": group
    for group, kernels in {**NEEDED, MOVED: MOVING}.items()
    for kernel in kernels.split()
}
"""What a kernel is booked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One forward pass of a period, ready to be made again."""

    inputs: Mapping[str, Tensor]
    """What the bare model takes: tokens, and where there is padding mask and positions."""
    rows: Tensor
    """Distinct positions of the flattened batch whose logits are wanted."""
    scored: tuple[Tensor, Tensor] | None
    """Which of them, and which token there, each score is of; None where logits suffice."""
    with_gradient: bool
    """Whether a backward pass follows."""


@dataclass(slots=True)
class Clock:
    """Seconds of a period, by the wall and of all processors together."""

    wall: float = 0.0
    cpu: float = 0.0


@dataclass(slots=True)
class Round:
    """What one round measured."""

    plain: Clock = field(default_factory=Clock)
    floor: Clock = field(default_factory=Clock)
    profiled: Clock = field(default_factory=Clock)
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of the phases of the profiled period, by the trainer's own meter."""
    operators: dict[str, float] = field(default_factory=dict)
    """Self seconds of every operator of the profiled period."""


class Steps:
    """An observer that goes on with a plan after each gradient step.

    Args:
        plan: Advanced between two steps.
        phases: Where the seconds of each phase are added up.
    """

    def __init__(self, plan: Iterator[None], phases: Counter[str]) -> None:
        self._plan = plan
        self._phases = phases
        next(plan)

    def notify(self, event: Event) -> None:
        if isinstance(event, StepDone):
            seconds = {k[5:]: v for k, v in event.metrics.items() if k.startswith("time/")}
            seconds.pop("total")
            self._phases.update(seconds)
            next(self._plan, None)


def rounds_of(
    denoiser: Denoiser, updates: int, phases: Counter[str], rounds: list[Round], count: int
) -> Generator[None, None, None]:
    """Measure; every `yield` lets one gradient step pass, with the buffer if one is due."""
    for _ in range(updates):
        yield
    calls = []
    for _ in range(updates):
        with recorded_calls(denoiser) as made:
            yield
        calls.append(made)
    for number in range(count):
        found = Round()
        for made in calls:
            with timed(found.plain):
                yield
            with timed(found.floor):
                for call in made:
                    make(call, denoiser)
        phases.clear()
        with profile(activities=[ProfilerActivity.CPU]) as profiler, timed(found.profiled):
            for _ in range(updates):
                yield
        found.phases = dict(phases)
        found.operators = {
            row.key: row.self_cpu_time_total / 1e6 for row in profiler.key_averages()
        }
        rounds.append(found)
        print(f"round {number + 1} of {count}", file=sys.stderr)


@contextmanager
def timed(clock: Clock) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    clock.wall += time.perf_counter() - wall
    clock.cpu += time.process_time() - cpu


@contextmanager
def recorded_calls(denoiser: Denoiser) -> Iterator[list[Call]]:
    """Keep the calls that the trainable module answers meanwhile."""
    calls: list[Call] = []

    def keep(_module: Denoiser, inputs: tuple[Tensor, Tensor], wanted: dict[str, Tensor]) -> None:
        tokens, mask = inputs
        padding = {"attention_mask": mask.clone(), "position_ids": mask_positions(mask)}
        row_of, scored = wanted.get("row_of"), None
        if row_of is None:
            row_of = torch.arange(tokens.shape[0])
        if "at" in wanted:
            rows = (row_of.unsqueeze(1) * tokens.shape[1] + wanted["at"]).flatten()
        else:
            row, column = wanted["where"].nonzero(as_tuple=True)
            rows, index = (row_of[row] * tokens.shape[1] + column).unique(return_inverse=True)
            scored = (index, wanted["targets"][row, column])
        calls.append(
            Call(
                inputs={"input_ids": tokens.clone(), **({} if mask.all() else padding)},
                rows=rows,
                scored=scored,
                with_gradient=torch.is_grad_enabled(),
            )
        )

    hook = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    yield calls
    hook.remove()


def make(call: Call, denoiser: Denoiser) -> None:
    """Run a call on the bare model, with its backward pass if it had one."""
    model = denoiser.causal_lm
    with torch.set_grad_enabled(call.with_gradient):
        hidden = model.model(**call.inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1).index_select(0, call.rows))
        if call.scored is None:
            return
        scores = logits.log_softmax(dim=-1)[call.scored]
        if call.with_gradient:
            scores.sum().backward()
            model.zero_grad()


def group_of(operator: str) -> str:
    """Return what an operator of the profile is booked on."""
    if operator in GROUPS:
        return GROUPS[operator]
    if operator.startswith("aten::"):
        return "views, allocation, dispatch"
    return "optimizer's Python" if operator.startswith("Optimizer") else "autograd"


def table(found: Round) -> dict[str, float]:
    """Return the share of the profiled period by group; the shares add up to 1."""
    whole = found.profiled.wall
    shares: Counter[str] = Counter()
    for operator, seconds in found.operators.items():
        shares[group_of(operator)] += seconds / whole
    shares["metrics, log, view"] = 1 - sum(found.phases.values()) / whole
    shares["reward"] = found.phases["reward"] / whole
    shares["Python in the phases"] = 1 - shares.total()
    return dict(shares)


def figures(found: Round, inflation: float) -> dict[str, float]:
    """Return what is reported of a round.

    Args:
        found: The round.
        inflation: Processor time with the profiler over that without.
    """
    shares = table(found)
    needed = sum(share for group, share in shares.items() if group in NEEDED)
    return {
        "share": needed * inflation,
        "share, with kernels that move data": (needed + shares[MOVED]) * inflation,
        "share, lower bound": needed,
        "floor / step": found.floor.wall / found.plain.wall,
        "floor / step, processor time": found.floor.cpu / found.plain.cpu,
    }


def inflation_of(rounds: Sequence[Round]) -> float:
    """Return processor time with the profiler over that without, each of its quietest round."""
    return min(found.profiled.cpu for found in rounds) / min(found.plain.cpu for found in rounds)


def measured(recipe: str, seed: int, count: int) -> list[Round]:
    """Run the recipe for as many periods as the rounds need."""
    layers = list(recipe_chain(recipe).layers)
    updates = resolve_run(layers).config.training.updates_per_buffer
    run = {"training": {"num_steps": updates * (WARM_UP + 2 * count)}, "seed": seed}
    config = resolve_run([*layers, sourced(run, "benchmark")]).config
    light = build_light_parts(config)
    parts = build_training_parts(config, light)
    if parts.policy.device.type != "cpu":
        raise SystemExit("overhead.py measures on the CPU: hide the accelerator from torch.")
    phases: Counter[str] = Counter()
    rounds: list[Round] = []
    plan = rounds_of(parts.policy.module, updates, phases, rounds, count)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        trainer = Trainer(
            parts,
            config.training,
            seed=seed,
            run_directory=Path(folder) / "run",
            observers=(PlainView(Console(file=nowhere)), Steps(plan, phases)),
        )
        trainer.train()
    return rounds


def report(options: argparse.Namespace, rounds: Sequence[Round]) -> str:
    shares = [table(found) for found in rounds]
    names = sorted({name for row in shares for name in row}, key=lambda name: name not in NEEDED)
    middle = {name: median(row.get(name, 0.0) for row in shares) for name in names}
    inflation = inflation_of(rounds)
    per_round = [figures(found, inflation) for found in rounds]
    lines = [
        f"# Overhead of a training step, recipe `{options.recipe}`",
        "",
        f"| figure | median of {len(rounds)} rounds | smallest | largest |",
        "| --- | --- | --- | --- |",
    ]
    for name in per_round[0]:
        values = [row[name] for row in per_round]
        cells = f"**{median(values):.1%}** | {min(values):.1%} | {max(values):.1%}"
        lines.append(f"| {name} | {cells} |")
    lines += ["", "| where the time goes | needed | share of a step |", "| --- | --- | --- |"]
    for name in sorted(names, key=lambda name: (name not in NEEDED, -middle[name])):
        lines.append(f"| {name} | {'yes' if name in NEEDED else 'no'} | {middle[name]:.2%} |")
    walls, cpus = zip(*((found.plain.wall, found.plain.cpu) for found in rounds), strict=True)
    lines += [
        "",
        f"A period (one buffer and its gradient steps) takes {median(walls):.2f} s by the wall, "
        f"{median(cpus):.2f} s of processors: medians, without the profiler. What is measured how "
        "stands at the head of `benchmarks/overhead.py`. The table is of profiled periods: its "
        "rows that are not needed carry the profiler's own time (profiled periods take "
        f"{inflation:.3f} times the processor time of plain ones), and *Python in the phases* is "
        "what the others leave.",
        "",
        *provenance(),
        f"- seed: {options.seed}",
        "",
    ]
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="sudoku")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    rounds = measured(options.recipe, options.seed, options.rounds)
    text = report(options, rounds)
    print(text)
    if options.name:
        record = {
            "arguments": sys.argv[1:],
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "seed": options.seed,
            "inflation": inflation_of(rounds),
            "rounds": [
                {"figures": figures(found, inflation_of(rounds)), **asdict(found)}
                for found in rounds
            ],
        }
        replace_text(RESULTS / f"{options.name}.md", text)
        replace_text(RESULTS / f"{options.name}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
