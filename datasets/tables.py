"""Read tables as others save them: find the file, split it into cells, and say what a comma means in it.

CSV and TSV are read with `csv`, Excel with `openpyxl`; there is no other reader of tables. A cell is text.
What it means is for `datasets.identity` (who) and `Marks` (a number) to say, for a whole column at once.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.sources import DataError, Problem

Rows = list[tuple[int, list[str]]]
"""Number in the file, counted from 1, and cells of each row that is not empty."""
ENDINGS = (".xlsx", ".csv", ".tsv")
"""Kinds of tables that are read, the first preferred."""
_BOOKS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".sav", ".dta", ".parquet")
_UNREAD = (*_BOOKS, ".txt", ".dat")
"""Kinds of tables that are not, and must not be passed over."""
REREAD = {"tables": "2"}
"""Names caches, as a choice, of tables that were once read otherwise: persons joined, commas understood."""
FORMULA = "="
"""First character of a cell whose formula has no stored result: it holds the formula."""


# Files ----------------------------------------------------------------------------------------------


def find_entry(
    root: Path, name: str, problems: list[Problem], kind: Callable[[Path], bool] = Path.is_file
) -> Path | None:
    """Return the file of a name, in upper or lower case; where there are several, the one spelled so."""
    found = [path for path in root.iterdir() if path.name.casefold() == name and kind(path)]
    return _first(sorted(found, key=lambda path: (path.name != name, path.name)), problems)


def find_table(
    root: Path, stem: str, problems: list[Problem], endings: Sequence[str] = ENDINGS
) -> Path | None:
    """Return the table of a name, in upper or lower case; where there are several, the first of ``endings``.

    Raises
    ------
    DataError
        If there is one, and only of a kind that is not read, or named almost so.
    """
    files = [path for path in root.iterdir() if path.is_file() and not path.name.startswith((".", "~"))]
    tables = [path for path in files if path.suffix.lower() in (*ENDINGS, *_UNREAD)]
    same = sorted(path for path in tables if _letters(path.stem) == _letters(stem))
    named = [path for path in same if path.stem.casefold() == stem and path.suffix.lower() in endings]
    named.sort(key=lambda path: (endings.index(path.suffix.lower()), path.name != path.name.lower()))
    if same and not named:
        wanted = " or ".join(stem + ending for ending in endings)
        raise DataError(f"{same[0]} is not read: save it as {wanted}, or move it elsewhere.")
    return _first(named + [path for path in same if path not in named], problems)


def _first(paths: list[Path], problems: list[Problem]) -> Path | None:
    """Return the first path, and name the others."""
    for other in paths[1:]:
        what = f"There is also {other.name}; {paths[0].name} is read."
        problems.append(Problem(other.name, what, "Remove one of the two.", left_out=False))
    return paths[0] if paths else None


def _letters(stem: str) -> str:
    """Return the letters of a name: ``ECG signals (2)`` is ``ecgsignals``."""
    return re.sub(r"[\W\d_]+", "", stem.casefold())


# Cells ----------------------------------------------------------------------------------------------


def read_rows(path: Path, problems: list[Problem] | None = None, *, strict: bool = False) -> Rows:
    """Read a table as text: of Excel the first sheet that is shown, of CSV whatever separates its cells.

    Parameters
    ----------
    path : pathlib.Path
        CSV with commas, semicolons or tabs, UTF-8 or UTF-16, any line ends; or ``.xlsx``.
    problems : list of Problem, optional
        Gets a warning for each sheet that is not read.
    strict : bool
        Whether quotes that are not closed make a CSV table unreadable.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    if path.suffix.lower() in _BOOKS:
        raise DataError(f"{path} is not read: save it as .xlsx or .csv.")
    if path.suffix.lower() == ".xlsx":
        table = _excel_rows(path, [] if problems is None else problems)
    else:
        text = read_text(path)
        mark, text = delimiter(text)
        try:
            table = list(csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=strict))
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as a table: {error}.") from error
    rows = [(number, [tidy(cell) for cell in cells]) for number, cells in enumerate(table, start=1)]
    return [(number, cells) for number, cells in rows if any(cells)]


