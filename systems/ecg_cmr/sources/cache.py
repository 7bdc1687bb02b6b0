"""The cache of patients with an ECG and a cine: `datasets.cache`, with other arrays.

``ecg.npy``           float32 (N, 12, points), millivolts; zeros where there is no ECG, or not this lead
``lead_present.npy``  uint8 (N, 12), 1 where the lead holds a signal
``cmr.npy``           uint8 (N, frames, size, size), 0 to 255; zeros where there is no cine
``long_axis.npy``     the same, where the settings ask for it
``targets.csv``       a row a sample: ``recording`` and numbers, empty where missing (read: missing=("",))
``samples.csv``       a row a sample, in the order of the arrays: who, and which views there are

The manifest's ``targets`` name the columns of ``targets.csv`` that are ``indicators``, ``diseases`` and
``covariates``, its ``ceilings`` how much of the variance of an indicator an ECG can know at best (virtual
patients only).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from common.files import BYTES, NpyWriter
from datasets.cache import Cache
from datasets.cache_filling import (
    LIBRARIES,
    Kept,
    append_view,
    fill_cache,
    is_there,
    manifest_of,
    name_content,
    record_files,
    stopped,
)
from datasets.ecg import LEADS
from datasets.patient_copies import keep_together, leave_out_copies
from datasets.problems import skipped_rows
from datasets.sources import DataError, Problem
from systems.ecg_cmr.settings import PairSettings
from systems.ecg_cmr.sources.pair_modalities import NOT_GIVEN, MissingView, PreparedPair, prepare_pair
from systems.ecg_cmr.sources.pairs import PairIndex

LIBRARIES_USED = (*LIBRARIES, "nibabel")
SMALLEST_CINE = 16
"""Pixels of height and width below which no heart is to be seen."""
VIEWS = ("ecg", "cmr", "long_axis")
ORDER = ("sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end",
         "has_ecg", "has_cmr", "has_long_axis", "official_fold")  # fmt: skip

Prepare = Callable[[dict[str, Any]], PreparedPair | Problem]


def build_pairs_cache(
    index: PairIndex,
    settings: PairSettings,
    cache_dir: Path,
    *,
    jobs: int = -1,
    strict: bool = False,
    progress: bool = True,
) -> Path:
    """Prepare every patient of an index and write the cache; return its folder.

    Nothing is done when a cache of the same settings and source is there already.

    Raises
    ------
    DataError
        If the settings do not fit, nothing usable is left, or under ``strict`` at the first patient left out.
    """
    check_pair_settings(settings)
    identity, checksums = identify_pairs(index, settings)
    kept = leave_out_copies(index, checksums)
    assert isinstance(kept, PairIndex)  # of the kind it was given
    prepare = functools.partial(prepare_pair, root=index.root, settings=settings)
    identified = (identity, checksums)
    return fill_pairs_cache(
        kept, settings, cache_dir, prepare, identified, jobs=jobs, strict=strict, progress=progress
    )


def fill_pairs_cache(
    index: PairIndex,
    settings: PairSettings,
    cache_dir: Path,
    prepare: Prepare,
    identified: tuple[str, dict[str, str]],
    *,
    jobs: int,
    strict: bool = False,
    progress: bool = True,
) -> Path:
    """Write the cache of what a function makes of each row of an index; return its folder.

    Parameters
    ----------
    index, settings, cache_dir, jobs, strict, progress
        As in `build_pairs_cache`.
    prepare : callable
        From a row of the index to a patient, or to what is wrong with it.
    identified : tuple
        Digest of settings and source, and the checksum of each source file.
    """
    path = cache_dir / f"{index.name}-{identified[0][:8]}"
    if path.is_dir():
        return _agreed(path, strict)
    is_there(path, index, strict)  # not, but under strict the index has to be without fault

    def write(folder: Path, prepared: Iterable[PreparedPair | Problem]) -> dict[str, Any]:
        kept = _write_arrays(folder, prepared, index, settings, strict)
        counts = _write_tables(folder, kept, index)
        manifest = manifest_of(index, settings, *identified, index.simulated, LIBRARIES_USED)
        manifest["warnings"] += [f"{problem.where}: {problem.what}" for problem in kept.warnings]
        return manifest | _contents(index) | {"counts": counts}

    fill_cache(path, index, prepare, write, jobs=jobs, progress=progress)
    return path


def _agreed(path: Path, strict: bool) -> Path:
    """Return the folder of a cache; under ``strict`` refuse one for which something was left out."""
    skipped = Cache(path).table("skipped")
    faults = skipped[skipped["remedy"] != NOT_GIVEN]
    if strict and len(faults):
        raise stopped(Problem(*faults.iloc[0]))
    return path


def check_pairs(
    index: PairIndex, settings: PairSettings, *, jobs: int = -1, progress: bool = False
) -> list[Problem]:
    """Return everything that is wrong with an index and within its files; nothing is written."""
    check_pair_settings(settings)
    prepare = functools.partial(prepare_pair, root=index.root, settings=settings)
    rows = index.recordings.to_dict("records")
    found = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_problems)(prepare, row) for row in rows
    )
    bar = tqdm(found, total=len(rows), desc="Checking", unit="recording", disable=not progress)
    return [*index.problems, *(problem for problems in bar for problem in problems)]


def _problems(prepare: Prepare, row: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with one patient's files."""
    item = prepare(row)
    return [item] if isinstance(item, Problem) else item.problems


