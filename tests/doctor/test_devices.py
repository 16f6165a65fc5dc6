from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dmpo.doctor.base import Check
from dmpo.doctor.devices import DeviceFacts, device_checks, read_devices, torch_checks
from dmpo.doctor.kernels import Trial
from tests.doctor.facts import GIB, devices, gpu

IMPORTED = Trial(name="torch", state="ok", detail="")


def named(checks: tuple[Check, ...], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def build(**changes: Any) -> Check:
    return named(torch_checks(devices(**changes), IMPORTED), "torch's build")


def test_a_gpu_says_memory_capability_and_bfloat16() -> None:
    check = named(device_checks(devices(gpus=(gpu(),))), "GPU 0")
    assert check.state == "ok"
    assert check.detail == (
        "NVIDIA H100, 79.0 GiB of 80.0 GiB free, compute capability 9.0, bfloat16 yes"
    )


def test_a_gpu_that_others_use_is_a_warning() -> None:
    check = named(device_checks(devices(gpus=(gpu(free=2 * GIB),))), "GPU 0")
    assert (check.state, check.fix) == ("warning", "nvidia-smi")


def test_a_build_for_the_cpu_beside_a_gpu_fails_with_the_build_to_install() -> None:
    check = build(seen_by_driver=("NVIDIA H100",))
    assert check.state == "failed"
    assert "the driver lists 1 GPU, and this build cannot use it" in check.detail
    assert check.fix.startswith("pip install --force-reinstall --index-url https://")


def test_a_cuda_build_that_finds_no_gpu_says_why() -> None:
    check = build(seen_by_driver=("A", "B"), build="CUDA 12.8", cuda_error="driver too old")
    assert "the driver lists 2 GPUs, and torch finds none: driver too old" in check.detail


def test_a_build_for_the_cpu_on_a_machine_without_a_gpu_is_as_it_should_be() -> None:
    assert build().state == "ok"


def test_torch_that_cannot_be_imported_stops_everything() -> None:
    trial = Trial(name="torch", state="failed", detail="ImportError: libcudnn.so.9")
    (check,) = torch_checks(devices(), trial)
    assert (check.state, check.is_needed) == ("failed", True)
    assert check.detail == "ImportError: libcudnn.so.9"


def test_an_apple_gpu_is_named_with_the_reason_why_it_is_left_alone() -> None:
    assert "no float64" in named(device_checks(devices(has_mps=True)), "Apple GPU").detail


def test_a_quota_and_the_variable_for_threads_are_said() -> None:
    check = named(device_checks(devices(quota=1.5, omp_threads="1", threads=1)), "CPU")
    assert check.detail == (
        "4 cores, 1.5 cores' time by the container's limit, 1 threads (OMP_NUM_THREADS=1)"
    )


def test_what_torch_said_in_the_other_process_is_read() -> None:
    values = {"version": "2.11.0", "cuda_build": "12.8", "gpus": [asdict(gpu())], "threads": 3}
    facts = read_devices(Trial(name="torch", state="ok", detail="", values=values))
    assert isinstance(facts, DeviceFacts)
    assert (facts.gpus, facts.build, facts.threads) == ((gpu(),), "CUDA 12.8", 3)
    assert facts.cores >= 1
    assert facts.memory_total is not None
