"""The whole examination, each part of which may fail without the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dmpo.doctor.advice import faster, verdict, wrong
from dmpo.doctor.base import Area, Check, Report
from dmpo.doctor.devices import device_checks, read_devices, torch_checks
from dmpo.doctor.kernels import kernel_checks, run_trials
from dmpo.doctor.network import is_offline, network_checks, read_network
from dmpo.doctor.packages import package_checks, plugin_checks, read_packages
from dmpo.doctor.system import read_system, system_checks

__all__ = ["examine", "trial_names"]

FIRST = ("sandbox", "torch", "plugins")
KERNELS = (
    *("sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"),
    *("bf16", "threads", "nf4", "liger", "gloo", "nccl"),
)
GPU_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Where a GPU's driver is, one of these is: NVIDIA's, AMD's, Windows's."""

T = TypeVar("T")


def trial_names(*, asks_network: bool, is_thorough: bool, has_gpu: bool) -> tuple[str, ...]:
    """Return what is tried, in this order.

    Args:
        asks_network: Whether the hub is asked.
        is_thorough: Whether what takes long is tried, too.
        has_gpu: Whether there is one: there the compiler is tried in any case.
    """
    return (
        *(("hub",) if asks_network else ()),
        *FIRST,
        # Before flex_attention, after whose refusal on a CPU nothing is compiled any more.
        *(("compile",) if is_thorough or has_gpu else ()),
        *KERNELS,
        *(("rehearsal",) if is_thorough else ()),
    )


def examine(
    *,
    asks_network: bool = True,
    is_thorough: bool = False,
    on_begin: Callable[[str], None] = lambda name: None,  # noqa: ARG005
) -> Report:
    """Find out what is installed and what works on this machine.

    Nothing is written, and nobody but the hub is asked, which HF_HUB_OFFLINE prevents.

    Args:
        asks_network: Whether the hub is asked.
        is_thorough: Whether what takes long is tried, too: the compiler, and a rehearsal of
            ``dmpo train``.
        on_begin: Called with the name of each trial that begins.
    """
    names = trial_names(
        asks_network=asks_network and not is_offline(),
        is_thorough=is_thorough,
        has_gpu=any(Path(node).exists() for node in GPU_NODES),
    )
    trials = run_trials(names, on_begin=on_begin)
    torch = trials.get("torch")
    checks: list[Check] = []
    packages = _read("packages", read_packages, checks)
    if packages is not None:
        checks += package_checks(packages)
        checks += plugin_checks(packages.plugins, trials.get("plugins"))
    devices = _read("devices", lambda: read_devices(torch), checks)
    if devices is not None:
        checks += torch_checks(devices, torch)
        checks += device_checks(devices)
    checks += kernel_checks(trials)
    network = _read("network", read_network, checks)
    if network is not None:
        checks += network_checks(network, trials.get("hub"))
    system = _read("system", read_system, checks)
    if system is not None:
        checks += system_checks(system, trials.get("sandbox"))
    can_train, line = verdict(checks, devices)
    return Report(
        checks=tuple(checks),
        faster=faster(devices, trials, network),
        wrong=wrong(checks),
        can_train=can_train,
        verdict=line,
    )


def _read(area: Area, read: Callable[[], T], checks: list[Check]) -> T | None:
    """Return what an area's reader found; where it fails, that is a check of its own."""
    try:
        return read()
    except Exception as error:
        detail = f"could not be found out: {type(error).__name__}: {error}"
        checks.append(Check(area=area, name=area, state="failed", detail=" ".join(detail.split())))
        return None
