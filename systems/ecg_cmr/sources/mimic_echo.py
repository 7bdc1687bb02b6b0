"""Index MIMIC-IV-ECG with the measurements of MIMIC-IV-ECHO: 12-lead ECGs and echocardiography. No cine.

Sources: Gow et al., MIMIC-IV-ECG 1.0, physionet.org/content/mimic-iv-ecg; MIMIC-IV-ECHO,
physionet.org/content/mimic-iv-echo (credentialed access). In the folder, or in folders of it::

    record_list.csv                 subject_id, study_id, ecg_time, path: WFDB records, 500 Hz, relative to it
    structured-measurement.csv      subject_id, measurement_datetime, measurement, result, unit (or .csv.gz)
    patients.csv                    subject_id, gender, anchor_age, anchor_year (or .csv.gz; may be absent)

Rules
-----
- An ECG takes the measurements of the same subject that are nearest in time, at most ``--echo-days`` away.
  Every ECG with one is used, and a subject's ECGs are never in train and test both.
- What is no number, or outside what is possible, counts as missing.
- The licence forbids to pass on even the numbers of subjects: they get pseudonyms (`Pseudonyms`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from common.command_line import counted
from datasets.patients import plausible_values, require_some
from datasets.sources import DataError, Problem
from systems.ecg_cmr.indicators import KNOWN, known_name, same_unit
from systems.ecg_cmr.sources.pairs import PairIndex, pair_row, target_tables
from systems.ecg_cmr.sources.pseudonyms import Pseudonyms

RECORDS = "record_list.csv"
MEASUREMENTS = ("structured-measurement.csv", "structured-measurement.csv.gz")
_PATIENTS = ("patients.csv", "patients.csv.gz")
_SEXES = {"M": 0.0, "F": 1.0}
_IN_MM = {"mm": 1.0, "cm": 10.0}
_FEWEST = 0.01
"""Share of the ECGs that a measurement must be known of, to be a column."""


def index_mimic(root: Path, echo_days: float) -> PairIndex:
    """Index the ECGs that have an echocardiography of the same subject near in time.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds both databases.
    echo_days : float
        Days between an ECG and its echocardiography, at most.

    Raises
    ------
    DataError
        If a table is lacking, lacks a column, or no ECG has an echocardiography.
    """
    files = [find_below(root, names) for names in ((RECORDS,), MEASUREMENTS, _PATIENTS)]
    for file, name in zip(files, (RECORDS, MEASUREMENTS[0]), strict=False):
        if file is None:
            raise DataError(
                f"{root} has no {name}: name the folder that holds MIMIC-IV-ECG and MIMIC-IV-ECHO."
            )
    records, measurements, patients = files
    assert records is not None and measurements is not None
    problems: list[Problem] = []
    ecgs = _read(records, ("subject_id", "study_id", "ecg_time", "path"), "ecg_time")
    found = _read(measurements, ("subject_id", "measurement_datetime", "measurement", "result", "unit"),
                  "measurement_datetime")  # fmt: skip
    values = _values(found, problems)
    joined = _nearest(ecgs, values, pd.Timedelta(days=echo_days))
    lacking = len(ecgs) - len(joined)
    if lacking:
        what = f"{counted(lacking, 'ECG')} have no echocardiography within {echo_days:g} days."
        problems.append(Problem(RECORDS, what, "Nothing: they are left out."))
    known = [name for name in values.columns if name not in ("subject_id", "time")]
    known = [name for name in known if joined[name].notna().mean() >= _FEWEST]
    joined = joined.join(_bodies(patients, joined))
    names, folder = Pseudonyms(records), records.parent.relative_to(root).as_posix()
    rows, targets = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for row in joined.to_dict("records"):
        name = names.name("m", row["study_id"])
        path = f"{folder}/{row['path']}.hea".removeprefix("./")
        if ".." in Path(path).parts or not (root / path).is_file():
            problems.append(Problem(name, "Its ECG is not there.", "Fetch it, or leave it out."))
            continue
        rows.append(pair_row(name, person=names.name("s", row["subject_id"]), ecg=path))
        body = plausible_values({key: row[key] for key in ("age", "sex")}, name, problems)
        targets[name] = {key: float(row[key]) for key in known} | body
    require_some(rows, problems, root)
    kinds = (
        tuple(name for name in known if name in KNOWN),
        tuple(name for name in ("age", "sex") if any(not math.isnan(row[name]) for row in targets.values())),
        tuple(name for name in known if name not in KNOWN),
    )
    recordings, table = target_tables(rows, targets, kinds)
    return PairIndex(
        "mimic-echo",
        root,
        recordings,
        problems,
        {"mimic-echo": "person"},
        [file.relative_to(root).as_posix() for file in files if file is not None],
        {"echo_days": f"{echo_days:g}"},
        table,
        indicators=kinds[0],
        covariates=kinds[1],
        others=kinds[2],
        restricted=True,
    )


def find_below(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first file of these names in a folder, or up to three folders below it."""
    patterns = (f"{'*/' * depth}{name}" for depth in range(4) for name in names)
    return next((path for pattern in patterns for path in sorted(root.glob(pattern))), None)


