"""A small cohort of simulated patients in the layout of one's own pairs of ECG and cine CMR.

::

    pairs.csv                  a row a patient: files, indicators, diseases, age, sex, height, weight
    ecg/<patient>.hea .dat     twelve leads in millivolts
    cmr/<patient>_sa.nii.gz    short axis (height, width, 1, frames)
    cmr/<patient>_la.nii.gz    long axis
    truth.csv                  what else is true of the heart; for judging, never for training
    simulation.json, README.txt

`systems.ecg_cmr.sources.pairs.index_pairs` reads it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import joblib
import nibabel
import numpy as np
import pandas as pd
import wfdb
from numpy.typing import NDArray
from tqdm import tqdm

from common.files import replacing_folder
from datasets.ecg import LEADS
from datasets.simulated import SIMULATION, holds_cohort
from simulation.cine import LONG_AXIS_SPACING, SHORT_AXIS_SPACING, render_cine
from simulation.heart_population import draw_heart
from simulation.patient import stream
from simulation.vectorcardiogram import render_ecg
from systems.ecg_cmr.sources.cmr_files import display_affine
from systems.ecg_cmr.sources.pairs import DISEASE
from systems.ecg_cmr.sources.simulated_pairs import (
    ECG,
    LONG_AXIS,
    PAIR,
    PAIRS_VERSION,
    SHORT_AXIS,
    ceilings,
    patient_name,
    targets_of,
    truth_of,
)

FILE_RATE, FILE_SECONDS = 500.0, 10.0
"""Hertz and seconds of the ECGs."""
FILE_FRAMES, FILE_SIZE = 24, 96
"""Frames and pixels of the cines."""
STEPS = 400
"""Steps of brightness for that of muscle."""
README = """\
SIMULATED DATA

These patients are virtual. No human was measured, and nothing here says anything about anybody's heart.

