# %% [markdown]
# # A world small enough to know everything
#
# Vocabulary 3, answers of 4 tokens: 81 answers in all. The policy is a table of logits, so
# log p(o), the target p* ∝ p_ref · exp(r/α) and KL(p* ‖ p_θ) are sums and not estimates. Training
# goes through the library's own sampler, likelihood, weights, baseline and objective.
#
#     python examples/exact_testbed.py          # half a minute; or cell by cell in an editor

# %%
from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dmpo import DiffusionPolicy, Example, ObjectiveParts, PluginConfig, Prompts, Rewards
from dmpo.diffusion.enumeration import marginal_log_prob, revealed_sets
from dmpo.objectives.dmpo import DmpoConfig, DmpoObjective
from dmpo.registry import BASELINES, LIKELIHOODS, SAMPLERS, WEIGHTS

VOCABULARY, LENGTH, MASK, ALPHA, UPDATES = 3, 4, 3, 0.15, 8
ANSWERS = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))


# %% [markdown]
# ## A denoiser that is a table
#
# One row of logits for each of the 4^4 canvases, the hidden places among them. This is all that
# the library asks of a backbone.


# %%
class Table(nn.Module):
    """Logits [rows, D, V] of each canvas [rows, D]."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, canvas: Tensor) -> Tensor:
        return self.logits[(canvas * (VOCABULARY + 1) ** torch.arange(LENGTH)).sum(-1)]


class TablePolicy(DiffusionPolicy):
    """π_θ(o_d | õ) from a table; the prompt is one token that says nothing."""

    Config = PluginConfig
    mask_token_id, eos_token_id, pad_token_id = MASK, 4, 5
    vocab_size, max_length = VOCABULARY, 1 + LENGTH
    # Properties in the base class, so that an engine may wrap the module; here both are plain.
    device = torch.device("cpu")
    module = None

    def __init__(self, logits: Tensor) -> None:
        self.module = Table(logits)
        self.forward_tokens = 0

    def logits(self, tokens: Tensor, attention_mask: Tensor, at: Tensor) -> Tensor:
        self.forward_tokens += tokens.numel()
        rows = self.module(tokens[:, 1:])
        return rows.gather(1, (at - 1).unsqueeze(-1).expand(-1, -1, VOCABULARY)).float()

    def token_logprobs(self, noisy, attention_mask, targets, where, *, temperature=1.0) -> Tensor:
        self.forward_tokens += noisy.numel()
        log_probs = torch.log_softmax(self.module(noisy[:, 1:]) / temperature, dim=-1)
        chosen = log_probs.gather(-1, targets[:, 1:].unsqueeze(-1)).squeeze(-1)
        return nn.functional.pad(chosen, (1, 0)) * where

    def corrupt(self, tokens: Tensor, where: Tensor) -> Tensor:
        return tokens.masked_fill(where, MASK)

    def freeze_reference(self) -> None:
        self.frozen = copy.deepcopy(self.module)

    @contextmanager
    def reference(self) -> Iterator[None]:
        live, self.module = self.module, self.frozen
        try:
            yield
        finally:
            self.module = live

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    def encode(self, examples) -> Prompts:
        tokens = torch.zeros(len(examples), 1, dtype=torch.long)
        return Prompts(examples=tuple(examples), tokens=tokens, attention_mask=tokens == 0)

    def encode_completions(self, texts, length: int) -> Tensor:
        return torch.tensor([[int(letter) for letter in text] for text in texts])

    def decode(self, completions: Tensor) -> list[str]:
        return ["".join(map(str, row)) for row in completions.tolist()]

    def describe(self) -> str:
        return "a table"

    def save(self, directory, state=None) -> None:
        torch.save(self.module.state_dict(), directory / "table.pt")

    def load_weights(self, directory) -> None:
        self.module.load_state_dict(torch.load(directory / "table.pt", weights_only=True))


# %% [markdown]
# ## The reference, the reward and the target
#
# The reference is a random distribution over the 81 answers, written as a table whose
# conditionals are those of that distribution: then all orders agree. Rewards are random, too.


# %%
def table_of(joint: Tensor) -> Tensor:
    """Return the table whose every conditional is that of a distribution over the answers."""
    canvases = torch.cartesian_prod(*[torch.arange(VOCABULARY + 1)] * LENGTH).flip(-1)
    agrees = ((canvases.unsqueeze(1) == ANSWERS) | (canvases.unsqueeze(1) == MASK)).all(-1)
    tokens = nn.functional.one_hot(ANSWERS, VOCABULARY).double()
    mass = torch.einsum("so,o,odv->sdv", agrees.double(), joint, tokens)
    return mass.clamp(min=1e-300).log()


@torch.no_grad()
def log_probs(module: Table) -> Tensor:
    """Return log p(o) of all 81 answers, the mean over all 24 orders (DMPO Eq. 1)."""
    hidden = ~revealed_sets(LENGTH)
    canvases = ANSWERS.unsqueeze(1).masked_fill(hidden, MASK)
    scores = torch.log_softmax(module(canvases.flatten(0, 1)), dim=-1).unflatten(0, (81, -1))
    targets = ANSWERS[:, None, :, None].expand(-1, len(hidden), -1, 1)
    return marginal_log_prob(scores.gather(-1, targets).squeeze(-1))


draws = torch.Generator().manual_seed(0)
reference = table_of(torch.softmax(torch.randn(81, generator=draws, dtype=torch.float64), dim=0))
reward = torch.rand(81, generator=draws, dtype=torch.float64)
target = torch.log_softmax(log_probs(Table(reference)) + reward / ALPHA, dim=0)


def divergence(policy: TablePolicy) -> float:
    """Return KL(p* ‖ p_θ) in nats."""
    return (target.exp() * (target - log_probs(policy.module))).sum().item()


# %% [markdown]
# ## Training: any likelihood, weights and baseline by name


# %%
def train(baseline: str, group: int, *, likelihood: str = "path", steps: int = 400) -> list[float]:
    """Return KL(p* ‖ p_θ) before training and after each quarter of it.

    Args:
        baseline: What is subtracted from the weights.
        group: N, rollouts of the one prompt there is.
        likelihood: Whose views weights and loss are taken on.
        steps: Gradient steps, F = 8 on each buffer.
    """
    policy = TablePolicy(reference)
    policy.freeze_reference()
    views = LIKELIHOODS.build(likelihood)
    parts = ObjectiveParts(
        likelihood=views,
        ratio_likelihood=views,
        weights=WEIGHTS.build("tilted", {"alpha": ALPHA}),
        baseline=BASELINES.build(baseline),
        updates_per_buffer=UPDATES,
        rows_per_forward=4096,
    )
    objective = DmpoObjective(DmpoConfig(), parts)
    sampler = SAMPLERS.build("roar", {"gen_length": LENGTH, "temperature": 1.0})
    optimizer = torch.optim.Adam(policy.module.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    prompts, source = policy.encode([Example(prompt="")]), torch.Generator().manual_seed(1)
    place, curve = VOCABULARY ** torch.arange(LENGTH).flip(0), [divergence(policy)]
    for step in range(steps):
        update = step % UPDATES
        if update == 0:
            rollouts = sampler.sample(policy, prompts, num_rollouts=group, generator=source)
            total = reward[(rollouts.completions * place).sum(-1)]
            rewards = Rewards(total=total, components={"reward": total})
            buffer = objective.prepare(policy, rollouts, rewards, source)
        batch = objective.draw(policy, buffer, source, update=update)
        optimizer.zero_grad()
        objective.loss(policy, batch).loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (steps // 4) == 0:
            curve.append(divergence(policy))
    return curve


# %% [markdown]
# ## What one sees
#
# With exact path likelihoods and a large group every baseline but `individual`, which leaves p* by
# design, comes near the target. In groups of 8 `none` stays far behind: every answer, good or bad,
# has a positive weight. The noise of the ELBO keeps training away from the target.

# %%
print("KL(p* ‖ p_θ) in nats, at the start and after each quarter of 400 steps")
for likelihood, baseline, group in (
    ("path", "none", 256),
    ("path", "mean", 256),
    ("path", "model", 256),
    ("path", "individual", 256),
    ("path", "none", 8),
    ("path", "mean", 8),
    ("path", "model", 8),
    ("elbo", "model", 256),
):
    curve = train(baseline, group, likelihood=likelihood)
    numbers = "  ".join(f"{value:.4f}" for value in curve)
    print(f"{likelihood:<5} {baseline:<11} N = {group:<4} {numbers}")
