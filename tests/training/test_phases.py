from __future__ import annotations

import contextlib

from dmpo.training.phases import PHASES, PhaseMeter, model_tokens, of_training
from tests.training.runs import small_policy


def test_meter_adds_up_what_happens_in_each_phase() -> None:
    policy = small_policy()
    meter = PhaseMeter(policy)
    for phase, tokens in (("rollout", 10), ("loss", 5), ("rollout", 1)):
        with meter.phase(phase):
            policy.forward_tokens += tokens
    policy.forward_tokens += 100  # outside of every phase
    totals = meter.take()
    seconds, tokens = totals.seconds, totals.tokens
    assert (tokens["rollout"], tokens["loss"], sum(tokens.values())) == (11, 5, 16)
    assert seconds["rollout"] > 0 == seconds["draw"]
    assert set(meter.take().tokens.values()) == {0}


def test_meter_counts_a_phase_that_raised() -> None:
    policy = small_policy()
    meter = PhaseMeter(policy)
    with contextlib.suppress(RuntimeError), meter.phase("reward"):
        policy.forward_tokens += 3
        raise RuntimeError
    assert meter.take().tokens["reward"] == 3


def test_backward_counts_twice_and_evaluation_not_at_all() -> None:
    tokens = dict.fromkeys(PHASES, 1) | {"loss": 10, "evaluation": 1000, "drift": 99}
    assert model_tokens(tokens) == 5 + 3 * 10


def test_meter_tells_operations_of_forward_and_backward_passes_apart() -> None:
    policy = small_policy()
    meter = PhaseMeter(policy)
    with meter.phase("loss"):
        policy.forward_flops += 5
        policy.backward_flops += 7
    totals = meter.take()
    assert (totals.forward_flops["loss"], totals.backward_flops["loss"]) == (5, 7)
    assert totals.flops == dict.fromkeys(PHASES, 0) | {"loss": 12}
    assert of_training({"loss": 1, "evaluation": 2, "drift": 3}) == {"loss": 1}
