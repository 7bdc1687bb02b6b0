"""Patients: the index of a source, tables with a row a patient, possible values, the same recording twice.

Sources are PTB-XL (`datasets.ptbxl`) and those of the systems. A missing modality or value is no reason to
leave a patient out; an impossible value counts as missing and is named. The same signal of two patients is
most likely one person with two numbers, so the two are kept together; where the source's own folds separate
them, one copy is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from datasets.identity import MISSING, counts_rows, identity, warn_alike
from datasets.sources import DataError, Problem, SourceIndex, first_reasons
from datasets.tables import FORMULA, Marks, has_groups, read_rows

Index = TypeVar("Index", bound=SourceIndex)
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
TARGET = "target_"
"""Begins the names of columns of the index that hold classes: text, several joined by "+"; empty: unknown."""
THREE_CLASSES = ("normal", "borderline", "abnormal")
"""Classes of the column ``target_three_classes``."""
MODALITIES = ("image", "signal", "clinical")
UNLABELLED = -1
"""Label of a patient to predict, not to learn from."""
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
"""Lowest and highest value that is possible, and its unit."""


@dataclass(frozen=True)
class PatientIndex(SourceIndex):
    """The patients of a source, before anything is decoded.

    Attributes
    ----------
    recordings : pandas.DataFrame
        One row a recording, columns `PATIENT_COLUMNS`, what else can be learned (`TARGET`), and of PTB-XL 0
        or 1 for each of `SUPERCLASSES`, and ``superclasses``, their number; sorted by recording.
    clinical : pandas.DataFrame
        ``recording``, in the same order, and numbers, NaN where missing. No other column: there are no
        clinical values.
    leads : tuple of str
        Leads of every signal.
    signal_rate : float
        Sampling rate of signals that do not state their own, hertz.
    drawn : bool
        Whether pictures are drawn from the signals; a recording without a readable signal is then left out.
    unusable : mapping of str to mapping of str to str
        By modality and recording, why what was given cannot be used; of sources without labels.
    warnings : mapping of str to mapping of str to list of str
        By modality and recording, what is doubtful about what is used.

    The other attributes are those of `datasets.sources.SourceIndex`.
    """

    clinical: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["recording"]))
    leads: tuple[str, ...] = ("II",)
    signal_rate: float = 0.0
    drawn: bool = False
    unusable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warnings: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)


def index_tables(
    types: Mapping[str, type],
    rows: list[dict[str, Any]],
    values: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index table and the table of values of the same recordings, sorted by recording.

    Parameters
    ----------
    types : mapping of str to type
        Columns of the index table.
    rows : list of dict
        These columns, and others of the source's own.
    values : mapping of str to mapping of str to float
        By recording, the values that are known.
    columns : sequence of str
        Names of the values.
    """
    own = [name for name in (rows[0] if rows else {}) if name not in types]
    table = pd.DataFrame(rows, columns=[*types, *own]).astype(dict(types))
    table = table.sort_values("recording", ignore_index=True)
    known = [values.get(name, {}) for name in table["recording"]]
    found = {column: [row.get(column, math.nan) for row in known] for column in columns}
    names = pd.DataFrame({"recording": table["recording"]})
    return table, names.join(pd.DataFrame(found, dtype=float))


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
    """Return what is wrong with each patient."""
    found: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        found[problem.where].append(problem.what)
    return dict(found)


def require_some(rows: Sequence[object], problems: list[Problem], root: object) -> None:
    """Refuse a source of which nothing can be used."""
    if not rows:
        raise DataError(f"No patient of {root} can be used. {first_reasons(problems)}")


_CONTENT = {"signal_sha256": "signal", "image_sha256": "picture"}
"""Columns of digests, and what they are of."""
_OFFICIAL_PARTS = {9: 1, 10: 2}
"""Folds of PTB-XL meant for validation and test; the others, 0, are for training."""


def leave_out_copies(index: Index, checksums: Mapping[str, str], files: str, values: str) -> Index:
    """Return the index without recordings whose copy is in another part of the official folds.

    PTB-XL has such pairs. The copy for test stays, then that for validation.

    Parameters
    ----------
    index : SourceIndex
    checksums : mapping of str to str
        By file, its digest; a WFDB record is known by the ``.dat`` beside its header.
    files : str
        Column of the index that names the file of the signal.
    values : str
        Attribute of the index that has a table of the same rows.
    """
    table = index.recordings
    content = table[files].str.replace(r"\.hea$", ".dat", regex=True).map(checksums)
    part = table["official_fold"].map(_OFFICIAL_PARTS).fillna(0)
    lost = content.notna() & (part < part.groupby(content).transform("max"))
    if not lost.any():
        return index
    problems = []
    for row in table.index[lost]:
        same = table.index[(content == content[row]) & (part > part[row])]
        what = f"Its signal is that of {table['recording'][same[0]]}, in official fold "
        what += f"{table['official_fold'][same[0]]}, and its own is {table['official_fold'][row]}."
        problems.append(Problem(table["recording"][row], what, "Nothing: the copy for test is kept."))
    kept = {values: getattr(index, values)[~lost].reset_index(drop=True)}
    return dataclasses.replace(
        index,
        recordings=table[~lost].reset_index(drop=True),
        problems=[*index.problems, *problems],
        **kept,
    )


