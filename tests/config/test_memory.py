from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dmpo.config.memory import Sharding, gathered_layers, plan_memory
from dmpo.config.memory_sizes import (
    ModelSizes,
    Workload,
    llama_sizes,
    nf4_bytes,
    with_adapters,
)
from dmpo.config.memory_table import fitting, memory_table
from dmpo.config.rehearsal import policy_sizes
from dmpo.training.optimization import OptimizationSettings, build_optimizer, trainable_parameters
from tests.policies.builders import small_policy

EIGHT_BILLION = llama_sizes(
    num_layers=32,
    width=4096,
    num_heads=32,
    num_kv_heads=32,
    mlp_width=12288,
    vocab_size=126464,
)
LORA = with_adapters(EIGHT_BILLION, rank=128)
WORK = Workload(
    sequence_length=512,
    canvas_length=256,
    step_views=4,
    num_micro_batches=8,
    likelihood_views=32,
    rollout_rows=32,
    candidates=32,
)


def test_eight_billion_parameters_are_counted_exactly() -> None:
    assert EIGHT_BILLION.weights == 2 * 8_015_581_184
    assert LORA.adapters == LORA.trained == 4 * 167_772_160


@pytest.mark.parametrize("work", [WORK, replace(WORK, step_views=64, likelihood_views=512)])
def test_logits_of_a_step_never_exceed_a_chunk(work: Workload) -> None:
    phases = plan_memory(EIGHT_BILLION, work).phases
    # The log-softmax, its gradient and the logits' gradient; without gradient two of them.
    one_set = 4 * 1024 * 126464
    assert phases["gradient step"].uses["logits"] == 3 * one_set
    assert phases["likelihoods"].uses["logits"] == 2 * one_set


def test_few_scored_positions_are_less_than_a_chunk() -> None:
    phases = plan_memory(LORA, replace(WORK, step_views=1, canvas_length=10)).phases
    assert phases["gradient step"].uses["logits"] == 3 * 4 * 10 * 126464


@pytest.mark.parametrize("sizes", [EIGHT_BILLION, LORA])
def test_fsdp2_over_8_processes_holds_an_eighth(sizes: ModelSizes) -> None:
    one = plan_memory(sizes, WORK)
    eight = plan_memory(sizes, WORK, num_processes=8, sharding="fsdp2")
    for use in ("weights", "adapters", "optimizer"):
        assert eight.held[use] == one.held[use] // 8
    step = "gradient step"
    assert eight.phases[step].uses["gradients"] == one.phases[step].uses["gradients"] // 8
    assert eight.phases["rollouts"].uses["gathered weights"] == sizes.weights + sizes.adapters
    assert eight.phases[step].uses["gathered weights"] == gathered_layers(sizes)
    by_block = plan_memory(sizes, WORK, num_processes=8, sharding="fsdp2", gathers_once=False)
    assert by_block.phases["rollouts"].uses["gathered weights"] == gathered_layers(sizes)


def test_zero2_divides_gradients_and_leaves_weights_whole() -> None:
    one = plan_memory(LORA, WORK)
    eight = plan_memory(LORA, WORK, num_processes=8, sharding="zero2")
    step = "gradient step"
    assert eight.held["weights"] == one.held["weights"]
    assert eight.phases[step].uses["gradients"] == one.phases[step].uses["gradients"] // 8
    assert eight.phases["rollouts"].uses["gathered weights"] == 0


def test_ddp_divides_nothing_and_holds_no_gradient_twice() -> None:
    one, eight = plan_memory(LORA, WORK), plan_memory(LORA, WORK, num_processes=8)
    assert eight.held == one.held
    assert eight.peaks == one.peaks


@pytest.mark.parametrize(("sizes", "copy"), [(LORA, 0), (EIGHT_BILLION, EIGHT_BILLION.weights)])
def test_only_full_training_copies_the_reference(sizes: ModelSizes, copy: int) -> None:
    assert plan_memory(sizes, replace(WORK, needs_reference=True)).held["reference"] == copy
    assert plan_memory(sizes, WORK).held["reference"] == 0


