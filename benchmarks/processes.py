"""Whether two processes find what one finds, however the weights lie on them.

    OMP_NUM_THREADS=1 python benchmarks/processes.py --name processes

A run of 20 steps on a LLaDA of 26k parameters in float32 (ELBO weights, so with a reference; five
groups, which two processes cannot share evenly; two micro-batches), by one process and by two on
the CPU over gloo: DDP, FSDP2, and DeepSpeed's ZeRO-2 and ZeRO-3 where DeepSpeed is installed; once
with every weight trained, once with adapters. Then a run that goes on from two processes to one and
back to two, each time with another sharding. Compared with the run of one process: loss and
gradient norm, the largest difference of a step relative to its value; and the final weights, the
largest norm of a tensor's difference relative to the tensor's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import provenance

from tests.oracles import processes

RESULTS = Path(__file__).parent / "results"
STEPS = 20
SETTINGS = (
    *("train", "--recipe", "sudoku", "--plain"),
    *("--set", "policy.scratch={d_model: 32, n_layers: 2, n_heads: 2, mlp_hidden_size: 48}"),
    *("--weights.alpha", "0.1", "--baseline", "none", "--likelihood", "elbo"),
    *("--training.prompts_per_buffer", "5", "--training.rollouts_per_prompt", "4"),
    *("--training.updates_per_buffer", "4", "--training.micro_batch_rows", "6"),
    *("--training.warmup_steps", "3", "--evaluation.num_examples", "8"),
)
ADAPTERS = ("--set", "policy.lora={rank: 4, dropout: 0.0}")
KINDS = ("ddp", "fsdp2", "zero2", "zero3")


def train(run: Path, *more: str, number: int = 1, kind: str = "ddp", steps: int = STEPS) -> None:
    command = [sys.executable, "-m", "dmpo", *SETTINGS, *more, "--steps", str(steps)]
    command += ["--output", str(run), "--resume", "auto"]
    if number > 1:
        command += ["--processes", str(number), "--sharding", kind]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr


def difference(found: Path, expected: Path) -> dict[str, float]:
    pairs = list(zip(processes.metrics(expected), processes.metrics(found), strict=True))
    assert len(pairs) == STEPS

    def largest(name: str) -> float:
        return max(abs(after[name] / before[name] - 1) for before, after in pairs)

    weights = [processes.weights(run, STEPS) for run in (expected, found)]
    return {
        "loss": largest("loss/total"),
        "gradient norm": largest("optimizer/gradient_norm"),
        "weights": processes.largest_difference(*weights),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    kinds = [kind for kind in KINDS if has_deepspeed or not kind.startswith("zero")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dmpo-processes-") as folder:
        for trained, more in (("every weight", ()), ("adapters", ADAPTERS)):
            alone = Path(folder) / f"alone-{trained[:5]}"
            train(alone, *more)
            for kind in kinds:
                run = Path(folder) / f"{kind}-{trained[:5]}"
                train(run, *more, number=2, kind=kind)
                rows.append({"run": f"2 processes, {kind}", "trained": trained})
                rows[-1] |= difference(run, alone)
                print(rows[-1], flush=True)
            run = Path(folder) / f"changing-{trained[:5]}"
            path = [(6, 2, kinds[-1]), (13, 1, "ddp"), (20, 2, "fsdp2")]
            for steps, number, kind in path:
                train(run, *more, number=number, kind=kind, steps=steps)
            said = f"2 ({kinds[-1]}) to step 6, 1 to 13, 2 (fsdp2) to 20"
            rows.append({"run": said, "trained": trained, **difference(run, alone)})
            print(rows[-1], flush=True)
    text = report(rows)
    print(text)
    if options.name:
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
        record = json.dumps(rows, indent=1)
        (RESULTS / f"{options.name}.json").write_text(record + "\n", encoding="utf-8")


def report(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        [
            "# Two processes beside one",
            "",
            f"{STEPS} steps, float32, CPU, gloo; the largest relative difference from the run of "
            "one process.",
            "",
            "| run | trained | loss of a step | gradient norm | final weights |",
            "| --- | --- | ---: | ---: | ---: |",
            *(
                f"| {row['run']} | {row['trained']} | {row['loss']:.1e} | "
                f"{row['gradient norm']:.1e} | {row['weights']:.1e} |"
                for row in rows
            ),
            "",
            *provenance(),
            *(f"- deepspeed {version}" for version in _deepspeed()),
            "",
        ]
    )


def _deepspeed() -> list[str]:
    from importlib import metadata

    return [d.version for d in metadata.distributions() if d.metadata["Name"] == "deepspeed"][:1]


if __name__ == "__main__":
    main()
