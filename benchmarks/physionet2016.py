"""The honest benchmark on training-a, as one command: train, judge, tabulate.

    python -m benchmarks.physionet2016             # everything; stop it and start it again as you like
    python -m benchmarks.physionet2016 --list      # what it consists of, and what is done
    python -m benchmarks.physionet2016 --tables    # tables and figure from what is done

A part is one model under one protocol and seed. Parts run side by side, one a CUDA device, or one a CPU
core. Scores go to results/physionet2016/runs/<part>/; a part whose scores are there is not run again.
Needs a cache of training-a: python load_data.py --raw-dir PATH/challenge-2016.
"""

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
import tyro

from benchmarks.physionet2016_tables import write_tables
from common.errors import UserError
from common.script import run_script
from models import MODELS, NETWORKS

ROOT = Path(__file__).resolve().parent.parent
EACH = ("nothing", "ecg", "pcg")
RECORDING_MODELS = ("pacfnet", "ecg-network", "cross-attention")


@dataclass(frozen=True)
class Part:
    """One model under one protocol and seed.

    Attributes
    ----------
    model, protocol : str
    seed : int
    folds : str
        "all", or the number of one fold.
    options : tuple of str
        Further options of training.py.
    suffix : str
        What tells the part from another of the same model.
    hidden : tuple of str
        Signals to hide when it is judged, one at a time.
    """

    model: str
    protocol: str
    seed: int = 0
    folds: str = "all"
    options: tuple[str, ...] = ()
    suffix: str = ""
    hidden: tuple[str, ...] = ("nothing",)

    @property
    def name(self) -> str:
        """Name of the run."""
        return f"{self.model}{self.suffix}-{self.protocol}-seed{self.seed}"


@dataclass(frozen=True)
class StudySettings:
    """Settings of the study."""

    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables and figure from the parts that are done."""
    only: tuple[str, ...] = ()
    """Parts to run, by name; default all."""
    workers: int = 0
    """Parts side by side; 0: one a CUDA device, or one a CPU core."""
    preset: str = "small"
    """Preset of the networks."""
    cache: Path | None = None
    """Cache of training-a; default: the one prepared last."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of scores, tables and figure."""


def parts() -> list[Part]:
    """Return all parts, the most telling first."""
    session = [Part("linear", "session", seed, hidden=EACH) for seed in range(5)]
    session += [Part("pacfnet", "session")]
    beat = [Part("pacfnet", "beat", folds="0")]
    recording = [Part(name, "recording", folds="0") for name in RECORDING_MODELS]
    session += [Part(name, "session") for name in NETWORKS if name != "pacfnet"]
    beat += [Part(name, "beat", folds="0") for name in NETWORKS if name != "pacfnet"]
    missing = [
        Part("pacfnet", "session", options=("--modality-dropout", "0.5"), suffix="-dropout", hidden=EACH),
        Part("pacfnet", "session", options=("--zeroed", "pcg"), suffix="-ecg-only"),
        Part("pacfnet", "session", options=("--zeroed", "ecg"), suffix="-pcg-only"),
    ]
    seeds = [Part("pacfnet", "session", seed) for seed in (1, 2)]
    return [*session[:6], *beat[:1], *recording, *session[6:], *beat[1:], *missing, *seeds]


def is_done(part: Part, settings: StudySettings) -> bool:
    """Whether the scores of a part are there."""
    return (settings.results_dir / "runs" / part.name / "metrics.json").exists()


def run_part(part: Part, settings: StudySettings, device: str) -> str:
    """Train and judge one part in processes of its own; return how it went, in one line."""
    log = ROOT / "runs" / "study" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    cache = ("--cache", str(settings.cache)) if settings.cache else ()
    train = [
        *("training.py", "--model", part.model, "--protocol", part.protocol, "--folds", part.folds),
        *("--seed", str(part.seed), "--preset", settings.preset, "--run-name", part.name, "--resume"),
        *("--validation-share", "0", "--device", device, "--threads", "1" if device == "cpu" else "0"),
        *cache,
        *part.options,
    ]
    judge = [
        [
            *("evaluate.py", "--checkpoint", f"checkpoints/{part.name}", "--compact", "--device", device),
            *("--results-dir", str((settings.results_dir / "runs").absolute()), "--without", hidden),
            *("--threads", "1" if device == "cpu" else "0", *cache),
        ]
        for hidden in reversed(part.hidden)  # what is_done looks for comes last
    ]
    with log.open("a") as output:
        for command in (train, *judge):
            environment = os.environ | {"OMP_NUM_THREADS": "1"} if device == "cpu" else os.environ
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, then make the tables."""
    settings = tyro.cli(StudySettings, args=arguments, description=__doc__)
    everything = parts()
    chosen = [part for part in everything if not settings.only or part.name in settings.only]
    unknown = set(settings.only) - {part.name for part in everything}
    if unknown:
        raise UserError(f"There is no part {sorted(unknown)[0]}; --list names them.")
    if settings.list:
        for part in chosen:
            print(f"{'done' if is_done(part, settings) else 'open'}  {part.name}")
        return
    if not settings.tables:
        run_all([part for part in chosen if not is_done(part, settings)], settings)
    print(write_tables(settings.results_dir, list(MODELS)))


def run_all(open_parts: Sequence[Part], settings: StudySettings) -> None:
    """Run parts side by side, each on a device of its own."""
    devices: SimpleQueue[str] = SimpleQueue()
    if torch.cuda.is_available():
        names = [f"cuda:{number}" for number in range(settings.workers or torch.cuda.device_count())]
    else:
        names = ["cpu"] * (settings.workers or len(os.sched_getaffinity(0)))
    for name in names:
        devices.put(name)

    def run(part: Part) -> None:
        device = devices.get()
        try:
            print(run_part(part, settings, device), flush=True)
        finally:
            devices.put(device)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(run, open_parts))


if __name__ == "__main__":
    run_script(main)
