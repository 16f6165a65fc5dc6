"""What several processes and large models cost: throughput, memory, and how well it is computed.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py            # all three, on the CPU
    python benchmarks/scaling.py --parts errors --device cuda --record gpu.json
    python benchmarks/scaling.py --parts table --merge gpu.json

*weak*: the same work for each process, 8 prompts a buffer with one process and 16 with two, one
thread each; the efficiency is tokens per second with two over twice those with one, and two
separate runs at once say what the machine gives. They take turns, and the fastest of each counts.
*errors*: the peak of a gradient step, of a pass without gradient and of sampling, as PyTorch's
allocator sees it, beside the formula of `dmpo/config/memory.py`; small models on the CPU, one of
8B parameters on a GPU, random weights.
*table*: what the formula says of 8B and of 100B parameters on 1 to 64 GPUs.

`--record FILE` writes what was measured to FILE in place of the results, and needs no installed
package; `--merge FILE` takes it in elsewhere.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast

from dmpo.config.memory import Sharding, plan_memory
from dmpo.config.memory_sizes import ModelSizes, Workload, llama_sizes, with_adapters
from dmpo.files import replace_text
from dmpo.policies.adapters import LORA_TARGETS, LoraSettings
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.text import TextCodec
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.records import Example, Prompts
from dmpo.samplers.low_confidence import LowConfidenceSampler
from dmpo.training.optimization import OptimizationSettings, build_optimizer, trainable_parameters

RESULTS = Path(__file__).parent / "results"
PARTS = ("weak", "errors", "table")
VOCABULARY = 126_464
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and a batch whose peaks are measured."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    kv_heads: int | None = None
    mlp: int = 768
    vocabulary: int = 512
    dtype: str = "float32"
    rank: int = 0
    dropout: float = 0.05
    targets: str = "paper"
    recomputes: bool = False
    views: int = 8
    prompt: int = 128
    canvas: int = 128
    block: int = 32
    chunk: int = 1024
    micro_batches: int = 2
    padded: bool = False
    cache: str = "none"
    mixed: bool = False
    sample: bool = False

    def label(self) -> str:
        kind = "full" if not self.rank else f"LoRA {self.rank}, {self.targets}, {self.dropout:g}"
        notes = [f"{self.kv_heads} key heads"] if self.kv_heads else []
        notes += ["padded"] if self.padded else []
        notes += ["mixed precision"] if self.mixed else []
        notes += [f"cache {self.cache}"] if self.cache != "none" else []
        return ", ".join(
            [
                f"{self.layers} x {self.width} ({self.mlp}), V {self.vocabulary:,}, {self.dtype}",
                kind,
                "checkpointing" if self.recomputes else "no checkpointing",
                f"{self.micro_batches} x {self.views} x {self.prompt + self.canvas}",
                *notes,
            ]
        )


LARGE_VOCABULARY: Mapping[str, Any] = {
    "layers": 2,
    "vocabulary": VOCABULARY,
    "views": 2,
    "prompt": 32,
    "canvas": 96,
    "chunk": 64,
}
CPU_CASES = (
    Case(),
    Case(micro_batches=1),
    Case(recomputes=True),
    Case(recomputes=True, micro_batches=1),
    Case(rank=8),
    Case(rank=8, recomputes=True, sample=True),
    Case(rank=8, dropout=0.0, recomputes=True),
    Case(rank=8, targets="all"),
    Case(rank=8, targets="all", recomputes=True),
    Case(dtype="bfloat16", sample=True),
    Case(dtype="bfloat16", recomputes=True),
    Case(dtype="bfloat16", rank=8),
    Case(dtype="bfloat16", rank=8, recomputes=True, sample=True),
    Case(dtype="bfloat16", rank=8, targets="all", recomputes=True),
    Case(padded=True, sample=True),
    Case(padded=True, kv_heads=2),
    Case(mixed=True),
    Case(mixed=True, recomputes=True),
    Case(mixed=True, rank=8),
    Case(mixed=True, rank=8, recomputes=True),
    Case(layers=12, views=1, micro_batches=1),
    Case(layers=8, dtype="bfloat16", cache="prefix", sample=True),
    Case(layers=2, width=512, heads=8, mlp=1536, vocabulary=4096, rank=32, recomputes=True),
    Case(layers=2, width=512, heads=8, mlp=1536, vocabulary=4096, recomputes=True),
    Case(**LARGE_VOCABULARY, block=16, sample=True),
    Case(**LARGE_VOCABULARY, recomputes=True, micro_batches=1),
    Case(**LARGE_VOCABULARY, rank=8, recomputes=True),
    Case(**LARGE_VOCABULARY, dtype="bfloat16", block=16, sample=True),
    Case(**LARGE_VOCABULARY, dtype="bfloat16", rank=8, recomputes=True),
)
EIGHT_BILLION: Mapping[str, Any] = {
    "layers": 32,
    "width": 4096,
    "heads": 32,
    "mlp": 12288,
    "vocabulary": VOCABULARY,
    "dtype": "bfloat16",
    "prompt": 256,
    "canvas": 256,
}
TWO_BILLION: Mapping[str, Any] = {**EIGHT_BILLION, "layers": 16, "width": 2048, "heads": 16}
GPU_CASES = (
    Case(**EIGHT_BILLION, rank=128, recomputes=True, views=8, sample=True),
    Case(**EIGHT_BILLION, rank=128, recomputes=True, views=8, padded=True),
    Case(**EIGHT_BILLION, rank=128, views=2),
    Case(**TWO_BILLION, recomputes=True, views=8),
    Case(**TWO_BILLION, views=4, micro_batches=1),
)


class RandomLlada(TransformersPolicy):
    """A LLaDA with random weights and tokens that spell their number."""

    def __init__(self, case: Case, device: str) -> None:
        mask, eos = case.vocabulary - 1, case.vocabulary - 2
        config = LLaDAConfig(
            d_model=case.width,
            n_layers=case.layers,
            n_heads=case.heads,
            n_kv_heads=case.kv_heads,
            mlp_hidden_size=case.mlp,
            vocab_size=case.vocabulary,
            embedding_size=case.vocabulary,
            max_sequence_length=4096,
            rope_theta=500000.0,
            mask_token_id=mask,
            eos_token_id=eos,
            pad_token_id=eos,
            attn_implementation="sdpa",
        )
        torch.manual_seed(0)
        previous = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, case.dtype))
        with torch.device(device):
            model = LLaDAModelLM(config)
        torch.set_default_dtype(previous)
        vocabulary = {str(token): token for token in range(case.vocabulary)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(vocabulary))
        )
        lora = None
        if case.rank:
            lora = LoraSettings.model_validate(
                {"rank": case.rank, "dropout": case.dropout, "targets": case.targets}
            )
        self._assemble(
            model,
            TextCodec(tokenizer, eos_token_id=eos, pad_token_id=eos, max_length=4096),
            mask_token_id=mask,
            lora=lora,
            base_name="random",
            gradient_checkpointing=case.recomputes,
            logits_chunk=case.chunk,
        )

    def describe(self) -> str:
        return "random LLaDA"

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        raise NotImplementedError


def sizes_of(case: Case) -> ModelSizes:
    sizes = llama_sizes(
        num_layers=case.layers,
        width=case.width,
        num_heads=case.heads,
        num_kv_heads=case.kv_heads or case.heads,
        mlp_width=case.mlp,
        vocab_size=case.vocabulary,
        itemsize=getattr(torch, case.dtype).itemsize,
        recomputes_blocks=case.recomputes,
        logits_chunk=case.chunk,
    )
    if case.mixed:
        sizes = replace(sizes, itemsize=2, casts_weights=True)
    if not case.rank:
        return sizes
    return with_adapters(
        sizes, rank=case.rank, targets=LORA_TARGETS[case.targets], has_dropout=case.dropout > 0
    )


def work_of(case: Case) -> Workload:
    return Workload(
        sequence_length=case.prompt + case.canvas,
        canvas_length=case.canvas,
        step_views=case.views,
        num_micro_batches=case.micro_batches,
        likelihood_views=case.views,
        rollout_rows=case.views,
        candidates=case.block,
        keeps_keys=case.cache != "none",
        is_padded=case.padded,
    )


def peak_of(run: Callable[[], None], device: str, held: int) -> int:
    """Return the most bytes that were allocated at one time, ``held`` of them before.

    On the CPU every allocation and release is in the profiler's record; on a GPU the allocator
    counts for itself.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"),
        key=lambda change: change[0],
    )
    now = most = 0
    for _, num_bytes in changes:
        now += num_bytes
        most = max(most, now)
    return held + most


