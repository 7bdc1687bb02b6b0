"""Fit `models.cycle_shape.CycleShape`: one logistic regression, calibrated on databases left out.

Databases and classes weigh alike, so that neither a large hospital nor its share of abnormal decides. The
penalty is strong: weights then follow what each feature says by itself in most databases. It makes the
log-odds too small, so they are stretched by a line. The line is fitted to predictions for databases that a
fit has not seen, or for sessions where there are fewer than three databases. Its slope is the median over the
databases, and so is its intercept: a single odd device does not decide them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from common.errors import UserError
from evaluation.calibration import weighted_calibration_line
from models.cycle_shape import CycleShape
from systems.ecg_pcg.linear.fit import Logistic, fit_logistic
from systems.ecg_pcg.phase_fusion.fit import inner_folds

INVERSE_PENALTY = 3e-4
"""Inverse strength C of the squared penalty, for weights whose mean is 1."""
_FEWEST_DATABASES = 3
_INNER_FOLDS = 5
_STEEPEST, _FARTHEST = 20.0, 10.0
"""Bounds of slope and intercept: a database in which the classes are apart has no steepest slope."""


def fit_cycle_shape(
    model: CycleShape,
    pcg_grid: torch.Tensor,
    labels: NDArray[np.integer],
    databases: NDArray[np.str_],
    sessions: NDArray[np.str_],
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Fit the model in place on training recordings.

    Parameters
    ----------
    model : CycleShape
    pcg_grid : torch.Tensor, shape (N, features)
        Grids, all of them there.
    labels : numpy.ndarray of int, shape (N,)
    databases, sessions : numpy.ndarray of str, shape (N,)
    seed : int
        Of the inner folds of sessions.

    Returns
    -------
    numpy.ndarray, shape (N,)
        Calibrated log-odds of the recordings, each from a fit that has not seen its database (or session);
        NaN where there are too few sessions.

    Raises
    ------
    UserError
        If there is one class only.
    """
    if len(np.unique(labels)) < 2:
        raise UserError(
            f"This model needs heart sounds of both classes to learn from; there are {len(labels)}, "
            f"{int(labels.sum())} of them abnormal. Prepare more data, or choose fewer folds."
        )
    values = model.features(pcg_grid).numpy()
    outside = np.full(len(labels), np.nan)
    parts, groups = _inner_parts(labels, databases, sessions, seed)
    for train, test in parts:
        fitted = fit_balanced(values[train], labels[train], databases[train])
        outside[test] = fitted.log_odds(values[test])
    intercept, slope = calibration_over(outside, labels, groups) if parts else (0.0, 1.0)
    fitted = fit_balanced(values, labels, databases)
    state = {
        "mean": torch.from_numpy(fitted.mean),
        "scale": torch.from_numpy(fitted.scale),
        "weight": torch.from_numpy(slope * fitted.weight),
        "bias": torch.tensor(intercept + slope * fitted.bias, dtype=torch.float64),
        "fitted": torch.tensor(True),
    }
    model.pcg.load_state_dict(state)
    return intercept + slope * outside


def fit_balanced(
    values: NDArray[np.floating], labels: NDArray[np.integer], databases: NDArray[np.str_]
) -> Logistic:
    """Fit one logistic regression in which databases, and classes within them, weigh alike."""
    return fit_logistic(values, labels, INVERSE_PENALTY, balanced_weights(labels, databases))


def balanced_weights(labels: NDArray[np.integer], databases: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return weights under which each class of each database counts the same; their mean is 1."""
    weights = np.zeros(len(labels))
    for database in np.unique(databases):
        for label in np.unique(labels):
            here = (databases == database) & (labels == label)
            weights[here] = 1 / max(here.sum(), 1)
    return weights / weights.mean()


def calibration_over(
    log_odds: NDArray[np.float64], labels: NDArray[np.integer], groups: NDArray[np.str_]
) -> tuple[float, float]:
    """Return intercept and slope: medians over the groups that have both classes, which weigh alike.

    Each group has a slope of its own. The intercept is the one that the group needs at the common slope.
    """
    both = [group for group in np.unique(groups) if len(np.unique(labels[groups == group])) == 2]
    rows = [groups == group for group in both]
    weights = [balanced_weights(labels[here], groups[here]) for here in rows]
    slopes = [
        weighted_calibration_line(labels[here], special.expit(log_odds[here]), weight[None])[0][1]
        for here, weight in zip(rows, weights, strict=True)
    ]
    slope = float(np.clip(np.median(np.nan_to_num(slopes, nan=_STEEPEST)), 0.0, _STEEPEST))
    intercepts = [
        _intercept(slope * log_odds[here], labels[here], weight)
        for here, weight in zip(rows, weights, strict=True)
    ]
    return float(np.median(intercepts)), slope


def _intercept(
    log_odds: NDArray[np.float64], labels: NDArray[np.integer], weights: NDArray[np.float64]
) -> float:
    """Return what is added to log-odds so that their mean probability is the share of the labels."""

    def excess(shift: float) -> float:
        return float(np.average(special.expit(log_odds + shift) - labels, weights=weights))

    reach = float(np.abs(log_odds).max()) + _FARTHEST
    return float(optimize.brentq(excess, -reach, reach))


def _inner_parts(
    labels: NDArray[np.integer], databases: NDArray[np.str_], sessions: NDArray[np.str_], seed: int
) -> tuple[Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], NDArray[np.str_]]:
    """Return train and test rows of the inner fits, and the groups that the calibration is a median over."""
    names = np.unique(databases)
    if len(names) >= _FEWEST_DATABASES:
        apart = [(np.flatnonzero(databases != name), np.flatnonzero(databases == name)) for name in names]
        return [part for part in apart if len(np.unique(labels[part[0]])) == 2], databases
    return inner_folds(labels, sessions, _INNER_FOLDS, seed) or [], np.full(len(labels), "all")
