"""Training where the target and the distance to it are known: the objective's own code, on tables.

Several problems are trained side by side as the prompts of one buffer (a stack of tables): they
share no parameter and no weight, so each is a run of its own with other draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmpo.likelihoods.base import Likelihood, LikelihoodConfig
from dmpo.objectives.base import ObjectiveParts
from dmpo.objectives.dmpo import DmpoConfig, DmpoObjective
from dmpo.records import Example, Experience, Rewards, Rollouts
from dmpo.registry import BASELINES, LIKELIHOODS, SAMPLERS, WEIGHTS
from dmpo.training.optimization import OptimizationSettings, build_optimizer, build_scheduler
from dmpo.training.settings import TrainingSettings
from tests.oracles.likelihood import ExhaustiveLikelihood, IndependentMasks
from tests.oracles.tabular import (
    LENGTH,
    MASK,
    NUM_STATES,
    ORDERS,
    RESPONSES,
    VOCABULARY,
    TabularPolicy,
    consistent_table,
    divergence,
    log_probs,
    path_log_probs,
    random_joint,
    random_table,
    state_index,
    target_log_probs,
)

ALPHA = 0.15
UPDATES_PER_BUFFER = 8
LEARNING_RATE = 0.04
# A first moment of 0.9 outlives a buffer of eight steps and pushes on in its direction.
BETAS = (0.5, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """References, rewards and targets of several problems, one seed each."""

    tables: Tensor
    """Logits of the references [problems, states, 4, 3]."""
    rewards: Tensor
    """r of each response, uniform in [0, 1]: [problems, 81]."""
    targets: Tensor
    """log p* [problems, 81]."""


def problems(seeds: Sequence[int], *, is_consistent: bool) -> Problems:
    """Return problems whose references are order-consistent, or are not.

    Logits are normal: those of the 81 responses with deviation 0.5 where all orders agree, those
    of each state with deviation 1 where they do not.
    """
    tables, rewards, targets = [], [], []
    for seed in seeds:
        table = consistent_table(random_joint(seed, 0.5)) if is_consistent else random_table(seed)
        reward = torch.rand(81, generator=_rng(1000 + seed), dtype=torch.float64)
        with torch.no_grad():
            target = target_log_probs(log_probs(TabularPolicy(table)), reward, ALPHA)
        tables.append(table)
        rewards.append(reward)
        targets.append(target)
    return Problems(
        tables=torch.stack(tables), rewards=torch.stack(rewards), targets=torch.stack(targets)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The parts of an objective."""

    ratio: str
    """What the weights compare policies by: a name that :func:`estimator` knows."""
    loss: str
    """Whose views the loss is taken on."""
    weights: str = "tilted"
    """Registered name; its link is what differs."""
    baseline: str = "mean"
    """Registered name."""
    strength: float = 1.0
    """λ of the baseline."""
    coefficient: float = 1.0
    """c of the weights."""
    replay: int = 1
    """Buffers that updates take turns on."""
    sampler: str = "roar"
    """Registered name: in which order tokens are drawn."""


def estimator(name: str, policy: TabularPolicy) -> Likelihood:
    """Return a registered likelihood, or one of two that only the tests have.

    ``elbo`` has four views. ``elbo_independent`` looks at reference and behaviour policy through
    masks of their own, ``elbo_expectation`` through all masks there are.
    """
    if name == "elbo_expectation":
        return ExhaustiveLikelihood(LikelihoodConfig())
    likelihood = LIKELIHOODS.build("elbo" if name == "elbo_independent" else name)
    return IndependentMasks(policy, likelihood) if name == "elbo_independent" else likelihood


def build_objective(choice: Choice, policy: TabularPolicy) -> DmpoObjective:
    """Return the library's objective of these parts, for α = 0.15."""
    strength = {} if choice.baseline == "none" else {"strength": choice.strength}
    parts = ObjectiveParts(
        likelihood=estimator(choice.loss, policy),
        ratio_likelihood=estimator(choice.ratio, policy),
        weights=WEIGHTS.build(choice.weights, {"alpha": ALPHA, "coefficient": choice.coefficient}),
        baseline=BASELINES.build(choice.baseline, strength),
        updates_per_buffer=UPDATES_PER_BUFFER,
        rows_per_forward=1 << 20,
    )
    return DmpoObjective(DmpoConfig(), parts)


