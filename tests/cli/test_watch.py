from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading

import pytest
import torch
from rich.console import Console

from dmpo.cli.main import main
from dmpo.cli.watch import CanvasView, summary
from dmpo.config.generation import Completed, Completer
from dmpo.config.overrides import command_line_layer
from dmpo.config.resolve import resolve_generate
from dmpo.policies.base import DiffusionPolicy
from dmpo.samplers.block_loop import Snapshot
from tests.cli.command import SCRATCH

CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """A clock that stands still unless somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def completer() -> Completer:
    sets = (SCRATCH, "sampler.gen_length=8", "sampler.block_length=4")
    return Completer(resolve_generate([command_line_layer(sets)]).config, is_watched=True)


def terminal(width: int = 80, height: int = 24) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    return Console(file=file, force_terminal=True, width=width, height=height, _environ={})


def said(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.TextIOWrapper)
    file.seek(0)
    return file.read()


def view(console: Console, policy: DiffusionPolicy, clock: Clock, **options: bool) -> CanvasView:
    return CanvasView(
        console, policy, block_size=4, now=clock, sleep=clock.sleep, title="3/5 12\n3", **options
    )


def snapshot(policy: DiffusionPolicy, text: str, passes: int) -> Snapshot:
    """Return the canvas of one row; a question mark is hidden."""
    hidden = torch.tensor([[character == "?" for character in text]])
    completions = policy.encode_completions([text.replace("?", "0")], len(text))
    completions = completions.masked_fill(hidden, policy.mask_token_id)
    return Snapshot(completions=completions, hidden=hidden, num_forwards=passes)


def test_canvas_and_figures_follow_the_steps(completer: Completer) -> None:
    console, clock = terminal(), Clock()
    canvas, shown = view(console, completer.policy, clock), []
    for passes, text in enumerate(("????????", "1?2?????", "1324????", "13245???")):
        clock.now += 0.5
        canvas.on_step(snapshot(completer.policy, text, passes))
        with console.capture() as captured:
            console.print(canvas.render())
        shown.append(CONTROL_CODES.sub("", captured.get()).splitlines())
    assert [lines[0] for lines in shown] == ["3/5 12 3"] * 4
    assert [lines[1] for lines in shown] == ["░░░░░░░░", "1░2░░░░░", "1324░░░░", "13245░░░"]
    assert shown[0][2] == (
        "step 0 of block 1/2  passes 0  tokens 0  per pass 0.00  0.0 s  0 tokens/s"
    )
    assert shown[2][2].startswith("step 2 of block 1/2  passes 2  tokens 4  per pass 2.00")
    assert shown[3][2].startswith("step 1 of block 2/2  passes 3  tokens 5  per pass 1.67")


def test_time_that_drawing_takes_is_left_out(completer: Completer) -> None:
    clock = Clock()
    canvas = view(terminal(), completer.policy, clock)
    for passes, text in enumerate(("????", "1???", "12??")):
        clock.now += 1.0
        canvas.on_step(snapshot(completer.policy, text, passes))
    assert canvas.seconds == pytest.approx(2.0)
    assert clock.now == pytest.approx(3.0 + 3 * 0.04)


def test_block_is_that_of_the_slowest_row(completer: Completer) -> None:
    canvas = view(console := terminal(), completer.policy, Clock())
    for passes, rows in enumerate((["????????"] * 2, ["1234????", "1???????"], ["1234????"] * 2)):
        each = [snapshot(completer.policy, row, passes) for row in rows]
        canvas.on_step(
            Snapshot(
                completions=torch.cat([one.completions for one in each]),
                hidden=torch.cat([one.hidden for one in each]),
                num_forwards=passes,
            )
        )
    with console.capture() as captured:
        console.print(canvas.render())
    assert "step 2 of block 1/2" in captured.get()


def test_terminal_is_left_as_it_was(completer: Completer) -> None:
    console, clock = terminal(), Clock()
    with view(console, completer.policy, clock) as canvas:
        completer.complete(["1"], on_step=canvas.on_step)
    shown = said(console)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    # As many lines are taken back at the end as the last frame had.
    assert shown.endswith("\x1b[1A\x1b[2K" * 3)


def test_canvas_stays_where_it_was_interrupted(completer: Completer) -> None:
    console = terminal()
    with (
        contextlib.suppress(KeyboardInterrupt),
        view(console, completer.policy, Clock()) as canvas,
    ):
        canvas.on_step(snapshot(completer.policy, "12??", 1))
        raise KeyboardInterrupt
    assert said(console).endswith("\n\x1b[?25h")


def test_canvas_that_is_not_drawn_keeps_the_time_and_says_nothing(completer: Completer) -> None:
    console, clock = terminal(), Clock()
    with view(console, completer.policy, clock, is_drawn=False) as canvas:
        for passes, text in enumerate(("????", "1???")):
            clock.now += 1.0
            canvas.on_step(snapshot(completer.policy, text, passes))
    assert (canvas.seconds, said(console)) == (1.0, "")


@pytest.mark.parametrize(("width", "height"), [(20, 10), (3, 2), (1, 1)])
def test_small_terminal_shows_what_fits(completer: Completer, width: int, height: int) -> None:
    console = terminal(width, height)
    with view(console, completer.policy, Clock()) as canvas:
        completer.complete(["1"], on_step=canvas.on_step)
    lines = CONTROL_CODES.sub("", said(console)).splitlines()
    assert max(map(len, lines)) <= max(2, width)


def test_summary_counts_tokens_per_completion_and_pass() -> None:
    one = Completed(prompt="a", completions=("b",), num_tokens=(1,), num_forwards=1)
    assert summary([one], 0.5) == "1 token in 1 forward pass (1.00 per pass), 0.50 s, 2 tokens/s"
    two = Completed(prompt="a", completions=("b", "c"), num_tokens=(4, 8), num_forwards=4)
    assert summary([one, two], 0.0) == (
        "3 completions, 13 tokens in 5 forward passes (1.44 per completion and pass), 0.00 s, "
        "0 tokens/s"
    )


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str) -> tuple[int, str]:
    """Run ``dmpo`` on a terminal of 40 columns; return exit code and what is shown there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    os.write(ours, typed.encode())
    with (
        open(theirs, encoding="utf-8", closefd=False) as keys,
        open(theirs, "w", encoding="utf-8") as screen,
        monkeypatch.context() as patch,
    ):
        patch.setenv("TERM", "xterm")
        patch.setattr("dmpo.cli.watch.SECONDS_PER_STEP", 0.0)
        for name, stream in (("stdin", keys), ("stdout", screen), ("stderr", screen)):
            patch.setattr(f"sys.{name}", stream)
        code = main(arguments)
    reader.join()
    os.close(ours)
    return code, CONTROL_CODES.sub("", b"".join(shown).decode())


def test_conversation_goes_on_after_a_message_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("generate", "--set", SCRATCH, "--gen-length", "4", "--chat", "--watch")
    code, text = at_a_terminal(monkeypatch, "12\nü\n3\n\n", *arguments)
    assert code == 0
    assert text.count("> ") == 4
    assert "dmpo: error: --chat: message 2: the tokenizer has no token for 'ü'" in text
    assert text.count("tokens in 4 forward passes (1.00 per pass)") == 2
    assert "step 4  passes 4  tokens 4" in text


def test_interrupt_ends_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(prompt: str = "") -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    arguments = ("generate", "--set", SCRATCH, "--gen-length", "4", "--chat")
    code, text = at_a_terminal(monkeypatch, "", *arguments)
    assert (code, text.splitlines()[-1]) == (130, "dmpo: error: interrupted.")
