"""``dmpo compare``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmpo.cli.options import Debug, path, whole_number
from dmpo.config.places import check_writable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from dmpo.cli.processes import Command, Ended
    from dmpo.config.comparison import PlannedRun
    from dmpo.reporting.comparison import RunReport

__all__ = ["compare"]


def compare(
    spec: Annotated[
        Path, typer.Argument(parser=path, metavar="SPEC.yaml", help="What is compared.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            parser=path,
            metavar="<path>",
            help="Where to write, or a comparison to go on with; runs/ and the spec's name if "
            "left out.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="<int>", help="Runs at once; 1 if left out."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every arm and list the runs; write nothing.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write table and page anew; run nothing.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Train every arm of a comparison with every seed, and report them side by side.

    The same command goes on with what is there: finished runs are kept, unfinished ones resumed.
    """
    from rich.console import Console

    from dmpo.cli.results import say
    from dmpo.config.comparison import planned_runs, read_comparison
    from dmpo.config.comparison_runs import check_directory, run_report
    from dmpo.errors import ConfigError

    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: must be at least 1; given {jobs}.")
    config = read_comparison(spec)
    runs = planned_runs(config)
    directory = Path("runs") / spec.stem if output is None else output
    check_directory(directory, runs)
    if report_only:
        if not (directory / "spec.yaml").is_file():
            raise ConfigError(f"--output: {directory} holds no comparison yet.")
        _report(Console(highlight=False), config, runs, directory, spec.stem, {})
        return
    check_writable(directory, "--output")
    _check_parts(runs)
    reports = {run.place: run_report(directory, run) for run in runs}
    open_runs = [run for run in runs if reports[run.place].state != "finished"]
    say("runs", f"{len(runs)}: {len(runs) - len(open_runs)} finished, {len(open_runs)} to go")
    say("output", str(directory))
    if dry_run:
        for run in runs:
            say("", f"{_name(run)}: {_standing(reports[run.place])}")
        typer.echo("nothing was written")
        return
    _run_all(config, runs, open_runs, spec, directory, jobs or 1)


def _check_parts(runs: Sequence[PlannedRun]) -> None:
    """Build what every arm is made of, its policy left out, before anything is written."""
    from dmpo.config.assembly import build_light_parts
    from dmpo.errors import DmpoError

    first_runs = {run.arm: run for run in reversed(runs)}
    for arm, run in first_runs.items():
        try:
            build_light_parts(run.resolved.config).task.examples("train")
        except DmpoError as error:
            raise type(error)(f"arms.{arm}: {error}") from None


def _run_all(
    config: Any,
    runs: Sequence[PlannedRun],
    open_runs: Sequence[PlannedRun],
    spec: Path,
    directory: Path,
    jobs: int,
) -> None:
    from filelock import FileLock, Timeout
    from rich.console import Console

    from dmpo.cli.processes import num_cores, run_commands
    from dmpo.cli.results import say
    from dmpo.config.comparison_runs import comparison_report, write_comparison
    from dmpo.errors import ConfigError, DmpoError
    from dmpo.files import replace_text, writing
    from dmpo.training.interruption import Interruption

    console, failures = Console(highlight=False), {}
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(directory / ".lock", timeout=0).acquire()
    except Timeout:
        raise ConfigError(f"--output: another comparison is writing to {directory}.") from None
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // jobs))
    with lock, Interruption(_say_stopping) as interruption:
        replace_text(directory / "spec.yaml", spec.read_text(encoding="utf-8"))
        places = {_name(run): run for run in open_runs}
        ended = run_commands(
            [_command(run, directory) for run in open_runs],
            jobs=jobs,
            environment={**os.environ, "OMP_NUM_THREADS": threads},
            interruption=interruption,
        )
        for number, each in enumerate(ended, start=1 + len(runs) - len(open_runs)):
            run = places[each.command.name]
            if each.code != 0 and interruption.signal is None:
                failures[run.place] = _failure(each)
            report = comparison_report(config, runs, directory, title=spec.stem, failures=failures)
            write_comparison(report, directory)
            found = [r for arm in report.arms for r in arm.runs]
            (this,) = (r for r in found if r.place == run.place.as_posix())
            _print(console, f"{number}/{len(runs)}  {_name(run)}: {_standing(this)}")
        is_stopped = interruption.signal is not None
    _report(console, config, runs, directory, spec.stem, failures)
    if failures:
        raise DmpoError(
            f"{len(failures)} of {len(runs)} runs failed; see {directory}/runs/*/*.log."
        )
    if is_stopped:
        say("go on with", "the same command")


def _report(
    console: Console,
    config: Any,
    runs: Sequence[PlannedRun],
    directory: Path,
    title: str,
    failures: Mapping[Path, str],
) -> None:
    """Write table and page, and print the table."""
    from dmpo.cli.results import say
    from dmpo.config.comparison_runs import comparison_report, write_comparison
    from dmpo.reporting.comparison import comparison_table

    report = comparison_report(config, runs, directory, title=title, failures=failures)
    write_comparison(report, directory)
    console.print(comparison_table(report))
    for note in report.notes():
        _print(console, note)
    say("page", str(directory / "comparison.html"))


def _command(run: PlannedRun, directory: Path) -> Command:
    """Write a run's settings down, and return how it is started or gone on with."""
    from dmpo.cli.processes import Command
    from dmpo.config.comparison_runs import config_path, log_path
    from dmpo.files import replace_text

    config = config_path(directory, run)
    replace_text(config, run.config_text())
    settings = ("--config", str(config), "--output", str(directory / run.place))
    return Command(
        name=_name(run),
        arguments=(sys.executable, "-m", "dmpo", "train", *settings, "--resume", "auto", "--plain"),
        log=log_path(directory, run),
    )


def _failure(ended: Ended) -> str:
    """Return the last line that a failed process said."""
    from dmpo.config.comparison_runs import ERROR_START, last_line

    if ended.code < 0:
        return f"ended by signal {-ended.code}"
    return (
        last_line(ended.command.log).removeprefix(ERROR_START)
        or f"ended with exit code {ended.code}"
    )


def _standing(report: RunReport) -> str:
    """Return in a few words how far a run is."""
    from dmpo.reporting.numbers import short_number

    history = report.history
    if report.state == "failed":
        return f"failed: {report.error}"
    if history.last_step == 0:
        return "to be run"
    score, tokens = history.final("headline"), history.cost("model_tokens")
    parts = [f"{history.last_step} steps"]
    if tokens is not None:
        parts.append(f"{short_number(tokens)} model tokens")
    if score is not None:
        parts.append(f"{history.headline} {score:.3f}")
    return ", ".join(parts) + ("" if report.state == "finished" else " (not finished)")


def _name(run: PlannedRun) -> str:
    return f"{run.arm}, seed {run.seed}"


def _say_stopping(signal: str) -> None:
    line = f"\ndmpo: {signal}: the runs finish their step and save; Ctrl-C again exits at once\n"
    os.write(2, line.encode())


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)
