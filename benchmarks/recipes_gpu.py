"""How much memory the recipes take on a GPU, beside what ``--dry-run`` computes for them.

    python benchmarks/recipes_gpu.py --memory 24,40,80 --seconds 240 --output DIR

For each size of card a process of its own, which may use so much of the device and no more, trains
by the recipe for that card: `dmpo.training.trainer.Trainer` with the recipe's sizes, sampler,
rewards and objective, on a LLaDA-8B with random weights, with prompts as long as GSM8K's. A buffer
is filled and two gradient steps are taken. What is cut for time changes no peak: the buffer has
--prompts groups in place of eight, and a block is revealed in two denoising steps in place of
sixteen, the first over everything, which fills the cache, the second over the block and what
follows.

The base in 4 bits is made of the random weights on the device, layer by layer, as bitsandbytes
makes it of a checkpoint. Where bitsandbytes is not installed, that card is left out, which is said.
The figures of a card are printed as a line of JSON when they are there. A card that fails or takes
too long says so, and the others go on.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from dmpo.config.assembly import build_light_parts, build_sampler
from dmpo.config.layers import sourced
from dmpo.config.memory import plan_memory
from dmpo.config.recipes import recipe_chain
from dmpo.config.rehearsal import policy_sizes, run_workload
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.files import replace_text
from dmpo.policies.llada import LladaConfig
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.text import TextCodec
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task
from dmpo.training import events
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trainer import Trainer, TrainingParts
from tests.config.official_layouts import word_tokenizer, write_problems

RECIPES: Mapping[int, str] = {
    24: "llada_gsm8k_24gb",
    40: "llada_gsm8k_40gb",
    80: "llada_gsm8k",
}
GIGABYTE = 10**9
PHASES = ("rollouts", "likelihoods", "gradient step")


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model, and what of a recipe is cut to its measure."""

    shape: Mapping[str, int]
    vocabulary: int
    mask: int
    eos: int
    changes: Mapping[str, Any]


SIZES: Mapping[str, Size] = {
    "tiny": Size(
        shape={"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32},
        vocabulary=200,
        mask=199,
        eos=198,
        changes={
            "task": {"response_length": 32},
            "training": {"rollouts_per_prompt": 2, "rows_per_forward": 4},
        },
    ),
    "8b": Size(
        shape={"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288},
        vocabulary=126464,
        mask=126336,
        eos=126081,
        changes={},
    ),
}


@final
class RandomLlada(TransformersPolicy):
    """A LLaDA with random weights, held and adapted as a recipe says."""

    def __init__(self, config: LladaConfig, size: Size, device: torch.device) -> None:
        self.config = config
        built = LLaDAConfig(
            **size.shape,
            vocab_size=size.vocabulary,
            embedding_size=size.vocabulary,
            max_sequence_length=4096,
            rope_theta=500000.0,
            mask_token_id=size.mask,
            eos_token_id=size.eos,
            pad_token_id=size.eos,
            attn_implementation=config.attention,
        )
        torch.manual_seed(0)
        previous = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, config.dtype))
        try:
            with device:
                model = LLaDAModelLM(built)
        finally:
            torch.set_default_dtype(previous)
        if config.quantization is not None:
            pack(model, config.quantization)
        ids = {"<|endoftext|>": size.eos, "<|mdm_mask|>": size.mask}
        codec = TextCodec(
            word_tokenizer(ids), eos_token_id=size.eos, pad_token_id=size.eos, max_length=4096
        )
        with device:
            self._assemble(
                model,
                codec,
                mask_token_id=size.mask,
                lora=config.lora,
                base_name="random",
                gradient_checkpointing=config.gradient_checkpointing,
                logits_chunk=config.logits_chunk,
                fused_projection=config.fused_projection,
                compilation=config.compilation,
            )

    def describe(self) -> str:
        return "random LLaDA"

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        raise NotImplementedError


def pack(model: Any, kind: str) -> None:
    """Put every linear layer of the blocks into 4 bits, as bitsandbytes reads a checkpoint."""
    import bitsandbytes

    projection = model.get_output_embeddings()
    names = [
        n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not projection
    ]
    for name in names:
        parent, _, last = name.rpartition(".")
        layer = model.get_submodule(name)
        packed = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type=kind,
            device="meta",
        )
        weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, compress_statistics=True, quant_type=kind
        )
        packed.weight = weight.to(layer.weight.device)
        setattr(model.get_submodule(parent), last, packed)
    model.is_loaded_in_4bit = True  # what PEFT asks
    gc.collect()


class Meter:
    """The peak of the device since it was last asked."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self.peaks: dict[str, list[int]] = {name: [] for name in PHASES}
        self.seconds: dict[str, list[float]] = {name: [] for name in PHASES}
        self.warnings: list[str] = []

    def mark(self, phase: str) -> None:
        """Book what the device had at most, and the time, on a phase."""
        now = time.perf_counter()
        self.seconds[phase].append(round(now - self._began, 2))
        self._began = now
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            self.peaks[phase].append(torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()

    def notify(self, event: events.Event) -> None:
        """Book a filled buffer, and a step."""
        if isinstance(event, events.BufferFilled):
            self.mark("likelihoods")
        if isinstance(event, events.StepDone):
            self.mark("gradient step")
        if isinstance(event, events.Warned):
            self.warnings.append(event.text)


@final
class MarkedReward(RewardModel):
    """A reward that says when rollouts are there."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, reward: RewardModel, meter: Meter) -> None:
        self._reward, self._meter = reward, meter

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        self._meter.mark("rollouts")
        return self._reward.score(rollouts, task)


