"""Virtual patients of whom an ECG and a cine CMR are drawn from the same heart: into the cache, or as files.

As files they are what `datasets.pairs.index_pairs` reads::

    pairs.csv                        a row a patient: files, indicators, diseases, age, sex, height, weight
    ecg/<patient>.hea .dat           twelve leads in millivolts
    cmr/<patient>_sa.nii.gz          short axis (height, width, 1, frames)
    cmr/<patient>_la.nii.gz          long axis
    truth.csv                        what else is true of the heart; for judging, never for training
    simulation.json, README.txt
"""

from __future__ import annotations

import dataclasses
import functools
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

from common.files import replacing_folder
from datasets.cache import name_content
from datasets.cmr_files import DOWN, LEFT
from datasets.cmr_frames import to_bytes
from datasets.ecg_image import LEADS
from datasets.pair_settings import PairSettings, PairSimulationSettings
from datasets.pair_views import PreparedPair
from datasets.pairs import COVARIATES, DISEASE, PairIndex, pair_row, target_tables
from datasets.pairs_cache import check_pair_settings, fill_pairs_cache
from datasets.patient_folders import SIMULATION
from datasets.simulate.cine import LONG_AXIS_SPACING, SHORT_AXIS_SPACING, render_cine
from datasets.simulate.heart import Heart
from datasets.simulate.heart_population import IMPLIED_CEILINGS, draw_heart
from datasets.simulate.patient import stream
from datasets.simulate.physiology import CEILINGS, CONDITIONS
from datasets.simulate.vectorcardiogram import render_ecg
from datasets.sources import DataError

PAIRS_VERSION = 1
"""Raised when the same settings would give other patients."""
PAIR = 11
"""First word of the key of a pair's random streams (that of a heart is 10)."""
ECG, SHORT_AXIS, LONG_AXIS = range(3)
FILE_RATE, FILE_SECONDS = 500.0, 10.0
"""Hertz and seconds of the ECGs that are written as files."""
FILE_FRAMES, FILE_SIZE = 24, 96
"""Frames and pixels of the cines that are written as files."""
STEPS = 400
"""Steps of brightness in a file for that of muscle."""
README = """\
SIMULATED DATA

These patients are virtual. No human was measured, and nothing here says anything about anybody's heart.

pairs.csv         a row a patient, as one's own pairs are listed
truth.csv         what else is true of each heart: what a judge may read, and a model may not
simulation.json   the settings; the same settings give the same patients
"""


def patient_name(number: int) -> str:
    """Return the name of a virtual patient."""
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


def truth_of(heart: Heart) -> dict[str, Any]:
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


def build_simulated_pairs(
    settings: PairSettings,
    simulation: PairSimulationSettings,
    cache_dir: Path,
    *,
    jobs: int = -1,
    progress: bool = True,
) -> Path:
    """Draw a cohort straight into a cache and return its folder; no file is written on the way.

    Nothing is done when a cache of the same settings is there already.

    Raises
    ------
    DataError
        If the settings do not fit.
    """
    check_pair_settings(settings)
    if simulation.patients < 1 or simulation.ecg_noise < 0:
        raise DataError(
            f"{simulation.patients} patients with an ECG noise of {simulation.ecg_noise} cannot be: "
            "at least one patient and a noise of 0 or more are needed."
        )
    index = simulated_index(simulation)
    prepare = functools.partial(draw_pair, settings=settings, simulation=simulation)
    identified = name_content(index, [], settings)
    return fill_pairs_cache(index, settings, cache_dir, prepare, identified, jobs=jobs, progress=progress)


def simulated_index(simulation: PairSimulationSettings) -> PairIndex:
    """Return the index of a cohort; the hearts of its targets are drawn here, signals and images are not."""
    hearts = [draw_heart(simulation.seed, number) for number in range(simulation.patients)]
    rows = [pair_row(patient_name(number), diagnosis=heart.condition) for number, heart in enumerate(hearts)]
    values = {patient_name(number): targets_of(heart) for number, heart in enumerate(hearts)}
    indicators, diseases = tuple(hearts[0].indicators()), disease_columns()
    recordings, targets = target_tables(rows, values, (indicators, diseases, COVARIATES))
    identity = {"version": PAIRS_VERSION, "ceilings": ceilings(), **dataclasses.asdict(simulation)}
    return PairIndex(
        "simulated-pairs",
        Path(),
        recordings,
        [],
        {"simulated-pairs": "person"},
        [],
        {"simulation": json.dumps(identity, sort_keys=True)},
        targets,
        LEADS,
        simulated=True,
        indicators=indicators,
        diseases=diseases,
        ceilings=ceilings(),
    )


