"""One training step of DMPO at LLaDA's vocabulary: time and memory beside the official algorithm.

    OMP_NUM_THREADS=1 python benchmarks/step.py --output benchmarks/results
    python benchmarks/step.py --device cuda --size 8b --output DIR

A step is everything that a gradient needs once rollouts and rewards are there: log p_v and
log p_ref of the buffer (*prepare*), log p_θ for the `model` baseline (*current*), and the weighted
denoising cross-entropy on fresh views, forward and backward (*loss*). In training all updates of a
buffer share the first; here it counts in full. *Ours* is the library's own code: `DmpoObjective`
over the micro-batches of `Batch.split`. *Official* is the released algorithm, written out here: all
R noised replicates of all rows in one forward pass, logits of the whole sequence, prompt included,
in float32, cross-entropy everywhere and only then the mask; nothing is cut, and nothing computed
again beyond what gradient checkpointing does to both. It shares the model, the views and the
formula of the weights with ours; how far loss and gradient differ by rounding stands in the table.

Weights are random, adapters moved off zero, dropout off. Both sides take turns in one process; the
memory of a side is its peak during the step over what was allocated before: on a GPU the
allocator's, on a CPU the resident set of a fresh process (Linux). Seconds are by the wall on a GPU,
of the processor on a CPU, which others may share.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, final

import torch
from provenance import provenance
from rollouts import EOS, MASK, VOCABULARY, wait
from rollouts import SIZES as ROLLOUT_SIZES
from torch import Tensor
from torch.nn import functional

from dmpo.diffusion.masking import random_subsets
from dmpo.files import replace_text
from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.dmpo import DmpoConfig, DmpoObjective
from dmpo.policies.adapters import LoraSettings, adapters_disabled
from dmpo.policies.flops import FlopCounts, ModelPass, count_flops, tracing
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.text import TextCodec
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.records import Example, Prompts, Rewards, Rollouts, Views
from dmpo.weights.baselines import ModelBaseline, ModelBaselineConfig
from dmpo.weights.tilted import TiltedConfig, TiltedWeights

ALPHA, COEFFICIENT = 0.04, 0.1
"""The paper's temperature, and a small step: a full one (c = 1) would carry the rounding of log p
in bfloat16, some tenths of a nat, into the weights."""
SIDES = ("official", "ours")
PEAK_FLOPS: Mapping[str, float] = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 of a card, by what its name holds."""
CARDS_GB = (80, 141)
WHOLLY_HIDDEN = (
    "At 100% all views of all rollouts are one and the same sequence, since all answer one prompt; "
    "ours runs it once a pass."
)
VARIANTS: Mapping[str, str] = {
    "autocast": "the forward pass under bfloat16 autocast (`training.mixed_precision: bf16`)",
    "tf32": "float32 products in TF32",
    "compile": "every block by `torch.compile`",
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model and what is natural for it."""

    shape: Mapping[str, int]
    batch: int
    prompt_length: int
    gen_length: int
    rank: int
    micro_rows: int
    logits_chunk: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(
        shape={"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32},
        batch=2,
        prompt_length=6,
        gen_length=8,
        rank=2,
        micro_rows=1,
        logits_chunk=8,
    ),
    "small": Size(
        shape={"d_model": 256, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 768},
        batch=4,
        prompt_length=50,
        gen_length=64,
        rank=16,
        micro_rows=1,
        logits_chunk=256,
    ),
    "8b": Size(
        shape=ROLLOUT_SIZES["8b"],
        batch=8,
        prompt_length=200,
        gen_length=256,
        rank=128,
        micro_rows=2,
        logits_chunk=1024,
    ),
}


class AdaptedLlada(TransformersPolicy):
    """A LLaDA with random weights and the published vocabulary, under adapters that train."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = LLaDAConfig(
            **SIZES[options.size].shape,
            vocab_size=VOCABULARY,
            embedding_size=VOCABULARY,
            max_sequence_length=4096,
            rope_theta=500000.0,
            mask_token_id=MASK,
            eos_token_id=EOS,
            pad_token_id=EOS,
            attn_implementation="sdpa",
        )
        torch.manual_seed(0)
        previous = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32 if options.device == "cpu" else torch.bfloat16)
        try:
            with torch.device(options.device):
                model = LLaDAModelLM(config)
        finally:
            torch.set_default_dtype(previous)
        self._assemble(
            model,
            # Nothing is read or written as text here.
            TextCodec(None, eos_token_id=EOS, pad_token_id=EOS, max_length=4096),
            mask_token_id=MASK,
            lora=LoraSettings(rank=options.rank, alpha=options.rank / 2, dropout=0.0),
            base_name=options.size,
            gradient_checkpointing=options.checkpointing,
            logits_chunk=options.logits_chunk,
        )
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if ".lora_B." in name:  # at zero, as attached, log p_ref would be log p_v
                    parameter.normal_(std=0.01)

    def describe(self) -> str:
        return "random LLaDA"

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        raise NotImplementedError


