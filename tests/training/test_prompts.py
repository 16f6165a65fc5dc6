from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dmpo.records import Example
from dmpo.training.prompts import fingerprint, prompt_indices


def test_every_epoch_visits_each_example_once_in_another_order() -> None:
    taken = prompt_indices(7, seed=0, cursor=0, count=21)
    epochs = [taken[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@given(
    num_examples=st.integers(1, 9),
    cursor=st.integers(0, 30),
    first=st.integers(1, 12),
    second=st.integers(1, 12),
)
def test_two_buffers_are_what_one_twice_as_large_would_be(
    num_examples: int, cursor: int, first: int, second: int
) -> None:
    def take(at: int, count: int) -> list[int]:
        return prompt_indices(num_examples, seed=4, cursor=at, count=count)

    whole = take(cursor, first + second)
    assert take(cursor, first) + take(cursor + first, second) == whole


def test_fingerprint_tells_splits_apart_by_prompts_and_their_order():
    splits = (["a", "b"], ["b", "a"], ["ab"], ["a", "b", "c"], ["a", "b"])
    prints = [fingerprint([Example(prompt=p, columns={}) for p in split]) for split in splits]
    assert prints[0] == prints[-1]
    assert len(set(prints)) == 4
