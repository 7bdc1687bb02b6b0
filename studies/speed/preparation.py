"""Speed and memory of preparing raw recordings into a cache: ``load_data.py`` as its user runs it.

Each case is a process with child processes. Its memory is the resident memory of all of them (what they share
counts more than once), sampled every 50 ms. ``seconds`` is what the script prints, from after Python's start;
``seconds of the command`` includes Python's start and all imports.
Recordings are simulated before the clock starts. `studies.speed` prints all of this.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import psutil

from simulation.settings import SimulationSettings
from studies.runner import ROOT
from studies.speed.machine import speed_row
from systems.ecg_pcg.sources.simulated import write_cohort

SIZES = (40, 400, 2000)
"""Recordings of the simulated cohorts: one, ten and fifty times as many."""
INTERVAL = 0.05
"""Time between two looks at the memory, seconds."""
FOUND = re.compile(r"^(?P<count>\d+) recordings in ", re.MULTILINE)
TOOK = re.compile(r"^Cache: .* \(computed in (?P<seconds>[\d.]+) s\)$", re.MULTILINE)


@dataclass(frozen=True)
class Measured:
    """What one preparation took.

    Attributes
    ----------
    recordings : int
        Recordings read.
    seconds, command_seconds : float
        Once Python had started, and with its start and end.
    peak : float
        Largest memory of all processes together, megabytes (10^6 bytes).
    """

    recordings: int
    seconds: float
    command_seconds: float
    peak: float


def measure(
    raw_dir: Path | None = None, sizes: Sequence[int] = SIZES, repeats: int = 3
) -> list[dict[str, Any]]:
    """Return the rows of a table: real recordings where a folder is given, then simulated cohorts.

    Parameters
    ----------
    raw_dir : pathlib.Path or None
        Folder that holds training-a.
    sizes : sequence of int
        Recordings of the simulated cohorts, even numbers.
    repeats : int
        Times that real recordings are prepared, of which the fastest counts; simulated ones once.
    """
    rows = []
    workers = joblib.effective_n_jobs(-1)
    if raw_dir is not None:
        fastest = min((prepared(raw_dir) for _ in range(repeats)), key=lambda one: one.command_seconds)
        rows += rows_of(f"training-a, {workers} workers", fastest)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            cohort = SimulationSettings(sessions=size // 2, persons=1, recordings=2)
            raw = write_cohort(Path(folder) / "raw", cohort, jobs=-1)
            rows += rows_of(f"simulated {size}, {workers} workers", prepared(raw))
    return rows


def rows_of(case: str, one: Measured) -> list[dict[str, Any]]:
    """Return the rows of one case; there is no plain form to compare with."""
    values = (
        ("seconds", one.seconds, "s"),
        ("seconds of the command", one.command_seconds, "s"),
        ("recordings/s", one.recordings / one.seconds, "1/s"),
        ("peak MB", one.peak, "MB"),
    )
    return [speed_row("preparation", case, name, value, unit) for name, value, unit in values]


def prepared(raw_dir: Path) -> Measured:
    """Prepare a folder into a temporary cache, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        done = run_script("load_data.py", "--raw-dir", str(raw_dir.absolute()), folder=Path(folder))
    count, took = FOUND.search(done.text), TOOK.search(done.text)
    if count is None or took is None:
        raise RuntimeError(f"load_data.py printed no time: {done.text[-500:]}")
    return Measured(int(count["count"]), float(took["seconds"]), done.seconds, done.peak / 1e6)


@dataclass(frozen=True)
class Ran:
    """What one call of a script printed, took (seconds) and held at most (bytes)."""

    text: str
    seconds: float
    cpu_seconds: float
    peak: int


def run_script(script: str, *options: str, folder: Path) -> Ran:
    """Run a script in a new process, in a folder to which its relative paths belong."""
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        began, spent = time.perf_counter(), _children_seconds()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), *options], cwd=folder, stdout=output, stderr=output
        )
        peak = peak_memory(process)
        taken = time.perf_counter() - began, _children_seconds() - spent
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{script} exited with {process.returncode}: {text[-500:]}")
    return Ran(text, *taken, peak)


def _children_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Return the largest memory, in bytes, of a process and its descendants, when it has ended."""
    peak, first = 0, psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        for each in _family(first):
            try:
                held += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, held)
        time.sleep(INTERVAL)
    return peak


def _family(first: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants; none if it has ended."""
    try:
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
