"""How far off predictions for patients never seen are: what has to be said beside a prediction for one.

The bound is that of split conformal prediction: of ``n`` absolute errors the ``ceil((n + 1) * coverage)``-th
smallest. If whoever is judged is like those it was measured on, the truth lies within it of the prediction
at least that often, whatever the errors are distributed like (Lei et al., J. Am. Stat. Assoc. 113 (2018)
1094). Being like them is the condition: of other hospitals, devices and diseases it promises nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evaluation.delong import delong_covariance

COVERAGE = 0.9
"""Share of patients whose truth lies within the bound."""
ONE_SIDED = 1.645
"""Standard errors below an estimate that the truth lies above in 95 of 100 cases."""


def indicator_error(truth: ArrayLike, predicted: ArrayLike, usual: float) -> dict[str, Any]:
    """Measure the errors of one indicator.

    Parameters
    ----------
    truth, predicted : array_like, shape (patients,)
        In its unit; NaN in ``truth`` where not known.
    usual : float
        Mean of the training patients: what would be said without looking.

    Returns
    -------
    dict
        ``patients`` of whom it is known; ``deviation``, root of the mean squared error; ``bound`` (above),
        None for too few; ``r2``, 1 less the squared error over that of saying ``usual`` of everybody, None
        where it is undefined; ``better``, whether the squared error is below that by more than chance would
        have it (one-sided, 5 %).
    """
    known = np.isfinite(np.asarray(truth, dtype=float))
    true, said = (np.asarray(values, dtype=float)[known] for values in (truth, predicted))
    error, blind = (said - true) ** 2, (usual - true) ** 2
    count, gain = len(true), blind - error
    place = math.ceil((count + 1) * COVERAGE)
    spread = float(gain.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    defined = count > 1 and blind.sum() > 0
    return {
        "patients": count,
        "deviation": float(np.sqrt(error.mean())) if count else None,
        "bound": float(np.sort(np.abs(said - true))[place - 1]) if 0 < place <= count else None,
        "r2": float(1 - error.sum() / blind.sum()) if defined else None,
        "better": bool(defined and gain.mean() > ONE_SIDED * spread),
    }


def disease_error(truth: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Measure how well the probabilities of one disease order patients.

    Parameters
    ----------
    truth, predicted : array_like, shape (patients,)
        0 or 1, NaN where not known; and probabilities.

    Returns
    -------
    dict
        ``patients`` of whom it is known, ``diseased`` among them, ``auroc`` (None without both), ``better``:
        whether that is above one half by more than chance would have it (DeLong, one-sided, 5 %).
    """
    known = np.isfinite(np.asarray(truth, dtype=float))
    true, said = (np.asarray(values, dtype=float)[known] for values in (truth, predicted))
    diseased = int(true.sum())
    named: dict[str, Any] = {"patients": len(true), "diseased": diseased, "auroc": None, "better": False}
    if not 0 < diseased < len(true):
        return named
    area, covariance = delong_covariance(true, said[None])
    spread = math.sqrt(max(float(covariance[0, 0]), 0.0))  # NaN, with one of a kind, makes it not better
    return named | {"auroc": float(area[0]), "better": bool(area[0] - ONE_SIDED * spread > 0.5)}