def read_frame(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of which these columns are needed, all cells as text.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column or has it twice, or a row is longer than the first.
    """
    lines = read_rows(path, strict=True)
    if not lines:
        raise DataError(f"{path} cannot be read: it is empty.")
    names = lines[0][1]
    absent = sorted(set(columns) - set(names))
    if absent:
        raise DataError(f"{path} lacks the columns {', '.join(absent)}.")
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]} twice.")
    for number, cells in lines[1:]:
        if any(cells[len(names) :]):
            raise DataError(f"Row {number} of {path} has {len(cells)} cells for {len(names)} columns.")
    rows = [(cells + [""] * len(names))[: len(names)] for _, cells in lines[1:]]
    return pd.DataFrame(rows, columns=pd.Index(names), dtype=str)


def tidy(cell: str) -> str:
    """Return a cell without what cannot be seen around it, its accents in one form."""
    text = unicodedata.normalize("NFC", cell).strip().strip("\ufeff\u200b\u200c\u200d\u2060")
    return text.strip()


def encoding(content: bytes) -> str:
    """Return the encoding of a text by its first bytes: UTF-16 or UTF-8, with or without byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and content[2:4] != b"\0\0":  # that were UTF-32
        return "utf-16"
    zeros = {(False, True): "utf-16-le", (True, False): "utf-16-be"}
    return zeros.get((content[:1] == b"\0", content[1:2] == b"\0"), "utf-8-sig")


def not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    """Return the error of a text in another encoding."""
    return DataError(f"{path} is not UTF-8 text ({error.reason}): save it as CSV UTF-8.")


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    DataError
        If it cannot be opened, or is neither UTF-8 nor UTF-16.
    """
    try:
        content = path.read_bytes()
        return content.decode(encoding(content))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def delimiter(text: str) -> tuple[str, str]:
    """Return what separates the cells of a table, and its text without a line that says so (``sep=;``).

    It is the tab or the semicolon, where that is in the first line and in half of the next ones, else the
    comma: of numbers with decimal commas each row has more commas than semicolons.
    """
    stated = re.match(r"sep=(.)[\r\n]", text)
    if stated:
        return stated[1], text[5:]
    lines = re.split(r"[\r\n]+", re.sub(r'"[^"]*"', '""', text[:500_000]))
    first = [line.strip() for line in lines if line.strip()][:20]
    for mark in "\t;|":
        if first and mark in first[0] and 2 * sum(mark in line for line in first) >= len(first):
            return mark, text
    return ",", text


def _excel_rows(path: Path, problems: list[Problem]) -> list[list[str]]:
    """Return the cells of the first sheet that is shown, as text."""
    import openpyxl  # half a second, and few tables are of Excel
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with path.open("rb") as values, path.open("rb") as formulas, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what openpyxl would lose if it wrote the book
            books = [openpyxl.load_workbook(values, read_only=True, data_only=True)]
            books.append(openpyxl.load_workbook(formulas, read_only=True))
            name = _sheet(books[0], path, problems)
            tables = [_cells(book[name]) for book in books]
    except (InvalidFileException, zipfile.BadZipFile, KeyError, IndexError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as an Excel table ({error}): save it again.") from error
    rows = [[_text(*pair) for pair in zip(*row, strict=True)] for row in zip(*tables, strict=True)]
    width = max((number for row in rows for number, cell in enumerate(row, start=1) if cell), default=0)
    return [row[:width] for row in rows]


def _sheet(book: Any, path: Path, problems: list[Problem]) -> str:
    """Return the name of the first sheet that is shown; name the others that hold something."""
    shown = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets
    for other in book.worksheets:
        if other is not shown[0] and any(cell is not None for row in _cells(other) for cell in row):
            state = "is hidden" if other.sheet_state != "visible" else "is another one"
            what = f"Its sheet {other.title!r} {state}, and not read; {shown[0].title!r} is."
            remedy = "Remove it, or save it as a file of its own."
            problems.append(Problem(path.name, what, remedy, left_out=False))
    return str(shown[0].title)


def _cells(sheet: Any) -> list[tuple[Any, ...]]:
    """Return all cells of a sheet, whatever size it states."""
    sheet.reset_dimensions()
    return list(sheet.iter_rows(values_only=True))


def _text(cell: object, formula: object) -> str:
    """Return what Excel keeps in a cell as one would type it: 7.0 is 7; without a result, its formula."""
    if cell is None:
        return "" if formula is None else FORMULA + str(getattr(formula, "text", formula)).lstrip(FORMULA)
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    return cell.isoformat() if isinstance(cell, date) else str(cell)


# Numbers --------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"([+-]?)(\d+(?:[.,]\d+)*[.,]?|[.,]\d+)(e[+-]?\d+)?", re.ASCII)
_EITHER = re.compile(r"[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
"""What may have a decimal mark or one of thousands."""
_THOUSANDS = (
    re.compile(r"[1-9]\d{0,2}(?:(?P<group>,)\d{3})+(?:(?P<point>\.)\d*)?", re.ASCII),
    re.compile(r"[1-9]\d{0,2}(?:(?P<group>\.)\d{3})+(?:(?P<point>,)\d*)?", re.ASCII),
)
_DECIMAL = re.compile(r"\d*(?P<point>[.,])\d*", re.ASCII)
Role = tuple[str, str]
"""A mark, and what it is: "decimal" or "thousands"."""


@dataclass(frozen=True)
class Marks:
    """What commas and points are in the numbers of a column, decided from all its cells."""

    roles: frozenset[Role] = frozenset()

    @classmethod
    def of(cls, cells: Iterable[str]) -> Marks:
        """Return what the cells of a column show."""
        return cls(_roles(cells))

    @classmethod
    def of_table(cls, columns: Mapping[str, Iterable[str]]) -> dict[str, Marks]:
        """Return what each column shows; one that shows nothing follows the rest of its table."""
        found = {name: cls.of(cells) for name, cells in columns.items()}
        together = cls(frozenset[Role]().union(*(marks.roles for marks in found.values())))
        return {name: marks if marks.roles else together for name, marks in found.items()}

    def has(self, mark: str, role: str) -> bool:
        """Tell whether a mark is used as a decimal mark, or as one of thousands."""
        return (mark, role) in self.roles

    def number(self, cell: str) -> float:
        """Return a cell as a number.

        Raises
        ------
        ValueError
            If it is none, or it cannot be told which: the text says why, after the name of the column.
        """
        found = _NUMBER.fullmatch(cell)
        if not found:
            raise ValueError(f"{cell!r} is no number")
        sign, digits, exponent = found.groups(default="")
        self._refuse_doubt(cell, digits)
        group, point = self._marks(cell, digits)
        text = digits.replace(group, "") if group else digits
        try:
            return float(sign + (text.replace(point, ".") if point else text) + exponent)
        except ValueError:
            raise ValueError(f"{cell!r} is no number") from None

    def _refuse_doubt(self, cell: str, digits: str) -> None:
        """Refuse a number with a mark that means two things in its column."""
        both = all(self.has(mark, "decimal") for mark in ",.")
        for mark in ",.":
            twofold = self.has(mark, "decimal") and self.has(mark, "thousands")
            if mark in digits and (twofold or (both and mark == ",")):
                name = {",": "commas", ".": "points"}[mark]
                other = "decimals have points" if both else f"{name} mark decimals and thousands"
                raise ValueError(f"{cell!r} is in doubt, as {other} elsewhere in the column: write all alike")

    def _marks(self, cell: str, digits: str) -> tuple[str, str]:
        """Return what separates thousands and decimals in a number; empty: nothing."""
        if not _EITHER.fullmatch(digits):
            return _sure(digits)
        mark, other = ("," if "," in digits else "."), ("." if "," in digits else ",")
        if self.has(mark, "thousands"):
            return mark, ""
        if self.has(mark, "decimal") or (mark == "." and not self.has(other, "decimal")):
            return "", mark
        one, thousand = digits.replace(mark, "."), digits.replace(mark, "")
        raise ValueError(f"{cell!r} may be {float(one):g} or {thousand}: write one of them")


def _sure(digits: str) -> tuple[str, str]:
    """Return what separates thousands and decimals in a number that leaves no doubt."""
    for pattern in (*_THOUSANDS, _DECIMAL):
        found = pattern.fullmatch(digits)
        if found:
            marks = found.groupdict(default="")
            return marks.get("group", ""), marks["point"]
    return "", ""


def has_groups(cells: Iterable[str]) -> bool:
    """Tell whether a comma separates thousands in a cell, or may do so."""
    found = (_NUMBER.fullmatch(cell) for cell in cells if "," in cell)
    return any(one and (_EITHER.fullmatch(one[2]) or _sure(one[2])[0]) for one in found)


def _roles(cells: Iterable[str]) -> frozenset[Role]:
    """Return what the marks of some numbers are, as far as that is sure."""
    roles: set[Role] = set()
    for cell in cells:
        found = _NUMBER.fullmatch(cell)
        if found and not _EITHER.fullmatch(found[2]):
            roles |= set(zip(_sure(found[2]), ("thousands", "decimal"), strict=True))
    return frozenset(role for role in roles if role[0])
