"""What can be said of a patient without looking at the heart: shortcuts that a model may take.

The sick are older, and who is weighed and measured depends on the ward. A model that is given the clinical
table can score by that alone, so its score means something only beside these.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.weighted import Array

SHORTCUTS = MappingProxyType(
    {"missingness": "which clinical values are missing", "age_sex": "age and sex alone"}
)
ITERATIONS = 2000

Fold = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Rows of train, and rows of test."""


def shortcut_predictions(
    clinical: pd.DataFrame, label: ArrayLike, folds: Sequence[Fold], age: str = "age", sex: str = "sex"
) -> dict[str, Array]:
    """Out-of-fold probabilities of label 1 from each shortcut, by logistic regression.

    Medians of what is missing, scales and weights are fitted on the train rows of the fold alone.

    Parameters
    ----------
    clinical : pandas.DataFrame
        One row a sample, one column a clinical value, NaN where missing. Give every column that the
        model is given.
    label : array_like, shape (N,) or (N, classes)
        1, 0, or NaN where not known; a row whose label is not known is not learned from.
    folds : sequence of (train, test)
        Row numbers of both parts of each fold; keep the patients apart. No row is tested twice.
    age, sex : str
        Columns of the second shortcut, in numbers.

    Returns
    -------
    dict of str to ndarray, of the shape of `label`
        For each of `SHORTCUTS`; NaN in rows that no fold tests, and where a train part knows no label.

    Raises
    ------
    ValueError
        Where a fold tests what it trains on, a row is tested twice, or a column is not there or not numbers.
    """
    truth = np.asarray(label, dtype=float)
    if len(truth) != len(clinical) or truth.ndim not in (1, 2):
        raise ValueError(f"Labels of shape {truth.shape} do not fit a table of {len(clinical)} patients.")
    if not np.isin(truth[~np.isnan(truth)], (0, 1)).all():
        raise ValueError("Labels must be 0, 1, or NaN where not known.")
    _check_folds(folds, len(clinical))
    features = {
        "missingness": clinical.isna().to_numpy(dtype=float),
        "age_sex": _numbers(clinical, (age, sex)),
    }
    return {name: _out_of_fold(features[name], truth, folds) for name in SHORTCUTS}


def _check_folds(folds: Sequence[Fold], count: int) -> None:
    if not len(folds):
        raise ValueError("There are no folds to predict in.")
    for number, (train, test) in enumerate(folds):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"Fold {number} trains on {len(both)} of its own test rows, such as row {both[0]}."
            )
    rows = np.concatenate([np.concatenate([train, test]) for train, test in folds])
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(f"Folds name rows {rows.min()} to {rows.max()} of a table of {count}.")
    times = np.bincount(np.concatenate([test for _, test in folds]), minlength=count)
    if (times > 1).any():
        raise ValueError(f"{int((times > 1).sum())} rows are tested more than once: give one set of folds.")


def _numbers(clinical: pd.DataFrame, columns: Sequence[str]) -> Array:
    missing = [name for name in columns if name not in clinical]
    if missing:
        raise ValueError(f"The clinical table has no column {', '.join(missing)}; it has {list(clinical)}.")
    try:
        return clinical[list(columns)].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Columns {', '.join(columns)} must hold numbers: {error}.") from error


def _out_of_fold(features: Array, truth: Array, folds: Sequence[Fold]) -> Array:
    columns = truth[:, None] if truth.ndim == 1 else truth
    found = np.full(columns.shape, np.nan)
    for train, test in folds:
        for number, label in enumerate(columns.T):
            learned = train[~np.isnan(label[train])]
            if len(learned) and len(test):
                found[test, number] = _fitted(features, label, learned, test)
    return found.reshape(truth.shape)


def _fitted(features: Array, label: Array, train: Array, test: Array) -> Array:
    """Return the probabilities of the test rows; the share of label 1 where train knows one label only."""
    if len(np.unique(label[train])) < 2:
        return np.full(len(test), label[train].mean())
    return _pipeline().fit(features[train], label[train]).predict_proba(features[test])[:, 1]


def _pipeline() -> Pipeline:
    # A column that is missing throughout train stays, as zeros, so that train and test keep their columns.
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(imputer, StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
