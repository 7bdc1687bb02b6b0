"""Who is meant by a cell: one person is one, however tables, spreadsheets and programs write the number.

Every column that names a person, patient, session or raw recording is read with `identity`; ``docs/data.md``
shows the rule. What only might be the same is not guessed: `alike` finds it, and it is named.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from datasets.sources import Problem

MISSING = ("", "-", "--", "?", "na", "n/a", "#n/a", "nan", "none", "null", "unknown", "missing", "nd")
"""Cells, in lower case, that say that a value is not known."""
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-")
_QUOTED = re.compile(r"""(?:="(.*)"|"(.*)"|'(.*?)'?)""")
"""What spreadsheets put around text that looks like a number: ``="007"``, ``'007``."""
_WHOLE = re.compile(r"0*(\d+)(?:[.,](?!000$)0*)?", re.ASCII)
"""A whole number; 7.000 is none, for it may be seven thousand."""


def identity(cell: str) -> str:
    """Return who is meant by a cell, in one form; empty where nobody is.

    Spaces of all kinds around and invisible characters do not count. Of whole numbers, zeros in front and a
    fraction of zeros do not: ``7``, ``007``, ``7.0`` and ``7,0`` are one. Anything else is text, letter by
    letter: ``P7``, ``P07``, ``p7`` and ``7`` are four.
    """
    shown = (" " if character.isspace() else character for character in unicodedata.normalize("NFKC", cell))
    visible = (character for character in shown if unicodedata.category(character) not in ("Cc", "Cf"))
    text = " ".join("".join(visible).translate(_DASHES).split())
    if quoted := _QUOTED.fullmatch(text):
        text = next(filter(None, quoted.groups()), "").strip()
    if text.casefold() in MISSING:
        return ""
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def said_none(table: str, column: str, cells: Iterable[str]) -> list[Problem]:
    """Return a warning if cells of a column of classes say ``none``, which counts as not known."""
    count = sum(cell.strip().casefold() == "none" for cell in cells)
    if not count:
        return []
    what = f"{count} cells of the column {column!r} say none, which counts as not known."
    return [Problem(table, what, "Write another word, such as absent, if it is a class.", left_out=False)]


def spelled(cells: Iterable[str]) -> dict[str, str]:
    """Return for each cell of a column the name to show: as it is written, `identity` where that differs."""
    spellings: dict[str, set[str]] = defaultdict(set)
    cells = list(cells)
    for cell in cells:
        spellings[identity(cell)].add(cell)
    return {cell: name if len(spellings[name := identity(cell)]) > 1 or not name else cell for cell in cells}


def alike(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that may be one: they differ in letter case, zeros or separators only."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in filter(None, names):
        groups[_outline(name)].add(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _outline(name: str) -> str:
    """Return a name without what a typist may have changed; 1-1 and 11 stay apart."""
    text = re.sub(r"[.,]0+$", "", name.casefold())
    text = re.sub(r"(?<=[^\W\d_])[ _-]+(?=\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[ _-]+", "-", text))


def warn_alike(names: Iterable[str], what: str, consequence: str, problems: list[Problem]) -> list[list[str]]:
    """Name the groups of `alike` as problems, and return them.

    Parameters
    ----------
    names : iterable of str
    what : str
        What they are of: "persons".
    consequence : str
        What is done with them: "they count as two".
    problems : list of Problem
        Gets a warning for each group.
    """
    groups = alike(names)
    for group in groups:
        text = f"The {what} {' and '.join(group)} may be one, written in several ways; {consequence}."
        remedy = "Write them alike if they are one; else nothing."
        problems.append(Problem(", ".join(group), text, remedy, left_out=False))
    return groups


def counts_rows(names: Sequence[str], first: int) -> bool:
    """Tell whether a column goes on from ``first`` by one a row: an index that a program has written."""
    return bool(names) and list(names) == [str(row + first) for row in range(len(names))]
