"""What a run needs of each GPU's memory: computed from sizes; nothing is built or measured.

Counted is what the tensors of a bidirectional Llama hold (transformers' layers, PEFT's adapters,
:class:`dmpo.policies.denoiser.Denoiser`) with the copies that its operations make: norms compute
in float32, adapters stay in float32 over a base in half precision, logits are copied to float32.
Not counted are an allocator's gaps, a CUDA context (about half a GiB) and the libraries' own
workspaces. ``benchmarks/scaling.py`` has the figures beside measured ones. Of a base in 4
bits (bitsandbytes' NF4) it takes half a byte a number and its scales, one matrix in full while it
is multiplied, and the copy that PEFT makes of each adapted layer's result
(``benchmarks/recipes_gpu.py``).

Letters as in :mod:`dmpo.config.memory_sizes`. An encoder's MLP has one projection fewer than a
Llama's, so its figures come out high.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from dmpo.config.memory_sizes import FLOAT32, ModelSizes, Workload
from dmpo.samplers.draw import CHUNK_ELEMENTS

__all__ = ["MemoryPlan", "PhaseMemory", "Sharding", "gathered_layers", "plan_memory"]

Sharding: TypeAlias = Literal["ddp", "fsdp2", "zero2", "zero3"]
"""What processes divide between them: nothing (ddp), gradients and the optimizer's state (zero2),
or weights, too (fsdp2, zero3)."""


ADAM_STATES = 2
"""Moments AdamW keeps of each trained parameter, in its precision."""
GATHERED_BLOCKS = 2
"""Blocks whole at a time where weights are divided: the one at work and the next."""
DEEPSPEED_BUCKET = 500_000_000
"""Numbers that DeepSpeed exchanges at a time (its reduce_bucket_size, unless it is told)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMemory:
    """What one phase of the loop needs on top of what is always held."""

    uses: Mapping[str, int]
    """Bytes by use; not all of them at one time."""
    peak: int
    """The most bytes at one time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes that one process needs."""

    held: Mapping[str, int]
    """At all times, by use."""
    phases: Mapping[str, PhaseMemory]
    """On top of it: rollouts, likelihoods, gradient step."""

    @property
    def peaks(self) -> Mapping[str, int]:
        """Bytes in all at the peak of each phase."""
        held = sum(self.held.values())
        return {name: held + phase.peak for name, phase in self.phases.items()}

    @property
    def peak(self) -> int:
        """Bytes at the highest of the peaks: what a GPU must have."""
        return max(self.peaks.values())


def plan_memory(
    sizes: ModelSizes,
    work: Workload,
    *,
    num_processes: int = 1,
    sharding: Sharding = "ddp",
    on_accelerator: bool = True,
    gathers_once: bool = True,
) -> MemoryPlan:
    """Return what each process needs.

    Args:
        sizes: Of the model.
        work: Of one process.
        num_processes: GPUs that share the run.
        sharding: How they share it; of one process nothing is divided.
        on_accelerator: Whether kernels are CUDA's; a CPU's dropout keeps four bytes for their one.
        gathers_once: Whether divided weights are whole on each GPU while a buffer is filled, as the
            trainer has them; False: gathered block by block in every forward pass.
    """
    divides_weights = sharding in ("fsdp2", "zero3") and num_processes > 1
    weight_parts = num_processes if divides_weights else 1
    state_parts = 1 if sharding == "ddp" else num_processes
    # Adapters leave the reference in place: only where every weight trains is it a copy.
    reference = sizes.weights if work.needs_reference and not sizes.adapters else 0
    held = {
        "weights": _part(sizes.weights, weight_parts),
        "adapters": _part(sizes.adapters, weight_parts),
        "optimizer": _part(optimizer_bytes(sizes, sharding), state_parts),
        # FSDP2 shares it out like the weights; DeepSpeed is not asked to.
        "reference": _part(reference, weight_parts if sharding == "fsdp2" else 1),
    }
    some = gathered_layers(sizes) if divides_weights else 0
    whole = sizes.weights + sizes.adapters if divides_weights and gathers_once else some
    if sharding == "fsdp2" and gathers_once:
        whole += reference
    phases = {
        "rollouts": _rollout_phase(sizes, work, gathered=whole, on_accelerator=on_accelerator),
        "likelihoods": _likelihood_phase(
            sizes, work, gathered=whole, on_accelerator=on_accelerator
        ),
        "gradient step": _step_phase(
            sizes,
            work,
            gradients=_part(sizes.trained, state_parts),
            gathered=some,
            exchanged=_exchanged(sizes, sharding) if num_processes > 1 else 0,
            on_accelerator=on_accelerator,
        ),
    }
    return MemoryPlan(held=held, phases=phases)


