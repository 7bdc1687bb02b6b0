"""What a run of ``ecg-phenotypes`` decides: diseases at a threshold, and the most probable class.

Shares have Wilson intervals. These take cases as independent, so where a patient has several recordings they
are made for as many cases as there are patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.calibration import calibration_bins, calibration_table, decision_curve
from evaluation.figures import BLUE, GREY, INK, ORANGE, new_figure
from evaluation.statistics import (
    Array,
    Interval,
    Statistic,
    cluster_bootstrap,
    divided,
    weighted_auroc,
    wilson_interval,
)
from learning.checkpoint import Checkpoint
from systems.ecg_cmr.phenotypes.conformal import choice_key
from systems.ecg_cmr.phenotypes.task import IS, TRUE

_WILSON, _BOOTSTRAP = "Wilson", "bootstrap"
_OVERALL = ("f1", "kappa")
_COLUMNS = 3
"""Panels side by side."""
_PANEL = 2.9
"""Height of a panel, inches."""
_NO_THRESHOLD = (
    "the run has no threshold of its validation part; train it again, with one, or use --threshold half"
)
_UNKNOWN = "it is not known of anybody"

Units = Mapping[str, pd.DataFrame]
"""By disease the recordings of which it is known: label, probability, threshold, session, fold."""


def disease_units(
    predictions: pd.DataFrame,
    diseases: Sequence[str],
    checkpoints: Sequence[Checkpoint],
    threshold: str,
    external: bool,
) -> dict[str, pd.DataFrame]:
    """Return by disease the recordings of which it is known, with the threshold of their fold.

    Parameters
    ----------
    predictions : pandas.DataFrame
        As `systems.ecg_cmr.phenotypes.task.EcgPhenotypes.predictions` returns them, with their fold.
    diseases : sequence of str
    checkpoints : sequence of Checkpoint
        One a fold.
    threshold : {"half", "validation"}
    external : bool
        Whether the predictions are the mean of all checkpoints; then the threshold is their mean too.

    Returns
    -------
    dict of str to pandas.DataFrame
        Columns label, probability, threshold (NaN where there is none), session and fold.
    """
    found = {}
    for name in diseases:
        by_fold = {content["fold"]: _threshold(content, name, threshold) for content in checkpoints}
        limit = (
            pd.Series(float(np.mean(list(by_fold.values()))), predictions.index)
            if external
            else predictions["fold"].map(by_fold)
        )
        units = predictions[["session", "fold"]].assign(
            label=predictions[TRUE + name], probability=predictions[name], threshold=limit
        )
        found[name] = units[units["label"].notna()].reset_index(drop=True)
    return found


def _threshold(content: Checkpoint, name: str, threshold: str) -> float:
    """Return the threshold of a disease that a checkpoint was validated with; NaN where it has none."""
    if threshold == "half":
        return 0.5
    errors: dict[str, Any] = content.get("validation", {}).get("errors", {})
    measured = errors.get(choice_key(content["inputs"]["covariates"]), errors.get("", {}))
    found = measured.get("diseases", {}).get(name, {}).get("threshold")
    return np.nan if found is None else float(found)


def decisions_table(units: Units, *, draws: int, seed: int = 0) -> pd.DataFrame:
    """Score the decisions of each disease at its threshold.

    Parameters
    ----------
    units : mapping of str to pandas.DataFrame
        From `disease_units`.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Rows sensitivity, specificity, ppv, npv, accuracy, f1 and kappa of each disease; columns disease,
        threshold (the mean over folds), score, value, low, high, interval (its kind), n (cases of a share)
        and reason, why there is no value or interval.
    """
    rows: list[dict[str, Any]] = []
    for name, table in units.items():
        shares = _shares(table)
        for score in (*shares, *_OVERALL):
            row: dict[str, Any] = {"disease": name, "threshold": table["threshold"].mean(), "score": score}
            if table.empty or table["threshold"].isna().any():
                reason = _NO_THRESHOLD if len(table) else _UNKNOWN
                row |= {"value": np.nan, "low": np.nan, "high": np.nan, "interval": "", "n": 0}
                rows.append(row | {"threshold": np.nan, "reason": reason})
            elif score in shares:
                rows.append(row | _wilson(*shares[score], table["session"]))
            else:
                words: dict[str, Any] = {"noun": "patient"}
                words["classes"] = (f"recordings without {name}", f"recordings with {name}")
                found = cluster_bootstrap(table, score, "session", draws=draws, seed=seed, **words)
                rows.append(row | _bootstrapped(found, len(table)))
    return pd.DataFrame(rows)


def _shares(table: pd.DataFrame) -> dict[str, tuple[Array, Array]]:
    """Return by score which rows are cases of it, and which of these are right."""
    label = table["label"].to_numpy(dtype=float) == 1
    decided = (table["probability"] >= table["threshold"]).to_numpy()
    everyone = np.ones(len(table), dtype=bool)
    return {
        "sensitivity": (label, decided),
        "specificity": (~label, ~decided),
        "ppv": (decided, label),
        "npv": (~decided, ~label),
        "accuracy": (everyone, label == decided),
    }


def _wilson(cases: Array, right: Array, patient: pd.Series) -> dict[str, Any]:
    """Return a share with its interval, of as many cases as there are patients among them."""
    count, patients = int(cases.sum()), patient[cases].nunique()
    value = float(right[cases].mean()) if count else np.nan
    low, high = wilson_interval(value, patients)
    reason = "" if count else "there is no case of a share"
    return {"value": value, "low": low, "high": high, "interval": _WILSON, "n": count, "reason": reason}


def _bootstrapped(found: Interval, count: int) -> dict[str, Any]:
    names = ("value", "low", "high", "reason")
    return dict(zip(names, found.cells, strict=True)) | {"interval": _BOOTSTRAP, "n": count}


def calibrations_table(units: Units, *, draws: int, seed: int = 0) -> pd.DataFrame:
    """Return `evaluation.calibration.calibration_table` of each disease that some have and some have not."""
    tables = [
        calibration_table(table, draws=draws, seed=seed, noun="patient").assign(disease=name)
        for name, table in units.items()
        if table["label"].nunique() == 2
    ]
    columns = ["disease", "score", "value", "low", "high", "reason"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


# Classes ----------------------------------------------------------------------------------------------


def classes_table(
    predictions: pd.DataFrame, labels: Mapping[str, Sequence[str]], *, draws: int, seed: int = 0
) -> pd.DataFrame:
    """Score the predicted classes of each target.

    Parameters
    ----------
    predictions : pandas.DataFrame
        With the true class and the probability of each class, as `decisions_table` takes them.
    labels : mapping of str to sequence of str
        Classes of each target.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Rows of each target: accuracy, balanced_accuracy, macro_f1, kappa and macro_auroc over all classes,
        then sensitivity, ppv and auroc of each class; columns as of `decisions_table`, with target and class.
    """
    rows: list[dict[str, Any]] = []
    for name, classes in labels.items():
        units = class_units(predictions, name, classes)
        if units.empty:
            nothing = dict.fromkeys(("value", "low", "high"), np.nan) | {"interval": "", "n": 0}
            rows.append(_row(name, "all", "accuracy") | nothing | {"reason": _UNKNOWN})
            continue
        true, found = units["truth"].to_numpy(), units["predicted"].to_numpy()
        everyone = np.ones(len(units), dtype=bool)
        shares = {("all", "accuracy"): (everyone, true == found)}
        scores = {("all", score): _of_confusions(score, len(classes)) for score in _CONFUSION}
        scores["all", "macro_auroc"] = _macro_auroc(len(classes))
        for number, label in enumerate(classes):
            shares[label, "sensitivity"] = (true == number, found == number)
            shares[label, "ppv"] = (found == number, true == number)
            scores[label, "auroc"] = _one_auroc(number)
        for key, (cases, right) in shares.items():
            rows.append(_row(name, *key) | _wilson(cases, right, units["session"]))
        for key, score in scores.items():
            interval = cluster_bootstrap(units, score, "session", draws=draws, seed=seed, noun="patient")
            rows.append(_row(name, *key) | _bootstrapped(interval, len(units)))
    table = pd.DataFrame(rows)
    order = {"all": -1} | {label: number for each in labels.values() for number, label in enumerate(each)}
    places = table["class"].map(order)
    return table.assign(place=places).sort_values(["target", "place"], kind="stable").drop(columns="place")


def _row(target: str, label: str, score: str) -> dict[str, Any]:
    return {"target": target, "class": label, "score": score}


def class_units(predictions: pd.DataFrame, name: str, classes: Sequence[str]) -> pd.DataFrame:
    """Return the recordings of which the class is known: truth and predicted by number, and probabilities."""
    number = {label: place for place, label in enumerate(classes)}
    known = predictions[predictions[TRUE + name].isin(classes)].reset_index(drop=True)
    probability = known[[f"{name}{IS}{label}" for label in classes]].to_numpy(dtype=float)
    units = pd.DataFrame({"session": known["session"], "truth": known[TRUE + name].map(number)})
    units = units.assign(predicted=probability.argmax(axis=1) if len(known) else [])
    return units.join(pd.DataFrame(probability, columns=range(len(classes))))


_CONFUSION = ("balanced_accuracy", "macro_f1", "kappa")


def _of_confusions(score: str, count: int) -> Statistic:
    """Return a statistic of the counts of true and predicted classes."""

    def statistic(units: pd.DataFrame, weights: Array) -> Array:
        cell = units["truth"].to_numpy(dtype=int) * count + units["predicted"].to_numpy(dtype=int)
        counts = (weights @ np.eye(count * count)[cell]).reshape(-1, count, count)
        right = counts.diagonal(axis1=1, axis2=2)
        true, found = counts.sum(axis=2), counts.sum(axis=1)
        if score == "balanced_accuracy":
            return divided(right, true).mean(axis=1)
        if score == "macro_f1":
            return divided(2 * right, true + found).mean(axis=1)
        total = counts.sum(axis=(1, 2))
        chance = divided((true * found).sum(axis=1), total**2)
        return divided(divided(right.sum(axis=1), total) - chance, 1 - chance)

    return statistic


def _one_auroc(number: int) -> Statistic:
    """Return the AUROC of one class against all others."""
    return lambda units, weights: weighted_auroc(units["truth"] == number, units[number], weights)


def _macro_auroc(count: int) -> Statistic:
    return lambda units, weights: np.mean(
        [_one_auroc(number)(units, weights) for number in range(count)], axis=0
    )


# Figures ----------------------------------------------------------------------------------------------


def disease_figures(units: Units, scores: pd.DataFrame, *, watermark: str = "") -> dict[str, Figure]:
    """Draw ROC, calibration and decision curves, a panel a disease that some have and some have not.

    Parameters
    ----------
    units : mapping of str to pandas.DataFrame
        From `disease_units`.
    scores : pandas.DataFrame
        From `evaluation.multilabel.multilabel_table`, for the interval of the area.
    watermark : str
        A warning to be printed on the figures.
    """
    drawn = {name: table for name, table in units.items() if table["label"].nunique() == 2}
    if not drawn:
        return {}
    ends = scores.set_index("class")
    recordings = f"{max(map(len, drawn.values())):,} recordings of unseen patients"
    titles = {"roc": "ROC curves", "calibration_curves": "Calibration", "decision_curves": "Decision curves"}
    figures = {}
    for kind, title in titles.items():
        figure, panels = _panels(title, recordings, len(drawn), watermark)
        for axes, (name, table) in zip(panels, drawn.items(), strict=False):
            axes.set_title(
                name.removeprefix("disease_").replace("_", " "), loc="left", fontsize=11, color=INK
            )
            if kind == "roc":
                _draw_roc(axes, table, ends.loc[name])
            elif kind == "calibration_curves":
                _draw_calibration(axes, table)
            else:
                _draw_decisions(axes, table, name == next(iter(drawn)))
        figures[kind] = figure
    return figures


def _panels(title: str, subject: str, count: int, watermark: str) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels, three in a line."""
    lines = -(-count // _COLUMNS)
    figure = new_figure(title, subject, "", watermark, _PANEL * lines + 1.1)
    panels = list(figure.subplots(lines, min(count, _COLUMNS), squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels:
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _draw_roc(axes: Axes, table: pd.DataFrame, score: pd.Series) -> None:
    false, true, _ = roc_curve(table["label"], table["probability"])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.plot(false, true, color=BLUE, linewidth=1.8)
    right, wrong = (
        (table["probability"] >= table["threshold"])[table["label"] == label].mean() for label in (1, 0)
    )
    if table["threshold"].notna().all():
        axes.plot([wrong], [right], "o", color=ORANGE, markersize=6)
    text = f"AUROC {roc_auc_score(table['label'], table['probability']):.3f}"
    if np.isfinite(score["auroc_low"]):
        text += f"\n[{score['auroc_low']:.3f}, {score['auroc_high']:.3f}]"
    axes.text(0.98, 0.04, text, ha="right", va="bottom", fontsize=9, color=INK)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("1 − specificity", fontsize=9)
    axes.set_ylabel("sensitivity", fontsize=9)


def _draw_calibration(axes: Axes, table: pd.DataFrame) -> None:
    bins = calibration_bins(table["label"], table["probability"]).query("count > 0")
    end = min(1.03, 1.1 * max(bins["mean_probability"].max(), bins["share"].max()))
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.plot(bins["mean_probability"], bins["share"], color=INK, linewidth=1.2)
    axes.scatter(
        bins["mean_probability"], bins["share"], s=12 + 160 * bins["count"] / len(table), color=BLUE, zorder=3
    )
    axes.set(xlim=(-0.03 * end, end), ylim=(-0.03 * end, end))
    axes.set_xlabel("predicted probability", fontsize=9)
    axes.set_ylabel("share of diseased", fontsize=9)


def _draw_decisions(axes: Axes, table: pd.DataFrame, named: bool) -> None:
    curve = decision_curve(table["label"], table["probability"])
    share = float(table["label"].mean())
    lines = {
        "treat_all": ("all", BLUE, 1.2),
        "treat_none": ("none", GREY, 1.2),
        "model": ("the model", INK, 1.8),
    }
    for column, (text, colour, width) in lines.items():
        axes.plot(curve["threshold"], curve[column], color=colour, linewidth=width, label=text)
    axes.set(xlim=(0, 1), ylim=(-0.2 * share, 1.1 * share))
    axes.set_xlabel("threshold probability", fontsize=9)
    axes.set_ylabel("net benefit", fontsize=9)
    if named:
        axes.legend(title="act on", loc="upper right", fontsize=8, title_fontsize=8, frameon=False)


def class_figures(
    predictions: pd.DataFrame, labels: Mapping[str, Sequence[str]], *, watermark: str = ""
) -> dict[str, Figure]:
    """Draw the counts of true and predicted classes, a figure a target."""
    figures = {}
    shades = LinearSegmentedColormap.from_list("share", ["#FFFFFF", BLUE])
    for name, classes in labels.items():
        units = class_units(predictions, name, classes)
        if units.empty:
            continue
        count = len(classes)
        counts = np.zeros((count, count), dtype=int)
        np.add.at(counts, (units["truth"].to_numpy(int), units["predicted"].to_numpy(int)), 1)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        title = name.removeprefix("class_").replace("_", " ")
        figure = new_figure(f"Classes: {title}", f"{len(units):,} recordings", "", watermark, 6.4)
        axes = figure.subplots()
        axes.imshow(shares, cmap=shades, vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(count, count):
            text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
            colour = "white" if shares[row, column] > 0.6 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
        axes.set(xticks=range(count), yticks=range(count), xticklabels=classes, yticklabels=classes)
        axes.tick_params(length=0, labelsize=10)
        axes.set_xlabel("predicted", fontsize=11)
        axes.set_ylabel("true", fontsize=11)
        figures[f"confusion_{name}"] = figure
    return figures