def train(
    choice: Choice,
    given: Problems,
    *,
    num_rollouts: int,
    num_steps: int,
    measure_at: Sequence[int],
    measure: Callable[[TabularPolicy, Problems], Tensor] | None = None,
    seed: int = 0,
    learning_rate: float = LEARNING_RATE,
) -> Tensor:
    """Train from the reference; return KL(p* ‖ p_θ) at ``measure_at`` [times, problems], nats.

    Adam on a cosine schedule. Another ``measure`` takes the divergences' place.
    """
    policy = TabularPolicy(given.tables)
    policy.freeze_reference()
    objective = build_objective(choice, policy)
    sampler = SAMPLERS.build(choice.sampler, {"gen_length": LENGTH, "temperature": 1.0})
    turns = TrainingSettings(
        num_steps=num_steps,
        updates_per_buffer=UPDATES_PER_BUFFER,
        replay_buffers=choice.replay,
    )
    settings = OptimizationSettings(
        num_steps=num_steps, learning_rate=learning_rate, betas=BETAS, schedule="cosine"
    )
    optimizer = build_optimizer(policy.module.parameters(), settings)
    scheduler = build_scheduler(optimizer, settings)
    examples = [Example(prompt="", columns={"problem": n}) for n in range(len(given.tables))]
    prompts, source, curve = policy.encode(examples), _rng(seed), []
    buffers: tuple[Experience, ...] = ()
    for step in range(num_steps + 1):
        if step in measure_at:
            curve.append((measure or divergences)(policy, given))
        if step == num_steps:
            break
        if step % UPDATES_PER_BUFFER == 0:
            rollouts = sampler.sample(policy, prompts, num_rollouts=num_rollouts, generator=source)
            experience = objective.prepare(policy, rollouts, scored(rollouts, given), source)
            buffers = (experience, *buffers)[: choice.replay]
        stored, update = turns.turn(buffers, step % UPDATES_PER_BUFFER)
        batch = objective.draw(policy, stored, source, update=update)
        optimizer.zero_grad()
        objective.loss(policy, batch).loss.backward()
        optimizer.step()
        scheduler.step()
    return torch.stack(curve)


def scored(rollouts: Rollouts, given: Problems) -> Rewards:
    """Return r of each response."""
    place = VOCABULARY ** torch.arange(LENGTH).flip(0)
    total = given.rewards.gather(1, (rollouts.completions * place).sum(-1))
    return Rewards(total=total, components={"total": total})


@torch.no_grad()
def divergences(policy: TabularPolicy, given: Problems) -> Tensor:
    """Return KL(p* ‖ p_θ) of each problem in nats."""
    return torch.stack(
        [
            divergence(target, log_probs(TabularPolicy(table)))
            for table, target in zip(policy.table, given.targets, strict=True)
        ]
    )


@torch.no_grad()
def order_spreads(policy: TabularPolicy, given: Problems) -> Tensor:
    """Return how far orders disagree about log p(o; σ): standard deviation, mean under p*, nats."""
    spreads = []
    for table, target in zip(policy.table, given.targets, strict=True):
        spread = path_log_probs(TabularPolicy(table)).std(dim=0, correction=0)
        spreads.append((target.exp() * spread).sum())
    return torch.stack(spreads)


@torch.no_grad()
def elbo_limits(given: Problems) -> Tensor:
    """Return KL(p* ‖ q) of each problem, q ∝ exp(E_σ log p_ref(o; σ) + r/α): the bound's target."""
    limits = []
    for table, reward, target in zip(given.tables, given.rewards, given.targets, strict=True):
        bound = path_log_probs(TabularPolicy(table)).mean(0)
        limits.append(divergence(target, target_log_probs(bound, reward, ALPHA)))
    return torch.stack(limits)


@torch.no_grad()
def path_limits(given: Problems) -> Tensor:
    """Return KL(p* ‖ q) of each problem, q the policy nearest to the target over whole paths.

    p_ref(o; σ) · exp(r/α) favours some orders over others, which no policy can: q answers in
    every state with the target's mean over the paths that lead there.
    """
    limits = []
    for table, reward, target in zip(given.tables, given.rewards, given.targets, strict=True):
        paths = torch.softmax(
            (path_log_probs(TabularPolicy(table)) + reward / ALPHA).flatten(), dim=0
        ).unflatten(0, (len(ORDERS), len(RESPONSES)))
        limits.append(divergence(target, log_probs(TabularPolicy(_nearest_table(paths)))))
    return torch.stack(limits)


def _nearest_table(paths: Tensor) -> Tensor:
    """Return the table that maximises the likelihood of paths with these weights [24, 81]."""
    mass = torch.full((NUM_STATES, LENGTH, VOCABULARY), 1e-300, dtype=torch.float64)
    for order, weight in zip(ORDERS.tolist(), paths, strict=True):
        for step, place in enumerate(order):
            hidden = torch.zeros(LENGTH, dtype=torch.bool)
            hidden[order[step:]] = True
            state = state_index(RESPONSES.masked_fill(hidden, MASK))
            token = RESPONSES[:, place]
            mass.index_put_((state, torch.tensor(place), token), weight, accumulate=True)
    return mass.log()


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
