from __future__ import annotations

import pytest

from dmpo.registry import REWARDS
from tests.rewards.helpers import examples_of, rollouts_of
from tests.rewards.tasks import LengthTask


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["a", "b"], [1, 0]), (["b", "b", "a"], [1, 0.5, 0]), (["a"], [1])],
)
def test_order_is_the_reward_from_one_to_zero_whatever_the_texts(texts, expected) -> None:
    rollouts = rollouts_of(examples_of({}, {}), [texts, texts])
    rewards = REWARDS.build("given_order").score(rollouts, LengthTask())
    assert rewards.total.tolist() == [expected, expected]
    assert rewards.components["order"].equal(rewards.total)
