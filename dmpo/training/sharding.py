"""How the weights lie on the processes: whole on each (DDP), or in parts (FSDP2, ZeRO).

Accelerate reads from its launcher's environment which of them it is, and wraps the module. What
differs behind that, and the loop must know, is here: when gradients are exchanged, how the whole
weights come together for sampling and saving, and where the optimizer keeps its state.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from dmpo.policies.sharded import part_like, whole

__all__ = [
    "Fsdp2Weights",
    "Weights",
    "WholeWeights",
    "ZeroWeights",
    "allow_sharding_on_cpu",
    "give_deepspeed_sizes",
    "uses_deepspeed",
    "weights_of",
]


MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


class Weights(ABC):
    """The module, the optimizer, and how they lie on the processes."""

    def __init__(self, accelerator: Accelerator, module: Any, optimizer: Any) -> None:
        """Keep what Accelerate has prepared."""
        self.accelerator = accelerator
        self.module = module
        self.optimizer = optimizer

    def share_out(self, frozen: nn.Module) -> None:  # noqa: B027  (whole ones stay as they are)
        """Lay a module that does not train on the processes as the one that does."""

    can_repeat: bool
    """Whether a process may fail in a backward pass and take it again, the others unawares."""

    @abstractmethod
    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add up gradients; the processes' mean is there after the last."""

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Context of a forward and backward pass of one slice."""
        return contextlib.nullcontext()

    @abstractmethod
    def clip(self, max_norm: float) -> float:
        """Clip the gradient, and return its norm before."""

    def step(self) -> None:
        """Take a step of the optimizer."""
        self.optimizer.step()

    def forget_gradients(self) -> None:
        """Set the gradients to nothing."""
        self.optimizer.zero_grad()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Context in which every process has all weights, so forward passes need no other."""
        yield

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Context in which the module's weights may be written, by all processes alike."""
        yield

    def whole_state(self) -> Mapping[str, Tensor] | None:
        """Return all weights on the CPU, by name in the module; None: the module has them whole.

        Every process calls it; what others than the main one get is not to be used.
        """
        return None

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state as one process alone would have it; all call it."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take the state of :meth:`optimizer_state`; all call it."""
        self.optimizer.load_state_dict(state)


