"""Preparation, training and evaluation of a tiny cohort, interrupted at chosen moments.

The three scripts are stages. `Workplace` holds the input and output of a stage. `Bench.check` runs it under a
fault, asserts that no half-written file can be read, runs the same command again, and asserts that the result
is, bit for bit, that of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from datasets.cache import Cache
from learning.checkpoint import load_checkpoint
from tests.robustness.forks import CRASHED, Ended, Fault, Forker, computed, kill

PREPARATION, TRAINING, EVALUATION = "preparation", "training", "evaluation"
STAGES = {PREPARATION: "load_data", TRAINING: "training", EVALUATION: "evaluate"}
COHORT = {"sessions": 6, "persons": 1, "recordings": 2, "duration": 6.0, "abnormal_share": 0.5}
TINY = [
    *("--preset", "small", "--width", "8", "--points", "50", "--epochs", "2", "--batch-size", "16"),
    *("--folds", "0", "1", "--fold-count", "2", "--validation-share", "0.34"),
    *("--precision", "float32", "--device", "cpu", "--threads", "1", "--run-name", "run", "--resume"),
]
NOT_COMPARED = {"created", "samples_per_second", "cache_dir", "checkpoint_dir", "log_dir"}
"""Differs between two runs of one command in two folders: times, and the folders."""


@dataclass(frozen=True)
class Workplace:
    """A folder in which the three stages are run."""

    root: Path

    def arguments(self, stage: str, figures: bool = False) -> list[str]:
        """Return the command line of a stage; the same to start and to resume."""
        cache = ["--cache-dir", str(self.root / "cache")]
        checkpoints = ["--checkpoint-dir", str(self.root / "checkpoints")]
        if stage == PREPARATION:
            cohort = [f"--simulation.{name}={value}" for name, value in COHORT.items()]
            raw = ["--simulate", "--raw-dir", str(self.root / "raw"), "--jobs", "1", "--beat-points", "100"]
            return [*raw, *cache, *cohort]
        if stage == TRAINING:
            return [*TINY, *cache, *checkpoints, "--log-dir", str(self.root / "runs")]
        results = ["--results-dir", str(self.root / "results"), "--bootstrap-draws", "0", "--threads", "1"]
        run = ["--checkpoint", str(self.root / "checkpoints" / "run"), "--device", "cpu"]
        return [*run, *cache, *checkpoints, *results, *([] if figures else ["--compact"])]

    def copy(self, root: Path) -> Workplace:
        """Return a copy of the folder and what is in it."""
        shutil.copytree(self.root, root)
        return Workplace(root)


# What is compared -----------------------------------------------------------------------------------


def content_of(workplace: Workplace, stage: str) -> dict[str, Any]:
    """Return the output of a stage by file, without the times; hidden files are ignored."""
    if stage == PREPARATION:
        return _files(workplace.root / "raw") | _files(workplace.root / "cache")
    if stage == TRAINING:
        return _checkpoints(workplace.root / "checkpoints")
    return _files(workplace.root / "results")


def _visible(folder: Path, pattern: str = "*") -> list[Path]:
    """Return files that are neither hidden nor in a hidden folder."""
    files = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _files(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in _visible(folder):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(_timeless(json.loads(content))).encode()
        found[f"{folder.name}/{path.relative_to(folder).as_posix()}"] = content
    return found


def _checkpoints(folder: Path) -> dict[str, Any]:
    found = {path.name: path.read_bytes() for path in _visible(folder, "splits.csv")}
    for path in _visible(folder, "*.pt"):
        found[path.relative_to(folder).as_posix()] = _timeless(load_checkpoint(path))
    return found


def _timeless(content: Any) -> Any:
    """Return nested content without times and folders, tensors as their bytes."""
    if isinstance(content, dict):
        return {str(key): _timeless(value) for key, value in content.items() if key not in NOT_COMPARED}
    if isinstance(content, list | tuple):
        return [_timeless(item) for item in content]
    if isinstance(content, Tensor):
        return str(content.dtype), tuple(content.shape), content.numpy().tobytes()
    if isinstance(content, float):
        return content.hex()  # NaN is not equal to itself, and its text is
    return content


def assert_readable(workplace: Workplace) -> None:
    """Assert that every file under its own name can be read to its end."""
    for manifest in sorted((workplace.root / "cache").glob("[!.]*/manifest.json")):
        cache = Cache(manifest.parent)
        for name in ("recordings", "samples", "events", "skipped"):
            cache.table(name)
        for modality in ("ecg", "pcg"):
            assert len(cache.beats(modality)) == cache.manifest["counts"]["beats"]
            assert np.isfinite(cache.beats(modality)).all()
    assert all(
        (path / "manifest.json").exists() for path in (workplace.root / "cache").glob("[!.]*physionet2016-*")
    )
    for path in _visible(workplace.root / "checkpoints", "*.pt"):
        load_checkpoint(path)
    for path in _visible(workplace.root, "*.json"):
        json.loads(path.read_text())
    for name in ("results", "checkpoints"):
        assert all(len(pd.read_csv(path)) for path in _visible(workplace.root / name, "*.csv"))


# Interrupting ---------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One stage: its input, duration, number of changes to files, and expected output."""

    name: str
    start: Workplace
    seconds: float
    changes: int
    expected: dict[str, Any]
    largest: int
    written: int
    figures: bool = False


