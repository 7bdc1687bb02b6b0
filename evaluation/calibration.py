"""Whether a probability of 0.8 is right in eight cases of ten."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.scores import checked
from evaluation.statistics import STATISTICS, Array, Interval, Statistic, cluster_bootstrap, divided

SMALLEST_PROBABILITY = 1e-6
_NEWTON_STEPS = 50
_LARGEST_SLOPE = 1e3


def calibration_table(
    units: pd.DataFrame, *, draws: int, seed: int = 0, noun: str = "session"
) -> pd.DataFrame:
    """Calibration error, slope and intercept, with session-clustered 95 % intervals.

    Parameters
    ----------
    units : pandas.DataFrame
        Recordings or persons: ``label``, ``probability``, ``session``.
    draws, seed, noun
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Rows ``expected calibration error`` (ten bins; of few samples it is too high, and in draws of
        them more so), ``slope`` (1 is right, below 1 too confident) and ``intercept`` (0 is right);
        columns score, value, low, high, reason (why there is no interval).
    """
    checked(units["label"], units["probability"])
    lines: list[Array] = []  # of the slope, in the order of the draws, which are the same for the intercept

    def slope(rows: pd.DataFrame, weights: Array) -> Array:
        lines.append(weighted_calibration_line(rows["label"], rows["probability"], weights))
        return lines[-1][:, 1]

    scores: dict[str, Statistic] = {
        "expected calibration error": _error,
        "slope": slope,
        "intercept": lambda rows, weights: lines.pop(0)[:, 0],
    }
    rows = []
    for name, score in scores.items():
        interval: Interval = cluster_bootstrap(units, score, draws=draws, seed=seed, noun=noun)
        rows.append((name, *interval.cells))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high", "reason"])


def calibration_line(label: ArrayLike, probability: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of the label on the log-odds of the probability (Cox, Biometrika 45, 1958).

    An unpenalized logistic regression ``logit P(label = 1) = intercept + slope * logit(probability)``.

    Parameters
    ----------
    label, probability : array_like, shape (N,)
        As for `evaluation.scores.binary_scores`. Probabilities are kept 1e-6 away from 0 and 1.

    Returns
    -------
    slope, intercept : float
        nan where there is one class, or the log-odds separate the classes entirely.
    """
    checked(label, probability)
    weights = np.ones((1, len(np.asarray(label))))
    intercept, slope = weighted_calibration_line(label, probability, weights)[0]
    return float(slope), float(intercept)


def weighted_calibration_line(label: ArrayLike, probability: ArrayLike, weights: ArrayLike) -> Array:
    """Intercept and slope as in `calibration_line` for many weightings at once, by Newton's method.

    Parameters
    ----------
    label, probability : array_like, shape (N,)
    weights : array_like, shape (draws, N)

    Returns
    -------
    ndarray, shape (draws, 2)
        Intercept and slope; nan where there is no maximum.
    """
    labels = np.asarray(label, dtype=float)
    odds = log_odds(probability)
    weight = np.atleast_2d(np.asarray(weights, dtype=float))
    powers = np.stack([np.ones_like(odds), odds, odds**2])
    line = np.zeros((len(weight), 2))
    step = np.full_like(line, np.inf)
    for _ in range(_NEWTON_STEPS):
        with np.errstate(over="ignore"):
            expected = 1 / (1 + np.exp(-(line @ powers[:2])))
        gradient = (weight * (labels - expected)) @ powers[:2].T
        curvature = (weight * expected * (1 - expected)) @ powers.T
        step = _newton_step(gradient, curvature)
        # Halved where it would leap, which Newton's method does from far away.
        step /= np.maximum(1, np.abs(step).max(axis=1, keepdims=True) / 2)
        line = line + np.nan_to_num(step)
        if np.nan_to_num(np.abs(step)).max() < 1e-9:
            break
    unfinished = ~(np.abs(step).max(axis=1) < 1e-6) | (np.abs(line).max(axis=1) > _LARGEST_SLOPE)
    line[unfinished] = np.nan
    return line


def calibration_bins(label: ArrayLike, probability: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Mean probability and share of class 1 in bins of equal width.

    Parameters
    ----------
    label, probability : array_like, shape (N,)
        As for `evaluation.scores.binary_scores`.
    bins : int
        Number of bins between 0 and 1; the last one holds 1 itself.

    Returns
    -------
    pandas.DataFrame
        One row a bin: low, high, count, mean_probability and share (of class 1), nan in empty bins.
    """
    checked(label, probability)
    labels, probabilities = np.asarray(label, dtype=float), np.asarray(probability, dtype=float)
    number = np.minimum((probabilities * bins).astype(int), bins - 1)
    count = np.bincount(number, minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count,
            "mean_probability": divided(np.bincount(number, probabilities, bins), count),
            "share": divided(np.bincount(number, labels, bins), count),
        }
    )


def expected_calibration_error(label: ArrayLike, probability: ArrayLike, bins: int = 10) -> float:
    """Mean distance between probability and share of class 1 over bins, weighted by their counts.

    Naeini et al., AAAI 2015, in its form for two classes; `bins` as for `calibration_bins`.
    """
    table = calibration_bins(label, probability, bins).query("count > 0")
    distance = (table["mean_probability"] - table["share"]).abs()
    return float((distance * table["count"]).sum() / table["count"].sum())


def log_odds(probability: ArrayLike) -> Array:
    """Return log(p / (1 - p)), with p kept 1e-6 away from 0 and 1."""
    clipped = np.clip(np.asarray(probability, dtype=float), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.log(clipped) - np.log1p(-clipped)


def _newton_step(gradient: Array, curvature: Array) -> Array:
    """Solve the 2 x 2 systems [[c0, c1], [c1, c2]] step = gradient; nan where they have no solution."""
    zeroth, first, second = curvature.T
    determinant = zeroth * second - first**2
    solvable = determinant > 1e-12 * np.maximum(zeroth * second, 1e-300)
    whole = np.where(solvable, determinant, 0)
    intercept = divided(second * gradient[:, 0] - first * gradient[:, 1], whole)
    slope = divided(zeroth * gradient[:, 1] - first * gradient[:, 0], whole)
    return np.stack([intercept, slope], axis=1)


def _error(units: pd.DataFrame, weights: Array, bins: int = 10) -> Array:
    """Return the expected calibration error under many weightings."""
    probability = units["probability"].to_numpy(dtype=float)
    member = np.eye(bins)[np.minimum((probability * bins).astype(int), bins - 1)]
    excess = weights @ (member * (probability - units["label"].to_numpy(dtype=float))[:, None])
    return divided(np.abs(excess).sum(axis=1), weights.sum(axis=1))


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
        Prevalence requested, between 0 and 1.

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
    draws: int,
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
        Columns score (sensitivity, specificity, accuracy, ppv, npv, brier), value, low, high, reason. A
        predictive value is nan where nothing is predicted so.
    """
    labels = units["label"]
    checked(labels, units["probability"])
    shifted = shift_prior(
        units["probability"], float(labels.mean()) if source is None else source, prevalence
    )
    rows = []
    for name, score in _at(prevalence).items():
        interval = cluster_bootstrap(units.assign(probability=shifted), score, draws=draws, seed=seed)
        rows.append((name, *interval.cells))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high", "reason"])


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
    checked(label, probability)
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
        of_class = [divided(weights @ (part * error), weights @ part) for part in (positive, 1 - positive)]
        return prevalence * of_class[0] + (1 - prevalence) * of_class[1]

    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "accuracy": accuracy,
        "ppv": ppv,
        "npv": npv,
        "brier": brier,
    }
