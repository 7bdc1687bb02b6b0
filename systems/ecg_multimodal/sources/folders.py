"""Index one's own patients: a folder of pictures, a table of signals, of clinical values, and of labels.

::

    images/<id>/<id as three digits>ECG_lead2.jpg    lead II on grid paper, as scanned
    ecg_signals.csv                                  a row a patient: id, then lead II in millivolts
    clinical.xlsx or clinical.csv                    a row a patient: IDX, then numbers
    labels.xlsx or labels.csv                        a row a patient: index, label

A patient needs one view and, to be learned from, a label. Whatever does not fit is named in one table of
problems; the rest is used.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath

from datasets.identity import MISSING, identity, said_none
from datasets.patients import (
    KEPT_TOGETHER,
    OTHER_UNITS,
    PATIENT_COLUMNS,
    SYNONYMS,
    TARGET,
    THREE_CLASSES,
    UNLABELLED,
    PatientIndex,
    PatientTable,
    by_patient,
    in_other_unit,
    index_tables,
    persons,
    plausible_values,
    read_patients,
    require_some,
)
from datasets.simulated import SIMULATION
from datasets.sources import LABELS, DataError, Problem, plain_number
from datasets.tables import REREAD, find_entry, find_table
from systems.ecg_multimodal.sources.ecg_image import read_ecg_image
from systems.ecg_multimodal.sources.modalities import SignalRows, scan_signals

IMAGES, SIGNALS, CLINICAL, _LABELS_TABLE = "images", "ecg_signals.csv", "clinical", "labels"
_CHECKED_HEIGHT = 64
"""Pixels of height at which a picture is checked."""
_PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_BORDERLINE = "borderline"
_LABEL_COLUMNS = ("label", "labels", "class", "result", "target", "ecg_label")
_GIVEAWAYS = (*_LABEL_COLUMNS, "diagnosis", "row")
"""Columns that are never taken for clinical values: they tell the label, or nothing."""
_USUAL = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms}
_NO_IMAGE = " It has no image."
_MOST_CLASSES = 20
"""Different cells of a column of the table of labels above which it names no classes."""
_EMPTY_TABLE = PatientTable("", [], {}, set())


def index_patient_folders(
    root: Path, signal_rate: float = 250.0, *, labelled: bool = True, keep_unlabelled: bool = False
) -> PatientIndex:
    """Index and check one's own patients.

    Parameters
    ----------
    root : pathlib.Path
    signal_rate : float
        Sampling rate of ``ecg_signals.csv``, hertz.
    labelled : bool
        Whether a label is needed; else a table of labels is not read, and everyone counts of whom there is
        anything, usable or not.
    keep_unlabelled : bool
        Whether patients in the table of labels who are neither normal nor abnormal are kept, as `UNLABELLED`.

    Returns
    -------
    PatientIndex
        Every patient with a label and at least one view, and a problem for each mismatch of ids, unreadable
        picture, faulty row and impossible value.

    Raises
    ------
    DataError
        If there is no table of labels where one is needed, or a table cannot be read at all.
    """
    if signal_rate <= 0:
        raise ValueError(f"The sampling rate is {signal_rate}; hertz are needed.")
    problems: list[Problem] = []
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    labels, files = _table(root, _LABELS_TABLE, problems) if labelled else (_EMPTY_TABLE, [])
    if labelled and not labels.name:
        raise DataError(f"{root} has no labels.xlsx or labels.csv, with the columns index and label.")
    known = _labels(labels, keep_unlabelled, problems) if labelled else {}
    targets = _targets(labels, keep_unlabelled, problems)
    of_view: dict[str, list[Problem]] = {view: [] for view in ("clinical", "signal", "image")}
    clinical, clinical_files = _table(root, CLINICAL, of_view["clinical"])
    values, columns = _clinical(clinical, of_view["clinical"])
    signals = SignalRows({}, set())
    signal_table = find_table(root, PurePath(SIGNALS).stem, of_view["signal"], (".csv",))
    if signal_table is not None:
        signals = scan_signals(signal_table, signal_rate, of_view["signal"])
    signal_name = signal_table.name if signal_table else ""
    images, folders, loose = _images(root, of_view["image"])
    problems += [problem for found in of_view.values() for problem in found]
    given = {"image": folders, "signal": signals.listed, "clinical": clinical.listed}
    everyone = set[str]().union(*given.values(), labels.listed)
    together = persons(everyone, KEPT_TOGETHER if labelled else "they count as several", problems)
    if labelled:
        names = (IMAGES, SIGNALS, clinical.name or CLINICAL)
        listed = dict(zip(names, given.values(), strict=True)) | {labels.name: labels.listed}
        problems += _mismatches(listed, labels.name)
        views = (images, signals.places, values)
        known = {name: label for name, label in known.items() if _has_view(name, views, problems)}
    else:
        problems += _empty_tables({clinical.name: clinical.listed, signal_name: signals.listed})
        given["image"] = folders | (set(loose) & everyone)
        of_view["image"] += [problem for name, problem in loose.items() if name in everyone - folders]
        known = dict.fromkeys(sorted(everyone, key=_natural), UNLABELLED)
    places = {name: f"{signal_name}@{place}" for name, place in signals.places.items()}
    rows = [
        _row(name, label, images.get(name, ""), places.get(name, ""), labels)
        | {column: classes.get(name, "") for column, classes in targets.items()}
        | {"person": together.get(name, name)}
        for name, label in known.items()
    ]
    require_some(rows, problems, root)
    usable: dict[str, Collection[str]] = {
        "image": images,
        "signal": signals.places,
        "clinical": clinical.rows,
    }
    table, clinical_table = index_tables(PATIENT_COLUMNS, rows, values, columns)
    files = [*files, *clinical_files, *([signal_name] if signals.listed else [])]
    return PatientIndex(
        "patients",
        root,
        table,
        problems,
        {"patients": "person"},
        files,
        {"signal_rate": f"{signal_rate:g}"}
        | ({"unlabelled": "keep"} if keep_unlabelled else {})
        | (REREAD if together or clinical.reread or signals.reread else {})
        | (OTHER_UNITS if _in_other_units(clinical) else {}),
        clinical_table,
        ("II",),
        signal_rate,
        simulated=(root / SIMULATION).is_file(),
        unusable=_unusable(given, usable, of_view),
        warnings={view: by_patient(found) for view, found in of_view.items()},
    )


def _empty_tables(listed: Mapping[str, Collection[str]]) -> list[Problem]:
    """Warn of tables, by name, that list nobody; an absent table has no name."""
    return [
        Problem(name, "It names no patient.", "Fill it in, or remove it.", False)
        for name, patients in listed.items()
        if name and not patients
    ]


def _unusable(
    given: Mapping[str, set[str]], usable: Mapping[str, Collection[str]], said: Mapping[str, list[Problem]]
) -> dict[str, dict[str, str]]:
    """Return by view and patient why what was given of a view cannot be used."""
    reasons = {view: by_patient(found) for view, found in said.items()}
    return {
        view: {
            name: " ".join(reasons[view].get(name, [])).removesuffix(_NO_IMAGE)
            for name in given[view] - set(usable[view])
        }
        for view in given
    }


def _table(root: Path, stem: str, problems: list[Problem]) -> tuple[PatientTable, list[str]]:
    """Return a table and its file; an empty one where there is none."""
    path = find_table(root, stem, problems)
    if path is None:
        return _EMPTY_TABLE, []
    return read_patients(path, problems, left_out=stem == _LABELS_TABLE), [path.name]


def _folded(name: str) -> str:
    """Return the name of a column in lower case, without unit in brackets, joined by ``_``."""
    plain = re.sub(r"[(\[].*?[)\]]", "", name).strip().casefold()
    return re.sub(r"[^\w]+", "_", plain).strip("_")


# Labels ---------------------------------------------------------------------------------------------


def _labels(table: PatientTable, keep_unlabelled: bool, problems: list[Problem]) -> dict[str, int]:
    """Return 0 or 1 for each patient who is normal or abnormal; name the others, or keep them."""
    cells = _label_cells(table)
    if not _label_column(table) and not keep_unlabelled:
        raise DataError(
            f"{table.name} has no column label; its columns are: {', '.join(table.columns)}. To learn from "
            "another column alone, prepare with --unlabelled keep."
        )
    if {"-1", "0"} <= set(cells.values()):
        raise DataError(
            f"The labels of {table.name} are ambiguous: both -1 and 0 occur. Write them as words."
        )
    if keep_unlabelled:
        return {name: LABELS.get(cells.get(name, ""), UNLABELLED) for name in table.rows}
    for name, cell in cells.items():
        where = f"row {table.rows[name]['row']} of {table.name}"
        if cell == _BORDERLINE:
            remedy = "Nothing: such patients are left out, unless --unlabelled keep is given."
            problems.append(Problem(name, "The label is borderline.", remedy))
        elif cell not in LABELS:
            what = f"The label {table.rows[name][_label_column(table)]!r} ({where}) is not known."
            problems.append(Problem(name, what, "Use normal, abnormal or borderline."))
    return {name: LABELS[cell] for name, cell in cells.items() if cell in LABELS}


def _label_column(table: PatientTable) -> str:
    """Return the column that says who is normal; empty where there is none."""
    named = {_folded(column): column for column in reversed(table.columns)}
    return next((named[name] for name in _LABEL_COLUMNS if name in named), "")


def _label_cells(table: PatientTable) -> dict[str, str]:
    """Return the label of each patient in lower case; nothing where there is no such column."""
    column = _label_column(table)
    return _cells(table, column) if column else {}


def _targets(
    table: PatientTable, keep_unlabelled: bool, problems: list[Problem]
) -> dict[str, dict[str, str]]:
    """Return by column of the index the classes of patients, from each column that names some classes.

    The label is one where it has other words than normal, abnormal and borderline.
    """
    names = {code: name for name, code in LABELS.items() if name in THREE_CLASSES}
    cells = _label_cells(table)
    three = {name: names[LABELS[cell]] if cell in LABELS else cell for name, cell in cells.items()}
    columns = {column: _cells(table, column) for column in table.columns if column != _label_column(table)}
    if not set(three.values()) <= {*THREE_CLASSES, *MISSING}:
        columns["label"] = cells
    elif keep_unlabelled:
        columns["three_classes"] = three
    found = {}
    for column, of_patient in columns.items():
        known = {name: cell for name, cell in of_patient.items() if cell not in MISSING}
        if 2 <= len(set(known.values())) <= _MOST_CLASSES:
            found[TARGET + _folded(column)] = known
            problems += said_none(table.name, column, of_patient.values())
    return found


def _cells(table: PatientTable, column: str) -> dict[str, str]:
    """Return the cell of each patient in a column, in lower case."""
    return {name: plain_number(row[column]) for name, row in table.rows.items()}


# Clinical values ------------------------------------------------------------------------------------


def _clinical(table: PatientTable, problems: list[Problem]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return the values of each patient, and their names."""
    columns = _value_columns(table, problems)
    values = {}
    for patient, row in table.rows.items():
        found = {}
        for name, column in columns.items():
            try:
                found[name] = table.number(patient, column, sex=name == "sex")
            except ValueError as error:
                what = f"The {column} {error} (row {row['row']} of {table.name}); it counts as missing."
                problems.append(Problem(patient, what, "Correct the cell.", left_out=False))
        values[patient] = plausible_values(found, patient, problems)
    return values, list(columns)


