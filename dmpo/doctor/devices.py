"""The devices: processors, memory and GPUs, as torch and the system see them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmpo.doctor.base import Check, State, found, readable_bytes
from dmpo.doctor.kernels import Trial

__all__ = ["DeviceFacts", "Gpu", "device_checks", "read_devices", "torch_checks"]

SMI: Final = ("--query-gpu=name,driver_version", "--format=csv,noheader")
DRIVER: Final = Path("/proc/driver/nvidia")
SECONDS_OF_SMI: Final = 15.0
MOSTLY_TAKEN: Final = 0.5
"""Share of a GPU's memory below which what is free is worth a warning."""
SLOW_IMPORT: Final = 20.0
"""Seconds of importing torch from which its files are on a slow disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device that torch can compute on."""

    name: str
    """As its maker calls it."""
    free: int
    """Bytes of its memory that nobody has taken."""
    total: int
    """Bytes of its memory."""
    capability: str
    """Compute capability, ``9.0``."""
    has_bf16: bool
    """Whether it computes in bfloat16 itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What was found of the devices."""

    cores: int
    """That this process may use."""
    quota: float | None
    """Cores' worth of time that a container is given; None: no limit."""
    omp_threads: str
    """OMP_NUM_THREADS; empty: not set."""
    memory_total: int | None
    """Bytes of main memory, or of the container's limit; None: unknown."""
    memory_free: int | None
    """Bytes that can be had without swapping; None: unknown."""
    seen_by_driver: tuple[str, ...]
    """Names of the GPUs that the driver's own tool lists."""
    driver: str
    """Version of the GPU driver; empty: none found."""
    gpus: tuple[Gpu, ...]
    """That torch can use."""
    torch: str
    """Version of torch; empty: it cannot be imported."""
    build: str
    """``CUDA 12.8``, ``ROCm 6.4`` or ``CPU alone``; empty: unknown."""
    cuda_error: str
    """Why a CUDA build finds no device; empty: no error."""
    has_mps: bool
    """Whether Apple's GPU is there, which dmpo leaves alone."""
    threads: int | None
    """That torch computes with on the CPU."""
    import_seconds: float | None
    """That importing torch took."""


def read_devices(torch: Trial | None) -> DeviceFacts:
    """Read what the system says of the devices.

    Args:
        torch: How importing torch went in another process; None: not tried.
    """
    values: Mapping[str, Any] = {} if torch is None else torch.values
    listed = found(_seen_by_driver) or ()
    cores = found(_num_cores) or 1
    memory = found(_memory)
    return DeviceFacts(
        cores=cores,
        quota=found(_quota),
        omp_threads=os.environ.get("OMP_NUM_THREADS", ""),
        memory_total=None if memory is None else memory[0],
        memory_free=None if memory is None else memory[1],
        seen_by_driver=tuple(name for name, _ in listed),
        driver=next((driver for _, driver in listed), ""),
        gpus=tuple(Gpu(**gpu) for gpu in values.get("gpus", ())),
        torch=values.get("version", ""),
        build=_build(values) if values else "",
        cuda_error=values.get("cuda_error", ""),
        has_mps=bool(values.get("has_mps")),
        threads=values.get("threads"),
        import_seconds=values.get("import_seconds"),
    )


def torch_checks(facts: DeviceFacts, trial: Trial | None) -> tuple[Check, ...]:
    """Return the checks of torch itself: that it is imported, for what it is built, how fast.

    Args:
        facts: What was read.
        trial: How importing it went; None: not tried.
    """
    if trial is None or trial.state != "ok":
        return (
            Check(
                area="devices",
                name="import torch",
                state="failed",
                detail="not tried" if trial is None else trial.detail,
                is_needed=True,
                fix="pip install --force-reinstall torch",
            ),
        )
    seconds = facts.import_seconds or 0.0
    is_slow = seconds > SLOW_IMPORT
    without_gpu = bool(facts.seen_by_driver) and not facts.gpus
    return (
        Check(
            area="devices",
            name="torch's build",
            state="failed" if without_gpu else "ok",
            detail=facts.build + (f": {_why_no_gpu(facts)}" if without_gpu else ""),
            fix=_torch_fix(facts) if without_gpu else "",
        ),
        Check(
            area="devices",
            name="import torch",
            state="warning" if is_slow else "ok",
            detail=f"{seconds:.1f} s" + (": its files lie on a slow disk" if is_slow else ""),
        ),
    )


