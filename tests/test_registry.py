from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmpo import registry
from dmpo.errors import ConfigError, PluginError, UnknownNameError
from dmpo.registry import BASELINES, REGISTRIES, WEIGHTS, Registry

Install = Callable[..., None]

PLUGIN = """
from typing import final
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel

class LengthConfig(PluginConfig):
    scale: float = 1.0

@final
class LengthReward(RewardModel):
    Config = LengthConfig
    def __init__(self, config):
        self.config = config
    def score(self, rollouts, task):
        raise NotImplementedError

class NoConfig(RewardModel):
    def score(self, rollouts, task):
        raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with a reward entry point on the path, as an installer would."""

    def _install(
        package: str, name: str, attribute: str = "LengthReward", source: str = PLUGIN
    ) -> None:
        root = tmp_path / package
        info = root / f"{package}-1.2.dist-info"
        info.mkdir(parents=True)
        (root / f"{package}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[dmpo.rewards]\n{name} = {package}:{attribute}\n")
        monkeypatch.syspath_prepend(str(root))
        registry._claims.cache_clear()

    yield _install
    registry._claims.cache_clear()


def rewards() -> Registry[object]:
    return REGISTRIES["rewards"]


def test_registry_lists_names_without_importing_their_modules(install: Install) -> None:
    install("dmpo_lazy", "lazy", source="raise RuntimeError('imported')")
    assert rewards().entries()["lazy"].distribution == "dmpo_lazy 1.2"
    assert "dmpo_lazy" not in sys.modules


def test_registry_does_not_import_torch_to_list_names() -> None:
    code = (
        "import sys; from dmpo.registry import REGISTRIES; "
        "[r.names() for r in REGISTRIES.values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_registry_builds_a_third_party_plugin_from_its_parameters(install: Install) -> None:
    install("dmpo_good", "good")
    assert rewards().build("good", {"scale": 2}).config.scale == 2  # type: ignore[attr-defined]


def test_broken_plugin_is_reported_by_name_and_package(install: Install) -> None:
    install("dmpo_broken", "broken", source="import no_such_module_here")
    with pytest.raises(PluginError, match=r"reward 'broken' of dmpo_broken 1\.2 .*no_such_module"):
        rewards().load("broken")


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "raise KeyError('x')", "x = ("])
def test_broken_plugin_leaves_the_others_usable(install: Install, source: str) -> None:
    install("dmpo_bad", "bad", source=source)
    install("dmpo_fine", "fine")
    assert "dmpo_bad" in rewards().broken()["bad"]
    assert "fine" not in rewards().broken()
    assert rewards().load("fine").__name__ == "LengthReward"


def test_missing_attribute_is_reported_as_a_broken_plugin(install: Install) -> None:
    install("dmpo_gone", "gone", "NotThere")
    with pytest.raises(PluginError, match="NotThere"):
        rewards().load("gone")


def test_name_claimed_twice_names_both_packages(install: Install) -> None:
    install("dmpo_first", "same")
    install("dmpo_second", "same")
    with pytest.raises(PluginError, match=r"dmpo_second 1\.2.*dmpo_first 1\.2|first.*second"):
        rewards().load("same")


def test_name_claimed_twice_leaves_the_others_usable(install: Install) -> None:
    install("dmpo_first", "same")
    install("dmpo_second", "same")
    install("dmpo_fine", "fine")
    assert rewards().load("fine").__name__ == "LengthReward"
    assert "uninstall" in rewards().broken()["same"]


def test_class_of_another_interface_is_refused(install: Install) -> None:
    install("dmpo_other", "other", "LengthConfig")
    with pytest.raises(PluginError, match=r"does not derive from dmpo\.rewards\.base\.RewardModel"):
        rewards().load("other")


def test_class_without_a_config_is_refused(install: Install) -> None:
    install("dmpo_plain", "plain", "NoConfig")
    with pytest.raises(PluginError, match="Config"):
        rewards().load("plain")


def test_wrong_name_offers_the_nearest_and_all_accepted() -> None:
    with pytest.raises(UnknownNameError, match=r"'medn'; accepted: .*model.*Did you mean 'mean'"):
        BASELINES.entry("medn")


def test_wrong_name_with_nothing_near_offers_no_guess() -> None:
    with pytest.raises(UnknownNameError) as caught:
        BASELINES.entry("zzzzzz")
    assert "Did you mean" not in str(caught.value)


def test_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"weights\.alpa: unknown key.*Did you mean 'alpha'"):
        WEIGHTS.config("tilted", {"alpa": 1})


def test_field_names_the_section_in_errors() -> None:
    with pytest.raises(ConfigError, match=r"^my\.section\.nope: unknown key"):
        WEIGHTS.config("tilted", {"nope": 1}, field="my.section")


def test_variant_is_refused_where_the_plugin_knows_none() -> None:
    with pytest.raises(UnknownNameError, match="tilted/small"):
        WEIGHTS.config("tilted/small", {})


def test_every_interface_has_a_registry_with_built_ins() -> None:
    assert all(entry.names() for entry in REGISTRIES.values())


OWN = """
from dmpo.weights.baselines import MeanBaseline

class HalfBaseline(MeanBaseline):
    pass
"""


def test_class_in_a_file_stands_where_a_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_half.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    built = BASELINES.build("own_half.py:HalfBaseline", {"strength": 0.5})
    assert (type(built).__name__, built.strength) == ("HalfBaseline", 0.5)
    assert BASELINES.load("own_half.py:HalfBaseline") is type(built)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert BASELINES.load("own_half:HalfBaseline").__name__ == "HalfBaseline"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:Half", "baseline: no file nowhere.py"),
        ("own_typo.py:HalfBaselin", "Did you mean 'HalfBaseline'"),
        ("json:JSONDecoder", r"baseline 'json:JSONDecoder' does not derive from dmpo\.weights"),
    ],
)
def test_class_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    (tmp_path / "own_typo.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, PluginError), match=message):
        BASELINES.load(target)
