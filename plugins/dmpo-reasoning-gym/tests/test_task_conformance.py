"""Tasks keep the laws that dmpo holds every plugin to."""

from __future__ import annotations

import pytest
from dmpo_reasoning_gym.task import ReasoningGymTask

from dmpo.testing import check_task


@pytest.mark.parametrize("variant", ["leg_counting", "gcd", "countdown"])
def test_task_keeps_the_laws_of_a_task(variant: str) -> None:
    sizes = {"train_size": 12, "validation_size": 4, "test_size": 4}
    check_task(ReasoningGymTask, variant=variant, **sizes)
