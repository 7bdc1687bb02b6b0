"""Read the table of labels of one's own cohort, ``labels.csv``, as spreadsheets and scripts write it."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from datasets.sources import DataError, Problem

COLUMNS = ("recording", "session", "person", "label", "diagnosis", "site", "quality", "annotation")
LABELS = {"normal": 0, "abnormal": 1, "-1": 0, "0": 0, "1": 1}
QUALITIES = {"": 1, "good": 1, "1": 1, "unsure": 0, "0": 0}


@dataclass(frozen=True)
class LabelsTable:
    """What ``labels.csv`` says.

    Attributes
    ----------
    columns : list of str
        Columns that the file has, in lower case.
    rows : dict of str to dict of str to str
        By recording: a cell for each of `COLUMNS` (empty where the file has none), and ``row``, its
        number in the file counted from 1. Recordings that occur once only.
    listed : set of str
        Every recording that occurs.
    problems : list of Problem
        Rows that are left out.
    """

    columns: list[str]
    rows: dict[str, dict[str, str]]
    listed: set[str]
    problems: list[Problem]


def read_labels(path: Path) -> LabelsTable:
    """Read the table: commas, semicolons or tabs; with or without byte order mark; any line ends.

    Raises
    ------
    DataError
        If the file is absent or unreadable, lacks a column, or its labels are ambiguous.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: a cohort needs this table (docs/data.md has an example).")
    lines = _cells(path)
    columns = [cell.lower() for cell in lines[0][1]] if lines else []
    _check_columns(path, columns)
    problems: list[Problem] = []
    rows = []
    for number, cells in lines[1:]:
        row = dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells, strict=False))
        row |= {"recording": record_name(row["recording"]), "row": str(number)}
        where = f"{path.name}, row {number}"
        if any(cells[len(columns) :]):
            what = f"The row has {len(cells)} cells, but there are {len(columns)} columns."
            problems.append(Problem(where, what, "Put text that holds a comma between quotes."))
        elif not row["recording"]:
            problems.append(
                Problem(where, "The row names no recording.", "Fill in the cell, or remove the row.")
            )
        else:
            rows.append(row)
    _refuse_ambiguous(path, rows)
    return LabelsTable(columns, _single(path, rows, problems), {row["recording"] for row in rows}, problems)


def plain_number(text: str) -> str:
    """Return a cell in lower case, and 1.0 or +1 as 1."""
    matched = re.fullmatch(r"\+?(-?\d)(\.0*)?", text.replace("\N{MINUS SIGN}", "-"))
    return matched[1] if matched else text.lower()


def record_name(cell: str) -> str:
    r"""Return the name of a record with forward slashes and without extension: ``sub\a.hea`` is ``sub/a``."""
    return cell.replace("\\", "/").removeprefix("./").removesuffix(".hea")


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and cells of each row that is not empty."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as CSV UTF-8.") from error
    text = unicodedata.normalize("NFC", text)  # accents in one form, whatever system wrote them
    delimiter = max(",;\t", key=text.lstrip().split("\n", 1)[0].count)
    try:
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(table, start=1)]
    return [(number, cells) for number, cells in rows if any(cells)]


def _check_columns(path: Path, columns: list[str]) -> None:
    absent = {"recording", "label"} - set(columns)
    twice = [column for column in COLUMNS if columns.count(column) > 1]
    if absent or twice:
        wrong = f"lacks {', '.join(sorted(absent))}" if absent else f"has {', '.join(twice)} twice"
        raise DataError(
            f"{path} {wrong}; its columns are: {', '.join(columns) or 'none'} (see docs/data.md)."
        )


def _refuse_ambiguous(path: Path, rows: list[dict[str, str]]) -> None:
    """Refuse labels that mix -1/1, where 0 is nothing, with 0/1, where -1 is nothing."""
    first = {plain_number(row["label"]): row["row"] for row in reversed(rows)}
    if "-1" in first and "0" in first:
        raise DataError(
            f"The labels of {path} are ambiguous: both -1 (row {first['-1']}) and 0 (row {first['0']}) "
            "occur. Use normal and abnormal, or -1 and 1, or 0 and 1."
        )


def _single(path: Path, rows: list[dict[str, str]], problems: list[Problem]) -> dict[str, dict[str, str]]:
    """Return the row of each recording; one that is listed twice is a problem, and left out."""
    by_name: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_name[row["recording"]].append(row)
    for name, same in by_name.items():
        if len(same) > 1:
            where = ", ".join(row["row"] for row in same)
            what = f"The name occurs {len(same)} times in {path.name} (rows {where})."
            problems.append(Problem(name, what, "Keep one row; until then the recording is left out."))
    return {name: same[0] for name, same in by_name.items() if len(same) == 1}