@contextmanager
def built(case: Case, device: str) -> Iterator[RandomLlada]:
    """Yield the policy; what it held is free again afterwards."""
    policy = RandomLlada(case, device)
    try:
        yield policy
    finally:
        policy.module = torch.nn.Identity()
        del policy
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def measured(case: Case, device: str) -> list[dict[str, Any]]:
    """Return a row for each phase: what was measured, and what the formula says."""
    plan = plan_memory(sizes_of(case), work_of(case), on_accelerator=device == "cuda")
    with built(case, device) as policy:
        peaks = _measured_peaks(case, policy, device, held=sum(plan.held.values()))
        trained = trainable_parameters(policy.module)
        assert sum(weight.nbytes for weight in trained) == sizes_of(case).trained
    rows = []
    for phase, (peak, on_top) in peaks.items():
        # Before the first step the optimizer holds nothing.
        computed = plan.peaks[phase] - (0 if on_top else plan.held["optimizer"])
        rows.append(
            {
                "model": case.label(),
                "phase": phase,
                "measured": peak,
                "computed": computed,
                "ratio": computed / peak,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _measured_peaks(
    case: Case, policy: RandomLlada, device: str, held: int
) -> dict[str, tuple[int, bool]]:
    """Return each phase's peak, and whether the optimizer's moments were there."""
    length = case.prompt + case.canvas
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, case.vocabulary - 2, (case.views, length), generator=generator)
    tokens = tokens.to(device)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    if case.padded:
        attention[0, :3] = False
    where = torch.zeros_like(attention)
    where[:, case.prompt :] = True
    noisy = policy.corrupt(tokens, where)
    weights = sum(weight.nbytes for weight in policy.module.parameters())
    peaks: dict[str, tuple[int, bool]] = {}

    def precision() -> Any:
        return torch.autocast(device, torch.bfloat16, enabled=case.mixed)

    def score() -> None:
        with policy.evaluating(), precision():
            policy.token_logprobs(noisy, attention, tokens, where)

    score()
    peaks["likelihoods"] = (peak_of(score, device, weights), False)
    if case.sample:
        prompts = Prompts(
            examples=(Example(prompt="random"),) * case.views,
            tokens=tokens[:, : case.prompt],
            attention_mask=attention[:, : case.prompt],
        )
        steps = case.canvas // case.block * 2
        sampler = LowConfidenceSampler(
            LowConfidenceSampler.Config.model_validate(
                {
                    "gen_length": case.canvas,
                    "block_length": case.block,
                    "steps": steps,
                    "cache": case.cache,
                }
            )
        )

        def sample() -> None:
            sampler.sample(policy, prompts, num_rollouts=1, generator=generator)

        sample()
        peaks["rollouts"] = (peak_of(sample, device, weights), False)
    optimizer = build_optimizer(trainable_parameters(policy.module), OptimizationSettings())
    policy.module.train()

    def step() -> None:
        for _ in range(case.micro_batches):
            with precision():
                scores = policy.token_logprobs(noisy, attention, tokens, where)
            (-scores.sum() / scores.numel()).backward()
            del scores
        torch.nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()  # from here on the optimizer has its moments
    peaks["gradient step"] = (peak_of(step, device, held), True)
    return peaks


def errors(options: argparse.Namespace) -> dict[str, Any]:
    cases = CPU_CASES if options.device == "cpu" else GPU_CASES
    name = "CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    rows = [row for case in cases for row in measured(case, options.device)]
    return {"device": name, "rows": rows, "provenance": origin()}


def origin() -> list[str]:
    """Return provenance, also where the package is only a folder."""
    try:
        return provenance()
    except metadata.PackageNotFoundError:
        return [f"- versions: python {sys.version.split()[0]}, torch {torch.__version__}"]


def weak(options: argparse.Namespace) -> dict[str, Any]:
    """Train with one process, with two, and two runs of one at once, in turns."""
    rows = []
    for _ in range(options.repeats):
        rows += [{"runs": 1, **run_of(count, options)} for count in (1, 2)]
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda _: run_of(1, options), range(2)))
        total = sum(row["tokens_per_second"] for row in both)
        rows.append({**both[0], "runs": 2, "tokens_per_second": total})
    best = {
        key: max(row["tokens_per_second"] for row in rows if (row["processes"], row["runs"]) == key)
        for key in ((1, 1), (2, 1), (1, 2))
    }
    return {
        "rows": rows,
        "efficiency": best[2, 1] / (2 * best[1, 1]),
        "ceiling": best[1, 2] / (2 * best[1, 1]),
        "provenance": origin(),
    }


