"""The table of signals, ``ecg_signals.csv``: a row a patient, the number first, then the samples of one lead.

It may be large, so it is read row by row, and a row is found again by its place in the file.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from datasets.patient_tables import ID_COLUMNS, MISSING, UNNAMED, patient_id
from datasets.recordings import MINIMUM_DURATION
from datasets.sources import DataError, Problem

LENGTH_TOLERANCE = 0.1
"""Share by which a row may be shorter or longer than the middle one of all rows."""
LARGEST_GAPS = 0.1
"""Share of samples that may be missing."""
LARGEST_MILLIVOLTS = 20.0
"""Range of the middle signal, millivolts, above which the unit of the table is doubted."""


@dataclass(frozen=True)
class SignalRows:
    """What the table of signals holds.

    Attributes
    ----------
    places : dict of str to str
        By patient, where the row of a usable signal begins, for `read_row`.
    listed : set of str
        Every patient that occurs.
    """

    places: dict[str, str]
    listed: set[str]


@dataclass(frozen=True)
class _Row:
    """A row of numbers: its line counted from 1, its place in the file, and metadata of its samples."""

    line: int
    place: str
    samples: int
    span: float


def scan_signals(path: Path, sampling_rate: float, problems: list[Problem]) -> SignalRows:
    """Read every row once, and name what cannot be used.

    Parameters
    ----------
    path : pathlib.Path
        CSV with commas, semicolons or tabs, UTF-8 or UTF-16, with or without a first row of names.
    sampling_rate : float
        Hertz.
    problems : list of Problem
        Gets a warning for each row whose signal is not used: the patient may have other views.

    Raises
    ------
    DataError
        If the file is no text.
    """
    rows: dict[str, list[_Row]] = defaultdict(list)
    faults: dict[str, list[str]] = defaultdict(list)
    for line, place, cells, decimal in _lines(path):
        name, where = patient_id(cells[0]), f"{path.name}, line {line}"
        if not name:
            problems.append(Problem(where, "The row names no patient.", "Fill in the cell, or remove it."))
            continue
        try:
            samples = _checked(cells[1:], decimal, sampling_rate)
            rows[name].append(_Row(line, place, len(samples), float(np.ptp(samples[~np.isnan(samples)]))))
        except ValueError as error:
            rows[name].append(_Row(line, "", 0, 0.0))
            faults[name].append(f"{error} (line {line}).")
    problems += _warnings(path, rows)
    return SignalRows(_usable(path, rows, faults, problems), set(rows))


def read_row(path: Path, name: str, place: str) -> NDArray[np.float64]:
    """Return the samples of a patient, whose row begins at a place, shape (T,); NaN where a cell is empty.

    Raises
    ------
    DataError
        If the row is no longer there.
    """
    with _opened(path) as (file, delimiter):
        file.seek(int(place))
        cells = _split(file.readline(), delimiter)
    try:
        if patient_id(cells[0] if cells else "") == name:
            return _numbers(cells[1:], delimiter != ",")
    except ValueError:
        pass
    raise DataError(f"{path.name} has changed since it was checked: start again.")


def _usable(
    path: Path, rows: dict[str, list[_Row]], faults: dict[str, list[str]], problems: list[Problem]
) -> dict[str, str]:
    """Return the places of the signals that can be used; name the others."""
    lengths = sorted(row.samples for same in rows.values() for row in same if row.place)
    middle = lengths[len(lengths) // 2] if lengths else 0
    places = {}
    for name, same in rows.items():
        row = same[0]
        what = " ".join(faults[name])
        if len(same) > 1:
            lines = ", ".join(str(one.line) for one in same)
            what += f" The patient occurs {len(same)} times (lines {lines})."
        elif row.place and abs(row.samples - middle) > LENGTH_TOLERANCE * middle:
            what = f"The row has {row.samples} samples where {middle} are usual (line {row.line})."
        if what:
            what = f"No signal of {path.name} is used. {what.strip()}"
            problems.append(Problem(name, what, "Correct the row.", left_out=False))
        else:
            places[name] = row.place
    return places


def _warnings(path: Path, rows: dict[str, list[_Row]]) -> list[Problem]:
    """Return what is doubtful about signals that are used."""
    doubts = []
    used = [(name, row) for name, same in rows.items() for row in same if row.place]
    for name, row in used:
        if not row.span:
            what = f"Its signal is constant ({path.name}, line {row.line})."
            doubts.append(Problem(name, what, "Check the electrode; remove the row.", left_out=False))
    span = float(np.median([row.span for _, row in used])) if used else 0.0
    if span > LARGEST_MILLIVOLTS:
        what = f"The signals range over {span:g}, half of them over more: they seem not to be in millivolts."
        doubts.append(Problem(path.name, what, "Divide them by the gain.", left_out=False))
    return doubts


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[TextIO, str]]:
    """Open the table as text; give it with its delimiter."""
    with path.open("rb") as start:
        utf16 = start.read(2) in (b"\xff\xfe", b"\xfe\xff")
    try:
        with path.open(encoding="utf-16" if utf16 else "utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            yield file, next((mark for mark in ";\t" if mark in first), ",")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as CSV UTF-8.") from error


def _lines(path: Path) -> Iterator[tuple[int, str, list[str], bool]]:
    """Return number, place, cells, and whether commas are decimal, of each row that is not empty."""
    with _opened(path) as (file, delimiter):
        number, place = 1, file.tell()
        while line := file.readline():
            cells = _split(line, delimiter)
            if any(cells) and not (number == 1 and _is_head(cells, delimiter != ",")):
                yield number, str(place), cells, delimiter != ","
            number, place = number + 1, file.tell()


def _split(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line, without quotes, and without the empty ones that fill a table up."""
    cells = [cell.strip() for cell in line.replace('"', "").split(delimiter)]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _is_head(cells: list[str], decimal: bool) -> bool:
    """Tell whether a first row holds names."""
    if cells[0].casefold() in (*ID_COLUMNS, *UNNAMED):
        return True
    return len(cells) > 1 and all(_is_word(cell, decimal) for cell in cells[1:])


def _is_word(cell: str, decimal: bool) -> bool:
    try:
        _number(cell, decimal)
    except ValueError:
        return True
    return False


def _checked(cells: list[str], decimal: bool, sampling_rate: float) -> NDArray[np.float64]:
    """Return the samples of a row; a ValueError says why they cannot be used."""
    samples = _numbers(cells, decimal)
    if len(samples) < MINIMUM_DURATION * sampling_rate:
        raise ValueError(f"{len(samples)} samples are less than {MINIMUM_DURATION:g} s")
    gaps = float(np.isnan(samples).mean())
    if gaps > LARGEST_GAPS:
        raise ValueError(f"{gaps:.0%} of its samples are missing")
    return samples


def _numbers(cells: list[str], decimal: bool) -> NDArray[np.float64]:
    """Return cells as numbers, NaN where empty; a ValueError names the first that is none."""
    samples = np.empty(len(cells))
    for column, cell in enumerate(cells):
        try:
            samples[column] = _number(cell, decimal)
        except ValueError:
            raise ValueError(f"{cell[:20]!r} in column {column + 2} is no number") from None
    return samples


def _number(cell: str, decimal: bool) -> float:
    """Return a cell as a number; ``decimal``: a comma is a decimal point."""
    try:
        value = float(cell)
    except ValueError:
        if cell.casefold() in MISSING:
            return math.nan
        value = float(cell.replace(",", ".") if decimal else cell)
    if math.isinf(value) or "_" in cell:
        raise ValueError("not finite")
    return value