class FixedShareConfig(LikelihoodConfig):
    """How much is hidden."""

    num_views: int = 4
    share: float = 0.5


@final
class FixedShare(Likelihood):
    """The ELBO's views, each with the same number of hidden tokens."""

    Config: ClassVar[type[LikelihoodConfig]] = FixedShareConfig
    is_exact = False
    needs_path = False
    is_deterministic = False

    def __init__(self, config: FixedShareConfig) -> None:
        self.config: FixedShareConfig = config

    def views(self, rollouts: Rollouts, generator: torch.Generator) -> Views:
        scored = self.scored(rollouts.answer_mask)
        counts = (scored.sum(-1, keepdim=True) * self.config.share).round().long().clamp(min=1)
        counts = counts.expand(*counts.shape[:-1], self.config.num_views)
        hidden = random_subsets(scored, counts, generator)
        factor = scored.sum(-1)[..., None] / counts / self.config.num_views
        return Views(hidden=hidden, coefficient=hidden * factor.unsqueeze(-1))

    def standard_error(
        self,
        token_log_ratios: Tensor,  # noqa: ARG002
        views: Views,  # noqa: ARG002
    ) -> None:
        return None


def likelihood_of(share: str, num_views: int) -> Likelihood:
    """Return what hides a share of the answer: a number, or as the ELBO draws it."""
    if share == "drawn":
        return ElboLikelihood(ElboConfig(num_views=num_views))
    return FixedShare(FixedShareConfig(num_views=num_views, share=float(share)))


@dataclass(kw_only=True)
class Stage:
    """A model and a buffer to take steps on."""

    policy: AdaptedLlada
    counts: FlopCounts
    reference_counts: FlopCounts
    rollouts: Rollouts
    rewards: Rewards
    share: str
    num_views: int
    rows: int
    views: int | None
    rows_per_forward: int
    recomputes: bool
    autocast: bool = False

    @property
    def likelihood(self) -> Likelihood:
        return likelihood_of(self.share, self.num_views)


def buffer(device: torch.device, batch: int, prompt: int, length: int) -> tuple[Rollouts, Rewards]:
    """Return random rollouts of one prompt, and random rewards."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 120_000, (1, prompt), generator=generator).to(device)
    completions = torch.randint(0, 120_000, (1, batch, length), generator=generator).to(device)
    rollouts = Rollouts(
        prompts=Prompts(
            examples=(Example(prompt="random"),),
            tokens=tokens,
            attention_mask=torch.ones_like(tokens, dtype=torch.bool),
        ),
        completions=completions,
        answer_mask=torch.ones_like(completions, dtype=torch.bool),
        commit_step=torch.zeros_like(completions),
        log_probs=None,
        temperature=1.0,
        num_forwards=0,
        texts=(("",) * batch,),
    )
    rewards = torch.rand(1, batch, generator=generator)
    return rollouts, Rewards(total=rewards.to(device), components={})


def build_stage(options: argparse.Namespace) -> Stage:
    policy = AdaptedLlada(options)
    model = policy.module.causal_lm
    with tracing(model) as trace:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=policy.device))
    rollouts, rewards = buffer(
        policy.device, options.batch, options.prompt_length, options.gen_length
    )
    return Stage(
        policy=policy,
        counts=count_flops(model, trace),
        reference_counts=count_flops(model, with_adapters=False),
        rollouts=rollouts,
        rewards=rewards,
        share=options.shares[0],
        num_views=options.num_views,
        rows=options.micro_rows,
        views=options.micro_views,
        rows_per_forward=options.batch,
        recomputes=options.checkpointing,
    )


@dataclass(kw_only=True)
class Done:
    """What one step of one side did."""

    loss: float = 0.0
    scale: float = 0.0
    """Mean of the sizes of what the loss adds up, whose signs differ; of the official side."""
    phases: dict[str, float] = field(default_factory=dict)
    level: int = 0
    peak: int = 0
    flops: int = 0
    """Floating-point operations by formula, what is computed again included."""
    recomputed: int = 0

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        wait()
        begun = clock()
        yield
        wait()
        self.phases[name] = clock() - begun


def ours(stage: Stage, done: Done) -> None:
    """Take a step by the library's own code; gradients are left on the parameters."""
    policy, likelihood = stage.policy, stage.likelihood
    parts = ObjectiveParts(
        likelihood=likelihood,
        ratio_likelihood=likelihood,
        weights=TiltedWeights(TiltedConfig(alpha=ALPHA, coefficient=COEFFICIENT)),
        baseline=ModelBaseline(ModelBaselineConfig()),
        updates_per_buffer=8,
        rows_per_forward=stage.rows_per_forward,
    )
    objective = DmpoObjective(DmpoConfig(), parts)
    generator = torch.Generator().manual_seed(2)
    before = policy.forward_flops + policy.backward_flops
    with booked_recomputation(stage, done):
        with done.phase("prepare"), torch.no_grad():
            experience = objective.prepare(policy, stage.rollouts, stage.rewards, generator)
        with done.phase("current"), torch.no_grad():
            batch = objective.draw(policy, experience, generator, update=1)
        with done.phase("loss"):
            total = torch.zeros((), device=policy.device)
            for piece in batch.split(stage.rows, stage.views):
                output = objective.loss(policy, piece)
                output.loss.backward()
                total += output.loss.detach()
    done.loss = total.item()
    done.flops = policy.forward_flops + policy.backward_flops - before


