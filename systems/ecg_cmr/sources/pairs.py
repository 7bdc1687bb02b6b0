"""Index patients who have an ECG, a cine CMR, or both, with indicators and diseases as far as known.

One's own are listed in ``pairs.csv`` (or ``.xlsx``), a row a patient; any cell but the first may be empty::

    patient                       unique name or number
    ecg, ecg_rate                 WFDB record, or .npy (leads, T) in millivolts and its rate in hertz
    cmr, cmr_spacing              short-axis cine, NIfTI or .npy (see `cmr_files`); mm a pixel for .npy
    ed_frame                      frame of the files at end-diastole, counted from 1 (default: 1)
    long_axis, long_axis_spacing  long-axis cine
    diagnosis, official_fold      text; 1 to 10, of which 9 is for validation and 10 for test
    age, sex, height, weight      years, male or female, cm, kg
    disease_<name>                0 or 1
    class_<name>                  one of two or more classes, as text
    <name of an indicator>        a number in its unit (`systems.ecg_cmr.indicators`), such as lv_edv
    <any other name>              a number that is used only where training names it

Files are named relative to the folder of the table. ``data.json`` beside an ``.npy`` ECG ``data.npy`` may
hold ``{"sampling_rate": 500, "leads": ["I", "II", ...]}``; without it there are twelve in the usual order.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from datasets.array_files import ARRAYS
from datasets.channel_files import CHANNEL_FILES
from datasets.identity import MISSING, said_none
from datasets.patients import (
    KEPT_TOGETHER,
    OTHER_UNITS,
    SUPERCLASSES,
    SYNONYMS,
    PatientIndex,
    PatientTable,
    in_other_unit,
    index_tables,
    persons,
    plausible_values,
    read_patients,
    require_some,
)
from datasets.simulated import SIMULATION
from datasets.sources import DataError, MissingModality, Problem, SourceIndex
from datasets.tables import REREAD, find_table
from systems.ecg_cmr.indicators import KNOWN, known_name, same_unit
from systems.ecg_cmr.settings import COVARIATES
from systems.ecg_cmr.sources.cmr_files import ENDINGS

TABLE = "pairs"
DISEASE = "disease_"
CLASS = "class_"
MILLIVOLTS = "mV"
_MOST_CLASSES = 20
_ROLES = {"roles": "by name"}
"""Choice of a table whose columns another version reads otherwise: it gets a cache of its own."""
_FILES = ("ecg", "cmr", "long_axis")
_NUMBERS = {
    "ecg_rate": 0.0,
    "cmr_spacing": 0.0,
    "long_axis_spacing": 0.0,
    "ed_frame": 1.0,
    "official_fold": 0.0,
}
"""Columns that say how a file is read, and what an empty cell stands for."""
_TEXTS = ("diagnosis",)
_USUAL = {synonym: name for name in COVARIATES for synonym in SYNONYMS[name]}
_IGNORED = ("label", "comment", "remarks", "notes", "row")
_NAMES = {"ecg": "ECG", "cmr": "cine", "long_axis": "long axis"}


NOT_GIVEN = "Add the file, if there is one."
"""Remedy where the table of pairs leaves a cell empty, which it may."""
_COLUMNS = {
    "recording": str,  # unique name
    "person": str,  # who was recorded; never shared between train and test
    "label": int,  # 0: the tasks have none
    "diagnosis": str,  # as the source names it; empty: unknown
    "official_fold": int,  # fold that the source assigns; 0: none
    "ecg": str,  # WFDB header or array; empty: none
    "cine": str,  # short axis; empty: none
    "ecg_rate": float,  # hertz of an array that does not state it; 0: unknown
    "cmr_spacing": float,  # mm a pixel of an array; 0: as the file says
    "long_axis": str,  # long-axis cine; empty: none
    "long_axis_spacing": float,
    "first_frame": int,  # frame of the files at end-diastole, from 0
}
"""Columns of the index; paths are relative to the root, with forward slashes."""


@dataclass(frozen=True)
class PairIndex(SourceIndex):
    """Patients with ECG and cine, before anything is decoded.

    Attributes
    ----------
    recordings : pandas.DataFrame
        One row a patient, columns `_COLUMNS`, sorted by recording.
    targets : pandas.DataFrame
        ``recording``, in the same order, then all columns of the kinds below, NaN where missing.
    indicators, diseases, covariates : tuple of str
    classes : dict of str to tuple of str
        By column its classes, of which the targets hold the number, from 0.
    others : tuple of str
        Columns of numbers that are none of these.
    ecg_unit : str
        mV, or z-score where nothing brings the signals back to millivolts.
    restricted : bool
        Whether the licence forbids to pass on what is said of a single patient.
    ceilings : dict of str to float
        Share of the variance of each indicator that an ECG can explain; of simulated patients only.

    The other attributes are those of `datasets.sources.SourceIndex`.
    """

    targets: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["recording"]))
    indicators: tuple[str, ...] = ()
    diseases: tuple[str, ...] = ()
    covariates: tuple[str, ...] = COVARIATES
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    ecg_unit: str = MILLIVOLTS
    restricted: bool = False
    ceilings: dict[str, float] = field(default_factory=dict)


def pair_row(name: str, **known: Any) -> dict[str, Any]:
    """Return the index row of a patient, all of whom is empty that is not given."""
    return {column: kind() for column, kind in _COLUMNS.items()} | {"recording": name, "person": name} | known


def target_tables(
    rows: list[dict[str, Any]], values: dict[str, dict[str, float]], kinds: Iterable[Sequence[str]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index table and that of the targets, sorted by recording; columns in the order of kinds."""
    return index_tables(_COLUMNS, rows, values, [name for kind in kinds for name in kind])


