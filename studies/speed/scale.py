"""Time and memory of every step, from raw recordings to a report, by the number of recordings.

Recordings of 6 seconds are prepared, a narrow network learns from them for one epoch in two folds, and all of
them are evaluated: the three scripts as their user runs them, with one process of one thread. CPU seconds
count, as other load changes the time. Up to `SIMULATED` recordings are simulated; more are the same signals
as recordings of other sessions and persons, by links. `studies.speed` prints all of this.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulation.settings import SimulationSettings
from studies.speed.machine import speed_row
from studies.speed.preparation import run_script
from systems.ecg_pcg.sources.simulated import write_cohort

SIMULATED = 2000
_NAME, _SESSION = re.compile(r"a\d{4}"), re.compile(r"\bC(\d+)S")
_STEPS = {
    "load_data.py": ("--raw-dir", "raw", "--cache-dir", "cache", "--jobs", "1"),
    "training.py": (
        *("--preset", "small", "--width", "8", "--points", "250", "--epochs", "1", "--fold-count", "2"),
        *("--threads", "1", "--run-name", "run", "--cache-dir", "cache"),
    ),
    "evaluate.py": ("--checkpoint", "checkpoints/run", "--threads", "1", "--cache-dir", "cache"),
}
_FILES = {
    "recordings.csv": "results/run/recordings.csv",
    "predictions.csv": "results/run/predictions.csv",
    "report.html": "results/run/report.html",
}


def measure(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of a table: CPU seconds and memory of each step, and megabytes of what it writes.

    Parameters
    ----------
    sizes : sequence of int
        Recordings: even numbers, and above `SIMULATED` multiples of it.
    """
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(size, Path(folder))
    return rows


def _measure(size: int, folder: Path) -> list[dict[str, Any]]:
    cohort = SimulationSettings(sessions=min(size, SIMULATED) // 2, persons=1, recordings=2, duration=6.0)
    raw = write_cohort(folder / "raw", cohort)
    multiply(raw, size // SIMULATED, cohort.sessions)
    rows = []
    for script, options in _STEPS.items():
        done = run_script(script, *options, folder=folder)
        values = (("CPU seconds", done.cpu_seconds, "s"), ("peak MB", done.peak / 1e6, "MB"))
        rows += [speed_row("scale", f"{size} recordings, {script}", *value) for value in values]
    for name, path in _FILES.items():
        megabytes = (folder / path).stat().st_size / 1e6
        rows.append(speed_row("scale", f"{size} recordings, {name}", "size", megabytes, "MB"))
    return rows


def multiply(raw: Path, copies: int, sessions: int) -> None:
    """Let a cohort hold each recording so many times, under new names and in new sessions, by links."""
    files = list(raw.rglob("a????*.*"))
    tables = {path: path.read_text(encoding="utf-8") for path in raw.rglob("*.csv")}
    for copy in range(1, copies):
        for path in files:
            if path.suffix == ".hea":
                text = _renamed(path.read_text(encoding="utf-8"), copy, sessions)
                path.with_name(_renamed(path.name, copy, sessions)).write_text(text, encoding="utf-8")
            else:
                os.link(path, path.with_name(_renamed(path.name, copy, sessions)))
        for path, text in tables.items():
            lines = [line for line in text.splitlines(keepends=True) if _NAME.match(line)]
            with path.open("a", encoding="utf-8") as file:
                file.write(_renamed("".join(lines), copy, sessions))


def _renamed(text: str, copy: int, sessions: int) -> str:
    """Return a text with the names of recordings and sessions that the copy has."""
    text = _NAME.sub(rf"\g<0>x{copy}", text)
    return _SESSION.sub(lambda found: f"C{int(found[1]) + copy * sessions}S", text)