@dataclass
class Bench:
    """All stages, run once undisturbed, and the server that runs them again."""

    forker: Forker
    folder: Path
    figures: bool = False
    stages: dict[str, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        done = Workplace(self.folder / "start")
        done.root.mkdir(parents=True)
        for name, script in STAGES.items():
            start = done.copy(self.folder / f"before-{name}")
            ended = self.forker.run(script, done.arguments(name, self.figures), Fault(under=str(done.root)))
            assert ended.code == 0, ended.output
            sizes, before = (sizes_below(place.root) for place in (done, start))
            expected = content_of(done, name)
            self.stages[name] = Stage(
                name,
                start,
                ended.seconds,
                ended.changes,
                expected,
                max(sizes),
                sum(sizes) - sum(before),
                self.figures,
            )

    def run(self, stage: Stage, workplace: Workplace, fault: Fault | None = None) -> Ended:
        """Run a stage in a workplace."""
        return self.forker.run(STAGES[stage.name], self.command(stage, workplace), fault or Fault())

    def start(self, stage: Stage, workplace: Workplace, fault: Fault) -> int:
        """Start a stage in a workplace; return its process."""
        return self.forker.start(STAGES[stage.name], self.command(stage, workplace), fault)

    def command(self, stage: Stage, workplace: Workplace) -> list[str]:
        """Return the command line of a stage in a workplace."""
        return workplace.arguments(stage.name, stage.figures)

    def fresh(self, stage: Stage) -> Workplace:
        """Return a workplace as the stage finds it."""
        place = self.folder / f"case-{random.getrandbits(48):012x}"
        return stage.start.copy(place)

    @contextlib.contextmanager
    def temporary(self, stage: Stage) -> Iterator[Workplace]:
        """Yield a workplace as the stage finds it; removed at the end."""
        workplace = self.fresh(stage)
        try:
            yield workplace
        finally:
            shutil.rmtree(workplace.root)

    def assert_undisturbed(self, stage: Stage, workplace: Workplace) -> None:
        """Assert that the output of a stage is that of an undisturbed run, bit for bit."""
        found = content_of(workplace, stage.name)
        assert found.keys() == stage.expected.keys(), found.keys() ^ stage.expected.keys()
        differing = [name for name in found if found[name] != stage.expected[name]]
        assert not differing, f"{differing} differ from an undisturbed run"

    def assert_runs(self, stage: Stage, workplace: Workplace) -> None:
        """Run a stage to its end and assert that its output is that of an undisturbed run."""
        ended = self.run(stage, workplace)
        assert ended.code == 0, ended.output
        self.assert_undisturbed(stage, workplace)

    def check(self, stage: Stage, interrupt: Callable[[Workplace], Ended]) -> Ended:
        """Interrupt a stage, read the files that it left, run the same command again and compare."""
        with self.temporary(stage) as workplace:
            ended = interrupt(workplace)
            assert_readable(workplace)
            self.assert_runs(stage, workplace)
        return ended

    def kill_at_change(self, stage: Stage, number: int) -> Ended:
        """Kill a stage just before a change to a file, numbered from 1."""

        def interrupt(workplace: Workplace) -> Ended:
            return self.run(stage, workplace, Fault("kill", number, str(workplace.root)))

        ended = self.check(stage, interrupt)
        assert ended.code == -9, f"was not killed: {ended}"
        return ended

    def kill_after(self, stage: Stage, seconds: float) -> Ended:
        """Kill a stage once it has computed for some time, wherever it is."""

        def interrupt(workplace: Workplace) -> Ended:
            process = self.start(stage, workplace, Fault())
            while computed(process) < seconds:
                time.sleep(0.002)
            kill(process)
            return self.forker.wait(process)

        return self.check(stage, interrupt)

    def refuse(self, stage: Stage, fault: Fault, sentence: str) -> Ended:
        """Let the disk refuse; assert that an error message says so, and that nothing is lost."""

        def interrupt(workplace: Workplace) -> Ended:
            under = str(workplace.root) if fault.what == "refuse" else ""
            return self.run(stage, workplace, Fault(fault.what, fault.at, under, fault.error))

        ended = self.check(stage, interrupt)
        if ended.code != 0:  # no fault where nothing reached the limit
            assert_error(ended, sentence)
        return ended

    def can_mount(self) -> bool:
        """Return whether this user may mount a file system."""
        place = self.folder / "mounted"
        place.mkdir(exist_ok=True)
        try:
            mount(place, PAGE)
        except (OSError, subprocess.SubprocessError):
            return False
        subprocess.run(["umount", str(place)], check=True)
        return True

    def in_small_disk(self, stage: Stage, share: float, sentence: str) -> Ended:
        """Run a stage in a file system with room for a share of its output, then enlarge it."""
        place = self.folder / "mounted"
        before = sizes_below(stage.start.root)
        mount(place, sum(before) + 50 * PAGE + int(share * stage.written))
        try:
            workplace = stage.start.copy(place / "work")
            ended = self.run(stage, workplace)
            assert_readable(workplace)
            if ended.code != 0:
                assert_error(ended, sentence)
            mount(place, 2**30, "remount,")
            self.assert_runs(stage, workplace)
            return ended
        finally:
            subprocess.run(["umount", str(place)], check=True)


PAGE = 4096


def sizes_below(folder: Path) -> list[int]:
    """Return the sizes of all files below a folder, in whole pages."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [PAGE * -(-size // PAGE) for size in sizes]


def mount(place: Path, size: int, options: str = "") -> None:
    """Mount a file system of a size, in memory."""
    command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


def assert_error(ended: Ended, sentence: str) -> None:
    """Assert that a script ended with an error message, and without a traceback."""
    output = " ".join(ended.output.split())
    assert ended.code == 2, ended.output if ended.code == CRASHED else ended
    assert "Traceback" not in output, ended.output
    assert re.search(f"Error: .*({sentence})", output), ended.output