pairs.csv         a row a patient, as one's own pairs are listed
truth.csv         what else is true of each heart: what a judge may read, and a model may not
simulation.json   the settings; the same settings give the same patients
"""


def write_pairs(
    root: Path,
    patients: int = 12,
    seed: int = 0,
    *,
    ecg_noise: float = 1.0,
    kind: Literal["standard", "npy"] = "standard",
    missing: float = 0.0,
    long_axis: bool = True,
    jobs: int = 1,
    progress: bool = False,
) -> Path:
    """Write a small cohort in the layout of one's own pairs and return its folder; at once if it is there.

    Parameters
    ----------
    root : pathlib.Path
        Folder to make; the files appear in it all together.
    patients, seed : int
        The same patients as `build_simulated_pairs` draws, with finer cines and faster ECGs.
    ecg_noise : float
        Factor on the noise of the ECGs.
    kind : {"standard", "npy"}
        WFDB records and NIfTI, or arrays.
    missing : float
        Share of indicators and covariates whose cell is empty, at random.
    long_axis : bool
        Write the long axis too.
    jobs : int
        Processes; -1: one a core. The files do not depend on it.
    progress : bool
        Show a progress bar.

    Raises
    ------
    DataError
        If the folder holds something else.
    ValueError
        If a setting is out of range.
    """
    if patients < 1 or ecg_noise < 0 or not 0 <= missing <= 1 or kind not in ("standard", "npy"):
        raise ValueError(
            f"{patients} patients of kind {kind!r}, with {missing} missing and an ECG noise of {ecg_noise}, "
            "cannot be written."
        )
    settings: dict[str, Any] = {"pairs": PAIRS_VERSION, "patients": patients, "seed": seed, "kind": kind}
    settings |= {"ecg_noise": ecg_noise, "missing": missing, "long_axis": long_axis, "ceilings": ceilings()}
    identity = json.dumps(settings, indent=2) + "\n"
    if holds_cohort(root, identity):
        return root
    with replacing_folder(root) as folder:
        (folder / "ecg").mkdir()
        (folder / "cmr").mkdir()
        work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_write_patient)(folder, seed, number, ecg_noise, kind, long_axis)
            for number in range(patients)
        )
        found = list(tqdm(work, total=patients, desc="simulated patients", disable=not progress))
        rows = pd.DataFrame([row for row, _ in found])
        _with_gaps(rows, missing, seed).to_csv(folder / "pairs.csv", index=False, lineterminator="\n")
        truth = pd.DataFrame([truth for _, truth in found])
        truth.to_csv(folder / "truth.csv", index=False, lineterminator="\n")
        (folder / SIMULATION).write_text(identity, encoding="utf-8", newline="\n")
        (folder / "README.txt").write_text(README, encoding="utf-8", newline="\n")
        if root.exists():
            root.rmdir()  # it was empty; the finished one takes its place
    return root


def _with_gaps(table: pd.DataFrame, missing: float, seed: int) -> pd.DataFrame:
    """Return the table with some of its numbers left out."""
    numbers = [name for name in targets_of(draw_heart(0, 0)) if not name.startswith(DISEASE)]
    lost = stream(seed, PAIR).random((len(table), len(numbers))) < missing
    table[numbers] = table[numbers].mask(lost)
    return table


def _write_patient(
    root: Path, seed: int, number: int, ecg_noise: float, kind: str, long_axis: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files of one patient; return the rows of ``pairs.csv`` and of ``truth.csv``."""
    heart, name = draw_heart(seed, number), patient_name(number)
    ecg = render_ecg(heart, FILE_SECONDS, FILE_RATE, stream(seed, PAIR, number, ECG), noise=ecg_noise)
    row: dict[str, Any] = {"patient": name, "ecg": _write_ecg(root, name, ecg, kind)}
    row |= {"ecg_rate": FILE_RATE} if kind == "npy" else {}
    views = [("cmr", "sa", SHORT_AXIS, SHORT_AXIS_SPACING)]
    views += [("long_axis", "la", LONG_AXIS, LONG_AXIS_SPACING)] if long_axis else []
    for column, suffix, view, usual in views:
        spacing = usual * 64 / FILE_SIZE
        rng = stream(seed, PAIR, number, view)
        cine = render_cine(heart, rng, FILE_FRAMES, FILE_SIZE, spacing, long_axis=view == LONG_AXIS)
        row[column] = _write_cine(root, f"{name}_{suffix}", cine, spacing, kind)
        row |= {f"{column}_spacing": spacing} if kind == "npy" else {}
    row |= {"diagnosis": heart.condition}
    row |= {key: float(f"{value:.5g}") for key, value in targets_of(heart).items()}
    return row, {"patient": name} | truth_of(heart)


def _write_ecg(root: Path, name: str, ecg: NDArray[np.float32], kind: str) -> str:
    """Write an ECG and return its place relative to the root."""
    if kind == "npy":
        np.save(root / "ecg" / f"{name}.npy", ecg)
        return f"ecg/{name}.npy"
    wfdb.wrsamp(
        name,
        fs=FILE_RATE,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        p_signal=ecg.T.astype(np.float64),
        fmt=["16"] * len(LEADS),
        adc_gain=[1000.0] * len(LEADS),
        baseline=[0] * len(LEADS),
        write_dir=str(root / "ecg"),
    )
    return f"ecg/{name}.hea"


def _write_cine(root: Path, name: str, cine: NDArray[np.float32], spacing: float, kind: str) -> str:
    """Write a cine and return its place relative to the root."""
    if kind == "npy":
        np.save(root / "cmr" / f"{name}.npy", cine)
        return f"cmr/{name}.npy"
    whole = np.round(cine * STEPS).clip(0, 32767).astype(np.int16)
    # the first axis of a NIfTI runs along the columns of the display, the second along its rows
    image = nibabel.Nifti1Image(whole.transpose(2, 1, 0)[:, :, None], display_affine(spacing))
    image.header.set_zooms((spacing, spacing, 8.0, 1.0))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, root / "cmr" / f"{name}.nii.gz")
    return f"cmr/{name}.nii.gz"
