"""The scores of predictions that are normal or abnormal, and results as text and Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evaluation.scores import aggregate, check_predictions, fold_scores
from evaluation.statistics import Interval, cluster_bootstrap
from evaluation.tables import MISSING, NOT_ESTIMABLE, Caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROTOCOLS = {
    "paper": "beats of one recording are in train and test, and the model was selected on the test fold: "
    "reproduces the published figure, measures recognition of persons, not diagnosis",
    "beat": "beats of one recording are in train and test: measures recognition of persons, not diagnosis",
    "recording": "recordings are kept apart, but others of the same session and person may be in train",
    "session": "sessions are kept apart: no session of the test part was in train or validation",
    "database": "one database is left out: nothing of its hospital and devices was in train or validation",
    "patient": "patients are kept apart: nobody of the test part was in train or validation",
    "official": "the one split that the source assigns: nobody of the test part was in train or validation",
    "external": "another set of recordings: none of them, and no other of their sessions, was trained on",
}
_WITH_INTERVAL = ("macc",)
"""Scores at a threshold that have an interval; AUROC, which needs none, has one too."""
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
MEANINGS = {
    "auroc": "how often an abnormal recording gets a higher probability than a normal one; 0.5 by chance",
    "auprc": "precision averaged over all thresholds; by chance the share of abnormal",
    "accuracy": "share that is predicted right",
    "sensitivity": "share of the abnormal that is predicted abnormal",
    "specificity": "share of the normal that is predicted normal",
    "macc": "mean of sensitivity and specificity",
    "precision": "share of the predicted abnormal that is abnormal",
    "f1": "harmonic mean of precision and sensitivity",
    "brier": "mean squared error of the probability; 0 is best",
}
_FIGURES = {
    "roc": "Sensitivity over the share of false alarms, for every threshold. The area under the curve is the "
    "AUROC: 0.5 by chance, 1 at best.",
    "precision_recall": "Share of the predicted abnormal that is abnormal, over the share of the abnormal "
    "that is found. The dotted line is chance.",
    "confusion": "Counts of true and predicted class at the threshold of the scores.",
    "calibration": "Share of abnormal among {unit} with about the same predicted probability. On the "
    "dotted line a probability of 0.8 is right in eight cases of ten. Below: how many {unit} have which "
    "probability.",
    "decision_curve": "Net benefit is the share of right alarms, less the false ones, which weigh the more "
    "the lower the probability is from which one acts. A model is of use where its line is the highest.",
}
_TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "confusion": "Confusion matrix",
    "calibration": "Calibration",
    "decision_curve": "Decision curve",
}
_UNITS: dict[str, str | None] = {"beats": None, "recordings": "recording", "persons": "person"}
_CLUSTER = {"patient": "patient", "official": "patient"}
"""What the column ``session`` holds under some protocols: a patient counts as one session."""
_THRESHOLD = {"half": "0.5", "validation": "from the validation part of each fold"}
_WIDTH = 100


def watermarked(protocol: str, *watermarks: str) -> str:
    """Join watermarks with semicolons, each once, and add the one that protocol ``paper`` always has."""
    parts = [part.strip() for watermark in watermarks for part in watermark.split(";") if part.strip()]
    return "; ".join(dict.fromkeys([*parts, *(["selected on test"] if protocol == "paper" else [])]))


def evaluate_predictions(
    predictions: pd.DataFrame,
    *,
    protocol: str,
    draws: int,
    threshold: str = "half",
    seed: int = 0,
    watermark: str = "",
    scope: str = "",
) -> dict[str, Any]:
    """Score predictions per beat, per recording and per person.

    Parameters
    ----------
    predictions : pandas.DataFrame
        One row a beat, columns as described in the text of this package. Where every recording has
        one row, ``beats`` is None.
    protocol : {"paper", "beat", "recording", "session", "patient", "official", "external"}
        Who was kept apart. Under ``paper`` everything is watermarked ``selected on test``.
    draws, seed : int
        Of the session-clustered bootstrap behind the 95 % intervals; no draws, no intervals.
    threshold : {"half", "validation"}
        Threshold of the tables; both are computed.
    watermark : str
        Warning that goes with every output, such as ``simulated data``.
    scope : str
        How much of the data this is, such as ``1 of 5 folds: 103 of 388 recordings``.

    Returns
    -------
    dict
        JSON-safe (undefined scores are None): protocol, meaning, stamp (the watermark), scope, threshold,
        thresholds (from the validation part, one a fold), bootstrap, counts, persons_with_both_labels (each
        counts once for each label where persons are scored), notes, and for each of beats, recordings and
        persons, ``at_half`` and ``at_validation_threshold``: what `evaluation.scores.fold_scores` returns,
        and ``intervals`` of the pooled auroc and macc; one that cannot be had is None with its ``reason``.
        Persons are None, with a note, where one is unknown.
    """
    metrics = describe_evaluation(
        predictions,
        protocol=protocol,
        draws=draws,
        threshold=threshold,
        seed=seed,
        watermark=watermark,
        scope=scope,
    )
    noun = metrics["bootstrap"]["cluster"]
    for name, by in _UNITS.items():
        reason = unscorable(predictions, name)
        if reason:
            metrics["notes"].append(reason)
        metrics[name] = None if reason else _evaluate_units(predictions, by, draws, seed, noun)
    return json_safe(metrics)


def describe_evaluation(
    predictions: pd.DataFrame,
    *,
    protocol: str,
    draws: int,
    threshold: str,
    seed: int,
    watermark: str,
    scope: str,
) -> dict[str, Any]:
    """Return what is evaluated and how, before any score; arguments as for `evaluate_predictions`."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"Unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    if threshold not in _THRESHOLD:
        raise ValueError(f"Unknown threshold {threshold!r}: choose half or validation.")
    check_predictions(predictions)
    return {
        "protocol": protocol,
        "meaning": PROTOCOLS[protocol],
        "stamp": watermarked(protocol, watermark),
        "scope": scope,
        "threshold": threshold,
        "thresholds": predictions.groupby("fold")["threshold"].first().tolist(),
        "bootstrap": {"draws": draws, "seed": seed, "cluster": _CLUSTER.get(protocol, "session")},
        "counts": _counts(predictions),
        "persons_with_both_labels": _both_labels(predictions),
        "notes": [],
    }


