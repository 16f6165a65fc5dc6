"""Every law is one that the suite would see broken."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping

import pytest
import torch

from dmpo import testing
from dmpo.errors import UnknownNameError
from dmpo.objectives.dmpo import DmpoObjective
from dmpo.testing.laws import Law, broken_laws
from dmpo.weights.baselines import MeanBaseline
from tests.testing.faults import FAULTS, FAULTY, Fault, copy_of

CHECKS: Mapping[str, Callable[..., None]] = {
    "plugin": testing.check_baseline,
    "policy": testing.check_policy,
    "sampler": testing.check_sampler,
    "task": testing.check_task,
    "reward": testing.check_reward,
    "likelihood": testing.check_likelihood,
    "weights": testing.check_weights,
    "baseline": testing.check_baseline,
    "objective": testing.check_objective,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_there_is_a_fault_for_every_law(kind: str) -> None:
    assert set(FAULTY[kind]) == set(testing.laws_of(kind))


@pytest.mark.parametrize("kind", CHECKS)
def test_every_law_says_what_it_promises(kind: str) -> None:
    promises = testing.laws_of(kind).values()
    assert all(promise.endswith(".") and len(promise) > 20 for promise in promises)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.law}")
def test_fault_is_found_and_its_law_named(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault.kind != "plugin":  # looked at is the one law, so that this takes no minutes
        own = [law for law in testing._LAWS[fault.kind] if law.name == fault.law]
        monkeypatch.setattr(testing, "_LAWS", {fault.kind: tuple(own)})
    with pytest.raises(testing.ConformanceError, match=f"\n  {fault.law}\n") as caught:
        CHECKS[fault.kind](fault.plugin, **fault.parameters)
    assert testing.laws_of(fault.kind)[fault.law] in str(caught.value)


def test_all_broken_laws_are_reported_together() -> None:
    def weights(self, estimator, rewards, log_ratio, estimated, model_log_ratio):
        return torch.rand_like(rewards)

    faulty = copy_of(MeanBaseline, weights=weights, __doc__="")
    with pytest.raises(AssertionError) as caught:
        testing.check_baseline(faulty)
    assert isinstance(caught.value, testing.ConformanceError)
    assert {broken.law for broken in caught.value.broken} >= {
        "says_what_it_is",
        "groups_know_nothing_of_each_other",
        "rewards_stay_as_they_are",
        "leaves_global_randomness_alone",
    }
    assert str(caught.value).startswith("Faulty breaks ")


def test_an_error_in_the_way_of_many_laws_is_told_once_with_its_place() -> None:
    def prepare(self, policy, rollouts, rewards, generator):
        raise ZeroDivisionError("no luck")

    with pytest.raises(testing.ConformanceError) as caught:
        testing.check_objective(copy_of(DmpoObjective, prepare=prepare))
    (broken,) = caught.value.broken
    assert len(broken.hides) > 10
    assert str(caught.value).count("raised ZeroDivisionError: no luck (test_laws.py, line ") == 1
    assert "which also stands in the way of: loss_is_finite, " in str(caught.value)


def test_parameters_that_the_config_refuses_are_named() -> None:
    with pytest.raises(testing.ConformanceError, match=r"strength: must be less than or equal"):
        testing.check_baseline(MeanBaseline, strength=3)


def test_looking_leaves_global_random_state_as_it_was() -> None:
    def weights(self, estimator, rewards, log_ratio, estimated, model_log_ratio):
        return torch.rand_like(rewards)

    before = torch.get_rng_state()
    with pytest.raises(testing.ConformanceError):
        testing.check_baseline(copy_of(MeanBaseline, weights=weights))
    assert torch.equal(before, torch.get_rng_state())


def test_draws_from_pythons_own_stream_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Which beartype draws from, so that it is not looked at where that is loaded.
    monkeypatch.delitem(sys.modules, "beartype")

    def roll(_: object) -> list[str]:
        random.random()
        return []

    rolling = Law(name="rolls", promise="It rolls.", check=roll)
    (broken,) = broken_laws(None, [rolling])
    assert broken.law == "leaves_global_randomness_alone"
    assert "one moved during rolls" in broken.found[0]


def test_misspelt_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'objective'"):
        testing.laws_of("objektive")
