"""The forms in which the same step of PACFNet is taken, in this process or in several beside each other."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor, nn

from config import OptimizationSettings
from learning.devices import computes_bfloat16
from learning.distributed import Processes
from learning.loop import FoldContext, compiled, train_step
from learning.optimization import make_optimizer
from learning.parallel_folds import threads_each
from models.layers.layout import choose_layout
from studies.speed_inference import recordings
from studies.speed_machine import synchronize
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
    fused, channels_last, bfloat16, compiles : bool
    """

    name: str
    fused: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    compiles: bool = False

    @property
    def precision(self) -> torch.dtype:
        """What convolutions and products are computed in."""
        return torch.bfloat16 if self.bfloat16 else torch.float32


def forms(device: torch.device, *, compiles: bool = True) -> list[Form]:
    """Return the forms that are of use on a device, plain first."""
    half = computes_bfloat16(device)
    found = [
        Form("plain"),
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
        return (time.perf_counter() - started) / max(steps, 1)


class TakesSteps(Protocol):
    """What can be timed: `Trainee`, or `AtOnce`."""

    name: str
    precision: torch.dtype

    def seconds(self, steps: int) -> float:
        """Return the time of one step among `steps`."""


class AtOnce:
    """Networks that are trained in one form, each by a process of its own, as ``--at-once`` does with folds.

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
