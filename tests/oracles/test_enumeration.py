from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch

from dmpo.policies.llada import LladaPolicy
from dmpo.records import Example
from dmpo.registry import POLICIES, TASKS
from tests.oracles.enumeration import answer_table, exact_figures, response_probabilities
from tests.oracles.samplers import logits_of, replay_path
from tests.oracles.tabular import LENGTH, VOCABULARY, TabularPolicy, log_probs, random_table

PROMPT = Example(prompt="17!38=")


@cache
def shipped_policy() -> LladaPolicy:
    return POLICIES.build("llada")


def test_probabilities_are_those_of_the_table_and_sum_to_one():
    policy = TabularPolicy(random_table(3))
    found = response_probabilities(policy, Example(prompt=""), torch.arange(VOCABULARY), LENGTH)
    assert torch.allclose(found.flatten(), log_probs(policy).exp(), atol=1e-7)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)


def test_probabilities_of_the_shipped_model_are_those_of_all_orders_one_by_one():
    policy = shipped_policy()
    alphabet = policy.encode_completions(["0479"], 4)[0]
    found = response_probabilities(policy, PROMPT, alphabet, 4)
    logits = logits_of(policy, len(PROMPT.prompt))
    prompt = policy.encode([PROMPT]).tokens[0].tolist()
    for digits in ((2, 1, 1, 0), (1, 1, 3, 3)):
        response = alphabet[list(digits)].tolist()
        orders = itertools.permutations(range(4))
        paths = [
            math.exp(sum(replay_path(logits, prompt, response, order, policy.mask_token_id, 1.0)))
            for order in orders
        ]
        assert float(found[digits]) == pytest.approx(sum(paths) / 24, rel=1e-4)


def test_probabilities_do_not_depend_on_the_size_of_a_forward_pass():
    policy = shipped_policy()
    alphabet = policy.encode_completions(["358"], 3)[0]
    one, many = (
        response_probabilities(policy, PROMPT, alphabet, 3, rows_per_forward=rows)
        for rows in (2, 99)
    )
    assert torch.allclose(one, many, rtol=1e-4, atol=0)


def test_answer_table_holds_every_response_with_the_tasks_verdict():
    task = TASKS.build("digit_sum")
    example = task.examples("test")[0]
    table = answer_table(task, example, "0123456789", 4)
    right = {text for text, is_right in zip(table.texts, table.is_right, strict=True) if is_right}
    assert len(table.texts) == 10_000
    assert right == set(task.right_answers(example))


def test_figures_of_a_policy_that_is_the_target():
    is_right = torch.tensor([True, True, False])
    reference = torch.tensor([0.25, 0.25, 0.25], dtype=torch.float64)
    # exp(r/α) is 4 where right and 1 elsewhere, also for the quarter that is not listed.
    target = torch.tensor([0.4, 0.4, 0.1], dtype=torch.float64)
    found = exact_figures(target, reference, is_right, 1 / math.log(4))
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.accuracy == pytest.approx(0.8)
    assert found.effective_answers == pytest.approx(2)


def test_divergence_is_the_sum_over_responses_and_the_rest():
    is_right = torch.tensor([True, False])
    reference = torch.tensor([0.5, 0.25], dtype=torch.float64)
    found = exact_figures(reference, reference, is_right, 1 / math.log(2))
    by_hand = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert found.divergence == pytest.approx(by_hand)
