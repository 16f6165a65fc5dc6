from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.policies.portions import in_portions, is_out_of_memory

MESSAGES = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory",
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)


class Memory:
    """Work on numbers that fails where more than some come at once, and what was asked of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: list[range] = []

    def __call__(self, piece: slice) -> list[int]:
        numbers = range(piece.start, piece.stop)
        self.asked.append(numbers)
        if len(numbers) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return list(numbers)


@settings(max_examples=10)  # each failure collects garbage
@given(st.integers(0, 60), st.integers(1, 70), st.integers(1, 70))
def test_everything_is_done_once_and_in_order_whatever_fits(
    count: int, size: int, limit: int
) -> None:
    memory = Memory(limit)
    results = in_portions(count, size, memory)
    assert [number for part in results for number in part] == list(range(count))
    assert all(0 < len(part) <= min(size, limit) for part in results)


@given(st.integers(1, 60), st.integers(1, 70))
def test_what_fits_is_cut_no_further(count: int, size: int) -> None:
    memory = Memory(size)
    in_portions(count, size, memory)
    assert len(memory.asked) == -(-count // size)


def test_a_portion_that_does_not_fit_is_halved_as_are_those_after_it() -> None:
    memory = Memory(3)
    results = in_portions(20, 16, memory)
    assert [len(each) for each in memory.asked[:3]] == [16, 8, 4]
    assert [len(part) for part in results] == [2] * 10
    assert len(memory.asked) == 3 + 10


def test_a_short_last_portion_is_halved_by_its_own_length() -> None:
    memory = Memory(1)
    in_portions(3, 64, memory)
    assert [len(each) for each in memory.asked] == [3, 1, 1, 1]


def test_a_single_thing_that_is_too_large_raises_what_it_raised() -> None:
    memory = Memory(0)
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 2\.00 GiB"):
        in_portions(8, 4, memory)
    assert [len(each) for each in memory.asked] == [4, 2, 1]


def test_other_errors_pass_through_at_once() -> None:
    asked: list[slice] = []

    def fail(piece: slice) -> None:
        asked.append(piece)
        raise RuntimeError("shape '[2]' is invalid for input of size 3")

    with pytest.raises(RuntimeError, match="is invalid for input"):
        in_portions(8, 4, fail)
    assert asked == [slice(0, 4)]


@pytest.mark.parametrize("message", MESSAGES)
def test_errors_of_memory_are_known_by_what_they_say(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(ValueError(message))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError()])
def test_errors_of_memory_are_known_by_their_kind(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("timed out"), KeyError("out"), ValueError()])
def test_other_errors_are_not_taken_for_them(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_a_failed_attempt_held_is_let_go_of_before_the_next() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def run(piece: slice) -> bool:
        gc.collect()
        is_free = all(reference() is None for reference in held)
        large = torch.zeros(piece.stop - piece.start)
        held.append(weakref.ref(large))
        if len(large) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return is_free

    assert all(in_portions(8, 8, run))
