"""How fast PACFNet learns, as `learning.loop` takes its steps, against the plain form of the same network.

Plain is float32, eager, laid out as torch lays out signals, weights changed as torch's Adam does by default.
Each further form adds one thing to the one before: the fused optimizer, channels last, what `training.py`
chooses on this device (layout by size, bfloat16 where it is native), torch.compile. bfloat16 is also shown
alone. Forms take turns, a few steps each, so that other load slows all of them; the median counts. Last come
folds at once, each in a process with its share of the threads, as ``--at-once`` trains them: samples a second
of all together.

Operations of a step are counted by torch (convolutions and matrix products), and bytes are what the eager
operators of a step read and write. Over the machine's own measured rates of matrix products and of copies
they give floors: what the operations alone would take, and what the bytes alone would. ``share of products``
is the first of them over the time that a step took. Beats are random: they change no speed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from config import OptimizationSettings
from learning.devices import choose_layout, choose_precision
from learning.distributed import Processes
from learning.loop import FoldContext, compiled, make_optimizer, train_step
from learning.parallel_folds import threads_each
from models.layers.layout import set_layout
from studies.speed.inference import Preset, recordings
from studies.speed.machine import copy_rate, matrix_rates, speed_row, synchronize
from systems.ecg_pcg.settings import ModelSettings, defaults
from systems.ecg_pcg.task import EcgPcg

FOLDS = 5
"""Folds at once on a machine of so many CPU threads, or on a GPU; fewer threads, fewer folds."""


@dataclass(frozen=True)
class Form:
    """A way to take the same step.

    Attributes
    ----------
    name : str
    fused, bfloat16, compiles : bool
    layout : {"plain", "channels-last", "auto"}
        As of `learning.devices.choose_layout`.
    """

    name: str
    fused: bool = False
    layout: str = "plain"
    bfloat16: bool = False
    compiles: bool = False

    @property
    def precision(self) -> torch.dtype:
        """What convolutions and products are computed in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32


def forms(device: torch.device, *, compiles: bool = True) -> list[Form]:
    """Return the forms that are of use on a device, plain first."""
    half = choose_precision("auto", device) == torch.bfloat16
    found = [
        Form("plain"),
        Form("plain, bfloat16", bfloat16=True),
        Form("fused optimizer", fused=True),
        Form("+ channels last", fused=True, layout="channels-last"),
        Form("as chosen", fused=True, layout="auto", bfloat16=half),
        Form("as chosen, compiled", fused=True, layout="auto", bfloat16=half, compiles=True),
    ]
    return [form for form in found if half >= form.bfloat16 and compiles >= form.compiles]


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
        task = EcgPcg(dataclasses.replace(defaults("small"), model=settings))
        self.name, self.precision = form.name, form.precision
        optimization = OptimizationSettings(batch_size=batch_size, fused=form.fused)
        self.samples = recordings(batch_size, settings.points, device)
        self.rows = torch.arange(batch_size)
        self.run = FoldContext(
            task,
            self.samples,
            self.rows,
            self.rows[:0],
            optimization,
            0,
            device,
            form.precision,
            Processes(),
            folder,
            {},
            form.name,
        )
        torch.manual_seed(0)
        network = task.build().to(device).train()
        set_layout(network, choose_layout(form.layout, network, device))
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
        return (time.perf_counter() - started) / max(steps, 1)


class TakesSteps(Protocol):
    """What can be timed: `Trainee`, or `AtOnce`."""

    name: str
    precision: torch.dtype

    def seconds(self, steps: int) -> float:
        """Return the time of one step among `steps`."""


class AtOnce:
    """Networks that are trained in one form, each by its own process, as ``--at-once`` does with folds.

    Parameters
    ----------
    form, settings, batch_size, device, folder
        As for `Trainee`.
    count : int
        Processes; the CPU threads of this one are divided among them.
    """

    def __init__(
        self,
        form: Form,
        settings: ModelSettings,
        batch_size: int,
        device: torch.device,
        folder: Path,
        count: int,
    ) -> None:
        self.precision = form.precision
        threads = threads_each(0, count)
        self.name = f"{form.name}, {count} folds at once"
        given = (threads, form, settings, batch_size, device, folder)
        spawn = multiprocessing.get_context("spawn")
        self.pools = [
            ProcessPoolExecutor(1, mp_context=spawn, initializer=_become_trainee, initargs=given)
            for _ in range(count)
        ]

    def seconds(self, steps: int) -> float:
        """Return the time over the steps that all took together."""
        for pool in self.pools:  # a process begins with the first thing it is given
            pool.submit(_take, 0).result()
        started = time.perf_counter()
        for done in [pool.submit(_take, steps) for pool in self.pools]:
            done.result()
        return (time.perf_counter() - started) / (steps * len(self.pools))

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self.pools:
            pool.shutdown()


def folds_at_once(device: torch.device) -> int:
    """Return how many folds are worth training beside each other: each needs a thread, or a part of a GPU."""
    return FOLDS if device.type == "cuda" else min(FOLDS, torch.get_num_threads())


_trainee: Trainee


def _become_trainee(
    threads: int, form: Form, settings: ModelSettings, batch_size: int, device: torch.device, folder: Path
) -> None:
    global _trainee
    torch.set_num_threads(threads)
    _trainee = Trainee(form, settings, batch_size, device, folder)


def _take(steps: int) -> None:
    """Take steps in a process of `AtOnce`."""
    _trainee.seconds(steps)


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
        Model settings by preset in place of the preset's, for tests.
    at_once : int, optional
        Folds that are trained at once in the last forms, none if 1; default: what the machine has room for.
    """
    rows = []
    matrices = matrix_rates(device)
    copies = copy_rate(device)
    folds = folds_at_once(device) if at_once is None else at_once
    for preset in presets:
        torch.compiler.reset()  # else the second preset is compiled for any size, in many minutes
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
        storages = {leaf.untyped_storage().data_ptr() for leaf in read}
        if func.is_view or not written:
            return found
        fresh = [leaf for leaf in written if leaf.untyped_storage().data_ptr() not in storages]
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
