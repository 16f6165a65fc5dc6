"""Things that are tried rather than asked for, in a process that may crash.

    python -m dmpo.doctor.trials sdpa nf4

prints a line of JSON when a trial begins and one when it has ended. Nothing here is imported by
the process that reports: a kernel that crashes takes only this one with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["TRIALS", "UnavailableError", "main"]

ROWS, LENGTH, PADDING = 2, 48, 11
"""Of the batch that attention is tried on: the first row is padded on the left."""
TOLERANCES: Final[Mapping[str, float]] = {"float32": 5e-3, "bfloat16": 1e-1}
"""How far a kernel may be from eager attention, as a share of its largest value."""
SECONDS_OF_TIMING: Final = 1.5
"""Of a comparison of two ways, before it is broken off."""


class UnavailableError(Exception):
    """What cannot be tried here, and why; no fault."""


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _torch() -> dict[str, Any]:
    """Import torch, and return what it says of itself and of the devices."""
    began = time.perf_counter()
    import torch

    seconds = time.perf_counter() - began
    cuda_error = ""
    gpus: list[dict[str, Any]] = []
    if torch.version.cuda or getattr(torch.version, "hip", None):
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            gpus = [_gpu(index) for index in range(torch.cuda.device_count())]
        except Exception as error:
            cuda_error = f"{type(error).__name__}: {error}"
    return {
        "import_seconds": seconds,
        "version": torch.__version__,
        "cuda_build": torch.version.cuda or "",
        "rocm_build": getattr(torch.version, "hip", None) or "",
        "cuda_error": cuda_error,
        "gpus": gpus,
        "has_mps": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        free, total = torch.cuda.mem_get_info()
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "name": properties.name,
        "free": free,
        "total": total,
        "capability": f"{properties.major}.{properties.minor}",
        "has_bf16": has_bf16,
    }


def _plugins() -> dict[str, Any]:
    """Import every plugin, and return those that fail."""
    from dmpo.registry import REGISTRIES

    broken = {
        f"{kind}/{name}": reason
        for kind, registry in REGISTRIES.items()
        for name, reason in registry.broken().items()
    }
    return {"broken": broken}


def _attention(kernel: str) -> Callable[[], dict[str, Any]]:
    """Return a trial of a kernel: a padded batch there and back, beside eager attention."""

    def run() -> dict[str, Any]:
        from dmpo.errors import ConfigError
        from dmpo.policies.loading import check_attention

        dtype = "bfloat16" if kernel.startswith("flash") else "float32"
        try:
            check_attention(kernel, dtype=dtype)
        except ConfigError as error:
            reason = str(error).partition(f": {kernel} ")[2].partition(";")[0]
            raise UnavailableError(re.sub(r"^\(\S+\) ", "", reason)) from None
        try:
            values = _there_and_back(kernel, dtype)
        except NotImplementedError as error:
            raise UnavailableError(_first_line(error)) from None
        if kernel == "eager":
            return {"detail": f"forward and backward ({dtype})"}
        difference = _difference(values, _there_and_back("eager", dtype))
        if not difference <= TOLERANCES[dtype]:
            raise RuntimeError(f"differs from eager by {difference:.1e} of the largest value")
        return {"detail": f"forward and backward, {difference:.0e} from eager ({dtype})"}

    return run


def _there_and_back(kernel: str, dtype: str) -> tuple[Any, Any]:
    """Return the states of real tokens, and the gradient of the embedding."""
    import torch

    from dmpo.policies.denoiser import mask_positions
    from dmpo.policies.tiny import LladaShape, new_llada

    device = _device()
    shape = LladaShape(d_model=128, n_heads=4, n_layers=2, mlp_hidden_size=128)
    model, _ = new_llada(shape, attention=kernel)
    model.to(device=device, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, len(shape.characters), (ROWS, LENGTH), generator=generator)
    tokens = tokens.to(device)
    visible = torch.ones_like(tokens, dtype=torch.bool)
    visible[0, :PADDING] = False
    # On a CPU to compile a kernel takes minutes, and it refuses the same without.
    stance = "default" if device.type == "cuda" else "force_eager"
    with torch.compiler.set_stance(stance):
        hidden = model.model(
            input_ids=tokens,
            attention_mask=visible,
            position_ids=mask_positions(visible),
            use_cache=False,
        ).last_hidden_state[visible]
        pull = torch.randn(hidden.shape, generator=generator).to(hidden)
        (hidden * pull).sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    return hidden.detach().float().cpu(), gradient.float().cpu()


def _difference(values: tuple[Any, ...], others: tuple[Any, ...]) -> float:
    pairs = zip(values, others, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _bf16() -> dict[str, Any]:
    """Take a product under autocast, as training.mixed_precision bf16 does, and time it."""
    import torch

    device = _device()
    width = 4096 if device.type == "cuda" else 384
    count = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)  # so that others who use the machine disturb both alike
    layer = torch.nn.Linear(width, width, device=device)
    batch = torch.randn(width, width, device=device)

    def step(is_mixed: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            total = layer(batch).float().square().mean()
        total.backward()
        if not total.detach().item() < float("inf"):  # which waits for the device
            raise RuntimeError("a product in bfloat16 is not finite")

    plain, mixed = _side_by_side(lambda: step(False), lambda: step(True))
    torch.set_num_threads(count)
    ratio = plain / mixed
    return {"detail": f"runs, {ratio:.2g} times as fast as float32", "speedup": ratio}


def _threads() -> dict[str, Any]:
    """Time a step of a model as small as the packaged one, on one thread and on all."""
    import torch

    from dmpo.policies.tiny import LladaShape, new_llada

    if _device().type != "cpu":
        raise UnavailableError("matters on a CPU alone")
    model, _ = new_llada(LladaShape(), attention="sdpa")
    tokens = torch.zeros((16, 32), dtype=torch.long)

    def step(count: int) -> None:
        torch.set_num_threads(count)
        model(input_ids=tokens, use_cache=False).logits.logsumexp(-1).sum().backward()

    count = torch.get_num_threads()
    if count == 1:
        return {"detail": "one", "count": 1, "gain": 1.0}
    one, all_of_them = _side_by_side(lambda: step(1), lambda: step(count))
    gain = one / all_of_them
    detail = f"{count}: a small model is {gain:.2g} times as fast as on one"
    return {"detail": detail, "count": count, "gain": gain}


def _side_by_side(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Return the shortest time of each, taken in turns for a second or two."""
    best = [float("inf"), float("inf")]
    for each in (first, second):
        each()  # what is only done once
    until = time.perf_counter() + SECONDS_OF_TIMING
    for _ in range(20):
        for index, each in enumerate((first, second)):
            began = time.perf_counter()
            each()
            best[index] = min(best[index], time.perf_counter() - began)
        if time.perf_counter() > until:
            break
    return best[0], best[1]


