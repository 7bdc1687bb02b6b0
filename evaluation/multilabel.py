"""Scores where a sample has several labels, each of which may be unknown.

A class is scored on the samples whose label is known. Of one class only (all normal, or nothing known)
there is nothing to rank: its scores are None, a note says why, and the macro means leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.calibration import expected_calibration_error
from evaluation.report import json_safe
from evaluation.scores import binary_scores
from evaluation.statistics import STATISTICS, Array, Statistic, cluster_bootstrap
from evaluation.tables import interval_text

_RANKED = ("auroc", "auprc")
SCORES = (*_RANKED, "brier", "expected_calibration_error")
HEADS = {"class": "class", "n": "n", "positives": "positive", "prevalence": "prevalence"}
HEADS |= {"auroc": "AUROC", "auroc_interval": "95 % interval"}
HEADS |= {"auprc": "AUPRC", "auprc_interval": "95 % interval"}
HEADS |= {"brier": "Brier", "expected_calibration_error": "ECE"}


def multilabel_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    names: Sequence[str],
    draws: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the probabilities of several classes.

    Parameters
    ----------
    labels : array_like, shape (N, classes)
        1, 0, or NaN where not known.
    probabilities : array_like, shape (N, classes)
        Of label 1, 0 to 1; one where the label is not known is not looked at.
    groups : array_like, shape (N,)
        Patient of each sample: the unit that the bootstrap draws.
    names : sequence of str
        Name of each class.
    draws, seed : int
        Of the patient-clustered bootstrap; no draws, no intervals.

    Returns
    -------
    dict
        JSON-safe. ``classes``: for each name n (known labels), positives, prevalence, auroc, auprc (average
        precision), brier, expected_calibration_error, and ``intervals`` of auroc and auprc; ``macro``: the
        mean of each score over the classes that have it, ``classes`` (their number) and ``intervals``, from
        draws in which all of them have both labels; ``counts``, ``bootstrap`` and ``notes``.

    Raises
    ------
    ValueError
        For shapes that do not fit, labels other than 0, 1 and NaN, or probabilities that are none.
    """
    truth, predicted, group = _checked(labels, probabilities, groups, names)
    parts = {name: _known(truth[:, k], predicted[:, k], group) for k, name in enumerate(names)}
    reasons = {name: _undefined(part) for name, part in parts.items()}
    notes = [f"No scores of {name}: {reason}." for name, reason in reasons.items() if reason]
    scored = [name for name in names if not reasons[name]]
    classes = {
        name: _class_scores(part, not reasons[name], draws, seed, name) for name, part in parts.items()
    }
    if scored and notes:
        notes.append(f"Macro means are over {len(scored)} of {len(names)} classes.")
    columns = [k for k, name in enumerate(names) if name in scored]
    return json_safe(
        {
            "counts": {
                "samples": len(truth),
                "groups": int(pd.Series(group).nunique()),
                "classes": len(names),
            },
            "bootstrap": {"draws": draws, "seed": seed, "cluster": "group"},
            "notes": notes,
            "classes": classes,
            "macro": {
                "classes": len(scored),
                **{name: _mean([classes[part][name] for part in scored]) for name in SCORES},
                "intervals": _macro_intervals(
                    truth[:, columns], predicted[:, columns], group, draws, seed, scored
                ),
            },
        }
    )


def multilabel_table(scores: dict[str, Any]) -> pd.DataFrame:
    """Return what `multilabel_scores` found as one row a class, and last the row ``macro``.

    Columns class, n, positives, prevalence, and for each score its value, and ``<score>_low`` and
    ``<score>_high`` where it has an interval; nan where there is none, and ``reason`` says why.
    """
    rows = []
    for name, part in [*scores["classes"].items(), ("macro", scores["macro"])]:
        ends = {
            f"{score}_{end}": part["intervals"].get(score, {}).get(end)
            for score in _RANKED
            for end in ("low", "high")
        }
        reasons = [found.get("reason", "") for found in part["intervals"].values()]
        known = {key: part.get(key) for key in (*list(HEADS)[1:4], *SCORES)}
        rows.append(
            {"class": name, **known, **ends, "reason": "; ".join(dict.fromkeys(filter(None, reasons)))}
        )
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table if name not in ("class", "reason")})


