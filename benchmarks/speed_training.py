"""How fast PACFNet learns, as `learning.loop` takes its steps, against the plain form of the same network.

Plain is float32, eager, laid out as torch lays out signals, weights changed as torch's Adam does by default.
Each further form adds one thing to the one before: the fused optimizer, channels last, bfloat16 (where the
device computes it natively), torch.compile. bfloat16 is also shown alone. Forms take turns, a few steps each,
so that a machine that is busy for a while slows all of them; the median counts.

Operations of a step are counted by torch (convolutions and matrix products), and bytes are what the eager
operators of a step read and write. Over the machine's own measured rates of matrix products and of copies
they give floors: what the operations alone would take, and what the bytes alone would. ``share of products``
is the first of them over the time that a step took. Beats are random: they change no speed.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed_inference import Preset, recordings
from benchmarks.speed_machine import copy_rate, matrix_rate, speed_row, synchronize
from config import ModelSettings, OptimizationSettings, preset_defaults
from learning.devices import computes_bfloat16
from learning.distributed import Processes
from learning.loop import FoldRun, train_step
from learning.optimization import make_optimizer
from learning.speed import compiled
from models.layers import choose_layout
from tasks.ecg_pcg import EcgPcg

BATCHES: Mapping[Preset, int] = {"small": 64, "paper": 32}
STEPS: Mapping[Preset, int] = {"small": 8, "paper": 2}
"""Steps that a form takes before it is the next one's turn."""
ROUNDS = 5
row = partial(speed_row, "training")
PLAIN = "plain"


@dataclass(frozen=True)
class Form:
    """A way to take the same step.

    Attributes
    ----------
    name : str
    fused, channels_last, bfloat16, compiles : bool
    """

    name: str
    fused: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    compiles: bool = False


def forms(device: torch.device, *, compiles: bool = True) -> list[Form]:
    """Return the forms that are of use on a device, plain first."""
    half = computes_bfloat16(device)
    found = [
        Form(PLAIN),
        Form("plain, bfloat16", bfloat16=True),
        Form("fused optimizer", fused=True),
        Form("+ channels last", fused=True, channels_last=True),
        Form("+ bfloat16", fused=True, channels_last=True, bfloat16=True),
        Form("+ compiled", fused=True, channels_last=True, bfloat16=half, compiles=True),
    ]
    return [
        form for form in found if (half or form.compiles or not form.bfloat16) and compiles >= form.compiles
    ]


class Trainee:
    """A network that is trained in one form.

    Parameters
    ----------
    form : Form
    settings : ModelSettings
    batch_size : int
    device : torch.device
    folder : pathlib.Path
        Nothing is written there.
    """

    def __init__(
        self, form: Form, settings: ModelSettings, batch_size: int, device: torch.device, folder: Path
    ) -> None:
        task = EcgPcg()
        optimization = OptimizationSettings(batch_size=batch_size, fused=form.fused)
        self.samples = recordings(batch_size, settings.points, device)
        self.rows = torch.arange(batch_size)
        precision = torch.bfloat16 if form.bfloat16 else torch.float32
        self.run = FoldRun(
            task,
            self.samples,
            self.rows,
            self.rows[:0],
            optimization,
            0,
            device,
            precision,
            Processes(),
            folder,
            {},
            form.name,
        )
        torch.manual_seed(0)
        network = task.build(dataclasses.replace(preset_defaults("small"), model=settings)).to(device).train()
        choose_layout(network, "channels-last" if form.channels_last else "plain")
        self.optimizer = make_optimizer(network, optimization)
        self.network: nn.Module = compiled(network, device) if form.compiles else network

    def step(self) -> Tensor:
        """Take a step and return its loss."""
        return train_step(self.run, self.network, self.optimizer, self.rows)[0]

    def seconds(self, steps: int) -> float:
        """Return the time that a step takes, as a mean over some."""
        synchronize(self.run.device)
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        synchronize(self.run.device)
        return (time.perf_counter() - started) / steps


def measure(
    device: torch.device,
    presets: Sequence[Preset] = ("small", "paper"),
    *,
    rounds: int = ROUNDS,
    compiles: bool = True,
    batches: Mapping[Preset, int] = BATCHES,
    sizes: Mapping[str, ModelSettings] | None = None,
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
    """
    rows = []
    matrices = {kind: matrix_rate(device, kind) for kind in (torch.float32, torch.bfloat16)}
    copies = copy_rate(device)
    for preset in presets:
        settings = (sizes or {}).get(preset) or preset_defaults(preset).model
        with tempfile.TemporaryDirectory() as folder:
            trainees = [
                Trainee(form, settings, batches[preset], device, Path(folder))
                for form in forms(device, compiles=compiles)
            ]
            taken = taken_turns(trainees, rounds, STEPS[preset])
            operations, moved = counted(trainees[0])
        case = f"{preset}, batch {batches[preset]}"
        rows += speed_rows(case, trainees, taken, batches[preset])
        for trainee, seconds in zip(trainees, taken, strict=True):
            share = operations / matrices[trainee.run.precision] / seconds
            rows.append(row(f"{case}, {trainee.run.label}", "share of products", 100 * share, "%"))
        rows.append(row(case, "operations a step", operations / 1e9, "GFLOP"))
        rows.append(row(case, "bytes a step, plain", moved / 1e9, "GB"))
        rows.append(row(case, "floor of bytes, plain", moved / copies * 1e3, "ms"))
        for kind, rate in matrices.items():
            name = str(kind).removeprefix("torch.")
            rows.append(row(case, f"floor of operations, {name}", operations / rate * 1e3, "ms"))
    return rows


def taken_turns(trainees: Sequence[Trainee], rounds: int, steps: int) -> list[float]:
    """Return the median time of a step of each, seconds; two steps of each are not counted."""
    for trainee in trainees:
        trainee.seconds(2)
    turns = [[trainee.seconds(steps) for trainee in trainees] for _ in range(rounds)]
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
    case: str, trainees: Sequence[Trainee], taken: Sequence[float], batch: int
) -> list[dict[str, Any]]:
    """Return a row a form: beats a second."""
    plain = batch / taken[0]
    return [
        speed_row(
            "training",
            f"{case}, {trainee.run.label}",
            "training",
            batch / seconds,
            "beats/s",
            plain,
            taken[0] / seconds,
        )
        for trainee, seconds in zip(trainees, taken, strict=True)
    ]