@contextmanager
def booked_recomputation(stage: Stage, done: Done) -> Iterator[None]:
    """Book what the library's passes with gradient compute again."""

    def book(module: Any, *_: Any) -> None:
        if torch.is_grad_enabled():
            done.recomputed += recomputed_flops(stage, module.last_pass)

    hook = stage.policy.module.register_forward_hook(book)
    try:
        yield
    finally:
        hook.remove()


def recomputed_flops(stage: Stage, ran: ModelPass) -> int:
    counts, tokens = stage.counts, ran.rows * ran.queries
    blocks = tokens * (counts.token.recomputed + ran.keys * counts.pair.recomputed)
    return stage.recomputes * blocks + ran.reprojected * counts.position.forward


def official(stage: Stage, done: Done) -> None:
    """Take a step as the released code does; gradients are left on the parameters."""
    policy, likelihood, rewards = stage.policy, stage.likelihood, stage.rewards.total
    generator = torch.Generator().manual_seed(2)
    num_rollouts = rewards.shape[1]
    with done.phase("prepare"), policy.evaluating():
        views = likelihood.views(stage.rollouts, generator)
        behaviour = full_log_likelihood(stage, views)
        with adapters_disabled(policy.module.model):
            reference = full_log_likelihood(stage, views)
        log_weights = COEFFICIENT * (rewards / ALPHA + reference - behaviour)
        weights = num_rollouts * log_weights.softmax(dim=-1)
    with done.phase("current"), policy.evaluating():
        fresh = likelihood.views(stage.rollouts, generator)
        current = full_log_likelihood(stage, views)
        weights = weights - num_rollouts * (current - behaviour).softmax(dim=-1)
    with done.phase("loss"):
        per_token = -full_log_likelihood(stage, fresh) / stage.rollouts.completions.shape[-1]
        loss = (weights * per_token).mean()
        loss.backward()
    done.loss, done.scale = loss.item(), (weights * per_token).abs().mean().item()
    sequences = stage.rollouts.num_rows * stage.num_views
    length = stage.rollouts.prompts.tokens.shape[1] + stage.rollouts.completions.shape[-1]
    ran = ModelPass(rows=sequences, queries=length, keys=length, projected=sequences * length)
    done.recomputed = recomputed_flops(stage, ran)
    done.flops = (
        3 * stage.counts.forward(ran)
        + stage.reference_counts.forward(ran)
        + stage.counts.backward(ran, recomputes_blocks=stage.recomputes)
    )


def full_log_likelihood(stage: Stage, views: Views) -> Tensor:
    """Return log p̂ [B, N] from logits of every position of every replicate at once."""
    rollouts = stage.rollouts
    hidden = views.hidden.flatten(0, 2)
    answers = rollouts.completions.flatten(0, 1).repeat_interleave(stage.num_views, dim=0)
    prompts = rollouts.prompts.tokens.expand(len(answers), -1)
    tokens = torch.cat([prompts, answers], dim=1)
    noisy = torch.cat([prompts, answers.masked_fill(hidden.to(answers.device), MASK)], dim=1)
    logits = stage.policy.module.causal_lm(
        input_ids=noisy, attention_mask=torch.ones_like(noisy), use_cache=False
    ).logits.float()
    losses = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    losses = losses.view(tokens.shape)[:, prompts.shape[1] :].reshape(views.hidden.shape)
    return -(losses * views.coefficient.to(losses.device)).sum(dim=(-2, -1))


