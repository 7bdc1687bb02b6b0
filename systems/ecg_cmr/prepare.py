"""Data of the ECG-CMR tasks: from one's own pairs, ACDC, PTB-XL or simulated patients to one cache for all.

A cache that holds pairs of ECG and cine serves every stage, and becomes the newest of each. One without
pairs (PTB-XL has ECGs alone, ACDC cines alone) becomes the newest of the task it was prepared for.

``ecg.npy``           float32 (N, 12, points), millivolts; zeros where there is no ECG, or not this lead
``lead_present.npy``  uint8 (N, 12), 1 where the lead holds a signal
``cmr.npy``           uint8 (N, frames, size, size), 0 to 255; zeros where there is no cine
``long_axis.npy``     the same, where the settings ask for it
``targets.csv``       a row a sample: ``recording`` and numbers, empty where missing (read: missing=("",))
``samples.csv``       a row a sample, in the order of the arrays: who, and which modalities there are

The manifest's ``targets`` name the columns of ``targets.csv`` that are ``indicators``, ``diseases``,
``covariates``, ``classes`` (with the classes of each, which the table holds by number) and ``others``; its
``ceilings`` say how much of the variance of an indicator an ECG can explain at best (simulated patients
only).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from common.command_line import counted
from common.files import BYTES, FLOATS
from datasets.array_files import ARRAYS
from datasets.cache import ArraySpec, Cache, CacheWriter, Kept, count_rows, in_parallel
from datasets.ecg import LEADS
from datasets.patients import keep_together, leave_out_copies
from datasets.sources import DataError, Problem, format_problems
from datasets.tables import ENDINGS
from datasets.wfdb_files import record_files
from systems.base.prepare import Preparation
from systems.ecg_cmr.settings import LoadDataSettings, PairSettings, PairSimulationSettings
from systems.ecg_cmr.sources.pair_modalities import ROW, PreparedPair, prepare_pair
from systems.ecg_cmr.sources.pairs import MILLIVOLTS, NOT_GIVEN, TABLE, PairIndex

NEEDS: Mapping[str, tuple[str, ...]] = {
    "ecg-mae": ("ecg",),
    "cmr-mae": ("cmr",),
    "ecg-cmr-contrast": ("ecg", "cmr"),
    "ecg-phenotypes": (),
    "cine-autoencoder": ("cmr",),
    "ecg-to-cmr": ("ecg", "cmr"),
}
"""For each task, what a patient must have for it; for ecg-phenotypes either will do."""
_USUAL = Path("data/raw/pairs")
_SINGLE_MODALITY = {
    "ecg-mae": Path("data/raw/ptb-xl"),
    "cmr-mae": Path("data/raw/acdc"),
    "cine-autoencoder": Path("data/raw/acdc"),
}
"""Where those tasks that need no pairs look as well."""
_PTBXL_RATE: Literal[500] = 500
"""Hertz of the files of PTB-XL to read, where they are there."""
_TRIED = 3
"""Patients that a dry run prepares, to estimate how long all will take."""
_SMALLEST_CINE = 16
"""Pixels of height and width below which no heart is visible."""
_MODALITIES = ("ecg", "cmr", "long_axis")


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
    return _PairPreparation(settings, task).prepare()


class _PairPreparation(Preparation[LoadDataSettings, PairIndex]):
    """Prepares patients with an ECG, a cine, or both."""

    sought = (
        f"{TABLE}.csv, ptbxl_database.csv (PTB-XL), training/patient001 (ACDC), "
        "echonext_metadata_100k.csv (EchoNext) or record_list.csv (MIMIC-IV-ECG)"
    )
    layouts = (
        *(("pairs", f"{TABLE}{ending}") for ending in ENDINGS),
        ("ptbxl", "ptbxl_database.csv"),
        *(("acdc", "training/patient*/"), ("acdc", "testing/patient*/")),
        ("echonext", "echonext_metadata_100k.csv"),
        *(("mimic-echo", f"{'*/' * depth}record_list.csv") for depth in range(4)),
    )
    task_of_layout: ClassVar[dict[str, str]] = {"acdc": "cmr-mae"}
    first_task: ClassVar[dict[str, str]] = {"ecg-to-cmr": "cine-autoencoder"}

    def __init__(self, settings: LoadDataSettings, task: str) -> None:
        super().__init__(settings, task)
        self.variable = "PTBXL_DIR" if task == "ecg-mae" else ""

    def prepare(self) -> Path:
        settings = self.settings
        _check_pair_settings(settings.preparation)
        if not settings.check:
            return super().prepare()
        if settings.simulate:
            raise DataError("--check reads files that are there: leave --simulate away, and name --raw-dir.")
        index = self.open_raw()
        problems = self.writer(index).check_files(jobs=settings.jobs, progress=True)
        faults = sum(problem.left_out for problem in problems)
        print(
            f"{format_problems(problems, limit=max(len(problems), 1))}\n"
            f"{counted(len(index.recordings), 'recording')} in {index.root} ({index.name}): "
            f"{counted(faults, 'fault')} and {counted(len(problems) - faults, 'warning')}. "
            "Nothing was written."
        )
        return settings.cache_dir

    def plan(self) -> str:
        settings, patients = self.settings, self.settings.simulation.patients
        if not (settings.simulate and settings.dry_run):
            return ""
        if settings.raw_dir:
            where = f"as files into {settings.raw_dir}, and prepare them into {settings.cache_dir}"
            return f"Would simulate {counted(patients, 'patient')} {where}. Nothing was written."
        return f"Would simulate {counted(patients, 'patient')}. {self.estimate(self.writer(self.source()))}"

    def source(self) -> PairIndex:
        if not self.settings.simulate or self.settings.raw_dir is not None:
            return super().source()
        from systems.ecg_cmr.sources.simulated import simulated_index  # takes seconds to import

        index = simulated_index(self.settings.simulation)
        self.announce(index)
        return index

    def simulate(self) -> Path:
        from systems.ecg_cmr.sources.simulated import write_pairs

        made, raw_dir = self.settings.simulation, self.settings.raw_dir
        assert raw_dir is not None
        return write_pairs(
            raw_dir,
            made.patients,
            made.seed,
            ecg_noise=made.ecg_noise,
            long_axis=self.settings.preparation.long_axis,
            jobs=self.settings.jobs,
            progress=True,
        )

    def usual_folders(self) -> list[Path]:
        single = [_SINGLE_MODALITY[self.task]] if self.task in _SINGLE_MODALITY else []
        return [_USUAL, *self.from_environment(), *single]

    def find(self, folder: Path) -> Path | None:
        layout, source = self.layout_of(folder), self.settings.source
        return folder if source == layout or (source == "auto" and layout) else None

    def advice(self) -> str:
        return (
            "Name the folder with --raw-dir PATH; docs/data.md shows the layouts. Try everything on "
            f"simulated patients with: python load_data.py {self.task} --simulate."
        )

    def index(self, root: Path, layout: str) -> PairIndex:
        index = self._index(root, layout)
        needs = NEEDS[self.task]
        there = index.recordings[[{"ecg": "ecg", "cmr": "cine"}[name] for name in needs]] != ""
        if not there.all(axis=1).any():
            needed = " and ".join({"ecg": "an ECG", "cmr": "a cine"}[name] for name in needs)
            raise DataError(
                f"No patient in {root} ({index.name}) has {needed}, which {self.task} learns from. Name a "
                f"folder with a {TABLE}.csv (docs/data.md), or try it with: python load_data.py {self.task} "
                "--simulate."
            )
        return index

    def _index(self, root: Path, layout: str) -> PairIndex:
        if layout == "ptbxl":
            from datasets.ptbxl import index_ptbxl
            from systems.ecg_cmr.sources.pairs import ecg_only

            return ecg_only(index_ptbxl(root, _PTBXL_RATE, "abnormal"))
        if layout == "acdc":
            from systems.ecg_cmr.sources.acdc import index_acdc

            return index_acdc(root)
        if layout == "echonext":
            from systems.ecg_cmr.sources.echonext import index_echonext

            return index_echonext(root)
        if layout == "mimic-echo":
            from systems.ecg_cmr.sources.mimic_echo import index_mimic

            return index_mimic(root, self.settings.echo_days)
        from systems.ecg_cmr.sources.pairs import index_pairs

        return index_pairs(root)

    def writer(self, index: PairIndex) -> PairCache:
        made = self.settings.simulation if index.name == "simulated-pairs" else None
        return PairCache(index, self.settings.preparation, made)

    def cost(self, writer: CacheWriter[PairIndex, Any], path: Path) -> str:
        rows, prepare_row = writer.index.recordings.to_dict("records"), writer.function()
        prepare_row(rows[0])  # the first call takes longer than all others
        started = time.perf_counter()
        for row in rows[:_TRIED]:
            prepare_row(row)
        each = (time.perf_counter() - started) / len(rows[:_TRIED])
        workers = joblib.effective_n_jobs(self.settings.jobs)
        seconds, size = each * len(rows) / workers, len(rows) * self.settings.preparation.bytes_a_patient
        on = counted(workers, "process", "processes")
        return f"write about {size / 1e6:.0f} MB to {path}, in about {seconds:.0f} s on {on}"

    def serves(self, cache: Cache) -> Sequence[str]:
        return list(NEEDS) if cache.manifest["counts"]["pairs"] else [self.task]

    def describe(self, cache: Cache, index: PairIndex) -> list[str]:
        counts, targets = cache.manifest["counts"], cache.manifest["targets"]
        shown = {(problem.where, problem.what) for problem in index.problems}
        found = [Problem(*row) for row in cache.table("skipped").itertuples(index=False)]
        fresh = [problem for problem in found if (problem.where, problem.what) not in shown]
        return [
            *([format_problems(fresh)] if fresh else []),
            f"{counted(counts['recordings'], 'recording')} of {counted(counts['persons'], 'patient')} kept; "
            f"{counts['has_ecg']} with ECG, {counts['has_cmr']} with cine, {counts['pairs']} with both; "
            f"{counts['skipped']} left out (patients, or one modality of theirs).",
            f"Known of them: {counted(len(targets['indicators']), 'indicator')}, "
            f"{counted(len(targets['diseases']), 'disease')}, "
            f"{counted(len(targets['covariates']), 'covariate')}"
            f"{_classes_text(targets['classes'])}.",
            *_others_lines(targets["others"]),
            *_ceiling_lines(cache.manifest["ceilings"]),
        ]


PREPARATION = _PairPreparation


def _classes_text(classes: Mapping[str, Sequence[str]]) -> str:
    """Return the columns of classes, each with its classes; nothing where there is none."""
    return "".join(f", {name} ({', '.join(labels)})" for name, labels in classes.items())


def _others_lines(others: Sequence[str]) -> list[str]:
    """Return which columns no training learns by itself; nothing where there is none."""
    if not others:
        return []
    return [
        f"Neither indicator, disease nor usual covariate: {', '.join(others)}. Training uses them only where "
        "--covariates or --targets name them."
    ]


def _ceiling_lines(ceilings: Mapping[str, float]) -> list[str]:
    """Return the largest R2 of each indicator that an ECG allows; nothing where that is not known."""
    if not ceilings:
        return []
    ordered = pd.Series(ceilings).sort_values(ascending=False, kind="stable")
    return [
        "R² that no ECG can exceed: " + ", ".join(f"{name} {value:.2f}" for name, value in ordered.items())
    ]


# Cache ----------------------------------------------------------------------------------------------


def _check_pair_settings(settings: PairSettings) -> None:
    """Refuse settings that no patient can be prepared with."""
    if settings.ecg_rate <= 0 or settings.seconds <= 0 or settings.points < 1:
        raise DataError(f"ECGs of {settings.seconds} s at {settings.ecg_rate} Hz hold no sample.")
    if settings.frames < 2 or settings.size < _SMALLEST_CINE:
        raise DataError(
            f"Cines of {settings.frames} frames and {settings.size} pixels are too small: "
            f"use 2 frames and {_SMALLEST_CINE} pixels or more."
        )
    if not (settings.pixel_spacing > 0 and settings.long_axis_spacing > 0):
        raise DataError("The pixel spacing of cines must be positive, in mm.")
    low, high = settings.percentiles
    if not 0 <= low < high <= 100:
        raise DataError(f"Percentiles of brightness are {low} and {high}; 0 to 100, rising, are possible.")


class PairCache(CacheWriter[PairIndex, PreparedPair]):
    """Writes the cache of patients with an ECG and a cine.

    Parameters
    ----------
    index : PairIndex
    settings : PairSettings
    simulation : PairSimulationSettings, optional
        Draw the patients of the index with these settings instead of reading files.
    """

    libraries = (*CacheWriter.libraries, "nibabel")
    optional_remedy = NOT_GIVEN

    def __init__(
        self, index: PairIndex, settings: PairSettings, simulation: PairSimulationSettings | None = None
    ) -> None:
        super().__init__(index, settings)
        self.simulation = simulation

    def _check(self) -> None:
        _check_pair_settings(self.settings)

    def _files(self) -> list[str]:
        index, table = self.index, self.index.recordings
        ecgs = table["ecg"]
        beside = [f"{name.rpartition('.')[0]}.json" for name in ecgs if name.lower().endswith(ARRAYS)]
        cines = ["cine", "long_axis"] if self.settings.long_axis else ["cine"]
        return [
            *(*index.files, *(name for name in beside if (index.root / name).is_file())),
            *record_files(index.root, dict.fromkeys(name.partition(ROW)[0] for name in ecgs if name)),
            *(name for column in cines for name in table[column] if name),
        ]

    def _leave_out(self, checksums: Mapping[str, str]) -> PairIndex:
        return leave_out_copies(self.index, checksums, "ecg", "targets")

    def function(self) -> Callable[[dict[str, Any]], PreparedPair | Problem]:
        """Return `prepare_pair`, or what draws a simulated pair, with all but the row."""
        if self.simulation is None:
            return functools.partial(prepare_pair, root=self.index.root, settings=self.settings)
        from systems.ecg_cmr.sources.simulated import draw_pair

        return functools.partial(draw_pair, settings=self.settings, simulation=self.simulation)

    def check_files(self, *, jobs: int = -1, progress: bool = False) -> list[Problem]:
        """Return everything that is wrong with an index and within its files; nothing is written."""
        self._check()
        rows = self.index.recordings.to_dict("records")
        found = in_parallel(self.function(), rows, jobs)
        problems = list(self.index.problems)
        for item in tqdm(found, total=len(rows), desc="Checking", unit="recording", disable=not progress):
            problems += [item] if isinstance(item, Problem) else item.problems
        return problems

    def _arrays(self) -> dict[str, ArraySpec]:
        settings = self.settings
        cine = ((settings.frames, settings.size, settings.size), BYTES)
        arrays = {
            "ecg": ((len(LEADS), settings.points), FLOATS),
            "lead_present": ((len(LEADS),), BYTES),
            "cmr": cine,
        }
        return arrays | ({"long_axis": cine} if settings.long_axis else {})

    def _metadata(self, item: PreparedPair) -> dict[str, Any]:
        return item.row | {f"has_{name}": int(getattr(item, name) is not None) for name in _MODALITIES}

    def _parts(self, item: PreparedPair) -> dict[str, NDArray[Any] | int]:
        arrays = {name: getattr(item, name) for name in self._arrays()}
        return {name: 1 if array is None else array[None] for name, array in arrays.items()}

    def _tables(self, kept: Kept) -> tuple[dict[str, Iterable[pd.DataFrame]], dict[str, int]]:
        # the table of the cache names the files as that of the other patients does
        recordings = pd.DataFrame(kept.rows).rename(columns={"ecg": "signal", "cine": "image"})
        for column in recordings.columns[
            recordings.isna().any()
        ]:  # metadata of a modality that some have not
            nothing = 0 if pd.api.types.is_numeric_dtype(recordings[column]) else ""
            recordings[column] = recordings[column].fillna(nothing)
        # the digest that identifies a patient's data wherever they occur: of the ECG, or else of the cine
        recordings["sha256"] = recordings["signal_sha256"].where(
            recordings["signal_sha256"] != "", recordings["image_sha256"]
        )
        recordings.insert(2, "session", keep_together(recordings, kept.warnings))
        samples = recordings.assign(sample=np.arange(len(recordings)), site="", start=0.0)
        first = ["sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end"]
        has = [f"has_{name}" for name in _MODALITIES]
        targets = self.index.targets.set_index("recording").loc[recordings["recording"]].reset_index()
        tables: dict[str, Iterable[pd.DataFrame]] = {
            "recordings": [recordings.drop(columns="end")],
            "samples": [samples[[*first, *has, "official_fold"]]],
            "targets": [targets],
        }
        counts = count_rows(recordings) | {"skipped": len(kept.skipped)}
        counts |= {"pairs": int((recordings["has_ecg"] & recordings["has_cmr"]).sum())}
        return tables, counts | {name: int(recordings[name].sum()) for name in has}

    def _contents(self) -> dict[str, Any]:
        index = self.index
        names = ("indicators", "diseases", "covariates", "others")
        classes = {"classes": {name: list(labels) for name, labels in index.classes.items()}}
        return {
            "leads": list(LEADS),
            "targets": {name: list(getattr(index, name)) for name in names} | classes,
            "ceilings": {name: index.ceilings[name] for name in index.indicators if name in index.ceilings},
            **({"ecg_unit": index.ecg_unit} if index.ecg_unit != MILLIVOLTS else {}),
            **({"restricted": True} if index.restricted else {}),
        }
