"""One process, or several started by torchrun; the rest of the code does not ask which."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Place of one process among those that train together.

    Attributes
    ----------
    rank, count : int
        Number of this process, and how many there are.
    local_rank : int
        Number of this process on its machine; its CUDA device.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model with gradients averaged over processes (itself where there is one)."""
        if self.count == 1:
            return model
        if device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return DistributedDataParallel(model, device_ids=[device.index])
        return DistributedDataParallel(model)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over processes, the same in each of them."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def share(self, value: Value) -> Value:
        """Return the leading process's value in every process."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def start_processes(device_name: str) -> Processes:
    """Join the processes torchrun started, or be alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    cuda = torch.cuda.is_available() and device_name != "cpu"
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local_rank)
    return Processes(dist.get_rank(), dist.get_world_size(), local_rank)


def stop_processes() -> None:
    """Leave the group of processes, if there is one; unless this one failed, all at the same time."""
    if dist.is_available() and dist.is_initialized():
        if sys.exc_info()[0] is None:  # else the others may never come
            dist.barrier()
        dist.destroy_process_group()


def bare(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `Processes.wrap` and `learning.speed.compiled`."""
    model = getattr(model, "_orig_mod", model)
    return model.module if isinstance(model, DistributedDataParallel) else model
