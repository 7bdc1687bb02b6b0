"""How fast PACFNet learns, as `learning.loop` takes its steps, against the plain form of the same network.

Plain is float32, eager, laid out as torch lays out signals, weights changed as torch's Adam does by default.
Each further form adds one thing to the one before: the fused optimizer, channels last, bfloat16 (where the
device computes it natively), torch.compile. bfloat16 is also shown alone. Forms take turns, a few steps each,
so that a machine that is busy for a while slows all of them; the median counts. Last come folds at once, each
in a process with its share of the threads, as ``--at-once`` trains them: samples a second of all together.

Operations of a step are counted by torch (convolutions and matrix products), and bytes are what the eager
operators of a step read and write. Over the machine's own measured rates of matrix products and of copies
they give floors: what the operations alone would take, and what the bytes alone would. ``share of products``
is the first of them over the time that a step took. Beats are random: they change no speed.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from studies.speed_forms import AtOnce, TakesSteps, Trainee, folds_at_once, forms
from studies.speed_inference import Preset
from studies.speed_machine import copy_rate, matrix_rate, speed_row
from systems.ecg_pcg.settings import ModelSettings, defaults

BATCHES: Mapping[Preset, int] = {"small": 64, "paper": 32}
STEPS: Mapping[Preset, int] = {"small": 8, "paper": 2}
"""Steps that a form takes before it is the next one's turn."""
ROUNDS = 5
row = partial(speed_row, "training")


def measure(
    device: torch.device,
    presets: Sequence[Preset] = ("small", "paper"),
    *,
    rounds: int = ROUNDS,
    compiles: bool = True,
    batches: Mapping[Preset, int] = BATCHES,
    sizes: Mapping[str, ModelSettings] | None = None,
    at_once: int | None = None,
) -> list[dict[str, Any]]:
    """Return rows ``part, case, quantity, value, unit, plain, ratio``; a ratio over 1 is better than plain.

    Parameters
    ----------
    device : torch.device
        As many CPU threads are used as torch is set to.
    presets : sequence of {"small", "paper"}
    rounds : int
        Turns of each form.
    compiles : bool
        Whether to time the compiled form too, which takes some minutes to compile.
    batches : mapping
        Batch size of each preset.
    sizes : mapping, optional
        Model settings by preset in place of its own, for tests.
    at_once : int, optional
        Folds that are trained at once in the last forms, none if 1; default: what the machine has room for.
    """
    rows = []
    matrices = {kind: matrix_rate(device, kind) for kind in (torch.float32, torch.bfloat16)}
    copies = copy_rate(device)
    folds = folds_at_once(device) if at_once is None else at_once
    for preset in presets:
        settings = (sizes or {}).get(preset) or defaults(preset).model
        with tempfile.TemporaryDirectory() as folder:
            kinds = forms(device, compiles=compiles)
            given = (settings, batches[preset], device, Path(folder))
            alone = [Trainee(form, *given) for form in kinds]
            operations, moved = counted(alone[0])
            with contextlib.ExitStack() as processes:
                least_and_most = [kinds[0], *kinds[-2:]] if folds > 1 else []
                beside = [processes.enter_context(AtOnce(form, *given, folds)) for form in least_and_most]
                timed: list[TakesSteps] = [*alone, *beside]
                taken = taken_turns(timed, rounds, STEPS[preset])
        case = f"{preset}, batch {batches[preset]}"
        rows += speed_rows(case, timed, taken, batches[preset])
        for form, seconds in zip(timed, taken, strict=True):
            share = operations / matrices[form.precision] / seconds
            rows.append(row(f"{case}, {form.name}", "share of products", 100 * share, "%"))
        rows.append(row(case, "operations a step", operations / 1e9, "GFLOP"))
        rows.append(row(case, "bytes a step, plain", moved / 1e9, "GB"))
        rows.append(row(case, "floor of bytes, plain", moved / copies * 1e3, "ms"))
        for kind, rate in matrices.items():
            name = str(kind).removeprefix("torch.")
            rows.append(row(case, f"floor of operations, {name}", operations / rate * 1e3, "ms"))
    return rows


def taken_turns(timed: Sequence[TakesSteps], rounds: int, steps: int) -> list[float]:
    """Return the median time of a step of each, seconds; two steps of each are not counted."""
    for form in timed:
        form.seconds(2)
    turns = [[form.seconds(steps) for form in timed] for _ in range(rounds)]
    return [statistics.median(one) for one in zip(*turns, strict=True)]


class _Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        written = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        places = {leaf.untyped_storage().data_ptr() for leaf in read}
        if func.is_view or not written:
            return found
        fresh = [leaf for leaf in written if leaf.untyped_storage().data_ptr() not in places]
        moved = (*read, *(fresh or written))
        self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in moved)
        return found


def counted(trainee: Trainee) -> tuple[int, int]:
    """Return floating-point operations, and bytes moved by eager operators, of a step."""
    with FlopCounterMode(display=False) as operations:
        trainee.step()
    with _Traffic() as traffic:
        trainee.step()
    return operations.get_total_flops(), traffic.bytes


def speed_rows(
    case: str, timed: Sequence[TakesSteps], taken: Sequence[float], batch: int
) -> list[dict[str, Any]]:
    """Return a row a form: beats a second."""
    plain = batch / taken[0]
    return [
        speed_row(
            "training",
            f"{case}, {form.name}",
            "training",
            batch / seconds,
            "beats/s",
            plain,
            taken[0] / seconds,
        )
        for form, seconds in zip(timed, taken, strict=True)
    ]