STEPS: Mapping[str, Callable[[Stage, Done], None]] = {"official": official, "ours": ours}


def resident(field_name: str) -> int:
    """Return a figure of this process from Linux: VmRSS, or VmHWM, the largest since a reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field_name} in /proc/self/status")


@contextmanager
def metered(stage: Stage, done: Done) -> Iterator[None]:
    """Book how much memory was in use before, and at the most meanwhile."""
    if stage.policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        done.level = torch.cuda.memory_allocated()
        yield
        done.peak = torch.cuda.max_memory_allocated()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        done.level = resident("VmRSS")
        yield
        done.peak = resident("VmHWM")
    else:
        yield


def take(side: str, stage: Stage) -> Done | None:
    """Take one step of a side; None: it ran out of memory."""
    stage.policy.module.zero_grad(set_to_none=True)
    release()
    done, kind = Done(), stage.policy.device.type
    try:
        with (
            metered(stage, done),
            torch.autocast(kind, torch.bfloat16, enabled=stage.autocast),
        ):
            STEPS[side](stage, done)
        return done
    except RuntimeError as error:  # what it holds is let go of outside
        if not any(sign in str(error) for sign in ("out of memory", "ALLOC_FAILED")):
            raise
    stage.policy.module.zero_grad(set_to_none=True)
    release()
    return None


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def side_record(runs: Sequence[Done]) -> dict[str, Any]:
    """Return what is kept of a side: the first run was its warm-up, unless it is alone."""
    timed = runs[1:] or runs
    return {
        "seconds": median(done.seconds for done in timed),
        "all_seconds": [done.seconds for done in timed],
        "phases": {name: median(done.phases[name] for done in timed) for name in timed[0].phases},
        "peak_bytes": max(done.peak for done in timed),
        "step_bytes": max(done.peak - done.level for done in timed),
        "loss": runs[0].loss,
        "flops": runs[0].flops,
        "recomputed_flops": runs[0].recomputed,
    }


def measure(stage: Stage, *, repeats: int) -> dict[str, Any]:
    """Let the sides take turns; the first turn warms up and compares loss and gradient."""
    runs: dict[str, list[Done]] = {side: [] for side in SIDES}
    lost: set[str] = set()
    gradients: dict[str, dict[str, Tensor]] = {}
    for turn in range(1 + repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            if side in lost:
                continue
            done = take(side, stage)
            if done is None:
                lost.add(side)
                say(f"  {side}: out of memory")
                continue
            runs[side].append(done)
            say(
                f"  {side}, batch {stage.rollouts.num_rows}: {done.seconds:.2f} s "
                f"({', '.join(f'{name} {took:.2f}' for name, took in done.phases.items())}), "
                f"{(done.peak - done.level) / 1e9:.2f} GB over {done.level / 1e9:.2f}"
            )
            if turn == 0:
                gradients[side] = gradient_of(stage)
    sides = {side: side_record(kept) for side, kept in runs.items() if kept and side not in lost}
    record = {
        "share": stage.share,
        "batch": stage.rollouts.num_rows,
        "micro_rows": stage.rows,
        "micro_views": stage.views,
        "sides": sides,
    }
    if len(gradients) == len(SIDES):
        record["difference"] = difference(runs, gradients)
        say(f"  {record['difference']}")
    stage.policy.module.zero_grad(set_to_none=True)
    return record


def gradient_of(stage: Stage) -> dict[str, Tensor]:
    named = stage.policy.module.named_parameters()
    return {name: value.grad.float().cpu() for name, value in named if value.grad is not None}


def difference(
    runs: Mapping[str, Sequence[Done]], gradients: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, float]:
    """Return how far loss and gradient are apart, as shares of the official side's sizes."""
    theirs, mine = (gradients[side] for side in SIDES)
    if theirs.keys() != mine.keys():
        raise RuntimeError("the sides gave gradients to different parameters")
    squares = sum(float(value.double().square().sum()) for value in theirs.values())
    apart = sum(float((theirs[name] - mine[name]).double().square().sum()) for name in theirs)
    first, second = (runs[side][0] for side in SIDES)
    return {
        "loss": abs(first.loss - second.loss) / first.scale,
        "gradient": (apart / squares) ** 0.5,
    }


def resized(stage: Stage, batch: int, options: argparse.Namespace) -> None:
    stage.rollouts, stage.rewards = buffer(
        stage.policy.device, batch, options.prompt_length, options.gen_length
    )


