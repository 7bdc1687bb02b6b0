"""Show what is wrong with the data: as a table in the terminal, and as a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from common.files import replacing
from datasets.sources import Problem

COLUMNS = ("where", "what", "remedy")
WIDTH = 100
"""Characters of a line in the terminal."""
WHERE_WIDTH = 26
GAP = "  "


def problems_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """Return the problems as a table with the columns where, what and remedy, in the order given."""
    rows = [(problem.where, problem.what, problem.remedy) for problem in problems]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)


def format_problems(
    problems: Sequence[Problem], limit: int = 20, full_table: str | Path = "skipped.csv of the cache"
) -> str:
    """Return the problems as a table for the terminal, at most 100 characters wide.

    Parameters
    ----------
    problems : sequence of Problem
        Shown in the order given.
    limit : int
        Problems shown; the last line says how many more there are.
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
    shown = [(problem.where, problem.what, problem.remedy) for problem in problems[:limit]]
    widths = _widths(shown)
    lines = [*_row(COLUMNS, widths), GAP.join("-" * width for width in widths)]
    for cells in shown:
        lines += _row(cells, widths)
    if len(problems) > limit:
        lines += textwrap.wrap(f"... and {len(problems) - limit} more: see {full_table}", WIDTH)
    return "\n".join(lines)


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write the problems as a CSV file, complete or not at all."""
    with replacing(path) as unfinished:
        problems_table(problems).to_csv(unfinished, index=False, encoding="utf-8", lineterminator="\n")


def _widths(rows: Sequence[tuple[str, ...]]) -> tuple[int, int, int]:
    """Share the line among the three columns: names as short as they are, the rest by need."""
    needs = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    where = min(needs[0], WHERE_WIDTH)
    free = WIDTH - where - 2 * len(GAP)
    what = min(needs[1], max(free // 2, free - needs[2]))
    return where, what, min(needs[2], free - what)


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of one row, its cells wrapped to their columns."""
    columns = [textwrap.wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return [
        GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*columns, fillvalue="")
    ]


def skipped_rows(skipped: list[Problem]) -> pd.DataFrame:
    """Return what was left out as ``skipped.csv`` has it."""
    rows = [(problem.where, problem.what, problem.remedy) for problem in skipped]
    return pd.DataFrame(rows, columns=["recording", "reason", "remedy"])
