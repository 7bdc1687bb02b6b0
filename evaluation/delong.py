"""DeLong's variance and paired test of the area under the ROC curve, for independent units only.

DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; by midranks as in Sun and Xu, IEEE Signal Process.
Lett. 21, 2014. It takes every unit as independent of all others. Beats and recordings of one person are
not, so it is applied to persons, and even those share sessions: read it beside the interval over sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from evaluation.weighted import Array


@dataclass(frozen=True)
class DeLongTest:
    """Two AUROCs on the same persons, and the test of their difference."""

    first: float
    """AUROC of the first score."""
    second: float
    """AUROC of the second score."""
    difference: float
    """First minus second."""
    standard_error: float
    """Of the difference; nan with fewer than two persons of a class."""
    z: float
    """Difference over its standard error; 0 where both are 0."""
    p_value: float
    """Two-sided, from the normal distribution."""


def delong_covariance(label: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Areas under the ROC curves of several scores of the same persons, and their covariance.

    Parameters
    ----------
    label : array_like, shape (N,)
        1 abnormal, 0 normal.
    scores : array_like, shape (models, N)
        Higher for class 1.

    Returns
    -------
    areas : ndarray, shape (models,)
    covariance : ndarray, shape (models, models)
        S10 / m + S01 / n of the paper; nan with fewer than two persons of a class.
    """
    labels = np.asarray(label, dtype=bool)
    values = np.atleast_2d(np.asarray(scores, dtype=float))
    if values.shape[1:] != labels.shape or not np.isfinite(values).all():
        raise ValueError(
            f"Need finite scores (models, N) for N labels, not {values.shape} for {labels.shape}."
        )
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError("There is one class only: an area under the ROC curve needs both.")
    overall = stats.rankdata(values, axis=1)
    among_positives = stats.rankdata(values[:, labels], axis=1)
    among_negatives = stats.rankdata(values[:, ~labels], axis=1)
    # Share of the other class that each person is ordered right with.
    of_positives = (overall[:, labels] - among_positives) / negatives
    of_negatives = 1 - (overall[:, ~labels] - among_negatives) / positives
    areas = of_positives.mean(axis=1)
    if min(positives, negatives) < 2:
        return areas, np.full((len(values), len(values)), np.nan)
    covariance = np.cov(of_positives) / positives + np.cov(of_negatives) / negatives
    return areas, np.atleast_2d(covariance)


def delong_test(label: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLongTest:
    """Test whether two scores of the same persons have the same AUROC.

    Parameters
    ----------
    label : array_like, shape (N,)
        One person each: 1 abnormal, 0 normal.
    first, second : array_like, shape (N,)
        Scores of the two models.

    Returns
    -------
    DeLongTest
    """
    areas, covariance = delong_covariance(label, np.stack([np.asarray(first), np.asarray(second)]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = float(np.sqrt(max(variance, 0))) if np.isfinite(variance) else np.nan
    z = difference / error if error > 1e-12 else (0.0 if abs(difference) < 1e-12 else np.nan)
    z = np.nan if np.isnan(error) else z
    return DeLongTest(
        float(areas[0]), float(areas[1]), difference, error, z, float(2 * stats.norm.sf(abs(z)))
    )
