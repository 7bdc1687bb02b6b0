"""Data of task ``ecg-multimodal``: from PTB-XL, one's own patients or simulated ones to a cache of views."""

from __future__ import annotations

import os
import time
from pathlib import Path

from datasets.cache import Cache, remember_latest
from datasets.patient_folders import index_patient_folders
from datasets.patients import PatientIndex
from datasets.problems import format_problems
from datasets.ptbxl import index_ptbxl
from datasets.sources import DataError
from systems.ecg_multimodal.settings import LoadDataSettings
from systems.ecg_multimodal.sources.cache import build_patients_cache, identify_patients
from systems.ecg_multimodal.sources.simulated import write_patient_folders

TASK = "ecg-multimodal"
DOWNLOADED = Path("data/raw/ptb-xl")
SIMULATED = Path("data/raw/simulated-patients")


def prepare(settings: LoadDataSettings, task: str = "ecg-multimodal") -> Path:
    """Prepare what the settings name; return the folder of the cache."""
    if settings.simulate and settings.dry_run:
        made = settings.simulation
        folder = settings.raw_dir or SIMULATED
        print(f"Would simulate {made.patients} patients into {folder}. Nothing was written.")
        return settings.cache_dir
    raw_dir = simulate(settings) if settings.simulate else find_raw(settings)
    index = open_source(raw_dir, settings)
    if index.problems:
        print(format_problems(index.problems))
    print(f"{len(index.recordings)} recordings in {raw_dir} ({index.name}).")
    if settings.dry_run:
        print(estimate(index, settings))
        return settings.cache_dir
    started = time.perf_counter()
    path = build_patients_cache(
        index, settings.views, settings.cache_dir, jobs=settings.jobs, strict=settings.strict
    )
    remember_latest(path, TASK)
    print(summary(Cache(path), time.perf_counter() - started))
    return path


def simulate(settings: LoadDataSettings) -> Path:
    """Write a cohort of simulated patients in the layout of one's own folders; return its folder."""
    made = settings.simulation
    folder = settings.raw_dir or SIMULATED
    try:
        return write_patient_folders(
            folder,
            patients=made.patients,
            seed=made.seed,
            causes=made.causes,
            missing=made.missing,
            jobs=settings.jobs,
            progress=True,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def find_raw(settings: LoadDataSettings) -> Path:
    """Return the first place that holds patients.

    Raises
    ------
    DataError
        Saying where it looked, and what else can be done.
    """
    variable = os.environ.get("PTBXL_DIR")
    usual = [Path(variable)] if variable else []
    places = [settings.raw_dir] if settings.raw_dir else [*usual, DOWNLOADED]
    for place in places:
        if layout_of(place):
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        "No patients found. Looked for ptbxl_database.csv, or a table of labels (labels.xlsx or .csv), in: "
        f"{looked}{'' if settings.raw_dir or variable else ' ($PTBXL_DIR is not set)'}. "
        "PTB-XL is at physionet.org/content/ptb-xl (1.8 GB). Try everything on simulated patients with: "
        "python load_data.py ecg-multimodal --simulate. docs/data.md shows the layouts."
    )


def layout_of(root: Path) -> str:
    """Return which source a folder holds; empty if none."""
    if (root / "ptbxl_database.csv").is_file():
        return "ptbxl"
    return "patients" if any((root / f"labels.{ending}").is_file() for ending in ("xlsx", "csv")) else ""


def open_source(raw_dir: Path, settings: LoadDataSettings) -> PatientIndex:
    """Index the patients of a folder."""
    layout = layout_of(raw_dir) if settings.source == "auto" else settings.source
    if layout == "ptbxl":
        return index_ptbxl(raw_dir, settings.rate, settings.mixed)
    return index_patient_folders(raw_dir, settings.table_rate)


def estimate(index: PatientIndex, settings: LoadDataSettings) -> str:
    """Return what preparation would write."""
    identity, _ = identify_patients(index, settings.views)
    path = settings.cache_dir / f"{index.name}-{identity[:8]}"
    if path.is_dir():
        return f"{path} is there already: nothing would be computed."
    views, count = settings.views, len(index.recordings)
    size = count * (4 * len(index.leads) * views.points + views.image_width * views.image_height)
    return f"Would write about {size / 1e6:.0f} MB to {path}. Nothing was written."


def summary(cache: Cache, seconds: float) -> str:
    """Return what the cache holds and what was left out, for the screen."""
    table = cache.table("samples")
    counts = {f"{view}": int(table[f"has_{view}"].sum()) for view in ("image", "signal", "clinical")}
    normal, abnormal = (int((table["label"] == value).sum()) for value in (0, 1))
    reasons = cache.table("skipped")["reason"].value_counts()
    lines = [
        f"{len(table)} recordings of {table['person'].nunique()} patients kept ({normal} normal, {abnormal} "
        f"abnormal); {', '.join(f'{count} with {view}' for view, count in counts.items())}; "
        f"{int(reasons.sum())} left out.",
        *(f"  {count:4d}  {reason}" for reason, count in reasons.head(8).items()),
        f"Cache: {cache.path} ({seconds:.1f} s)",
        f"Next:  python training.py {TASK}",
    ]
    return "\n".join(lines)
