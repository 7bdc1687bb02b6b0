"""The cache of patients with an image, a signal and clinical values: `datasets.cache`, with other arrays.

``signals.npy``   float32 (N, leads, points), millivolts; zeros where a patient has no signal
``images.npy``    uint8 (N, height, width), ink: 0 paper to 255 black; zeros where there is no image
``clinical.csv``  a row a sample: ``recording`` and numbers, empty where missing (read NaN: missing=("",))
``samples.csv``   a row a sample, in the order of the arrays: who, label, and which views there are
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import BYTES, NpyWriter
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
from datasets.patient_copies import keep_together, leave_out_copies
from datasets.patients import SUPERCLASSES, VIEWS, PatientIndex
from datasets.problems import skipped_rows
from datasets.sources import DataError, Problem
from systems.ecg_multimodal.settings import ViewSettings
from systems.ecg_multimodal.sources.patient_modalities import PreparedPatient, prepare_patient

LIBRARIES_USED = (*LIBRARIES, "pillow", "openpyxl")
SMALLEST_WIDTH = 160
"""Pixels of width below which a strip shows no beat."""
SHARED = ("recording", "session", "person", "label", "diagnosis")


def build_patients_cache(
    index: PatientIndex,
    settings: ViewSettings,
    cache_dir: Path,
    *,
    jobs: int = -1,
    strict: bool = False,
    progress: bool = True,
) -> Path:
    """Prepare every recording of an index and write the cache; return its folder.

    Nothing is done when a cache of the same settings and source is there already.

    Raises
    ------
    DataError
        If the settings do not fit, nothing usable is left, or under ``strict`` at the first recording left
        out.
    """
    check_settings(index, settings)
    identity, checksums = identify_patients(index, settings)
    path = cache_dir / f"{index.name}-{identity[:8]}"
    index = leave_out_copies(index, checksums)
    if is_there(path, index, strict):
        return path
    prepare = functools.partial(
        prepare_patient,
        root=index.root,
        settings=settings,
        leads=index.leads,
        signal_rate=index.signal_rate,
        drawn=index.drawn,
    )

    def write(folder: Path, prepared: Iterable[PreparedPatient | Problem]) -> dict[str, Any]:
        kept = _write_arrays(folder, prepared, index, settings, strict)
        counts = _write_tables(folder, kept, index)
        manifest = manifest_of(index, settings, identity, checksums, index.simulated, LIBRARIES_USED)
        manifest["warnings"] += [f"{problem.where}: {problem.what}" for problem in kept.warnings]
        return manifest | {"views": _views(index, settings), "counts": counts}

    fill_cache(path, index, prepare, write, jobs=jobs, progress=progress)
    return path


def identify_patients(index: PatientIndex, settings: ViewSettings) -> tuple[str, dict[str, str]]:
    """Return the digest of settings and source content, and the checksum of each source file."""
    signals = index.recordings["signal"]
    headers = signals[signals.str.endswith(".hea")]
    images = [name for name in index.recordings["image"] if name]
    return name_content(index, [*index.files, *images, *record_files(index.root, headers)], settings)


def check_settings(index: PatientIndex, settings: ViewSettings) -> None:
    """Refuse settings that no patient of an index can be prepared with."""
    if settings.signal_rate <= 0 or settings.seconds <= 0 or settings.points < 1:
        raise DataError(f"Signals of {settings.seconds} s at {settings.signal_rate} Hz hold no sample.")
    if settings.image_width < SMALLEST_WIDTH:
        raise DataError(f"Pictures {settings.image_width} pixels wide are too small: use {SMALLEST_WIDTH}.")
    if not 0 <= settings.shadow <= 1 or settings.noise < 0:
        raise DataError(
            f"The shadow is {settings.shadow} (0 to 1 is possible), the noise {settings.noise} (0 or more)."
        )
    if settings.sheet and index.drawn and len(index.leads) < 12:
        raise DataError(f"A sheet needs twelve leads, and {index.name} has {', '.join(index.leads)}.")


# Arrays ---------------------------------------------------------------------------------------------


def _write_arrays(
    folder: Path,
    prepared: Iterable[PreparedPatient | Problem],
    index: PatientIndex,
    settings: ViewSettings,
    strict: bool,
) -> Kept:
    """Write signals and images as the recordings come; return what they are."""
    signals = NpyWriter(folder / "signals.npy", (len(index.leads), settings.points))
    images = NpyWriter(folder / "images.npy", (settings.image_height, settings.image_width), BYTES)
    clinical = index.clinical.set_index("recording")
    kept = Kept(skipped=[problem for problem in index.problems if problem.left_out])
    for item in prepared:
        found = item if isinstance(item, Problem) else _metadata(item, clinical, settings)
        if isinstance(found, Problem):
            if strict:
                raise stopped(found)
            kept.skipped.append(found)
            continue
        assert isinstance(item, PreparedPatient)
        kept.rows.append(found)
        kept.warnings.extend(item.problems)
        append_view(signals, item.signal)
        append_view(images, item.image)
    signals.close()
    images.close()
    if not kept.rows:
        reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in kept.skipped[:3])
        raise DataError(f"No patient of {index.root} can be used. The first reasons: {reasons}")
    return kept


def _metadata(
    item: PreparedPatient, clinical: pd.DataFrame, settings: ViewSettings
) -> dict[str, Any] | Problem:
    """Return the metadata of a recording, completed; a problem if no view of it is left."""
    name = item.row["recording"]
    values = clinical.loc[name]
    has = {
        "has_image": int(item.image is not None),
        "has_signal": int(item.signal is not None),
        "has_clinical": int(values.notna().any()),
    }
    if not any(has.values()):
        reasons = " ".join(problem.what for problem in item.problems)
        return Problem(name, f"None of its views can be used. {reasons}".strip(), "Mend or remove it.")
    end = min(item.row["duration"], settings.seconds)
    return item.row | has | {"sha256": patient_digest(item.row, values), "end": end}


def patient_digest(metadata: Mapping[str, Any], values: pd.Series) -> str:
    """Return the digest by which a recording is known: of its signal, else its picture, else its values.

    Parameters
    ----------
    metadata : mapping
        Row of `systems.ecg_multimodal.sources.patient_modalities.PreparedPatient`.
    values : pandas.Series
        Clinical values.
    """
    found = metadata["signal_sha256"] or metadata["image_sha256"]
    # clinical values alone two patients may share
    return found or hashlib.sha256(f"{metadata['recording']} {values.to_dict()}".encode()).hexdigest()


# Tables ---------------------------------------------------------------------------------------------


def _write_tables(folder: Path, kept: Kept, index: PatientIndex) -> dict[str, int]:
    """Write the tables of the cache and return their counts."""
    recordings = pd.DataFrame(kept.rows)
    recordings.insert(2, "session", keep_together(recordings, kept.warnings))
    classes = [name for name in SUPERCLASSES if name in recordings]
    views = [f"has_{view}" for view in VIEWS]
    samples = recordings[[*SHARED, "official_fold", *views, *classes]].copy()
    samples.insert(0, "sample", np.arange(len(samples)))
    for place, (name, values) in enumerate((("site", ""), ("start", 0.0), ("end", recordings.pop("end")))):
        samples.insert(6 + place, name, values)
    clinical = index.clinical.set_index("recording").loc[recordings["recording"]].reset_index()
    tables = {
        "recordings": recordings,
        "samples": samples,
        "clinical": clinical,
        "skipped": skipped_rows(kept.skipped),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    counts = {
        "recordings": len(recordings),
        "sessions": int(recordings["session"].nunique()),
        "persons": int(recordings["person"].nunique()),
        "abnormal_recordings": int(recordings["label"].sum()),
        "skipped": len(kept.skipped),
    }
    return counts | {name: int(recordings[name].sum()) for name in [*views, *classes]}


def _views(index: PatientIndex, settings: ViewSettings) -> dict[str, Any]:
    """Return what the arrays and the clinical table hold, for the manifest."""
    return {
        "leads": list(index.leads),
        "signal_rate": settings.signal_rate,
        "points": settings.points,
        "image": [settings.image_height, settings.image_width],
        "clinical": [name for name in index.clinical.columns if name != "recording"],
        "drawn": index.drawn,
    }