@dataclass(kw_only=True)
class Bench:
    """A run: what it found so far, where that is kept, and how much time is left."""

    options: argparse.Namespace
    began: float = field(default_factory=time.perf_counter)
    record: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, value: Any) -> None:
        """Add a finding, and write all of them."""
        self.record.setdefault(name, []).append(value)
        if self.options.output is not None:
            self.options.output.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.record, indent=1) + "\n"
            replace_text(self.options.output / f"{self.options.name}.json", text)

    def allows(self, seconds: float, what: str) -> bool:
        """Whether something that takes so long still fits; say so where it does not."""
        elapsed = time.perf_counter() - self.began
        if self.options.budget is None or elapsed + seconds <= self.options.budget:
            say(f"[{elapsed:.0f} s] {what}")
            return True
        say(f"[{elapsed:.0f} s] left out, no time: {what}")
        self.keep("left_out", what)
        return False

    def longest_step(self) -> float:
        cases = self.record.get("cases", [])
        return max((side["seconds"] for row in cases for side in row["sides"].values()), default=0)


def cases(bench: Bench, stage: Stage) -> None:
    """Measure both sides at every masked share."""
    options = bench.options
    for number, share in enumerate(options.shares):
        turns = 1 + options.repeats
        if number and not bench.allows(2 * turns * bench.longest_step(), f"share {share}"):
            continue
        say(f"masked share {share}")
        stage.share = share
        batch, lost = options.batch, True
        while lost and batch >= 2:  # halved until both sides fit; weights need a group
            resized(stage, batch, options)
            record = measure(stage, repeats=options.repeats)
            if options.device == "cpu" and not options.in_process:
                for side, found in record["sides"].items():
                    found |= memory_of_child(options, side, share, batch)
                    say(f"  {side}, process of its own: {found['step_bytes'] / 1e9:.3f} GB")
            bench.keep("cases", record)
            batch, lost = batch // 2, len(record["sides"]) < len(SIDES)
    stage.share = options.shares[0]
    resized(stage, options.batch, options)


def memory_of_child(
    options: argparse.Namespace, side: str, share: str, batch: int
) -> dict[str, Any]:
    """Return the memory of one step of a side in a fresh process."""
    command = [sys.executable, __file__, *options.arguments]
    command += ["--only", side, "--shares", share, "--batch", str(batch)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout)


def only(options: argparse.Namespace) -> None:
    """Take one step of one side and print its memory: what the child of a run does."""
    stage = build_stage(options)
    rollouts, rewards = stage.rollouts, stage.rewards
    stage.rollouts, stage.rewards = buffer(stage.policy.device, 2, 2, 2)
    take(options.only, stage)  # libraries load their parts when they are first used
    stage.rollouts, stage.rewards = rollouts, rewards
    done = take(options.only, stage)
    assert done is not None
    print(json.dumps({"peak_bytes": done.peak, "step_bytes": done.peak - done.level}))


def largest_batches(bench: Bench, stage: Stage) -> None:
    """Measure peaks at two batches in one pass, and say which batch fits which card.

    Ours is measured uncut, too: all rows and views in one pass. Cut into micro-batches its peak
    does not grow with the batch.
    """
    options, cut = bench.options, stage.rows
    for side in SIDES:
        peaks: dict[int, int] = {}
        batch = options.batch
        while batch >= 1 and len(peaks) < 2:
            stage.rows = batch
            if not bench.allows(bench.longest_step(), f"{side}, batch {batch} in one pass"):
                break
            done = measured_batch(stage, side, batch, options)
            if done is None:
                say("  out of memory")
            else:
                peaks[batch] = done.peak
                say(f"  peak {done.peak / 1e9:.2f} GB, {done.seconds:.2f} s")
            batch //= 2
        if len(peaks) < 2:
            bench.keep("batches", {"side": side, "peak_bytes": peaks})
            continue
        (large, high), (less, low) = peaks.items()
        per_row = (high - low) / (large - less)
        base = high - per_row * large
        fits = {
            str(card): max(0, int((card * 1e9 - base) / per_row)) if per_row > 0 else 0
            for card in CARDS_GB
        }
        found = {
            "side": side,
            "peak_bytes": peaks,
            "bytes_per_row": per_row,
            "bytes_without_rows": base,
            "largest_by_line": fits,
        }
        if options.device == "cuda":
            found["tried"] = tried(bench, stage, side, fits, done_seconds=bench.longest_step())
        bench.keep("batches", found)
    stage.rows = cut
    resized(stage, options.batch, options)


