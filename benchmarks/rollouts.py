"""Tokens per second and forward passes of every sampler and cache, beside the naive algorithm.

    OMP_NUM_THREADS=1 python benchmarks/rollouts.py --name rollouts
    python benchmarks/rollouts.py --device cuda --size 8b --batch 8 32 --gen-length 256 \\
        --name rollouts_8b

The model is a LLaDA with random weights and the published vocabulary of 126,464: on the CPU of
width 512 and depth 4, on a GPU of the published size in bfloat16. *Naive* is LLaDA's published
sampler as it stands in its repository and in those that copied it: logits of the whole sequence
over the whole vocabulary, Gumbel noise and softmax in float64, and a Python loop over the rows
that picks the tokens to keep. It is written out here, and shares nothing but the model with the
rest. All rows of the table are measured in one run, one after another, the naive ones first and
again last; a ratio is that of seconds to their mean.

Random weights are unsure of everything. `--sharpness` multiplies the logits, so that the rules
that reveal what the model is sure of have something to reveal; how many passes they take with a
trained model is that model's affair, and their ratio here says what a pass costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dmpo.files import replace_text
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.text import TextCodec
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.records import Example, Prompts
from dmpo.registry import SAMPLERS

RESULTS = Path(__file__).parent / "results"
VOCABULARY, MASK, EOS = 126_464, 126_336, 126_081
SIZES: Mapping[str, Mapping[str, int]] = {
    "small": {"d_model": 512, "n_layers": 4, "n_heads": 8, "mlp_hidden_size": 1536},
    "8b": {"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288},
}
CACHES = ("none", "prefix", "dual")


class RandomLlada(TransformersPolicy):
    """A LLaDA with random weights, the published vocabulary, and tokens that spell their number."""

    def __init__(self, size: str, device: str, dtype: torch.dtype, sharpness: float) -> None:
        config = LLaDAConfig(
            **SIZES[size],
            vocab_size=VOCABULARY,
            embedding_size=VOCABULARY,
            max_sequence_length=4096,
            rope_theta=500000.0,
            mask_token_id=MASK,
            eos_token_id=EOS,
            pad_token_id=EOS,
            attn_implementation="sdpa",
        )
        torch.manual_seed(0)
        with torch.device(device):
            previous = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            model = LLaDAModelLM(config)
            torch.set_default_dtype(previous)
        with torch.no_grad():
            model.lm_head.weight.mul_(sharpness)
        vocabulary = {str(token): token for token in range(VOCABULARY)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(vocabulary))
        )
        self._assemble(
            model,
            TextCodec(tokenizer, eos_token_id=EOS, pad_token_id=EOS, max_length=4096),
            mask_token_id=MASK,
            lora=None,
            base_name=size,
            gradient_checkpointing=False,
            logits_chunk=1024,
        )

    def describe(self) -> str:
        return "random LLaDA"

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    batch: int
    temperature: float
    sampler: str
    cache: str
    passes: int
    seconds: float
    tokens_per_second: float
    transformer_share: float
    peak_gib: float | None


class Stopwatch:
    """Adds up the seconds spent inside the transformer's body."""

    def __init__(self, policy: RandomLlada) -> None:
        self.seconds = 0.0
        self._begun = 0.0
        body = policy.module.causal_lm.model
        body.register_forward_pre_hook(self._begin)
        body.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        wait()
        self._begun = time.perf_counter()

    def _end(self, *_: Any) -> None:
        wait()
        self.seconds += time.perf_counter() - self._begun


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def naive(
    model: LLaDAModelLM,
    prompt: Tensor,
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    temperature: float,
) -> tuple[Tensor, int]:
    """LLaDA's published sampler, low-confidence remasking: everything, everywhere, in float64."""
    tokens = torch.full(
        (len(prompt), prompt.shape[1] + gen_length), MASK, dtype=torch.long, device=prompt.device
    )
    tokens[:, : prompt.shape[1]] = prompt
    num_blocks, passes = gen_length // block_length, 0
    steps_per_block = steps // num_blocks
    for block in range(num_blocks):
        end = prompt.shape[1] + (block + 1) * block_length
        for step in range(steps_per_block):
            is_masked = tokens == MASK
            logits = model(input_ids=tokens, use_cache=False).logits
            passes += 1
            noisy = logits
            if temperature > 0:
                wide = logits.to(torch.float64)
                noise = torch.rand_like(wide, dtype=torch.float64)
                noisy = wide.exp() / (-torch.log(noise)) ** temperature
            drawn = noisy.argmax(dim=-1)
            probabilities = logits.to(torch.float64).softmax(dim=-1)
            confidence = probabilities.gather(-1, drawn[..., None])[..., 0]
            confidence[:, end:] = -torch.inf
            confidence = torch.where(is_masked, confidence, -torch.inf)
            drawn = torch.where(is_masked, drawn, tokens)
            count = block_length // steps_per_block + (step < block_length % steps_per_block)
            for row in range(len(tokens)):
                best = confidence[row].topk(count).indices
                tokens[row, best] = drawn[row, best]
    return tokens[:, prompt.shape[1] :], passes


