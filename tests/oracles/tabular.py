"""A policy small enough to know everything about: vocabulary 3, D = 4, one logit per case.

81 responses, 16 sets of hidden tokens, 24 orders: whatever is an expectation elsewhere is a sum
here. The table holds the logits of every partially masked state, so nothing ties them together:
in general p(o; σ) differs from order to order. ``consistent_table`` ties them to one joint
distribution.

A stack of tables is as many problems in one policy: the prompt is one token, the problem's
number, and no parameter belongs to two of them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts, Rollouts
from dmpo.registry import PluginConfig
from tests.oracles.records import rollouts_of

VOCABULARY = 3
LENGTH = 4
MASK = 3
NUM_STATES = (VOCABULARY + 1) ** LENGTH
RESPONSES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
ORDERS = torch.tensor(list(itertools.permutations(range(LENGTH))))
SUBSETS = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
PROMPT = torch.zeros(1, 1, dtype=torch.long)


def state_index(canvas: Tensor) -> Tensor:
    """Return the row of the table that belongs to each canvas [rows, 4]."""
    return (canvas * (VOCABULARY + 1) ** torch.arange(LENGTH)).sum(-1)


class _Table(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.double().clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the row of each canvas [rows, 4], or of each problem and canvas [rows, 1 + 4]."""
        row = state_index(tokens[:, -LENGTH:])
        if self.logits.dim() == 4:
            row = row + NUM_STATES * tokens[:, 0]
        flat = self.logits.reshape(-1, LENGTH * VOCABULARY)
        return nn.functional.embedding(row, flat).unflatten(-1, (LENGTH, VOCABULARY))


class TabularConfig(PluginConfig):
    """Nothing to set."""


class TabularPolicy(DiffusionPolicy):
    """π_θ(o_d | õ): a softmax of the table's row for õ.

    The prompt is looked at by a stack of tables alone: it says which one answers.
    """

    Config = TabularConfig
    mask_token_id = MASK
    eos_token_id = 4
    pad_token_id = 5
    vocab_size = VOCABULARY
    max_length = 64

    def __init__(self, table: Tensor) -> None:
        self.forward_tokens = 0
        self._module: nn.Module = _Table(table)
        self._reference: nn.Module | None = None

    @property
    def table(self) -> nn.Parameter:
        return self._module.logits

    @property
    def module(self) -> nn.Module:
        return self._module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._module = module

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def logits(self, tokens, attention_mask, at):
        self.forward_tokens += tokens.numel()
        canvas = at - (tokens.shape[1] - LENGTH)
        rows = self._module(tokens)
        return rows.gather(1, canvas.unsqueeze(-1).expand(-1, -1, VOCABULARY)).float()

    def token_logprobs(self, noisy, attention_mask, targets, where, *, temperature=1.0):
        self.forward_tokens += noisy.numel()
        assert not where[:, :-LENGTH].any()
        log_probs = torch.log_softmax(self._module(noisy) / temperature, dim=-1)
        chosen = log_probs.gather(-1, targets[:, -LENGTH:].unsqueeze(-1)).squeeze(-1)
        scores = chosen * where[:, -LENGTH:]
        return torch.cat([scores.new_zeros(where[:, :-LENGTH].shape), scores], dim=1)

    def corrupt(self, tokens, where):
        return tokens.masked_fill(where, MASK)

    def freeze_reference(self) -> None:
        self._reference = copy.deepcopy(self._module)

    @contextmanager
    def reference(self) -> Iterator[None]:
        assert self._reference is not None
        active, self._module = self._module, self._reference
        try:
            yield
        finally:
            self._module = active

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        training = self._module.training
        self._module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._module.train(training)

    def encode(self, examples: Sequence[Example]) -> Prompts:
        tokens = torch.tensor([[example.columns.get("problem", 0)] for example in examples])
        mask = torch.ones_like(tokens, dtype=torch.bool)
        return Prompts(examples=tuple(examples), tokens=tokens, attention_mask=mask)

    def encode_completions(self, texts, length):
        return torch.tensor([[int(letter) for letter in text] for text in texts])

    def decode(self, completions):
        return ["".join(map(str, row)) for row in completions.tolist()]

    def describe(self) -> str:
        return "a table"

    def save(self, directory: Path) -> None:
        torch.save(self._module.state_dict(), directory / "table.pt")

    def load_weights(self, directory: Path) -> None:
        self._module.load_state_dict(torch.load(directory / "table.pt"))


