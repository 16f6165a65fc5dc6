from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.errors import DataError
from dmpo.reporting.history import read_history, reason_of_end
from dmpo.training.settings import TrainingSettings
from tests.reporting.runs import write_run

REWARDS = {1: 0.25, 2: 0.5, 3: 0.5, 4: 0.75}


def settings(**given: object) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {"num_steps": 100, "updates_per_buffer": 2, "warmup_steps": 0, **given}
    )


def test_history_gives_metrics_and_evaluations_by_step(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path, REWARDS, {0: 0.1, 4: 0.6}))
    assert history.points("reward/mean") == REWARDS
    assert history.points("headline") == history.points("evaluation/right")
    assert history.final("headline") == pytest.approx(0.6)
    assert history.points("distinct_right") == pytest.approx({0: 0.3, 4: 1.8})
    assert (history.headline, history.last_step) == ("right", 4)


def test_history_places_steps_on_each_axis_that_was_logged(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path, REWARDS, {}))
    assert history.axis("steps") == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert history.axis("model_tokens")[3] == 300
    assert history.axis("flops") == {}
    assert history.cost("seconds") == pytest.approx(0.4)


def test_a_run_that_has_not_begun_has_an_empty_history(tmp_path: Path) -> None:
    history = read_history(tmp_path / "nowhere")
    assert history.last_step == 0
    assert history.final("headline") is None


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, REWARDS, {})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "reward/me')
    assert read_history(run).last_step == 4


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, REWARDS, {})
    (run / "metrics.jsonl").write_text('nonsense\n{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1 is no line of a run"):
        read_history(run)


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, {1: float("nan"), 2: 1.0}, {})
    assert read_history(run).points("reward/mean") == {2: 1.0}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"num_steps": 4}, "num_steps"),
        ({"max_model_tokens": 400}, "max_model_tokens"),
        ({"max_seconds": 0.4}, "max_seconds"),
        ({"max_model_tokens": 401}, None),
        ({"max_model_tokens": 400, "updates_per_buffer": 3}, None),
    ],
)
def test_a_run_has_ended_at_the_limit_that_it_reached(
    tmp_path: Path, given: dict[str, object], reason: str | None
) -> None:
    history = read_history(write_run(tmp_path, REWARDS, {0: 0.1, 4: 0.6}))
    assert reason_of_end(history, settings(**given)) == reason


def test_a_run_whose_last_evaluation_is_missing_has_not_ended(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path, REWARDS, {0: 0.1}))
    assert reason_of_end(history, settings(num_steps=4)) is None
