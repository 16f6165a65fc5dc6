"""What only a GPU can show: waits, kernels, memory, and a run from the beginning to the end.

    python benchmarks/gpu.py --name gpu

- waits: how often each sampler makes the host wait for the device, a step (PyTorch's own count).
- numbers: whether a GPU draws the very numbers that a CPU draws.
- projection: Liger's fused kernel beside our chunks at LLaDA's vocabulary: how far they differ,
  seconds, peak memory.
- compilation: seconds of sampling with blocks as they are, compiled, and as CUDA graphs.
- automatic: how many rollouts `--auto-micro-batch` finds for a model of a billion parameters, and
  the peak of a step with them; then the same on a device of which half is taken.
- run: `dmpo train` on the tiny model, with adapters, offloaded buffers and overlapped rewards.

Every part stands alone: one that fails says so, and the others go on.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from dmpo.diffusion.draws import GroupGenerator, row_streams, uniforms_at
from dmpo.policies.kernels import fused_log_probs
from dmpo.records import Example, Prompts
from dmpo.registry import POLICIES, SAMPLERS

RESULTS = Path(__file__).parent / "results"
DEVICE = torch.device("cuda")
BIG = {"d_model": 2048, "n_layers": 16, "n_heads": 16, "mlp_hidden_size": 8192}


def prompts(count: int, length: int, vocabulary: int = 20) -> Prompts:
    tokens = torch.randint(0, vocabulary, (count, length), device=DEVICE)
    return Prompts(
        examples=tuple(Example(prompt="") for _ in range(count)),
        tokens=tokens,
        attention_mask=torch.ones_like(tokens, dtype=torch.bool),
    )


def policy(shape: Mapping[str, Any], dtype: str = "bfloat16", **more: Any) -> Any:
    built: Any = POLICIES.build("llada", {"scratch": dict(shape), "dtype": dtype, **more})
    built.module.to(DEVICE)
    return built


def waits() -> list[dict[str, Any]]:
    """Count PyTorch's warnings of a synchronising call, with the prompts already checked."""
    built = policy({"d_model": 256, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 512})
    found = []
    for name, more in (
        ("roar", {}),
        ("random", {}),
        ("low_confidence", {}),
        ("threshold", {}),
        ("factor", {}),
        ("entropy_bound", {}),
        ("peaked", {}),
        ("low_confidence", {"cache": "prefix"}),
        ("low_confidence", {"cache": "dual"}),
        ("low_confidence", {"cfg_scale": 1.0}),
    ):
        sampler = SAMPLERS.build(name, {"gen_length": 64, "block_length": 32, **more})
        some = prompts(4, 16)
        for _ in range(2):  # the first call compiles and proves the weights
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                rollouts = sampler.sample(
                    built, some, num_rollouts=4, generator=torch.Generator().manual_seed(1)
                )
            torch.cuda.set_sync_debug_mode("default")
        count = sum("synchroniz" in str(each.message) for each in said)
        found.append(
            {
                "sampler": name,
                **more,
                "waits": count,
                "passes": rollouts.num_forwards,
                "waits a pass": round(count / rollouts.num_forwards, 2),
            }
        )
    return found


def numbers() -> dict[str, bool]:
    generator = GroupGenerator(7, torch.arange(64))
    streams = row_streams(generator, 64, 8, torch.device("cpu"))
    places = torch.arange(256).expand(64, 8, -1)
    there = uniforms_at(streams.to(DEVICE), places.to(DEVICE))
    return {"equal on both": bool(torch.equal(uniforms_at(streams, places), there.cpu()))}