def random_table(seed: int, scale: float = 1.0) -> Tensor:
    """Return a table whose orders disagree with each other."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_STATES, LENGTH, VOCABULARY)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def random_joint(seed: int, scale: float = 1.0) -> Tensor:
    """Return a random distribution over the 81 responses."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(RESPONSES), generator=generator, dtype=torch.float64)
    return torch.softmax(logits, dim=0)


def consistent_table(joint: Tensor) -> Tensor:
    """Return the table whose every conditional is that of one joint distribution [81]."""
    place = (VOCABULARY + 1) ** torch.arange(LENGTH)
    canvases = torch.arange(NUM_STATES).unsqueeze(-1) // place % (VOCABULARY + 1)
    visible = canvases != MASK
    agrees = ((canvases.unsqueeze(1) == RESPONSES) | ~visible.unsqueeze(1)).all(-1)
    tokens = torch.nn.functional.one_hot(RESPONSES, VOCABULARY).double()
    mass = torch.einsum("so,o,odv->sdv", agrees.double(), joint, tokens)
    return torch.log(mass.clamp(min=1e-300))


def all_rollouts() -> Rollouts:
    """Return one group that holds each of the 81 responses once."""
    return rollouts_of(PROMPT, RESPONSES.unsqueeze(0))


def subset_log_probs(policy: TabularPolicy, responses: Tensor = RESPONSES) -> Tensor:
    """Return log π(o_d | õ_S) of hidden tokens, zero elsewhere: [16, responses, 4]."""
    scores = []
    for hidden in SUBSETS:
        log_probs = torch.log_softmax(policy.module(responses.masked_fill(hidden, MASK)), dim=-1)
        scores.append(log_probs.gather(-1, responses.unsqueeze(-1)).squeeze(-1) * hidden)
    return torch.stack(scores)


def path_log_probs(policy: TabularPolicy, responses: Tensor = RESPONSES) -> Tensor:
    """Return log p(o; σ) for every order and response: [24, responses]."""
    scores = subset_log_probs(policy, responses)
    totals = []
    for order in ORDERS.tolist():
        # The set before each step is what the rest of the order holds, as a binary number.
        sets = [sum(2 ** (LENGTH - 1 - p) for p in order[step:]) for step in range(LENGTH)]
        totals.append(scores[sets, :, order].sum(0))
    return torch.stack(totals)


def log_probs(policy: TabularPolicy) -> Tensor:
    """Return log p(o), the mean over orders (DMPO Eq. 1): [81]."""
    return torch.logsumexp(path_log_probs(policy), dim=0) - math.log(len(ORDERS))


def target_log_probs(reference: Tensor, rewards: Tensor, alpha: float) -> Tensor:
    """Return log p* from log p_ref and r, over all responses (DMPO Eq. 5)."""
    return torch.log_softmax(reference + rewards / alpha, dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p ‖ q) in nats."""
    return (log_p.exp() * (log_p - log_q)).sum()


def sample_paths(
    policy: TabularPolicy, num_rollouts: int, generator: torch.Generator, temperature: float = 1.0
) -> Rollouts:
    """Return one group drawn in random orders, one token a step, with its path recorded."""
    noise = torch.rand(num_rollouts, LENGTH, generator=generator)
    order = noise.argsort(-1)
    canvas = torch.full((num_rollouts, LENGTH), MASK)
    recorded = torch.zeros(num_rollouts, LENGTH, dtype=torch.float64)
    rows = torch.arange(num_rollouts)
    for step in range(LENGTH):
        place = order[:, step]
        with torch.no_grad():
            scores = torch.log_softmax(policy.module(canvas)[rows, place] / temperature, dim=-1)
        token = torch.multinomial(scores.exp(), 1, generator=generator)
        recorded[rows, place] = scores.gather(-1, token).squeeze(-1)
        canvas[rows, place] = token.squeeze(-1)
    return rollouts_of(
        PROMPT,
        canvas.unsqueeze(0),
        commit_step=order.argsort(-1).unsqueeze(0),
        log_probs=recorded.unsqueeze(0),
        temperature=temperature,
    )
