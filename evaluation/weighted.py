"""Scores of one set of predictions under many weightings at once: what a bootstrap needs.

A draw of clusters is a weight for each row, namely how often it was drawn. A statistic takes the table of N
rows and weights ``(draws, N)`` and returns ``(draws,)``, nan where it is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Statistic = Callable[[pd.DataFrame, Array], Array]


def weighted_auroc(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> Array:
    """Area under the ROC curve for many weightings at once.

    Parameters
    ----------
    label : array_like, shape (N,)
        0 or 1.
    score : array_like, shape (N,)
        Higher for class 1.
    weights : array_like, shape (draws, N)
        Weight of each sample, such as how often it was drawn.

    Returns
    -------
    ndarray, shape (draws,)
        Weighted share of pairs of both classes ordered right, ties counted half (the Mann-Whitney
        form); nan where a class has no weight.
    """
    positive, negative = _weights_by_score(label, score, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    return divided((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_average_precision(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> Array:
    """Average precision (area under the precision-recall steps); shapes as for `weighted_auroc`."""
    positive, negative = (part[:, ::-1] for part in _weights_by_score(label, score, weights))
    found = np.cumsum(positive, axis=1)
    precision = divided(found, found + np.cumsum(negative, axis=1))
    area = (positive * np.nan_to_num(precision)).sum(axis=1)
    return np.where(negative.sum(axis=1) > 0, divided(area, positive.sum(axis=1)), np.nan)


def divided(part: Array, whole: Array) -> Array:
    """Return part / whole, nan where the whole is zero; shapes as they broadcast."""
    result = np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan)
    return np.divide(part, whole, out=result, where=np.asarray(whole) != 0)


def _auroc(units: pd.DataFrame, weights: Array) -> Array:
    return weighted_auroc(units["label"], units["probability"], weights)


def _average_precision(units: pd.DataFrame, weights: Array) -> Array:
    return weighted_average_precision(units["label"], units["probability"], weights)


def _accuracy(units: pd.DataFrame, weights: Array) -> Array:
    right = _decisions(units) == units["label"].to_numpy()
    return divided(weights @ right.astype(float), weights.sum(axis=1))


def _sensitivity(units: pd.DataFrame, weights: Array) -> Array:
    positive = units["label"].to_numpy(dtype=float)
    return divided(weights @ (positive * _decisions(units)), weights @ positive)


def _specificity(units: pd.DataFrame, weights: Array) -> Array:
    negative = 1 - units["label"].to_numpy(dtype=float)
    return divided(weights @ (negative * ~_decisions(units)), weights @ negative)


def _macc(units: pd.DataFrame, weights: Array) -> Array:
    return (_sensitivity(units, weights) + _specificity(units, weights)) / 2


def _f1(units: pd.DataFrame, weights: Array) -> Array:
    positive = units["label"].to_numpy(dtype=float)
    decided = _decisions(units).astype(float)
    return divided(2 * weights @ (positive * decided), weights @ (positive + decided))


def _brier(units: pd.DataFrame, weights: Array) -> Array:
    error = (units["probability"] - units["label"]).to_numpy(dtype=float) ** 2
    return divided(weights @ error, weights.sum(axis=1))


STATISTICS: dict[str, Statistic] = {
    "auroc": _auroc,
    "auprc": _average_precision,
    "accuracy": _accuracy,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "macc": _macc,
    "f1": _f1,
    "brier": _brier,
}


def _decisions(units: pd.DataFrame) -> NDArray[np.bool_]:
    return (units["probability"] >= units["threshold"]).to_numpy(dtype=bool)


def _weights_by_score(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Return the weights (draws, distinct scores) of both classes, by ascending score."""
    scores = np.asarray(score, dtype=float)
    order = np.argsort(scores, kind="stable")
    ordered = np.atleast_2d(np.asarray(weights, dtype=float))[:, order]
    positive = ordered * np.asarray(label, dtype=float)[order]
    negative = ordered - positive
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    if len(first) == len(scores):
        return positive, negative
    return np.add.reduceat(positive, first, axis=1), np.add.reduceat(negative, first, axis=1)
