"""The results of an evaluated run as files: tables, figures, a report to read, and last ``metrics.json``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from common.files import replacing, write_json, write_table, write_text
from evaluation.figures import RESOLUTION
from evaluation.report import frame_to_markdown, html_page, json_safe, markdown_table, result_files


def write_results(
    folder: Path,
    metrics: dict[str, Any],
    files: Mapping[str, pd.DataFrame | Figure],
    sections: Sequence[str],
    *,
    digits: int | None = 6,
    page: bool = True,
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

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    content = {name: _png(item) if isinstance(item, Figure) else item for name, item in files.items()}
    for name, item in content.items():
        if isinstance(item, pd.DataFrame):
            write_table(folder / name, item, digits)
        else:
            with replacing(folder / name) as temporary:
                temporary.write_bytes(item)
    texts = {"report.md": "\n\n".join(sections) + "\n"}
    if page:
        texts["report.html"] = html_page(folder.name, metrics, content, digits)
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
) -> list[Path]:
    """Write the results of a run that predicts normal or abnormal.

    Parameters
    ----------
    folder : pathlib.Path
    predictions : pandas.DataFrame
    metrics : dict
        What `evaluation.report.evaluate_predictions` made of the predictions.
    tables, figures : mapping of str to pandas.DataFrame or matplotlib.figure.Figure
        What else there is, by name; tables are shown in ``report.md``.
    compact : bool
        Leave out predictions, the figures made of them, and ``report.html``.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    files = result_files(predictions, metrics, compact=compact)
    files |= {f"{name}.csv": table for name, table in tables.items()}
    if metrics["stamp"]:
        files = {
            name: item.assign(stamp=metrics["stamp"]) if isinstance(item, pd.DataFrame) else item
            for name, item in files.items()
        }
    files |= {f"figures/{name}.png": figure for name, figure in (figures or {}).items()}
    sections = [markdown_table(metrics), *table_sections(tables)]
    return write_results(folder, metrics, files, sections, digits=None, page=not compact)


def table_sections(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return tables as sections of ``report.md``."""
    return [
        f"## {name.replace('_', ' ').capitalize()}\n\n{frame_to_markdown(table)}"
        for name, table in tables.items()
    ]


def print_tables(tables: Mapping[str, pd.DataFrame], unit: str = "") -> None:
    """Print tables, each below its name and the word for what they are of."""
    for name, table in tables.items():
        print(f"{name}{unit}\n{table.to_string(index=False, float_format='{:.3f}'.format)}\n")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=RESOLUTION, facecolor="white")
    return buffer.getvalue()
