"""Facts of machines that are not here."""

from __future__ import annotations

from typing import Any

from dmpo.doctor.devices import DeviceFacts, Gpu
from dmpo.doctor.kernels import Trial
from dmpo.doctor.network import NetworkFacts
from dmpo.doctor.system import SystemFacts

GIB = 2**30


def gpu(**changes: Any) -> Gpu:
    """Return an H100 that nobody uses."""
    facts: dict[str, Any] = {
        "name": "NVIDIA H100",
        "free": 79 * GIB,
        "total": 80 * GIB,
        "capability": "9.0",
        "has_bf16": True,
    }
    return Gpu(**facts | changes)


def devices(**changes: Any) -> DeviceFacts:
    """Return a machine of four cores without a GPU."""
    facts: dict[str, Any] = {
        "cores": 4,
        "quota": None,
        "omp_threads": "",
        "memory_total": 16 * GIB,
        "memory_free": 8 * GIB,
        "seen_by_driver": (),
        "driver": "",
        "gpus": (),
        "torch": "2.11.0+cpu",
        "build": "CPU alone",
        "cuda_error": "",
        "has_mps": False,
        "threads": 4,
        "import_seconds": 2.0,
    }
    return DeviceFacts(**facts | changes)


def network(**changes: Any) -> NetworkFacts:
    """Return a hub with a roomy cache."""
    facts: dict[str, Any] = {
        "endpoint": "https://huggingface.co",
        "is_offline": False,
        "has_token": False,
        "cache": "/cache",
        "cache_free": 100 * GIB,
        "cache_kind": "ext4",
    }
    return NetworkFacts(**facts | changes)


def system(**changes: Any) -> SystemFacts:
    """Return a system as it should be."""
    facts: dict[str, Any] = {
        "folder": "/work",
        "folder_free": 100 * GIB,
        "is_writable": True,
        "encoding": "UTF-8",
        "names": "utf-8",
        "shared": 8 * GIB,
        "open_files": 65536,
    }
    return SystemFacts(**facts | changes)


def trials(**states: Any) -> dict[str, Trial]:
    """Return trials by name, from their states or from what they found."""
    return {
        name: Trial(name=name, state=given, detail="")
        if isinstance(given, str)
        else Trial(name=name, state="ok", detail="", values=given)
        for name, given in states.items()
    }
