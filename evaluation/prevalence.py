"""Scores at another prevalence, and the benefit of acting on a probability.

Training-a holds 70 % abnormal recordings, a waiting room far fewer. What depends on that share
(probabilities, predictive values, accuracy) is brought to another one; sensitivity and specificity at a
given probability of the model, and the AUROC, do not depend on it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from evaluation.calibration import log_odds
from evaluation.figures import BLUE, GREY, INK, LEGEND, new_figure, set_text_sizes
from evaluation.scores import binary_scores
from evaluation.statistics import cluster_bootstrap
from evaluation.weighted import STATISTICS, Array, Statistic, divided


def shift_prior(probability: ArrayLike, source: float, target: float) -> Array:
    """Bring probabilities from one prevalence to another (Saerens et al., Neural Comput. 14, 2002).

    The odds are multiplied by ``target / (1 - target) * (1 - source) / source``.

    Parameters
    ----------
    probability : array_like, shape (N,)
        Of class 1.
    source : float
        Prevalence that the probabilities were learned for, between 0 and 1: that of the training part,
        or 0.5 for a model whose loss weighted both classes the same.
    target : float
        Prevalence wanted, between 0 and 1.

    Returns
    -------
    ndarray, shape (N,)
    """
    for name, value in (("source", source), ("target", target)):
        if not 0 < value < 1:
            raise ValueError(f"The {name} prevalence must lie between 0 and 1 (--prevalence), not {value}.")
    values = np.asarray(probability, dtype=float)
    if source == target:
        return values
    shift = np.log(target) - np.log1p(-target) - np.log(source) + np.log1p(-source)
    shifted = 1 / (1 + np.exp(-(log_odds(values) + shift)))
    return np.where((values <= 0) | (values >= 1), values, shifted)


def prevalence_table(
    units: pd.DataFrame,
    prevalence: float,
    *,
    source: float | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores as they would be at another prevalence, with session-clustered 95 % intervals.

    Probabilities are shifted by `shift_prior`, and each class is weighted to the share it would have. The
    threshold of each row is applied to the shifted probability.

    Parameters
    ----------
    units : pandas.DataFrame
        Recordings or persons: ``label``, ``probability``, ``threshold``, ``session``; both classes.
    prevalence : float
        Share of abnormal, between 0 and 1.
    source : float, optional
        As for `shift_prior`; default: the share of abnormal among `units`.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns score (sensitivity, specificity, accuracy, ppv, npv, brier), value, low, high. A
        predictive value is nan where nothing is predicted so.
    """
    labels = units["label"]
    binary_scores(labels, units["probability"])
    shifted = shift_prior(
        units["probability"], float(labels.mean()) if source is None else source, prevalence
    )
    rows = []
    for name, score in _at(prevalence).items():
        interval = cluster_bootstrap(units.assign(probability=shifted), score, draws=draws, seed=seed)
        rows.append((name, interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high"])


def decision_curve(
    label: ArrayLike,
    probability: ArrayLike,
    thresholds: ArrayLike | None = None,
    prevalence: float | None = None,
) -> pd.DataFrame:
    """Net benefit of acting from a threshold on (Vickers and Elkin, Med. Decis. Making 26, 2006).

    ``TP / n - FP / n * t / (1 - t)``: right alarms, less the false ones at the rate t tells one to
    exchange them.

    Parameters
    ----------
    label, probability : array_like, shape (N,)
        As for `evaluation.scores.binary_scores`.
    thresholds : array_like, optional
        Probabilities t from which one acts, at least 0 and below 1; default: 0.01 to 0.99.
    prevalence : float, optional
        Share of abnormal to weight to; default: as it is. Shift the probabilities to it first.

    Returns
    -------
    pandas.DataFrame
        Columns threshold, model, treat_all, treat_none.
    """
    binary_scores(label, probability)
    values = np.arange(1, 100) / 100 if thresholds is None else np.asarray(thresholds, dtype=float)
    if (values < 0).any() or (values >= 1).any():
        raise ValueError("Thresholds of a decision curve must be at least 0 and below 1.")
    labels, probabilities = np.asarray(label, dtype=bool), np.asarray(probability, dtype=float)
    share = float(labels.mean()) if prevalence is None else prevalence
    if not 0 < labels.mean() < 1:
        raise ValueError("There is one class only: a decision curve needs both.")
    acted = probabilities >= values[:, None]
    right, wrong = acted[:, labels].mean(axis=1) * share, acted[:, ~labels].mean(axis=1) * (1 - share)
    exchange = values / (1 - values)
    return pd.DataFrame(
        {
            "threshold": values,
            "model": right - wrong * exchange,
            "treat_all": share - (1 - share) * exchange,
            "treat_none": 0.0,
        }
    )


def decision_curve_figure(
    units: pd.DataFrame,
    *,
    unit: str = "recordings",
    protocol: str = "",
    watermark: str = "",
    prevalence: float | None = None,
) -> Figure:
    """Draw the net benefit over the threshold beside that of treating all and none.

    Parameters
    ----------
    units : pandas.DataFrame
        Columns ``label`` and ``probability`` (shifted, where `prevalence` is given).
    unit, protocol, watermark : str
        As for `evaluation.figures.roc_figure`.
    prevalence : float, optional
        As for `decision_curve`.
    """
    curve = decision_curve(units["label"], units["probability"], prevalence=prevalence)
    share = float(units["label"].mean()) if prevalence is None else prevalence
    figure = new_figure(f"Decision curve · {share:.0%} abnormal", unit, protocol, watermark)
    axes = figure.subplots()
    axes.plot(curve["threshold"], curve["treat_all"], color=BLUE, linewidth=1.6, label="treat all")
    axes.plot(curve["threshold"], curve["treat_none"], color=GREY, linewidth=1.6, label="treat none")
    axes.plot(curve["threshold"], curve["model"], color=INK, linewidth=2.6, label="act on the model")
    set_text_sizes(axes)
    axes.set(xlabel="probability from which one acts", ylabel=f"net benefit, right alarms among all {unit}")
    axes.set(xlim=(0, 1), ylim=(-0.15 * share, 1.1 * share))
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", **LEGEND)
    return figure


def _at(prevalence: float) -> dict[str, Statistic]:
    """Return scores at a prevalence: of each class as it is, and from these by Bayes' rule."""
    sensitivity, specificity = STATISTICS["sensitivity"], STATISTICS["specificity"]

    def four(units: pd.DataFrame, weights: Array) -> tuple[Array, Array, Array, Array]:
        right, rejected = sensitivity(units, weights), specificity(units, weights)
        shares = (prevalence * right, (1 - prevalence) * (1 - rejected))
        return (*shares, prevalence * (1 - right), (1 - prevalence) * rejected)

    def accuracy(units: pd.DataFrame, weights: Array) -> Array:
        tp, _, _, tn = four(units, weights)
        return tp + tn

    def ppv(units: pd.DataFrame, weights: Array) -> Array:
        tp, fp, _, _ = four(units, weights)
        return divided(tp, tp + fp)

    def npv(units: pd.DataFrame, weights: Array) -> Array:
        _, _, fn, tn = four(units, weights)
        return divided(tn, tn + fn)

    def brier(units: pd.DataFrame, weights: Array) -> Array:
        positive = units["label"].to_numpy(dtype=float)
        error = (units["probability"].to_numpy(dtype=float) - positive) ** 2
        of_class = [divided(weights @ (kind * error), weights @ kind) for kind in (positive, 1 - positive)]
        return prevalence * of_class[0] + (1 - prevalence) * of_class[1]

    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "accuracy": accuracy,
        "ppv": ppv,
        "npv": npv,
        "brier": brier,
    }