def measured_batch(stage: Stage, side: str, batch: int, options: argparse.Namespace) -> Done | None:
    resized(stage, batch, options)
    return take(side, stage)


def tried(
    bench: Bench, stage: Stage, side: str, fits: Mapping[str, int], *, done_seconds: float
) -> dict[str, Any]:
    """Run the largest batch that the line promises on the largest card that this one is."""
    options = bench.options
    memory = torch.cuda.get_device_properties(0).total_memory
    if options.limit_gb is not None:
        memory = min(memory, options.limit_gb * 1e9)
    cards = [card for card in CARDS_GB if card * 1e9 <= memory and fits[str(card)] > 0]
    if not cards:
        return {}
    batch = fits[str(max(cards))]
    seconds = done_seconds * batch / options.batch
    if not bench.allows(seconds, f"{side}, batch {batch}: the line's answer for {max(cards)} GB"):
        return {}
    stage.rows = batch
    done = measured_batch(stage, side, batch, options)
    found = {"card_gb": max(cards), "batch": batch, "peak_bytes": done and done.peak}
    say(f"  {found}")
    return found


def variants(bench: Bench, stage: Stage) -> None:
    """Measure both sides under other settings of precision and compilation."""
    options = bench.options
    for name in options.variants:
        compiling = 60 if name == "compile" else 0
        if not bench.allows(4 * bench.longest_step() + compiling, f"variant {name}"):
            continue
        with varied(stage, name, options):
            record = measure(stage, repeats=1)
        bench.keep("variants", {"variant": name, **record})


@contextmanager
def varied(stage: Stage, name: str, options: argparse.Namespace) -> Iterator[None]:
    layers = stage.policy.module.causal_lm.model.layers
    precision = torch.get_float32_matmul_precision()
    stage.autocast = name == "autocast"
    if name == "tf32":
        torch.set_float32_matmul_precision("high")
    if name == "compile":
        # One piece of code serves all blocks, with and without gradient, adapters, checkpoints.
        torch._dynamo.config.recompile_limit = 64
        for layer in layers:
            layer.compile(backend=options.backend, dynamic=True)
    try:
        yield
    finally:
        stage.autocast = False
        torch.set_float32_matmul_precision(precision)
        for layer in layers:
            layer._compiled_call_impl = None  # there is no public way back


def estimate(bench: Bench, stage: Stage) -> None:
    """Keep what `--dry-run` says that ours needs beside what was measured."""
    try:
        plan = planned(bench.options, stage)
    except Exception as error:  # a figure of the second rank must not end the run
        say(f"no estimate: {error}")
        return
    held = sum(bytes_ for use, bytes_ in plan.held.items() if use != "optimizer")  # none here
    phases = {name: phase.peak for name, phase in plan.phases.items() if name != "rollouts"}
    for row in bench.record.get("cases", []):
        if row["batch"] != bench.options.batch or "ours" not in row["sides"]:
            continue
        ours_found = row["sides"]["ours"]
        on_gpu = stage.policy.device.type == "cuda"
        measured = ours_found["peak_bytes"] if on_gpu else held + ours_found["step_bytes"]
        bench.keep(
            "estimates",
            {
                "share": row["share"],
                "estimated": {"held": held, **phases},
                "estimated_bytes": held + max(phases.values()),
                "measured_bytes": measured,
            },
        )


