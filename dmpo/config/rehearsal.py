"""What ``--dry-run`` looks at: one rollout through every part, and the memory that a run needs."""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dmpo.config.assembly import LightParts, build_training_parts
from dmpo.config.memory import MemoryPlan, Sharding, plan_memory
from dmpo.config.memory_sizes import PROJECTIONS, ModelSizes, Workload, nf4_bytes
from dmpo.config.preflight import canvas_length, check_prompts, named_prompts
from dmpo.config.run import PluginSection, RunConfig
from dmpo.errors import CheckpointError
from dmpo.likelihoods.base import Likelihood
from dmpo.policies.base import DiffusionPolicy
from dmpo.policies.locate import has_all_weights, model_directory
from dmpo.records import Example, Prompts, Rollouts
from dmpo.registry import LIKELIHOODS, POLICIES
from dmpo.samplers.base import Sampler
from dmpo.samplers.block_loop import BlockState
from dmpo.samplers.block_sampler import BlockSampler
from dmpo.training.trainer import TrainingParts

__all__ = [
    "Rehearsal",
    "RehearsedRollout",
    "num_candidates",
    "policy_sizes",
    "rehearse",
    "run_workload",
]

LARGEST_SHARE = 0.7
"""Of this machine's memory that weights may take to be loaded for a rehearsal."""
LIKELY_LONGEST = 512
"""Prompts with the most bytes, among which the one with the most tokens is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedRollout:
    """What one rollout through every part gave."""

    sequence_length: int
    """Its positions."""
    reward: float
    """Its reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a dry run found."""

    num_parameters: int
    """Parameters of the policy."""
    num_trained: int
    """Those that take gradients."""
    num_examples: Mapping[str, int]
    """Problems in each split."""
    num_views: int
    """Views R of a rollout that the loss is taken on."""
    rollout: RehearsedRollout | None
    """None: it was left out."""
    left_out: str
    """Why it was."""
    work: Workload
    """How much goes through the model at a time in each process."""
    plans: Mapping[Sharding, MemoryPlan]
    """Memory per process, for each way to divide the run; empty if sizes are unknown."""
    recomputes_blocks: bool
    """Whether blocks are checkpointed."""
    other_checkpointing: Mapping[Sharding, MemoryPlan]
    """The same with gradient checkpointing the other way round."""


def rehearse(
    config: RunConfig,
    light: LightParts,
    *,
    num_processes: int = 1,
    shardings: Sequence[Sharding] = ("ddp",),
) -> Rehearsal:
    """Take one prompt through sampler, reward and likelihood; nothing is written or trained.

    A model whose weights are not here, or larger than this machine's memory, is not loaded: then
    the rollout is left out, and the rest is found from config.json and the tokenizer.

    Args:
        config: The run's settings.
        light: Its parts but the policy.
        num_processes: GPUs that the run is to have.
        shardings: How it may lie on them.

    Raises:
        ConfigError: If the likelihood cannot look at what the sampler makes.
        DataError: If a split cannot be read, or a prompt does not fit.
        RewardError: If the reward fails on the rollout.
    """
    outline = _outline(config.policy)
    left_out = "" if outline is None else _reason_not_to_load(config.policy, outline)
    sizes_by_split = {
        split: len(light.task.examples(split)) for split in ("train", "validation", "test")
    }
    if outline is not None and left_out:
        policy, rollout = outline, None
        prompts = named_prompts(light.task.examples("train"), "task, train problem")
        check_prompts(policy, prompts, room=canvas_length(config.sampler))
        rollouts = _imagined_rollouts(canvas_length(config.sampler))
    else:
        parts = build_training_parts(config, light)
        policy = parts.policy
        rollouts, rollout = _rehearsed(parts)
    generator = torch.Generator().manual_seed(0)
    num_views, num_ratio_views = (
        _likelihood(section).views(rollouts, generator).hidden.shape[2]
        for section in (config.likelihood, config.ratio_likelihood or config.likelihood)
    )
    work = run_workload(
        config,
        light.sampler,
        num_processes=num_processes,
        prompt_length=_longest_prompt(policy, light),
        num_views=num_views,
        num_ratio_views=num_ratio_views,
        needs_reference=light.objective.needs_reference
        or config.training.measure_drift_every is not None,
    )
    sizes = policy_sizes(policy, casts_weights=config.training.mixed_precision == "bf16")
    other = sizes and replace(sizes, recomputes_blocks=not sizes.recomputes_blocks)
    plans, other_plans = (
        {
            sharding: plan_memory(
                each,
                work,
                num_processes=num_processes,
                sharding=sharding,
                on_accelerator=num_processes > 1 or policy.device.type != "cpu",
            )
            for sharding in shardings
            if each is not None
        }
        for each in (sizes, other)
    )
    weights, packed = dict(policy.module.named_parameters()), _packed(policy)
    return Rehearsal(
        num_parameters=sum(packed.get(name, w.numel()) for name, w in weights.items()),
        num_trained=sum(w.numel() for w in weights.values() if w.requires_grad),
        num_examples=sizes_by_split,
        num_views=num_views,
        rollout=rollout,
        left_out=left_out,
        work=work,
        plans=plans,
        recomputes_blocks=sizes is not None and sizes.recomputes_blocks,
        other_checkpointing=other_plans,
    )


def _rehearsed(parts: TrainingParts) -> tuple[Rollouts, RehearsedRollout]:
    """Return one rollout, and what is said of it."""
    policy, task = parts.policy, parts.task
    with policy.evaluating():
        rollouts = parts.sampler.sample(
            policy,
            policy.encode(task.examples("train")[:1]),
            num_rollouts=1,
            generator=torch.Generator().manual_seed(0),
        )
    return rollouts, RehearsedRollout(
        sequence_length=rollouts.prompts.tokens.shape[1] + rollouts.completions.shape[2],
        reward=parts.reward.score(rollouts, task).total.item(),
    )


def _imagined_rollouts(length: int) -> Rollouts:
    """Return what a sampler might have made, token by token, for likelihoods to look at."""
    tokens = torch.zeros(1, 1, length, dtype=torch.long)
    numbers = torch.zeros(1, 1, length)
    prompt = torch.zeros(1, 1, dtype=torch.long)
    return Rollouts(
        prompts=Prompts(examples=(), tokens=prompt, attention_mask=prompt == 0),
        completions=tokens,
        answer_mask=tokens == 0,
        commit_step=torch.arange(length).expand_as(tokens),
        log_probs=numbers,
        entropies=numbers,
        temperature=1.0,
        num_forwards=length,
        texts=(("",),),
    )


def _outline(section: PluginSection) -> DiffusionPolicy | None:
    """Return the policy without weights; None if its class has no such form."""
    make: Any = getattr(POLICIES.load(section.name), "outline", None)
    if make is None:
        return None
    outline: DiffusionPolicy = make(POLICIES.config(section.name, section.parameters))
    return outline


def _reason_not_to_load(section: PluginSection, outline: DiffusionPolicy) -> str:
    """Return why the policy's weights are not loaded here; "" if nothing speaks against it."""
    needed = sum(weight.nbytes for weight in outline.module.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > LARGEST_SHARE * memory:
        return (
            f"the weights take {needed / 2**30:.1f} GiB, and this machine's memory is "
            f"{memory / 2**30:.1f} GiB"
        )
    model, revision = (section.parameters.get(name) for name in ("model", "revision"))
    try:
        directory = model_directory(str(model), revision, needs_weights=False)
    except CheckpointError:  # no place of files: the policy has it from elsewhere
        return ""
    return "" if has_all_weights(directory) else f"the weights of {model} are not on this machine"


def _likelihood(section: PluginSection) -> Likelihood:
    return LIKELIHOODS.build(section.name, section.parameters)


def _longest_prompt(policy: DiffusionPolicy, light: LightParts) -> int:
    """Return the tokens of the longest training prompt: of those with the most bytes."""
    examples = light.task.examples("train")
    likely = heapq.nlargest(LIKELY_LONGEST, examples, key=_num_bytes)
    return policy.encode(likely).tokens.shape[1]


def _num_bytes(example: Example) -> int:
    return len((example.prompt + example.prefill).encode(errors="replace"))


def run_workload(
    config: RunConfig,
    sampler: Sampler,
    *,
    num_processes: int,
    prompt_length: int,
    num_views: int,
    num_ratio_views: int,
    needs_reference: bool,
) -> Workload:
    """Return how much goes through the model at a time in each process, at most.

    Args:
        config: The run's settings.
        sampler: The sampler they describe.
        num_processes: Processes that share the prompts of a buffer.
        prompt_length: Tokens of the longest prompt.
        num_views: Views R of a rollout that the loss is taken on.
        num_ratio_views: Views of a rollout whose likelihoods are compared.
        needs_reference: Whether π_ref is asked.
    """
    training, sampling = config.training, config.sampler.parameters
    group = training.rollouts_per_prompt
    prompts = -(-training.prompts_per_buffer // num_processes)
    rows = prompts * group
    step_rows = min(training.micro_batch_rows or rows, rows)
    step_views = min(training.micro_batch_views or num_views, num_views)
    likelihood_rows = training.likelihood_rows or training.rows_per_forward
    canvas = canvas_length(config.sampler)
    return Workload(
        sequence_length=prompt_length + canvas,
        canvas_length=canvas,
        step_views=step_rows * step_views,
        num_micro_batches=-(-rows // step_rows) * -(-num_views // step_views),
        likelihood_views=min(likelihood_rows, rows) * num_ratio_views,
        rollout_rows=min(training.rows_per_forward // group, prompts) * group,
        candidates=num_candidates(sampler, canvas),
        has_temperature=sampling.get("temperature", 1.0) > 0,
        is_guided=sampling.get("cfg_scale", 0.0) > 0,
        keeps_keys=sampling.get("cache", "none") != "none",
        needs_reference=needs_reference,
    )


def num_candidates(sampler: Sampler, canvas: int) -> int:
    """Return the positions of a row whose logits a sampler looks at in the first step of a block.

    Args:
        sampler: One that works block by block says it by its rule; of others all of the canvas is
            assumed.
        canvas: Tokens of a completion.
    """
    if not isinstance(sampler, BlockSampler):
        return canvas
    length = sampler.config.block_size
    block = BlockState(
        hidden=torch.ones(1, length, dtype=torch.bool),
        order=torch.arange(length)[None],
        step=0,
    )
    return int(sampler.rule().candidates(block).sum())


def policy_sizes(policy: DiffusionPolicy, *, casts_weights: bool = False) -> ModelSizes | None:
    """Return the sizes of a policy on a transformers model; None if they do not show.

    Args:
        policy: With weights or without.
        casts_weights: Whether weights in float32 run in bfloat16.
    """
    module: Any = policy.module
    model: Any = getattr(module, "causal_lm", None)
    config: Any = getattr(model, "config", None)
    width, num_layers, num_heads = (
        getattr(config, name, None)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    if not (width and num_layers and num_heads):
        return None
    numbers = dict(module.named_parameters())
    adapters = sum(weight.nbytes for name, weight in numbers.items() if ".lora_" in name)
    packed = _packed(policy)
    weights = sum(weight.nbytes for name, weight in numbers.items() if name not in packed)
    weights += sum(map(nf4_bytes, packed.values())) - adapters
    ends = {
        id(end.weight): end.weight.nbytes
        for end in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    lora: Any = next(iter(getattr(module.model, "peft_config", {}).values()), None)
    embedding = model.get_input_embeddings().weight
    return ModelSizes(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or num_heads,
        head_width=getattr(config, "head_dim", None) or width // num_heads,
        mlp_width=getattr(config, "intermediate_size", None)
        or getattr(config, "hidden_dim", None)
        or 4 * width,
        vocab_size=policy.vocab_size,
        itemsize=2 if casts_weights else embedding.element_size(),
        weights=weights,
        block_weights=(weights - sum(ends.values())) // num_layers,
        trained=sum(weight.nbytes for weight in numbers.values() if weight.requires_grad),
        adapters=adapters,
        adapted=() if lora is None else _adapted(lora.target_modules),
        rank=0 if lora is None else lora.r,
        has_dropout=lora is not None and lora.lora_dropout > 0,
        recomputes_blocks=any(
            getattr(part, "gradient_checkpointing", False) for part in model.modules()
        ),
        logits_chunk=getattr(module, "logits_chunk", 1024),
        casts_weights=casts_weights and embedding.element_size() == 4,
        unpacked=max(packed.values(), default=0) * embedding.element_size(),
    )


def _packed(policy: DiffusionPolicy) -> Mapping[str, int]:
    """Return the weights that are held in 4 bits: by name, how many numbers each has.

    bitsandbytes takes every linear layer but the projection onto the vocabulary. An outline has
    these weights in full, a loaded model two numbers to the byte: the layer says how many.
    """
    if getattr(getattr(policy, "config", None), "quantization", None) is None:
        return {}
    module: Any = policy.module
    projection = module.causal_lm.get_output_embeddings()
    return {
        f"{name}.weight": layer.in_features * layer.out_features
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and layer is not projection and ".lora_" not in name
    }


def _adapted(targets: Collection[str]) -> tuple[str, ...]:
    """Return the adapted projections by Llama's names; other names count as one apiece."""
    named = tuple(name for name in PROJECTIONS if name in targets)
    return named or PROJECTIONS[: len(targets)]
