"""Scores as tables for people: plain text for the terminal, Markdown for files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

WIDTH = 100
PAPER_STAMP = "selected on test"
PROTOCOLS = {
    "paper": "beats of one recording are in train and test, and the model was selected on the test fold: "
    "reproduces the published figure, measures recognition of persons, not diagnosis",
    "beat": "beats of one recording are in train and test: measures recognition of persons, not diagnosis",
    "recording": "recordings are kept apart, but others of the same session and person may be in train",
    "session": "sessions are kept apart: no session of the test part was in train or validation",
    "patient": "patients are kept apart: nobody of the test part was in train or validation",
    "official": "the one split that the source assigns: nobody of the test part was in train or validation",
    "external": "another set of recordings, none of which the model was trained on",
}
ROWS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "macc": "MAcc",
    "precision": "precision",
    "f1": "F1",
    "brier": "Brier",
}
CLUSTER = {"patient": "patient", "official": "patient"}
"""What the column ``session`` holds under some protocols: a patient counts as one session."""
WORDS = {"half": "0.5", "validation": "from the validation part of each fold"}
MISSING = "n/a"


def watermarked(protocol: str, *watermarks: str) -> str:
    """Join warnings with semicolons, each once, and add the one that protocol ``paper`` always has."""
    parts = [part.strip() for watermark in watermarks for part in watermark.split(";") if part.strip()]
    return "; ".join(dict.fromkeys([*parts, *([PAPER_STAMP] if protocol == "paper" else [])]))


def format_table(metrics: dict[str, Any]) -> str:
    """Return the scores as plain text of at most 100 columns.

    Parameters
    ----------
    metrics : dict
        From `evaluation.report.evaluate_predictions`.

    Returns
    -------
    str
        Beats, where there are any, and recordings side by side: pooled over folds, with the 95 % interval
        where there is one, and mean ± standard deviation over folds. Persons have a line below.
    """
    rule, thin = "═" * WIDTH, "─" * WIDTH
    meaning = textwrap.wrap(f"protocol {metrics['protocol']}: {metrics['meaning']}", WIDTH - 2)
    lines = [rule, *(f" {line}" for line in meaning), f" {_counts_line(metrics)}"]
    lines += [f" threshold {WORDS[metrics['threshold']]}", thin]
    units = ("beats", "recordings") if metrics["beats"] else ("recordings",)
    lines.append(f" {'':<14}{''.join(f'{unit:<42}' for unit in units)}".rstrip())
    heads = f"{'pooled':<8}{'95 % interval':<18}{'mean ± sd':<16}" * len(units)
    lines += [f" {'':<14}{heads}".rstrip(), thin]
    for name, title in ROWS.items():
        cells = [_text_cell(_part(metrics, unit), name) for unit in units]
        lines.append(f" {title:<14}{''.join(cells)}".rstrip())
    counts = [f"{_confusion(_part(metrics, unit)):<42}" for unit in units]
    lines += [f" {'TN·FP·FN·TP':<14}{''.join(counts)}".rstrip(), thin, f" {_persons_line(metrics)}"]
    lines += [f" {line}" for note in metrics["notes"] for line in textwrap.wrap(f"note: {note}", WIDTH - 2)]
    lines += [f" {line}" for line in textwrap.wrap(_interval_line(metrics), WIDTH - 2)]
    if metrics["stamp"]:
        lines.append(f" !! {metrics['stamp']} !!")
    return "\n".join([*lines, rule])


def markdown_table(metrics: dict[str, Any]) -> str:
    """Return the scores as a Markdown table with what was kept apart above it and any warning."""
    units = [unit for unit in ("beats", "recordings", "persons") if metrics.get(unit)]
    lines = [f"Protocol `{metrics['protocol']}`: {metrics['meaning']}.", ""]
    if metrics["stamp"]:
        lines += [f"**{metrics['stamp']}**", ""]
    lines += [f"{_counts_line(metrics)}; threshold {WORDS[metrics['threshold']]}.", ""]
    lines.append("| score | " + " | ".join(f"{unit}, pooled | {unit}, mean ± sd" for unit in units) + " |")
    lines.append("|---|" + "---|---|" * len(units))
    for name, title in ROWS.items():
        cells = [cell for unit in units for cell in _markdown_cells(_part(metrics, unit), name)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    counts = [cell for unit in units for cell in (_confusion(_part(metrics, unit)), "")]
    lines.append("| TN · FP · FN · TP | " + " | ".join(counts) + " |")
    lines += ["", _interval_line(metrics)]
    lines += [line for note in metrics["notes"] for line in ("", note)]
    return "\n".join(lines)


def frame_to_markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """Return any table as Markdown: numbers with so many decimals, counts as they are."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return MISSING if math.isnan(value) else f"{value:.{digits}f}"
        return str(value).replace("|", "\\|")

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(cell(value) for value in cells) + " |"

    heads = [str(name).replace("_", " ") for name in table]
    rows = table.astype(object).itertuples(index=False)
    return "\n".join([line(heads), "|---" * len(heads) + "|", *(line(row) for row in rows)])


def _part(metrics: dict[str, Any], unit: str) -> dict[str, Any] | None:
    """Return the scores of a unit at the threshold of the table."""
    place = "at_half" if metrics["threshold"] == "half" else "at_validation_threshold"
    return metrics[unit][place] if metrics.get(unit) else None


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _spread(part: dict[str, Any], name: str) -> str:
    mean, deviation = part["mean"][name], part["standard_deviation"][name]
    return _number(mean) if deviation is None else f"{_number(mean)} ± {_number(deviation)}"


def _interval(part: dict[str, Any], name: str) -> str:
    found = part["intervals"].get(name)
    return "" if found is None or found["low"] is None else f"[{found['low']:.3f}, {found['high']:.3f}]"


def _text_cell(part: dict[str, Any] | None, name: str) -> str:
    if part is None:
        return f"{MISSING:<42}"
    return f"{_number(part['pooled'][name]):<8}{_interval(part, name):<18}{_spread(part, name):<16}"


def _markdown_cells(part: dict[str, Any] | None, name: str) -> tuple[str, str]:
    if part is None:
        return MISSING, MISSING
    return f"{_number(part['pooled'][name])} {_interval(part, name)}".strip(), _spread(part, name)


def _confusion(part: dict[str, Any] | None) -> str:
    if part is None:
        return MISSING
    return " · ".join(f"{part['pooled'][name]:,}" for name in ("tn", "fp", "fn", "tp"))


def _counts_line(metrics: dict[str, Any]) -> str:
    return " · ".join(
        f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"
        for unit, count in metrics["counts"].items()
        if count and (unit != "beats" or metrics["beats"])
    )


def _persons_line(metrics: dict[str, Any]) -> str:
    part = _part(metrics, "persons")
    if part is None:
        return f"persons: {MISSING}"
    named = [
        f"{ROWS[name]} {_number(part['pooled'][name])} {_interval(part, name)}".strip()
        for name in ("auroc", "macc", "accuracy")
    ]
    return f"persons, pooled: {', '.join(named)}"


def _interval_line(metrics: dict[str, Any]) -> str:
    bootstrap = metrics["bootstrap"]
    draws = f"from {bootstrap['draws']:,} draws of whole {bootstrap['cluster']}s, seed {bootstrap['seed']}"
    said = f"Intervals: 95 %, {draws}" if bootstrap["draws"] else "Intervals: not computed"
    return f"{said}. Mean and standard deviation: over folds. MAcc = (sensitivity + specificity) / 2."
