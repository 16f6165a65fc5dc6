from __future__ import annotations

import threading
import time

import pytest
import torch

from dmpo.rewards.running import merged_rows, row_of, run_rows, run_together, run_within
from tests.rewards.helpers import examples_of, rollouts_of

ROLLOUTS = rollouts_of(examples_of({}, {}), [["a", "bb"], ["", "ccc"]])


def wait_for_ever() -> None:
    threading.Event().wait()


def test_calls_run_at_the_same_time_and_answer_in_order() -> None:
    barrier = threading.Barrier(3, timeout=5)

    def call(n: int) -> int:
        barrier.wait()
        return n

    assert run_together([lambda n=n: call(n) for n in range(3)]) == [0, 1, 2]


def test_first_error_ends_the_wait_for_the_others() -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_together([wait_for_ever, fail])


def test_call_that_hangs_is_given_up() -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0.05 s"):
        run_within(0.05, wait_for_ever)
    assert time.monotonic() - begin < 2


def test_thread_that_hangs_does_not_keep_the_process() -> None:
    with pytest.raises(TimeoutError):
        run_within(0.01, wait_for_ever)
    left = [each for each in threading.enumerate() if each.name.startswith("dmpo-reward")]
    assert left
    assert all(each.daemon for each in left)


def test_calls_in_threads_keep_no_gradients() -> None:
    assert run_within(5.0, torch.is_grad_enabled) is False


def test_rows_that_raise_and_rows_not_come_to_are_told_apart() -> None:
    def call(row: int) -> int:
        if row == 1:
            raise SystemExit(3)
        if row == 2:
            wait_for_ever()
        return row

    found = run_rows(0.2, call, 4)
    assert found[0] == 0
    assert str(found[1]) == "SystemExit: 3"
    assert found[2:] == [None, None]


@pytest.mark.parametrize("row", range(4))
def test_row_of_a_buffer_is_a_buffer(row: int) -> None:
    one = row_of(ROLLOUTS, row)
    prompt, rollout = divmod(row, 2)
    assert one.texts == ((ROLLOUTS.texts[prompt][rollout],),)
    assert one.prompts.examples == (ROLLOUTS.prompts.examples[prompt],)
    assert one.completions[0, 0].equal(ROLLOUTS.completions[prompt, rollout])


def test_buffer_without_any_row_is_missing() -> None:
    merged = merged_rows([None, None], "name", 2)
    assert merged.total.tolist() == [[0, 0]]
    assert merged.components["name"].isnan().all()
