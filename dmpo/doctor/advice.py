"""From what was found to what would help, and whether a run can be started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dmpo.doctor.base import Advice, Check, readable_bytes
from dmpo.doctor.devices import DeviceFacts
from dmpo.doctor.kernels import Trial
from dmpo.doctor.network import NetworkFacts

__all__ = ["faster", "verdict", "wrong"]

OVER_THE_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "afs", "ceph")
"""File systems that are somewhere else."""
ROOMY: Final = 100 * 2**30
"""Bytes of a GPU's memory from which an 8B model's activations need no saving."""
WORTH_IT: Final = 1.2
"""Gain from which a change is worth a line."""


def faster(
    devices: DeviceFacts | None, trials: Mapping[str, Trial], network: NetworkFacts | None
) -> tuple[Advice, ...]:
    """Return what would make training faster here; nothing that does not apply.

    Args:
        devices: What was found of the devices; None: nothing.
        trials: How each thing went that was tried, by name.
        network: What was found of the hub; None: nothing.
    """
    advice: list[Advice] = []
    if devices is not None and devices.gpus:
        advice += _on_gpus(devices, trials)
    elif devices is not None and devices.torch:
        advice += _on_a_cpu(devices, trials)
    if network is not None and network.cache_kind in OVER_THE_NETWORK:
        advice.append(
            Advice(
                text=f"The hub's cache lies on {network.cache_kind}, another machine's disk: "
                "loading a model waits for the network.",
                command="export HF_HOME=/local/disk/huggingface",
            )
        )
    return tuple(advice)


def _on_gpus(devices: DeviceFacts, trials: Mapping[str, Trial]) -> Iterator[Advice]:
    gpus = devices.gpus
    if _is(trials, "liger", "absent"):
        yield Advice(
            text="liger-kernel takes log-probabilities without whole logits: less memory at "
            "LLaDA's vocabulary, so more rows at once.",
            command="pip install 'liger-kernel>=0.6'",
        )
    if all(gpu.has_bf16 for gpu in gpus):
        yield Advice(
            text="bfloat16 is fast here: hold the weights of a large model so, under adapters; "
            "where all weights train, keep them in float32 and compute in bfloat16 "
            "(--training.mixed_precision bf16).",
            command="dmpo train --policy.dtype bfloat16",
        )
    if _is(trials, "sdpa", "ok") and not _is(trials, "flash_attention_2", "ok"):
        yield Advice(
            text="flash-attn is not needed: sdpa, the default, runs torch's own fused kernels.",
        )
    if _is(trials, "compile", "ok"):
        yield Advice(
            text="Compiled blocks are faster after a slow first step; CUDA graphs (graphs in place "
            "of blocks) help where the model is small and sequences are short.",
            command="dmpo train --policy.compilation blocks",
        )
    smallest = min(gpu.total for gpu in gpus)
    if smallest < ROOMY:
        yield Advice(
            text=f"With {readable_bytes(smallest)} on a GPU, an 8B model has room for more rows at "
            "once where blocks are recomputed; dmpo finds the number by itself.",
            command="dmpo train --policy.gradient_checkpointing true --auto-micro-batch",
        )
    if len(gpus) > 1:
        yield Advice(
            text=f"There are {len(gpus)} GPUs, and a run takes one unless told otherwise.",
            command=f"dmpo train --processes {len(gpus)}",
        )


def _on_a_cpu(devices: DeviceFacts, trials: Mapping[str, Trial]) -> Iterator[Advice]:
    threads = trials.get("threads")
    gain = 1.0 if threads is None else float(threads.values.get("gain", 1.0))
    if gain < 1 / WORTH_IT:
        yield Advice(
            text=f"The packaged model is small: on one thread it takes {gain:.0%} of the time that "
            f"it takes on {devices.threads}, as things stand now.",
            command="export OMP_NUM_THREADS=1",
        )
    if (
        gain > WORTH_IT
        and devices.omp_threads.isdigit()
        and int(devices.omp_threads) < devices.cores
    ):
        yield Advice(
            text=f"OMP_NUM_THREADS={devices.omp_threads} leaves some of the {devices.cores} cores "
            "idle, and more threads help here.",
            command=f"export OMP_NUM_THREADS={devices.cores}",
        )
    mixed = trials.get("bf16")
    if mixed is not None and 0 < float(mixed.values.get("speedup", 0.0)) < 1 / WORTH_IT:
        yield Advice(
            text="This CPU takes longer in bfloat16 than in float32; stay with the defaults.",
            command="dmpo train --training.mixed_precision no --policy.dtype float32",
        )
    if not devices.seen_by_driver:
        yield Advice(
            text="There is no GPU: the packaged model trains in minutes, an 8B model does not; "
            "`dmpo train --dry-run` says what it needs.",
        )


def wrong(checks: Sequence[Check]) -> tuple[Advice, ...]:
    """Return what does not work as it should, what stops a run first."""
    bad = [check for check in checks if check.state in ("failed", "warning")]
    bad.sort(key=lambda check: (not (check.is_needed and check.state == "failed"), check.state))
    return tuple(Advice(text=f"{check.name}: {check.detail}.", command=check.fix) for check in bad)


def verdict(checks: Sequence[Check], devices: DeviceFacts | None) -> tuple[bool, str]:
    """Return whether a run can be started here, and that in one line."""
    stops = [check for check in checks if check.is_needed and check.state == "failed"]
    if stops:
        first = f"{stops[0].name}: {stops[0].detail}"
        more = f" (and {len(stops) - 1} more)" if len(stops) > 1 else ""
        return False, f"Training cannot run here: {first}{more}."
    others = sum(check.state in ("failed", "warning") for check in checks)
    notes = {0: "", 1: "; 1 thing is not as it should be"}.get(
        others, f"; {others} things are not as they should be"
    )
    return True, f"Training can run here, on {_where(devices)}{notes}."


def _where(devices: DeviceFacts | None) -> str:
    if devices is None or not devices.gpus:
        cores = 1 if devices is None else devices.cores
        return f"the CPU ({cores} {'core' if cores == 1 else 'cores'})"
    names = [gpu.name for gpu in devices.gpus]
    count = "" if len(names) == 1 else f"{len(names)} × "
    return count + (names[0] if len(set(names)) == 1 else ", ".join(dict.fromkeys(names)))


def _is(trials: Mapping[str, Trial], name: str, state: str) -> bool:
    return name in trials and trials[name].state == state
