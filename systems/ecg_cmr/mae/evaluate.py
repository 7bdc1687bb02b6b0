"""Evaluation of a run of ``ecg-mae`` or ``cmr-mae``: how well hidden parts are reconstructed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.statistics import Array, Statistic, cluster_bootstrap, divided
from evaluation.tables import Caption
from systems.base.evaluation_run import EvaluationRun, predict_run
from systems.ecg_cmr.evaluate import write_stage

_CAPTIONS = {
    "reconstruction": Caption(
        "How well hidden parts are reconstructed. ncc: normalized cross-correlation with the truth, 1 at "
        "best. Relative error: squared error over that of the mean of the signal, 1 is no better than the "
        "mean. Better than mean: share of recordings that are better than their mean."
    ),
}


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    predictions = predict_run(run)
    table = _reconstruction_table(predictions, draws=run.settings.bootstrap_draws)
    return write_stage(run, predictions, {"reconstruction": table}, captions=_CAPTIONS)


def _reconstruction_table(scores: pd.DataFrame, *, draws: int, seed: int = 0) -> pd.DataFrame:
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
        Columns score, value, low, high, reason, recordings. ``relative_error`` is the ratio of both errors'
        sums: 1 for a network that does no better than the mean; ``better_than_mean`` the share of recordings
        that do.
    """
    units = scores[scores["ncc"].notna()].reset_index(drop=True)
    better = (units["error"] < units["error_of_mean"]).astype(float)
    units = units.assign(better_than_mean=better, sample=np.arange(len(units)))
    rows = []
    for name in ("ncc", "relative_error", "better_than_mean"):
        found = cluster_bootstrap(units, _STATISTICS[name], "session", noun="patient", draws=draws, seed=seed)
        rows.append((name, *found.cells, len(units)))
    return pd.DataFrame(rows, columns=["score", "value", "low", "high", "reason", "recordings"])


def _mean_of(name: str, units: pd.DataFrame, weights: Array) -> Array:
    return divided(weights @ units[name].to_numpy(dtype=float), weights.sum(axis=1))


def _relative_error(units: pd.DataFrame, weights: Array) -> Array:
    return divided(_mean_of("error", units, weights), _mean_of("error_of_mean", units, weights))


_STATISTICS: dict[str, Statistic] = {
    "ncc": functools.partial(_mean_of, "ncc"),
    "relative_error": _relative_error,
    "better_than_mean": functools.partial(_mean_of, "better_than_mean"),
}
