"""Which device, threads and precision a run uses, and what machine it is."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common.command_line import counted
from common.errors import UserError

_CPU_ROWS = 64
"""Samples of one forward pass on a CPU, at most; with 256, each takes 1.7 times as long (full size)."""
_WIDE = 4_000_000
"""Parameters from which on a network is wide."""
_BFLOAT16_ERROR = 0.1
"""Error of an output of standard deviation one: 0.02 where kernels are right, about 5 where they are not."""
_TRIED = ((32, 7), (8, 16))
"""Channels and kernels of the convolutions that are tried.

Of few channels and 8, 16 or 32 points torch 2.13 computes something else on processors with AMX.
"""
_BFLOAT16_SLOW = 4.0
"""Times that bfloat16 may take as long as float32: native kernels took half, emulated ones 7 to 22 times as
long, so that a busy machine does not decide."""


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device of a name: auto, cpu, cuda or cuda:N.

    Raises
    ------
    UserError
        If CUDA is asked for and absent, or the name is none of these.
    """
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"There is no device {name!r}: use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"There is no device {name!r}: use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("There is no CUDA device here that torch can use: use --device cpu.")
        number = local_rank if device.index is None else device.index
        if number >= torch.cuda.device_count():
            raise UserError(f"There is no {name}: {torch.cuda.device_count()} CUDA devices are here.")
        device = torch.device("cuda", number)
    return device


def set_threads(count: int) -> None:
    """Let torch use so many CPU threads.

    Parameters
    ----------
    count : int
        0: what OMP_NUM_THREADS says, else one a core that this process may use. Processes that torchrun
        started on one machine, for which it sets the variable to 1, share the cores.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count:
        torch.set_num_threads(count)
    elif beside > 1 or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable // beside))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, so that it is faster and not slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)  # absent in older releases
    return get_capabilities is not None and bool(get_capabilities().get("avx512_bf16", False))


@functools.cache
def bfloat16_is_sound(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 agree with float32 and are not much slower: a check of milliseconds.

    Some releases of torch fall back to slow kernels, or to wrong ones, on processors that they do not know.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for one another where the machine is busy
    sound = all(_convolves(channels, kernel, device) for channels, kernel in _TRIED)
    torch.set_num_threads(threads)
    return sound


def _convolves(channels: int, kernel: int, device: torch.device) -> bool:
    """Whether a convolution in bfloat16 agrees with float32 and is not much slower."""
    draw = torch.Generator().manual_seed(0)
    signals = torch.randn(16, channels, 1, 500, generator=draw).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(32, channels, 1, kernel, generator=draw) / (channels * kernel) ** 0.5
    outputs, seconds = [], []
    for precision in (torch.float32, torch.bfloat16):
        given = signals.to(device, precision), weights.to(device, precision)
        taken = []
        for _ in range(8):
            started = time.perf_counter()
            output = functional.conv2d(*given).cpu()
            taken.append(time.perf_counter() - started)
        outputs.append(output.float())
        seconds.append(min(taken))
    error = float((outputs[1] - outputs[0]).abs().max())
    return error < _BFLOAT16_ERROR and seconds[1] < _BFLOAT16_SLOW * seconds[0]


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the forward pass: the one named, or bfloat16 where it is native and sound."""
    if name == "auto":
        half = computes_bfloat16(device) and bfloat16_is_sound(device)
        return torch.bfloat16 if half else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def choose_layout(name: str, model: nn.Module, device: torch.device) -> str:
    """Return the layout named, or the faster one: channels last, but for wide networks on an older CPU.

    Without AVX-512 products are narrower, and from 4 million parameters on rearranging signals costs less
    than channels last does (docs/speed.md).
    """
    if name != "auto":
        return name
    older = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512"
    wide = sum(weights.numel() for weights in model.parameters()) > _WIDE
    return "plain" if older and wide else "channels-last"


def precision_note(name: str, device: torch.device) -> str:
    """Return what is to be said of a precision, named or auto, on a device; mostly nothing."""
    if name == "bfloat16" and not computes_bfloat16(device):
        return (
            f"Note: this {'CPU' if device.type == 'cpu' else 'GPU'} has no instructions for bfloat16: steps "
            "take several times as long as with --precision float32."
        )
    if name == "float32" or not computes_bfloat16(device) or bfloat16_is_sound(device):
        return ""
    remedy = (
        "so float32 is taken: another release of torch, or"
        if name == "auto"
        else "and it was asked for: use --precision float32, another release of torch, or"
    )
    return (
        f"Note: bfloat16 is slow or wrong on this machine with torch {torch.__version__}, {remedy}, on a "
        "processor with AMX, ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment."
    )


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return the context of a forward pass in that precision."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision)


def rows_at_once(count: int, device: torch.device) -> int:
    """Return how many samples one forward pass takes: ``count``, on a CPU at most `_CPU_ROWS`.

    The prediction of a sample does not depend on it. A loss over a batch may: this is for predictions only.
    """
    return min(count, _CPU_ROWS) if device.type == "cpu" else count


def processor_name() -> str:
    """Return what the CPU calls itself and the widest instructions of it that torch uses."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        described = ""
    named = re.search(r"^model name\s*: (.+)$", described, re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def describe_machine(device: torch.device) -> str:
    """Return the device and the versions that a number was measured with."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{counted(torch.get_num_threads(), 'CPU thread')} ({processor_name()})"
    )
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
