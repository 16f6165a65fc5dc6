"""The one loop that every sampler shares: *block loop = unmasking rule × forward pass*.

The canvas is cut into blocks that are filled from left to right. In each step the rule names
candidate positions of the current block, the forward pass returns logits there and nowhere
else, a token is drawn for each, and the rule says which of them to reveal. A rule is an
:class:`UnmaskingRule`, a way to run the model a :class:`ForwardPass` (``forward.py``): the
caches are forward passes, the confidence thresholds rules, and neither touches the loop.

One more axis than in :mod:`dmpo.records`: L, the positions of one block.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.diffusion.draws import substreams, uniforms_at
from dmpo.errors import ConfigError, PluginError
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.samplers.base import SamplerConfig
from dmpo.samplers.canvas import Canvas
from dmpo.samplers.draw import draw_tokens, entropies_at, tempered_log_probs
from dmpo.samplers.forward import ForwardPass

__all__ = [
    "BlockSamplerConfig",
    "BlockState",
    "Proposal",
    "Snapshot",
    "UnmaskingRule",
    "fill_canvas",
    "records_path",
]


class BlockSamplerConfig(SamplerConfig):
    """What every sampler that works block by block can be told."""

    block_length: PositiveInt | None = Field(
        None, description="Tokens per block, filled from left to right; unset: one block."
    )
    cache: Literal["none", "prefix", "dual"] = Field(
        "none",
        description="Keys and values kept for the length of a block: of what stands before it "
        "(prefix), or of all but the block (dual). Approximate, and faster.",
    )
    stop_at_eos: bool = Field(
        False,
        description="A row that has an EOS in a finished block is done and costs nothing more; EOS "
        "fills what is left, so no path is recorded. Off: all of the canvas is drawn.",
    )

    @property
    def block_size(self) -> int:
        """Tokens per block, L."""
        return self.block_length or self.gen_length

    @property
    def num_blocks(self) -> int:
        """Blocks on the canvas."""
        return self.gen_length // self.block_size

    @model_validator(mode="after")
    def _blocks_fill_the_canvas(self) -> BlockSamplerConfig:
        if self.gen_length % self.block_size:
            below = self.gen_length - self.gen_length % self.block_size
            nearest = " or ".join(str(n) for n in (below, below + self.block_size) if n)
            raise ValueError(
                f"block_length {self.block_size} does not divide gen_length {self.gen_length}; "
                f"it divides {nearest}"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockState:
    """What a rule knows of a block before the model is asked."""

    hidden: Bool[Tensor, "S L"]
    """True where no token is fixed yet."""
    order: Int[Tensor, "S L"]
    """Rank of each position in a uniformly random order, drawn once per row and block."""
    step: int
    """Step inside this block, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """The candidates of one step with a token drawn for each.

    Rows may have different numbers of candidates; the surplus slots are not ``valid`` and
    hold whatever a position outside the candidates gave.
    """

    logits: Float[Tensor, "S K V"]
    """Untempered logits at the candidates."""
    tokens: Int[Tensor, "S K"]
    """Tokens drawn there."""
    current: Int[Tensor, "S K"]
    """Tokens that stand there now (mask tokens where hidden)."""
    valid: Bool[Tensor, "S K"]
    """True on candidates."""
    hidden: Bool[Tensor, "S K"]
    """True on candidates where no token is fixed yet; the others are up for revision."""
    newly_revealed: Int[Tensor, " S"]
    """Tokens that the step before, inside this block, revealed in each row; 0 in the first."""
    step: int
    """Step inside this block, from 0."""


class UnmaskingRule(ABC):
    """Which positions are asked for, and which of them are revealed. Holds no changing state.

    Every step must reveal something in each row that still hides something; a step that reveals
    nothing at all is refused, as the loop would not end.
    """

    sees_tokens: ClassVar[bool]
    """Whether ``reveal`` looks at the drawn tokens (or revises old ones): then their
    log-probabilities do not add up to the path's, and none are recorded."""
    draws_order: ClassVar[bool] = False
    """Whether the order is drawn: then completions differ even at temperature 0."""

    @abstractmethod
    def candidates(self, state: BlockState) -> Bool[Tensor, "S L"]:
        """Return where logits are needed in this step.

        Mostly hidden positions. Naming a revealed one puts it up for revision: unless
        ``reveal`` names it again, it is hidden once more.
        """

    def num_slots(self, step: int, most_hidden: int) -> int | None:  # noqa: ARG002
        """Return how many candidates the row with most of them has, where no look tells more.

        Args:
            step: Step inside the block, from 0.
            most_hidden: Hidden positions of the row that has most.

        Returns:
            K, or None: then they are counted, for which the loop waits for the device.
        """
        return None

    @abstractmethod
    def reveal(self, proposal: Proposal) -> Bool[Tensor, "S K"]:
        """Return which candidates stand revealed after this step.

        Hidden ones take the drawn token; those that were revealed keep theirs.
        """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """The canvas after a step, for whoever watches."""

    completions: Int[Tensor, "S D"]
    """Tokens, mask tokens where hidden; all rows, also finished ones."""
    hidden: Bool[Tensor, "S D"]
    """True where no token is fixed yet."""
    num_forwards: int
    """Forward passes made so far."""