def keep_together(recordings: pd.DataFrame, warnings: list[Problem]) -> pd.Series:
    """Return the session of each recording: its person, joined with those who have the same content.

    Parameters
    ----------
    recordings : pandas.DataFrame
        ``recording``, ``person``, and digests of signal and picture, empty where there is none.
    warnings : list of Problem
        Gets a warning for each content that occurs twice.

    Returns
    -------
    pandas.Series of str
    """
    grouped = {person: {person} for person in recordings["person"]}
    for column, what in _CONTENT.items():
        for _, same in recordings[recordings[column] != ""].groupby(column, sort=False):
            if len(same) < 2:
                continue
            first, *others = same["recording"]
            merged = set[str]().union(*(grouped[person] for person in same["person"]))
            grouped |= dict.fromkeys(merged, merged)
            patients = "another patient" if same["person"].nunique() > 1 else "the same patient"
            text = f"Its {what} is the same as that of {', '.join(others)} ({patients})."
            remedy = "Keep one; until then they are in the same part of every split."
            warnings.append(Problem(first, text, remedy, left_out=False))
    names = {person: "+".join(sorted(persons)) for person, persons in grouped.items()}
    return recordings["person"].map(names)


ID_COLUMNS = ("idx", "patient_id", "patientid", "id", "patient", "index", "number", "no", "nr", "recording")
"""Names of the column that holds the number of a patient, the likeliest first."""
_UNNAMED = re.compile(r"(unnamed: ?[\d.]+)?")
WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "y": 1.0, "n": 0.0}
_SEXES = {"m": 0.0, "male": 0.0, "man": 0.0, "f": 1.0, "female": 1.0, "woman": 1.0, "w": 1.0}


@dataclass(frozen=True)
class PatientTable:
    """What a table says of each patient.

    Attributes
    ----------
    name : str
        Name of the file; empty where there is none.
    columns : list of str
        As the file names them, without that of the patient's number.
    rows : dict of str to dict of str to str
        By patient: the cells, and ``row``, its number in the file counted from 1. Patients that occur once.
    listed : set of str
        Every patient that occurs.
    """

    name: str
    columns: list[str]
    rows: dict[str, dict[str, str]]
    listed: set[str]

    @functools.cached_property
    def marks(self) -> dict[str, Marks]:
        """What commas and points mean in each column."""
        rows = self.rows.values()
        return Marks.of_table({name: [plain_cell(row[name]) for row in rows] for name in self.columns})

    @property
    def reread(self) -> bool:
        """Whether a number was once read otherwise."""
        return has_groups(row[name] for row in self.rows.values() for name in self.columns)

    def number(self, patient: str, column: str, sex: bool = False) -> float:
        """Return a cell as a number, as `clinical_number` does, with the marks of its column."""
        return clinical_number(self.rows[patient][column], sex, self.marks[column])

    def lacks_numbers(self, column: str, sex: bool = False) -> str:
        """Return why a column is none of numbers; empty if it is one."""
        doubt = ""
        for patient in self.rows:
            try:
                if not math.isnan(self.number(patient, column, sex)):
                    return ""
            except ValueError as error:
                cell = self.rows[patient][column].strip()
                doubt = doubt or (str(error) if cell[:1].isdigit() or cell.startswith(FORMULA) else "")
        return f"holds no number that is sure ({doubt})" if doubt else "holds no number"


def read_patients(path: Path, problems: list[Problem], left_out: bool = False) -> PatientTable:
    """Read a table with a row a patient.

    Parameters
    ----------
    path : pathlib.Path
        A table as `datasets.tables.read_rows` reads it; patients are told apart by `identity`.
    problems : list of Problem
        Gets each row that cannot be used.
    left_out : bool
        Whether a patient without a usable row is left out.

    Raises
    ------
    DataError
        If the file is unreadable, empty, or no column holds the number of a patient.
    """
    lines = read_rows(path, problems)
    if not lines:
        raise DataError(f"{path} is empty: a first row with the names of the columns is needed.")
    columns = [" ".join(cell.split()) for cell in lines[0][1]]
    key = id_column(path, columns, [cells for _, cells in lines[1:]])
    by_name: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    for number, cells in lines[1:]:
        name = identity(cells[key]) if key < len(cells) else ""
        if name and not name.startswith(FORMULA):
            by_name[name].append((number, cells))
        else:
            what = "The row names no patient."
            what = f"The row has {name}, a formula without a stored result, for a patient." if name else what
            problems.append(Problem(f"{path.name}, row {number}", what, "Fill in the cell, or remove it."))
    rows = {}
    for name, same in by_name.items():
        number, cells = same[0]
        if len(same) > 1:
            numbers = ", ".join(str(number) for number, _ in same)
            what = f"The patient occurs {len(same)} times in {path.name} (rows {numbers}); none is used."
            problems.append(Problem(name, what, "Keep one row.", left_out))
        elif any(cells[len(columns) :]):
            what = (
                f"Row {number} of {path.name} has {len(cells)} cells, but there are {len(columns)} columns."
            )
            problems.append(Problem(name, what, "Put text that holds a comma between quotes.", left_out))
        else:
            row = dict.fromkeys(columns, "") | dict(zip(columns, cells, strict=False))
            rows[name] = row | {"row": str(number)}
    return PatientTable(path.name, columns[:key] + columns[key + 1 :], rows, set(by_name))