def result_files(
    predictions: pd.DataFrame, metrics: Mapping[str, Any], *, compact: bool = False
) -> dict[str, pd.DataFrame | Figure]:
    """Return the tables and figures of evaluated predictions, by the path in the folder of results.

    Parameters
    ----------
    predictions : pandas.DataFrame
    metrics : mapping
        What `evaluate_predictions` made of them.
    compact : bool
        Leave out figures, and tables of more or other rows than one a recording.

    Returns
    -------
    dict of str to pandas.DataFrame or matplotlib.figure.Figure
        figures/<name>_<unit>.png, recordings.csv, persons.csv (where known) and predictions.csv.
    """
    found: dict[str, pd.DataFrame | Figure] = {}
    for name, by in _UNITS.items():
        if metrics[name] is None:
            continue
        units = predictions if by is None else aggregate(predictions, by)
        if name != "persons" and not compact:
            found |= {
                f"figures/{figure_name}_{name}.png": figure
                for figure_name, figure in _figures(units, name, metrics).items()
            }
        if by == "recording" or (by is not None and not compact):
            found[f"{name}.csv"] = units
    return found if compact else found | {"predictions.csv": predictions}


def figure_captions(metrics: Mapping[str, Any]) -> dict[str, Caption]:
    """Return the captions of the figures of `result_files`, by the stem of their file."""
    return {
        f"{name}_{unit}": Caption(text.format(unit=unit), f"{_TITLES[name]}, {unit}")
        for unit in ("recordings", "beats")
        for name, text in _FIGURES.items()
        if metrics.get(unit)
    }


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


def _both_labels(predictions: pd.DataFrame) -> int:
    """Return how many persons have recordings of both labels."""
    known = predictions[_known(predictions["person"])]
    return int((known.groupby("person")["label"].nunique() > 1).sum())