def recipe_config(recipe: str, size: Size, prompts: int, folder: Path) -> RunConfig:
    """Return a recipe's settings for two steps on problems in a folder."""
    sources = {k.split(".")[1]: v for k, v in write_problems(folder)["gsm8k"].items()}
    task = {**sources, **size.changes.get("task", {})}
    training = {"prompts_per_buffer": prompts, "num_steps": 2, **size.changes.get("training", {})}
    cut = {"task": task, "training": training, "sampler": {"tokens_per_step": 16}}
    return resolve_run([*recipe_chain(recipe).layers, sourced(cut, "benchmark")]).config


@contextmanager
def memory_of(device: torch.device, card: int) -> Iterator[str]:
    """Let this process have so much of the device; yields what it is."""
    if device.type != "cuda":
        yield "CPU"
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, card * GIGABYTE / total))
    yield f"{torch.cuda.get_device_name(0)}, {total / GIGABYTE:.1f} GB"


def measure(card: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train two steps by the recipe of a card, and return what it took."""
    size, device = SIZES[options.size], torch.device(options.device)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, memory_of(device, card) as machine:
        folder = Path(name)
        config = recipe_config(RECIPES[card], size, options.prompts, folder)
        settings = LladaConfig.model_validate(config.policy.parameters)
        if device.type != "cuda":  # where 4 bits are not run
            settings = settings.model_copy(update={"quantization": None})
        policy = RandomLlada(settings, size, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        built = time.perf_counter() - began
        light, meter = build_light_parts(config), Meter(device)
        parts = TrainingParts(
            policy=policy,
            task=light.task,
            sampler=light.sampler,
            reward=MarkedReward(light.reward, meter),
            objective=light.objective,
        )
        trainer = Trainer(
            parts,
            config.training,
            seed=0,
            run_directory=folder / "run",
            observers=(meter,),
            tracking=TrackingSettings(trackers=()),
        )
        trainer.train()
        found = figures(policy, config, meter, light.task)
    is_cuda = device.type == "cuda"
    more = {"reserved GB": torch.cuda.max_memory_reserved() / GIGABYTE} if is_cuda else {}
    return {
        "card GB": card,
        "recipe": RECIPES[card],
        "device": machine,
        "base": settings.quantization or settings.dtype,
        "groups in the buffer": options.prompts,
        **found,
        **{name: round(value, 2) for name, value in more.items()},
        "seconds to build": round(built, 1),
        "seconds": meter.seconds,
        "warnings": meter.warnings,
    }


def figures(policy: RandomLlada, config: RunConfig, meter: Meter, task: Task) -> dict[str, Any]:
    """Return measured and computed peaks by phase."""
    prompt_length = policy.encode(task.examples("train")).tokens.shape[1]
    work = run_workload(
        config,
        build_sampler(config.sampler),
        num_processes=1,
        prompt_length=prompt_length,
        num_views=int(config.likelihood.parameters["num_views"]),
        num_ratio_views=int(config.likelihood.parameters["num_views"]),
        needs_reference=True,
    )
    sizes = policy_sizes(policy, casts_weights=config.training.mixed_precision == "bf16")
    assert sizes is not None
    plan = plan_memory(sizes, work, on_accelerator=policy.device.type != "cpu")
    phases = {}
    for name in PHASES:
        measured, computed = max(meter.peaks[name], default=0), plan.peaks[name]
        phases[name] = {
            "measured GB": round(measured / GIGABYTE, 2) if measured else None,
            "computed GB": round(computed / GIGABYTE, 2),
            "computed / measured": round(computed / measured, 3) if measured else None,
        }
    return {"longest prompt": prompt_length, "phases": phases}


def child(card: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a card from a process of its own, or why there are none."""
    if card == 24 and options.device == "cuda" and not _has_bitsandbytes():
        return {"card GB": card, "left out": "bitsandbytes is not installed (the extra cuda)"}
    command = [sys.executable, __file__, "--one", str(card), "--size", options.size]
    command += ["--device", options.device, "--prompts", str(options.prompts)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds)
    except subprocess.TimeoutExpired:
        return {"card GB": card, "failed": f"not done after {options.seconds} seconds"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"card GB": card, "failed": done.stderr.strip()[-1500:], "code": done.returncode}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _has_bitsandbytes() -> bool:
    from transformers.utils import is_bitsandbytes_available

    return bool(is_bitsandbytes_available())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory of the recipes on a GPU.")
    parser.add_argument("--memory", default="80,40,24", help="GB of the cards, by comma")
    parser.add_argument("--seconds", type=float, default=240, help="for each card, at most")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="8b", choices=tuple(SIZES))
    parser.add_argument("--prompts", type=int, default=2, help="groups in the buffer")
    parser.add_argument("--output", type=Path, help="where recipes_gpu.json is written")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.one is not None:
        print(json.dumps(measure(options.one, options)))
        return
    found = []
    for card in map(int, options.memory.split(",")):
        found.append(child(card, options))
        print(json.dumps(found[-1]), flush=True)
        if options.output is not None:
            options.output.mkdir(parents=True, exist_ok=True)
            replace_text(options.output / "recipes_gpu.json", json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