def projection() -> dict[str, Any]:
    torch.manual_seed(0)
    rows, width, vocabulary = 8192, 4096, 126_464
    head = torch.nn.Linear(width, vocabulary, bias=False, device=DEVICE, dtype=torch.bfloat16)
    head.requires_grad_(False)
    state = torch.randn(rows, width, device=DEVICE, dtype=torch.bfloat16)
    targets = torch.randint(0, vocabulary, (rows,), device=DEVICE)
    weights = torch.randn(rows, device=DEVICE)

    def chunked(hidden: Tensor) -> Tensor:
        def score(piece: Tensor, wanted: Tensor) -> Tensor:
            return head(piece).float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]

        pieces = zip(hidden.split(1024), targets.split(1024), strict=True)
        return torch.cat(
            [torch.utils.checkpoint.checkpoint(score, *p, use_reentrant=False) for p in pieces]
        )

    def fused(hidden: Tensor) -> Tensor:
        scores = fused_log_probs(hidden, head, targets)
        if scores is None:
            raise RuntimeError("liger-kernel is not installed")
        return scores

    found: dict[str, Any] = {}
    gradients, scores = {}, {}
    for name, score in (("chunks", chunked), ("liger", fused)):
        for attempt in range(3):
            hidden = state.clone().requires_grad_(True)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, began = torch.cuda.memory_allocated(), time.perf_counter()
            value = score(hidden)
            (value * weights).sum().backward()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            if attempt:
                found.setdefault(name, []).append(round(seconds, 4))
        found[f"{name}, peak GiB"] = (torch.cuda.max_memory_allocated() - before) / 2**30
        scores[name], gradients[name] = value.detach(), hidden.grad.float()
    found["log-probabilities differ by, nats"] = (
        (scores["chunks"] - scores["liger"]).abs().max().item()
    )
    found["gradients differ by, relative"] = (
        (gradients["chunks"] - gradients["liger"]).norm() / gradients["chunks"].norm()
    ).item()
    return found


def compilation() -> dict[str, Any]:
    found: dict[str, Any] = {}
    shape = {"d_model": 1024, "n_layers": 16, "n_heads": 16, "mlp_hidden_size": 4096}
    for how in ("no", "blocks", "graphs"):
        built = policy(shape, compilation=how)
        sampler = SAMPLERS.build("roar", {"gen_length": 64, "block_length": 32})
        some, times = prompts(2, 64), []
        for _ in range(4):
            began = time.perf_counter()
            sampler.sample(built, some, num_rollouts=4, generator=torch.Generator().manual_seed(1))
            torch.cuda.synchronize()
            times.append(round(time.perf_counter() - began, 3))
        found[how] = {"first": times[0], "then": times[1:]}
    return found


def automatic() -> list[dict[str, Any]]:
    from dmpo.training.tracker_kinds import TrackingSettings
    from dmpo.training.trainer import Trainer, TrainingParts
    from tests.training import runs

    found = []
    for share in (1.0, 0.5):
        taken = torch.empty(
            int((1 - share) * torch.cuda.mem_get_info()[1]), dtype=torch.uint8, device=DEVICE
        )
        built = policy({**BIG, "characters": "012="})
        with tempfile.TemporaryDirectory() as folder:
            settings = runs.small_settings(
                num_steps=3,
                prompts_per_buffer=16,
                rollouts_per_prompt=64,
                updates_per_buffer=1,
                rows_per_forward=1024,
                auto_micro_batch=True,
                learning_rate=1e-6,
            )
            parts = TrainingParts(
                policy=built,
                task=runs.CountingTask(),
                sampler=SAMPLERS.build("low_confidence", {"gen_length": 128, "steps": 4}),
                reward=runs.REWARDS.build("task"),
                objective=runs.small_objective(alpha=0, updates=1),
            )
            trainer = Trainer(
                parts,
                settings,
                seed=0,
                run_directory=Path(folder),
                tracking=TrackingSettings(trackers=()),
            )
            trainer._engine.meet("start")
            trainer._directory.claim()
            for _ in range(3):
                torch.cuda.reset_peak_memory_stats()
                began = time.perf_counter()
                trainer._step()
                seconds = time.perf_counter() - began
            found.append(
                {
                    "share of the device": share,
                    "rollouts at once": trainer._gradient.sizes[0],
                    "of": 1024,
                    "peak share of the device": round(
                        torch.cuda.max_memory_allocated() / torch.cuda.mem_get_info()[1], 3
                    ),
                    "seconds of a step": round(seconds, 2),
                }
            )
            trainer._directory.release()
        del trainer, parts, built, taken
        gc.collect()
        torch.cuda.empty_cache()
    return found


