"""Good recordings in both layouts, small enough to be prepared in a moment, and their preparation."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd

import load_data
from common.errors import UserError
from datasets.cache import Cache
from simulation.settings import SimulationSettings
from systems.ecg_pcg.sources.simulated import HAND_CORRECTED_FOLDER, write_cohort

PHYSIONET, COHORT = "physionet2016", "cohort"
LAYOUTS = (PHYSIONET, COHORT)
SMALL = SimulationSettings(sessions=2, persons=1, recordings=2, duration=6.0, seed=3)
RECORDS = {"a0001": "visit1/p001", "a0002": "visit1/p002", "a0003": "p003", "a0004": "p004"}
"""Recordings of the simulated cohort, and their names in the user's cohort."""
WITH_ONSETS = ("a0001", "a0003")
"""Recordings of the user's cohort with heart-state onsets; beats of the others are found in the ECG."""
SECRET = "secret"
"""Folder of good files beside the raw recordings, which nothing may read."""
LONGEST = 120
"""Seconds after which a preparation of four recordings counts as hanging; on an idle machine it takes 0.1."""
MEMORY = 2 * 2**30
"""Bytes that a preparation may allocate beyond what the process has already."""


class TooLongError(BaseException):
    """A preparation that does not end; no handler of ordinary errors may swallow it."""


@dataclass(frozen=True)
class Workspace:
    """A folder of raw recordings in one layout; ``secret`` beside it is not to be read."""

    layout: str
    base: Path

    @property
    def raw(self) -> Path:
        return self.base / "raw"

    @property
    def secret(self) -> Path:
        return self.base / SECRET

    @property
    def names(self) -> list[str]:
        return sorted(RECORDS if self.layout == PHYSIONET else RECORDS.values())

    @property
    def table(self) -> Path:
        return self.raw / ("labels.csv" if self.layout == COHORT else "training-a/REFERENCE-SQI.csv")

    def header(self, name: str) -> Path:
        return self.raw / (f"{name}.hea" if self.layout == COHORT else f"training-a/{name}.hea")

    def onsets(self, name: str) -> Path:
        """Heart-state onsets of a recording, which may be absent."""
        if self.layout == COHORT:
            return self.raw / f"{name}_StateAns.mat"
        return self.raw / HAND_CORRECTED_FOLDER / f"{name}_StateAns.mat"

    def copy(self, base: Path) -> Workspace:
        """Return a copy of the workspace that can be damaged."""
        shutil.copytree(self.base, base, symlinks=True)
        return Workspace(self.layout, base)


def build_workspaces(folder: Path) -> dict[str, Workspace]:
    """Write good recordings in both layouts; return the workspaces by layout."""
    simulated = Workspace(PHYSIONET, folder / PHYSIONET)
    write_cohort(simulated.raw, SMALL)
    (simulated.raw / "simulation.json").unlink()  # a mutated cohort does not count as simulated
    _add_secret(simulated, simulated)
    user = Workspace(COHORT, folder / COHORT)
    rows = ["recording,session,person,label,diagnosis,site,quality,annotation"]
    labels = pd.read_csv(simulated.table, header=None, index_col=0)[1]
    for number, (name, new) in enumerate(RECORDS.items()):
        _copy_recording(simulated, name, user, new)
        rows.append(
            f"{new},s{number // 2},P{number},{'abnormal' if labels[name] == 1 else 'normal'},,Apex,1,"
        )
    user.table.write_text("\n".join(rows) + "\n")
    _add_secret(simulated, user)
    return {PHYSIONET: simulated, COHORT: user}


def _copy_recording(simulated: Workspace, name: str, user: Workspace, new: str) -> None:
    """Copy a recording into the user's cohort, under another name."""
    header = user.header(new)
    header.parent.mkdir(parents=True, exist_ok=True)
    for ending in (".wav", ".dat"):
        shutil.copy(simulated.header(name).with_suffix(ending), header.with_suffix(ending))
    header.write_bytes(simulated.header(name).read_bytes().replace(name.encode(), header.stem.encode()))
    if name in WITH_ONSETS:
        shutil.copy(simulated.onsets(name), user.onsets(new))


def _add_secret(simulated: Workspace, workspace: Workspace) -> None:
    """Put good files beside a workspace, which would be read if a path could lead there."""
    workspace.secret.mkdir()
    header = simulated.header("a0001")
    for path in (header, header.with_suffix(".dat"), header.with_suffix(".wav")):
        shutil.copy(path, workspace.secret / path.name)
    shutil.copy(simulated.onsets("a0001"), workspace.secret / "a0001_StateAns.mat")


# Preparing under guard ------------------------------------------------------------------------------


_opened: list[str] | None = None


def _remember(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Yield a list of every path that is opened within the block."""
    global _opened
    if not getattr(_watched, "hooked", False):
        sys.addaudithook(_remember)
        setattr(_watched, "hooked", True)  # noqa: B010 - a hook stays for good
    paths: list[str] = []
    _opened = paths
    try:
        yield paths
    finally:
        _opened = None


@contextlib.contextmanager
def _guarded(seconds: int = LONGEST, memory: int = MEMORY) -> Iterator[None]:
    """Stop what takes too long, and refuse what allocates too much."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        now = int(statistics.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation: a cache, or an error meant for the user; and the files that it opened."""

    cache: Cache | None
    error: UserError | None
    opened: list[str]

    def beats(self) -> dict[str, str]:
        """Return a digest of the beats of each recording: where they lie, and every bit of them."""
        assert self.cache is not None
        samples = self.cache.table("samples")
        found = {}
        for name, rows in samples.groupby("recording"):
            digest = hashlib.sha256(rows[["start", "end"]].to_csv(index=False).encode())
            for kind in ("ecg", "pcg"):
                digest.update(np.ascontiguousarray(self.cache.beats(kind)[rows.index.to_numpy()]).tobytes())
            found[str(name)] = digest.hexdigest()
        return found


def prepare(workspace: Workspace, cache_dir: Path, *options: str) -> Prepared:
    """Prepare a workspace as the script does; only an error meant for the user may be raised."""
    arguments = ["--raw-dir", str(workspace.raw), "--source", workspace.layout, "--cache-dir", str(cache_dir)]
    with _watched() as opened:
        try:
            with _guarded():
                path = load_data.main([*arguments, "--jobs", "1", "--beat-points", "100", *options])
        except UserError as error:
            return Prepared(None, error, opened)
    return Prepared(Cache(path), None, opened)