def index_pairs(root: Path) -> PairIndex:
    """Index and check one's own pairs.

    A patient with one of the two is kept: for the stages that read that one alone. Faults within files are
    found when they are prepared (`systems.ecg_cmr.prepare.PairCache`).

    Raises
    ------
    DataError
        If there is no table of pairs, or nothing in it can be used.
    """
    problems: list[Problem] = []
    path = find_table(root, TABLE, problems) if root.is_dir() else None
    if path is None:
        raise DataError(f"{root} has no {TABLE}.csv with the columns patient, ecg and cmr.")
    table = read_patients(path, problems, left_out=True)
    columns = _roles(table, problems)
    classes = _classes(columns, table, problems)
    kinds = _kinds(columns, table, problems)
    rows, values = [], {}
    together = persons(table.listed, KEPT_TOGETHER, problems)
    for name in table.rows:
        row = _row(name, table, columns, root, problems)
        if row is not None:
            rows.append(row | {"person": together.get(name, name)})
            values[name] = _values(name, table, columns, kinds, problems)
            values[name] |= _class_numbers(name, table, columns, classes)
    require_some(rows, problems, root)
    recordings, targets = target_tables(rows, values, (*kinds[:3], tuple(classes), kinds[3]))
    simulation = _simulation(root)
    return PairIndex(
        "pairs",
        root,
        recordings,
        problems,
        {"pairs": "person"},
        [table.name],
        (REREAD if together or table.reread else {})
        | (_ROLES if classes or _renamed(columns) else {})
        | (OTHER_UNITS if _in_other_units(columns.values()) else {}),
        targets,
        simulated=simulation is not None,
        indicators=kinds[0],
        diseases=kinds[1],
        covariates=kinds[2],
        classes=classes,
        others=kinds[3],
        ceilings=(simulation or {}).get("ceilings", {}),
    )


def _simulation(root: Path) -> dict[str, Any] | None:
    """Return what is said of simulated patients; None where patients are real."""
    path = root / SIMULATION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # whatever it says, it is there
        content = None
    return content if isinstance(content, dict) else {}


# Columns --------------------------------------------------------------------------------------------


def _plain(column: str) -> str:
    """Return the name of a column in lower case, words joined by ``_``, without a unit in brackets."""
    return re.sub(r"[\s-]+", "_", re.sub(r"[(\[].*?[)\]]", "", column).strip()).casefold()


def _roles(table: PatientTable, problems: list[Problem]) -> dict[str, str]:
    """Return by role or own name the column of the file; name those that come twice."""
    columns: dict[str, str] = {}
    for column in filter(str.strip, table.columns):
        name = role_of(column)
        if name in columns:
            what = f"The column {column!r} repeats {columns[name]!r}; it is not used."
            problems.append(Problem(table.name, what, "Remove one of the two.", left_out=False))
        elif name not in _IGNORED:
            columns[name] = column
    if not {"ecg", "cmr"} & set(columns):
        named = ", ".join(table.columns)
        raise DataError(f"{table.name} has neither a column ecg nor a column cmr; its columns are: {named}.")
    return columns


def role_of(column: str) -> str:
    """Return the role, covariate or indicator that a column is by its name and unit, or else its name."""
    plain = _plain(column)
    if plain in {*_FILES, *_NUMBERS, *_TEXTS, *_IGNORED} or plain.startswith((DISEASE, CLASS)):
        return plain
    if plain in _USUAL:
        return column if in_other_unit(_USUAL[plain], column) else _USUAL[plain]
    name, unit = known_name(plain), re.search(r"[(\[](.*?)[)\]]", column)
    return name if name and same_unit(unit[1] if unit else "", name) else column