def device_checks(facts: DeviceFacts) -> tuple[Check, ...]:
    """Return the checks of processors, memory and each GPU."""
    quota = "" if facts.quota is None else f", {facts.quota:g} cores' time by the container's limit"
    threads = "" if facts.threads is None else f", {facts.threads} threads"
    omp = f" (OMP_NUM_THREADS={facts.omp_threads})" if facts.omp_threads else ""
    checks = [
        Check(
            area="devices",
            name="CPU",
            state="ok",
            detail=f"{facts.cores} {'core' if facts.cores == 1 else 'cores'}{quota}{threads}{omp}",
        ),
        Check(
            area="devices",
            name="memory",
            state="ok" if facts.memory_total is not None else "warning",
            detail=_memory_text(facts),
        ),
        *(_gpu_check(index, gpu) for index, gpu in enumerate(facts.gpus)),
    ]
    if not facts.gpus:
        checks.append(
            Check(area="devices", name="GPU", state="absent", detail="none that torch can use")
        )
    if facts.driver:
        checks.append(Check(area="devices", name="GPU driver", state="ok", detail=facts.driver))
    if facts.has_mps:
        checks.append(
            Check(
                area="devices",
                name="Apple GPU",
                state="absent",
                detail="there, and not used: it has no float64, which masks and weights need",
            )
        )
    return tuple(checks)


def _memory_text(facts: DeviceFacts) -> str:
    if facts.memory_total is None or facts.memory_free is None:
        return "could not be found out"
    return f"{readable_bytes(facts.memory_free)} of {readable_bytes(facts.memory_total)} free"


def _gpu_check(index: int, gpu: Gpu) -> Check:
    state: State = "ok"
    detail = (
        f"{gpu.name}, {readable_bytes(gpu.free)} of {readable_bytes(gpu.total)} free, "
        f"compute capability {gpu.capability}, bfloat16 {'yes' if gpu.has_bf16 else 'no'}"
    )
    if gpu.free < MOSTLY_TAKEN * gpu.total:
        state, detail = "warning", f"{detail}; others hold most of its memory"
    return Check(
        area="devices",
        name=f"GPU {index}",
        state=state,
        detail=detail,
        fix="nvidia-smi" if state == "warning" else "",
    )


def _why_no_gpu(facts: DeviceFacts) -> str:
    count = len(facts.seen_by_driver)
    seen = f"the driver lists {count} {'GPU' if count == 1 else 'GPUs'}"
    if facts.build == "CPU alone":
        return f"{seen}, and this build cannot use {'it' if count == 1 else 'them'}"
    reason = facts.cuda_error or "no device is visible (CUDA_VISIBLE_DEVICES?)"
    return f"{seen}, and torch finds none: {reason}"


def _torch_fix(facts: DeviceFacts) -> str:
    if facts.build == "CPU alone":
        return (
            "pip install --force-reinstall --index-url https://download.pytorch.org/whl/cu128 torch"
        )
    return "nvidia-smi; echo $CUDA_VISIBLE_DEVICES"


def _build(values: Mapping[str, Any]) -> str:
    if values.get("cuda_build"):
        return f"CUDA {values['cuda_build']}"
    return f"ROCm {values['rocm_build']}" if values.get("rocm_build") else "CPU alone"


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> float | None:
    """Return how many cores' time the container's limit allows."""
    given, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    return None if given == "max" else int(given) / int(period)


def _memory() -> tuple[int, int]:
    """Return bytes of memory in all and to be had, the container's limit counted in."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit = found(lambda: int(Path("/sys/fs/cgroup/memory.max").read_text()))
    if limit is not None and limit < total:
        used = found(lambda: int(Path("/sys/fs/cgroup/memory.current").read_text())) or 0
        total, free = limit, min(free, max(0, limit - used))
    return total, free


def _seen_by_driver() -> tuple[tuple[str, str], ...]:
    """Return name and driver version of each GPU that NVIDIA's tool, or its driver, lists."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        cards = [path.read_text() for path in DRIVER.glob("gpus/*/information")]
        version = (DRIVER / "version").read_text().split("  ")[1:2]
        return tuple((_model(card), "".join(version)) for card in cards)
    done = subprocess.run(
        [tool, *SMI], check=True, capture_output=True, text=True, timeout=SECONDS_OF_SMI
    )
    pairs = (line.rpartition(",") for line in done.stdout.splitlines() if "," in line)
    return tuple((name.strip(), driver.strip()) for name, _, driver in pairs)


def _model(card: str) -> str:
    """Return what a card's file calls it."""
    lines = (line.partition(":") for line in card.splitlines())
    return next((value.strip() for key, _, value in lines if key == "Model"), "a GPU")
