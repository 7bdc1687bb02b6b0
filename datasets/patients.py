"""The index of patients who have up to three views: an ECG image, an ECG signal, clinical values.

Sources are PTB-XL (`datasets.ptbxl`) and one's own folders (`datasets.patient_folders`). A missing view or
value is no reason to leave a patient out; what cannot be believed counts as missing and is named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from datasets.sources import DataError, Problem, SourceIndex

PATIENT_COLUMNS = {
    "recording": str,  # unique name
    "person": str,  # who was recorded; never shared between train and test
    "label": int,  # 0 normal, 1 abnormal
    "diagnosis": str,  # as the source names it; empty: unknown
    "official_fold": int,  # fold that the source assigns; 0: none
    "signal": str,  # WFDB header, or place of the row in the table of signals; empty: none
    "image": str,  # picture; empty: none (PTB-XL has none: they are drawn from the signal)
}
"""Columns of the index; paths are relative to the root, with forward slashes. A source may add others."""
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
"""Diagnostic superclasses of PTB-XL: normal, myocardial infarction, ST/T change, conduction disturbance,
hypertrophy."""
VIEWS = ("image", "signal", "clinical")
UNLABELLED = -1
"""Label of a patient who is to be judged, not learned from."""
PLAUSIBLE = {
    "age": (0.0, 120.0, "years"),
    "sex": (0.0, 1.0, "0 male, 1 female"),
    "height": (50.0, 250.0, "cm"),
    "weight": (2.0, 400.0, "kg"),
    "bmi": (8.0, 100.0, "kg/m2"),
    "systolic": (40.0, 300.0, "mmHg"),
    "diastolic": (20.0, 200.0, "mmHg"),
    "heart_rate": (20.0, 300.0, "1/min"),
}
"""Lowest and highest value that is believed, and its unit."""


@dataclass(frozen=True)
class PatientIndex(SourceIndex):
    """The patients of a source, before anything is decoded.

    Attributes
    ----------
    recordings : pandas.DataFrame
        One row a recording, columns `PATIENT_COLUMNS` (and of PTB-XL 0 or 1 for each of `SUPERCLASSES`, and
        ``superclasses``, their number), sorted by recording.
    clinical : pandas.DataFrame
        ``recording``, in the same order, and numbers, NaN where missing. No other column: the patient has
        no clinical view.
    leads : tuple of str
        Leads of every signal.
    signal_rate : float
        Sampling rate of signals that do not state their own, hertz.
    drawn : bool
        Whether pictures are drawn from the signals; a recording without a readable signal is then left out.
    simulated : bool
        Whether the patients are virtual.
    unusable : mapping of str to mapping of str to str
        By view and recording, why what was given cannot be used; of sources that can be judged.
    doubts : mapping of str to mapping of str to list of str
        By view and recording, what is doubtful about what is used.

    The other attributes are those of `datasets.sources.SourceIndex`.
    """

    clinical: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["recording"]))
    leads: tuple[str, ...] = ("II",)
    signal_rate: float = 0.0
    drawn: bool = False
    simulated: bool = False
    unusable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    doubts: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)


def patient_tables(
    rows: list[dict[str, object]], clinical: dict[str, dict[str, float]], columns: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index table and the clinical table of the same recordings, sorted by recording.

    Parameters
    ----------
    rows : list of dict
        `PATIENT_COLUMNS`, and columns of the source's own.
    clinical : dict of str to dict of str to float
        By recording, the values that are known.
    columns : list of str
        Names of the clinical values.
    """
    own = [name for name in (rows[0] if rows else {}) if name not in PATIENT_COLUMNS]
    table = pd.DataFrame(rows, columns=[*PATIENT_COLUMNS, *own]).astype(PATIENT_COLUMNS)
    table = table.sort_values("recording", ignore_index=True)
    known = [clinical.get(name, {}) for name in table["recording"]]
    values = {column: [row.get(column, math.nan) for row in known] for column in columns}
    names = pd.DataFrame({"recording": table["recording"]})
    return table, names.join(pd.DataFrame(values, dtype=float))


def plausible_values(values: dict[str, float], where: str, problems: list[Problem]) -> dict[str, float]:
    """Return the clinical values that are possible; name the others as problems, they count as missing.

    Parameters
    ----------
    values : dict of str to float
        By name; names without an entry in `PLAUSIBLE` are taken as they are.
    where : str
        Whose values they are.
    problems : list of Problem
        Gets a warning for each impossible value.
    """
    kept = dict(values)
    for name, (low, high, unit) in PLAUSIBLE.items():
        value = values.get(name, math.nan)
        between = low <= value <= high if name != "sex" else value in (low, high)
        if not math.isnan(value) and not between:
            kept[name] = math.nan
            allowed = unit if name == "sex" else f"{low:g} to {high:g} {unit}"
            what = f"The {name} {value:g} is not possible ({allowed}); it counts as missing."
            problems.append(Problem(where, what, "Correct the cell.", left_out=False))
    if kept.get("diastolic", math.nan) >= kept.get("systolic", math.nan):
        what = (
            f"The diastolic pressure {kept['diastolic']:g} is not below the systolic {kept['systolic']:g}; "
            "both count as missing."
        )
        problems.append(Problem(where, what, "Correct the cells.", left_out=False))
        kept |= {"diastolic": math.nan, "systolic": math.nan}
    return kept


def by_patient(problems: Iterable[Problem]) -> dict[str, list[str]]:
    """Return what was said of each patient."""
    found: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        found[problem.where].append(problem.what)
    return dict(found)


def require_some(rows: list[dict[str, object]], problems: list[Problem], root: object) -> None:
    """Refuse a source of which nothing can be used."""
    if not rows:
        reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in problems[:3])
        raise DataError(f"No patient of {root} can be used. The first reasons: {reasons}")