def check_pair_settings(settings: PairSettings) -> None:
    """Refuse settings that no patient can be prepared with."""
    if settings.ecg_rate <= 0 or settings.seconds <= 0 or settings.points < 1:
        raise DataError(f"ECGs of {settings.seconds} s at {settings.ecg_rate} Hz hold no sample.")
    if settings.frames < 2 or settings.size < SMALLEST_CINE:
        raise DataError(
            f"Cines of {settings.frames} frames and {settings.size} pixels are too small: "
            f"use 2 frames and {SMALLEST_CINE} pixels or more."
        )
    if not (settings.pixel_spacing > 0 and settings.long_axis_spacing > 0):
        raise DataError("The pixel spacing of cines must be positive, in mm.")
    low, high = settings.percentiles
    if not 0 <= low < high <= 100:
        raise DataError(f"Percentiles of brightness are {low} and {high}; 0 to 100, rising, are possible.")


def identify_pairs(index: PairIndex, settings: PairSettings) -> tuple[str, dict[str, str]]:
    """Return the digest of settings and source content, and the checksum of each source file."""
    table = index.recordings
    signals = table["signal"]
    arrays = [name for name in signals if name.endswith(".npy")]
    beside = [name.removesuffix(".npy") + ".json" for name in arrays]
    names = [*index.files, *arrays, *(name for name in beside if (index.root / name).is_file())]
    names += record_files(index.root, signals[signals.str.endswith(".hea")])
    views = ["image", "long_axis"] if settings.long_axis else ["image"]
    names += [name for view in views for name in table[view] if name]
    return name_content(index, names, settings)


# Arrays ---------------------------------------------------------------------------------------------


def _write_arrays(
    folder: Path,
    prepared: Iterable[PreparedPair | Problem],
    index: PairIndex,
    settings: PairSettings,
    strict: bool,
) -> Kept:
    """Write the arrays as the patients come; return what they are."""
    cine = (settings.frames, settings.size, settings.size)
    writers: dict[str, NpyWriter] = {
        "ecg": NpyWriter(folder / "ecg.npy", (len(LEADS), settings.points)),
        "lead_present": NpyWriter(folder / "lead_present.npy", (len(LEADS),), BYTES),
        "cmr": NpyWriter(folder / "cmr.npy", cine, BYTES),
    }
    if settings.long_axis:
        writers["long_axis"] = NpyWriter(folder / "long_axis.npy", cine, BYTES)
    listed = [problem for problem in index.problems if problem.left_out or isinstance(problem, MissingView)]
    kept = Kept(skipped=listed)
    for item in prepared:
        faults = [item] if isinstance(item, Problem) else [item for item in item.problems if item.left_out]
        if strict and faults:
            raise stopped(faults[0])
        kept.skipped.extend(faults)
        if isinstance(item, Problem):
            continue
        has = {f"has_{view}": int(getattr(item, view) is not None) for view in VIEWS}
        kept.rows.append(item.row | has)
        kept.warnings.extend(problem for problem in item.problems if not problem.left_out)
        for name, writer in writers.items():
            append_view(writer, getattr(item, name))
    for writer in writers.values():
        writer.close()
    used = {row["recording"] for row in kept.rows}
    kept.skipped[:] = [
        item for item in kept.skipped if not isinstance(item, MissingView) or item.where in used
    ]
    if not kept.rows:
        reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in kept.skipped[:3])
        raise DataError(f"No patient of {index.root} can be used. The first reasons: {reasons}")
    return kept


# Tables ---------------------------------------------------------------------------------------------


def _write_tables(folder: Path, kept: Kept, index: PairIndex) -> dict[str, int]:
    """Write the tables of the cache and return their counts."""
    recordings = pd.DataFrame(kept.rows)
    for column in recordings.columns[recordings.isna().any()]:  # metadata of a view that some have not
        nothing = 0 if pd.api.types.is_numeric_dtype(recordings[column]) else ""
        recordings[column] = recordings[column].fillna(nothing)
    # what tells one patient's data from another's, wherever it turns up: the ECG, or else the cine
    content = [
        recordings.get(f"{view}_sha256", pd.Series("", recordings.index)) for view in ("signal", "image")
    ]
    recordings["sha256"] = content[0].where(content[0] != "", content[1])
    recordings.insert(2, "session", keep_together(recordings, kept.warnings))
    samples = recordings.assign(sample=np.arange(len(recordings)), site="", start=0.0)[list(ORDER)]
    targets = index.clinical.set_index("recording").loc[recordings["recording"]].reset_index()
    tables = {
        "recordings": recordings.drop(columns="end"),
        "samples": samples,
        "targets": targets,
        "skipped": skipped_rows(kept.skipped),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    counts = {
        "recordings": len(recordings),
        "sessions": int(recordings["session"].nunique()),
        "persons": int(recordings["person"].nunique()),
        "skipped": len(kept.skipped),
        "pairs": int((samples["has_ecg"] & samples["has_cmr"]).sum()),
    }
    return counts | {f"has_{view}": int(samples[f"has_{view}"].sum()) for view in VIEWS}


def _contents(index: PairIndex) -> dict[str, Any]:
    """Return what arrays and targets hold, for the manifest."""
    return {
        "leads": list(LEADS),
        "targets": {
            "indicators": list(index.indicators),
            "diseases": list(index.diseases),
            "covariates": list(index.covariates),
        },
        "ceilings": {name: index.ceilings[name] for name in index.indicators if name in index.ceilings},
    }