def _in_other_units(table: PatientTable) -> bool:
    """Tell whether a column of a usual value states another unit than the usual one."""
    return any(in_other_unit(_USUAL.get(_folded(column), ""), column) for column in table.columns)


def _value_columns(table: PatientTable, problems: list[Problem]) -> dict[str, str]:
    """Return the column of each value, by its usual name or else its own; name columns that are not used."""
    columns: dict[str, str] = {}
    for column in filter(_folded, table.columns):
        name = _USUAL.get(_folded(column), _folded(column))
        if in_other_unit(name, column):
            name = re.sub(r"\W+", "_", column.casefold()).strip("_")
        if name in _GIVEAWAYS:
            what = "tells the label"
        elif name in columns:
            what = f"repeats {columns[name]!r}"
        elif not (what := table.lacks_numbers(column, name == "sex")):
            columns[name] = column
            continue
        problems.append(
            Problem(
                table.name, f"The column {column!r} {what}; it is not used.", "Remove it.", left_out=False
            )
        )
    return columns


# Pictures -------------------------------------------------------------------------------------------


def _images(root: Path, problems: list[Problem]) -> tuple[dict[str, str], set[str], dict[str, Problem]]:
    """Return the readable picture of each patient, relative to the root, and every patient with a folder.

    And, by the patient after whom it is named, what is wrong with a picture outside of folders.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    loose: dict[str, Problem] = {}
    folder = find_entry(root, IMAGES, problems, Path.is_dir)
    for path in sorted(folder.iterdir()) if folder else []:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found[identity(path.name) or path.name].append(path)
        elif path.suffix.lower() in _PICTURES:
            what = "The picture lies in no patient's folder; it is not used."
            remedy = f"Move it to {IMAGES}/<id>/."
            problems.append(Problem(f"{IMAGES}/{path.name}", what, remedy, left_out=False))
            name = identity(re.sub(r"[ _-]*ecg_lead2$", "", path.stem, flags=re.IGNORECASE))
            loose[name] = Problem(name, f"{path.name} lies in no patient's folder.", remedy, left_out=False)
    images = {}
    for name, folders in found.items():
        try:
            images[name] = _picture(name, folders).relative_to(root).as_posix()
        except DataError as error:
            problems.append(Problem(name, f"{error}{_NO_IMAGE}", "Mend the file.", left_out=False))
    return images, set(found), loose


def _picture(name: str, folders: list[Path]) -> Path:
    """Return the picture of a patient, decoded once to see that it can be."""
    if len(folders) > 1:
        raise DataError(f"The folders {' and '.join(folder.name for folder in folders)} name one patient.")
    expected = f"{int(name):03d}ECG_lead2" if name.isdecimal() else f"{name}ECG_lead2"
    there = sorted(path for path in folders[0].iterdir() if path.suffix.lower() in _PICTURES)
    fitting = [path for path in there if identity(path.stem).casefold() == expected.casefold()]
    if not fitting:
        listed = ", ".join(path.name for path in there) or "no picture"
        raise DataError(
            f"{folders[0].parent.name}/{folders[0].name} holds {listed} where {expected}.jpg is expected."
        )
    read_ecg_image(fitting[0], _CHECKED_HEIGHT)
    return fitting[0]


# Patients -------------------------------------------------------------------------------------------


def _mismatches(listed: dict[str, set[str]], labels: str) -> list[Problem]:
    """Name each patient who is in some tables only, and each table that is absent."""
    problems = []
    tables = {name: patients for name, patients in listed.items() if patients}
    for name in sorted(set(listed) - set(tables)):
        what = f"There is no {name}, or nothing in it: no patient has this view."
        problems.append(Problem(name, what, "Add it, if there is one.", left_out=False))
    for patient in sorted(set[str]().union(*tables.values()), key=_natural):
        absent = [name for name, patients in tables.items() if patient not in patients]
        if labels in absent:
            here = ", ".join(name for name in tables if name not in absent)
            problems.append(Problem(patient, f"It is in {here}, but not in {labels}.", "Add its label."))
        elif absent:
            what = f"It is not in {', '.join(absent)}."
            problems.append(Problem(patient, what, "Add what there is; else nothing.", left_out=False))
    return problems


def _natural(name: str) -> tuple[int, int, str]:
    """Sort 2 before 10, and numbers before words."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _has_view(
    name: str,
    views: tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]],
    problems: list[Problem],
) -> bool:
    """Tell whether a patient has any view; name one who has none."""
    images, places, values = views
    known = any(not math.isnan(value) for value in values.get(name, {}).values())
    if name in images or name in places or known:
        return True
    problems.append(Problem(name, "It has a label, but no usable view.", "Add one, or remove its label."))
    return False


def _row(name: str, label: int, image: str, signal: str, labels: PatientTable) -> dict[str, object]:
    """Return the index row of one patient."""
    named = {_folded(column): column for column in reversed(labels.columns)}
    diagnosis = labels.rows[name][named["diagnosis"]] if "diagnosis" in named else ""
    return {
        "recording": name,
        "person": name,
        "label": label,
        "diagnosis": diagnosis,
        "official_fold": 0,
        "signal": signal,
        "image": image,
    }
