"""``dmpo generate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmpo.cli.completion import registered
from dmpo.cli.options import (
    Context,
    Debug,
    Seed,
    Sets,
    command_layer,
    path,
    real_number,
    whole_number,
)
from dmpo.config.places import check_writable, decoded

if TYPE_CHECKING:
    from dmpo.config.generation import Completed, Completer
    from dmpo.config.preflight import NamedText

__all__ = ["generate"]


def generate(
    context: Context,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What the policy reads; repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="<path>",
            help="Prompts: JSON lines with a `prompt` (.jsonl), or a prompt a line.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Read prompts from the terminal, a line each; every message stands alone. Ends "
            "with an empty line, /quit or Ctrl-D.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Show each response being unmasked (of several completions the first), and what "
            "it cost.",
        ),
    ] = False,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=whole_number,
            metavar="<int>",
            help="Completions of each prompt; one if left out.",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Backbone family.", autocompletion=registered("policies"))
    ] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="How completions are made.", autocompletion=registered("samplers")),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(parser=real_number, metavar="<float>", help="0: the likeliest tokens."),
    ] = None,
    gen_length: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="<int>", help="Canvas length, in tokens."),
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="<path>", help="Write JSON lines here; must not exist."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines instead of texts.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Complete prompts. Other parameters are flags, too: --sampler.block_length 32."""
    from dmpo.config.generation import Completer, read_prompts
    from dmpo.config.preflight import NamedText
    from dmpo.config.resolve import resolve_generate
    from dmpo.config.run import GenerateConfig
    from dmpo.errors import ConfigError

    layer = command_layer(
        context,
        sections=tuple(GenerateConfig.model_fields),
        sets=sets,
        flags={
            "--policy": ("policy", policy),
            "--model": ("policy.model", model),
            "--revision": ("policy.revision", revision),
            "--sampler": ("sampler", sampler),
            "--temperature": ("sampler.temperature", temperature),
            "--gen-length": ("sampler.gen_length", gen_length),
            "--seed": ("seed", seed),
        },
    )
    if chat and (prompt or file is not None):
        raise ConfigError("--chat: reads its own prompts; leave --prompt and --file out.")
    if output is not None:
        _check_output(output, as_json=as_json)
    prompts = [NamedText("--prompt", decoded(text)) for text in prompt or ()]
    prompts += read_prompts(file) if file is not None else ()
    if not (prompts or chat):
        raise ConfigError("--prompt or --file: nothing to complete; give at least one prompt.")
    completer = Completer(
        resolve_generate([layer]).config,
        num_completions=1 if n is None else n,
        is_watched=watch,
    )
    if chat:
        _chat(completer, watch=watch, as_json=as_json, output=output)
        return
    completer.check(prompts)
    _complete(completer, prompts, watch=watch, as_json=as_json, output=output)


def _check_output(output: Path, *, as_json: bool) -> None:
    from dmpo.errors import ConfigError

    check_writable(output, "--output")
    if output.exists():
        raise ConfigError(f"--output: {output} exists already; name a file that does not.")
    if as_json:
        raise ConfigError("--json: --output writes JSON lines already; leave one of them out.")


def _complete(
    completer: Completer,
    prompts: Sequence[NamedText],
    *,
    watch: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    """Complete all prompts; print each batch when it is done, or write all of them at the end."""
    from dmpo.cli.watch import summary
    from dmpo.files import replace_text

    everything: list[Completed] = []
    seconds = 0.0
    for completed, spent in _batches(completer, [prompt.text for prompt in prompts], watch=watch):
        everything += completed
        seconds += spent
        if output is None:
            _print(completed, as_json=as_json)
    if watch:
        typer.echo(summary(everything, seconds), err=True)
    if output is not None:
        replace_text(output, "".join(f"{_line(each)}\n" for each in everything))
        typer.echo(f"saved in {output}")


def _batches(
    completer: Completer, prompts: Sequence[str], *, watch: bool
) -> Iterator[tuple[list[Completed], float]]:
    """Yield what is completed, and the seconds where it is watched: then a prompt at a time."""
    if watch:
        for number, prompt in enumerate(prompts, 1):
            title = f"{number}/{len(prompts)} {prompt}" if len(prompts) > 1 else ""
            yield _watched(completer, prompt, title)
        return
    for start in range(0, len(prompts), completer.prompts_at_once):
        yield completer.complete(prompts[start : start + completer.prompts_at_once]), 0.0


def _watched(completer: Completer, prompt: str, title: str = "") -> tuple[list[Completed], float]:
    """Complete a prompt before the eyes of whoever sits at the terminal."""
    from rich.console import Console

    from dmpo.cli.watch import CanvasView

    console = Console(highlight=False)
    # FORCE_COLOR makes a terminal of any pipe for the library, but a pipe shows no canvas.
    is_terminal = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
    view = CanvasView(
        console,
        completer.policy,
        block_size=completer.block_size,
        title=title,
        is_drawn=is_terminal,
    )
    with view:
        completed = completer.complete([prompt], on_step=view.on_step)
    return completed, view.seconds


def _chat(completer: Completer, *, watch: bool, as_json: bool, output: Path | None) -> None:
    """Answer each message as it comes; one that cannot be read ends a pipe, but no conversation."""
    from dmpo.cli.chat import is_conversation, messages
    from dmpo.cli.watch import summary
    from dmpo.config.preflight import NamedText
    from dmpo.errors import DataError

    for number, message in enumerate(messages(), 1):
        try:
            completer.check([NamedText(f"--chat: message {number}", message)])
        except DataError as error:
            if not is_conversation():
                raise
            typer.echo(f"dmpo: error: {error}", err=True)
            continue
        ((completed, seconds),) = _batches(completer, [message], watch=watch)
        _print(completed, as_json=as_json)
        if watch:
            typer.echo(summary(completed, seconds), err=True)
        if output is not None:
            _keep(completed, output)
    if output is not None and output.exists():
        typer.echo(f"saved in {output}")


def _keep(completed: Sequence[Completed], output: Path) -> None:
    """Add what is completed to a file that this conversation begins."""
    from dmpo.files import append_line, replace_text

    for each in completed:
        if output.exists():
            append_line(output, _line(each))
        else:
            replace_text(output, f"{_line(each)}\n")


def _print(completed: Sequence[Completed], *, as_json: bool) -> None:
    for each in completed:
        for text in [_line(each)] if as_json else each.completions:
            typer.echo(text)


def _line(completed: Completed) -> str:
    return json.dumps(completed.record(), ensure_ascii=False)