def _known(names: pd.Series) -> pd.Series:
    return names.notna() & (names.astype(str) != "")


def unscorable(predictions: pd.DataFrame, unit: str) -> str:
    """Return why the predictions cannot be scored by this unit; empty where they can."""
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


def _evaluate_units(
    predictions: pd.DataFrame, by: str | None, draws: int, seed: int, noun: str
) -> dict[str, Any]:
    def units_of(rows: pd.DataFrame) -> pd.DataFrame:
        return rows if by is None else aggregate(rows, by)

    units = units_of(predictions)
    folds = {int(fold): units_of(rows) for fold, rows in predictions.groupby("fold")}
    scores = {
        "at_half": fold_scores(units, folds, 0.5),
        "at_validation_threshold": fold_scores(units, folds),
    }

    def interval(frame: pd.DataFrame, statistic: str) -> dict[str, Any]:
        return asdict(cluster_bootstrap(frame, statistic, draws=draws, seed=seed, noun=noun))

    for at, frame in (("at_half", units.assign(threshold=0.5)), ("at_validation_threshold", units)):
        scores[at]["intervals"] = {name: interval(frame, name) for name in _WITH_INTERVAL}
    auroc = interval(units, "auroc")
    for part in scores.values():
        part["intervals"]["auroc"] = auroc
    return scores


def _figures(units: pd.DataFrame, unit: str, metrics: Mapping[str, Any]) -> dict[str, Figure]:
    from evaluation.figures import (  # half a second, and --compact draws nothing
        calibration_figure,
        confusion_figure,
        decision_curve_figure,
        precision_recall_figure,
        roc_figure,
    )

    style = {"unit": unit, "protocol": metrics["protocol"], "watermark": metrics["stamp"]}
    limit = 0.5 if metrics["threshold"] == "half" else None
    auroc = metrics[unit]["at_half"]["intervals"]["auroc"]
    interval = Interval(**auroc) if auroc["low"] is not None else None
    draw: dict[str, Callable[[], Figure]] = {
        "roc": lambda: roc_figure(units, interval=interval, **style),
        "precision_recall": lambda: precision_recall_figure(units, **style),
        "confusion": lambda: confusion_figure(units, threshold=limit, **style),
        "calibration": lambda: calibration_figure(units, **style),
    }
    if unit == "recordings" and units["label"].nunique() == 2:
        draw["decision_curve"] = lambda: decision_curve_figure(units, **style)
    return {name: make() for name, make in draw.items()}


