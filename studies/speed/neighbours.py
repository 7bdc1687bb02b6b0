"""A step of training alone and beside busy processes: on one thread, on all, on the chosen number.

How threads wait is read once, as torch is imported: ``GOMP_SPINCOUNT``, ``OMP_WAIT_POLICY`` change the rows.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from learning.devices import choose_precision
from learning.threads import ThreadChoice, trial_steps
from studies.speed.inference import Preset
from studies.speed.machine import speed_row
from studies.speed.training import BATCHES, Form, Trainee
from systems.ecg_pcg.settings import ModelSettings, defaults

STEPS = 12
"""Steps on a number of threads, of which the median counts."""
row = partial(speed_row, "neighbours")


def measure(
    preset: Preset = "small",
    busy: Sequence[int] = (0, 1, 2),
    *,
    steps: int = STEPS,
    settings: ModelSettings | None = None,
) -> list[dict[str, Any]]:
    """Return rows of seconds a step; plain is one thread beside as many, and a ratio over 1 is better.

    Parameters
    ----------
    preset : {"small", "paper"}
    busy : sequence of int
        Numbers of busy processes, one after the other.
    steps : int
    settings : ModelSettings, optional
        In place of the preset's, for tests.
    """
    device = torch.device("cpu")
    most = torch.get_num_threads()
    half = choose_precision("auto", device) == torch.bfloat16
    form = Form("default", fused=True, layout="auto", bfloat16=half)
    counts = {"1 thread": [1], "all threads": [most], "chosen threads": sorted({1, most})}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        given = settings or defaults(preset).model
        trainee = Trainee(form, given, BATCHES[preset], device, Path(folder))
        trainee.seconds(2)
        for number in busy:
            with _busy(number):
                found = {name: _seconds(trainee, some, steps) for name, some in counts.items()}
            for name, seconds in found.items():
                case = f"{preset}, batch {BATCHES[preset]}, beside {number} busy, {name}"
                plain = found["1 thread"]
                rows.append(row(case, "seconds a step", seconds, "s", plain, plain / seconds))
    torch.set_num_threads(most)
    return rows


def _seconds(trainee: Trainee, counts: Sequence[int], steps: int) -> float:
    """Return the median time of a step after the number of threads was chosen."""
    torch.set_num_threads(counts[-1])
    choice = ThreadChoice(counts)
    tried = trial_steps(counts)
    taken = []
    for number in range(tried + steps):
        with choice.step(number):
            started = time.perf_counter()
            trainee.step()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken[tried:])


@contextlib.contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep so many cores busy."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_turn, daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    time.sleep(2.0 * bool(number))  # until they have begun
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _turn() -> None:
    """Compute until killed."""
    while True:
        sum(range(10_000))
