"""What the page quotes is what the result files hold; what it says to type can be typed."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dmpo import recipe_names
from dmpo.cli.main import main
from dmpo.reporting.intervals import mean_interval
from tests.docs.fences import DOCS, fences

PAGE = "reproduction.md"
ROOT = DOCS.parent
RESULTS = ROOT / "benchmarks" / "results"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
LINES = [
    line.removeprefix("$ ")
    for fence in fences(PAGE)
    if fence.language == "console"
    for line in fence.text.replace("\\\n   ", "").splitlines()
]
SMALL_STEPS = "softmax, path, none, α .02, c .2"
PAPER_FORM = "the paper's form: softmax, ELBO, model, α .04, c 1"
DIFFU_GRPO = "diffu-GRPO, β 0"


@cache
def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def short(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


def quoted(values: list[float]) -> str:
    """Return how the page writes a mean over seeds with its interval."""
    interval = mean_interval(values)
    assert interval.half_width is not None
    return f"{short(interval.mean)} ± {short(interval.half_width)}"


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in found if not set(row[0]) <= set("- :")]


def row(*words: str) -> list[str]:
    """Return the one row of the page whose cells hold all these words."""
    (found,) = (cells for cells in rows(TEXT) if all(word in " | ".join(cells) for word in words))
    return found


def settings_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what ``dmpo config show`` makes of a command's settings."""
    capsys.readouterr()
    code = main(["config", "show", *arguments])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


