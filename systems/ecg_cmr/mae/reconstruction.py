"""How well what was hidden is reconstructed, sample by sample."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from evaluation.statistics import cluster_bootstrap
from evaluation.weighted import Array, Statistic, divided


def masked_correlation(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Correlate truth and reconstruction over the hidden part (normalized cross-correlation).

    Parameters
    ----------
    truth, found : torch.Tensor, shape (B, ...)
    mask : torch.Tensor of bool, shape (B, ...)
        What was hidden, and is compared.

    Returns
    -------
    torch.Tensor, shape (B,)
        -1 to 1; 0 where either is constant, NaN where nothing was hidden.
    """
    count = mask.flatten(1).sum(dim=1)
    one, two = (_centred(values, mask, count) for values in (truth, found))
    together = (one * two).sum(dim=1)
    scale = (one.square().sum(dim=1) * two.square().sum(dim=1)).sqrt()
    value = torch.where(scale > 0, together / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0)
    return torch.where(count > 0, value, torch.nan)


def masked_error(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the hidden part, shape (B,); NaN where nothing was hidden."""
    squared = ((truth - found).square() * mask).flatten(1).sum(dim=1)
    return squared / mask.flatten(1).sum(dim=1)


def reconstruction_table(scores: pd.DataFrame, *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Summarize how well hidden parts were reconstructed, over patients, with intervals.

    Parameters
    ----------
    scores : pandas.DataFrame
        A row a recording: ``session`` (the patient, who is drawn), ``ncc`` and ``error`` of the
        reconstruction, and ``error_of_mean``, that of the mean of the whole signal, hidden part included.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns score, value, low, high, recordings. ``relative_error`` is the ratio of both errors' sums: 1
        for a network that does no better than the mean; ``better_than_mean`` the share of recordings that do.
    """
    units = scores[scores["ncc"].notna()].reset_index(drop=True)
    better = (units["error"] < units["error_of_mean"]).astype(float)
    units = units.assign(better_than_mean=better, sample=np.arange(len(units)))
    rows = []
    for name in ("ncc", "relative_error", "better_than_mean"):
        found = cluster_bootstrap(units, _STATISTICS[name], "session", draws=draws, seed=seed)
        rows.append((name, found.estimate, found.low, found.high, len(units)))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high", "recordings"])


def _mean_of(name: str, units: pd.DataFrame, weights: Array) -> Array:
    return divided(weights @ units[name].to_numpy(dtype=float), weights.sum(axis=1))


def _relative_error(units: pd.DataFrame, weights: Array) -> Array:
    return divided(_mean_of("error", units, weights), _mean_of("error_of_mean", units, weights))


_STATISTICS: dict[str, Statistic] = {
    "ncc": functools.partial(_mean_of, "ncc"),
    "relative_error": _relative_error,
    "better_than_mean": functools.partial(_mean_of, "better_than_mean"),
}


def _centred(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Return values (B, N) less their mean over the mask, 0 outside of it."""
    flat, known = values.double().flatten(1), mask.flatten(1)
    mean = (flat * known).sum(dim=1) / count.clamp(min=1)
    return (flat - mean.unsqueeze(1)) * known
