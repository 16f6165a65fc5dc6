"""``dmpo export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmpo.cli.completion import runs
from dmpo.cli.options import Debug, path
from dmpo.config.places import check_writable

__all__ = ["export"]

FORMS = {
    "adapter": "the adapter alone, in PEFT's format; --merge adds it into its base",
    "merged": "the base model's weights with the adapter added in",
    "weights": "every weight, as it was trained",
}
"""What was written, in words."""


def export(
    run: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="RUN",
            help="A run directory of train or sft.",
            autocompletion=runs,
        ),
    ],
    merge: Annotated[
        bool, typer.Option("--merge", help="Add adapters into the weights of their base model.")
    ] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="<step or path>", help="Which checkpoint; the newest whole one if left out."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="<path>",
            help="Where to write; must not exist, or be empty. Left out: RUN-export.",
        ),
    ] = None,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Write what a run has trained as a model of its own, with a model card."""
    from dmpo.cli.results import say
    from dmpo.config.export import find_source, write_export
    from dmpo.errors import ConfigError

    source = find_source(run, checkpoint)
    if output is None:
        place = source.run if source.run.name not in ("", "..") else source.run.resolve()
        output = place.with_name(f"{place.name}-export")
    check_writable(output, "--output")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"--output: {output} exists already; name one that does not.")
    for reason in source.skipped:
        say("skipped", reason)
    say("from", str(source.weights))
    form = write_export(source, output, merge=merge)
    say("wrote", FORMS[form])
    say("saved in", str(output))
