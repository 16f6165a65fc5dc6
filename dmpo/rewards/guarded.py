"""A reward model under a time limit, whose failures name themselves or count as missing."""

from __future__ import annotations

from typing import Literal, final

from dmpo.errors import ConfigError, RewardError
from dmpo.records import Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.rewards.running import merged_rows, row_name, row_of, run_rows, run_within
from dmpo.tasks.base import Task

__all__ = ["GuardedReward"]

OnError = Literal["stop", "missing"]


@final
class GuardedReward(RewardModel):
    """Another reward model, given a time limit and a rule for its failures.

    Made by the assembly of a run from ``timeout`` and ``on_error`` of a reward, so it has a
    constructor of its own and no name in the registry. A buffer that fails, or takes too long,
    is scored once more row by row, within the same time, to find the row: with ``stop`` to name
    it, with ``missing`` to keep the others. So a reward that compares the rollouts of a group
    has, on such a buffer, only one to look at.

    Args:
        name: What messages call the reward.
        reward: What is guarded.
        timeout: Seconds for a buffer; None: no limit.
        on_error: ``stop`` ends the run; ``missing``: the rows that fail are missing.

    Raises:
        ConfigError: If the time is not above 0.
    """

    Config = PluginConfig

    def __init__(
        self, name: str, reward: RewardModel, *, timeout: float | None, on_error: OnError
    ) -> None:
        """Keep the parts."""
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"rewards: timeout of {name} must be above 0 s; given {timeout:g}.")
        self.name = name
        self.reward = reward
        self.timeout = timeout
        self.on_error = on_error

    def begin_step(self, step: int) -> None:
        """Tell the guarded reward."""
        self.reward.begin_step(step)

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        """Score within the limit.

        Raises:
            RewardError: With ``stop``, if the reward raises or takes too long; it names the
                reward, the row and what was raised.
        """
        try:
            return run_within(self.timeout, lambda: self.reward.score(rollouts, task))
        except (Exception, SystemExit) as error:  # whatever a user's code may raise
            if isinstance(error, RewardError) and self.on_error == "stop":
                raise  # it has named the row
            failure = error
        rows = run_rows(
            self.timeout,
            lambda row: self.reward.score(row_of(rollouts, row), task),
            rollouts.num_rows,
        )
        if self.on_error == "stop":
            raise self._error(failure, rows, rollouts) from failure
        scored = [row if isinstance(row, Rewards) else None for row in rows]
        return merged_rows(scored, self.name, rollouts.num_rollouts)

    def _error(
        self, failure: BaseException, rows: list[Rewards | Exception | None], rollouts: Rollouts
    ) -> RewardError:
        said = f"{type(failure).__name__}: {failure}"
        for row, result in enumerate(rows):
            if not isinstance(result, Rewards):
                where = row_name(row, rollouts.num_rollouts)
                alone = "no answer" if result is None else f"{type(result).__name__}: {result}"
                return RewardError(
                    f"reward {self.name}: {said} for {rollouts.num_rows} rollouts; called row by "
                    f"row, {where}: {alone}"
                )
        return RewardError(
            f"reward {self.name}: {said} for {rollouts.num_rows} rollouts, though for none of "
            "them alone."
        )
