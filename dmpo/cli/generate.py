"""``dmpo generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dmpo.cli.options import (
    Context,
    Debug,
    Seed,
    Sets,
    check_writable,
    command_layer,
    decoded,
    path,
    real_number,
    whole_number,
)

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
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=whole_number,
            metavar="<int>",
            help="Completions of each prompt; one if left out.",
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Backbone family.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    sampler: Annotated[str | None, typer.Option(help="How completions are made.")] = None,
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
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Complete prompts. Other parameters are flags, too: --sampler.block_length 32."""
    from dmpo.config.generation import complete, read_prompts
    from dmpo.config.preflight import NamedText
    from dmpo.config.resolve import resolve_generate
    from dmpo.config.run import GenerateConfig
    from dmpo.errors import ConfigError
    from dmpo.files import replace_text

    layer = command_layer(
        context,
        sections=tuple(GenerateConfig.model_fields),
        sets=sets,
        flags={
            "--policy": ("policy", policy),
            "--model": ("policy.model", model),
            "--sampler": ("sampler", sampler),
            "--temperature": ("sampler.temperature", temperature),
            "--gen-length": ("sampler.gen_length", gen_length),
            "--seed": ("seed", seed),
        },
    )
    if output is not None:
        check_writable(output, "--output")
        if output.exists():
            raise ConfigError(f"--output: {output} exists already; name a file that does not.")
    prompts = [NamedText("--prompt", decoded(text)) for text in prompt or ()]
    prompts += read_prompts(file) if file is not None else ()
    if not prompts:
        raise ConfigError("--prompt or --file: nothing to complete; give at least one prompt.")
    records = complete(
        resolve_generate([layer]).config, prompts, num_completions=1 if n is None else n
    )
    if output is not None:
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        replace_text(output, "".join(f"{line}\n" for line in lines))
        typer.echo(f"saved in {output}")
        return
    for record in records:
        for completion in record["completions"]:
            typer.echo(completion)
