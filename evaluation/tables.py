"""Tables as a reader sees them: plain headings, intervals in one cell, and a word where there is none.

The CSV files keep the columns of the computation (``low``, ``high``, ``p_value``, ``reason``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

MISSING, NOT_ESTIMABLE = "n/a", "not estimable"
REASON = "reason"
"""Column that says why a row has no interval and no p-value."""
_HIDDEN = (REASON, "stamp")
_P = ("p", "p_value", "p_holm", "p_delong")
_HEADS = {
    "n_abnormal": "abnormal",
    "n_normal": "normal",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "p_delong": "p (DeLong)",
    "r2": "R²",
    "r2_ceiling": "R² possible",
    "mae": "mean absolute error",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "expected_calibration_error": "ECE",
    "positives": "positive",
    "view": "modality",
    "views": "modalities",
}
_INTERVAL = "95 % interval"


@dataclass(frozen=True)
class Caption:
    """What stands above a table or below a figure.

    Attributes
    ----------
    text : str
        Sentences that explain what is shown.
    title : str
        Default: from the name of the file.
    heads : mapping of str to str
        Headings of columns that are named for the computation.
    """

    text: str = ""
    title: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownTable:
    """The headings and cells of a table, which columns hold words, and the sentences that stand below it."""

    heads: list[str]
    rows: list[list[str]]
    words: list[bool]
    notes: list[str]


def shown_table(table: pd.DataFrame, heads: Mapping[str, str] | None = None) -> ShownTable:
    """Return a table as text: each pair of ends as one interval, p-values never as 0, reasons below.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``low`` and ``high``, or ``<score>_low`` and ``<score>_high``, are the ends of an interval.
        Where they are not there and the column ``reason`` says why, the cell says ``not estimable``.
    heads : mapping of str to str, optional
        Headings; default: the names of the columns, spelled out.
    """
    names = _HEADS | dict(heads or {})
    columns: list[list[str]] = []
    shown_heads, words = [], []
    reasons = table[REASON].fillna("").astype(str).tolist() if REASON in table else [""] * len(table)
    for name in _ordered(table):
        if name.endswith("low") and f"{name[:-3]}high" in table:
            ends = zip(table[name], table[f"{name[:-3]}high"], reasons, strict=True)
            columns.append([interval_text(low, high, reason) for low, high, reason in ends])
            shown_heads.append(_INTERVAL)
            words.append(False)
            continue
        cells = zip(_counts_as_whole(table[name]), reasons, strict=True)
        columns.append([p_text(*cell) if name in _P else number_text(cell[0]) for cell in cells])
        shown_heads.append(names.get(name, name.replace("_", " ")))
        words.append(any(isinstance(value, str) for value in table[name]))
    rows = [list(row) for row in zip(*columns, strict=True)]
    notes = [f"Not estimable: {reason}." for reason in dict.fromkeys(filter(None, reasons))]
    return ShownTable(shown_heads, rows, words, notes)


def _ordered(table: pd.DataFrame) -> list[str]:
    """Return the columns that are shown, the lower end of an interval after the score it belongs to."""
    names = [str(name) for name in table if name not in _HIDDEN]
    lows = [name for name in names if name.endswith("low") and f"{name[:-3]}high" in names]
    names = [name for name in names if not (name.endswith("high") and f"{name[:-4]}low" in lows)]
    own = {low.removesuffix("_low"): low for low in lows if low.removesuffix("_low") in {*names} - {low}}
    names = [name for name in names if name not in own.values()]
    return [part for name in names for part in (name, *([own[name]] if name in own else []))]


def _counts_as_whole(values: pd.Series) -> list[Any]:
    """Return the values, as whole numbers where all that are known are, and some of them are above 1."""
    if not pd.api.types.is_float_dtype(values):
        return values.tolist()
    known = values[np.isfinite(values)]
    whole = len(known) and (known == known.round()).all() and (known.abs() > 1).any()
    return [int(value) if whole and np.isfinite(value) else value for value in values.tolist()]


def text_table(table: pd.DataFrame, caption: Caption | None = None) -> str:
    """Return a table as aligned plain text, with its reasons below."""
    shown = shown_table(table, caption.heads if caption else None)
    lines = [shown.heads, *shown.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown.heads))]
    body = [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, [True, *shown.words[1:]], strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*body, *shown.notes])


def markdown_of(table: pd.DataFrame, caption: Caption | None = None) -> str:
    """Return a table as Markdown, with its caption above and its reasons below."""
    shown = shown_table(table, caption.heads if caption else None)

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = "\n".join([line(shown.heads), "|---" * len(shown.heads) + "|", *map(line, shown.rows)])
    return "\n\n".join([*([caption.text] if caption and caption.text else []), body, *shown.notes])


def interval_text(low: float | None, high: float | None, reason: str = "", sign: str = "") -> str:
    """Return an interval, ``not estimable`` where there is a reason for none, n/a without a reason."""
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high)):
        return NOT_ESTIMABLE if reason else MISSING
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def p_text(value: float, reason: str = "") -> str:
    """Return a p-value with three decimals; one that would read 0.000 is below 0.001."""
    if not np.isfinite(value):
        return NOT_ESTIMABLE if reason else MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number_text(value: Any) -> str:
    """Return a number with three decimals, a count or a word as it is, n/a for nothing."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return MISSING
        digits = ".1g" if 0 < abs(number) < 0.0005 else ".1f" if abs(number) >= 1000 else ".3f"
        return f"{number:{digits}}"
    return MISSING if value is None or value is pd.NA or value == "" else str(value)
