"""Indicators (numbers) and diseases (yes or no) of a patient, predicted: scores a column, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import Interval, cluster_bootstrap, paired_cluster_bootstrap
from evaluation.weighted import Array, divided

INDICATOR_SCORES = ("r", "r2", "mae")
INDICATOR_UNITS = {
    **dict.fromkeys(("lv_edv", "lv_esv", "rv_edv", "rv_esv", "stroke_volume", "la_volume"), "mL"),
    **dict.fromkeys(("ejection_fraction", "rv_ejection_fraction"), "%"),
    **dict.fromkeys(("longitudinal_strain", "circumferential_strain", "radial_strain"), "%"),
    "lv_mass": "g",
    "wall_thickness": "mm",
    "blood_contrast": "",
}
"""Units of the indicators of simulated patients and of ACDC; one's own tables have units of their own."""


def weighted_correlation(units: pd.DataFrame, weights: Array) -> Array:
    """Pearson's r of the columns ``truth`` and ``predicted`` for many weightings (draws, N)."""
    one, two = (units[name].to_numpy(dtype=float) for name in ("truth", "predicted"))
    total = weights.sum(axis=1)
    mean_one, mean_two = divided(weights @ one, total), divided(weights @ two, total)
    covariance = divided(weights @ (one * two), total) - mean_one * mean_two
    spread = (divided(weights @ one**2, total) - mean_one**2) * (
        divided(weights @ two**2, total) - mean_two**2
    )
    return divided(covariance, np.sqrt(np.maximum(spread, 0)))


def weighted_r2(units: pd.DataFrame, weights: Array) -> Array:
    """Share of the variance of ``truth`` explained by ``predicted`` as it is; below 0 worse than the mean."""
    truth, predicted = (units[name].to_numpy(dtype=float) for name in ("truth", "predicted"))
    total = weights.sum(axis=1)
    variance = divided(weights @ truth**2, total) - divided(weights @ truth, total) ** 2
    return 1 - divided(divided(weights @ (truth - predicted) ** 2, total), variance)


def weighted_absolute_error(units: pd.DataFrame, weights: Array) -> Array:
    """Mean absolute difference of ``truth`` and ``predicted``."""
    error = np.abs(units["truth"].to_numpy(dtype=float) - units["predicted"].to_numpy(dtype=float))
    return divided(weights @ error, weights.sum(axis=1))


STATISTICS = {"r": weighted_correlation, "r2": weighted_r2, "mae": weighted_absolute_error}


def indicator_table(
    truth: pd.DataFrame,
    predicted: pd.DataFrame,
    patient: Sequence[object],
    ceilings: Mapping[str, float] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score each indicator on the patients of whom it is known.

    Parameters
    ----------
    truth, predicted : pandas.DataFrame
        One column an indicator, in its unit; NaN in ``truth`` where not known.
    patient : sequence
        The unit that is drawn.
    ceilings : mapping of str to float, optional
        Highest R2 that is possible, where the truth is known (simulated patients).
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns indicator, patients, and for r, r2 and mae value, ``_low`` and ``_high``; r2_ceiling.
    """
    rows = []
    for name in truth:
        units = _known(truth[name], predicted[name], patient)
        row: dict[str, object] = {"indicator": name, "patients": len(units)}
        for score in INDICATOR_SCORES:
            found = Interval(np.nan, np.nan, np.nan, 0, 0.0)
            if len(units) > 2:
                found = cluster_bootstrap(units, STATISTICS[score], "patient", draws=draws, seed=seed)
            row |= {score: found.estimate, f"{score}_low": found.low, f"{score}_high": found.high}
        rows.append(row | {"r2_ceiling": (ceilings or {}).get(str(name), np.nan)})
    return pd.DataFrame(rows)


def compare_indicator(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    patient: Sequence[object],
    score: str = "r",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Return the difference (first - second) of a score of one indicator, paired by patient."""
    one, two = (_known(truth, predicted, patient) for predicted in (first, second))
    found = paired_cluster_bootstrap(one, two, STATISTICS[score], "patient", draws=draws, seed=seed)
    return {"difference": found.estimate, "low": found.low, "high": found.high, "p": found.p_value}


def _known(truth: ArrayLike, predicted: ArrayLike, patient: Sequence[object]) -> pd.DataFrame:
    units = pd.DataFrame(
        {"truth": np.asarray(truth, dtype=float), "predicted": np.asarray(predicted, dtype=float)}
    )
    units = units.assign(patient=np.asarray(patient), sample=np.arange(len(units)))
    return units[units["truth"].notna()].reset_index(drop=True)
