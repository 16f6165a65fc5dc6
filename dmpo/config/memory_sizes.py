"""The sizes that memory depends on: of a model, and of what goes through it at a time.

Letters as in :mod:`dmpo.records`; besides, d is the model's width, q and g the widths of all
query heads and of all key heads together, m the width inside the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

__all__ = [
    "FLOAT32",
    "PAPER_TARGETS",
    "PROJECTIONS",
    "ModelSizes",
    "Workload",
    "llama_sizes",
    "nf4_bytes",
    "with_adapters",
]

FLOAT32 = 4
"""Bytes of a number in float32."""
NF4_BLOCK = 64
"""Numbers in 4 bits under one scale."""
NF4_SCALES = 256
"""Scales under one of their own."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a block, by Llama's names."""
PAPER_TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj")
"""Those that DMPO's published runs adapt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """A transformer's sizes, as far as memory depends on them."""

    num_layers: int
    """Blocks."""
    width: int
    """d, of the residual stream."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_width: int
    """Of one head."""
    mlp_width: int
    """m."""
    vocab_size: int
    """V, rows of the projection."""
    itemsize: int
    """Bytes of a number that passes between layers."""
    weights: int
    """Bytes of all weights but the adapters."""
    block_weights: int
    """Bytes of one block's, adapters left out."""
    trained: int
    """Bytes of what takes gradients: the adapters, or every weight."""
    adapters: int = 0
    """Bytes of the adapters; 0: there are none, and every weight trains."""
    adapted: tuple[str, ...] = ()
    """Which of PROJECTIONS have adapters."""
    rank: int = 0
    """Of the adapters."""
    has_dropout: bool = False
    """Whether adapters drop a part of their input."""
    recomputes_blocks: bool = False
    """Whether blocks keep nothing but their input for the gradient (gradient checkpointing)."""
    logits_chunk: int = 1024
    """Positions projected onto the vocabulary at a time."""
    casts_weights: bool = False
    """Whether weights in float32 run as copies in bfloat16 (training.mixed_precision)."""
    unpacked: int = 0
    """Bytes of the largest weight while it is at work, where a base is held in 4 bits; else 0."""

    @property
    def query_width(self) -> int:
        """Width q of all query heads together."""
        return self.num_heads * self.head_width

    @property
    def key_width(self) -> int:
        """Width g of all key heads together."""
        return self.num_kv_heads * self.head_width

    @property
    def outer_weights(self) -> int:
        """Bytes of what is no block: embedding, projection onto the vocabulary, last norm."""
        return self.weights - self.num_layers * self.block_weights

    @property
    def projection_weights(self) -> int:
        """Bytes of the projection onto the vocabulary."""
        itemsize = FLOAT32 if self.casts_weights else self.itemsize
        return self.vocab_size * self.width * itemsize

    def shape(self, projection: str) -> tuple[int, int]:
        """Return how wide the input of a block's linear layer is, and its output."""
        q, g, d, m = self.query_width, self.key_width, self.width, self.mlp_width
        outputs = ((d, q), (d, g), (d, g), (q, d), (d, m), (d, m), (m, d))
        return dict(zip(PROJECTIONS, outputs, strict=True))[projection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How much of everything goes through the model at a time, in one process."""

    sequence_length: int
    """T, prompt and canvas."""
    canvas_length: int
    """D; of a view no more positions than these are scored."""
    step_views: int
    """Rows times views of a forward and backward pass."""
    num_micro_batches: int
    """Such passes in one gradient step."""
    likelihood_views: int
    """Rows times views of a pass without gradient."""
    rollout_rows: int
    """Rows that are sampled at once."""
    candidates: int
    """K, positions of a row whose logits a sampler looks at in one step."""
    has_temperature: bool = True
    """Whether tokens are drawn; False: the likeliest are taken."""
    is_guided: bool = False
    """Whether every step runs twice, the second time with the prompt hidden."""
    keeps_keys: bool = False
    """Whether keys and values stay for the length of a block."""
    is_padded: bool = True
    """Whether prompts of a batch differ in length: then attention takes a mask."""
    needs_reference: bool = False
    """Whether π_ref is asked."""


def nf4_bytes(count: int) -> int:
    """Return what bitsandbytes holds of ``count`` numbers in 4 bits.

    Half a byte each, a scale of one byte for every 64, and one in float32 for every 256 scales
    (double quantisation).

    Example:
        >>> 8 * nf4_bytes(4096 * 4096) / (4096 * 4096)
        4.126953125
    """
    scales = -(-count // NF4_BLOCK)
    return -(-count // 2) + scales + -(-scales // NF4_SCALES) * FLOAT32


def llama_sizes(
    *,
    num_layers: int,
    width: int,
    num_heads: int,
    num_kv_heads: int,
    mlp_width: int,
    vocab_size: int,
    itemsize: int = 2,
    recomputes_blocks: bool = True,
    logits_chunk: int = 1024,
) -> ModelSizes:
    """Return the sizes of a Llama whose projection is not its embedding; every weight trains.

    Args:
        num_layers: Blocks.
        width: d.
        num_heads: Query heads; they share d.
        num_kv_heads: Key and value heads.
        mlp_width: m.
        vocab_size: V.
        itemsize: Bytes of a weight, and of what passes between layers.
        recomputes_blocks: Whether blocks are checkpointed.
        logits_chunk: Positions projected onto the vocabulary at a time.

    Example:
        >>> sizes = llama_sizes(
        ...     num_layers=32,
        ...     width=4096,
        ...     num_heads=32,
        ...     num_kv_heads=32,
        ...     mlp_width=12288,
        ...     vocab_size=126464,
        ... )
        >>> sizes.weights // 2
        8015581184
    """
    head_width = width // num_heads
    key_width = num_kv_heads * head_width
    block = 2 * width * width + 2 * width * key_width + 3 * width * mlp_width + 2 * width
    weights = (num_layers * block + 2 * vocab_size * width + width) * itemsize
    return ModelSizes(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_width=head_width,
        mlp_width=mlp_width,
        vocab_size=vocab_size,
        itemsize=itemsize,
        weights=weights,
        block_weights=block * itemsize,
        trained=weights,
        recomputes_blocks=recomputes_blocks,
        logits_chunk=logits_chunk,
    )


def with_adapters(
    sizes: ModelSizes,
    *,
    rank: int,
    targets: Iterable[str] = PAPER_TARGETS,
    has_dropout: bool = True,
) -> ModelSizes:
    """Return the sizes with low-rank adapters in float32, which alone take gradients."""
    adapted = tuple(targets)
    per_block = rank * sum(sum(sizes.shape(projection)) for projection in adapted)
    adapters = sizes.num_layers * per_block * FLOAT32
    return replace(
        sizes,
        trained=adapters,
        adapters=adapters,
        adapted=adapted,
        rank=rank,
        has_dropout=has_dropout,
    )
