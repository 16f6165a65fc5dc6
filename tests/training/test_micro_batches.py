"""A step that runs out of memory is taken again in pieces that fit, and nothing of it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.errors import OutOfMemoryError
from dmpo.policies.base import DiffusionPolicy
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.events import BufferFilled, Event, StepDone
from tests.training.runs import (
    Recorder,
    small_objective,
    small_policy,
    small_settings,
    small_trainer,
    weights_of,
)

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.3}


class Memory:
    """How many rows of the model fit at once, with gradients and without."""

    def __init__(self, *, rows: int = 10**9, rows_without_gradient: int = 10**9) -> None:
        self.rows, self.rows_without_gradient = rows, rows_without_gradient
        self.error: Callable[[], Exception] = lambda: torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of …"
        )
        self.num_failures = 0

    def of(self, policy: DiffusionPolicy) -> DiffusionPolicy:
        """Return the policy with no more memory than this."""
        for name in ("token_logprobs", "logits"):
            setattr(policy, name, self._limited(getattr(policy, name)))
        return policy

    def _limited(self, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(tokens: Tensor, *arguments: Any, **named: Any) -> Tensor:
            limit = self.rows if torch.is_grad_enabled() else self.rows_without_gradient
            if len(tokens) > limit:
                self.num_failures += 1
                raise self.error()
            return method(tokens, *arguments, **named)

        return call


def trained(directory: Path, memory: Memory | None = None, **options: Any) -> dict[str, Tensor]:
    """Return the weights at the end of a run with so much memory."""
    lora, observers = options.pop("lora", None), options.pop("observers", [])
    resume = options.pop("resume", None)
    policy = (memory or Memory()).of(small_policy(lora=lora))
    # SGD-like epsilon: Adam's normalisation would blow rounding up to the learning rate.
    settings = small_settings(**{"adam_epsilon": 1.0, **options})
    objective = small_objective(baseline="model")
    trainer = small_trainer(
        directory, settings, policy=policy, objective=objective, observers=observers
    )
    if resume is not None:
        trainer.restore(resume)
    trainer.train()
    return weights_of(policy)


def progress(directory: Path, step: int) -> dict[str, Any]:
    path = directory / "checkpoints" / f"step-{step:06d}" / "state.json"
    return json.loads(path.read_text(encoding="utf-8"))["progress"]


def steps(directory: Path) -> list[int]:
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["optimizer/skipped_steps"] for line in lines} == {0}
    return [line["step"] for line in lines]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "dropout"])
@pytest.mark.parametrize(("limit", "rows", "views"), [(12, 6, None), (7, 3, None), (1, 1, 1)])
def test_run_that_found_its_size_is_the_run_that_was_told_it(
    tmp_path: Path, limit: int, rows: int, views: int | None, lora: dict[str, float] | None
) -> None:
    memory = Memory(rows=limit)
    found = trained(tmp_path / "found", memory, auto_micro_batch=True, lora=lora)
    told = trained(
        tmp_path / "told", lora=lora, micro_batch_rows=rows, micro_batch_views=views
    )  # bit for bit: dropout began anew at each attempt
    assert_equal(found, told)
    assert steps(tmp_path / "found") == [1, 2, 3, 4, 5, 6]
    assert memory.num_failures == {12: 1, 7: 2, 1: 5}[limit]
    saved = progress(tmp_path / "found", 6)
    assert (saved["micro_batch_rows"], saved["micro_batch_views"]) == (rows, views)
    assert progress(tmp_path / "told", 6)["micro_batch_rows"] is None


def test_pieces_change_a_run_by_rounding_alone(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    cut = trained(tmp_path / "cut", Memory(rows=7), auto_micro_batch=True)
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_run_that_fits_is_cut_nowhere(tmp_path: Path) -> None:
    memory = Memory()
    found = trained(tmp_path / "auto", memory, auto_micro_batch=True)
    assert_equal(found, trained(tmp_path / "plain"))
    assert progress(tmp_path / "auto", 6)["micro_batch_rows"] is None


def test_a_size_that_was_given_is_where_the_search_begins(tmp_path: Path) -> None:
    memory = Memory(rows=7)
    options = {"auto_micro_batch": True, "micro_batch_rows": 8}
    found = trained(tmp_path / "found", memory, **options)
    assert memory.num_failures > 0
    rows = progress(tmp_path / "found", 6)["micro_batch_rows"]
    assert rows in (2, 4)
    assert_equal(found, trained(tmp_path / "told", micro_batch_rows=rows))


def test_memory_that_shrinks_in_the_middle_of_a_run_costs_no_step(tmp_path: Path) -> None:
    memory = Memory()

    class Shrinking:
        """Takes memory away after the third step."""

        def notify(self, event: Event) -> None:
            if isinstance(event, StepDone) and event.step == 3:
                memory.rows = 5

    recorder = Recorder()
    observers = [Shrinking(), recorder]
    options = {"auto_micro_batch": True, "checkpoint_every": 1, "keep_checkpoints": 9}
    trained(tmp_path, memory, observers=observers, **options)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert recorder.names.count("StepDone") == 6
    sizes = [progress(tmp_path, step)["micro_batch_rows"] for step in range(1, 7)]
    assert sizes[:3] == [None] * 3
    assert all(size in (2, 3) for size in sizes[3:])  # of 12; a view that hides nothing is no row


@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_run_goes_on_with_the_size_that_was_found(tmp_path: Path, stop: int) -> None:
    options = {"auto_micro_batch": True, "lora": LORA, "checkpoint_every": 1}
    whole = trained(tmp_path / "whole", Memory(rows=7), **options)
    trained(tmp_path / "cut", Memory(rows=7), num_steps=stop, **options)
    path = tmp_path / "cut" / "checkpoints" / f"step-{stop:06d}"
    memory = Memory(rows=7)
    resumed = trained(tmp_path / "cut", memory, resume=path, **options)
    assert_equal(resumed, whole)
    assert memory.num_failures == 0
    assert steps(tmp_path / "cut") == [1, 2, 3, 4, 5, 6]


def test_resumed_run_that_is_told_a_size_takes_that(tmp_path: Path) -> None:
    trained(tmp_path, Memory(rows=7), auto_micro_batch=True, num_steps=3)
    path = tmp_path / "checkpoints" / "step-000003"
    trained(tmp_path, resume=path, micro_batch_rows=5)
    assert progress(tmp_path, 6)["micro_batch_rows"] is None


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (None, r"training\.micro_batch_rows: .* for all rollouts at once \(CUDA out of memory\."),
        (5, r"training\.micro_batch_rows: .* for 5 rollouts at once .*--auto-micro-batch"),
    ],
)
def test_without_leave_to_cut_the_error_says_what_to_set_and_what_was_saved_stays(
    tmp_path: Path, rows: int | None, text: str
) -> None:
    memory = Memory()
    options = {"checkpoint_every": 2, "micro_batch_rows": rows}
    trained(tmp_path, memory, num_steps=2, **options)
    saved = tmp_path / "checkpoints" / "step-000002"
    memory.rows = 3
    with pytest.raises(OutOfMemoryError, match=text) as raised:
        trained(tmp_path, memory, resume=saved, **options)
    assert "\n" not in str(raised.value)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    verify_checkpoint(saved)
    expected = trained(tmp_path / "whole", **options)
    assert_equal(trained(tmp_path, resume=saved, **options), expected)


def test_a_single_view_of_a_single_rollout_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError, match=r"a single rollout \(CUDA .* fewer views need less"):
        trained(tmp_path, Memory(rows=0), auto_micro_batch=True)


def test_an_error_of_memory_that_says_nothing_is_one_as_well(tmp_path: Path) -> None:
    memory = Memory(rows=7)
    memory.error = MemoryError
    found = trained(tmp_path / "found", memory, auto_micro_batch=True)
    assert_equal(found, trained(tmp_path / "told", micro_batch_rows=3))
    with pytest.raises(OutOfMemoryError, match=r"12 at once \(MemoryError\)|once \(MemoryError\)"):
        trained(tmp_path / "fixed", memory)


def test_other_errors_of_a_loss_are_not_taken_for_memory(tmp_path: Path) -> None:
    memory = Memory(rows=7)
    memory.error = lambda: RuntimeError("the shapes do not match")
    with pytest.raises(RuntimeError, match="the shapes do not match"):
        trained(tmp_path, memory, auto_micro_batch=True)
    assert memory.num_failures == 1


@pytest.mark.parametrize("auto", [False, True])
def test_rollouts_and_likelihoods_that_do_not_fit_are_halved_in_any_run(
    tmp_path: Path, auto: bool
) -> None:
    def filled(recorder: Recorder) -> list[Any]:
        return [e.experience.rollouts for e in recorder.events if isinstance(e, BufferFilled)]

    memory = Memory(rows_without_gradient=5)
    recorders = [Recorder(), Recorder()]
    options = {"num_steps": 2, "auto_micro_batch": auto}
    whole = trained(tmp_path / "whole", observers=[recorders[0]], **options)
    halved = trained(tmp_path / "halved", memory, observers=[recorders[1]], **options)
    assert memory.num_failures > 0
    assert steps(tmp_path / "halved") == [1, 2]
    for one, other in zip(*map(filled, recorders), strict=True):
        assert one.completions.equal(other.completions)
    for name, tensor in whole.items():
        torch.testing.assert_close(halved[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_group_that_does_not_fit_ends_the_run_with_what_the_device_said(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        trained(tmp_path, Memory(rows_without_gradient=1), auto_micro_batch=True)