def _in_other_units(columns: Iterable[str]) -> bool:
    """Tell whether a column of a covariate states another unit than the usual one."""
    return any(in_other_unit(_USUAL.get(_plain(column), ""), column) for column in columns)


def _renamed(columns: dict[str, str]) -> bool:
    """Tell whether an indicator has another name than its column."""
    return any(name in KNOWN and name != column for name, column in columns.items())


def _classes(
    columns: dict[str, str], table: PatientTable, problems: list[Problem]
) -> dict[str, tuple[str, ...]]:
    """Return by column the classes in it, sorted; a column of one class, or of very many, is not used."""
    found = {}
    for name in [name for name in columns if name.startswith(CLASS)]:
        cells = [row[columns[name]] for row in table.rows.values()]
        labels = tuple(sorted(cell for cell in {*cells} if cell.casefold() not in MISSING))
        problems += said_none(table.name, columns[name], cells)
        if 2 <= len(labels) <= _MOST_CLASSES:
            found[name] = labels
            continue
        what = f"The column {columns[name]!r} holds {len(labels)} classes, and 2 to {_MOST_CLASSES} can be "
        problems.append(Problem(table.name, f"{what}learned; it is not used.", "Correct it.", left_out=False))
    return found


def _class_numbers(
    patient: str, table: PatientTable, columns: dict[str, str], classes: dict[str, tuple[str, ...]]
) -> dict[str, float]:
    """Return by column the number of a patient's class, NaN where it is not known."""
    cells = {name: table.rows[patient][columns[name]] for name in classes}
    return {
        name: float(classes[name].index(cell)) if cell in classes[name] else math.nan
        for name, cell in cells.items()
    }


