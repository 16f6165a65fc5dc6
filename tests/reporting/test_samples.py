from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.reporting.samples import (
    MOST_TEXT,
    MOST_TOKENS,
    SavedSamples,
    graded_completions,
    read_samples,
    sample_records,
    spread_out,
)

ROLLOUT = {
    "step": 8,
    "prompt": "1+1=",
    "completion": "2!",
    "reward": 1.0,
    "components": {"right": 1.0, "form": None},
    "weight": 1.5,
    "baseline_weight": 0.5,
    "tokens": ["2", "!", ""],
    "commit_steps": [1, 0, 1],
    "denoising_steps": 2,
    "log_probs": [-0.1, -0.2, float("-inf")],
}


def written(run: Path, *records: Any) -> SavedSamples:
    lines = "".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in records)
    (run / "samples.jsonl").write_text(lines)
    return read_samples(run, most_characters=10**9)


def test_a_rollout_is_read_with_the_order_of_its_tokens(tmp_path: Path) -> None:
    (sample,) = written(tmp_path, ROLLOUT).records
    assert sample["tokens"] == ["2", "!", ""]
    assert sample["commit_steps"] == [1, 0, 1]
    assert sample["log_probs"] == [-0.1, -0.2, None]
    assert sample["components"] == {"right": 1.0, "form": None}
    assert "completion" not in sample  # the tokens say it


def test_a_file_of_an_earlier_version_has_rollouts_without_tokens(tmp_path: Path) -> None:
    old = {key: ROLLOUT[key] for key in ("step", "prompt", "completion", "reward", "weight")}
    (sample,) = written(tmp_path, old).records
    assert sample == old
    assert read_samples(tmp_path / "nowhere", most_characters=1).records == ()


def test_damaged_lines_are_counted_and_one_being_written_is_not(tmp_path: Path) -> None:
    saved = written(tmp_path, ROLLOUT, "nonsense", '{"step": 8, "prompt": 3}', "[]", ROLLOUT)
    assert (len(saved.records), saved.num_damaged) == (2, 3)
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 16, "pro')
    assert read_samples(tmp_path, most_characters=10**9).num_damaged == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": ["2"]},
        {"tokens": [1, 2, 3]},
        {"commit_steps": ["a", "b", "c"]},
        {"commit_steps": None},
    ],
)
def test_an_order_that_is_not_whole_leaves_the_text(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    (sample,) = written(tmp_path, {**ROLLOUT, **changes}).records
    assert "tokens" not in sample
    assert sample["completion"] == "2!"


def test_texts_of_others_are_made_fit_and_cut(tmp_path: Path) -> None:
    evil = {**ROLLOUT, "prompt": "\x00\u202e", "tokens": ["\ud83d", "x" * 500, ""]}
    long = {
        **ROLLOUT,
        "completion": "x" * 10**6,
        "tokens": ["x"] * 3000,
        "commit_steps": [0] * 3000,
    }
    first, second = written(tmp_path, evil, long).records
    assert first["prompt"] == "␀⟨U+202E⟩"
    assert first["tokens"][0] == "⟨U+D83D⟩"
    assert first["tokens"][1].endswith("(cut: 500 characters in all)")
    assert second["completion"] == "x" * MOST_TEXT + " … (cut: 1,000,000 characters in all)"
    assert (len(second["tokens"]), second["num_tokens"]) == (MOST_TOKENS, 3000)


def test_of_too_many_steps_some_are_left_out(tmp_path: Path) -> None:
    written(tmp_path, *({**ROLLOUT, "step": step} for step in range(0, 800, 8)))
    size = len(json.dumps(ROLLOUT))
    saved = read_samples(tmp_path, most_characters=10 * size)
    steps = [record["step"] for record in saved.records]
    assert 5 <= len(steps) <= 10
    assert (steps[0], steps[-1], saved.num_left_out) == (0, 792, 100 - len(steps))


@given(st.dictionaries(st.integers(0, 500), st.integers(1, 99), min_size=1), st.integers(1, 2000))
def test_spread_steps_rise_fit_and_end_with_the_last(sizes: dict[int, int], most: int) -> None:
    steps = spread_out(sizes, most)
    assert steps == sorted(set(steps))
    assert steps[-1] == max(sizes)
    assert len(steps) == 1 or sum(sizes[step] for step in steps) <= most


def test_records_name_run_and_prompt_by_number(tmp_path: Path) -> None:
    saved = written(tmp_path, ROLLOUT, {**ROLLOUT, "prompt": "2+2="})
    record = sample_records([saved, saved], strengths=[2.0, None])
    assert record["prompts"] == ["1+1=", "2+2="]
    assert [(each["run"], each["prompt"]) for each in record["samples"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    # w − λ · w_base = 1.5 − 2 · 0.5
    assert [each.get("real_weight") for each in record["samples"]] == [0.5, 0.5, None, None]


def test_completions_are_told_apart_by_the_headline(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    grades = [1.0, 0.0, 1.0, 0.5, 1.0]
    lines = [{"index": n // 2, "grades": {"right": grade}} for n, grade in enumerate(grades)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + "nonsense\n"
    (tmp_path / "evaluations" / "step-000008.jsonl").write_text(text)
    right, wrong = graded_completions(tmp_path, 8, "right", most=2)
    assert [each["index"] for each in right] == [0, 1]
    assert [each["index"] for each in wrong] == [0, 1]
    assert graded_completions(tmp_path, 9, "right", most=2) == ([], [])