KEPT_TOGETHER = "they are in the same part of every split"


def persons(names: Iterable[str], consequence: str, problems: list[Problem]) -> dict[str, str]:
    """Return the joint name of patients who may be one, by patient; they are named as problems."""
    groups = warn_alike(names, "patients", consequence, problems)
    return {name: "+".join(group) for group in groups for name in group}


def plain_cell(cell: str) -> str:
    """Return a cell of numbers and words in lower case, its minus the usual one."""
    return cell.strip().replace("\N{MINUS SIGN}", "-").casefold()


def clinical_number(cell: str, sex: bool = False, marks: Marks | None = None) -> float:
    """Return a cell as a number, NaN where it says that nothing is known.

    Parameters
    ----------
    cell : str
    sex : bool
        Whether words for sex are numbers, too.
    marks : Marks, optional
        What commas and points mean in its column; else what the cell itself shows.

    Raises
    ------
    ValueError
        If it is neither, or may be two numbers.
    """
    text = plain_cell(cell)
    if text in MISSING:
        return math.nan
    words = WORDS | (_SEXES if sex else {})
    if text in words:
        return words[text]
    if text.startswith(FORMULA):
        raise ValueError(f"{cell!r} is a formula without a stored result")
    value = (marks or Marks.of([text])).number(text)
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is too large")
    return value


def id_column(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return the place of the column that holds the number of a patient.

    A column without a name that holds whole numbers is an index that a program has written, and never that.

    Raises
    ------
    DataError
        If there is none, or a column comes twice.
    """
    folded = [re.sub(r"[ _-]+", "_", column.casefold()) for column in columns]
    twice = sorted({column for column, name in zip(columns, folded, strict=True) if folded.count(name) > 1})
    if [column for column in twice if column]:
        raise DataError(f"{path} has the column {twice[-1]} twice: rename or remove one.")
    named = [folded.index(name) for name in ID_COLUMNS if name in folded]
    for place in named:
        if len(named) == 1 or not counts_rows(_column(rows, place), first=0):
            return place
    if named:
        return named[0]
    unnamed = [place for place, name in enumerate(columns) if is_unnamed(name)]
    texts = [place for place in unnamed if not all(map(str.isdecimal, _column(rows, place)))]
    if texts:
        return texts[0]
    index = "; one without a name only counts rows" if any(_column(rows, place) for place in unnamed) else ""
    raise DataError(
        f"{path} has no column with the number of the patient{index}: name one IDX or id. "
        f"Its columns are: {', '.join(columns)}."
    )


def is_unnamed(column: str) -> bool:
    """Tell whether a column has no name, or the one that pandas gives such."""
    return bool(_UNNAMED.fullmatch(column.casefold()))


def _column(rows: Sequence[Sequence[str]], place: int) -> list[str]:
    """Return who is named in a column, without empty cells."""
    return [name for cells in rows if place < len(cells) and (name := identity(cells[place]))]


SYNONYMS = {
    "age": ("age", "age_years"),
    "sex": ("sex", "gender"),
    "height": ("height", "height_cm", "body_height"),
    "weight": ("weight", "weight_kg", "body_weight"),
    "systolic": ("systolic", "sbp", "sys", "systolic_bp", "systolic_pressure", "systolic_blood_pressure"),
    "diastolic": (
        "diastolic",
        "dbp",
        "dia",
        "diastolic_bp",
        "diastolic_pressure",
        "diastolic_blood_pressure",
    ),
    "bmi": ("bmi", "body_mass_index"),
    "smoking": ("smoking", "smoker", "smoke"),
    "alcohol": ("alcohol", "drinking", "drinker"),
    "activity": ("activity", "physical_activity", "exercise", "sport"),
    "heart_rate": ("heart_rate", "hr", "pulse"),
}
"""Names of columns, in lower case and joined by ``_``, that mean the same. Others keep their own name."""
_OTHERS = {"in", "inch", "inches", "ft", "feet", "m", "lb", "lbs", "pounds", "st", "stone", "months", "kpa"}
"""Units, in lower case, that are none of `PLAUSIBLE`."""
OTHER_UNITS = {"units": "stated"}
"""Choice of a table with a column in such a unit, which was once read as in the usual one."""


def in_other_unit(name: str, column: str) -> bool:
    """Tell whether a column of a usual value states another unit than the usual one: ``weight (lb)``."""
    units = re.findall(r"[(\[](.*?)[)\]]", column)
    return name in PLAUSIBLE and name != "sex" and any(unit.strip().casefold() in _OTHERS for unit in units)