def _kinds(
    columns: dict[str, str], table: PatientTable, problems: list[Problem]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the names of indicators, diseases, covariates and other columns that hold a number."""
    requested = [
        name for name in columns if name not in (*_FILES, *_NUMBERS, *_TEXTS) and not name.startswith(CLASS)
    ]
    found = []
    for name in requested:
        lacking = table.lacks_numbers(columns[name], name == "sex")
        if not lacking:
            found.append(name)
            continue
        what = f"The column {columns[name]!r} {lacking}; it is not used."
        problems.append(Problem(table.name, what, "Fill it in, or remove it.", left_out=False))
    diseases = tuple(name for name in found if name.startswith(DISEASE))
    covariates = tuple(name for name in COVARIATES if name in found)
    indicators = tuple(name for name in found if name in KNOWN)
    others = tuple(name for name in found if name not in {*diseases, *covariates, *indicators})
    return indicators, diseases, covariates, others


def _number(patient: str, name: str, column: str, table: PatientTable, problems: list[Problem]) -> float:
    """Return a cell as a number, NaN where it is empty or, as a problem, none."""
    try:
        return table.number(patient, column, name == "sex")
    except ValueError as error:
        what = f"The {name} {error} ({table.name}); it counts as missing."
        problems.append(Problem(patient, what, "Correct the cell.", left_out=False))
        return math.nan


def _values(
    patient: str,
    table: PatientTable,
    columns: dict[str, str],
    kinds: tuple[tuple[str, ...], ...],
    problems: list[Problem],
) -> dict[str, float]:
    """Return what is known of a patient besides the files."""
    requested = [name for kind in kinds for name in kind]
    values = {name: _number(patient, name, columns[name], table, problems) for name in requested}
    for name in kinds[1]:
        if not math.isnan(values[name]) and values[name] not in (0.0, 1.0):
            what = f"The {name} is {values[name]:g}, neither 0 nor 1; it counts as missing."
            problems.append(Problem(patient, what, "Correct the cell.", left_out=False))
            values[name] = math.nan
    for name in kinds[0]:
        kind = KNOWN[name]
        if not math.isnan(values[name]) and not kind.low <= values[name] <= kind.high:
            allowed = f"{kind.low:g} to {kind.high:g} {kind.unit}".strip()
            what = f"The {name} {values[name]:g} is not possible ({allowed}); it counts as missing."
            problems.append(Problem(patient, what, "Correct the cell.", left_out=False))
            values[name] = math.nan
    covariates = {name: values[name] for name in (*kinds[2], *kinds[3])}
    return values | plausible_values(covariates, patient, problems)


# Files ----------------------------------------------------------------------------------------------


def _row(
    patient: str, table: PatientTable, columns: dict[str, str], root: Path, problems: list[Problem]
) -> dict[str, Any] | None:
    """Return the index row of a patient; None, and a problem, for one without any usable file."""
    cells, numbers = table.rows[patient], {}
    for name, usual in _NUMBERS.items():
        value = _number(patient, name, columns[name], table, problems) if name in columns else math.nan
        if not math.isnan(value) and (value < 0 or (name == "official_fold" and value not in range(11))):
            what = f"The {name} {value:g} is not possible; it counts as missing."
            problems.append(Problem(patient, what, "Correct the cell.", left_out=False))
            value = math.nan
        numbers[name] = usual if math.isnan(value) else value
    find: dict[str, Callable[[Path, str], str]] = {
        "ecg": _ecg_file,
        "cmr": _cine_file,
        "long_axis": _cine_file,
    }
    files, reasons, absent = dict.fromkeys(_FILES, ""), list[str](), list[MissingModality]()
    for modality in _FILES:
        cell = cells[columns[modality]] if modality in columns else ""
        given = cell.casefold() not in MISSING
        try:
            files[modality] = find[modality](root, cell) if given else ""
            lacking = "" if files[modality] or modality == "long_axis" else f"It has no {_NAMES[modality]}."
        except DataError as error:
            lacking = str(error)
        if lacking:
            what = f"{lacking} It is used without {_NAMES[modality]}."
            remedy = "Correct the cell, or add the file." if given else NOT_GIVEN
            absent.append(MissingModality(patient, what, remedy, left_out=given))
            reasons.append(lacking)
    if not files["ecg"] and not files["cmr"]:
        what = f"{' '.join(reasons)} Nothing of it can be used."
        problems.append(Problem(patient, what, "Add a file, or remove the row."))
        return None
    problems += absent
    return pair_row(
        patient,
        diagnosis=cells[columns["diagnosis"]] if "diagnosis" in columns else "",
        official_fold=int(numbers["official_fold"]),
        ecg=files["ecg"],
        cine=files["cmr"],
        long_axis=files["long_axis"],
        first_frame=max(int(numbers["ed_frame"]) - 1, 0),
        **{name: numbers[name] for name in ("ecg_rate", "cmr_spacing", "long_axis_spacing")},
    )


def _inside(root: Path, cell: str) -> str:
    """Return a path relative to the root, with forward slashes; refuse one that leads out of it."""
    name = cell.replace("\\", "/").removeprefix("./")
    path = root / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"The file {cell!r} is outside the folder of the table.")
    return name


def _ecg_file(root: Path, cell: str) -> str:
    """Return the header of a WFDB record, or an array file, relative to the root.

    Raises
    ------
    DataError
        If it does not exist, or lies outside the root.
    """
    name = _inside(root, cell)
    if PurePosixPath(name).suffix.lower() not in (*CHANNEL_FILES, *ARRAYS):
        name = name.removesuffix(".dat").removesuffix(".hea") + ".hea"
    if not (root / name).is_file():
        raise DataError(f"The ECG {cell!r} does not exist.")
    return name


def _cine_file(root: Path, cell: str) -> str:
    """Return the file of a cine, relative to the root.

    Raises
    ------
    DataError
        If it does not exist, lies outside the root, or is of another kind.
    """
    name = _inside(root, cell)
    if not name.lower().endswith(ENDINGS):
        raise DataError(f"The cine {cell!r} is neither NIfTI (.nii, .nii.gz) nor NumPy (.npy).")
    if not (root / name).is_file():
        raise DataError(f"The cine {cell!r} does not exist.")
    return name


# Other sources --------------------------------------------------------------------------------------


def ecg_only(index: PatientIndex) -> PairIndex:
    """Return the patients of another source, such as PTB-XL, as patients without a cine.

    Its superclasses become diseases. The folds that the source assigns stay. Its patients are named after
    the source as well: a number alone may be that of somebody else in another source.

    Raises
    ------
    DataError
        If its ECGs are no WFDB records.
    """
    if not index.recordings["signal"].str.endswith(".hea").all():
        raise DataError(f"The ECGs of {index.name} are no WFDB records: list them in a table of pairs.")
    superclasses = [name for name in SUPERCLASSES if name in index.recordings and name != "NORM"]
    diseases = tuple(DISEASE + name for name in superclasses)
    covariates = tuple(name for name in COVARIATES if name in index.clinical)
    rows = [
        pair_row(
            row["recording"],
            person=f"{index.name}-{row['person']}",
            **{name: row[name] for name in ("diagnosis", "official_fold")},
            ecg=row["signal"],
            ecg_rate=index.signal_rate,
        )
        for row in index.recordings.to_dict("records")
    ]
    targets = index.clinical[["recording", *covariates]].copy()
    for position, (disease, name) in enumerate(zip(diseases, superclasses, strict=True), start=1):
        targets.insert(position, disease, index.recordings[name].astype(float))
    return PairIndex(
        f"{index.name}-ecg",
        index.root,
        pd.DataFrame(rows),
        index.problems,
        index.session_unit,
        index.files,
        index.choices,
        targets,
        simulated=index.simulated,
        diseases=diseases,
        covariates=covariates,
    )