def fill_canvas(
    policy: DiffusionPolicy,
    prompts: Prompts,
    rule: UnmaskingRule,
    forward: ForwardPass,
    config: BlockSamplerConfig,
    *,
    num_rollouts: int,
    generator: torch.Generator,
    on_step: Callable[[Snapshot], None] | None = None,
) -> Rollouts:
    """Fill the canvas behind each prompt, block after block (LLaDA §2.4, Algorithm 5).

    Which positions are hidden is kept in a boolean tensor, so a model that draws the mask
    token itself does no harm. A row that hides nothing more of the block takes part in no
    further pass of it, and with ``stop_at_eos`` in none at all once a finished block has an EOS.

    Args:
        policy: The model; evaluation mode and no gradient for the time.
        prompts: B prompts.
        rule: Chooses positions.
        forward: Runs the model; one per call, as it may hold a cache.
        config: Lengths and temperature.
        num_rollouts: N, at least 1.
        generator: The only source of randomness. What a row draws depends on its group and its
            place in it alone (:mod:`dmpo.diffusion.draws`), not on the rows beside it.
        on_step: Told of the canvas before the first step and after each.

    Returns:
        Rollouts; ``log_probs`` where :func:`records_path` is true, ``entropies`` always: each of
        the untempered logits at the step that fixed the token for good, zero where
        ``stop_at_eos`` filled up.

    Raises:
        ConfigError: If N < 1, or prompt and canvas exceed the model's context.
        PluginError: If the rule reveals nothing in a step.
    """
    _check_fits(policy, prompts, config, num_rollouts)
    canvas = Canvas(policy, prompts, config.gen_length, num_rollouts)
    loop = _Loop(canvas, rule, forward, config, generator, on_step)
    with policy.evaluating():
        loop.tell()
        for start in range(0, config.gen_length, config.block_size):
            loop.fill_block(start)
            if config.stop_at_eos:
                canvas.retire_ended(start + config.block_size, forward=loop.num_forwards - 1)
        return canvas.rollouts(config.temperature, loop.num_forwards, is_exact=loop.is_exact)


def records_path(rule: UnmaskingRule, config: BlockSamplerConfig, *, is_exact: bool) -> bool:
    """Return whether the log-probabilities of the drawn tokens are those of the path.

    So they are if the rule is blind to the drawn tokens, the temperature is greater than 0,
    the logits are the policy's own, and no EOS is written that nobody drew.

    Args:
        rule: Chooses positions.
        config: Temperature and what happens at EOS.
        is_exact: Whether the forward pass returns the policy's own logits.
    """
    return is_exact and not rule.sees_tokens and config.temperature > 0 and not config.stop_at_eos


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the host must know of a step before the model runs."""

    num_open: int
    """Rows that still hide something of the block."""
    most_hidden: int
    """Hidden positions of the row that has most."""
    has_equal_rows: bool
    """Whether some row is what the one before it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Turn:
    """The rows of one step, and what is known of them."""

    rows: Int[Tensor, " S"]
    """Rows of the canvas."""
    state: BlockState
    """The block before the step."""
    start: int
    """First position of the block on the canvas."""
    newly_revealed: Int[Tensor, " S"]
    """Tokens that the step before revealed."""
    streams: Int[Tensor, " S"]
    """Where each row's numbers of this step come from."""
    facts: _Facts
    """What the host knows."""


