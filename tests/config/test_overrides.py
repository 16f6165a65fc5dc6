from __future__ import annotations

import pytest

from dmpo.config.layers import leaf_sources, plain
from dmpo.config.overrides import command_line_layer, split_flags
from dmpo.errors import ConfigError

SECTIONS = ("likelihood", "weights", "training", "rewards")


def test_set_reads_its_value_as_yaml() -> None:
    layer = command_line_layer(["training.learning_rate=1e-3", "policy.lora={rank: 8}"])
    assert plain(layer) == {"training": {"learning_rate": 1e-3}, "policy": {"lora": {"rank": 8}}}


def test_value_may_contain_an_equals_sign() -> None:
    assert plain(command_line_layer(["policy.model=a=b"])) == {"policy": {"model": "a=b"}}


def test_flag_wins_over_set_and_keeps_what_it_does_not_name() -> None:
    layer = command_line_layer(
        ["weights.alpha=0.1", "weights.name=linear"], [("--weights", "weights", "tilted")]
    )
    assert plain(layer) == {"weights": {"alpha": 0.1, "name": "tilted"}}
    assert leaf_sources(layer) == {"weights.alpha": "--set", "weights.name": "--weights"}


def test_rewards_add_up_to_a_list() -> None:
    layer = command_line_layer([], [("--reward", "rewards", "a"), ("--reward", "rewards", "b")])
    assert plain(layer) == {"rewards": [{"name": "a"}, {"name": "b"}]}


@pytest.mark.parametrize("text", ["training.steps", "=3", "a..b=1"])
def test_malformed_set_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set: "):
        command_line_layer([text])


def test_bad_yaml_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"^--set a\.b: .*not YAML"):
        command_line_layer(["a.b=[1"])


def test_dotted_flags_take_a_value_in_either_form() -> None:
    found = split_flags(["--likelihood.eos", "answer", "--weights.alpha=-1"], sections=SECTIONS)
    assert found == [
        ("--likelihood.eos", "likelihood.eos", "answer"),
        ("--weights.alpha", "weights.alpha", -1),
    ]


def test_dotted_flags_accept_hyphens() -> None:
    found = split_flags(["--training.learning-rate", "1e-4"], sections=SECTIONS)
    assert found == [("--training.learning-rate", "training.learning_rate", 1e-4)]


def test_named_flags_stand_for_their_path() -> None:
    found = split_flags(
        ["--steps", "3"], sections=SECTIONS, named={"--steps": "training.num_steps"}
    )
    assert found == [("--steps", "training.num_steps", 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baselin", "mean"], r"unknown option '--baselin'\. Did you mean '--baseline'\?"),
        (["--weigths.alpha", "1"], r"unknown option .*Did you mean '--weights\.alpha'\?"),
        (["--qqqqqq", "1"], r"unknown option '--qqqqqq'\.$"),
        (["-x"], "unknown option '-x'"),
        (["sudoku"], "unexpected argument 'sudoku'"),
        (["--weights.alpha"], r"--weights\.alpha: needs a value"),
        (["--weights.alpha", "--steps"], r"--weights\.alpha: needs a value"),
    ],
)
def test_argument_that_is_no_setting_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_flags(arguments, sections=SECTIONS, options=["--baseline", "--steps"])


def test_repeated_flags_of_a_list_add_up() -> None:
    flags = [("--tracker", "tracking.trackers", name) for name in ("wandb", "mlflow")]
    assert plain(command_line_layer(flags=flags)) == {"tracking": {"trackers": ["wandb", "mlflow"]}}
    whole = [("--tracking.trackers", "tracking.trackers", ["wandb"])]
    assert plain(command_line_layer(flags=whole)) == {"tracking": {"trackers": ["wandb"]}}
