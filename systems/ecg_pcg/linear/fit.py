"""Fit linear models, which need no epochs: standardization and logistic regression, a modality at a time.

Features are a mapping from modality to an array of one row a recording. A row with NaN marks a recording
without the modality. Log-odds of the present modalities are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from common.errors import UserError
from datasets.splits import split_quietly

Features = Mapping[str, NDArray[np.floating]]

INVERSE_PENALTY: Mapping[str, float] = MappingProxyType({"pcg": 0.01, "ecg": 0.1})
"""Inverse strength C of the squared penalty of each modality: 2244 features need a strong one."""
ITERATIONS = 2000


@dataclass(frozen=True)
class Logistic:
    """A fitted standardization and logistic regression.

    Attributes
    ----------
    mean, scale, weight : numpy.ndarray, shape (features,)
    bias : float
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float64]
    bias: float

    def log_odds(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map features (N, features) to log-odds of class 1, shape (N,)."""
        return (values - self.mean) / self.scale @ self.weight + self.bias


def fit_logistic(
    values: NDArray[np.floating],
    labels: NDArray[np.integer],
    inverse_penalty: float,
    weights: NDArray[np.floating] | None = None,
) -> Logistic:
    """Fit on rows that are all finite. The fit is deterministic.

    Parameters
    ----------
    values : numpy.ndarray, shape (N, features)
    labels : numpy.ndarray of int, shape (N,)
        Both 0 and 1.
    inverse_penalty : float
    weights : numpy.ndarray, shape (N,), optional
        Of the rows; default: both classes weigh the same.
    """
    from sklearn.linear_model import LogisticRegression  # half a second, and predictions fit nothing
    from sklearn.preprocessing import StandardScaler

    values = values.astype(np.float64)
    scaler = StandardScaler().fit(values, sample_weight=weights)
    balance = "balanced" if weights is None else None
    regression = LogisticRegression(C=inverse_penalty, class_weight=balance, max_iter=ITERATIONS)
    regression.fit(scaler.transform(values), labels, sample_weight=weights)
    return Logistic(scaler.mean_, scaler.scale_, regression.coef_[0], float(regression.intercept_[0]))


def fit_modalities(
    features: Features,
    labels: NDArray[np.integer],
    inverse_penalty: Mapping[str, float] = INVERSE_PENALTY,
) -> dict[str, Logistic]:
    """Fit every modality on the rows that have it; one without both classes is left out.

    Raises
    ------
    UserError
        If none can be fitted.
    """
    fits = {}
    for name, values in features.items():
        here = present(values)
        if len(np.unique(labels[here])) == 2:
            fits[name] = fit_logistic(values[here], labels[here], inverse_penalty[name])
    if not fits:
        counts = ", ".join(f"{int(present(values).sum())} with {name}" for name, values in features.items())
        raise UserError(
            f"A linear model needs recordings of both classes to learn from; there are {len(labels)} "
            f"({counts}), {int(labels.sum())} of them abnormal. Prepare more data, or choose fewer folds."
        )
    return fits


def present(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which rows have the modality, shape (N,)."""
    return np.isfinite(values).all(axis=1)


def sum_log_odds(fits: Mapping[str, Logistic], features: Features) -> NDArray[np.float64]:
    """Return the summed log-odds of the present modalities, shape (N,); NaN where none is."""
    known = {name: present(features[name]) for name in fits}
    total = np.zeros(len(next(iter(known.values()))))
    for name, fitted in fits.items():
        total[known[name]] += fitted.log_odds(features[name][known[name]].astype(np.float64))
    total[~np.any(list(known.values()), axis=0)] = np.nan
    return total


def fit_linear(
    model: nn.Module,
    features: Features,
    labels: NDArray[np.integer],
    inverse_penalty: Mapping[str, float] = INVERSE_PENALTY,
) -> None:
    """Fit a model on training recordings and fill its tensors.

    Parameters
    ----------
    model : models.linear.PhaseGridLinear
        Or any network with one `StandardizedLogistic` of the name of each modality.
    features : mapping of str to numpy.ndarray, shape (N, features)
        The training rows only: mean and scale are learned here as well.
    labels : numpy.ndarray of int, shape (N,)
    inverse_penalty : mapping of str to float
    """
    state = model.state_dict()
    for name in features:
        state[f"{name}.fitted"] = torch.tensor(False)
    for name, fitted in fit_modalities(features, labels, inverse_penalty).items():
        state[f"{name}.fitted"] = torch.tensor(True)
        for part in ("mean", "scale", "weight", "bias"):
            state[f"{name}.{part}"] = torch.as_tensor(getattr(fitted, part), dtype=torch.float64)
    model.load_state_dict(state)


def out_of_fold_log_odds(
    features: Features,
    labels: NDArray[np.integer],
    groups: ArrayLike,
    folds: int = 5,
    seed: int = 0,
    inverse_penalty: Mapping[str, float] = INVERSE_PENALTY,
) -> NDArray[np.float64]:
    """Return the log-odds of each recording from a fit on folds that share no group with it.

    Parameters
    ----------
    features : mapping of str to numpy.ndarray, shape (N, features)
    labels : numpy.ndarray of int, shape (N,)
    groups : array_like, shape (N,)
        Sessions.
    folds : int
    seed : int
        Of the shuffle of the groups.
    inverse_penalty : mapping of str to float

    Returns
    -------
    numpy.ndarray, shape (N,)
        NaN where a recording has no modality that could be fitted.

    Raises
    ------
    UserError
        If there are fewer groups than folds, or a training part lacks a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.asarray(groups)
    if len(np.unique(groups)) < folds:
        raise UserError(f"{len(np.unique(groups))} sessions cannot be split into {folds} folds.")
    log_odds = np.full(len(labels), np.nan)
    parts = split_quietly(StratifiedGroupKFold(folds, shuffle=True, random_state=seed), labels, groups)
    if not parts:
        raise UserError(f"{len(labels)} recordings cannot be split into {folds} folds with both classes.")
    for train, test in parts:
        fits = fit_modalities(_rows(features, train), labels[train], inverse_penalty)
        log_odds[test] = sum_log_odds(fits, _rows(features, test))
    return log_odds


def _rows(features: Features, rows: NDArray[np.integer]) -> dict[str, NDArray[np.floating]]:
    """Return these rows of every modality."""
    return {name: values[rows] for name, values in features.items()}
