"""Linear regression of many numbers from many features, its penalty chosen by leaving one out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

PENALTIES = np.logspace(0, 6, 13)
"""Penalties to choose from, for standardized features."""
FEWEST = 10
"""Samples that a line is fitted to at least."""


def fit_ridge(features: ArrayLike, targets: ArrayLike) -> Pipeline:
    """Fit ridge regression; the penalty is the best of `PENALTIES` by generalized cross-validation.

    Parameters
    ----------
    features : array_like, shape (N, F)
    targets : array_like, shape (N,) or (N, K)
        All known.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Its ``predict`` maps (M, F) to (M,) or (M, K).

    Raises
    ------
    ValueError
        If there are too few samples.
    """
    known = np.asarray(targets, np.float64)
    if len(known) < FEWEST:
        raise ValueError(f"{len(known)} samples are too few for a regression; {FEWEST} are needed.")
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    return model.fit(np.asarray(features, np.float64), known)


def predict_each(features: NDArray[np.float64], targets: NDArray[np.float64], others: ArrayLike) -> NDArray:
    """Return each column of targets (N, K; NaN where not known) as its own regression predicts it, (M, K).

    A column that is known of too few is predicted as its mean.
    """
    found = []
    for column in targets.T:
        known = np.isfinite(column)
        if known.sum() >= FEWEST:
            found.append(fit_ridge(features[known], column[known]).predict(np.asarray(others, np.float64)))
        else:
            mean = column[known].mean() if known.any() else np.nan
            found.append(np.full(len(np.asarray(others)), mean))
    return np.stack(found, axis=1)