def test_fsdp2_shares_the_reference_out_and_gathers_it_where_it_is_asked() -> None:
    asks = replace(WORK, needs_reference=True)
    without, shared = (
        plan_memory(EIGHT_BILLION, work, num_processes=8, sharding="fsdp2") for work in (WORK, asks)
    )
    part = -(-EIGHT_BILLION.weights // 8)
    assert shared.held["reference"] == part
    gained = {name: shared.peaks[name] - without.peaks[name] for name in shared.peaks}
    assert gained["gradient step"] == part
    assert gained["likelihoods"] == gained["rollouts"] == EIGHT_BILLION.weights + part


def test_checkpointed_blocks_keep_their_input_alone() -> None:
    positions, width = 4 * 512, 4096
    plan = plan_memory(LORA, WORK)
    assert plan.phases["gradient step"].uses["activations"] == 32 * positions * width * 2
    without = plan_memory(replace(LORA, recomputes_blocks=False), WORK)
    assert without.peak > plan.peak


def test_logits_of_sampling_grow_with_rows_and_candidates() -> None:
    def logits(work: Workload) -> int:
        return plan_memory(LORA, work).phases["rollouts"].uses["logits"]

    assert logits(WORK) == 3 * 4 * 32 * 32 * 126464
    assert logits(replace(WORK, candidates=64)) == 2 * logits(WORK)
    assert logits(replace(WORK, has_temperature=False)) * 3 == logits(WORK) * 2


def test_kept_keys_and_values_are_those_of_all_layers() -> None:
    plan = plan_memory(LORA, replace(WORK, keeps_keys=True))
    assert plan.phases["rollouts"].uses["keys and values"] == 32 * 2 * 4096 * 2 * 32 * 512


def test_table_has_aligned_lines_and_a_column_for_each_plan() -> None:
    ways: tuple[Sharding, ...] = ("ddp", "zero2", "fsdp2")
    plans = {way: plan_memory(EIGHT_BILLION, WORK, num_processes=8, sharding=way) for way in ways}
    lines = memory_table(plans, capacity=80 * 10**9)
    assert lines[0].split() == ["at", "all", "times", *ways]
    assert {len(line) for line in lines if line.endswith("B")} == {len(lines[0])}
    assert lines[-1].split()[-2:] == ["74.5", "GiB"]
    assert fitting(plans, (1, 10**6)) == "1 GB: none; 1000000 GB: ddp, zero2, fsdp2"
    assert [part.split()[0] for part in fitting(plans).split("; ")] == ["24", "40", "80", "141"]


def test_four_bits_are_a_little_more_than_half_a_byte() -> None:
    assert nf4_bytes(64 * 256) == 32 * 256 + 256 + 4
    assert nf4_bytes(1) == 1 + 1 + 4


def test_base_in_4_bits_unpacks_one_matrix_and_copies_what_adapters_add_to() -> None:
    matrix = 2 * 4096 * 12288
    packed = replace(LORA, unpacked=matrix)
    one, other = plan_memory(LORA, WORK), plan_memory(packed, WORK)
    copied = {
        "rollouts": 32 * 512,
        "likelihoods": 32 * 512,
        "gradient step": 4 * 512,
    }
    for phase, tokens in copied.items():
        assert other.phases[phase].uses["one weight unpacked"] == matrix
        blocks = [plan.phases[phase].uses["one block at work"] for plan in (one, other)]
        assert blocks[1] - blocks[0] == tokens * 2 * 12288
        assert other.peaks[phase] >= one.peaks[phase] + matrix


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 4}}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_formula_is_within_a_tenth_of_a_measured_step(
    settings: dict[str, object], num_micro_batches: int
) -> None:
    shape = {"d_model": 64, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 192}
    policy = small_policy(shape=shape, **settings)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 90, (8, 64), generator=generator)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    where = attention & (torch.arange(64) >= 32)
    optimizer = build_optimizer(trainable_parameters(policy.module), OptimizationSettings())

    def step() -> None:
        for _ in range(num_micro_batches):
            noisy = policy.corrupt(tokens, where)
            policy.token_logprobs(noisy, attention, tokens, where).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # from here on the optimizer has its moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    work = replace(
        WORK,
        sequence_length=64,
        canvas_length=32,
        step_views=8,
        num_micro_batches=num_micro_batches,
        is_padded=False,
    )
    sizes = policy_sizes(policy)
    assert sizes is not None
    plan = plan_memory(sizes, work, on_accelerator=False)
    measured = sum(plan.held.values()) + _largest_sum(record)
    assert plan.peaks["gradient step"] == pytest.approx(measured, rel=0.1)


def _largest_sum(record: profile) -> int:
    """Return the most bytes that were allocated at one time while the profiler looked."""
    assert record.profiler is not None
    events = record.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    now = most = 0
    for _, num_bytes in sorted(changes, key=lambda change: change[0]):
        now += num_bytes
        most = max(most, now)
    return most