@final
class WholeWeights(Weights):
    """One process, or DDP: each has all weights and the whole optimizer."""

    can_repeat = True

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Exchange gradients in the last backward pass alone."""
        if is_last or self.accelerator.num_processes == 1:
            return contextlib.nullcontext()
        context: AbstractContextManager[None] = self.accelerator.no_sync(self.module)
        return context

    def backward(self, loss: Tensor, *, is_last: bool) -> None:  # noqa: ARG002
        """See :meth:`Weights.backward`."""
        self.accelerator.backward(loss)

    def clip(self, max_norm: float) -> float:
        """See :meth:`Weights.clip`."""
        return float(self.accelerator.clip_grad_norm_(self.module.parameters(), max_norm))


@final
class Fsdp2Weights(Weights):
    """PyTorch's fully sharded data parallel, the second: DTensors of which each has a part.

    Gradients are scattered in every backward pass: to hold them whole until the last would take
    the memory that sharding saves.
    """

    can_repeat = False

    def __init__(self, accelerator: Accelerator, module: Any, optimizer: Any) -> None:
        """Keep what Accelerate has prepared."""
        super().__init__(accelerator, module, optimizer)
        self._modules = [module]

    def share_out(self, frozen: nn.Module) -> None:
        """See :meth:`Weights.share_out`."""
        self._modules.append(fsdp2_prepare_model(self.accelerator, frozen))

    def backward(self, loss: Tensor, *, is_last: bool) -> None:  # noqa: ARG002
        """See :meth:`Weights.backward`."""
        self.accelerator.backward(loss)

    def clip(self, max_norm: float) -> float:
        """See :meth:`Weights.clip`."""
        norm: Any = self.accelerator.clip_grad_norm_(self.module.parameters(), max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather each part once and keep it: so no forward pass waits for another process."""
        whole = [part for module in self._modules for part in module.modules()]
        parts = [part for part in whole if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                # PyTorch's own choice: the outermost is needed again at once.
                part.set_reshard_after_forward(part not in self._modules, recurse=False)

    def whole_state(self) -> Mapping[str, Tensor]:
        """See :meth:`Weights.whole_state`."""
        return {name: whole(value) for name, value in self.module.state_dict().items()}

    def optimizer_state(self) -> dict[str, Any]:
        """See :meth:`Weights.optimizer_state`."""
        state = super().optimizer_state()
        parts = {
            number: {name: whole(value) for name, value in part.items()}
            for number, part in state["state"].items()
        }
        return {**state, "state": parts}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Weights.load_optimizer_state`."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        parts = {
            number: {
                name: part_like(value, parameters[int(number)]) for name, value in part.items()
            }
            for number, part in state["state"].items()
        }
        super().load_optimizer_state({**state, "state": parts})


@final
class ZeroWeights(Weights):
    """DeepSpeed's ZeRO, stages 2 and 3.

    Its engine is used directly: Accelerate's wrapper of it takes the optimizer's step inside the
    backward pass, before anybody has seen whether the gradient is finite.
    """

    can_repeat = False

    @property
    def _trained(self) -> list[Any]:
        return [p for p in self.module.parameters() if p.requires_grad]

    @property
    def _stage(self) -> int:
        return int(self.module.zero_optimization_stage())

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """See :meth:`Weights.backward`."""
        self.module.set_gradient_accumulation_boundary(is_last)
        self.module.backward(loss)
        if not is_last:
            self.module.step()

    def clip(self, max_norm: float) -> float:
        """See :meth:`Weights.clip`: DeepSpeed clips inside its step, by its configuration."""
        del max_norm
        optimizer = self.module.optimizer
        if self._stage < 3:
            return float(optimizer.scaled_global_norm())
        return float(torch.linalg.vector_norm(torch.stack(optimizer._get_norm_groups())))

    def step(self) -> None:
        """Take a step of the optimizer."""
        self.module.step()

    def forget_gradients(self) -> None:
        """Set the gradients to nothing."""
        self.module.zero_grad()
        self.module.optimizer.zero_grad()

    def _gathering(self, *, modifier_rank: int | None) -> AbstractContextManager[None]:
        """Context in which the parameters of stage 3 are whole on every process."""
        if self._stage < 3:
            return contextlib.nullcontext()
        from deepspeed.runtime.zero import GatheredParameters

        context: AbstractContextManager[None] = GatheredParameters(
            list(self.module.parameters()), modifier_rank=modifier_rank
        )
        return context

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather the parameters of stage 3, and keep DeepSpeed from sharing them out in between.

        Its hooks on every module do so after each forward pass.
        """
        with self._gathering(modifier_rank=None):
            offload = getattr(self.module.optimizer, "parameter_offload", None)
            if offload is not None:
                offload._remove_module_hooks()
                offload.forward_hooks.clear()
                offload.backward_hooks.clear()
            try:
                yield
            finally:
                if offload is not None:
                    offload.setup_zero_stage3_hooks()

    @contextmanager
    def writable(self) -> Iterator[None]:
        """See :meth:`Weights.writable`; what the optimizer steps on is written as well."""
        from deepspeed.utils import safe_set_full_fp32_param

        with self._gathering(modifier_rank=0):
            yield
            written = [parameter.detach().float().clone() for parameter in self._trained]
        for parameter, value in zip(self._trained, written, strict=True):
            safe_set_full_fp32_param(parameter, value)

    def whole_state(self) -> Mapping[str, Tensor] | None:
        """See :meth:`Weights.whole_state`."""
        with self.gathered():
            state = self.module.module.state_dict()
            return {name: value.detach().cpu().clone() for name, value in state.items()}

    def optimizer_state(self) -> dict[str, Any]:
        """See :meth:`Weights.optimizer_state`: gathered parameter by parameter."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner = self.module.optimizer.optimizer
        steps = [part["step"] for part in inner.state.values() if "step" in part]
        state = {
            number: {
                "step": steps[0].detach().cpu(),
                **{name: safe_get_full_optimizer_state(p, name).cpu() for name in MOMENTS},
            }
            for number, p in enumerate(self._trained if steps else ())
        }
        group = {name: value for name, value in inner.param_groups[0].items() if name != "params"}
        return {
            "state": state,
            "param_groups": [{**group, "params": list(range(len(self._trained)))}],
        }

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Weights.load_optimizer_state`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        inner = self.module.optimizer.optimizer
        for number, parameter in enumerate(self._trained):
            for name in MOMENTS:
                if number in state["state"]:
                    safe_set_full_optimizer_state(parameter, state["state"][number][name], name)
        for part in inner.state.values():
            if 0 in state["state"]:
                part["step"] = state["state"][0]["step"].clone()
        group = state["param_groups"][0]
        for own in inner.param_groups:
            own.update({name: value for name, value in group.items() if name != "params"})


def weights_of(accelerator: Accelerator, module: nn.Module, optimizer: Any) -> Weights:
    """Return how Accelerate has laid the weights on the processes."""
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP:
        return Fsdp2Weights(accelerator, module, optimizer)
    if kind == DistributedType.DEEPSPEED:
        return ZeroWeights(accelerator, module, optimizer)
    return WholeWeights(accelerator, module, optimizer)


def allow_sharding_on_cpu(accelerator: Accelerator) -> None:
    """Share weights out where the launcher asks for it and there are several processes on CPUs.

    Accelerate does so for accelerators alone; PyTorch's FSDP2 and DeepSpeed run over gloo just as
    well, which is how a laptop can try what a cluster does.
    """
    if accelerator.device.type != "cpu" or "WORLD_SIZE" not in os.environ:
        return
    facts: dict[str, Any] = {}
    if uses_deepspeed():
        facts = {
            "backend": "gloo",
            "num_processes": torch.distributed.get_world_size(),
            "process_index": torch.distributed.get_rank(),
            "local_process_index": int(os.environ["LOCAL_RANK"]),
        }
    elif os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        facts = {"distributed_type": DistributedType.FSDP}
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for state in (AcceleratorState, PartialState):
        state._shared_state.update(facts)


def uses_deepspeed() -> bool:
    """Return whether the launcher asks for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def give_deepspeed_sizes(accelerator: Accelerator, max_norm: float | None) -> None:
    """Tell DeepSpeed, where it runs, what it demands: its clip, and a batch size.

    The size is a form: every process passes slices of its own, and says when they are all.
    """
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    config["train_micro_batch_size_per_gpu"] = 1
    config["gradient_accumulation_steps"] = 1
    config["gradient_clipping"] = max_norm or 0.0
    config["zero_allow_untested_optimizer"] = True  # PyTorch's own AdamW
    # It calls what PyTorch 2.13 has renamed, at every gather.
    warnings.filterwarnings("ignore", "`torch.distributed.* is deprecated", FutureWarning)
    config["zero_force_ds_cpu_optimizer"] = False
