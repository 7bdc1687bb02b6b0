"""A cohort of simulated patients in the layout of one's own patient folders, with known causes of disease.

::

    images/<id>/<id as three digits>ECG_lead2.jpg    lead II on paper, recorded on another day
    ecg_signals.csv                                  a row a patient: id, then lead II in mV at 250 Hz
    clinical.xlsx                                    IDX, then `CLINICAL_COLUMNS`
    labels.xlsx                                      index, label: normal, abnormal or borderline
    truth.csv                                        why; for evaluation, never for training
    simulation.json, README.txt

`simulation.causes` says what makes a patient abnormal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import joblib
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from datasets.simulated import holds_cohort, new_cohort
from simulation.causes import CAUSES, PAPER_RATE, Cause, CauseSettings, PatientViews, simulate_views
from simulation.clinical import CLINICAL_COLUMNS
from systems.ecg_multimodal.sources.ecg_image import draw_ecg

_DrawECG = Callable[[NDArray[Any], float], NDArray[Any]]
"""From lead II in millivolts, and its sampling rate, to a picture of bytes: (250, 2500) or (250, 2500, 3)."""
_FOLDERS_VERSION = 1
"""Raised when the same settings would give other files."""
_PICTURE_QUALITY = 90
_README = """\
SIMULATED DATA

These patients are simulated. No human was measured, and nothing here says anything about anybody's heart.

truth.csv         why each patient is abnormal: for evaluation, never for training
simulation.json   the settings; the same settings give the same patients
"""


def write_patient_folders(
    root: Path,
    patients: int = 220,
    seed: int = 0,
    causes: Sequence[Cause] = CAUSES,
    missing: float = 0.1,
    *,
    prevalences: Mapping[Cause, float] | None = None,
    tables: Literal["xlsx", "csv"] = "xlsx",
    draw: _DrawECG | None = None,
    jobs: int = 1,
    progress: bool = False,
    **others: Any,
) -> Path:
    """Write a cohort of simulated patients and return its folder; at once if it already holds the same.

    Parameters
    ----------
    root : pathlib.Path
        Folder to make. The files appear in it all together, when the last one is complete.
    patients, seed, causes, missing
        As in `CauseSettings`.
    prevalences : mapping of cause to float, optional
        Share of patients with each of the causes; absent: alike, so that 40 % of the patients are
        abnormal.
    tables : {"xlsx", "csv"}
        Format of the clinical values and the labels.
    draw : callable, optional
        From millivolts and sampling rate to a picture; absent: `draw_ecg`.
    jobs : int
        Processes; -1: one a core. The files do not depend on it.
    progress : bool
        Show a progress bar.
    **others
        Other settings of `CauseSettings`.

    Raises
    ------
    DataError
        If the folder holds something else.
    ValueError
        If a setting is out of range.
    """
    if tables not in ("xlsx", "csv"):
        raise ValueError(f"Simulation setting tables is {tables!r}, but must be xlsx or csv.")
    if prevalences is not None and set(prevalences) != set(causes):
        raise ValueError(
            f"Simulation setting prevalences names {', '.join(prevalences)}, but must name the causes."
        )
    shares = tuple(prevalences[cause] for cause in causes) if prevalences else ()
    settings = CauseSettings(patients, seed, tuple(causes), shares, missing=missing, **others)
    identity = {"folders": _FOLDERS_VERSION, "tables": tables, "settings": dataclasses.asdict(settings)}
    if not holds_cohort(root, identity):
        with new_cohort(root, identity, _README) as unfinished:
            _write_files(
                unfinished,
                settings,
                tables,
                draw or functools.partial(draw_ecg, width=2500, height=250),
                jobs,
                progress,
            )
    return root


def _write_files(
    root: Path,
    settings: CauseSettings,
    tables: Literal["xlsx", "csv"],
    draw: _DrawECG,
    jobs: int,
    progress: bool,
) -> None:
    """Write everything a cohort consists of into a new folder."""
    work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
        joblib.delayed(_write_patient)(root, settings, number, draw) for number in range(settings.patients)
    )
    rows, clinical = [], []
    with (root / "ecg_signals.csv").open("w", encoding="utf-8", newline="\n") as signals:
        for views in tqdm(work, total=settings.patients, desc="simulated patients", disable=not progress):
            number = views.truth["id"]
            rows.append(views.truth)
            clinical.append({"IDX": number, **views.clinical})
            signals.write(",".join([str(number), *(f"{value:.4f}" for value in views.signal)]) + "\n")
    truth = pd.DataFrame(rows)
    labels = truth[["id", "label"]].rename(columns={"id": "index"})
    _write_table(root / f"clinical.{tables}", pd.DataFrame(clinical, columns=["IDX", *CLINICAL_COLUMNS]))
    _write_table(root / f"labels.{tables}", labels)
    truth.to_csv(root / "truth.csv", index=False, lineterminator="\n")


def _write_patient(root: Path, settings: CauseSettings, number: int, draw: _DrawECG) -> PatientViews:
    """Simulate one patient, draw the paper, and return everything else."""
    views = simulate_views(settings, number)
    name = views.truth["id"]
    folder = root / "images" / str(name)
    folder.mkdir(parents=True)
    Image.fromarray(draw(views.paper, PAPER_RATE)).save(
        folder / f"{name:03d}ECG_lead2.jpg", quality=_PICTURE_QUALITY
    )
    return dataclasses.replace(views, paper=views.paper[:0])


def _write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Excel or CSV; missing values are empty cells."""
    if path.suffix == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_excel(path, index=False)
