"""Data of task ``ecg-multimodal``: from PTB-XL, one's own patients or simulated ones to a cache.

``signals.npy``   float32 (N, leads, points), millivolts; zeros where a patient has no signal
``images.npy``    uint8 (N, height, width), ink: 0 paper to 255 black; zeros where there is no image
``clinical.csv``  a row a sample: ``recording`` and numbers, empty where missing (read NaN: missing=("",))
``samples.csv``   a row a sample, in the order of the arrays: who, label, and which modalities there are
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.command_line import counted
from common.files import BYTES, FLOATS
from datasets.cache import ArraySpec, Cache, CacheWriter, Kept, count_rows
from datasets.patients import (
    MODALITIES,
    SUPERCLASSES,
    TARGET,
    UNLABELLED,
    PatientIndex,
    keep_together,
    leave_out_copies,
)
from datasets.sources import DataError, Problem
from datasets.tables import ENDINGS
from datasets.wfdb_files import record_files
from systems.base.prepare import Preparation, count_reasons
from systems.ecg_multimodal.settings import LoadDataSettings, ModalitySettings
from systems.ecg_multimodal.sources.modalities import PreparedPatient, patient_digest, prepare_patient

_DOWNLOADED = Path("data/raw/ptb-xl")
_SIMULATED = Path("data/raw/simulated-patients")
_SMALLEST_WIDTH = 160
"""Pixels of width below which a strip shows no beat."""


def prepare(settings: LoadDataSettings, task: str = "ecg-multimodal") -> Path:
    """Prepare what the settings name; return the folder of the cache."""
    return _PatientPreparation(settings, task).prepare()


class _PatientPreparation(Preparation[LoadDataSettings, PatientIndex]):
    """Prepares patients with an ECG image, an ECG signal and clinical values."""

    sought = "ptbxl_database.csv, or a table of labels (labels.xlsx or .csv),"
    layouts = (("ptbxl", "ptbxl_database.csv"), *(("patients", f"labels{ending}") for ending in ENDINGS))
    variable = "PTBXL_DIR"

    def plan(self) -> str:
        if not (self.settings.simulate and self.settings.dry_run):
            return ""
        folder = self.settings.raw_dir or _SIMULATED
        number = counted(self.settings.simulation.patients, "patient")
        return f"Would simulate {number} into {folder}. Nothing was written."

    def simulate(self) -> Path:
        from systems.ecg_multimodal.sources.simulated import write_patient_folders  # takes seconds to import

        made, jobs = self.settings.simulation, self.settings.jobs
        return write_patient_folders(
            self.settings.raw_dir or _SIMULATED,
            patients=made.patients,
            seed=made.seed,
            causes=made.causes,
            missing=made.missing,
            jobs=jobs,
            progress=True,
        )

    def usual_folders(self) -> list[Path]:
        return [*self.from_environment(), _DOWNLOADED]

    def advice(self) -> str:
        return (
            "PTB-XL is at physionet.org/content/ptb-xl (1.8 GB). Try everything on simulated patients with: "
            "python load_data.py ecg-multimodal --simulate. docs/data.md shows the layouts."
        )

    def index(self, root: Path, layout: str) -> PatientIndex:
        if layout == "ptbxl":
            from datasets.ptbxl import index_ptbxl

            return index_ptbxl(root, self.settings.rate, self.settings.mixed)
        from systems.ecg_multimodal.sources.folders import index_patient_folders

        keep = self.settings.unlabelled == "keep"
        return index_patient_folders(root, self.settings.table_rate, keep_unlabelled=keep)

    def writer(self, index: PatientIndex) -> PatientCache:
        return PatientCache(index, self.settings.views)

    def cost(self, writer: CacheWriter[PatientIndex, Any], path: Path) -> str:
        views, index = self.settings.views, writer.index
        each = 4 * len(index.leads) * views.points + views.image_width * views.image_height
        return f"write about {len(index.recordings) * each / 1e6:.0f} MB to {path}"

    def describe(self, cache: Cache, index: PatientIndex) -> list[str]:
        table = cache.table("samples")
        counts = ", ".join(f"{int(table[f'has_{name}'].sum())} with {name}" for name in MODALITIES)
        normal, abnormal, neither = (int((table["label"] == value).sum()) for value in (0, 1, UNLABELLED))
        others = f", {neither} neither" * (neither > 0)
        kept = (
            f"{counted(len(table), 'recording')} of {counted(table['person'].nunique(), 'patient')} kept "
            f"({normal} normal, {abnormal} abnormal{others}); {counts}; "
            f"{len(cache.table('skipped'))} left out."
        )
        return [kept, *count_reasons(cache)[0]]


PREPARATION = _PatientPreparation


# Cache ----------------------------------------------------------------------------------------------


class PatientCache(CacheWriter[PatientIndex, PreparedPatient]):
    """Writes the cache of patients with an image, a signal and clinical values.

    Parameters
    ----------
    index : PatientIndex
    settings : ModalitySettings
    """

    libraries = (*CacheWriter.libraries, "pillow", "openpyxl")

    def __init__(self, index: PatientIndex, settings: ModalitySettings) -> None:
        super().__init__(index, settings)
        self.clinical = index.clinical.set_index("recording")

    def _check(self) -> None:
        settings, index = self.settings, self.index
        if settings.signal_rate <= 0 or settings.seconds <= 0 or settings.points < 1:
            raise DataError(f"Signals of {settings.seconds} s at {settings.signal_rate} Hz hold no sample.")
        for name in ("high_pass", "low_pass"):
            if getattr(settings, name) >= settings.signal_rate / 2:
                raise DataError(
                    f"--{name.replace('_', '-')} {getattr(settings, name):g} is not below half of the "
                    f"{settings.signal_rate:g} Hz of the signals: lower it, or raise --signal-rate."
                )
        if settings.low_pass and settings.high_pass >= settings.low_pass:
            raise DataError(
                f"--high-pass {settings.high_pass:g} and --low-pass {settings.low_pass:g} leave nothing."
            )
        if settings.image_width < _SMALLEST_WIDTH:
            raise DataError(
                f"Pictures {settings.image_width} pixels wide are too small: use {_SMALLEST_WIDTH}."
            )
        if not 0 <= settings.shadow <= 1 or settings.noise < 0:
            raise DataError(
                f"The shadow is {settings.shadow} (0 to 1 is possible), the noise {settings.noise} "
                "(0 or more)."
            )
        if settings.sheet and index.drawn and len(index.leads) < 12:
            raise DataError(f"A sheet needs twelve leads, and {index.name} has {', '.join(index.leads)}.")

    def _files(self) -> list[str]:
        signals, index = self.index.recordings["signal"], self.index
        images = [name for name in index.recordings["image"] if name]
        return [*index.files, *images, *record_files(index.root, signals[signals.str.endswith(".hea")])]

    def _leave_out(self, checksums: Mapping[str, str]) -> PatientIndex:
        return leave_out_copies(self.index, checksums, "signal", "clinical")

    def function(self) -> Callable[[dict[str, Any]], PreparedPatient | Problem]:
        """Return `prepare_patient` with all but the row."""
        index = self.index
        return functools.partial(
            prepare_patient,
            root=index.root,
            settings=self.settings,
            leads=index.leads,
            signal_rate=index.signal_rate,
            drawn=index.drawn,
        )

    def _arrays(self) -> dict[str, ArraySpec]:
        settings = self.settings
        return {
            "signals": ((len(self.index.leads), settings.points), FLOATS),
            "images": ((settings.image_height, settings.image_width), BYTES),
        }

    def _metadata(self, item: PreparedPatient) -> dict[str, Any] | Problem:
        name = item.row["recording"]
        values = self.clinical.loc[name]
        has = {
            "has_image": int(item.image is not None),
            "has_signal": int(item.signal is not None),
            "has_clinical": int(values.notna().any()),
        }
        if not any(has.values()):
            reasons = " ".join(problem.what for problem in item.problems)
            return Problem(name, f"None of its views can be used. {reasons}".strip(), "Mend or remove it.")
        end = min(item.row["duration"], self.settings.seconds)
        return item.row | has | {"sha256": patient_digest(item.row, values), "end": end}

    def _parts(self, item: PreparedPatient) -> dict[str, NDArray[Any] | int]:
        arrays = {"signals": item.signal, "images": item.image}
        return {name: 1 if array is None else array[None] for name, array in arrays.items()}

    def _tables(self, kept: Kept) -> tuple[dict[str, Iterable[pd.DataFrame]], dict[str, int]]:
        recordings = pd.DataFrame(kept.rows)
        recordings.insert(2, "session", keep_together(recordings, kept.warnings))
        flags = [f"has_{name}" for name in MODALITIES]
        flags += [name for name in SUPERCLASSES if name in recordings]
        targets = [name for name in recordings if name.startswith(TARGET)]
        samples = recordings.assign(sample=np.arange(len(recordings)), site="", start=0.0)
        first = ["sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end"]
        tables: dict[str, Iterable[pd.DataFrame]] = {
            "recordings": [recordings.drop(columns="end")],
            "samples": [samples[[*first, "official_fold", *flags, *targets]]],
            "clinical": [self.clinical.loc[recordings["recording"]].reset_index()],
        }
        counts = count_rows(recordings) | {"abnormal_recordings": int((recordings["label"] == 1).sum())}
        counts |= {"skipped": len(kept.skipped)}
        return tables, counts | {name: int(recordings[name].sum()) for name in flags}

    def _contents(self) -> dict[str, Any]:
        settings, index = self.settings, self.index
        views = {
            "leads": list(index.leads),
            "signal_rate": settings.signal_rate,
            "points": settings.points,
            "image": [settings.image_height, settings.image_width],
            "clinical": list(self.clinical.columns),
            "drawn": index.drawn,
        }
        return {"views": views}
