"""The results of an evaluated run as files: tables, figures, a report to read, and last ``metrics.json``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from common.files import replacing, write_json, write_table, write_text
from evaluation.databases import database_files
from evaluation.page import html_page
from evaluation.report import json_safe, markdown_table, result_files
from evaluation.tables import Caption, markdown_of, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 100
"""Columns of a terminal."""
LEARNING_CURVES = Caption(
    "Loss and score over the epochs of training, one colour a fold. Solid: training part; dashed: "
    "validation part. The dot is the epoch whose weights are evaluated here."
)


def write_results(
    folder: Path,
    metrics: dict[str, Any],
    files: Mapping[str, pd.DataFrame | Figure],
    sections: Sequence[str],
    *,
    digits: int | None = 6,
    page: bool = True,
    captions: Mapping[str, Caption] | None = None,
) -> list[Path]:
    """Write the results of a run, each file as a whole; where ``metrics.json`` is, all is.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the run's results, made where missing.
    metrics : dict
        Content of ``metrics.json``; what is not finite becomes null.
    files : mapping of str to pandas.DataFrame or matplotlib.figure.Figure
        Tables (.csv) and figures (.png) by their path in the folder.
    sections : sequence of str
        Parts of ``report.md``.
    digits : int, optional
        Significant digits of numbers in tables; None: all.
    page : bool
        Whether ``report.html`` is written.
    captions : mapping of str to evaluation.tables.Caption, optional
        Titles and sentences of tables and figures on the page, by the stem of their file.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    content = {name: item if isinstance(item, pd.DataFrame) else _png(item) for name, item in files.items()}
    for name, item in content.items():
        if isinstance(item, pd.DataFrame):
            write_table(folder / name, item, digits)
        else:
            with replacing(folder / name) as temporary:
                temporary.write_bytes(item)
    texts = {"report.md": "\n\n".join(sections) + "\n"}
    if page:
        texts["report.html"] = html_page(folder.name, metrics, content, captions)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "metrics.json", json_safe(metrics))
    return [
        folder / name for name in (*files, "report.md", "metrics.json", *(["report.html"] if page else []))
    ]


def write_binary_results(
    folder: Path,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure] | None = None,
    *,
    compact: bool = False,
    captions: Mapping[str, Caption] | None = None,
) -> list[Path]:
    """Write the results of a run that predicts normal or abnormal.

    Parameters
    ----------
    folder : pathlib.Path
    predictions : pandas.DataFrame
    metrics : dict
        What `evaluation.report.evaluate_predictions`, or for several databases
        `evaluation.databases.evaluate_databases`, made of the predictions.
    tables, figures : mapping of str to pandas.DataFrame or matplotlib.figure.Figure
        What else there is, by name; tables are shown in ``report.md``.
    compact : bool
        Leave out predictions, the figures made of them, and ``report.html``.
    captions : mapping of str to evaluation.tables.Caption, optional
        As for `write_results`.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    make_files = database_files if "by_database" in metrics else result_files
    files = make_files(predictions, metrics, compact=compact)
    files |= {f"{name}.csv": table for name, table in tables.items()}
    if metrics["stamp"]:
        files = {
            name: item.assign(stamp=metrics["stamp"]) if isinstance(item, pd.DataFrame) else item
            for name, item in files.items()
        }
    files |= {f"figures/{name}.png": figure for name, figure in (figures or {}).items()}
    sections = [markdown_table(metrics), *table_sections(tables, captions)]
    return write_results(folder, metrics, files, sections, digits=None, page=not compact, captions=captions)


def table_sections(
    tables: Mapping[str, pd.DataFrame], captions: Mapping[str, Caption] | None = None
) -> list[str]:
    """Return tables as sections of ``report.md``, each below its title and what it shows."""
    return [
        f"## {_title(name, captions)}\n\n{markdown_of(table, (captions or {}).get(name))}"
        for name, table in tables.items()
    ]


def print_tables(
    tables: Mapping[str, pd.DataFrame], unit: str = "", captions: Mapping[str, Caption] | None = None
) -> None:
    """Print tables, each below its title and the word for what they are of."""
    for name, table in tables.items():
        caption = (captions or {}).get(name)
        said = [f"{_title(name, captions)}{unit}", *(textwrap.wrap(caption.text, _WIDTH) if caption else [])]
        print("\n".join([*said, text_table(table, caption), ""]))


def _title(name: str, captions: Mapping[str, Caption] | None) -> str:
    found = (captions or {}).get(name, Caption()).title
    return found or name.replace("_", " ").capitalize()


def _png(figure: Figure) -> bytes:
    from evaluation.figures import png_of  # half a second, and --compact draws nothing

    return png_of(figure)
