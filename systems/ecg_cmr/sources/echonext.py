"""Index EchoNext: 12-lead ECGs with findings of echocardiography within a year. No cine.

Source: EchoNext 1.1.0, physionet.org/content/echonext (credentialed access). The folder that holds::

    echonext_metadata_100k.csv                a row an ECG: patient_key, ecg_key, split, age_at_ecg, sex, ...
    EchoNext_{train,val,test}_waveforms.npy   (N, 1, 2500, 12) at 250 Hz, in the order of the split's rows

Rules
-----
- The signals are z-scores, and nothing brings them back to millivolts. A model that learned from them cannot
  be given an ECG in millivolts.
- The split ``no_split`` holds earlier ECGs of validation and test patients. It is dropped.
- A finding that is 0 may mean that it was not measured. It counts as absent only where the value that it
  comes from is there, and the composite only where all are. A value of 0 counts as missing.
- The licence forbids to pass on even the keys. Patients and ECGs get pseudonyms (`Pseudonyms`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.command_line import counted
from datasets.ecg import LEADS
from datasets.patients import plausible_values, require_some
from datasets.sources import DataError, Problem
from systems.ecg_cmr.indicators import KNOWN
from systems.ecg_cmr.sources.pairs import DISEASE, PairIndex, pair_row, target_tables
from systems.ecg_cmr.sources.pseudonyms import Pseudonyms

METADATA = "echonext_metadata_100k.csv"
RATE = 250.0
_POINTS = 2500
_SPLITS = {"train": 1, "val": 9, "test": 10}
"""Splits, and the official fold that their ECGs get."""
_DROPPED = "no_split"
_KEYS = ("patient_key", "ecg_key", "split")
_FINDINGS: dict[str, tuple[str, ...]] = {
    "lvef_lte_45_flag": ("lvef_value",),
    "lvwt_gte_13_flag": ("ivs_measurement", "lvpw_measurement"),
    "aortic_stenosis_moderate_or_greater_flag": ("aortic_stenosis_value",),
    "aortic_regurgitation_moderate_or_greater_flag": ("aortic_regurgitation_value",),
    "mitral_regurgitation_moderate_or_greater_flag": ("mitral_regurgitation_value",),
    "tricuspid_regurgitation_moderate_or_greater_flag": ("tricuspid_regurgitation_value",),
    "pulmonary_regurgitation_moderate_or_greater_flag": ("pulmonary_regurgitation_value",),
    "rv_systolic_dysfunction_moderate_or_greater_flag": ("rv_systolic_function_value",),
    "pericardial_effusion_moderate_large_flag": ("pericardial_effusion_value",),
    "pasp_gte_45_flag": ("pasp_value",),
    "tr_max_gte_32_flag": ("tr_max_velocity_value",),
}
"""Findings, and the values that say whether they were looked for: any of them will do."""
_COMPOSITE = "shd_moderate_or_greater_flag"
_VALUES = {
    "lvef_value": ("ejection_fraction", 1.0),
    "ivs_measurement": ("septal_thickness", 10.0),
    "lvpw_measurement": ("posterior_wall_thickness", 10.0),
    "pasp_value": ("pulmonary_pressure", 1.0),
    "tr_max_velocity_value": ("tr_velocity", 1.0),
}
"""Measurements, the indicator that each is, and its factor: walls are given in cm."""
_SEXES = {"male": 0.0, "m": 0.0, "female": 1.0, "f": 1.0}
"""A number is not read: copies of the table differ in what 0 means."""


def index_echonext(root: Path) -> PairIndex:
    """Index the ECGs of EchoNext.

    Raises
    ------
    DataError
        If a file is lacking, or does not fit the table.
    """
    table = _read(root / METADATA)
    names, problems = Pseudonyms(root / METADATA), list[Problem]()
    dropped = int((table["split"] == _DROPPED).sum())
    if dropped:
        what = f"{counted(dropped, 'ECG')} of {_DROPPED} are earlier ones of validation and test patients."
        problems.append(Problem(_DROPPED, what, "Nothing: they are dropped."))
    measured = _measured(table, problems)
    rows, values = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for split, fold in _SPLITS.items():
        part = table[table["split"] == split]
        if part.empty:
            continue
        file = f"EchoNext_{split}_waveforms.npy"
        _check_waveforms(root / file, len(part))
        for place, (number, row) in enumerate(part.iterrows()):
            name = names.name("e", row.get("ecg_key", f"{split}-{place}"))
            person = names.name("p", row["patient_key"])
            rows.append(
                pair_row(name, person=person, official_fold=fold, ecg=f"{file}#{place}", ecg_rate=RATE)
            )
            values[name] = _targets(row, measured.loc[number], name, problems)
    require_some(rows, problems, root)
    columns = (
        [name for name, _ in _VALUES.values()],
        [*map(_disease, (*_FINDINGS, _COMPOSITE))],
        ["age", "sex"],
    )
    indicators, diseases, covariates = (
        tuple(name for name in names_of_kind if any(not math.isnan(row[name]) for row in values.values()))
        for names_of_kind in columns
    )
    recordings, targets = target_tables(rows, values, (indicators, diseases, covariates))
    return PairIndex(
        "echonext",
        root,
        recordings,
        problems,
        {"echonext": "person"},
        [METADATA],
        {},
        targets,
        indicators=indicators,
        diseases=diseases,
        covariates=covariates,
        ecg_unit="z-score",
        restricted=True,
    )


def _disease(finding: str) -> str:
    """Return the column of a finding."""
    return DISEASE + finding.removesuffix("_flag")


def _read(path: Path) -> pd.DataFrame:
    """Return the table of ECGs."""
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_KEYS, str))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    lacking = [name for name in ("patient_key", "split") if name not in table]
    if lacking:
        raise DataError(f"{path} has no column {lacking[0]}: is it that of EchoNext 1.1.0?")
    unknown = sorted(set(table["split"].dropna()) - {*_SPLITS, _DROPPED})
    if unknown or table[["patient_key", "split"]].isna().any(axis=None):
        raise DataError(f"{path} has a row without patient_key or split, or a split {', '.join(unknown)}.")
    return table


def _check_waveforms(path: Path, rows: int) -> None:
    """Refuse a file of signals that is not there, or has another shape than the table says."""
    if not path.is_file():
        raise DataError(f"{path.parent} has no {path.name}.")
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    if shape != (rows, 1, _POINTS, len(LEADS)):
        raise DataError(
            f"{path.name} has the shape {shape}, and {METADATA} lists {rows} ECGs of that split: "
            f"({rows}, 1, {_POINTS}, {len(LEADS)}) is expected."
        )


def _measured(table: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Return whether each finding was looked for in each ECG's echocardiography."""
    found = {}
    for finding, values in _FINDINGS.items():
        there = [name for name in values if name in table]
        known = [table[name].notna() & (table[name] != 0) & (table[name].astype(str) != "") for name in there]
        found[finding] = np.any(known, axis=0) if known else np.zeros(len(table), dtype=bool)
        if finding in table and not there:
            what = f"There is no column {values[0]}, so a 0 of {finding} may mean that it was not measured."
            problems.append(Problem(METADATA, what, "Nothing: it counts as missing.", left_out=False))
    measured = pd.DataFrame(found, index=table.index)
    return measured.assign(**{_COMPOSITE: measured.all(axis=1)})


def _targets(row: pd.Series, measured: pd.Series, name: str, problems: list[Problem]) -> dict[str, float]:
    """Return what is known of an ECG's patient, NaN where it is not."""
    values = {}
    for column, (indicator, factor) in _VALUES.items():
        value, kind = factor * _number(row.get(column)), KNOWN[indicator]
        values[indicator] = value if kind.low <= value <= kind.high else math.nan
    for finding in (*_FINDINGS, _COMPOSITE):
        flag = _number(row.get(finding))
        sure = flag == 1 or (flag == 0 and bool(measured[finding]))
        values[_disease(finding)] = flag if sure else math.nan
    sex = row.get("sex")
    text = str(sex).strip().casefold()
    body = {"age": _number(row.get("age_at_ecg")), "sex": _SEXES.get(text, math.nan)}
    return values | plausible_values(body, name, problems)


def _number(value: Any) -> float:
    """Return a cell as a number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