def optimizer_bytes(sizes: ModelSizes, sharding: Sharding) -> int:
    """Return the bytes of the optimizer's state on all processes together.

    AdamW's moments have the precision of what trains. DeepSpeed steps on a copy in float32, whose
    moments are float32, too.
    """
    if sharding in ("ddp", "fsdp2"):
        return ADAM_STATES * sizes.trained
    itemsize = FLOAT32 if sizes.adapters or sizes.casts_weights else sizes.itemsize
    return (1 + ADAM_STATES) * FLOAT32 * (sizes.trained // itemsize)


def _exchanged(sizes: ModelSizes, sharding: Sharding) -> int:
    """Return the bytes through which gradients are exchanged.

    DDP's buckets are the gradients themselves; FSDP2 keeps whole ones of the blocks at work,
    DeepSpeed a bucket.
    """
    if sharding == "ddp":
        return 0
    if sharding == "fsdp2":
        block = -(-sizes.adapters // sizes.num_layers) if sizes.adapters else sizes.block_weights
        return GATHERED_BLOCKS * block
    return min(sizes.trained, DEEPSPEED_BUCKET * (FLOAT32 if sizes.adapters else sizes.itemsize))


def gathered_layers(sizes: ModelSizes) -> int:
    """Return the bytes of the weights that are whole at a time where they are divided."""
    adapters = -(-sizes.adapters // sizes.num_layers)
    return sizes.outer_weights + GATHERED_BLOCKS * (sizes.block_weights + adapters)


def kept_per_token(sizes: ModelSizes, *, on_accelerator: bool = True) -> int:
    """Return the bytes that one block keeps of each token for the gradient, mask left out.

    Two norms, the inputs of the linear layers that train, queries, keys, values and result of
    attention with its normaliser, and gate, activation and values of the MLP.
    """
    d, q, g, m, e = _letters(sizes)
    norms = 2 * (FLOAT32 * d + FLOAT32)
    attention = e * (2 * q + 2 * g) + FLOAT32 * sizes.num_heads
    mlp = 3 * e * m
    if sizes.adapters:
        return norms + attention + mlp + _kept_by_adapters(sizes, on_accelerator=on_accelerator)
    if sizes.casts_weights:  # norms give float32, which each linear layer casts for itself
        return norms + 2 * FLOAT32 * d + 5 * e * d + attention + mlp + e * m
    return norms + 2 * (e * d + e * d) + attention + mlp + e * m


def _kept_by_adapters(sizes: ModelSizes, *, on_accelerator: bool) -> int:
    """Return what the adapters of a block keep of each token: their input, in float32."""
    inputs = [sizes.shape(projection)[0] for projection in sizes.adapted]
    between = FLOAT32 * sizes.rank * len(inputs)
    kept = 2 if sizes.casts_weights else FLOAT32  # of a number, as the adapter's product takes it
    if sizes.has_dropout:
        return (kept + (1 if on_accelerator else FLOAT32)) * sum(inputs) + between
    if sizes.itemsize < FLOAT32:
        return kept * sum(inputs) + between
    # In float32 nothing is copied: linear layers on one input keep one tensor, and attention's
    # result is kept already.
    sources = {"q_proj": "a", "k_proj": "a", "v_proj": "a", "gate_proj": "b", "up_proj": "b"}
    apart = {
        sources.get(projection, projection): sizes.shape(projection)[0]
        for projection in sizes.adapted
        if projection != "o_proj"
    }
    return FLOAT32 * sum(apart.values()) + between


def _block_workspace(sizes: ModelSizes, *, on_accelerator: bool) -> int:
    """Return what a block's backward pass holds of each token on top of what was kept."""
    d, _, _, m, e = _letters(sizes)
    if not sizes.adapters:
        return max(2 * e * m + e * d, 5 * e * d)
    if "down_proj" not in sizes.adapted and sizes.casts_weights:
        return 3 * e * m + FLOAT32 * d
    if "down_proj" not in sizes.adapted:
        copies = FLOAT32 * d * (1 + sizes.has_dropout) if e < FLOAT32 else 0
        return 3 * FLOAT32 * m + copies + FLOAT32 * d
    freed = FLOAT32 + (1 if on_accelerator else FLOAT32) if sizes.has_dropout else FLOAT32
    return max(0, (3 * FLOAT32 + (2 if e < FLOAT32 else 0) - freed)) * m + 18 * d


def _forward_workspace(sizes: ModelSizes, *, on_accelerator: bool) -> int:
    """Return what a block's forward pass without gradient holds of each token."""
    d, q, g, m, e = _letters(sizes)
    streams = 4 * (FLOAT32 if sizes.casts_weights else e) * d
    attention = e * (3 * q + 2 * g) + FLOAT32 * q
    if not sizes.adapters:
        return streams + max(attention, 3 * e * m)
    if sizes.casts_weights:
        return streams + max(attention, 4 * e * m)
    # An adapter's float32 result meets the layer's own; a CPU copies the latter first.
    copies = 2 if on_accelerator or e == FLOAT32 else 3
    input_copy = FLOAT32 * d if e < FLOAT32 else 0
    return streams + input_copy + max(attention, 2 * e * m + copies * FLOAT32 * m)


def _step_phase(
    sizes: ModelSizes,
    work: Workload,
    *,
    gradients: int,
    gathered: int,
    exchanged: int,
    on_accelerator: bool,
) -> PhaseMemory:
    """Return the memory of a gradient step.

    Its peak is one of several moments of the backward pass, by which has the most: a chunk's
    logits take their gradients while all blocks wait; the last norm does, or the last block; the
    first block does while the gradients of all others are there; all gradients are. A single
    micro-batch finds no gradients yet, of several the others do.
    """
    d, _, _, _, e = _letters(sizes)
    tokens = work.step_views * work.sequence_length
    scored = work.step_views * min(work.canvas_length, work.sequence_length)
    kept = tokens * kept_per_token(sizes, on_accelerator=on_accelerator)
    kept += _masks_per_block(sizes, work)
    stream = FLOAT32 if sizes.casts_weights else e
    inputs = tokens * stream * d
    last_norm = tokens * 3 * FLOAT32 * d
    cast = _cast_weights(sizes)
    if sizes.casts_weights and sizes.adapters:  # kept by the blocks that are
        cast = sizes.weights // 2 // (sizes.num_layers if sizes.recomputes_blocks else 1)
    activations = sizes.num_layers * (inputs if sizes.recomputes_blocks else kept)
    if not sizes.recomputes_blocks and sizes.adapters:
        # Nothing before the first block trains: its first norm keeps nothing, adapters no mask.
        spared = FLOAT32 * d
        if sizes.has_dropout:
            first = {"q_proj", "k_proj", "v_proj"}.intersection(sizes.adapted)
            spared += len(first) * d * (1 if on_accelerator else FLOAT32)
        activations -= tokens * spared
    block = tokens * _block_workspace(sizes, on_accelerator=on_accelerator)
    block += tokens * _copied_result(sizes)
    if sizes.recomputes_blocks:
        block += kept - (inputs if stream == FLOAT32 else 0)
    logits = _logits_workspace(sizes, scored, factor=3)
    projection = 0 if sizes.adapters else sizes.projection_weights
    has_several_chunks = scored > sizes.logits_chunk
    before = gradients if work.num_micro_batches > 1 else 0
    first_block = block + (inputs if sizes.recomputes_blocks else kept)
    moments = (
        before
        + activations
        + last_norm
        + 2 * scored * e * d
        + logits
        + (projection if has_several_chunks else 0),
        # Chunk by chunk the projection's gradient is added up: the sum so far, one more, their sum.
        before + activations + last_norm + (3 if has_several_chunks else 1) * projection,
        before + activations + 2 * last_norm + (0 if before else projection),
        before + activations + block + (0 if before else projection),
        gradients - (0 if sizes.adapters else sizes.outer_weights - projection) + first_block,
        gradients + (projection if before else 0),
    )
    always = cast + gathered + exchanged + sizes.unpacked
    return PhaseMemory(
        uses={
            "gradients": gradients,
            "exchange of gradients": exchanged,
            "gathered weights": gathered,
            "weights in bfloat16": cast,
            "one weight unpacked": sizes.unpacked,
            "activations": activations,
            "one block at work": max(block, 2 * last_norm),
            "logits": logits,
        },
        peak=max(moments) + always,
    )


def _likelihood_phase(
    sizes: ModelSizes, work: Workload, *, gathered: int, on_accelerator: bool
) -> PhaseMemory:
    """Return the memory of log-probabilities without gradient: a block, then a chunk of logits."""
    tokens = work.likelihood_views * work.sequence_length
    scored = work.likelihood_views * min(work.canvas_length, work.sequence_length)
    block = tokens * _forward_workspace(sizes, on_accelerator=on_accelerator) + _masks_per_block(
        sizes, replace(work, step_views=work.likelihood_views)
    )
    block += tokens * _copied_result(sizes)
    logits = _logits_workspace(sizes, scored, factor=2)
    cast = _cast_weights(sizes)
    states = (2 * tokens + scored) * sizes.itemsize * sizes.width
    return PhaseMemory(
        uses={
            "gathered weights": gathered,
            "weights in bfloat16": cast,
            "one weight unpacked": sizes.unpacked,
            "one block at work": block,
            "logits": logits,
        },
        peak=gathered + cast + sizes.unpacked + max(block, states + logits),
    )


def _rollout_phase(
    sizes: ModelSizes, work: Workload, *, gathered: int, on_accelerator: bool
) -> PhaseMemory:
    """Return the memory of a sampling step: a block, then the logits of all candidates.

    Divided weights are gathered as a whole, once for all steps. Drawing holds logits, their
    scaled copy and its softmax; without temperature, logits and their log-softmax. Guidance holds
    two sets of logits and two more to combine them, entropies four copies of a few positions.
    """
    rows = work.rollout_rows * (2 if work.is_guided else 1)
    tokens = rows * work.sequence_length
    block = tokens * _forward_workspace(sizes, on_accelerator=on_accelerator) + _masks_per_block(
        sizes, replace(work, step_views=rows)
    )
    block += tokens * _copied_result(sizes)
    one_set = work.rollout_rows * work.candidates * sizes.vocab_size
    sets = max(3 if work.has_temperature else 2, 4 if work.is_guided else 0)
    logits = FLOAT32 * max(sets * one_set, one_set + 4 * min(one_set, CHUNK_ELEMENTS))
    cast, keys = _cast_weights(sizes), 0
    if work.keeps_keys:
        keys = tokens * sizes.num_layers * 2 * sizes.itemsize * sizes.key_width
    states = tokens * sizes.itemsize * sizes.width
    return PhaseMemory(
        uses={
            "gathered weights": gathered,
            "weights in bfloat16": cast,
            "one weight unpacked": sizes.unpacked,
            "keys and values": keys,
            "one block at work": block,
            "logits": logits,
        },
        peak=gathered + cast + sizes.unpacked + keys + max(block, states + logits),
    )


def _copied_result(sizes: ModelSizes) -> int:
    """Return what PEFT copies of a token's results over a base in 4 bits: the widest layer's."""
    return sizes.itemsize * sizes.mlp_width if sizes.unpacked and sizes.adapters else 0


def _cast_weights(sizes: ModelSizes) -> int:
    """Return the bytes of the copies in bfloat16 that a pass keeps of the weights that train."""
    return sizes.weights // 2 if sizes.casts_weights and not sizes.adapters else 0


def _logits_workspace(sizes: ModelSizes, scored: int, *, factor: int) -> int:
    """Return the bytes of a chunk's logits, ``factor`` times in float32.

    With gradient these are the log-softmax, its gradient and the logits' gradient; without, the
    logits and their log-softmax.
    """
    return factor * FLOAT32 * min(sizes.logits_chunk, scored) * sizes.vocab_size


def _masks_per_block(sizes: ModelSizes, work: Workload) -> int:
    """Return what a mask costs in every block: itself as numbers, keys and values repeated."""
    if not work.is_padded:
        return 0
    tokens = work.step_views * work.sequence_length
    repeated = 2 * (sizes.query_width - sizes.key_width)
    return tokens * sizes.itemsize * (work.sequence_length + repeated)


def _letters(sizes: ModelSizes) -> tuple[int, int, int, int, int]:
    """Return d, q, g, m and the bytes of a number."""
    return sizes.width, sizes.query_width, sizes.key_width, sizes.mlp_width, sizes.itemsize


def _part(num_bytes: int, num_processes: int) -> int:
    return -(-num_bytes // num_processes)
