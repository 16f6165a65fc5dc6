"""The picture of the live view: a short run of the sudoku recipe, drawn as it looked on the way.

    python benchmarks/live_picture.py docs/images/live.svg

Trains on a CPU for about a minute, into a folder that is gone afterwards.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from dmpo.config.assembly import build_light_parts, build_training_parts
from dmpo.config.layers import sourced
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run
from dmpo.files import replace_text
from dmpo.training.events import BufferFilled, Event, Started
from dmpo.training.live import LiveView
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trainer import Trainer

WIDTH, HEIGHT = 112, 32
SHOWN_AFTER = 0.8
"""How much of the run has passed."""
SECONDS_INTO_SAMPLE = 1.1
SETTINGS = {
    "weights": {"name": "tilted", "alpha": 0.05},
    "training": {"num_steps": 120, "evaluate_every": 40},
    "evaluation": {"num_examples": 64},
}
THEME = TerminalTheme(
    (24, 26, 31),
    (216, 219, 226),
    [
        (24, 26, 31),
        (224, 108, 117),
        (152, 195, 121),
        (229, 192, 123),
        (97, 175, 239),
        (198, 120, 221),
        (86, 182, 194),
        (171, 178, 191),
    ],
)


class Log:
    """Keeps what the run said."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)


def run() -> list[Event]:
    """Train, and return what the run said."""
    layers = [*recipe_chain("sudoku").layers, sourced(SETTINGS, "picture")]
    config = resolve_run(layers).config
    light = build_light_parts(config)
    log = Log()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            build_training_parts(config, light),
            config.training,
            seed=config.seed,
            run_directory=Path(folder) / "run",
            evaluator=light.evaluator,
            observers=[log],
            tracking=TrackingSettings(trackers=()),
        ).train()
    return log.events


def picture(events: list[Event]) -> str:
    """Return the screen as SVG."""
    console = Console(
        width=WIDTH,
        height=HEIGHT,
        record=True,
        force_terminal=True,
        color_system="standard",
        file=io.StringIO(),
    )
    now = 0.0
    view = LiveView(console, now=lambda: now)
    for event in events[: round(SHOWN_AFTER * len(events))]:
        if isinstance(event, BufferFilled):
            now += 60.0  # the rollout before has been seen to its end
        # Where it was is of no interest to anybody.
        view.notify(
            replace(event, run_directory=Path("runs/sudoku"))
            if isinstance(event, Started)
            else event
        )
    now += SECONDS_INTO_SAMPLE
    console.print(view.render())
    svg = console.export_svg(title="dmpo train", theme=THEME, unique_id="live")
    # Fonts are the reader's own: nothing is loaded from elsewhere.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="Where the SVG goes.")
    output = parser.parse_args().output
    replace_text(output, picture(run()))
    print(f"{output}: {output.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
