"""Simulated patients of whom ECG and cine CMR come from the same heart: straight into the cache, or as files.

The files are those of one's own pairs, as `systems.ecg_cmr.sources.pairs.index_pairs` reads them::

    pairs.csv                  a row a patient: files, indicators, diseases, age, sex, height, weight
    ecg/<patient>.hea .dat     twelve leads in millivolts
    cmr/<patient>_sa.nii.gz    short axis (height, width, 1, frames)
    cmr/<patient>_la.nii.gz    long axis
    truth.csv                  what else is true of the heart; for evaluation, never for training
    simulation.json, README.txt
"""

from __future__ import annotations

import dataclasses
import hashlib
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

from datasets.ecg import LEADS
from datasets.simulated import holds_cohort, new_cohort
from datasets.sources import DataError
from simulation.cine import LONG_AXIS_SPACING, SHORT_AXIS_SPACING, render_cine
from simulation.heart import Heart
from simulation.heart_population import IMPLIED_CEILINGS, draw_heart
from simulation.patient import stream
from simulation.physiology import CEILINGS, CONDITIONS
from simulation.vectorcardiogram import render_ecg
from systems.ecg_cmr.settings import COVARIATES, PairSettings, PairSimulationSettings
from systems.ecg_cmr.sources.cmr_files import display_affine, to_bytes
from systems.ecg_cmr.sources.pair_modalities import PreparedPair
from systems.ecg_cmr.sources.pairs import DISEASE, PairIndex, pair_row, target_tables

_PAIRS_VERSION = 1
"""Raised when the same settings would give other patients."""
_PAIR = 11
"""First word of the key of a pair's random streams (that of a heart is 10)."""
ECG, _SHORT_AXIS, _LONG_AXIS = range(3)


def _patient_name(number: int) -> str:
    """Return the name of a simulated patient."""
    return f"v{number:05d}"


def disease_columns() -> tuple[str, ...]:
    """Return a column for each disease, the three infarctions as one."""
    named = ["infarction" if name.endswith("infarction") else name for name in CONDITIONS[1:]]
    return tuple(DISEASE + name.replace(" ", "_") for name in dict.fromkeys(named))


def targets_of(heart: Heart) -> dict[str, float]:
    """Return indicators, diseases and covariates of a heart by column."""
    own = DISEASE + heart.disease.replace(" ", "_")
    drivers = heart.drivers
    body = {"age": drivers.age, "sex": float(drivers.sex == "female")}
    body |= {"height": drivers.height, "weight": drivers.weight}
    return heart.indicators() | {name: float(name == own) for name in disease_columns()} | body


def _truth_of(heart: Heart) -> dict[str, Any]:
    """Return what else is true of a heart: what ECG and image show, together or alone."""
    drivers = heart.drivers
    return {
        "pattern": drivers.pattern,
        "severity": round(drivers.severity, 4),
        "rhythm": drivers.rhythm,
        "heart_rate": round(drivers.heart_rate, 3),
        "right_block": int(drivers.right_block),
        "flat_t": int(drivers.flat_t),
        "scar": int(heart.scar is not None),
    }


def ceilings() -> dict[str, float]:
    """Return the share of the variance of each indicator that an ECG can know."""
    return CEILINGS | IMPLIED_CEILINGS


# Into the cache -------------------------------------------------------------------------------------


def simulated_index(simulation: PairSimulationSettings) -> PairIndex:
    """Return the index of a cohort; the hearts of its targets are drawn here, signals and images are not.

    Raises
    ------
    DataError
        If there is no patient, or the noise is negative.
    """
    if simulation.patients < 1 or simulation.ecg_noise < 0:
        raise DataError(
            f"{simulation.patients} patients with an ECG noise of {simulation.ecg_noise} cannot be: "
            "at least one patient and a noise of 0 or more are needed."
        )
    hearts = [draw_heart(simulation.seed, number) for number in range(simulation.patients)]
    rows = [pair_row(_patient_name(number), diagnosis=heart.condition) for number, heart in enumerate(hearts)]
    values = {_patient_name(number): targets_of(heart) for number, heart in enumerate(hearts)}
    indicators, diseases = tuple(hearts[0].indicators()), disease_columns()
    recordings, targets = target_tables(rows, values, (indicators, diseases, COVARIATES))
    identity = {"version": _PAIRS_VERSION, "ceilings": ceilings(), **dataclasses.asdict(simulation)}
    return PairIndex(
        "simulated-pairs",
        Path(),
        recordings,
        [],
        {"simulated-pairs": "person"},
        [],
        {"simulation": json.dumps(identity, sort_keys=True)},
        targets,
        simulated=True,
        indicators=indicators,
        diseases=diseases,
        ceilings=ceilings(),
    )