# Text and Markdown ---------------------------------------------------------------------------------------


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
        where there is one, and mean ± standard deviation over folds. Persons have a line below. Where
        databases are scored one by one, what was evaluated alone.
    """
    rule, thin = "═" * _WIDTH, "─" * _WIDTH
    meaning = textwrap.wrap(f"protocol {metrics['protocol']}: {metrics['meaning']}", _WIDTH - 2)
    lines = [rule, *(f" {line}" for line in meaning)]
    lines += [f" {metrics['scope']}"] if metrics["scope"] else []
    lines.append(f" {counts_sentence(metrics)}")
    lines += [f" {line}" for line in textwrap.wrap(f"threshold {threshold_text(metrics)}", _WIDTH - 2)]
    said = [f" {line}" for note in metrics["notes"] for line in textwrap.wrap(f"note: {note}", _WIDTH - 2)]
    watermark = [f" !! {metrics['stamp']} !!"] if metrics["stamp"] else []
    if "by_database" in metrics:
        return "\n".join([*lines, *said, *watermark, rule])
    lines.append(thin)
    units = ("beats", "recordings") if metrics["beats"] else ("recordings",)
    lines.append(f" {'':<14}{''.join(f'{unit:<42}' for unit in units)}".rstrip())
    heads = f"{'pooled':<8}{'95 % interval':<18}{'mean ± sd':<16}" * len(units)
    lines += [f" {'':<14}{heads}".rstrip(), thin]
    for name, title in ROWS.items():
        cells = [_text_cell(part_of(metrics, unit), name) for unit in units]
        lines.append(f" {title:<14}{''.join(cells)}".rstrip())
    counts = [f"{confusion_text(part_of(metrics, unit)):<42}" for unit in units]
    lines += [f" {'TN·FP·FN·TP':<14}{''.join(counts)}".rstrip(), thin]
    lines += [f" {line}" for line in textwrap.wrap(_persons_line(metrics), _WIDTH - 2)]
    lines += [
        f" {line}"
        for reason in reasons(metrics)
        for line in textwrap.wrap(f"not estimable: {reason}", _WIDTH - 2)
    ]
    lines += said
    lines += [f" {line}" for line in textwrap.wrap(interval_sentence(metrics), _WIDTH - 2)]
    return "\n".join([*lines, *watermark, rule])


def markdown_table(metrics: dict[str, Any]) -> str:
    """Return the scores as a Markdown table with what was kept apart above it and any warning."""
    units = [unit for unit in ("beats", "recordings", "persons") if metrics.get(unit)]
    lines = [f"Protocol `{metrics['protocol']}`: {metrics['meaning']}.", ""]
    if metrics["stamp"]:
        lines += [f"**{metrics['stamp']}**", ""]
    lines += [f"{identity}.", ""] if (identity := identity_sentence(metrics)) else []
    lines += [f"{metrics['scope']}.", ""] if metrics["scope"] else []
    lines += [f"{counts_sentence(metrics)}; threshold {threshold_text(metrics)}.", ""]
    said = [line for note in metrics["notes"] for line in ("", note)]
    if "by_database" in metrics:
        return "\n".join([*lines[:-1], *said])
    lines.append("| score | " + " | ".join(f"{unit}, pooled | {unit}, mean ± sd" for unit in units) + " |")
    lines.append("|---|" + "---|---|" * len(units))
    for name, title in ROWS.items():
        cells = [cell for unit in units for cell in _markdown_cells(part_of(metrics, unit), name)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    counts = [cell for unit in units for cell in (confusion_text(part_of(metrics, unit)), "")]
    lines.append("| TN · FP · FN · TP | " + " | ".join(counts) + " |")
    if persons := persons_sentence(metrics):
        lines += ["", persons]
    lines += [line for reason in reasons(metrics) for line in ("", f"Not estimable: {reason}.")]
    return "\n".join([*lines, "", interval_sentence(metrics), *said])


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


def part_of(metrics: Mapping[str, Any], unit: str) -> dict[str, Any] | None:
    """Return the scores of a unit at the threshold of the table."""
    at = "at_validation_threshold" if metrics.get("threshold") == "validation" else "at_half"
    return metrics[unit][at] if metrics.get(unit) else None


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def spread_text(part: dict[str, Any], name: str) -> str:
    """Return mean and standard deviation over folds."""
    mean, deviation = part["mean"][name], part["standard_deviation"][name]
    return _number(mean) if deviation is None else f"{_number(mean)} ± {_number(deviation)}"


def _interval(part: dict[str, Any], name: str) -> str:
    found = part["intervals"].get(name)
    if found is None or found["low"] is None:
        return NOT_ESTIMABLE if found and found.get("reason") else ""
    return f"[{found['low']:.3f}, {found['high']:.3f}]"


def _text_cell(part: dict[str, Any] | None, name: str) -> str:
    if part is None:
        return f"{MISSING:<42}"
    return f"{_number(part['pooled'][name]):<8}{_interval(part, name):<18}{spread_text(part, name):<16}"


def pooled_text(part: dict[str, Any], name: str) -> str:
    """Return the score of all folds pooled, with its interval."""
    return f"{_number(part['pooled'].get(name))} {_interval(part, name)}".strip()


def _markdown_cells(part: dict[str, Any] | None, name: str) -> tuple[str, str]:
    if part is None:
        return MISSING, MISSING
    return pooled_text(part, name), spread_text(part, name)


def confusion_text(part: dict[str, Any] | None) -> str:
    """Return the counts of true and predicted class."""
    if part is None:
        return MISSING
    return " · ".join(f"{part['pooled'][name]:,}" for name in ("tn", "fp", "fn", "tp"))


def counts_sentence(metrics: Mapping[str, Any]) -> str:
    """Return how many beats, recordings, persons, sessions and folds there are."""
    left_out = {"beats"} if not metrics.get("beats") else set()
    left_out |= {"sessions"} if metrics.get("bootstrap", {}).get("cluster") == "patient" else set()
    return " · ".join(
        f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"
        for unit, count in metrics["counts"].items()
        if count and unit not in left_out
    )


def _persons_line(metrics: dict[str, Any]) -> str:
    part = part_of(metrics, "persons")
    if part is None:
        return f"persons: {MISSING}"
    scores = [f"{ROWS[name]} {pooled_text(part, name)}" for name in ("auroc", "macc", "accuracy")]
    explained = persons_sentence(metrics)
    return f"persons, pooled: {', '.join(scores)}.{f' {explained}' * bool(explained)}"


def persons_sentence(metrics: Mapping[str, Any]) -> str:
    """Return how persons with recordings of both labels are counted; empty where there are none."""
    both = metrics.get("persons_with_both_labels", 0)
    if not both or not metrics.get("persons"):
        return ""
    scored = (part_of(metrics, "persons") or {"pooled": {"n": 0}})["pooled"]["n"]
    return (
        f"{both} of the {metrics['counts']['persons']:,} persons have recordings of both labels and are "
        f"scored once for each label, which makes {scored:,}."
    )


def reasons(metrics: Mapping[str, Any]) -> list[str]:
    """Return why intervals are not estimable, each reason once."""
    parts = [part_of(metrics, unit) or {} for unit in _UNITS]
    found = [interval.get("reason") for part in parts for interval in part.get("intervals", {}).values()]
    return list(dict.fromkeys(filter(None, found)))


def threshold_text(metrics: Mapping[str, Any]) -> str:
    """Return the threshold from which a probability counts as abnormal in the scores."""
    values = "" if metrics["threshold"] == "half" else ", ".join(f"{t:.3f}" for t in metrics["thresholds"])
    return _THRESHOLD[metrics["threshold"]] + (f": {values}" if values else "")


def facts(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return what was evaluated, in words: data, task, model, protocol, folds, counts, threshold."""
    run = metrics.get("run", {})
    data, model = run.get("evaluated_on", {}), run.get("settings", {}).get("model", {})
    if isinstance(model, Mapping):
        model = model.get("model", model.get("fusion", ""))
    found = {
        "Data": f"{data['title']} (cache {data['folder']})"
        if data
        else run.get("cache", {}).get("source", ""),
        "Task": run.get("task", ""),
        "Model": str(model or ""),
        "Protocol": f"{metrics['protocol']}: {metrics.get('meaning', '')}" if "protocol" in metrics else "",
        "Evaluated": metrics.get("scope", ""),
        "Counts": counts_sentence(metrics) if metrics.get("counts") else "",
        "Threshold": f"abnormal from probability {threshold_text(metrics)}" if "threshold" in metrics else "",
    }
    return {name: text for name, text in found.items() if text}


def identity_sentence(metrics: Mapping[str, Any]) -> str:
    """Return data, task and model in one line; empty where the metrics name no run."""
    found = facts(metrics) if metrics.get("run") else {}
    return " · ".join(f"{name}: {found[name]}" for name in ("Data", "Task", "Model") if name in found)


def interval_sentence(metrics: Mapping[str, Any]) -> str:
    """Return what the intervals and deviations are."""
    bootstrap = metrics["bootstrap"]
    draws = f"from {bootstrap['draws']:,} draws of whole {bootstrap['cluster']}s, seed {bootstrap['seed']}"
    if bootstrap.get("within") and bootstrap["draws"]:
        return (
            f"Intervals: 95 %, {draws}, within each {bootstrap['within']}. The {bootstrap['within']}s are "
            f"fixed: no interval says how far another {bootstrap['within']} may lie from these."
        )
    intervals = f"Intervals: 95 %, {draws}" if bootstrap["draws"] else "Intervals: not computed"
    return f"{intervals}. Mean and standard deviation: over folds. MAcc = (sensitivity + specificity) / 2."
