from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from dmpo.cli.processes import Command, Ended, run_commands
from dmpo.training.interruption import Interruption

WAITING = """
import signal, sys, time
def stop(number, frame):
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(30)
"""


def command(tmp_path: Path, name: str, code: str) -> Command:
    return Command(name=name, arguments=(sys.executable, "-c", code), log=tmp_path / f"{name}.log")


def run(commands: list[Command], jobs: int, interruption: Interruption) -> list[Ended]:
    return list(
        run_commands(commands, jobs=jobs, environment=os.environ, interruption=interruption)
    )


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    commands = [
        command(tmp_path, "bad", "raise SystemExit('no luck')"),
        command(tmp_path, "good", "print('done')"),
    ]
    ended = run(commands, 1, Interruption())
    assert [(each.command.name, each.code) for each in ended] == [("bad", 1), ("good", 0)]
    assert (tmp_path / "bad.log").read_text() == "no luck\n"
    assert (tmp_path / "good.log").read_text() == "done\n"


def test_no_more_than_the_given_number_run_at_once(tmp_path: Path) -> None:
    code = f"""
import pathlib, os, time
here = pathlib.Path({str(tmp_path)!r}) / f"{{os.getpid()}}.running"
here.touch()
time.sleep(0.3)
print(len(list(here.parent.glob("*.running"))))
here.unlink()
"""
    run([command(tmp_path, f"c{n}", code) for n in range(4)], 2, Interruption())
    assert max(int(path.read_text()) for path in tmp_path.glob("*.log")) <= 2


def test_an_interrupt_is_passed_on_and_nothing_more_is_started(tmp_path: Path) -> None:
    commands = [command(tmp_path, name, WAITING) for name in ("first", "second")]

    def interrupt() -> None:
        while not (tmp_path / "first.log").exists() or not (tmp_path / "first.log").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), 2)

    with Interruption() as interruption:
        threading.Thread(target=interrupt).start()
        ended = run(commands, 1, interruption)
    assert [(each.command.name, each.code) for each in ended] == [("first", 0)]
    assert (tmp_path / "first.log").read_text() == "ready\nsaved\n"
    assert not (tmp_path / "second.log").exists()
