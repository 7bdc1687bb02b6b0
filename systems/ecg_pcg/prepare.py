"""Data of task ``ecg-pcg``: from raw recordings, downloaded or simulated, to a cache of beats."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from datasets.cache import Cache, remember_latest
from datasets.problems import format_problems
from datasets.recordings import ChannelFinder, channels_by_name
from datasets.sources import DataError, Problem, SourceIndex
from systems.ecg_pcg.settings import LoadDataSettings
from systems.ecg_pcg.sources.cache import build_cache, identify
from systems.ecg_pcg.sources.cohort import find_channels, index_cohort
from systems.ecg_pcg.sources.download import download_physionet2016
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated_cohort import write_cohort

DOWNLOADED = Path("data/raw/challenge-2016")
SIMULATED = Path("data/raw/simulated")
SHORTEST_BEAT = 25
"""Fewest points of a beat that a network takes."""
SECONDS_PER_RECORDING = 0.009
"""Measured on training-a (35 s a recording), one core."""


def prepare(settings: LoadDataSettings, task: str = "ecg-pcg") -> Path:
    """Prepare what the settings name; return the folder of the cache."""
    if settings.simulate and settings.download:
        raise DataError("--simulate and --download exclude each other: choose one.")
    if settings.dry_run and (settings.simulate or settings.download):
        print(plan_raw(settings))
        return settings.cache_dir
    if settings.preparation.beat_points < SHORTEST_BEAT:
        raise DataError(
            f"--beat-points {settings.preparation.beat_points} is too few for a network: "
            f"use {SHORTEST_BEAT} or more (2000 as published)."
        )
    raw_dir = make_raw(settings)
    index, find = open_source(raw_dir, settings)
    print(f"{len(index.recordings)} recordings in {raw_dir} ({index.name}).")
    if settings.dry_run:
        print(estimate(index, settings))
        return settings.cache_dir
    started = time.perf_counter()
    path = build_cache(
        index,
        settings.preparation,
        settings.cache_dir,
        jobs=settings.jobs,
        strict=settings.strict,
        find_channels=find,
        simulated=(raw_dir / "simulation.json").exists(),
    )
    remember_latest(path, task)
    print(summary(Cache(path), time.perf_counter() - started))
    return path


def make_raw(settings: LoadDataSettings) -> Path:
    """Return the folder of raw recordings, after downloading or simulating them where that is asked for."""
    if settings.simulate:
        try:
            return write_cohort(
                settings.raw_dir or SIMULATED, settings.simulation, jobs=settings.jobs, progress=True
            )
        except ValueError as error:
            raise DataError(str(error)) from None
    if settings.download:
        folder = settings.raw_dir or DOWNLOADED
        report(download_physionet2016(folder, settings.sets))
        return folder
    return find_raw(settings)


def plan_raw(settings: LoadDataSettings) -> str:
    """Return what would be simulated or downloaded, without doing it."""
    if settings.simulate:
        made = settings.simulation
        count = made.sessions * made.persons * made.recordings
        what, folder = f"simulate {count} recordings of {made.duration:g} s", settings.raw_dir or SIMULATED
    else:
        sets = ", ".join(f"training-{letter}" for letter in settings.sets)
        what, folder = f"fetch what is absent of {sets}", settings.raw_dir or DOWNLOADED
    return f"Would {what} into {folder}, and prepare that into {settings.cache_dir}. Nothing was written."


def find_raw(settings: LoadDataSettings) -> Path:
    """Return the first place that holds recordings.

    Raises
    ------
    DataError
        Saying where it looked, how to download and how to simulate.
    """
    named = [settings.raw_dir] if settings.raw_dir else []
    variable = os.environ.get("PHYSIONET2016_DIR")
    usual = [Path(variable)] if variable else []
    places = named or [*usual, DOWNLOADED]
    for place in places:
        root = place.parent if place.name.startswith("training-") else place
        if layout_of(root):
            return root
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"No recordings found. Looked for training-* folders or a labels.csv in: {looked}"
        f"{'' if named or variable else ' ($PHYSIONET2016_DIR is not set)'}. "
        "Download them (training-a: 110 MB) with: python load_data.py --download. "
        "Try everything on simulated patients with: python load_data.py --simulate. "
        "Or name the folder with --raw-dir PATH; docs/data.md shows the layouts."
    )


def layout_of(root: Path) -> str:
    """Return which source a folder holds; empty if none."""
    if (root / "labels.csv").is_file():
        return "cohort"
    return "physionet2016" if any(root.glob("training-[a-f]")) else ""


def open_source(raw_dir: Path, settings: LoadDataSettings) -> tuple[SourceIndex, ChannelFinder]:
    """Index the raw recordings; return the index and the rule that tells ECG from heart sound."""
    layout = layout_of(raw_dir) if settings.source == "auto" else settings.source
    if layout == "cohort":
        channels = {"ecg_channel": settings.ecg_channel, "pcg_channel": settings.pcg_channel}
        index = index_cohort(raw_dir, **channels)
        report(index.problems)
        return index, functools.partial(find_channels, **channels)
    index = index_physionet2016(raw_dir, settings.sets, settings.preparation)
    report(index.problems)
    return index, channels_by_name


def report(problems: Sequence[Problem]) -> None:
    """Print problems as a table, if there are any."""
    if problems:
        print(format_problems(list(problems)))


def estimate(index: SourceIndex, settings: LoadDataSettings) -> str:
    """Return what preparation would write, and how long it would take."""
    identity, checksums = identify(index, settings.preparation)
    path = settings.cache_dir / f"{index.name}-{identity[:8]}"
    if path.is_dir():
        return f"{path} is there already: nothing would be computed."
    raw = sum((index.root / name).stat().st_size for name in checksums if (index.root / name).is_file())
    cores = os.cpu_count() or 1 if settings.jobs < 0 else max(settings.jobs, 1)
    seconds = 2 + SECONDS_PER_RECORDING * len(index.recordings) / cores
    return (
        f"Would read {raw / 1e6:.0f} MB and write about {raw * 4 / 1e6:.0f} MB to {path}, "
        f"in about {seconds:.0f} s on {cores} cores. Nothing was written."
    )


def summary(cache: Cache, seconds: float) -> str:
    """Return what the cache holds and what was left out, for the screen."""
    counts = cache.manifest["counts"]
    normal = counts["recordings"] - counts["abnormal_recordings"]
    lines = [
        "{recordings} recordings kept ({normal} normal, {abnormal_recordings} abnormal), {beats} beats, "
        "{sessions} sessions, about {persons} persons; {skipped} left out.".format(normal=normal, **counts),
        f"Cache: {cache.path} ({seconds:.1f} s)",
    ]
    reasons = cache.table("skipped")["reason"].value_counts()
    lines[1:1] = [f"  {count:4d}  {reason}" for reason, count in reasons.head(8).items()]
    if len(reasons) > 8:
        lines.insert(-1, f"        and {len(reasons) - 8} other reasons: see skipped.csv")
    return "\n".join([*lines, "Next:  python training.py"])
