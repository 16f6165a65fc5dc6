"""Signals are sent to this very process: what follows is what a run does with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.registry import SAMPLERS
from dmpo.training.events import BufferFilled, EvaluationDone, Event, StepDone
from dmpo.training.interruption import Abandoned, Interruption
from dmpo.training.run_directory import newest_checkpoint
from tests.training.runs import CountingTask, Recorder, small_settings, small_trainer


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@dataclass
class Sender:
    """An observer that sends signals when it is told of something."""

    moment: Callable[[Event], bool]
    signals: tuple[int, ...]

    def notify(self, event: Event) -> None:
        if self.moment(event):
            for number in self.signals:
                send(number)


def at_step(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StepDone) and event.step == step


def in_a_buffer(step: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, BufferFilled) and event.step == step


def test_first_signal_asks_and_a_second_sigint_interrupts() -> None:
    with Interruption() as interruption:
        assert interruption.signal is None
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert interruption.signal == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def send_twice_while_held(interruption: Interruption, done: list[str]) -> None:
    for name in ("second", "third"):
        with interruption.held():
            send(signal.SIGINT)
            done.append(name)


def test_second_sigint_waits_for_what_is_held() -> None:
    done: list[str] = []
    with Interruption() as interruption:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send_twice_while_held(interruption, done)
    assert done == ["second"]


def test_third_sigint_does_not_wait() -> None:
    with Interruption() as interruption:
        send(signal.SIGINT)
        with interruption.held():
            send(signal.SIGINT)
            with pytest.raises(Abandoned):
                send(signal.SIGINT)


def test_first_signal_breaks_off_what_may_be_broken() -> None:
    done = []
    with Interruption(done.append) as interruption:
        assert interruption.broken_off(lambda: "whole") == "whole"
        assert interruption.broken_off(lambda: (send(signal.SIGINT), done.append("inside"))) is None
    assert done == ["SIGINT"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_after_the_step_with_its_state_saved(tmp_path: Path, number: int) -> None:
    with Interruption() as interruption:
        sender = Sender(in_a_buffer(4), (number,))
        finished = small_trainer(tmp_path, observers=[sender], interruption=interruption).train()
    assert (finished.step, finished.reason) == (5, "interrupted")
    assert newest_checkpoint(tmp_path) == (finished.checkpoint, [])


def test_second_sigint_ends_a_run_at_once_and_loses_at_most_the_step(tmp_path: Path) -> None:
    sender = Sender(in_a_buffer(4), (signal.SIGINT, signal.SIGINT))
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        small_trainer(tmp_path, observers=[sender], interruption=interruption).train()
    path, _ = newest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "step-000004"
    recorder = Recorder()
    trainer = small_trainer(tmp_path, observers=[recorder])
    trainer.restore(path)
    assert trainer.train().step == 6
    assert [e.step for e in recorder.events if isinstance(e, StepDone)] == [5, 6]


def test_second_sigint_while_a_step_is_told_of_keeps_that_step(tmp_path: Path) -> None:
    sender = Sender(at_step(2), (signal.SIGINT, signal.SIGINT))
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        small_trainer(tmp_path, observers=[sender], interruption=interruption).train()
    path, _ = newest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "step-000002"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_third_sigint_leaves_no_checkpoint_of_a_step_it_cut(tmp_path: Path) -> None:
    sender = Sender(at_step(2), (signal.SIGINT,) * 3)
    with Interruption() as interruption, pytest.raises(Abandoned):
        small_trainer(tmp_path, observers=[sender], interruption=interruption).train()
    assert newest_checkpoint(tmp_path) == (None, [])


def test_signal_breaks_off_an_evaluation_and_resuming_makes_up_for_it(tmp_path: Path) -> None:
    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    evaluator = Evaluator(CountingTask(), sampler, EvaluationSettings())
    settings = small_settings(evaluate_every=4)
    sender = Sender(at_step(4), (signal.SIGINT,))
    with Interruption() as interruption:
        finished = small_trainer(
            tmp_path,
            settings,
            evaluator=evaluator,
            observers=[sender],
            interruption=interruption,
        ).train()
    recorder = Recorder()
    trainer = small_trainer(tmp_path, settings, evaluator=evaluator, observers=[recorder])
    trainer.restore(finished.checkpoint)
    trainer.train()
    evaluated = [e.step for e in recorder.events if isinstance(e, EvaluationDone)]
    assert evaluated == [4, 6]