def _nf4() -> dict[str, Any]:
    """Run a layer in 4 bits."""
    import importlib.util

    import torch

    from dmpo.errors import ConfigError
    from dmpo.policies.quantization import check_quantization

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnavailableError("needs the package bitsandbytes, which is not installed")
    try:
        check_quantization("nf4")
    except ConfigError as error:
        reason = str(error).partition("bitsandbytes: ")[2].partition(";")[0]
        raise UnavailableError(reason or str(error)) from None
    import bitsandbytes  # type: ignore[import-not-found,unused-ignore]

    plain = torch.nn.Linear(256, 256, bias=False)
    layer = bitsandbytes.nn.Linear4bit(
        256, 256, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    )
    layer.load_state_dict(plain.state_dict())
    layer.to(_device())
    batch = torch.randn(4, 256, device=_device(), dtype=torch.bfloat16)
    with torch.no_grad():
        exact = batch.float().cpu() @ plain.weight.T
        loss = float((layer(batch).float().cpu() - exact).norm() / exact.norm())
    if not loss < 0.3:
        raise RuntimeError(f"a product in 4 bits is off by {loss:.0%}")
    return {"detail": f"a product in 4 bits is {loss:.0%} off"}


def _liger() -> dict[str, Any]:
    """Take log-probabilities by Liger's fused kernel, and beside it without."""
    import importlib.util

    import torch

    from dmpo.policies.kernels import fused_log_probs

    if importlib.util.find_spec("liger_kernel") is None:
        raise UnavailableError("needs the package liger-kernel, which is not installed")
    device = _device()
    if device.type != "cuda":
        raise UnavailableError("needs a CUDA device, and there is none here")
    head = torch.nn.Linear(256, 1024, bias=False, device=device)
    head.requires_grad_(False)
    hidden = torch.randn(64, 256, device=device, requires_grad=True)
    targets = torch.arange(64, device=device)
    fused = fused_log_probs(hidden, head, targets)
    if fused is None:
        raise RuntimeError("liger-kernel is installed, but its fused loss cannot be imported")
    fused.sum().backward()  # type: ignore[no-untyped-call]
    exact = head(hidden).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    difference = float((fused - exact).detach().abs().max())
    if not difference < 0.05:
        raise RuntimeError(f"is {difference:.1e} nats off")
    return {"detail": f"forward and backward, {difference:.0e} nats from whole logits"}