def _read(path: Path, columns: tuple[str, ...], time: str) -> pd.DataFrame:
    """Return columns of a table as text, and its ``time``; rows without subject or time are left out."""
    try:
        table = pd.read_csv(path, usecols=list(columns), dtype=str)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path.name} cannot be read, or lacks one of {', '.join(columns)}: {error}."
        ) from error
    table["time"] = pd.to_datetime(table.pop(time), errors="coerce")
    return table[table["time"].notna() & table["subject_id"].notna()].reset_index(drop=True)


def _values(found: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    """Return a row an echocardiography, ``subject_id`` and ``time``, and a column a measurement.

    A measurement that is known by name has that name and unit; any other is named as it is, with its unit.
    """
    table = found.assign(
        value=pd.to_numeric(found["result"], errors="coerce"),
        unit=found["unit"].fillna("").str.strip(),
        measurement=found["measurement"].fillna("").str.strip(),
    )
    table = table[table["value"].notna() & (table["measurement"] != "")]
    parts = []
    for (code, unit), part in table.groupby(["measurement", "unit"], sort=True):
        name, factor = _meaning(str(code), str(unit))
        values = part["value"] * factor
        if name in KNOWN:
            possible = values.between(KNOWN[name].low, KNOWN[name].high)
            if not possible.all():
                what = f"{counted(int((~possible).sum()), 'value')} of {code} ({unit}) are not possible."
                problems.append(Problem(MEASUREMENTS[0], what, "Nothing: they count as missing.", False))
            values = values.where(possible)
        parts.append(part[["subject_id", "time"]].assign(name=name, value=values))
    if not parts:
        raise DataError(f"{MEASUREMENTS[0]} holds no number.")
    # of one measured several times in one examination the mean counts
    wide = pd.concat(parts).pivot_table("value", ["subject_id", "time"], "name", aggfunc="mean")
    return wide.dropna(how="all").reset_index().rename_axis(columns=None)


def _meaning(code: str, unit: str) -> tuple[str, float]:
    """Return the name of a measurement, and the factor that brings it to the unit of that name."""
    name = known_name(code.casefold())
    if name and KNOWN[name].unit == "mm" and unit in _IN_MM:
        return name, _IN_MM[unit]
    if name and unit and same_unit(unit, name):
        return name, 1.0
    return f"{code} ({unit})" if unit else code, 1.0


def _nearest(ecgs: pd.DataFrame, values: pd.DataFrame, most: pd.Timedelta) -> pd.DataFrame:
    """Return the ECGs with the values of the nearest echocardiography of the same subject."""
    joined = pd.merge_asof(
        ecgs.sort_values("time"),
        values.assign(echo_time=values["time"]).sort_values("time"),
        on="time",
        by="subject_id",
        direction="nearest",
        tolerance=most,
    )
    return joined[joined["echo_time"].notna()].reset_index(drop=True)


def _bodies(path: Path | None, ecgs: pd.DataFrame) -> pd.DataFrame:
    """Return age at the ECG and sex of each row, NaN where not known."""
    nothing = pd.DataFrame({"age": math.nan, "sex": math.nan}, index=ecgs.index)
    if path is None:
        return nothing
    try:
        people = pd.read_csv(path, usecols=["subject_id", "gender", "anchor_age", "anchor_year"], dtype=str)
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}.") from error
    people = people.drop_duplicates("subject_id").set_index("subject_id")
    own = people.reindex(ecgs["subject_id"]).reset_index(drop=True)
    anchor = pd.to_numeric(own["anchor_age"], errors="coerce") - pd.to_numeric(
        own["anchor_year"], errors="coerce"
    )
    return pd.DataFrame({"age": anchor + ecgs["time"].dt.year, "sex": own["gender"].map(_SEXES)})
