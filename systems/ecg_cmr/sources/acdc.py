"""Index ACDC: cine CMR of five groups of patients, with contours of both ventricles. No ECG.

Source: Bernard et al., IEEE Trans. Med. Imaging 37 (2018) 2514. The folder that holds::

    training/patient001/Info.cfg                     ED, ES: frames from 1; Group, Height, Weight
    training/patient001/patient001_4d.nii.gz         short axis (height, width, slices, frames)
    training/patient001/patient001_frame01_gt.nii.gz labels: 1 RV, 2 myocardium, 3 LV; for ED and for ES
    testing/patient101/...                           the same; official fold 10, as training is 1

Volumes are voxels times their size; mass takes 1.05 g/mL at end-diastole. Papillary muscles belong to the
cavity, as ACDC's readers contoured it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from datasets.patients import plausible_values, require_some
from datasets.sources import DataError, Problem
from systems.ecg_cmr.sources.cine_axes import stated_axes
from systems.ecg_cmr.sources.cmr_files import PLAUSIBLE_SPACING, damaged_nifti, open_nifti
from systems.ecg_cmr.sources.pairs import PairIndex, pair_row, target_tables

PARTS = {"training": 1, "testing": 10}
"""Folders, and the official fold that their patients get."""
GROUPS = {
    "NOR": "",
    "MINF": "disease_infarction",
    "DCM": "disease_dilated",
    "HCM": "disease_hypertrophic",
    "RV": "disease_abnormal_right_ventricle",
}
"""Groups of patients, and the column in which one is 1."""
DISEASES = tuple(filter(None, GROUPS.values()))
_RIGHT, MUSCLE, LEFT = 1, 2, 3
MUSCLE_DENSITY = 1.05
"""Grams a millilitre."""
INDICATORS = ("lv_edv", "lv_esv", "stroke_volume", "ejection_fraction", "lv_mass", "rv_edv", "rv_esv",
              "rv_ejection_fraction")  # fmt: skip
COVARIATES = ("height", "weight")
_LARGEST_SLICE = 25.0
"""Millimetres between slices that are plausible."""


def index_acdc(root: Path) -> PairIndex:
    """Index the patients of ACDC, or of a part of it in the same layout.

    A patient whose contours are absent or damaged is kept without volumes.

    Raises
    ------
    DataError
        If there is no patient, or none can be used.
    """
    folders = [path for part in PARTS for path in sorted((root / part).glob("patient*")) if path.is_dir()]
    if not folders:
        raise DataError(f"{root} has no training/patient001 and so on: name the folder of ACDC.")
    problems: list[Problem] = []
    rows, values = [], {}
    for folder in folders:
        try:
            row, found = _patient(folder, root, problems)
        except DataError as error:
            problems.append(Problem(folder.name, str(error), "Fetch the patient again."))
            continue
        if folder.name in values:
            what = f"It is in {row['cine'].split('/')[0]} too; this one is not used."
            problems.append(Problem(folder.name, what, "Remove one of the two."))
            continue
        rows.append(row)
        values[folder.name] = found
    require_some(rows, problems, root)
    table, targets = target_tables(rows, values, (INDICATORS, DISEASES, COVARIATES))
    files = [path.relative_to(root).as_posix() for folder in folders for path in _small_files(folder)]
    return PairIndex(
        "acdc",
        root,
        table,
        problems,
        {"acdc": "person"},
        files,
        {},
        targets,
        indicators=INDICATORS,
        diseases=DISEASES,
        covariates=COVARIATES,
    )


def _small_files(folder: Path) -> list[Path]:
    """Return the files that an index is made from."""
    return [path for path in sorted(folder.iterdir()) if path.name == "Info.cfg" or "_gt.nii" in path.name]


def _patient(folder: Path, root: Path, problems: list[Problem]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the index row of a patient, and what is known of the heart."""
    name = folder.name
    metadata = _info(folder / "Info.cfg")
    cine = _nifti(folder, f"{name}_4d")
    if cine is None:
        raise DataError(f"It has no {name}_4d.nii.gz.")
    if not cine.resolve().is_relative_to(root.resolve()):
        raise DataError(f"Its {cine.name} leads outside the data folder.")
    frames = {moment: _frame(metadata, moment) for moment in ("ED", "ES")}
    group = metadata.get("Group", "").upper()
    values: dict[str, float] = {}
    if group in GROUPS:
        values |= {disease: float(GROUPS[group] == disease) for disease in DISEASES}
    else:
        what = f"Its group {group!r} is none of {', '.join(GROUPS)}; its diseases count as missing."
        problems.append(Problem(name, what, "Correct Info.cfg.", left_out=False))
    body = {column: _number(metadata.get(column.capitalize(), "")) for column in COVARIATES}
    values |= plausible_values(body, name, problems)
    try:
        values |= _function(folder, frames)
    except DataError as error:
        what = f"{error} It has no volumes."
        problems.append(Problem(name, what, "Fetch the patient again.", left_out=False))
    row = pair_row(
        name,
        diagnosis=group,
        official_fold=PARTS[folder.parent.name],
        cine=cine.relative_to(root).as_posix(),
        first_frame=frames["ED"] - 1,
    )
    return row, values