def format_multilabel(scores: dict[str, Any]) -> str:
    """Return the scores of `multilabel_scores` as plain text."""
    lines = [list(HEADS.values())]
    lines += [_cells(row) for row in multilabel_table(scores).to_dict("records")]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    counts, bootstrap = scores["counts"], scores["bootstrap"]
    drawn = f"{bootstrap['draws']:,} draws of whole patients, seed {bootstrap['seed']}"
    said = [
        f"{counts['samples']:,} samples of {counts['groups']:,} patients",
        f"Intervals: {f'95 %, from {drawn}' if bootstrap['draws'] else 'not computed'}. "
        "ECE: expected calibration error, ten bins.",
    ]
    reasons = dict.fromkeys(filter(None, multilabel_table(scores)["reason"]))
    notes = [*(f"Not estimable: {reason}." for reason in reasons), *scores["notes"]]
    return "\n".join([said[0], "", *(line.rstrip() for line in body), "", said[1], *notes])


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike, names: Sequence[str]
) -> tuple[Array, Array, Array]:
    truth, predicted = np.asarray(labels, dtype=float), np.asarray(probabilities, dtype=float)
    group = np.asarray(groups)
    if truth.ndim != 2 or truth.shape != predicted.shape or not len(truth):
        raise ValueError(
            "Labels and probabilities must both be (samples, classes), "
            f"not {truth.shape} and {predicted.shape}."
        )
    if group.shape != truth.shape[:1] or pd.isna(group).any():
        raise ValueError(f"Every one of {len(truth)} samples needs a group; groups have shape {group.shape}.")
    if len(names) != truth.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"{truth.shape[1]} classes need as many different names, not {', '.join(names)}.")
    return truth, predicted, group


def _known(label: Array, probability: Array, group: Array) -> pd.DataFrame:
    """Return the samples of a class whose label is known, as a table that the bootstrap takes."""
    table = pd.DataFrame({"label": label, "probability": probability, "group": group})
    table = table[table["label"].notna()].reset_index(drop=True)
    if len(table):
        binary_scores(table["label"], table["probability"])  # refuses what is no label or probability
    return table


def _undefined(part: pd.DataFrame) -> str:
    """Say why a class cannot be scored; empty where it can."""
    if part.empty:
        return "no label is known"
    if part["label"].nunique() < 2:
        return f"every known label is {int(part['label'].iloc[0])}"
    return ""


def _words(name: str) -> dict[str, Any]:
    """Return the words for the reason why there is no interval."""
    return {"noun": "patient", "classes": (f"samples without {name}", f"samples with {name}")}


def _class_scores(part: pd.DataFrame, defined: bool, draws: int, seed: int, name: str) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(SCORES)
    intervals: dict[str, Any] = {}
    if defined:
        scores = binary_scores(part["label"], part["probability"])
        error = expected_calibration_error(part["label"], part["probability"])
        found = {**{score: scores[score] for score in SCORES[:-1]}, SCORES[-1]: error}
        intervals = {
            score: asdict(cluster_bootstrap(part, score, "group", draws=draws, seed=seed, **_words(name)))
            for score in _RANKED
        }
    return {
        "n": len(part),
        "positives": int(part["label"].sum()),
        "prevalence": float(part["label"].mean()),
        **found,
        "intervals": intervals,
    }


def _macro_intervals(
    truth: Array, predicted: Array, group: Array, draws: int, seed: int, names: Sequence[str]
) -> dict[str, Any]:
    if not truth.shape[1]:
        return {}
    known = [np.flatnonzero(~np.isnan(column)) for column in truth.T]
    parts = [_known(truth[:, k], predicted[:, k], group) for k in range(truth.shape[1])]
    # Draws without both labels of the rarest class are of no use to the mean, so they need not be scored.
    # The rarest is that with a label of the fewest patients, who may be too few for an interval.
    rarest = min(range(len(parts)), key=lambda k: parts[k].groupby("label")["group"].nunique().min())
    units = pd.DataFrame({"label": truth[:, rarest], "group": group})

    def interval(score: Statistic) -> dict[str, Any]:
        def mean(_: pd.DataFrame, weights: Array) -> Array:
            return np.mean(
                [score(part, weights[:, rows]) for part, rows in zip(parts, known, strict=True)], axis=0
            )

        return asdict(
            cluster_bootstrap(units, mean, "group", draws=draws, seed=seed, **_words(names[rarest]))
        )

    return {name: interval(STATISTICS[name]) for name in _RANKED}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for key in HEADS:
        if key.endswith("_interval"):
            low, high = (row[f"{key.removesuffix('_interval')}_{end}"] for end in ("low", "high"))
            cells.append(interval_text(low, high, row["reason"]) if np.isfinite(low) or row["reason"] else "")
        elif key == "class":
            cells.append(str(row[key]))
        else:
            digits = 0 if key in ("n", "positives") else 3
            cells.append(
                f"{row[key]:.{digits}f}" if np.isfinite(row[key]) else ("" if digits == 0 else "n/a")
            )
    return cells
