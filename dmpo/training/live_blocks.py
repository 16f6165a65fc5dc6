"""The figures of a run as lines of text, a block for each of the things they are about.

Pure functions: none looks at a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from dmpo.training.events import UnmaskedSample
from dmpo.training.live_state import TRAINING_PHASES, Measured, RunState
from dmpo.training.live_text import (
    Glyphs,
    folded_pieces,
    histogram,
    number,
    sample_pieces,
    sparkline,
)

__all__ = ["Block", "cut", "figure_blocks", "history_lines", "sample_block"]

LABEL = 16
"""Columns of a figure's name."""
VALUE = 10
"""Columns of the figure."""
WIDEST_HISTOGRAM = 32

PHASE_STYLES: Mapping[str, str] = {
    "rollout": "cyan",
    "reward": "yellow",
    "prepare": "magenta",
    "draw": "blue",
    "loss": "green",
    "optimizer": "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Figures that belong together."""

    title: str
    """What they are about."""
    lines: tuple[Text, ...]
    """The most telling first."""
    brief: tuple[Text, ...] | None = None
    """In place of all lines where there is no room for them; None: the first of them."""

    def shown(self, limit: int) -> tuple[Text, ...]:
        """Return at most ``limit`` lines."""
        if self.brief is not None and len(self.lines) > limit:
            return self.brief[:limit]
        return self.lines[:limit]


def figure_blocks(state: RunState, *, width: int, glyphs: Glyphs) -> list[Block]:
    """Return what there is to say in figures, in the order in which it matters.

    Args:
        state: What is known.
        width: Columns of a line.
        glyphs: What the terminal can write.
    """
    found = [
        Block(title="reward", lines=tuple(_reward_lines(state, width, glyphs))),
        Block(title="weights", lines=tuple(_weight_lines(state, width, glyphs))),
        Block(title="rollouts", lines=tuple(_rollout_lines(state, width, glyphs))),
        Block(title="optimizer", lines=tuple(_optimizer_lines(state, width, glyphs))),
        Block(
            title="time",
            lines=tuple(_time_bars(state, width, glyphs)),
            brief=tuple(_time_brief(state, width, glyphs)),
        ),
    ]
    return [block for block in found if block.lines]


def sample_block(
    state: RunState, *, width: int, limit: int, glyphs: Glyphs, frame: int | None = None
) -> Block | None:
    """Return a rollout as it is being unmasked; None if there is none yet.

    Args:
        state: What is known.
        width: Columns of a line.
        limit: Lines at most.
        glyphs: What the terminal can write.
        frame: Tokens of earlier denoising steps are there; None: all are, and none is new.
    """
    sample = state.sample
    if sample is None:
        return None
    parts = ["a rollout", f"reward {number(sample.reward)}"]
    if state.sample_weight is not None:
        parts.append(f"weight {number(state.sample_weight)}")
    return Block(
        title=f" {glyphs.dot} ".join(parts),
        lines=tuple(_sample_lines(sample, width, limit, glyphs, frame)),
    )


def history_lines(state: RunState, *, width: int, glyphs: Glyphs) -> Iterator[Text]:
    """Yield what a run has come to: each figure's first value, its last, and the way there."""
    names = {
        "reward/mean": "reward",
        **_components(state),
        "weights/ess": "ESS",
        "rollout/entropy": "entropy",
        "rollout/unique_right_answers": "distinct right",
        "rollout/pass_at_n": f"pass@{state.group_size or 'N'}",
    }
    for name, label in names.items():
        yield from _moved(state, name, label, width, glyphs)
    if state.evaluations:
        yield from _evaluation_lines(state.evaluations, width)
    yield from list(_time_brief(state, width, glyphs))[:1]


def _figure(
    label: str,
    value: str,
    width: int,
    *,
    trend: str = "",
    style: str = "bold",
) -> Text:
    """Return a line: name, figure, and what fits of a trend."""
    line = Text.assemble((f"{label:<{LABEL}}"[: max(LABEL, len(label))], "dim"), (value, style))
    if trend:
        line.append(" " * max(1, LABEL + VALUE - len(line)))
        line.append(trend, "cyan")
    return cut(line, width)


def _trend(
    state: RunState, name: str, label: str, width: int, glyphs: Glyphs, unit: str = ""
) -> list[Text]:
    """Return a line for a figure with its sparkline; none if the run does not have it."""
    value = state.metrics.get(name)
    if value is None:
        return []
    text = f"{number(value)}{unit}"
    room = width - max(LABEL + VALUE, LABEL + len(text) + 1)
    history = state.history.get(name, ())
    trend = sparkline(history, room, glyphs.levels) if room > 3 and len(history) > 1 else ""
    return [_figure(label, text, width, trend=trend)]


def _reward_lines(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    yield from _trend(state, "reward/mean", "total", width, glyphs)
    for name, label in _components(state).items():
        yield from _trend(state, name, label, width, glyphs)
    if state.evaluations:
        yield from _evaluation_lines(state.evaluations, width)
    shares = {"reward/flat_groups": "groups without spread", "reward/missing": "without a reward"}
    for name, label in shares.items():
        if share := state.metrics.get(name, 0.0):
            yield cut(Text.assemble((f"{share:.0%}", "bold"), (f" {label}", "dim")), width)


def _components(state: RunState) -> dict[str, str]:
    """Return the named parts of the reward by metric; none if the total says it all."""
    start = "reward/component/"
    names = [name for name in state.metrics if name.startswith(start)]
    total = state.metrics.get("reward/mean")
    if len(names) == 1 and state.metrics[names[0]] == total:
        return {}
    return {name: _short(name.removeprefix(start), LABEL - 1) for name in names}


def _evaluation_lines(evaluations: Sequence[Measured], width: int) -> Iterator[Text]:
    first, last = evaluations[0], evaluations[-1]
    figure, room = last.figure, width - LABEL
    found = f"{figure.mean:.3f}"
    yield _figure(
        _short(last.name, LABEL - 1),
        _fitting(room, f"{found} [{figure.low:.3f}, {figure.high:.3f}]", found),
        width,
    )
    if len(evaluations) > 1:
        moved = figure.mean - first.figure.mean
        style = "bold green" if moved > 0 else "bold red" if moved < 0 else "bold"
        start = f"{moved:+.3f} from step {first.step}"
        yield _figure("", _fitting(room, f"{start} to {last.step}", start), width, style=style)


def _fitting(room: int, text: str, shorter: str) -> str:
    return text if len(text) <= room else shorter


def _weight_lines(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    metrics = state.metrics
    yield from _trend(state, "weights/ess", "ESS, share of N", width, glyphs)
    if state.weights:
        low, high = number(min(state.weights)), number(max(state.weights))
        room = min(WIDEST_HISTOGRAM, width - LABEL - len(low) - len(high) - 2)
        line = Text.assemble((f"{'weight':<{LABEL}}", "dim"), (low, "bold"), " ")
        if room > 3:
            line.append(histogram(state.weights, room, glyphs.levels), "cyan")
        else:
            line.append("to")
        line.append(" ").append(high, "bold")
        yield cut(line, width)
    if "weights/real_max" in metrics:
        low, high = (number(metrics[f"weights/real_{end}"]) for end in ("min", "max"))
        yield _figure("real weight", f"{low} to {high}", width)
    yield from _noise_lines(metrics, width)
    kept = metrics.get("weights/kept", 1.0)
    if kept < 1:
        yield _figure("rows kept", f"{kept:.0%}", width)
    if "weights/coefficient" in metrics:
        yield _figure("coefficient c", number(metrics["weights/coefficient"]), width)


def _noise_lines(metrics: Mapping[str, float], width: int) -> Iterator[Text]:
    """Yield the noise of the log-ratio beside what it should be small against."""
    noise, spread = (
        metrics.get(f"log_ratio/{name}") for name in ("standard_error", "reward_spread")
    )
    if noise is None or spread is None:
        return
    wins = noise > spread > 0
    text = f"{number(noise)} {'>' if noise > spread else '<'} {number(spread)} nats"
    line = _figure("noise, spread", text, width, style="bold red" if wins else "bold")
    if wins:
        line.append(" ").append(" NOISE WINS ", "bold reverse red")
    yield cut(line, width)


def _rollout_lines(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    size = state.group_size or "N"
    yield from _trend(state, "rollout/entropy", "entropy", width, glyphs)
    yield from _trend(state, "rollout/unique_right_answers", "distinct right", width, glyphs)
    yield from _trend(state, "rollout/pass_at_n", f"pass@{size}", width, glyphs)
    yield from _trend(state, "rollout/right", "right", width, glyphs)
    yield from _trend(state, "rollout/unique_answers", "distinct", width, glyphs)
    if "rollout/length" in state.metrics:
        length, unreadable = (state.metrics[f"rollout/{name}"] for name in ("length", "unreadable"))
        yield _figure("answer", f"{number(length)} tokens, {unreadable:.0%} unreadable", width)


def _optimizer_lines(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    yield from _trend(state, "loss/total", "loss", width, glyphs)
    yield from _trend(state, "optimizer/gradient_norm", "gradient norm", width, glyphs)
    yield from _trend(state, "drift/kl_reference", "KL, reference", width, glyphs)
    if skipped := state.metrics.get("optimizer/skipped_steps", 0.0):
        yield _figure("skipped steps", number(skipped), width, style="bold yellow")
    if "optimizer/learning_rate" in state.metrics:
        yield _figure("learning rate", number(state.metrics["optimizer/learning_rate"]), width)
    if "tokens/per_second" in state.metrics:
        yield _figure("model tokens/s", number(state.metrics["tokens/per_second"]), width)


def _shares(state: RunState) -> dict[str, float]:
    whole = sum(state.seconds.values())
    return {name: value / whole for name, value in state.seconds.items()} if whole else {}


def _time_bars(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    room = max(1, width - 15)
    for phase, share in _shares(state).items():
        bar = glyphs.full * (round(share * room) or (1 if share > 0.001 else 0))
        line = Text.assemble((f"{phase:<10}", "dim"), (f"{share:4.0%} ", "bold"))
        yield cut(line.append(bar, PHASE_STYLES[phase]), width)


def _time_brief(state: RunState, width: int, glyphs: Glyphs) -> Iterator[Text]:
    """Yield what the phases are, the longest first, and one bar that they share."""
    shares = _shares(state)
    if not shares:
        return
    names, bar = Text(), Text()
    looks: dict[str, str] = dict(zip(TRAINING_PHASES, glyphs.shades, strict=True))
    for phase, share in sorted(shares.items(), key=lambda item: -item[1]):
        part = f"{looks[phase]} {phase} {share:.0%}"
        if len(names) + len(part) <= width:
            names.append(part[: -len(f"{share:.0%}")], PHASE_STYLES[phase])
            names.append(f"{share:.0%}  ", "bold")
    end, so_far = 0, 0.0
    for phase in TRAINING_PHASES:
        so_far += shares[phase]
        start, end = end, round(so_far * width)
        bar.append(looks[phase] * (end - start), PHASE_STYLES[phase])
    yield cut(names, width)
    yield cut(bar, width)


def _sample_lines(
    sample: UnmaskedSample, width: int, limit: int, glyphs: Glyphs, frame: int | None
) -> Iterator[Text]:
    last = max(sample.commit_steps, default=0) + 1
    pieces = sample_pieces(sample, last + 1 if frame is None else frame, glyphs.hidden)
    prompt = (sample.prompt.strip().splitlines() or [""])[-1]
    if limit > 1:
        yield cut(Text.assemble(("prompt  ", "dim"), prompt), width)
    yield from folded_pieces(pieces, width, max(1, limit - 1))


def _moved(state: RunState, name: str, label: str, width: int, glyphs: Glyphs) -> list[Text]:
    """Return a line from a figure's first value to its last."""
    if name not in state.metrics:
        return []
    text = f"{number(state.first[name])} {glyphs.arrow} {number(state.metrics[name])}"
    room = width - LABEL - 20
    history = state.history.get(name, ())
    line = Text.assemble((f"{label:<{LABEL}}", "dim"), (f"{text:<20}", "bold"))
    if room > 3 and len(history) > 1:
        line.append(sparkline(history, room, glyphs.levels), "cyan")
    return [cut(line, width)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width]


def cut(text: Text, width: int) -> Text:
    """Return a line that is no longer than the terminal is wide."""
    text.no_wrap = True
    text.truncate(width, overflow="crop")
    return text