def _processes(backend: str) -> Callable[[], dict[str, Any]]:
    """Return a trial of a back end between processes: a sum over one process."""

    def run() -> dict[str, Any]:
        import torch
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_backend_available(backend):
            raise UnavailableError("is not in this build of torch")
        if backend == "nccl" and not torch.cuda.is_available():
            raise UnavailableError("needs a CUDA device, and there is none here")
        device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(
                backend, init_method=f"file://{folder}/store", rank=0, world_size=1
            )
            try:
                total = torch.ones(4, device=device)
                dist.all_reduce(total)
                value = float(total.sum())
            finally:
                dist.destroy_process_group()
        if value != 4.0:
            raise RuntimeError(f"a sum over one process is {value}, not 4")
        return {"detail": "a sum over one process runs"}

    return run


def _compile() -> dict[str, Any]:
    """Compile a block and run it there and back."""
    import torch

    device = _device()
    layer = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.SiLU()).to(device)
    batch = torch.randn(8, 64, device=device)
    expected = layer(batch)
    began = time.perf_counter()
    layer.compile()
    found = layer(batch)
    found.sum().backward()
    seconds = time.perf_counter() - began
    if not torch.allclose(found, expected, atol=1e-2):
        raise RuntimeError("a compiled layer computes something else")
    return {"detail": f"runs; the first call took {seconds:.0f} s"}


def _sandbox() -> dict[str, Any]:
    """Run a program under the limits of code tasks, and one that breaks them."""
    from dmpo.tasks.sandbox import Program, run_programs
    from dmpo.tasks.unit_tests import unit_tests

    tests = unit_tests("assert double(2) == 4")
    escape = "def double(n):\n    open('/etc/hostname').read()\n    return 2 * n"
    good, bad = run_programs(
        [Program("def double(n):\n    return 2 * n", tests), Program(escape, tests)], workers=1
    )
    if not all(good.passed):
        raise RuntimeError(f"a correct program does not pass: {good.reason or 'no reason given'}")
    if any(bad.passed):
        raise RuntimeError("a program could read a file that is none of its own")
    return {
        "detail": "programs are held by Python's audit hook and resource limits"
        + (" and by the kernel's system-call filter" if good.by_kernel else ""),
        "by_kernel": good.by_kernel,
    }


def _rehearsal() -> dict[str, Any]:
    """Have ``dmpo train`` build and check its demonstration."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "dmpo", "train", "--dry-run"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])
    return {"detail": "the demonstration is built and checked"}


def _hub() -> dict[str, Any]:
    """Ask the hub for its front page's header."""
    from dmpo.doctor.network import answer_of, endpoint

    return {"answer": answer_of(endpoint())}


TRIALS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {
    "hub": _hub,
    "sandbox": _sandbox,
    "torch": _torch,
    "plugins": _plugins,
    "sdpa": _attention("sdpa"),
    "eager": _attention("eager"),
    "flex_attention": _attention("flex_attention"),
    "flash_attention_2": _attention("flash_attention_2"),
    "flash_attention_3": _attention("flash_attention_3"),
    "bf16": _bf16,
    "threads": _threads,
    "nf4": _nf4,
    "liger": _liger,
    "gloo": _processes("gloo"),
    "nccl": _processes("nccl"),
    "compile": _compile,
    "rehearsal": _rehearsal,
}
"""What can be tried, by name."""


def main(names: list[str]) -> None:
    """Try one thing after the other, and say of each how it went."""
    # What libraries print shall not stand between the lines.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        for name in names:
            _say(replies, {"begun": name})
            _say(replies, {"ended": name, **_tried(TRIALS[name])})


def _tried(trial: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        values: dict[str, Any] = trial()
        state, detail = "ok", str(values.pop("detail", ""))
    except UnavailableError as error:
        values, state, detail = {}, "absent", str(error)
    except Exception as error:
        values, state = {}, "failed"
        detail = f"{type(error).__name__}: {_first_line(error)}"
    seconds = time.perf_counter() - began
    return {"state": state, "detail": detail, "values": values, "seconds": seconds}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _say(stream: Any, record: Mapping[str, Any]) -> None:
    stream.write(json.dumps(record) + "\n")
    stream.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
        main(sys.argv[1:])
