"""Random numbers that belong to a group, not to the batch, the process or the device it is in.

A run's numbers may not depend on how many processes share it or how many rows run at once. So a
draw is no position in one long stream but a hash of what it is for: seed, group, call, place.
The hash is SplitMix64 (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195), in whole numbers of
64 bits, which every device computes alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["GroupGenerator", "row_streams", "substreams", "uniform", "uniforms_at"]


def _signed(number: int) -> int:
    """Return the number of 64 bits as torch keeps it."""
    return number - 2**64 if number >= 2**63 else number


STEP = _signed(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: the distance of neighbouring states."""
ROW = 2**32
"""Distance of the places of two rows: more than a last axis ever has."""


class GroupGenerator(torch.Generator):
    """A generator with a stream of its own for each of B groups.

    :func:`uniform` draws from it; each call is one further draw of every group. Code that knows
    nothing of groups may use it as any generator: then what it draws is not independent of the
    batch.

    Args:
        seed: Of the run, the step and the purpose.
        keys: What tells the groups apart, [B], for instance their places in the run.
    """

    keys: Int[Tensor, " B"]
    """What tells the groups apart."""

    def __new__(cls, seed: int, keys: Int[Tensor, " B"]) -> GroupGenerator:  # noqa: ARG004
        """Make the generator, on the CPU."""
        return super().__new__(cls, device="cpu")  # type: ignore[call-arg]

    def __init__(self, seed: int, keys: Int[Tensor, " B"]) -> None:
        """Derive the streams."""
        self.keys = keys.to("cpu", torch.long)
        self._base = _mixed(_mixed(self.keys * STEP) + torch.tensor(seed))
        self._calls = 0
        # For who draws as from any generator: at least not the same on two processes.
        self.manual_seed(int(self._base[0]) & (2**63 - 1) if len(self._base) else seed)

    def streams(self) -> Int[Tensor, " B"]:
        """Return the state that the next draw of each group starts from."""
        self._calls += 1
        return _mixed(self._base + _signed(self._calls * STEP % 2**64))


def uniform(
    shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> Float[Tensor, " ..."]:
    """Return numbers in [0, 1), on the generator's device.

    With a :class:`GroupGenerator` the first axis is its groups, and the last is counted from its
    end: a prompt's tokens keep their numbers however far it is padded on the left.

    Args:
        shape: Of the result.
        generator: The source of randomness.
        dtype: float32 or float64.
    """
    if not isinstance(generator, GroupGenerator):
        return torch.rand(tuple(shape), generator=generator, dtype=dtype, device=generator.device)
    streams = generator.streams()
    if len(shape) == 0 or shape[0] != len(streams):
        raise ValueError(f"{len(streams)} groups cannot draw numbers of shape {list(shape)}")
    width = shape[-1] if len(shape) > 1 else 1
    rows = torch.arange(math.prod(shape[1:-1]))[:, None] * ROW
    places = (rows + torch.arange(width - 1, -1, -1)).flatten()
    return uniforms_at(streams, places.expand(len(streams), -1), dtype).reshape(tuple(shape))


def uniforms_at(
    streams: Int[Tensor, "*rows"],
    places: Int[Tensor, "*rows K"],
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "*rows K"]:
    """Return the numbers in [0, 1) at some places of each stream, on the streams' device.

    Args:
        streams: Equal ones have equal numbers at equal places.
        places: Whole numbers, from 0.
        dtype: float32 or float64.
    """
    return unit_interval(_mixed(streams.unsqueeze(-1) + (places + 1) * STEP), dtype)


def substreams(streams: Int[Tensor, "*rows"], number: int) -> Int[Tensor, "*rows"]:
    """Return a stream of each stream; a stream is asked for these, or for numbers, not for both.

    Args:
        streams: Where they come from.
        number: Which of them, from 0.
    """
    return _mixed(streams + _signed((number + 1) * STEP % 2**64))


def row_streams(
    generator: torch.Generator, num_groups: int, num_rows: int, device: torch.device
) -> Int[Tensor, "B N"]:
    """Return a stream for each row of each group, by one draw from the generator.

    Args:
        generator: A :class:`GroupGenerator` of that many groups, or any other: then groups are
            told apart by their place.
        num_groups: B.
        num_rows: N.
        device: Where the streams are to lie.
    """
    if isinstance(generator, GroupGenerator):
        base = generator.streams()
    else:
        drawn = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        base = _mixed(torch.arange(1, num_groups + 1) * STEP + drawn.cpu())
    rows = torch.arange(1, num_rows + 1) * STEP
    return _mixed(base[:, None] + rows).to(device)


def unit_interval(
    numbers: Int[Tensor, "*any"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*any"]:
    """Return the leading bits of whole numbers of 64 bits as a fraction in [0, 1)."""
    bits = 24 if dtype == torch.float32 else 53
    return _shifted(numbers, 64 - bits).to(dtype) * 2.0**-bits


def _mixed(state: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Return SplitMix64's output for a state: every bit of it depends on every bit."""
    state = (state ^ _shifted(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shifted(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shifted(state, 31)


def _shifted(number: Int[Tensor, "*any"], bits: int) -> Int[Tensor, "*any"]:
    """Shift to the right and fill up with zeros; torch repeats the sign."""
    shifted: Any = (number >> bits) & (2 ** (64 - bits) - 1)
    return shifted  # type: ignore[no-any-return]
