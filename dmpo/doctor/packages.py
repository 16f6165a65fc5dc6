"""What is installed: dmpo, its plugins, and the packages it stands on or can make use of."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dmpo.doctor.base import Check, State
from dmpo.doctor.kernels import Trial
from dmpo.registry import REGISTRIES

__all__ = [
    "OPTIONAL",
    "Package",
    "PackageFacts",
    "Plugins",
    "package_checks",
    "plugin_checks",
    "read_packages",
    "required_packages",
]

DISTRIBUTION: Final = "dmpo-dllm"
MANY: Final = 3
"""Broken plugins above which one stands for all: they will have one cause."""
FIRST: Final = ("torch", "transformers", "accelerate", "peft", "datasets", "safetensors")
"""Shown before the other required ones."""
EXTRAS: Final = ("", "cuda", "eval")
"""What a user may install beside: development and documentation are left out."""
OPTIONAL: Final[Mapping[str, str]] = {
    "tokenizers": "read and write text",
    "bitsandbytes": "weights in 4 bits (policy.quantization nf4)",
    "liger-kernel": "log-probabilities without whole logits, on CUDA",
    "flash-attn": "policy.attention flash_attention_2",
    "flash-attn-3": "policy.attention flash_attention_3",
    "deepspeed": "--sharding zero2 and zero3",
    "wandb": "curves on Weights & Biases",
    "trackio": "curves on Trackio",
    "mlflow": "curves on MLflow",
    "lm-eval": "tasks of the evaluation harness",
    "reasoning-gym": "its tasks (dmpo-reasoning-gym)",
}
"""Packages that dmpo makes use of where they are installed, and what for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that dmpo asks for or can make use of."""

    name: str
    """On PyPI."""
    version: str | None
    """Installed; None: it is not."""
    asked: str = ""
    """Versions that dmpo asks for, ``>=2.11``; empty: any."""
    extra: str = ""
    """The extra of dmpo's that has it; empty: none, or always installed."""
    is_required: bool = False
    """Whether dmpo cannot do without."""
    purpose: str = ""
    """What an optional one is for."""

    @property
    def is_accepted(self) -> bool:
        """Whether it is installed in a version that dmpo asks for."""
        return self.version is not None and SpecifierSet(self.asked).contains(
            self.version, prereleases=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """What one package registers."""

    package: str
    """Name and version."""
    names: Mapping[str, tuple[str, ...]]
    """Registered names by registry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFacts:
    """What was found of packages."""

    dmpo: str | None
    """Version of dmpo; None: it runs from its sources and is not installed."""
    python: str
    """Version of Python."""
    python_asked: str
    """Versions of Python that dmpo asks for; empty: unknown."""
    packages: tuple[Package, ...]
    """Required ones first."""
    plugins: tuple[Plugins, ...]
    """By package."""


def read_packages() -> PackageFacts:
    """Read the metadata of what is installed; nothing is imported."""
    try:
        own = metadata.metadata(DISTRIBUTION)
        version, python, lines = (
            own["Version"],
            own["Requires-Python"],
            own.get_all("Requires-Dist"),
        )
    except metadata.PackageNotFoundError:
        version, python, lines = None, None, None
    by_package: dict[str, dict[str, tuple[str, ...]]] = {}
    for kind, registry in REGISTRIES.items():
        for name, entry in registry.entries().items():
            names = by_package.setdefault(entry.distribution, {})
            names[kind] = (*names.get(kind, ()), name)
    return PackageFacts(
        dmpo=version,
        python=platform.python_version(),
        python_asked=python or "",
        packages=required_packages(lines or (), installed_version),
        plugins=tuple(
            Plugins(package=name, names=by_package[name])
            for name in sorted(by_package, key=lambda name: (_name_of(name) != DISTRIBUTION, name))
        ),
    )


def _name_of(package: str) -> str:
    """Return the name in ``name version``."""
    return package.partition(" ")[0]


def installed_version(name: str) -> str | None:
    """Return the installed version of a package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def required_packages(
    lines: Iterable[str], version_of: Callable[[str], str | None]
) -> tuple[Package, ...]:
    """Return the packages that dmpo asks for, and those it can make use of.

    Args:
        lines: Requirements as the package's own metadata has them, those of extras marked.
        version_of: Returns the installed version of a name, or None.
    """
    asked: dict[str, tuple[Requirement, str]] = {}
    for requirement in map(Requirement, lines):
        for extra in EXTRAS:
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": extra}):
                asked.setdefault(canonicalize_name(requirement.name), (requirement, extra))
                break
    required = [name for name, (_, extra) in asked.items() if not extra]
    required.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    optional = [name for name in [*OPTIONAL, *asked] if name not in required]
    return tuple(
        Package(
            name=name,
            version=version_of(name),
            asked=str(asked[name][0].specifier) if name in asked else "",
            extra=asked[name][1] if name in asked else "",
            is_required=name in required,
            purpose=OPTIONAL.get(name, ""),
        )
        for name in dict.fromkeys([*required, *optional])
    )


def package_checks(facts: PackageFacts) -> tuple[Check, ...]:
    """Return a check of Python and of each package, those of dmpo first."""
    accepted = SpecifierSet(facts.python_asked).contains(facts.python, prereleases=True)
    python = Check(
        area="packages",
        name="python",
        state="ok" if accepted else "failed",
        detail=facts.python + ("" if accepted else f", outside {facts.python_asked}"),
        is_needed=True,
        fix="" if accepted else "python3.12 -m venv .venv",
    )
    dmpo = Check(
        area="packages",
        name="dmpo",
        state="failed" if facts.dmpo is None else "ok",
        detail=facts.dmpo or "not installed, so that none of its names is registered",
        is_needed=True,
        fix="pip install --editable ." if facts.dmpo is None else "",
    )
    return (dmpo, python, *map(_package_check, facts.packages))


def _package_check(package: Package) -> Check:
    state: State = "ok"
    detail, fix = package.version or "", ""
    if package.version is None:
        state, detail = (
            ("failed", "missing") if package.is_required else ("absent", "not installed")
        )
        detail += f": {package.purpose}" if package.purpose else ""
    elif not package.is_accepted:
        state, detail = "warning", f"{package.version}, outside {package.asked}"
    if state in ("failed", "warning"):
        fix = f"pip install '{package.name}{package.asked}'"
    return Check(
        area="packages",
        name=package.name,
        state=state,
        detail=detail,
        is_needed=package.is_required,
        fix=fix,
    )


def plugin_checks(plugins: Sequence[Plugins], trial: Trial | None) -> tuple[Check, ...]:
    """Return a check of each package of plugins, and of each plugin that cannot be imported.

    Args:
        plugins: By package.
        trial: How importing all of them went; None: not tried.
    """
    checks = [
        Check(
            area="packages",
            name=f"plugins of {_name_of(each.package)}",
            state="ok",
            detail=", ".join(_counted(len(names), kind) for kind, names in each.names.items()),
        )
        for each in plugins
    ]
    broken: dict[str, str] = {}
    if trial is not None:
        broken = dict(trial.values.get("broken", {}))
        if trial.state == "failed":
            broken["plugins"] = f"cannot all be imported: {trial.detail}"
    if len(broken) > MANY:
        (name, reason), *_ = broken.items()
        broken = {"plugins": f"{len(broken)} cannot be imported, {name} among them: {reason}"}
    checks += [
        Check(area="packages", name=name, state="failed", detail=" ".join(reason.split()))
        for name, reason in broken.items()
    ]
    return tuple(checks)


def _counted(count: int, kind: str) -> str:
    singular = {"policies": "policy", "weights": "weights"}.get(kind, kind.removesuffix("s"))
    return f"{count} {singular if count == 1 else kind}"