def _info(path: Path) -> dict[str, str]:
    """Return the entries of ``Info.cfg``."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"Its Info.cfg cannot be read ({error}).") from error
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _frame(metadata: dict[str, str], moment: str) -> int:
    """Return the frame, from 1, of end-diastole or end-systole."""
    text = metadata.get(moment, "")
    if not re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII):
        raise DataError(f"Its Info.cfg gives {text!r} as frame {moment}; a number from 1 is needed.")
    return int(text)


def _number(text: str) -> float:
    """Return a number, NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _nifti(folder: Path, stem: str) -> Path | None:
    """Return a file with either ending."""
    return next((path for end in (".nii.gz", ".nii") if (path := folder / (stem + end)).is_file()), None)


def _function(folder: Path, frames: dict[str, int]) -> dict[str, float]:
    """Return volumes, ejection fractions and mass from the contours of both moments."""
    diastole, systole = (_volumes(folder, frames[moment]) for moment in ("ED", "ES"))
    if not min(diastole[LEFT], diastole[_RIGHT], diastole[MUSCLE]) > 0:
        raise DataError("Its contours at end-diastole lack a structure.")
    if diastole[LEFT] < systole[LEFT]:
        raise DataError("Its left ventricle is larger at end-systole: are ED and ES exchanged in Info.cfg?")
    return {
        "lv_edv": diastole[LEFT],
        "lv_esv": systole[LEFT],
        "stroke_volume": diastole[LEFT] - systole[LEFT],
        "ejection_fraction": 100 * (1 - systole[LEFT] / diastole[LEFT]),
        "lv_mass": MUSCLE_DENSITY * diastole[MUSCLE],
        "rv_edv": diastole[_RIGHT],
        "rv_esv": systole[_RIGHT],
        "rv_ejection_fraction": 100 * (1 - systole[_RIGHT] / diastole[_RIGHT]),
    }


def _volumes(folder: Path, frame: int) -> dict[int, float]:
    """Return the volume of each structure in the contours of one frame, mL."""
    path = _nifti(folder, f"{folder.name}_frame{frame:02d}_gt")
    if path is None:
        raise DataError(f"It has no {folder.name}_frame{frame:02d}_gt.nii.gz.")
    image = open_nifti(path)
    try:
        labels = np.asarray(image.dataobj)
        labels = labels.reshape(labels.shape[:3]) if set(labels.shape[3:]) == {1} else labels
        sizes = list(stated_axes(image).steps[:3])
    except Exception as error:  # nibabel raises many kinds for damaged files
        raise damaged_nifti(path, error) from error
    low, high = PLAUSIBLE_SPACING
    if labels.ndim != 3 or not all(
        low <= size <= limit for size, limit in zip(sizes, (high, high, _LARGEST_SLICE), strict=True)
    ):
        raise DataError(f"Its {path.name} has {labels.ndim} axes and voxels of {sizes} mm; neither can be.")
    voxel = math.prod(sizes) / 1000
    return {label: float((labels == label).sum() * voxel) for label in (_RIGHT, MUSCLE, LEFT)}
