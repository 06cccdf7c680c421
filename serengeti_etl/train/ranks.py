"""The processes that ``torchrun`` starts to train together; the one room of ``torch.distributed``.

Without ``torchrun`` there is one rank, and nothing here does anything. What one rank alone can do,
such as writing to the run, the first does.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from serengeti_etl.errors import SerengetiError

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that train together. All of them call each method, in one order.

    Attributes:
        rank: number of this process, from 0.
        world_size: processes in all.
        local_rank: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """True for the process that writes and tells."""
        return self.rank == 0

    def own(self, device: torch.device) -> torch.device:
        """``device``; of several GPUs the one of this process."""
        if str(device) != "cuda":
            return device
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all ranks' values."""
        if self.world_size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - as Python's own any
        """True on every rank if it is true on one; takes some 0.1 ms on one machine."""
        if self.world_size == 1:
            return flag
        number = torch.tensor(int(flag))  # on the CPU, so that no rank waits for its GPU
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return bool(number)

    def from_first(self, make: Callable[[], ValueT]) -> ValueT:
        """What ``make`` returns on the first rank; what it raises there is raised everywhere."""
        if self.world_size == 1:
            return make()
        box: list[Any] = [None]
        if self.is_first:
            try:
                box = [make()]
            except (SerengetiError, OSError) as error:
                # The others must not wait for an answer that never comes.
                dist.broadcast_object_list([_Raised(error)])
                raise
        dist.broadcast_object_list(box)
        if isinstance(box[0], _Raised):
            raise box[0].error
        return cast("ValueT", box[0])

    def gather(self, value: ValueT) -> list[ValueT]:
        """Every rank's value in their order on the first rank; nothing elsewhere."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, values)
        return values or []

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the first one's buffers, which are BatchNorm's running statistics."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def together(self, model: nn.Module) -> nn.Module:
        """``model`` for forward passes whose gradients become the mean of all ranks' gradients."""
        if self.world_size == 1:
            return model
        device = next(model.parameters()).device
        numbers = None if device.index is None else [device.index]
        return DistributedDataParallel(model, numbers, gradient_as_bucket_view=True)


@dataclass(frozen=True, slots=True)
class _Raised:
    """Stands for a value that could not be made."""

    error: SerengetiError | OSError


def is_launched() -> bool:
    """True in a process that ``torchrun`` started."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextlib.contextmanager
def open_ranks(device: torch.device) -> Iterator[Ranks]:
    """This process among those of its ``torchrun``; alone without one.

    Args:
        device: of a GPU, gradients travel by NCCL; all else by gloo.
    """
    if not is_launched():
        yield Ranks()
        return
    is_ours = not dist.is_initialized()
    if is_ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
            local_rank=dist.get_node_local_rank(0),
        )
    finally:
        if is_ours:
            dist.destroy_process_group()


def synced_batch_norm(model: nn.Module) -> nn.Module:
    """``model`` whose BatchNorm takes the statistics of all ranks' images; on GPUs only."""
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    return cast("nn.Module", convert(model))


def without_exchange(model: Any, *, unless: bool) -> AbstractContextManager[None]:
    """A block in which gradients are added up on this rank only.

    Args:
        model: from ``Ranks.together``, compiled or not.
        unless: true for the last part of a batch, after which the ranks' gradients are exchanged.
    """
    if unless or not hasattr(model, "no_sync"):
        return contextlib.nullcontext()
    return cast("AbstractContextManager[None]", model.no_sync())