def draw_pair(
    row: dict[str, Any], *, settings: PairSettings, simulation: PairSimulationSettings
) -> PreparedPair:
    """Return what the cache keeps of one simulated patient."""
    number = int(row["recording"][1:])
    heart = draw_heart(simulation.seed, number)
    ecg = render_ecg(
        heart,
        settings.seconds,
        settings.ecg_rate,
        stream(simulation.seed, _PAIR, number, ECG),
        noise=simulation.ecg_noise,
    )
    axes = [(_SHORT_AXIS, settings.pixel_spacing)]
    axes += [(_LONG_AXIS, settings.long_axis_spacing)] if settings.long_axis else []
    cines = [
        to_bytes(
            render_cine(
                heart,
                stream(simulation.seed, _PAIR, number, axis),
                settings.frames,
                settings.size,
                spacing,
                long_axis=axis == _LONG_AXIS,
            ),
            settings.percentiles,
        )
        for axis, spacing in axes
    ]
    metadata = _truth_of(heart) | {
        "ecg_rate": settings.ecg_rate,
        "duration": settings.seconds,
        "end": settings.seconds,
        "absent_leads": "",
        "signal_sha256": hashlib.sha256(ecg.tobytes()).hexdigest(),
        "image_sha256": hashlib.sha256(cines[0].tobytes()).hexdigest(),
    }
    present = np.ones(len(LEADS), dtype=bool)
    return PreparedPair(row | metadata, ecg, present, cines[0], cines[1] if settings.long_axis else None)


# As files -------------------------------------------------------------------------------------------

_FILE_RATE, _FILE_SECONDS = 500.0, 10.0
"""Hertz and seconds of the ECGs."""
_FILE_FRAMES, _FILE_SIZE = 24, 96
"""Frames and pixels of the cines."""
STEPS = 400
"""Steps of brightness for that of muscle."""
_README = """\
SIMULATED DATA

These patients are simulated. No human was measured, and nothing here says anything about anybody's heart.

pairs.csv         a row a patient, as one's own pairs are listed
truth.csv         what else is true of each heart: for evaluation, never for training
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
        The same patients as `draw_pair` draws, with finer cines and faster ECGs.
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
    settings: dict[str, Any] = {"pairs": _PAIRS_VERSION, "patients": patients, "seed": seed, "kind": kind}
    settings |= {"ecg_noise": ecg_noise, "missing": missing, "long_axis": long_axis, "ceilings": ceilings()}
    if holds_cohort(root, settings):
        return root
    with new_cohort(root, settings, _README) as folder:
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
    return root


def _with_gaps(table: pd.DataFrame, missing: float, seed: int) -> pd.DataFrame:
    """Return the table with some of its numbers left out."""
    numbers = [name for name in targets_of(draw_heart(0, 0)) if not name.startswith(DISEASE)]
    lost = stream(seed, _PAIR).random((len(table), len(numbers))) < missing
    table[numbers] = table[numbers].mask(lost)
    return table


def _write_patient(
    root: Path, seed: int, number: int, ecg_noise: float, kind: str, long_axis: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files of one patient; return the rows of ``pairs.csv`` and of ``truth.csv``."""
    heart, name = draw_heart(seed, number), _patient_name(number)
    ecg = render_ecg(heart, _FILE_SECONDS, _FILE_RATE, stream(seed, _PAIR, number, ECG), noise=ecg_noise)
    row: dict[str, Any] = {"patient": name, "ecg": _write_ecg(root, name, ecg, kind)}
    row |= {"ecg_rate": _FILE_RATE} if kind == "npy" else {}
    axes = [("cmr", "sa", _SHORT_AXIS, SHORT_AXIS_SPACING)]
    axes += [("long_axis", "la", _LONG_AXIS, LONG_AXIS_SPACING)] if long_axis else []
    for column, suffix, axis, usual in axes:
        spacing = usual * 64 / _FILE_SIZE
        rng = stream(seed, _PAIR, number, axis)
        cine = render_cine(heart, rng, _FILE_FRAMES, _FILE_SIZE, spacing, long_axis=axis == _LONG_AXIS)
        row[column] = _write_cine(root, f"{name}_{suffix}", cine, spacing, kind)
        row |= {f"{column}_spacing": spacing} if kind == "npy" else {}
    row |= {"diagnosis": heart.condition}
    row |= {key: float(f"{value:.5g}") for key, value in targets_of(heart).items()}
    return row, {"patient": name} | _truth_of(heart)


def _write_ecg(root: Path, name: str, ecg: NDArray[np.float32], kind: str) -> str:
    """Write an ECG and return its path relative to the root."""
    if kind == "npy":
        np.save(root / "ecg" / f"{name}.npy", ecg)
        return f"ecg/{name}.npy"
    wfdb.wrsamp(
        name,
        fs=_FILE_RATE,
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
    """Write a cine and return its path relative to the root."""
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
