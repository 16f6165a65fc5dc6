"""Keys and values kept between the denoising steps of a block (Fast-dLLM, Wu et al. 2025).

A bidirectional model has no exact cache: when one token changes, the keys of all others do.
Fast-dLLM (arXiv 2505.22618) keeps them all the same for the length of a block. Both of its
caches are one thing here: a pass over a *window* of the sequence writes the window's keys and
values over the old ones and attends to all of them. Its prefix cache is a window from the
block to the end, its dual cache a window of the block alone.
"""

from __future__ import annotations

from typing import Any, final

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["KeyValueCache"]


@final
class KeyValueCache(Cache):  # type: ignore[misc]
    """The keys and values of every position, in every layer; empty until the first pass."""

    def __init__(self) -> None:
        """Begin empty; layers appear as the first pass reaches them."""
        super().__init__(layer_class_to_replicate=_WindowLayer)
        self.is_padded: bool | None = None
        """Whether its sequences hold padding; None: not looked for yet."""

    @property
    def is_filled(self) -> bool:
        """Whether a pass over the whole sequence has been made."""
        return len(self.layers) > 0

    def select(self, rows: Int[Tensor, " U"]) -> None:
        """Keep these rows alone, in this order; a row may be there more than once."""
        self.reorder_cache(rows)

    def open_window(self, start: int) -> None:
        """Say where the next pass writes: it begins at position ``start`` of the sequence."""
        for layer in self.layers:
            layer.start = start


class _WindowLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, overwritten in place where the window lies."""

    start = 0

    def lazy_initialization(
        self, key_states: Float[Tensor, "U G T E"], value_states: Float[Tensor, "U G T E"]
    ) -> None:
        """Keep what the first pass, over the whole sequence, computed."""
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "U G W E"],
        value_states: Float[Tensor, "U G W E"],
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Float[Tensor, "U G T E"], Float[Tensor, "U G T E"]]:
        """Write the window and return all that is kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        else:
            end = self.start + key_states.shape[2]
            self.keys[:, :, self.start : end] = key_states
            self.values[:, :, self.start : end] = value_states
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys there are to mask, and where they begin."""
        return (self.keys.shape[2] if self.is_initialized else query_length), 0

    def get_seq_length(self) -> int:
        """Return the positions kept."""
        return int(self.keys.shape[2]) if self.is_initialized else 0

    def get_max_length(self) -> int:
        """Return −1: nothing bounds it."""
        return -1
