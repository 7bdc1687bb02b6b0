"""Data of the ECG-CMR tasks: from one's own pairs, ACDC, PTB-XL or simulated patients to one cache for all.

A cache that holds pairs of ECG and cine serves every stage, and becomes the newest of each. One without
pairs (PTB-XL has ECGs alone, ACDC cines alone) becomes the newest of the task it was prepared for.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import joblib
import pandas as pd

from datasets.cache import Cache, remember_latest
from datasets.cache_filling import name_content
from datasets.problems import format_problems
from datasets.ptbxl import DATABASE, index_ptbxl
from datasets.sources import DataError, Problem
from systems.ecg_cmr.settings import LoadDataSettings
from systems.ecg_cmr.sources.acdc import PARTS, index_acdc
from systems.ecg_cmr.sources.cache import (
    Prepare,
    build_pairs_cache,
    check_pair_settings,
    check_pairs,
    identify_pairs,
)
from systems.ecg_cmr.sources.pair_modalities import prepare_pair
from systems.ecg_cmr.sources.pairs import TABLE, PairIndex, ecg_only, index_pairs
from systems.ecg_cmr.sources.simulated_files import write_pairs
from systems.ecg_cmr.sources.simulated_pairs import build_simulated_pairs, draw_pair, simulated_index

NEEDS: Mapping[str, tuple[str, ...]] = {
    "ecg-mae": ("ecg",),
    "cmr-mae": ("cmr",),
    "ecg-cmr-contrast": ("ecg", "cmr"),
    "ecg-phenotypes": (),
    "cine-autoencoder": ("cmr",),
    "ecg-to-cmr": ("ecg", "cmr"),
}
"""For each task, what a patient must have for it; for ecg-phenotypes either will do."""
VIEWS = {"ecg": "signal", "cmr": "image"}
"""Column of an index that names the file of each."""
USUAL = Path("data/raw/pairs")
ALONE = {
    "ecg-mae": Path("data/raw/ptb-xl"),
    "cmr-mae": Path("data/raw/acdc"),
    "cine-autoencoder": Path("data/raw/acdc"),
}
"""Where those tasks that need no pairs look as well."""
PTBXL_RATE: Literal[500] = 500
"""Hertz of the files of PTB-XL to read, where they are there."""
TRIED = 3
"""Patients that a dry run prepares, to tell how long all will take."""


def prepare(settings: LoadDataSettings, task: str = "ecg-mae") -> Path:
    """Prepare what the settings name; return the folder of the cache.

    Parameters
    ----------
    settings : LoadDataSettings
    task : str
        One of `NEEDS`: the data must hold what it learns from.

    Raises
    ------
    DataError
        If there are no data, they do not hold it, or nothing of them can be used.
    """
    check_pair_settings(settings.preparation)
    if settings.simulate and settings.check:
        raise DataError("--check reads files that are there: leave --simulate away, and name --raw-dir.")
    if settings.simulate and settings.dry_run:
        print(plan_simulation(settings))
        return settings.cache_dir
    started, told = time.perf_counter(), list[Problem]()
    if settings.simulate and settings.raw_dir is None:
        made, views = settings.simulation, settings.preparation
        path = build_simulated_pairs(views, made, settings.cache_dir, jobs=settings.jobs)
    else:
        index = open_source(simulate(settings) if settings.simulate else find_raw(settings, task), settings)
        require(index, task)
        if settings.check or settings.dry_run:
            print(checked(index, settings) if settings.check else estimate(index, settings))
            return settings.cache_dir
        told = index.problems
        print(found_in(index))
        path = build_pairs_cache(
            index, settings.preparation, settings.cache_dir, jobs=settings.jobs, strict=settings.strict
        )
    cache = Cache(path)
    for name in serves(cache, task):
        remember_latest(path, name)
    print(summary(cache, task, told, time.perf_counter() - started))
    return path


def serves(cache: Cache, task: str) -> list[str]:
    """Return the tasks whose newest cache this one becomes: all if it holds pairs, else the one named."""
    return list(NEEDS) if cache.manifest["counts"]["pairs"] else [task]


# Sources --------------------------------------------------------------------------------------------


def simulate(settings: LoadDataSettings) -> Path:
    """Write simulated patients as files into the folder of raw data; return it."""
    assert settings.raw_dir is not None
    made = settings.simulation
    try:
        return write_pairs(
            settings.raw_dir,
            made.patients,
            made.seed,
            ecg_noise=made.ecg_noise,
            long_axis=settings.preparation.long_axis,
            jobs=settings.jobs,
            progress=True,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def find_raw(settings: LoadDataSettings, task: str) -> Path:
    """Return the first place that holds patients.

    Raises
    ------
    DataError
        Saying where it looked, and what else can be done.
    """
    variable = os.environ.get("PTBXL_DIR", "") if task == "ecg-mae" else ""
    usual = [USUAL, *([Path(variable)] if variable else []), *([ALONE[task]] if task in ALONE else [])]
    places = [settings.raw_dir] if settings.raw_dir else usual
    for place in places:
        if settings.source == layout_of(place) or (settings.source == "auto" and layout_of(place)):
            return place
    looked = ", ".join(str(place) for place in places)
    unset = task == "ecg-mae" and not (settings.raw_dir or variable)
    raise DataError(
        f"No patients found. Looked for {TABLE}.csv, {DATABASE} (PTB-XL) or training/patient001 (ACDC) in: "
        f"{looked}{' ($PTBXL_DIR is not set)' if unset else ''}. Name the folder with --raw-dir PATH; "
        f"docs/data.md shows the layouts. Try everything on simulated patients with: "
        f"python load_data.py {task} --simulate."
    )


def layout_of(root: Path) -> str:
    """Return which source a folder holds; empty if none."""
    if any((root / f"{TABLE}.{ending}").is_file() for ending in ("csv", "xlsx")):
        return "pairs"
    if (root / DATABASE).is_file():
        return "ptbxl"
    return "acdc" if any(path.is_dir() for part in PARTS for path in root.glob(f"{part}/patient*")) else ""


def open_source(raw_dir: Path, settings: LoadDataSettings) -> PairIndex:
    """Index the patients of a folder."""
    layout = layout_of(raw_dir) if settings.source == "auto" else settings.source
    if layout == "ptbxl":
        return ecg_only(index_ptbxl(raw_dir, PTBXL_RATE, "abnormal"))
    return index_acdc(raw_dir) if layout == "acdc" else index_pairs(raw_dir)


def require(index: PairIndex, task: str) -> None:
    """Refuse data of which no patient has what a task learns from, before anything is prepared."""
    needs = NEEDS[task]
    there = index.recordings[[VIEWS[name] for name in needs]] != ""
    if not there.all(axis=1).any():
        words = " and ".join({"ecg": "an ECG", "cmr": "a cine"}[name] for name in needs)
        raise DataError(
            f"No patient in {index.root} ({index.name}) has {words}, which {task} learns from. Name a folder "
            f"with a {TABLE}.csv (docs/data.md), or try it with: python load_data.py {task} --simulate."
        )


# What is said ---------------------------------------------------------------------------------------


def found_in(index: PairIndex) -> str:
    """Return what was found in the tables of a source, and what is wrong with them."""
    lines = [format_problems(index.problems)] if index.problems else []
    return "\n".join([*lines, f"{len(index.recordings)} recordings in {index.root} ({index.name})."])


def plan_simulation(settings: LoadDataSettings) -> str:
    """Return what simulating would write."""
    made = settings.simulation
    if settings.raw_dir:
        where = f"as files into {settings.raw_dir}, and prepare them into {settings.cache_dir}"
        return f"Would simulate {made.patients} patients {where}. Nothing was written."
    index = simulated_index(made)
    path = settings.cache_dir / cache_name(index, name_content(index, [], settings.preparation)[0])
    draw = functools.partial(draw_pair, settings=settings.preparation, simulation=made)
    return f"Would simulate {made.patients} patients. {cost(index, path, draw, settings)}"


def checked(index: PairIndex, settings: LoadDataSettings) -> str:
    """Return all that is wrong with an index and its files, as a table, and how many of them there are."""
    problems = check_pairs(index, settings.preparation, jobs=settings.jobs, progress=True)
    faults = sum(problem.left_out for problem in problems)
    return (
        f"{format_problems(problems, limit=max(len(problems), 1))}\n{len(index.recordings)} recordings in "
        f"{index.root} ({index.name}): {faults} faults and {len(problems) - faults} warnings. "
        "Nothing was written."
    )


def estimate(index: PairIndex, settings: LoadDataSettings) -> str:
    """Return what preparation would write."""
    path = settings.cache_dir / cache_name(index, identify_pairs(index, settings.preparation)[0])
    read = functools.partial(prepare_pair, root=index.root, settings=settings.preparation)
    return f"{found_in(index)}\n{cost(index, path, read, settings)}"


def cache_name(index: PairIndex, identity: str) -> str:
    """Return the name of the folder that the cache of an index gets."""
    return f"{index.name}-{identity[:8]}"


def cost(index: PairIndex, path: Path, make: Prepare, settings: LoadDataSettings) -> str:
    """Return the size of a cache, and the time that it will take by what the first patients take."""
    if path.is_dir():
        return f"{path} is there already: nothing would be computed."
    rows = index.recordings.to_dict("records")
    make(rows[0])  # the first call takes longer than all others
    started = time.perf_counter()
    for row in rows[:TRIED]:
        make(row)
    each = (time.perf_counter() - started) / len(rows[:TRIED])
    workers = joblib.effective_n_jobs(settings.jobs)
    seconds, size = each * len(rows) / workers, len(rows) * settings.preparation.bytes_a_patient
    return (
        f"Would write about {size / 1e6:.0f} MB to {path}, in about {seconds:.0f} s on {workers} processes. "
        "Nothing was written."
    )


def summary(cache: Cache, task: str, told: list[Problem], seconds: float) -> str:
    """Return what the cache holds and what was left out, for the screen.

    Parameters
    ----------
    cache : Cache
    task : str
        What comes next.
    told : list of Problem
        What was on the screen before.
    seconds : float
        Time that preparing took.
    """
    counts, targets = cache.manifest["counts"], cache.manifest["targets"]
    known = {(problem.where, problem.what) for problem in told}
    found = [Problem(*row) for row in cache.table("skipped").itertuples(index=False)]
    fresh = [problem for problem in found if (problem.where, problem.what) not in known]
    lines = [format_problems(fresh)] if fresh else []
    lines += [
        f"{counts['recordings']} recordings of {counts['persons']} patients kept; {counts['has_ecg']} with "
        f"ECG, {counts['has_cmr']} with cine, {counts['pairs']} with both; {counts['skipped']} left out "
        "(patients, or one view of theirs).",
        f"Known of them: {len(targets['indicators'])} indicators, {len(targets['diseases'])} diseases, "
        f"{len(targets['covariates'])} covariates.",
        *ceiling_lines(cache.manifest["ceilings"]),
        f"Cache: {cache.path} ({seconds:.1f} s)",
        f"Next:  python training.py {task}",
    ]
    return "\n".join(lines)


def ceiling_lines(ceilings: Mapping[str, float]) -> list[str]:
    """Return what an ECG can know of each indicator at best; nothing where that is not known."""
    if not ceilings:
        return []
    named = pd.Series(ceilings).sort_values(ascending=False, kind="stable")
    return ["R2 that no ECG can exceed: " + ", ".join(f"{name} {value:.2f}" for name, value in named.items())]
