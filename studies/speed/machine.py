"""What a machine can do at best, measured: products of matrices, and copies of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from learning.devices import choose_precision

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices."""
COPIED = {"cpu": 2**27, "cuda": 2**31}
"""Bytes of the copy, more than any cache holds."""
ROUNDS = 9


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the median time of a call, seconds, after two that are not counted."""
    taken = []
    for _ in range(rounds + 2):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def matrix_rate(device: torch.device, precision: torch.dtype, side: int = 0) -> float:
    """Return floating-point operations a second of a product of square matrices."""
    side = side or SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(precision) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: one @ other, device)


def matrix_rates(device: torch.device) -> dict[torch.dtype, float]:
    """Return the rate of products by precision; bfloat16 only where it is native, else it takes minutes."""
    half = [torch.bfloat16] if choose_precision("auto", device) == torch.bfloat16 else []
    return {precision: matrix_rate(device, precision) for precision in (torch.float32, *half)}


def copy_rate(device: torch.device, size: int = 0) -> float:
    """Return bytes a second, read and written, of a copy."""
    source = torch.zeros(size or COPIED[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source), device)


def speed_row(
    part: str,
    case: str,
    quantity: str,
    value: float,
    unit: str,
    plain: float | None = None,
    ratio: float | None = None,
) -> dict[str, Any]:
    """Return a row of the table; ``plain`` is the value of the plain form, and a ratio over 1 is better."""
    names = ("part", "case", "quantity", "value", "unit", "plain", "ratio")
    return dict(zip(names, (part, case, quantity, value, unit, plain, ratio), strict=True))


def measure(device: torch.device) -> list[dict[str, Any]]:
    """Return rows of the table of speeds: products of matrices, and a copy."""
    rates = matrix_rates(device)
    plain, side = rates[torch.float32], SIDE[device.type]
    rows = []
    for precision, rate in rates.items():
        case = f"product of {side} x {side}, {str(precision).removeprefix('torch.')}"
        rows.append(speed_row("machine", case, "rate", rate / 1e9, "GFLOP/s", plain / 1e9, rate / plain))
    copied = speed_row("machine", "copy, read and written", "rate", copy_rate(device) / 1e9, "GB/s")
    return [*rows, copied]