def measure(run: Any, stopwatch: Stopwatch, options: argparse.Namespace, **facts: Any) -> Row:
    """Time one call of ``run``, which returns tokens and passes."""
    on_gpu = options.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    stopwatch.seconds = 0.0
    wait()
    begun = time.perf_counter()
    _, passes = run()
    wait()
    seconds = time.perf_counter() - begun
    row = Row(
        **facts,
        passes=passes,
        seconds=seconds,
        tokens_per_second=facts["batch"] * options.gen_length / seconds,
        transformer_share=stopwatch.seconds / seconds,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
    )
    print(row, file=sys.stderr, flush=True)
    return row


def settings(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return every sampler's settings of its own."""
    per_step = options.gen_length // options.steps
    return {
        "low_confidence": {"steps": options.steps},
        "random": {"steps": options.steps},
        "roar": {"tokens_per_step": per_step},
        "threshold": {"threshold": 0.9},
        "factor": {"factor": 1.0},
        "entropy_bound": {"gamma": 0.5},
        "wino": {},
    }


def rows_of(
    policy: RandomLlada, stopwatch: Stopwatch, options: argparse.Namespace, batch: int, heat: float
) -> tuple[list[Row], float]:
    """Return the lines of one batch size and temperature, and how many tokens naive shares.

    Returns:
        The lines, and the share of naive's tokens that `low_confidence` without a cache gives.
    """
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 120_000, (batch, options.prompt_length), generator=generator)
    tokens = tokens.to(policy.device)
    prompts = Prompts(
        examples=(Example(prompt="random"),) * batch,
        tokens=tokens,
        attention_mask=torch.ones_like(tokens, dtype=torch.bool),
    )
    lengths = {"gen_length": options.gen_length, "block_length": options.block_length}
    results: dict[str, Tensor] = {}

    def run_naive() -> tuple[Tensor, int]:
        result, passes = naive(
            policy.module.causal_lm, tokens, steps=options.steps, temperature=heat, **lengths
        )
        results["naive"] = result
        return result, passes

    facts = {"batch": batch, "temperature": heat}
    lines = [measure(run_naive, stopwatch, options, sampler="naive", cache="none", **facts)]
    for name, own in settings(options).items():
        for cache in CACHES if name != "wino" else ("none",):
            sampler = SAMPLERS.build(name, {**lengths, **own, "cache": cache, "temperature": heat})

            def run(sampler: Any = sampler, key: str = f"{name} {cache}") -> tuple[Tensor, int]:
                rollouts = sampler.sample(
                    policy,
                    prompts,
                    num_rollouts=1,
                    generator=torch.Generator().manual_seed(2),
                )
                results[key] = rollouts.completions[:, 0]
                return results[key], rollouts.num_forwards

            lines.append(measure(run, stopwatch, options, sampler=name, cache=cache, **facts))
    lines.append(measure(run_naive, stopwatch, options, sampler="naive", cache="none", **facts))
    agree = (results["naive"] == results["low_confidence none"]).double().mean()
    return lines, float(agree)


def report(options: argparse.Namespace, groups: list[tuple[list[Row], float]]) -> str:
    device = "CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    lines = [
        f"# Rollouts on a random LLaDA ({options.size}), vocabulary 126,464, {device}",
        "",
        f"Prompt {options.prompt_length}, canvas {options.gen_length}, blocks of "
        f"{options.block_length}; samplers with a fixed schedule take {options.steps} steps. "
        f"Logits times {options.sharpness:g}. What *naive* is, and what the parallel rules' passes "
        "say, stands at the head of `benchmarks/rollouts.py`.",
    ]
    for rows, agree in groups:
        first = rows[0]
        base = [row for row in rows if row.sampler == "naive"]
        seconds = sum(row.seconds for row in base) / len(base)
        lines += [
            "",
            f"## Batch {first.batch}, temperature {first.temperature:g}",
            "",
            "| sampler | cache | passes | seconds | tokens/s | naive's seconds / its own | "
            "the same per pass | time in the transformer | peak GiB |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in rows:
            per_pass = (seconds / base[0].passes) / (row.seconds / row.passes)
            peak = "" if row.peak_gib is None else f"{row.peak_gib:.1f}"
            lines.append(
                f"| {row.sampler} | {row.cache} | {row.passes} | {row.seconds:.2f} | "
                f"{row.tokens_per_second:.1f} | **{seconds / row.seconds:.1f}** | {per_pass:.1f} | "
                f"{row.transformer_share:.0%} | {peak} |"
            )
        if first.temperature == 0:
            lines += [
                "",
                f"`low_confidence` without a cache gives {agree:.2%} of naive's tokens (the rest "
                "are ties between float32 and float64 and what follows from them).",
            ]
    return "\n".join([*lines, "", *provenance(), ""])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--gen-length", type=int, default=128)
    parser.add_argument("--block-length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.2, 0.0])
    parser.add_argument("--sharpness", type=float, default=40.0)
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    policy = RandomLlada(options.size, options.device, dtype, options.sharpness)
    stopwatch = Stopwatch(policy)
    groups = [
        rows_of(policy, stopwatch, options, batch, heat)
        for batch in options.batch
        for heat in options.temperatures
    ]
    text = report(options, groups)
    print(text)
    if options.name:
        record = {
            "arguments": sys.argv[1:],
            "rows": [asdict(row) for rows, _ in groups for row in rows],
        }
        replace_text(RESULTS / f"{options.name}.md", text)
        replace_text(RESULTS / f"{options.name}.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
