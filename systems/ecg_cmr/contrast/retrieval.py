"""Whether the other half of a pair is found among all."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import cluster_bootstrap
from evaluation.weighted import Array

RANKS = (1, 5, 10)


def true_ranks(queries: ArrayLike, gallery: ArrayLike, patient: ArrayLike | None = None) -> Array:
    """Rank of each query's partner among the gallery, 1 the best.

    Parameters
    ----------
    queries, gallery : array_like, shape (N, D)
        Embeddings of length one; row by row of one pair.
    patient : array_like, shape (N,), optional
        The best rank of any pair of the same patient counts.

    Returns
    -------
    ndarray, shape (N,)
        Of ties the worst rank counts, so that embeddings that are all alike find nothing.
    """
    similarity = np.asarray(queries, dtype=float) @ np.asarray(gallery, dtype=float).T
    names = np.arange(len(similarity)) if patient is None else np.asarray(patient)
    same = names[:, None] == names[None, :]
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((similarity >= best) & ~same).sum(axis=1).astype(float)


def retrieval_table(
    ecg: ArrayLike,
    cmr: ArrayLike,
    patient: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall among the first 1, 5 and 10 both ways, beside chance.

    Parameters
    ----------
    ecg, cmr : array_like, shape (N, D)
        Embeddings of length one.
    patient : array_like, shape (N,)
        The unit that is drawn for the intervals.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`. The gallery stays whole in every draw.

    Returns
    -------
    pandas.DataFrame
        Columns direction, rank, recall, low, high, chance, pairs.
    """
    rows = []
    for direction, queries, gallery in (("ECG to CMR", ecg, cmr), ("CMR to ECG", cmr, ecg)):
        ranks = true_ranks(queries, gallery, patient)
        for rank in RANKS:
            units = pd.DataFrame({"found": (ranks <= rank).astype(float), "patient": patient})
            interval = cluster_bootstrap(units, _mean_found, "patient", draws=draws, seed=seed)
            chance = min(1.0, rank / len(ranks))
            rows.append((direction, rank, interval.estimate, interval.low, interval.high, chance, len(ranks)))
    return pd.DataFrame(rows, columns=["direction", "rank", "recall", "low", "high", "chance", "pairs"])


def _mean_found(units: pd.DataFrame, weights: Array) -> Array:
    return weights @ units["found"].to_numpy() / weights.sum(axis=1)
