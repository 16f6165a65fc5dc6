from __future__ import annotations

from pathlib import Path

from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.registry import SAMPLERS
from dmpo.training.evaluating import evaluations_to_come
from dmpo.training.events import StepDone
from tests.training.runs import CountingTask, Recorder, small_settings, small_trainer


def test_evaluations_to_come_are_those_due_and_the_last() -> None:
    assert [evaluations_to_come(step, 10, 4) for step in (3, 4, 5, 9)] == [3, 3, 2, 1]
    assert [evaluations_to_come(step, 8, 4) for step in (3, 4, 5, 8)] == [2, 2, 1, 1]
    assert evaluations_to_come(3, 10, None) == 1


def test_steps_tell_how_long_evaluations_will_take(tmp_path: Path) -> None:
    def told(name: str, evaluator: Evaluator | None) -> list[float | None]:
        recorder = Recorder()
        settings = small_settings(num_steps=2)
        small_trainer(tmp_path / name, settings, evaluator=evaluator, observers=[recorder]).train()
        steps = [event for event in recorder.events if isinstance(event, StepDone)]
        return [step.evaluation_seconds_left for step in steps]

    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    first, last = told("measured", Evaluator(CountingTask(), sampler, EvaluationSettings()))
    assert first == last  # one is to come, and takes as long as the one before
    assert last > 0
    assert told("unmeasured", None) == [0.0, 0.0]
