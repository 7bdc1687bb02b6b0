"""From a table of predictions to the results of a run: scores, tables for people, and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import files
from evaluation.figures import (
    calibration_figure,
    confusion_figure,
    precision_recall_figure,
    roc_figure,
    save_figure,
)
from evaluation.prevalence import decision_curve_figure
from evaluation.scores import aggregate, check_predictions, fold_scores
from evaluation.statistics import Interval, cluster_bootstrap
from evaluation.tables import CLUSTER, PROTOCOLS, frame_to_markdown, markdown_table, watermarked

THRESHOLDS = {"at_half": 0.5, "at_validation_threshold": None}
UNITS: dict[str, str | None] = {"beats": None, "recordings": "recording", "persons": "person"}


def evaluate_predictions(
    predictions: pd.DataFrame,
    *,
    protocol: str,
    threshold: str = "half",
    draws: int = 2000,
    seed: int = 0,
    watermark: str = "",
) -> dict[str, Any]:
    """Score predictions per beat, per recording and per person.

    Parameters
    ----------
    predictions : pandas.DataFrame
        One row a beat, columns as described in the text of this package. Where every recording has
        one row there are no beats to speak of, and ``beats`` is None.
    protocol : {"paper", "beat", "recording", "session", "external"}
        Who was kept apart. Under ``paper`` everything is watermarked ``selected on test``.
    threshold : {"half", "validation"}
        Threshold of the tables; both are computed.
    draws, seed : int
        Of the session-clustered bootstrap behind the 95 % intervals; no draws, no intervals.
    watermark : str
        Warning that goes with every output, such as ``simulated data``.

    Returns
    -------
    dict
        JSON-safe (undefined scores are None): protocol, meaning, watermark, threshold, bootstrap, counts,
        notes, and for each of beats, recordings and persons, ``at_half`` and
        ``at_validation_threshold``: what `evaluation.scores.fold_scores` returns, and ``intervals`` of
        the pooled auroc and macc. Persons are None, with a note, where one is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    if threshold not in ("half", "validation"):
        raise ValueError(f"Unknown threshold {threshold!r}: choose half or validation.")
    check_predictions(predictions)
    notes: list[str] = []
    metrics: dict[str, Any] = {
        "protocol": protocol,
        "meaning": PROTOCOLS[protocol],
        "stamp": watermarked(protocol, watermark),
        "threshold": threshold,
        "bootstrap": {"draws": draws, "seed": seed, "cluster": CLUSTER.get(protocol, "session")},
        "counts": _counts(predictions),
        "notes": notes,
    }
    for name, by in UNITS.items():
        reason = _unscorable(predictions, name)
        if reason:
            notes.append(reason)
        metrics[name] = None if reason else _evaluate_units(predictions, by, draws, seed)
    return json_safe(metrics)


