"""What every source of recordings hands over: an index, and a list of what is wrong with it.

A source (PhysioNet 2016, one's own cohort) is first *indexed*: tables are read, files are looked
up, nothing is decoded. The index has one row a recording; what cannot be used is a `Problem`, so that one
faulty file never stops the rest.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from common.errors import UserError


class DataError(UserError):
    """Data that cannot be used. The message says what, where, and how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the data.

    Attributes
    ----------
    where : str
        The recording, file or row.
    what : str
        What is wrong, in one sentence.
    remedy : str
        What the user can do about it.
    left_out : bool
        Whether the recording is left out; else it is used, and the problem is a warning.
    """

    where: str
    what: str
    remedy: str = ""
    left_out: bool = True


@dataclass(frozen=True)
class MissingModality(Problem):
    """A modality that a recording is used without; ``skipped.csv`` has a row for it."""


@dataclass(frozen=True)
class SourceIndex:
    """The recordings of a source, before any of them is decoded.

    Attributes
    ----------
    name : str
        Name of the source; the cache's folder begins with it.
    root : pathlib.Path
        Folder that the paths of the index are relative to.
    recordings : pandas.DataFrame
        One row a recording, sorted by recording.
    problems : list of Problem
        What was left out, or is doubtful.
    session_unit : dict of str to str
        For each set, what its ``session`` column holds: "session", "person" or "recording".
    files : list of str
        Tables that the index was made from, relative to the root (their content names the cache).
    choices : dict of str to str
        What the user chose beyond the settings of preparation that changes what is read; names the cache too.
    simulated : bool
        Whether the recordings are of simulated patients.
    """

    name: str
    root: Path
    recordings: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    session_unit: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    simulated: bool = field(default=False, kw_only=True)


def first_reasons(problems: Sequence[Problem]) -> str:
    """Return why nothing can be used, for the end of an error."""
    reasons = "; ".join(f"{problem.where}: {problem.what}" for problem in problems[:3])
    return f"The first reasons: {reasons}"


def readable(name: str) -> str:
    """Return a file's name with letters that no text can hold (it is in no known encoding) replaced."""
    return name.encode("utf-8", errors="replace").decode("utf-8")


_COLUMNS = ("where", "what", "remedy")
_WIDTH = 100
"""Characters of a line in the terminal."""
_WHERE_WIDTH = 26
_NAMED = 3
"""Names in a row that stands for several problems."""
_GAP = "  "


def format_problems(
    problems: Sequence[Problem], limit: int = 20, full_table: str | Path = "skipped.csv of the cache"
) -> str:
    """Return the problems as a table for the terminal, at most 100 characters wide.

    Parameters
    ----------
    problems : sequence of Problem
        Shown in the order given.
    limit : int
        Rows shown; of more problems those with the same text share a row, which names the first three, and
        the last line says how many are not named.
    full_table : str or pathlib.Path
        Where all of them can be read.

    Returns
    -------
    str
        Lines without a final newline; "No problems." if there are none.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; at least one problem has to be shown.")
    if not problems:
        return "No problems."
    rows = [([problem.where], problem.what, problem.remedy) for problem in problems]
    rows = _alike_together(rows) if len(rows) > limit else rows
    shown = [(_first_names(names), what, remedy) for names, what, remedy in rows[:limit]]
    unnamed = len(problems) - sum(min(len(names), _NAMED) for names, _, _ in rows[:limit])
    widths = _widths(shown)
    lines = [*_row(_COLUMNS, widths), _GAP.join("-" * width for width in widths)]
    for cells in shown:
        lines += _row(cells, widths)
    if unnamed:
        lines += textwrap.wrap(f"... and {unnamed} more: see {full_table}", _WIDTH)
    return "\n".join(lines)


def _alike_together(rows: Iterable[tuple[list[str], str, str]]) -> list[tuple[list[str], str, str]]:
    """Return one row for all that have the same text, so that three hundred of a kind do not hide another."""
    names: dict[tuple[str, str], list[str]] = {}
    for where, what, remedy in rows:
        names.setdefault((what, remedy), []).extend(where)
    return [(where, what, remedy) for (what, remedy), where in names.items()]


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _widths(rows: Sequence[tuple[str, ...]]) -> tuple[int, int, int]:
    """Share the line among the three columns: names as short as they are, the rest by need."""
    needs = [max(len(cell) for cell in column) for column in zip(_COLUMNS, *rows, strict=True)]
    where = min(needs[0], _WHERE_WIDTH)
    free = _WIDTH - where - 2 * len(_GAP)
    what = min(needs[1], max(free // 2, free - needs[2]))
    return where, what, min(needs[2], free - what)


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of one row, its cells wrapped to their columns."""
    columns = [textwrap.wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*columns, fillvalue="")
    ]


LABELS = {"normal": 0, "abnormal": 1, "-1": 0, "0": 0, "1": 1}


def plain_number(text: str) -> str:
    """Return a cell in lower case, and 1.0, 1,0 or +1 as 1."""
    matched = re.fullmatch(r"\+?(-?\d)([.,]0*)?", text.replace("\N{MINUS SIGN}", "-"))
    return matched[1] if matched else text.lower()
