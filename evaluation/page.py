"""Results as one HTML page that needs no network: what was evaluated, scores, figures, and tables."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from evaluation.report import (
    MEANINGS,
    ROWS,
    confusion_text,
    facts,
    figure_captions,
    interval_sentence,
    part_of,
    persons_sentence,
    pooled_text,
    reasons,
    spread_text,
)
from evaluation.tables import Caption, ShownTable, shown_table

OPEN_TABLE, LONGEST_TABLE = 16, 100
"""Rows up to which a table is shown unfolded, and up to which all of its rows are on the page."""
_THINNED, _COLUMNS = 20, 12
"""Rows and columns that are shown of a larger table."""
_OF_EACH = ("predictions", "recordings", "persons", "contributions")
"""Tables with a row a sample, recording or person: what the scores are made of."""


@dataclass(frozen=True)
class _Section:
    """One table of the page."""

    title: str
    text: str
    said: str
    table: ShownTable
    folded: bool


def html_page(
    title: str,
    metrics: Mapping[str, Any],
    files: Mapping[str, pd.DataFrame | bytes],
    captions: Mapping[str, Caption] | None = None,
) -> str:
    """Return results as one self-contained HTML page.

    Parameters
    ----------
    title : str
        Title where the metrics name no run.
    metrics : mapping
        What is in ``metrics.json``: protocol, meaning, stamp, counts, notes, ``run`` with settings and
        versions; of binary tasks the scores of beats, recordings and persons.
    files : mapping of str to pandas.DataFrame or bytes
        Tables and figures (PNG) by the path of their file.
    captions : mapping of str to evaluation.tables.Caption, optional
        Title and sentences of tables and figures, by the stem of their file.
    """
    run = metrics.get("run", {})
    said = figure_captions(metrics) | _each_captions(metrics) | dict(captions or {})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = {
        Path(name).stem: _section(Path(name), item, said)
        for name, item in files.items()
        if isinstance(item, pd.DataFrame)
    }
    figures = [
        (Path(name).stem, _caption(Path(name).stem, said), base64.b64encode(item).decode("ascii"))
        for name, item in files.items()
        if isinstance(item, bytes)
    ]
    details = {
        "Data, in full": run.get("cache", {}),
        "Settings": run.get("settings", {}),
        "Versions": run.get("provenance", {}),
        "Checkpoints (SHA-256)": run.get("checkpoints", {}),
    }
    return environment.get_template("report.html.jinja").render(
        title=run.get("run", title),
        metrics=metrics,
        facts=facts(metrics),
        changed=run.get("changed", []),
        scores=_score_rows(metrics),
        score_notes=_score_notes(metrics),
        results=[section for name, section in sections.items() if name not in _OF_EACH],
        each=[section for name, section in sections.items() if name in _OF_EACH],
        figures=[figure for figure in figures if not figure[0].endswith("_beats")],
        beat_figures=[figure for figure in figures if figure[0].endswith("_beats")],
        details={name: _flat(content) for name, content in details.items()},
    )


def _each_captions(metrics: Mapping[str, Any]) -> dict[str, Caption]:
    """Return captions of the tables with a row a sample, recording or person."""
    used = "used" if metrics.get("threshold") == "validation" else "not used"
    heads = {"threshold": f"validation threshold ({used})"} if "threshold" in metrics else {}
    texts = {
        "recordings": "One row a recording: the probability is the mean over its beats.",
        "persons": "One row a person: the probability is the mean over the recordings.",
        "predictions": "What the model gave for each sample.",
    }
    labels = " Label 0 is normal, 1 abnormal." if "threshold" in metrics else ""
    return {name: Caption(texts[name] + labels, heads=heads) for name in texts}


def _caption(stem: str, captions: Mapping[str, Caption]) -> Caption:
    """Return the caption of a file, its title from the name where none is given."""
    found = captions.get(stem, Caption())
    return found if found.title else replace(found, title=stem.replace("_", " ").capitalize())


def _section(path: Path, table: pd.DataFrame, captions: Mapping[str, Caption]) -> _Section:
    """Return a table with its caption, thinned where it is long or wide, and what was left out."""
    caption, said = _caption(path.stem, captions), []
    table = table.drop(columns="stamp", errors="ignore")
    if path.stem not in _OF_EACH and not table.empty and pd.api.types.is_string_dtype(table.iloc[:, 0]):
        table = table.assign(**{str(table.columns[0]): table.iloc[:, 0].str.replace("_", " ")})
    folded = len(table) > OPEN_TABLE or path.stem in _OF_EACH
    shown = table
    if len(table) > LONGEST_TABLE:
        shown = table.iloc[np.linspace(0, len(table) - 1, _THINNED).round().astype(int)]
        said.append(f"{_THINNED} of {len(table):,} rows, evenly spaced")
    if table.shape[1] > _COLUMNS and path.stem in _OF_EACH:
        shown = shown.iloc[:, :_COLUMNS]
        said.append(f"{_COLUMNS} of {table.shape[1]:,} columns")
    text = f"{' and '.join(said)}; all are in {path.name}" if said else f"{len(table):,} rows" * folded
    return _Section(caption.title, caption.text, text, shown_table(shown, caption.heads), folded)


def _score_rows(metrics: Mapping[str, Any]) -> list[list[list[str]]]:
    """Return head and rows of the scores: cells of lines; nothing for tasks without such scores."""
    order = ("recordings", "persons", "beats")
    parts = {name: part for name in order if metrics.get(name) and (part := part_of(metrics, name))}
    if not parts:
        return []
    rows = [
        [[title, MEANINGS[name]], *(_score_cell(part, name) for part in parts.values())]
        for name, title in ROWS.items()
    ]
    counts = [[confusion_text(part)] for part in parts.values()]
    meaning = "normal and predicted normal · false alarms · missed · abnormal and predicted abnormal"
    return [[["score"], *([name] for name in parts)], *rows, [["TN · FP · FN · TP", meaning], *counts]]


def _score_cell(part: dict[str, Any], name: str) -> list[str]:
    """Return the pooled score and its interval, and mean and deviation over folds where there are several."""
    value, _, interval = pooled_text(part, name).partition(" ")
    lines = [value, interval.replace(", ", ",\u00a0")]
    if len(part.get("per_fold", [])) > 1 and part["mean"][name] is not None:
        lines.append(f"{spread_text(part, name)} over folds")
    return [line for line in lines if line]


def _score_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return the sentences below the scores."""
    notes = [f"Not estimable: {reason}." for reason in reasons(metrics)]
    notes += [sentence for sentence in [persons_sentence(metrics)] if sentence]
    return [*notes, interval_sentence(metrics)] if "threshold" in metrics else notes


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested metadata as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