def write_results(
    directory: str | Path,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    watermark: str = "",
    *,
    compact: bool = False,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write predictions, scores, tables and figures of a run, each file as a whole.

    Parameters
    ----------
    directory : path
        Folder of the run, made where missing: predictions.csv, recordings.csv, persons.csv (where known),
        figures/<kind>_<unit>.png, report.md and, last, metrics.json: where it is, all is.
    predictions : pandas.DataFrame
        What was evaluated.
    metrics : dict
        What `evaluate_predictions` made of it.
    watermark : str
        Another warning, beside the one in the metrics.
    compact : bool
        Leave out figures, and tables of more or other rows than one a recording.
    tables : mapping of str to pandas.DataFrame, optional
        Further tables, each written to <name>.csv and shown in report.md.

    Returns
    -------
    list of pathlib.Path
        The files written.
    """
    folder = Path(directory)
    metrics = {
        **metrics,
        "stamp": watermarked(metrics["protocol"], watermarked("", metrics["stamp"], watermark)),
    }
    written: list[Path] = []
    for name, by in UNITS.items():
        if metrics[name] is None:
            continue
        units = predictions if by is None else aggregate(predictions, by)
        shown = name != "persons" and not compact
        for kind, figure in _figures(units, name, metrics).items() if shown else ():
            written.append(folder / "figures" / f"{kind}_{name}.png")
            save_figure(figure, written[-1])
        if by == "recording" or (by is not None and not compact):
            written.append(_write_table(folder / f"{name}.csv", units, metrics["stamp"]))
    if not compact:
        written.append(_write_table(folder / "predictions.csv", predictions, metrics["stamp"]))
    sections = [markdown_table(metrics)]
    for name, table in (tables or {}).items():
        written.append(_write_table(folder / f"{name}.csv", table, metrics["stamp"]))
        sections.append(f"## {name.replace('_', ' ').capitalize()}\n\n{frame_to_markdown(table)}")
    files.write_text(folder / "report.md", "\n\n".join(sections) + "\n")
    write_json(folder / "metrics.json", metrics)
    return [*written, folder / "report.md", folder / "metrics.json"]


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON that strict readers take: NaN and infinity become null."""
    files.write_json(Path(path), json_safe(content))


def json_safe(value: Any) -> Any:
    """Return the value in plain Python types, with None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_safe(item) for item in value]
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _counts(predictions: pd.DataFrame) -> dict[str, int]:
    people = predictions.loc[_known(predictions["person"]), "person"]
    return {
        "beats": len(predictions),
        "recordings": predictions["recording"].nunique(),
        "persons": people.nunique(),
        "sessions": predictions["session"].nunique(),
        "folds": predictions["fold"].nunique(),
    }


def _known(names: pd.Series) -> pd.Series:
    return names.notna() & (names.astype(str) != "")


def _unscorable(predictions: pd.DataFrame, unit: str) -> str:
    """Say why the predictions cannot be scored by this unit; empty where they can."""
    if unit == "beats" and len(predictions) == predictions["recording"].nunique():
        return "One prediction a recording: no scores per beat."
    if unit != "persons":
        return ""
    if not _known(predictions["person"]).all():
        return "Not every recording names a person: no scores per person."
    try:
        aggregate(predictions, "person")
    except ValueError as error:
        return f"No scores per person: {error}"
    return ""


def _evaluate_units(predictions: pd.DataFrame, by: str | None, draws: int, seed: int) -> dict[str, Any]:
    units = predictions if by is None else aggregate(predictions, by)
    scores = {name: fold_scores(predictions, by, limit) for name, limit in THRESHOLDS.items()}

    def interval(frame: pd.DataFrame, statistic: str) -> dict[str, Any]:
        return asdict(cluster_bootstrap(frame, statistic, draws=draws, seed=seed))

    scores["at_half"]["intervals"] = {"macc": interval(units.assign(threshold=0.5), "macc")}
    scores["at_validation_threshold"]["intervals"] = {"macc": interval(units, "macc")}
    auroc = interval(units, "auroc")
    for part in scores.values():
        part["intervals"]["auroc"] = auroc
    return scores


def _figures(units: pd.DataFrame, unit: str, metrics: dict[str, Any]) -> dict[str, Any]:
    said = {"unit": unit, "protocol": metrics["protocol"], "watermark": metrics["stamp"]}
    limit = 0.5 if metrics["threshold"] == "half" else None
    auroc = metrics[unit]["at_half"]["intervals"]["auroc"]
    interval = Interval(**auroc) if auroc["low"] is not None else None
    draw: dict[str, Callable[[], Any]] = {
        "roc": lambda: roc_figure(units, interval=interval, **said),
        "precision_recall": lambda: precision_recall_figure(units, **said),
        "confusion": lambda: confusion_figure(units, threshold=limit, **said),
        "calibration": lambda: calibration_figure(units, **said),
    }
    if unit == "recordings" and units["label"].nunique() == 2:
        draw["decision_curve"] = lambda: decision_curve_figure(units, **said)
    return {kind: make() for kind, make in draw.items()}


def _write_table(path: Path, table: pd.DataFrame, watermark: str) -> Path:
    with files.replacing(path) as temporary:
        (table.assign(watermark=watermark) if watermark else table).to_csv(temporary, index=False)
    return path