@final
class _Loop:
    """The steps of one call, block by block."""

    def __init__(
        self,
        canvas: Canvas,
        rule: UnmaskingRule,
        forward: ForwardPass,
        config: BlockSamplerConfig,
        generator: torch.Generator,
        on_step: Callable[[Snapshot], None] | None,
    ) -> None:
        self._canvas = canvas
        self._rule = rule
        self._forward = forward
        self._config = config
        self._streams = canvas.streams(generator)
        self._on_step = on_step
        self.num_forwards = 0
        self.is_exact = records_path(rule, config, is_exact=forward.is_exact)

    def tell(self) -> None:
        """Show the canvas as it is to whoever watches."""
        if self._on_step is not None:
            completions, hidden = self._canvas.completions.clone(), self._canvas.hidden.clone()
            self._on_step(
                Snapshot(completions=completions, hidden=hidden, num_forwards=self.num_forwards)
            )

    def fill_block(self, start: int) -> None:
        """Take steps until no row hides anything between ``start`` and the block's end."""
        canvas, end = self._canvas, start + self._config.block_size
        rows = canvas.live_rows
        streams = substreams(self._streams[rows], start)
        order = _random_order(substreams(streams, 0), end - start)
        newly_revealed = torch.zeros_like(rows)
        for step in itertools.count():
            hidden = canvas.hidden[rows, start:end]
            facts = self._facts(rows, hidden, newly_revealed, step)
            if facts.num_open == 0:
                return
            if facts.num_open < len(rows):
                at = hidden.any(dim=1).nonzero().squeeze(1)
                rows, order, streams = rows[at], order[at], streams[at]
                newly_revealed, hidden = newly_revealed[at], hidden[at]
            newly_revealed = self._step(
                _Turn(
                    rows=rows,
                    state=BlockState(hidden=hidden, order=order, step=step),
                    start=start,
                    newly_revealed=newly_revealed,
                    streams=substreams(streams, step + 1),
                    facts=facts,
                )
            )
            self.tell()

    def _facts(
        self,
        rows: Int[Tensor, " S"],
        hidden: Bool[Tensor, "S L"],
        newly_revealed: Int[Tensor, " S"],
        step: int,
    ) -> _Facts:
        """Ask the device the one time in a step that it is waited for.

        Raises:
            PluginError: If the step before revealed nothing.
        """
        if not len(rows):
            return _Facts(num_open=0, most_hidden=0, has_equal_rows=False)
        num_hidden = hidden.sum(dim=1)
        answers = (
            (num_hidden > 0).sum(),
            num_hidden.max(),
            self._canvas.equal_rows(rows),
            newly_revealed.any(),
        )
        num_open, most_hidden, has_equal_rows, has_moved = torch.stack(
            [answer.long() for answer in answers]
        ).tolist()
        if step > 0 and not has_moved:
            raise PluginError(
                f"sampler: {type(self._rule).__name__} revealed no token in step {step - 1} of a "
                "block; every step must reveal at least one, or the loop does not end."
            )
        return _Facts(
            num_open=num_open, most_hidden=most_hidden, has_equal_rows=bool(has_equal_rows)
        )

    def _step(self, turn: _Turn) -> Int[Tensor, " S"]:
        """Ask the model once, reveal, and return how many tokens each row has revealed."""
        canvas, config, rows, start, state = (
            self._canvas,
            self._config,
            turn.rows,
            turn.start,
            turn.state,
        )
        candidates = self._rule.candidates(state)
        num_slots = self._rule.num_slots(state.step, turn.facts.most_hidden)
        if num_slots is None:
            num_slots = int(candidates.sum(dim=1).max())
        at, valid = _positions(candidates, num_slots)
        block = (start, start + config.block_size)
        logits = self._forward.logits(
            canvas.step_input(
                rows,
                at + start,
                valid,
                block=block,
                step=state.step,
                has_equal_rows=turn.facts.has_equal_rows,
            )
        )
        numbers = uniforms_at(turn.streams, at) if config.temperature > 0 else None
        tokens = draw_tokens(logits, config.temperature, numbers)
        revealed = self._rule.reveal(
            Proposal(
                logits=logits,
                tokens=tokens,
                current=canvas.completions[rows[:, None], at + start],
                valid=valid,
                hidden=state.hidden.gather(1, at) & valid,
                newly_revealed=turn.newly_revealed,
                step=state.step,
            )
        )
        is_new = canvas.write(
            rows, at + start, tokens, valid=valid, revealed=revealed, forward=self.num_forwards
        )
        canvas.record_entropies(rows, at + start, entropies_at(logits, is_new), is_new)
        if self.is_exact:
            log_probs = tempered_log_probs(logits, tokens, config.temperature)
            canvas.record(rows, at + start, log_probs, is_new)
        self.num_forwards += 1
        return is_new.sum(dim=1)


def _random_order(streams: Int[Tensor, " S"], length: int) -> Int[Tensor, "S L"]:
    places = torch.arange(length, device=streams.device).expand(len(streams), -1)
    return uniforms_at(streams, places).argsort(dim=1).argsort(dim=1)


def _positions(
    candidates: Bool[Tensor, "S L"], num_slots: int
) -> tuple[Int[Tensor, "S K"], Bool[Tensor, "S K"]]:
    """Return the candidates' positions, ascending in each row, padded to the longest row."""
    counts = candidates.sum(dim=1)
    at = candidates.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :num_slots]
    slots = torch.arange(num_slots, device=candidates.device)
    return at, slots < counts[:, None]


def _check_fits(
    policy: DiffusionPolicy, prompts: Prompts, config: BlockSamplerConfig, num_rollouts: int
) -> None:
    if num_rollouts < 1:
        raise ConfigError(f"num_rollouts: {num_rollouts} given; at least 1 is accepted.")
    prompt_length = int(prompts.attention_mask.sum(dim=1).max())
    if prompt_length + config.gen_length > policy.max_length:
        raise ConfigError(
            f"gen_length: {config.gen_length} behind a prompt of {prompt_length} tokens given; "
            f"the model's context of {policy.max_length} leaves "
            f"{max(0, policy.max_length - prompt_length)}."
        )
