from __future__ import annotations

import pytest

from dmpo.doctor.kernels import Trial, kernel_checks, run_trials

SCRIPT = """
import json, os, signal, sys, time
for name in sys.argv[1:]:
    print(json.dumps({"begun": name}), flush=True)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(600)
    if name == "leave":
        sys.exit("no such symbol")
    state = "failed" if name == "fail" else "ok"
    record = {"ended": name, "state": state, "detail": "fine", "seconds": 0.1, "values": {"n": 1}}
    print(json.dumps(record), flush=True)
"""


def run(*names: str, limit: float = 30.0, needed: tuple[str, ...] = ()) -> dict[str, Trial]:
    return run_trials(names, program=("-c", SCRIPT), seconds=lambda _: limit, needed=needed)


def test_a_trial_brings_back_what_it_found() -> None:
    expected = Trial(name="a", state="ok", detail="fine", seconds=0.1, values={"n": 1})
    assert run("a") == {"a": expected}


def test_a_crash_fails_its_own_trial_and_the_others_go_on() -> None:
    found = run("a", "crash", "b")
    assert [(name, each.state) for name, each in found.items()] == [
        ("a", "ok"),
        ("crash", "failed"),
        ("b", "ok"),
    ]
    assert found["crash"].detail == "the process was ended by SIGSEGV"


def test_a_trial_that_ends_the_process_says_its_last_line() -> None:
    assert run("leave")["leave"].detail == "the process ended with exit code 1: no such symbol"


def test_a_trial_that_hangs_is_given_up() -> None:
    found = run("hang", "a", limit=2.0)
    assert found["hang"].detail == "did not come back within 2 s"
    assert found["a"].state == "ok"


@pytest.mark.parametrize("how", ["crash", "fail"])
def test_nothing_is_tried_after_something_that_all_the_rest_needs(how: str) -> None:
    assert list(run("a", how, "b", needed=(how,))) == ["a", how]


def test_a_program_that_does_not_start_fails_each_trial_once() -> None:
    found = run_trials(["a", "b"], program=("-c", "raise SystemExit(3)"))
    assert [each.detail for each in found.values()] == ["the process ended with exit code 3"] * 2


def test_begun_trials_are_told() -> None:
    told: list[str] = []
    run_trials(["a", "b"], program=("-c", SCRIPT), on_begin=told.append)
    assert told == ["a", "b"]


def test_sdpa_alone_of_the_kernels_is_needed() -> None:
    trials = {
        name: Trial(name=name, state="failed", detail="x") for name in ("sdpa", "eager", "nccl")
    }
    checks = kernel_checks(trials)
    assert [check.name for check in checks if check.is_needed] == ["attention sdpa"]
