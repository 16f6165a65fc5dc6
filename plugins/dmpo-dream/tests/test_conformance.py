"""Policy and sampler keep the laws that dmpo holds every plugin to."""

from __future__ import annotations

from pathlib import Path

import pytest
from dmpo_dream.policy import DreamPolicy
from dmpo_dream.sampler import DreamSampler

from dmpo.testing import check_policy, check_sampler


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 2}}])
def test_policy_keeps_the_laws_of_a_policy(small_directory: Path, settings: dict) -> None:
    check_policy(DreamPolicy, model=str(small_directory), **settings)


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy"])
def test_sampler_keeps_the_laws_of_a_sampler(alg: str) -> None:
    check_sampler(DreamSampler, alg=alg, steps=4)


def test_sampler_keeps_them_with_dream_itself(small) -> None:
    check_sampler(DreamSampler, policy=small(), block_length=4, cache="prefix")