def without(arguments: list[str], *flags: str) -> list[str]:
    """Leave out flags that are not settings, each with its value."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument not in flags:
            kept.append(argument)
        skip = not skip and argument in flags
    return kept


def test_every_recipe_of_the_page_exists_and_every_row_has_one() -> None:
    named = set(re.findall(r"\b((?:llada|llada15|dream)_[a-z0-9]+(?:_8gpu)?)\b", TEXT))
    named -= {"llada_outputs", "dream_tiny", "llada_tiny"}
    runs = set(re.findall(r"/((?:llada|llada15|dream)_\w+)", TEXT))
    assert sorted(named - runs - set(recipe_names())) == []
    tasks = ("gsm8k", "math500", "countdown", "sudoku")
    wanted = {f"{model}_{task}" for model in ("llada", "llada15", "dream") for task in tasks}
    assert wanted <= named & set(recipe_names())
    assert {f"{name}_8gpu" for name in wanted} <= set(recipe_names())


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("dmpo train")])
def test_training_commands_are_complete_settings(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(line)[2:]
    text = settings_shown(
        without(arguments, "--output", "--processes", "--sharding"), capsys
    ).replace(" ", "")
    assert "learning_rate:3.0e-06" in text
    assert "rollouts_per_prompt:16" in text
    known = help_of("train", capsys)
    assert [flag for flag in re.findall(r"--[\w-]+(?= |$)", line) if flag not in known] == []


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("dmpo eval")])
def test_evaluation_commands_decode_as_the_page_says(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = shlex.split(line)[2:]
    known = help_of("eval", capsys)
    flags = [argument for argument in arguments if argument.startswith("--")]
    assert [flag for flag in flags if "." not in flag and flag not in known] == []
    if "--run" in arguments:
        return
    tasks = arguments[arguments.index("--task") + 1].split(",")
    others = without(arguments, "--task", "--gen-length", "--grader", "--output")
    for task in tasks:
        given = [*others, "--task", task, "--task.grader", "published"]
        text = settings_shown(given, capsys).split("evaluation:")[1].replace(" ", "")
        per_step = 1 if "full_steps" in line else 2
        for key, value in (
            ("temperature", "0.0"),
            ("block_length", 32),
            ("tokens_per_step", per_step),
        ):
            assert f"{key}:{value}" in text


def test_every_way_back_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [cells[2] for cells in rows(section("Where ours differs on purpose"))[1:]]
    flags = [flag for way in ways for flag in re.findall(r"`(--[^`]+)`", way)]
    assert len(flags) >= 8
    for flag in flags:
        value = ["puzzles.csv"] if flag.endswith("_source") else []
        recipe = "llada_sudoku" if value else "llada_gsm8k"
        given = flag.replace("--grader", "--task.grader")
        settings_shown(["--recipe", recipe, *shlex.split(given), *value], capsys)


def test_plot_agrees_with_the_abstract() -> None:
    countdown = {cells[0]: cells[3] for cells in rows(section("The paper's table"))}
    base, ours = float(countdown["LLaDA-8B-Instruct"]), float(countdown["**DMPO**"])
    (best,) = (float(value) for name, value in countdown.items() if name.startswith("d1 "))
    assert f"{ours - base:.2f} points over the base and {ours - best:.1f} over" in TEXT


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("demo", ("puzzles", "cells")),
        ("mission_mean", ("puzzles", "cells")),
        ("sudoku_paper", ("puzzles", "cells")),
    ],
)
def test_before_and_after_are_those_of_the_runs(name: str, figures: tuple[str, ...]) -> None:
    runs = result(name)["runs"]
    cells = row(f"| `{name}` |")
    for figure in figures:
        ends = [list(run["evaluations"].values()) for run in runs]
        means = [
            sum(end[at]["figures"][figure]["mean"] for end in ends) / len(ends) for at in (0, -1)
        ]
        assert f"{figure} {short(means[0])} → {short(means[1])}" in cells[1]
    assert cells[2] == ", ".join(str(run["seed"]) for run in runs)


def test_digit_sum_is_that_of_the_runs() -> None:
    runs = [list(run["evaluations"].values()) for run in result("digit_sum")["runs"]]
    right = [sum(run[at]["accuracy"] for run in runs) / len(runs) for at in (0, -1)]
    distinct = [sum(run[at]["distinct_right"] for run in runs) / len(runs) for at in (0, -1)]
    quote = row("recipe `digit_sum`")[1]
    assert f"right {short(right[0])} → {short(right[1])}" in quote
    assert f"distinct right answers {distinct[0]:.1f} → {distinct[1]:.1f}" in quote


def test_divergences_are_those_of_the_exact_testbed() -> None:
    ends = {
        run["baseline"]: sum(run["divergences"][-1]) / len(run["divergences"][-1])
        for run in result("exact")["runs"]
        if (run["reference"], run["link"], run["likelihood"]) == ("orders agree", "softmax", "path")
        and run["num_rollouts"] == 256
    }
    quote = row("KL(p\\*", "`exact`")[1]
    for baseline, digits in (("mean", 4), ("model", 4), ("individual", 2)):
        assert f"{short(ends[baseline], digits)} with `{baseline}`" in quote
    assert f"KL {short(ends['individual'], 2)}" in section("What does not agree with the paper")


def test_baselines_are_those_of_the_runs() -> None:
    quote = row("the four baselines")[1]
    for baseline in ("none", "mean", "individual", "model"):
        values = [
            run["figures"]["puzzles"]
            for run in result("baselines")["runs"]
            if (run["job"]["task"], run["job"]["baseline"]) == ("sudoku", baseline)
        ]
        assert f"{quoted(values)} `{baseline}`" in quote


@pytest.mark.parametrize(
    ("task", "figure", "arm", "rate", "name"),
    [
        ("digit_sum", "right", SMALL_STEPS, 2e-4, "small steps"),
        ("digit_sum", "right", PAPER_FORM, 5e-5, "the paper's form"),
        ("digit_sum", "right", DIFFU_GRPO, 5e-5, "diffu-GRPO"),
        ("sudoku", "puzzles", SMALL_STEPS, 1e-4, "small steps"),
        ("sudoku", "puzzles", PAPER_FORM, 2e-4, "the paper's form"),
        ("sudoku", "puzzles", DIFFU_GRPO, 1e-4, "diffu-GRPO"),
    ],
)
def test_ways_around_noise_are_those_of_the_runs(
    task: str, figure: str, arm: str, rate: float, name: str
) -> None:
    values = {
        run["job"]["seed"]: run["figures"][figure]
        for run in result("noise")["runs"]
        if (run["job"]["task"], run["job"]["arm"], run["job"]["split"]) == (task, arm, "test")
        and run["job"]["settings"]["training.learning_rate"] == rate
    }
    assert sorted(values) == [1, 2, 3, 4, 5]
    words = ("ways around", "digit_sum") if task == "digit_sum" else ("the same, Sudoku",)
    assert f"{quoted(list(values.values()))} {name}" in row(*words)[1]


def test_disagreements_repeat_the_figures_of_the_tables() -> None:
    measured, disagreements = (
        section("Measured here"),
        section("What does not agree with the paper"),
    )
    for figure in re.findall(r"\.\d{3} ± \.\d{3}", disagreements):
        assert figure in measured
    arms = {arm: [] for arm in ("α 0, η 10, none (rejection sampling)", SMALL_STEPS)}
    for run in result("noise")["runs"]:
        if (run["job"]["task"], run["job"]["split"]) == ("digit_sum", "test"):
            arms.get(run["job"]["arm"], []).append(run["figures"]["right"])
    ahead, behind = (short(mean_interval(values).mean) for values in arms.values())
    assert f"{ahead} against {behind}" in disagreements


def test_times_and_memory_of_the_gpu_are_those_of_its_files() -> None:
    sides = result("step_gpu")["cases"][0]["sides"]
    quote = row("a gradient step beside")[1]
    for key, unit, scale in (("seconds", "s", 1), ("step_bytes", "GB", 10**9)):
        pair = [f"{sides[side][key] / scale:.2f} {unit}" for side in ("ours", "official")]
        assert " against ".join(pair) in quote
    sampled = [
        (line["sampler"], line["cache"], f"{line['tokens_per_second']:.0f}")
        for line in result("rollouts_8b")["rows"]
        if line["temperature"] == 0.2 and line["sampler"] in ("naive", "low_confidence")
    ]
    naive = [speed for sampler, _, speed in sampled if sampler == "naive"]
    ours = {cache: speed for sampler, cache, speed in sampled if sampler == "low_confidence"}
    told = f"{ours['none']} tokens/s against {naive[0]} and {naive[1]} in two runs of it"
    assert f"{told}; {ours['dual']} with the dual cache" in row("sampling beside")[1]


def test_cost_is_the_arithmetic_that_the_page_gives() -> None:
    phases = result("step_gpu")["cases"][0]["sides"]["ours"]["phases"]
    seconds = 16 * (phases["current"] + phases["loss"]) + 16 / 8 * phases["prepare"]
    quote = row("our recipes, likelihoods and gradients")[1]
    assert f"{seconds:.0f} s a gradient step" in quote
    steps = [7700, 6600, 5000, 3800]
    hours = [f"{seconds * number / 3600:.0f}" for number in steps]
    assert f"{', '.join(hours[:3])} and {hours[3]} H100 hours" in quote
    assert ", ".join(map(str, steps[:3])) in row("d1, one task")[1]


def test_grader_figures_are_those_of_the_grading_guide() -> None:
    text = section("Measured here")
    guide = (DOCS / "guides/grading.md").read_text(encoding="utf-8")
    found = re.findall(r"(GSM8K|MATH-500|Countdown|Sudoku) (\d+\.\d\d)", text)
    assert len(found) == 4
    for task, percent in found:
        (line,) = re.findall(rf"^\| {task}[^|]*\| \d[\d,]* \| ([\d.]+)%", guide, re.MULTILINE)
        assert line == percent


def test_commands_and_dates_are_those_of_the_result_files() -> None:
    table = [cells for cells in rows(section("Measured here")) if len(cells) == 5][1:]
    assert len(table) >= 9
    for cells in table:
        text = (RESULTS / f"{cells[3].strip('`')}.md").read_text(encoding="utf-8")
        assert f"- date: {cells[4]}" in text
        assert any(f"- command: `{line}`" in text for line in LINES)
    typed = [line for line in LINES if line.startswith("python benchmarks/")]
    assert len(typed) == len({cells[3] for cells in table})


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:tests|plugins|benchmarks|dmpo|docs)/[\w./-]+\.\w+)`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []
    results = [cells[-1] for cells in rows(section("Measured here")) if len(cells) == 3]
    files = [name.strip("`") for name in results if re.fullmatch(r"`\w+`", name)]
    assert [name for name in files if not (RESULTS / f"{name}.json").is_file()] == []


def test_links_inside_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^##+ (.+)$", TEXT, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", TEXT) if link not in anchors] == []
    pages = [Path(link) for link in re.findall(r"\]\(([\w/]+\.md)", TEXT)]
    assert [page for page in pages if not (DOCS / page).is_file()] == []
