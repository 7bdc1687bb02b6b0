"""A study: many runs, each trained and evaluated once, in parallel processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch

from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """One run of a study.

    Attributes
    ----------
    name : str
        Of the run, and of its folder of scores.
    train : tuple of str
        Options after ``training.py``, without the name of the run and the device.
    evaluations : tuple of tuple of str
        For each evaluation the options after ``evaluate.py``, without checkpoint, folder and device. The last
        one is run first: when the scores of the first exist, the part is done.
    """

    name: str
    train: tuple[str, ...]
    evaluations: tuple[tuple[str, ...], ...] = ((),)


def is_done(part: Part, results_dir: Path) -> bool:
    """Whether the scores of a part are there."""
    return (results_dir / "runs" / part.name / "metrics.json").exists()


def choose_parts(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """Return the chosen parts, by default all.

    Raises
    ------
    UserError
        If a name is unknown.
    """
    unknown = set(only) - {part.name for part in parts}
    if unknown:
        raise UserError(f"There is no part {sorted(unknown)[0]}; --list names them.")
    return [part for part in parts if not only or part.name in only]


def list_parts(parts: Sequence[Part], results_dir: Path) -> str:
    """Return a line a part: done or open."""
    return "\n".join(f"{'done' if is_done(part, results_dir) else 'open'}  {part.name}" for part in parts)


def run_parts(parts: Sequence[Part], results_dir: Path, workers: int = 0) -> None:
    """Run the parts that are not done, in parallel, each on a device; print the outcome of each.

    Parameters
    ----------
    parts : sequence of Part
    results_dir : pathlib.Path
        Scores go to ``runs/<part>/`` in it.
    workers : int
        Parts in parallel, which share the CPU cores; 0: one a CUDA device, or one a CPU core.
    """
    devices: SimpleQueue[str] = SimpleQueue()
    threads = max(1, cores() // workers) if workers else 1
    if torch.cuda.is_available():
        names = [f"cuda:{number}" for number in range(workers or torch.cuda.device_count())]
    else:
        names = ["cpu"] * (workers or cores())
    for name in names:
        devices.put(name)

    def run(part: Part) -> None:
        device = devices.get()
        try:
            print(run_part(part, results_dir, device, threads), flush=True)
        finally:
            devices.put(device)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, [part for part in parts if not is_done(part, results_dir)]))


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def run_part(part: Part, results_dir: Path, device: str, threads: int = 1) -> str:
    """Train and evaluate one part in new processes; return the outcome in one line."""
    log = ROOT / "runs" / "study" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ("--device", device, "--threads", str(threads) if device == "cpu" else "0")
    results = str((results_dir / "runs").absolute())
    train = ("training.py", *part.train, "--run-name", part.name, "--resume", *options)
    evaluations = [
        (
            "evaluate.py",
            "--checkpoint",
            f"checkpoints/{part.name}",
            "--results-dir",
            results,
            *options,
            *chosen,
        )
        for chosen in reversed(part.evaluations)
    ]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if device == "cpu" else {})
    with log.open("a") as output:
        for command in (train, *evaluations):
            done = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=environment,
                check=False,
            )
            if done.returncode:
                return f"{part.name}: failed, see {log}"
    return f"{part.name}: done"
