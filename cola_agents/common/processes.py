"""The processes of a run: one, or several under ``accelerate launch`` or ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class Workers:
    """The processes of a run, and their collectives.

    Several processes are recognised by the environment variable ``WORLD_SIZE`` that ``accelerate launch`` or
    ``torchrun`` sets, and are joined by accelerate with DDP, or with FSDP if accelerate is configured for it.

    Args:
        precision: of the computation, ``"float32"`` or ``"bf16"``. The learner uses autocast itself, so
            accelerate must not.

    Attributes:
        rank, size: the number of this process, and of all processes. Only rank 0 writes files.

    Raises:
        ImportError: for several processes without accelerate.
        ValueError: where accelerate is configured for another precision, FSDP 1 or DeepSpeed, or its
            launcher started one process instead of several.
    """

    def __init__(self, precision: str = "float32") -> None:
        self._accelerator: Accelerator | None = None
        self.rank, self.size = 0, 1
        if num_launched() > 1:
            self._accelerator = _accelerator(precision)
            self.rank = self._accelerator.process_index
            self.size = self._accelerator.num_processes

    def prepare(self, module: nn.Module, optimiser: torch.optim.Optimizer, *methods: str) -> nn.Module:
        """Wrap a module in DDP or FSDP, and its parameters in the optimiser.

        Args:
            module: with the same weights in every process.
            optimiser: of its trained parameters, without state.
            methods: names of methods besides ``forward`` that read the weights.

        Returns:
            the module to call. Its trained parameters are now those of ``optimiser``: FSDP creates new ones.
        """
        if self._accelerator is None:
            return module
        joined, _ = self._accelerator.prepare(module, optimiser)
        if self._accelerator.is_fsdp2:
            from torch.distributed.fsdp import register_fsdp_forward_method

            for method in methods:
                register_fsdp_forward_method(joined, method)
        return joined

    def accumulate(self, module: nn.Module) -> AbstractContextManager[None]:
        """A block in which gradients are accumulated without an all-reduce."""
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(module)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, in each of them."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def first(self, function: Callable[[], T]) -> T:
        """Call a function in rank 0 alone; all processes return its result, or raise its error."""
        if self.size == 1 or self._accelerator is None:
            return function()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        torch.distributed.broadcast_object_list(outcome, src=0, device=self._accelerator.device)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


#: Environment variables in which ``torchrun`` and MPI's launchers set the number of processes.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def num_launched() -> int:
    """The number of processes that the launcher was asked for."""
    sizes = [int(os.environ[name]) for name in _SIZES if os.environ.get(name)]
    if not sizes and "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ:
        # On a CPU, accelerate's launcher starts one process and relies on MPI for the others.
        raise ValueError(
            "`accelerate launch --cpu` was to start several processes and started one: without MPI it starts "
            "no more. On a CPU use `torchrun --nproc_per_node N -m cola_agents.cli ...`"
        )
    return max(sizes, default=1)


def _accelerator(precision: str) -> Accelerator:
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError("several processes need accelerate: pip install 'cola-rl[train]'") from error
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if configured not in ("no", precision.replace("float32", "no")):
        raise ValueError(
            f"accelerate is configured for mixed precision {configured!r} and the stage for precision "
            f"{precision!r}: leave accelerate's at 'no' and set the stage's"
        )
    kwargs = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        mixed_precision="no", cpu=None if torch.accelerator.is_available() else True, kwargs_handlers=[kwargs]
    )
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    check_kind(accelerator.distributed_type.value, accelerator.is_fsdp2, sharded)
    return accelerator


def check_kind(kind: str, fsdp2: bool, sharded: bool) -> None:
    """Raise ValueError unless accelerate joins the processes by DDP, or by FSDP 2 where configured."""
    if sharded and kind == "MULTI_CPU":
        raise ValueError("accelerate has no FSDP on a CPU: set its use_fsdp to false (DDP), or use GPUs")
    if not (fsdp2 or kind in ("MULTI_CPU", "MULTI_GPU")):
        raise ValueError(
            f"accelerate is configured for {kind}"
            + (" of version 1" if kind == "FSDP" else "")
            + "; supported are DDP (MULTI_CPU, MULTI_GPU) and FSDP with fsdp_version: 2"
        )


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's unsharded state dict, on the CPU of rank 0; empty in the other processes.

    All processes must call this. To save a model after a stage under FSDP:
    ``model.save_pretrained(folder, state_dict=whole_state(model))`` in rank 0.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state