def run_of(processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return tokens of completions per second, the first buffer left out.

    Counted is what the run was told to do, over the seconds of training that its last step gives.
    """
    prompts, rollouts, canvas, updates = 8 * processes, 8, 16, 4
    shape = "policy.scratch={d_model: 256, n_layers: 4, n_heads: 4, mlp_hidden_size: 768}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "dmpo", "train", "--processes", str(processes), "--plain"),
            *("--set", shape, "--output", str(run)),
            *("--training.prompts_per_buffer", str(prompts)),
            *("--training.rollouts_per_prompt", str(rollouts)),
            *("--training.updates_per_buffer", str(updates)),
            *("--steps", str(updates * options.buffers), "--evaluation.num_examples", "2"),
            *("--sampler.gen_length", str(canvas)),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        started = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    if int(started["num_processes"]) != processes:
        raise RuntimeError(f"{started['num_processes']} processes ran in place of {processes}")
    records = [json.loads(line) for line in lines]
    seconds = records[-1]["time/total"] - records[updates - 1]["time/total"]
    tokens = prompts * rollouts * canvas * (options.buffers - 1)
    row = {"processes": processes, "seconds": seconds, "tokens_per_second": tokens / seconds}
    print(row, file=sys.stderr, flush=True)
    return row


PLANNED: Mapping[str, ModelSizes] = {
    "8B": llama_sizes(
        num_layers=32,
        width=4096,
        num_heads=32,
        num_kv_heads=32,
        mlp_width=12288,
        vocab_size=VOCABULARY,
    ),
    "100B": llama_sizes(
        num_layers=80,
        width=10240,
        num_heads=80,
        num_kv_heads=8,
        mlp_width=28672,
        vocab_size=VOCABULARY,
    ),
}
PLANNED_WORK = Workload(
    sequence_length=512,
    canvas_length=256,
    step_views=4,
    num_micro_batches=8,
    likelihood_views=32,
    rollout_rows=32,
    candidates=32,
)


def table() -> list[dict[str, Any]]:
    """Return what the formula says of the two planned models."""
    rows = []
    for name, bare in PLANNED.items():
        for kind, sizes in (("LoRA 128", with_adapters(bare, rank=128)), ("full", bare)):
            for processes in (1, 8, 16, 64):
                ways: Sequence[Sharding] = ("ddp",) if processes == 1 else ("ddp", "fsdp2")
                for way in ways:
                    plan = plan_memory(sizes, PLANNED_WORK, num_processes=processes, sharding=way)
                    with_reference = plan_memory(
                        sizes,
                        replace(PLANNED_WORK, needs_reference=True),
                        num_processes=processes,
                        sharding=way,
                    )
                    by_block = plan_memory(
                        sizes,
                        PLANNED_WORK,
                        num_processes=processes,
                        sharding=way,
                        gathers_once=False,
                    )
                    rows.append(
                        {
                            "model": name,
                            "trains": kind,
                            "gpus": processes,
                            "sharding": way,
                            "held": sum(plan.held.values()),
                            **plan.peaks,
                            "peak": plan.peak,
                            "peak_with_reference": with_reference.peak,
                            "peak_by_block": by_block.peak,
                        }
                    )
    return rows


def report(record: Mapping[str, Any]) -> str:
    lines = [
        "# Several processes and large models",
        "",
        "What stands here and how it was measured: the head of `benchmarks/scaling.py`.",
    ]
    if "weak" in record:
        lines += _weak_lines(record["weak"])
    lines += _table_lines(record["table"])
    for device in ("cpu", "cuda"):
        if f"errors_{device}" in record:
            lines += _error_lines(record[f"errors_{device}"])
    return "\n".join([*lines, "", "## This file", "", *origin(), ""])


def _weak_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        "",
        "## The same work per process: one process and two",
        "",
        "8 prompts of 8 rollouts per process and buffer, 4 gradient steps each, one thread per "
        "process, on a random LLaDA of width 256 and depth 4. Tokens are those of completions; "
        "the first buffer is left out.",
        "",
        "| runs at once | processes of each | seconds | tokens/s in all |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {row['runs']} | {row['processes']} | {row['seconds']:.1f} | "
            f"{row['tokens_per_second']:.1f} |"
            for row in found["rows"]
        ),
        "",
        "Efficiency, the fastest run of two processes over twice the fastest of one: "
        f"**{found['efficiency']:.2f}**. Two runs that know nothing of each other come to "
        f"{found['ceiling']:.2f} on this machine: what its cores and its memory give.",
        "",
        *found["provenance"],
    ]


def _table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    work, lines = PLANNED_WORK, []
    counts = ", ".join(
        f"{name}: {sizes.weights / sizes.itemsize / 1e9:.1f}·10⁹ parameters"
        for name, sizes in PLANNED.items()
    )
    lines += [
        "",
        "## What a run needs per GPU: computed, not measured",
        "",
        f"{counts}; bfloat16, gradient checkpointing, sequences of {work.sequence_length} "
        f"positions, {work.step_views} views in a forward and backward pass and "
        f"{work.num_micro_batches} of them a step, {work.rollout_rows} rollouts sampled at once "
        f"with {work.candidates} positions looked at. GiB per GPU. AdamW's moments have the "
        "precision of what trains: bfloat16 where all weights do, float32 under LoRA. While "
        "rollouts are sampled and likelihoods taken, every GPU has all weights, also under FSDP2. "
        "Full training with an objective that asks the reference keeps a copy of the weights "
        "besides, which FSDP2 shares out and gathers like them (last column but one). The "
        "last column is for a trainer that would gather "
        "block by block while it samples, too, which this one does not: what *fits* says is of "
        "this one, and leaves a tenth of 80 and of 141·10⁹ bytes free.",
        "",
        "| model | trains | GPUs | divided by | held | rollouts | likelihoods | gradient step | "
        "fits 80 GB | fits 141 GB | peak with reference | peak if gathered by block |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    for row in rows:
        sizes = ("held", "rollouts", "likelihoods", "gradient step")
        cells = [f"{row[name] / GIB:.1f}" for name in sizes]
        fits = ["yes" if row["peak"] <= 0.9e9 * size else "no" for size in (80, 141)]
        lines.append(
            f"| {row['model']} | {row['trains']} | {row['gpus']} | {row['sharding']} | "
            f"{' | '.join(cells)} | {' | '.join(fits)} | {row['peak_with_reference'] / GIB:.1f} | "
            f"{row['peak_by_block'] / GIB:.1f} |"
        )
    return lines


def _error_lines(found: Mapping[str, Any]) -> list[str]:
    rows = found["rows"]
    worst = {
        phase: max((abs(row["ratio"] - 1) for row in rows if row["phase"] == phase), default=0.0)
        for phase in dict.fromkeys(row["phase"] for row in rows)
    }
    said = ", ".join(f"{phase} {error:.1%}" for phase, error in worst.items())
    return [
        "",
        f"## The formula beside what was measured: {found['device']}",
        "",
        f"Largest error by phase: {said}. Everything counts, weights included; passes of a step x "
        "views x positions; MiB.",
        "",
        "| model | phase | measured | computed | computed / measured |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {row['model']} | {row['phase']} | {row['measured'] / MIB:.1f} | "
            f"{row['computed'] / MIB:.1f} | {row['ratio']:.3f} |"
            for row in rows
        ),
        "",
        *found["provenance"],
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each count of processes")
    parser.add_argument("--buffers", type=int, default=6, help="buffers of a run")
    parser.add_argument("--record", type=Path, help="write what was measured here, and no results")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], help="take in such files")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    found: dict[str, Any] = {}
    if "weak" in options.parts:
        found["weak"] = weak(options)
    if "errors" in options.parts:
        found[f"errors_{options.device}"] = errors(options)
    if options.record is not None:
        options.record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    file = RESULTS / "scaling.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for path in options.merge:
        record |= json.loads(path.read_text(encoding="utf-8"))
    record |= {**found, "table": table()}
    replace_text(file, json.dumps(record, indent=1) + "\n")
    text = report(record)
    replace_text(RESULTS / "scaling.md", text)
    print(text)


if __name__ == "__main__":
    main()