def draw_pair(
    row: dict[str, Any], *, settings: PairSettings, simulation: PairSimulationSettings
) -> PreparedPair:
    """Return what the cache keeps of one virtual patient."""
    number = int(row["recording"][1:])
    heart = draw_heart(simulation.seed, number)
    ecg = render_ecg(
        heart,
        settings.seconds,
        settings.ecg_rate,
        stream(simulation.seed, PAIR, number, ECG),
        noise=simulation.ecg_noise,
    )
    views = [(SHORT_AXIS, settings.pixel_spacing)]
    views += [(LONG_AXIS, settings.long_axis_spacing)] if settings.long_axis else []
    cines = [
        to_bytes(
            render_cine(
                heart,
                stream(simulation.seed, PAIR, number, view),
                settings.frames,
                settings.size,
                spacing,
                long_axis=view == LONG_AXIS,
            ),
            settings.percentiles,
        )
        for view, spacing in views
    ]
    facts = truth_of(heart) | {
        "ecg_rate": settings.ecg_rate,
        "duration": settings.seconds,
        "end": settings.seconds,
        "absent_leads": "",
        "signal_sha256": hashlib.sha256(ecg.tobytes()).hexdigest(),
        "image_sha256": hashlib.sha256(cines[0].tobytes()).hexdigest(),
    }
    present = np.ones(len(LEADS), dtype=bool)
    return PreparedPair(row | facts, ecg, present, cines[0], cines[1] if settings.long_axis else None)


# As files -------------------------------------------------------------------------------------------


def write_pairs(
    root: Path,
    patients: int = 12,
    seed: int = 0,
    *,
    kind: Literal["standard", "npy"] = "standard",
    missing: float = 0.0,
    long_axis: bool = True,
    jobs: int = 1,
    progress: bool = False,
) -> Path:
    """Write a small cohort in the layout of one's own pairs and return its folder.

    Parameters
    ----------
    root : pathlib.Path
        Folder to make; the files appear in it all together.
    patients, seed : int
        The same patients as `build_simulated_pairs` draws, with finer cines and faster ECGs.
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
        If the folder holds something already.
    ValueError
        If a setting is out of range.
    """
    if patients < 1 or not 0 <= missing <= 1 or kind not in ("standard", "npy"):
        raise ValueError(f"{patients} patients of kind {kind!r} with {missing} missing cannot be written.")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} is not empty: delete it, or choose another folder for the simulated pairs.")
    with replacing_folder(root) as folder:
        (folder / "ecg").mkdir()
        (folder / "cmr").mkdir()
        work = joblib.Parallel(n_jobs=jobs, return_as="generator")(
            joblib.delayed(_write_patient)(folder, seed, number, kind, long_axis)
            for number in range(patients)
        )
        found = list(tqdm(work, total=patients, desc="virtual patients", disable=not progress))
        rows = pd.DataFrame([row for row, _ in found])
        _with_gaps(rows, missing, seed).to_csv(folder / "pairs.csv", index=False, lineterminator="\n")
        truth = pd.DataFrame([truth for _, truth in found])
        truth.to_csv(folder / "truth.csv", index=False, lineterminator="\n")
        settings = {"pairs": PAIRS_VERSION, "patients": patients, "seed": seed, "kind": kind}
        settings |= {"missing": missing, "long_axis": long_axis, "ceilings": ceilings()}
        (folder / SIMULATION).write_text(
            json.dumps(settings, indent=2) + "\n", encoding="utf-8", newline="\n"
        )
        (folder / "README.txt").write_text(README, encoding="utf-8", newline="\n")
        if root.exists():
            root.rmdir()  # it was empty; the finished one takes its place
    return root


def _with_gaps(table: pd.DataFrame, missing: float, seed: int) -> pd.DataFrame:
    """Return the table with some of its numbers left out."""
    numbers = [name for name in targets_columns() if not name.startswith(DISEASE)]
    lost = stream(seed, PAIR).random((len(table), len(numbers))) < missing
    table[numbers] = table[numbers].mask(lost)
    return table


def targets_columns() -> tuple[str, ...]:
    """Return the columns of all targets."""
    return tuple(targets_of(draw_heart(0, 0)))


def _write_patient(
    root: Path, seed: int, number: int, kind: str, long_axis: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files of one patient; return the rows of ``pairs.csv`` and of ``truth.csv``."""
    heart, name = draw_heart(seed, number), patient_name(number)
    ecg = render_ecg(heart, FILE_SECONDS, FILE_RATE, stream(seed, PAIR, number, ECG))
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


def display_affine(spacing: float, thickness: float = 8.0) -> NDArray[np.float64]:
    """Return the affine of a slice whose columns run to the left and whose rows run to back and feet, mm."""
    affine = np.eye(4)
    across = np.cross(LEFT, DOWN)
    affine[:3, :3] = np.stack([spacing * LEFT, spacing * DOWN, thickness * across], axis=1)
    return affine
