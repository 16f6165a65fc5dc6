"""The second half of a step: views are drawn, and the gradient of the loss is added up."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import final

import torch

from dmpo.objectives.base import Objective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, LossOutput, expand_rows
from dmpo.training.engine import Engine
from dmpo.training.micro_batches import MicroBatches
from dmpo.training.phases import PhaseMeter
from dmpo.training.randomness import group_generator, seed_for, seeded_dropout
from dmpo.training.regroup import on_device, pinned
from dmpo.training.rollout import flat_groups
from dmpo.training.settings import TrainingSettings

__all__ = ["Gradient"]


@final
class Gradient:
    """Turns a buffer into the gradient of one step.

    Args:
        policy: What is trained.
        objective: How rewards become a gradient.
        settings: Which rows take part, and how many at once.
        engine: The processes.
        meter: Books seconds and tokens of the draw and of the loss.
        seed: The run's.
    """

    def __init__(
        self,
        *,
        policy: DiffusionPolicy,
        objective: Objective,
        settings: TrainingSettings,
        engine: Engine,
        meter: PhaseMeter,
        seed: int,
    ) -> None:
        """Keep the parts."""
        self._policy = policy
        self._objective = objective
        self._settings = settings
        self._engine = engine
        self._meter = meter
        self._seed = seed
        self._micro_batches = MicroBatches(
            engine, policy, settings, can_cut_views=objective.is_sum_over_views
        )

    @property
    def sizes(self) -> tuple[int | None, int | None]:
        """Rows and views that were found to fit; None: as the settings say."""
        if not self._settings.auto_micro_batch:
            return None, None
        return self._micro_batches.rows, self._micro_batches.views

    def restore(self, rows: int | None, views: int | None) -> None:
        """Go on with sizes that were found before."""
        self._micro_batches.restore(rows, views)

    def add_up(
        self, experience: Experience, update: int, step: int
    ) -> tuple[Batch, dict[str, float]]:
        """Draw views and add up the gradients of the micro-batches.

        Args:
            experience: The buffer.
            update: Which of its F steps this is, from 0.
            step: Gradient steps taken.

        Returns:
            What the step looks at, and its losses.
        """
        policy, objective, settings = self._policy, self._objective, self._settings
        if settings.offload_buffers:
            experience = on_device(experience, policy.device)
        spare = _of_all(self._drawn(experience, update, step), self._engine)
        batch = self._kept(spare, experience)
        if settings.offload_buffers:
            batch, spare = pinned(batch), pinned(spare)
        dropout_seed = seed_for(self._seed, self._engine.rank, step, "dropout")

        def loss_of(piece: Batch) -> LossOutput:
            return objective.loss(policy, on_device(piece, policy.device))

        with self._meter.phase("loss"):
            losses = self._micro_batches.backward(
                batch,
                spare.rows(slice(1)),
                loss_of,
                lambda: seeded_dropout(dropout_seed, policy.device),
            )
        return batch, losses

    def _drawn(self, experience: Experience, update: int, step: int) -> Batch:
        """Make every draw of the step; the weights come together only where they are asked."""
        is_asked = self._objective.draw_asks_policy
        gathered = self._engine.weights.gathered() if is_asked else contextlib.nullcontext()
        prompts = experience.rollouts.prompts
        with gathered, self._meter.phase("draw"), torch.no_grad():
            return self._objective.draw(
                self._policy,
                experience,
                group_generator(self._seed, step, "draw", prompts),
                update=update,
            )

    def _kept(self, batch: Batch, experience: Experience) -> Batch:
        """Leave out the rows that the settings say may be."""
        settings = self._settings
        if settings.flat_groups == "skip":
            varied = expand_rows(~flat_groups(experience.rewards), settings.rollouts_per_prompt)
            batch = batch.kept(varied.to(batch.weights.device))
        if settings.skip_below > 0:
            batch = batch.kept(batch.weight_sizes >= settings.skip_below)
        return batch


def _of_all(batch: Batch, engine: Engine) -> Batch:
    """Return the batch with the counts of all processes, whose gradients' mean is taken."""
    if engine.num_ranks == 1:
        return batch
    counts = engine.gathered((batch.num_rows_in_buffer, batch.num_tokens_in_buffer))
    rows, tokens = (math.fsum(each) / len(counts) for each in zip(*counts, strict=True))
    return replace(batch, num_rows_in_buffer=rows, num_tokens_in_buffer=tokens)