def planned(options: argparse.Namespace, stage: Stage) -> Any:
    from dmpo.config.memory import Workload, llama_sizes, plan_memory, with_adapters

    shape, on_gpu = SIZES[options.size].shape, options.device == "cuda"
    bare = llama_sizes(
        num_layers=shape["n_layers"],
        width=shape["d_model"],
        num_heads=shape["n_heads"],
        num_kv_heads=shape["n_heads"],
        mlp_width=shape["mlp_hidden_size"],
        vocab_size=VOCABULARY,
        itemsize=2 if on_gpu else 4,
        recomputes_blocks=options.checkpointing,
        logits_chunk=options.logits_chunk,
    )
    rows, views = stage.rows, min(stage.num_views, stage.views or stage.num_views)
    work = Workload(
        sequence_length=options.prompt_length + options.gen_length,
        canvas_length=options.gen_length,
        step_views=rows * views,
        num_micro_batches=-(-options.batch // rows) * -(-stage.num_views // views),
        likelihood_views=min(options.batch, stage.rows_per_forward) * stage.num_views,
        rollout_rows=1,
        candidates=1,
        is_padded=False,
        needs_reference=True,
    )
    sizes = with_adapters(bare, rank=options.rank, has_dropout=False)
    return plan_memory(sizes, work, on_accelerator=on_gpu)


def gb(count: float | None) -> str:
    return "—" if count is None else f"{count / 1e9:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines)]


def shown_share(share: str) -> str:
    return "as the ELBO draws it (50% in the mean)" if share == "drawn" else f"{float(share):.0%}"


def ratio(theirs: Mapping[str, Any] | None, mine: Mapping[str, Any] | None, key: str) -> str:
    return f"{theirs[key] / mine[key]:.1f}" if theirs and mine and mine[key] else "—"


def ratio_table(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    head = (
        first,
        "batch",
        "official, s",
        "ours, s",
        "**time ratio**",
        "official, GB",
        "ours, GB",
        "**memory ratio**",
        "with the weights",
        "loss differs by",
        "gradient by",
    )
    lines = []
    for row in rows:
        sides, differs = row["sides"], row.get("difference")
        theirs, mine = (sides.get(side) for side in SIDES)
        cells = [row.get("variant") or shown_share(row["share"]), str(row["batch"])]
        for key, show in (("seconds", "{:.2f}".format), ("step_bytes", gb)):
            cells += [show(side[key]) if side else "out of memory" for side in (theirs, mine)]
            cells.append(f"**{ratio(theirs, mine, key)}**")
        cells.append(ratio(theirs, mine, "peak_bytes"))
        cells += [f"{differs[key]:.0e}" if differs else "—" for key in ("loss", "gradient")]
        lines.append(cells)
    return table(head, lines)


def rate_table(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> list[str]:
    name = torch.cuda.get_device_name() if options.device == "cuda" else ""
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    phases = ("prepare", "current", "loss")
    head = ["hidden", "side", *(f"{phase}, s" for phase in phases), "answer tokens/s", "TFLOP"]
    head += ["computed again", "TFLOP/s", "of the card's peak", "the same, nothing twice"]
    lines = []
    for row in rows:
        for side, found in row["sides"].items():
            seconds, flops, again = found["seconds"], found["flops"], found["recomputed_flops"]
            cells = [shown_share(row["share"]), side]
            cells += [f"{found['phases'][phase]:.2f}" for phase in phases]
            cells.append(f"{row['batch'] * options.gen_length / seconds:.1f}")
            cells += [f"{flops / 1e12:.3g}", f"{again / flops:.0%}"]
            cells.append(f"{flops / seconds / 1e12:.3g}")
            shares = (flops, flops - again)
            cells += [f"{share / seconds / peak:.1%}" if peak else "—" for share in shares]
            lines.append(cells)
    return table(head, lines)


def batch_table(found: Sequence[Mapping[str, Any]], memory: float | None) -> list[str]:
    head = ["side, all rows and views in one pass", "measured peaks, GB", "GB per rollout"]
    head += [f"largest batch in {card} GB" for card in CARDS_GB] + ["tried"]
    lines = []
    for row in found:
        peaks = ", ".join(f"{batch}: {gb(peak)}" for batch, peak in row["peak_bytes"].items())
        cells = [row["side"], peaks]
        if "bytes_per_row" not in row:
            lines.append([*cells, *["—"] * (len(CARDS_GB) + 2)])
            continue
        cells.append(gb(row["bytes_per_row"]))
        for card in CARDS_GB:
            there = memory is not None and card * 1e9 <= memory
            note = "" if there else " (extrapolated)"
            cells.append(f"{row['largest_by_line'][str(card)]}{note}")
        attempt = row.get("tried") or {}
        outcome = gb(attempt.get("peak_bytes")) if attempt.get("peak_bytes") else "out of memory"
        cells.append(f"batch {attempt['batch']}: {outcome}" if attempt else "—")
        lines.append(cells)
    return table(head, lines)


def estimate_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(found[0]["estimated"])
    head = ["hidden", *(f"{name}, GB" for name in names), "peak", "measured", "ratio"]
    lines = []
    for row in found:
        total, measured = row["estimated_bytes"], row["measured_bytes"]
        cells = [shown_share(row["share"]), *(gb(row["estimated"][name]) for name in names)]
        lines.append([*cells, gb(total), gb(measured), f"{total / measured:.2f}"])
    return table(head, lines)


def origin() -> list[str]:
    """Return the lines of provenance; of a source tree that is not installed, what there is."""
    try:
        return provenance()
    except metadata.PackageNotFoundError:
        command = " ".join(["python", "benchmarks/step.py", *sys.argv[1:]])
        return [f"- command: `{command}`", f"- versions: torch {torch.__version__}"]


def report(bench: Bench) -> str:
    options, record = bench.options, bench.record
    on_gpu = options.device == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else None
    rows = record["cases"]
    views = "all views" if options.micro_views is None else f"{options.micro_views} views"
    clock = "seconds by the wall" if on_gpu else "processor seconds"
    recomputes = "gradient checkpointing on both sides" if options.checkpointing else ""
    lines = [
        f"# One training step on a random LLaDA ({options.size}), vocabulary 126,464, {device}",
        "",
        f"Batch {options.batch}, R = {options.num_views} views, prompt {options.prompt_length}, "
        f"answer {options.gen_length}; adapters of rank {options.rank}"
        f"{', ' + recomputes if recomputes else ''}. Ours: passes with gradient over "
        f"{options.micro_rows} of the rollouts with {views}, {options.logits_chunk} positions "
        "projected at a time. "
        f"Medians of {options.repeats} turns, {clock}; GB = 10⁹ bytes over those in use before the "
        "step. "
        "What the sides are stands at the head of `benchmarks/step.py`.",
        *ratio_table(rows, "hidden share of the answer"),
        *(["", WHOLLY_HIDDEN] if "1.0" in options.shares else []),
        "",
        "Seconds by phase, and floating-point operations by formula, what is computed again for "
        "the gradient among them:",
        *rate_table(rows, options),
    ]
    if found := record.get("variants"):
        told = "; ".join(f"*{row['variant']}*: {VARIANTS[row['variant']]}" for row in found)
        lines += ["", f"The first row under other settings ({told}):"]
        lines += ratio_table(found, "setting")
    if found := record.get("batches"):
        lines += [
            "",
            "Largest batches, by the line through two measured peaks (ours cut into micro-batches "
            "does not grow with the batch):",
            *batch_table(found, memory),
        ]
    if found := record.get("estimates"):
        lines += ["", "What `--dry-run` says that ours needs, without the optimizer's state:"]
        lines += estimate_table(found)
    if found := record.get("left_out"):
        lines += ["", f"Left out for lack of time: {'; '.join(found)}."]
    return "\n".join([*lines, "", *origin(), ""])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--shares", nargs="+", help="0.1 0.6 … or drawn, as the ELBO draws")
    parser.add_argument("--batch", type=int, help="rollouts, all of one prompt")
    parser.add_argument("--prompt-length", type=int)
    parser.add_argument("--gen-length", type=int)
    parser.add_argument("--num-views", type=int, default=4)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--micro-rows", type=int)
    parser.add_argument("--micro-views", type=int)
    parser.add_argument("--logits-chunk", type=int)
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS))
    parser.add_argument("--compile", action="store_true", help="adds the variant compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--batches", action=argparse.BooleanOptionalAction)
    parser.add_argument("--limit-gb", type=float, help="cap the GPU's memory")
    parser.add_argument("--budget", type=float, help="seconds after which parts are left out")
    parser.add_argument("--in-process", action="store_true", help="no child processes for memory")
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="where NAME.json and NAME.md are written")
    parser.add_argument("--name", default="step")
    options = parser.parse_args(arguments)
    options.arguments = arguments
    size, on_gpu = SIZES[options.size], options.device == "cuda"
    natural: dict[str, Any] = {
        name: getattr(size, name)
        for name in ("batch", "prompt_length", "gen_length", "rank", "micro_rows", "logits_chunk")
    }
    natural |= {
        "shares": ["drawn", "0.6"] if on_gpu else ["drawn", "0.1", "0.3", "0.6", "1.0"],
        "checkpointing": on_gpu,
        "repeats": 2 if on_gpu else 3,
        "variants": ["autocast", "tf32"] if on_gpu else [],
        "batches": on_gpu,
        "budget": 240.0 if on_gpu else None,
    }
    for name, value in natural.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.compile:
        options.variants = [*options.variants, "compile"]
    return options


def main() -> None:
    options = parse(sys.argv[1:])
    if options.only is not None:
        return only(options)
    if options.limit_gb is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.limit_gb * 1e9 / total))
    bench = Bench(options=options)
    say("building the model")
    stage = build_stage(options)
    bench.keep("arguments", sys.argv[1:])
    cases(bench, stage)
    estimate(bench, stage)
    if options.batches:
        largest_batches(bench, stage)
    variants(bench, stage)
    text = report(bench)
    print(text)
    if options.output is not None:
        replace_text(options.output / f"{options.name}.md", text)
    return None


if __name__ == "__main__":
    main()