def run() -> dict[str, Any]:
    dmpo = (sys.executable, "-m", "dmpo", "train")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        first = subprocess.run(
            [
                *(*dmpo, "--steps", "16", "--plain", "--output", f"{folder}/run"),
                *("--set", "policy.lora={rank: 8, dropout: 0.0}", "--weights.alpha", "0.05"),
                *("--training.offload_buffers", "true", "--training.overlap_rewards", "true"),
                *("--training.rows_per_forward", "32", "--auto-micro-batch"),
                *("--training.mixed_precision", "bf16", "--training.checkpoint_every", "8"),
            ],
            check=False,
        )
        again = subprocess.run(
            [*dmpo, "--resume", f"{folder}/run", "--steps", "24", "--plain"], check=False
        )
        seconds = time.perf_counter() - began
        lines = Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()
        rows = json.loads(Path(f"{folder}/run/checkpoints/step-000024/state.json").read_text())
    return {
        "exit codes": [first.returncode, again.returncode],
        "steps": len(lines),
        "rollouts at once": rows["progress"]["micro_batch_rows"],
        "seconds": round(seconds, 1),
    }


PARTS: Mapping[str, Callable[[], Any]] = {
    part.__name__: part for part in (waits, numbers, projection, compilation, automatic, run)
}


def report(found: Mapping[str, Any]) -> str:
    waits_of = [
        f"| {row['sampler']} | {row.get('cache', 'none')} | {row.get('cfg_scale', 0)} | "
        f"{row['passes']} | {row['waits']} | {row['waits a pass']} |"
        for row in found["waits"]
    ]
    projected, compiled = found["projection"], found["compilation"]
    return "\n".join(
        [
            f"# What a GPU shows ({found['device']})",
            "",
            "How often a sampler makes the host wait for the device (64 passes, two blocks):",
            "",
            "| sampler | cache | guidance | passes | waits in all | waits a pass |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *waits_of,
            "",
            f"GPU and CPU draw the same numbers: {found['numbers']['equal on both']}.",
            "",
            "Log-probabilities of 8,192 positions at a vocabulary of 126,464 (width 4096, "
            "bfloat16), forward and backward:",
            "",
            "| | seconds | peak, GiB |",
            "| --- | ---: | ---: |",
            *(
                f"| {name} | {min(projected[name]):.3f} | {projected[f'{name}, peak GiB']:.2f} |"
                for name in ("chunks", "liger")
            ),
            "",
            "They differ by "
            f"{projected['log-probabilities differ by, nats']:.0e} nats, their gradients by "
            f"{projected['gradients differ by, relative']:.0e}.",
            "",
            "Sampling 8 rows of 64 tokens, one at a time, by a model of 16 blocks of width 1024:",
            "",
            "| policy.compilation | first call, s | then, s |",
            "| --- | ---: | ---: |",
            *(f"| {how} | {row['first']} | {row['then']} |" for how, row in compiled.items()),
            "",
            "`--auto-micro-batch`, a model of 1.1 billion parameters, all of it trained, 1,024 "
            "rollouts of 130 tokens with two views:",
            "",
            "| share of the device that is free | rollouts at once | peak, share of it all | "
            "seconds of a step |",
            "| ---: | ---: | ---: | ---: |",
            *(
                f"| {row['share of the device']} | {row['rollouts at once']} | "
                f"{row['peak share of the device']} | {row['seconds of a step']} |"
                for row in found["automatic"]
            ),
            "",
            "(What the other program holds counts in the second row's peak.)",
            "",
            f"`dmpo train` with adapters, bf16, offloaded buffers, overlapped rewards, then a "
            f"resume: exit codes {found['run']['exit codes']}, {found['run']['steps']} steps.",
            "",
            "- command: `python benchmarks/gpu.py`",
            f"- machine: {found['device']}, 16 cores, torch {found['torch']}",
            f"- date: {found['date']}",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="gpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only the page of what was found")
    options = parser.parse_args()
    file = options.output / f"{options.name}.json"
    if options.report:
        text = report(json.loads(file.read_text(encoding="utf-8")))
        file.with_suffix(".md").write_text(text, encoding="utf-8")
        return
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    for name in options.parts:
        began = time.perf_counter()
        try:
            found[name] = PARTS[name]()
        except Exception as error:
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        print(f"{name} ({time.perf_counter() - began:.0f} s): {found[name]}", flush=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
