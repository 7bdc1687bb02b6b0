"""Tables of patients as spreadsheets and scripts write them: clinical values and labels, in Excel or CSV."""

from __future__ import annotations

import math
import re
import unicodedata
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from datasets.labels import _cells
from datasets.sources import DataError, Problem

ENDINGS = (".xlsx", ".csv")
ID_COLUMNS = ("idx", "id", "patient_id", "patientid", "patient", "index", "number", "no", "nr", "recording")
"""Names of the column that holds the number of a patient, the likeliest first."""
UNNAMED = ("", "unnamed: 0")
MISSING = ("", "-", "--", "?", "na", "n/a", "#n/a", "nan", "none", "null", "unknown", "missing", "nd")
"""Cells, in lower case, that say that a value is not known."""
WORDS = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0, "y": 1.0, "n": 0.0}
SEXES = {"m": 0.0, "male": 0.0, "man": 0.0, "f": 1.0, "female": 1.0, "woman": 1.0, "w": 1.0}


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


def find_table(root: Path, stem: str, problems: list[Problem]) -> Path | None:
    """Return ``stem``.xlsx or ``stem``.csv, in upper or lower case; where both are there, the first."""
    found = {path.name.casefold(): path for path in root.iterdir() if path.is_file()}
    paths = [found[stem + ending] for ending in ENDINGS if stem + ending in found]
    if len(paths) > 1:
        what = f"There is also {paths[1].name}; {paths[0].name} is read."
        problems.append(Problem(paths[1].name, what, "Remove one of the two.", left_out=False))
    return paths[0] if paths else None


def read_patients(path: Path, problems: list[Problem], left_out: bool = False) -> PatientTable:
    """Read a table with a row a patient.

    Parameters
    ----------
    path : pathlib.Path
        ``.xlsx`` (its first sheet) or ``.csv`` (commas, semicolons or tabs; UTF-8 or UTF-16).
    problems : list of Problem
        Gets each row that cannot be used.
    left_out : bool
        Whether a patient without a usable row is left out.

    Raises
    ------
    DataError
        If the file is unreadable, empty, or no column holds the number of a patient.
    """
    lines = _excel_cells(path) if path.suffix.lower() == ".xlsx" else _cells(path)
    if not lines:
        raise DataError(f"{path} is empty: a first row with the names of the columns is needed.")
    columns = [" ".join(cell.split()) for cell in lines[0][1]]
    key = _id_column(path, columns)
    by_name: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
    for number, cells in lines[1:]:
        name = patient_id(cells[key]) if key < len(cells) else ""
        if name:
            by_name[name].append((number, cells))
        else:
            where = f"{path.name}, row {number}"
            problems.append(Problem(where, "The row names no patient.", "Fill in the cell, or remove it."))
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


def patient_id(cell: str) -> str:
    """Return the name of a patient: 7, 007 and 7.0 are the same; text in one form, without spaces around."""
    text = " ".join(unicodedata.normalize("NFC", cell.replace("\ufeff", "")).split())
    matched = re.fullmatch(r"0*(\d+)(\.0*)?", text, re.ASCII)
    return matched[1] if matched else text


def clinical_number(cell: str, sex: bool = False) -> float:
    """Return a cell as a number, NaN where it says that nothing is known.

    Raises
    ------
    ValueError
        If it is neither.
    """
    text = cell.strip().replace("\N{MINUS SIGN}", "-").casefold()
    if text in MISSING:
        return math.nan
    words = WORDS | (SEXES if sex else {})
    if text in words:
        return words[text]
    if not re.fullmatch(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", text, re.ASCII):
        raise ValueError(f"{cell!r} is no number")
    value = float(text.replace(",", "."))
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is too large")
    return value


def _id_column(path: Path, columns: list[str]) -> int:
    """Return the place of the column that holds the number of a patient."""
    folded = [re.sub(r"[ _-]+", "_", column.casefold()) for column in columns]
    plain = [column.casefold() for column in columns]
    named = [folded.index(name) for name in ID_COLUMNS if name in folded]
    named += [plain.index(name) for name in UNNAMED if name in plain]
    twice = sorted({column for column, name in zip(columns, folded, strict=True) if folded.count(name) > 1})
    if not named:
        raise DataError(
            f"{path} has no column with the number of the patient: name one IDX or id. "
            f"Its columns are: {', '.join(columns)}."
        )
    if [column for column in twice if column]:
        raise DataError(f"{path} has the column {twice[-1]} twice: rename or remove one.")
    return named[0]


def _excel_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and cells, as text, of each row of the first sheet that is not empty."""
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            table = [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
        finally:
            book.close()
    except (InvalidFileException, zipfile.BadZipFile, KeyError, IndexError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as an Excel table ({error}): save it again.") from error
    width = max((number for row in table for number, cell in enumerate(row, start=1) if cell), default=0)
    rows = [(number, row[:width]) for number, row in enumerate(table, start=1)]
    return [(number, cells) for number, cells in rows if any(cells)]


def _text(cell: object) -> str:
    """Return what Excel keeps in a cell as one would type it: 7.0 is 7."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    return cell.isoformat() if isinstance(cell, date) else unicodedata.normalize("NFC", str(cell)).strip()
