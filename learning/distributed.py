"""One process, or several started by torchrun; the rest of the code does not ask which."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # see stop_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.script import print_error

Value = TypeVar("Value")
_LOST = (
    "One of the {count} processes that train together was lost (killed, failed or out of reach; if it could "
    "say why, it did so above), or torchrun was stopped. The last finished epoch is saved: the same "
    "command with --resume goes on from there."
)
"""What is said when the others cannot go on."""


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
        # it copies gradients that lie channels last, 11 of 744 ms a step of `paper`, 1 of 96 of `small`
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
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
    """Leave the group of processes, if there is one; unless this one failed, all at the same time.

    No thread of the group outlives it: one that drops a tensor while Python ends would abort the process. So
    nothing else may hold the group. Functions of torch.distributed.nn do, as a default of theirs, if they
    are first imported where a group exists: this module imports them before. So do networks wrapped by
    `Processes.wrap`: they are collected before, since one that is dropped later waits, with Python's lock,
    for threads that may wait for the lock.
    """
    if dist.is_available() and dist.is_initialized():
        if sys.exc_info()[0] is None:  # else the others may never come
            dist.barrier()
        gc.collect()
        dist.destroy_process_group()


@contextlib.contextmanager
def process_group(device_name: str) -> Iterator[Processes]:
    """Join the processes torchrun started while the block lasts, or be alone.

    Raises
    ------
    UserError
        If another of the processes is lost: without it there is no next step.
    """
    processes = start_processes(device_name)
    said = threading.Lock()
    try:
        with _sigterm_explained(processes, said):
            try:
                yield processes
            finally:
                stop_processes()
    except RuntimeError as error:
        if processes.count == 1 or not is_lost_connection(error):
            raise
        said.acquire()  # for good: whoever has it speaks
        if processes.local_rank > 1:  # one sentence is enough, and one of the first two is still here
            sys.exit(2)
        raise UserError(_LOST.format(count=processes.count)) from error


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error is that of a process that waited for another in vain."""
    backend = isinstance(error, dist.DistBackendError | dist.DistNetworkError)
    return backend or any(word in str(error) for word in ("gloo", "Connection closed", "Connection reset"))


@contextlib.contextmanager
def _sigterm_explained(processes: Processes, said: threading.Lock) -> Iterator[None]:
    """While the block lasts, say why if torchrun ends this process, as it does when another is lost.

    A thread listens: the process may be waiting for the other where Python does not hear signals.
    """
    if processes.count == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def listen() -> None:
        while received := reader.recv(1):
            if received[0] == signal.SIGTERM and said.acquire(blocking=False):
                if processes.local_rank <= 1:
                    print_error(_LOST.format(count=processes.count))
                os._exit(2)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.set_wakeup_fd(-1)
        writer.close()
