from __future__ import annotations

from dataclasses import replace

from dmpo.doctor.kernels import Trial
from dmpo.doctor.packages import (
    PackageFacts,
    Plugins,
    package_checks,
    plugin_checks,
    read_packages,
    required_packages,
)

LINES = ["torch>=2.11", "rich>=14", 'liger-kernel>=0.6; extra == "cuda"', 'ruff; extra == "dev"']
INSTALLED = {"torch": "2.10.1+cu128", "rich": "15.0.0"}
FACTS = PackageFacts(
    dmpo="0.1.0",
    python="3.12.1",
    python_asked=">=3.11,<3.14",
    packages=required_packages(LINES, INSTALLED.get),
    plugins=(),
)


def checks(facts: PackageFacts = FACTS) -> dict[str, tuple[str, str, str]]:
    return {each.name: (each.state, each.detail, each.fix) for each in package_checks(facts)}


def test_required_packages_come_first_and_those_of_development_not_at_all() -> None:
    names = [package.name for package in FACTS.packages]
    assert names[:2] == ["torch", "rich"]
    assert "ruff" not in names
    assert {package.name for package in FACTS.packages if package.is_required} == {"torch", "rich"}


def test_a_version_outside_what_is_asked_is_a_warning_with_a_command() -> None:
    expected = ("warning", "2.10.1+cu128, outside >=2.11", "pip install 'torch>=2.11'")
    assert checks()["torch"] == expected


def test_a_local_version_is_accepted() -> None:
    facts = replace(FACTS, packages=required_packages(LINES, {"torch": "2.13.0+cpu"}.get))
    assert checks(facts)["torch"] == ("ok", "2.13.0+cpu", "")


def test_a_missing_required_package_fails_and_is_needed() -> None:
    facts = replace(FACTS, packages=required_packages(LINES, {}.get))
    (torch,) = [each for each in package_checks(facts) if each.name == "torch"]
    assert (torch.state, torch.is_needed, torch.fix) == (
        "failed",
        True,
        "pip install 'torch>=2.11'",
    )


def test_a_missing_optional_package_is_no_fault_and_says_what_it_is_for() -> None:
    state, detail, fix = checks()["liger-kernel"]
    assert (state, fix) == ("absent", "")
    assert detail == "not installed: log-probabilities without whole logits, on CUDA"


def test_a_python_that_dmpo_does_not_take_fails() -> None:
    state, detail, _ = checks(replace(FACTS, python="3.14.0"))["python"]
    assert (state, detail) == ("failed", "3.14.0, outside >=3.11,<3.14")


def test_dmpo_that_is_not_installed_has_no_names() -> None:
    state, detail, fix = checks(replace(FACTS, dmpo=None))["dmpo"]
    assert (state, fix) == ("failed", "pip install --editable .")
    assert detail == "not installed, so that none of its names is registered"


def test_plugins_are_counted_by_package_and_broken_ones_named() -> None:
    plugins = [Plugins(package="other 1.0", names={"samplers": ("a", "b"), "policies": ("c",)})]
    trial = Trial(name="plugins", state="ok", detail="", values={"broken": {"samplers/a": "no\nx"}})
    good, broken = plugin_checks(plugins, trial)
    assert (good.name, good.detail) == ("plugins of other", "2 samplers, 1 policy")
    assert (broken.name, broken.state, broken.detail) == ("samplers/a", "failed", "no x")


def test_many_broken_plugins_are_one_check() -> None:
    values = {"broken": {f"samplers/{n}": "no torch" for n in range(20)}}
    (check,) = plugin_checks([], Trial(name="plugins", state="ok", detail="", values=values))
    assert check.detail == "20 cannot be imported, samplers/0 among them: no torch"


def test_a_crash_while_plugins_are_imported_is_a_failed_check() -> None:
    trial = Trial(name="plugins", state="failed", detail="the process was ended by SIGSEGV")
    (check,) = plugin_checks([], trial)
    assert check.detail == "cannot all be imported: the process was ended by SIGSEGV"


def test_this_installation_is_within_what_it_asks_for() -> None:
    facts = read_packages()
    assert facts.plugins[0].package.startswith("dmpo-dllm ")
    assert all(each.state in ("ok", "absent") for each in package_checks(facts))
