"""Evaluation of a run of ``ecg-cmr-contrast``: whether the other half of a pair is found among all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import Array, cluster_bootstrap
from evaluation.tables import Caption
from systems.base.evaluation_run import EvaluationRun, predict_run
from systems.ecg_cmr.contrast.task import true_ranks
from systems.ecg_cmr.evaluate import write_stage
from systems.ecg_cmr.figures import retrieval_figure

_RANKS = (1, 5, 10)
_CAPTIONS = {
    "retrieval": Caption(
        "How often the other half of a pair is among the first 1, 5 or 10 of all test patients, ordered by "
        "likeness (recall), beside chance."
    ),
    "predictions": Caption("One row a test patient: the embeddings of ECG and CMR that are compared."),
}


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    predictions, draws = predict_run(run), run.settings.bootstrap_draws
    tables = []
    for number, fold in predictions.groupby("fold", sort=True):  # each fold has a space of its own
        ecg, cmr = (fold.filter(regex=f"^{name}_").to_numpy() for name in ("ecg", "cmr"))
        table = retrieval_table(ecg, cmr, fold["session"].to_numpy(), draws=draws)
        tables.append(table.assign(fold=number) if predictions["fold"].nunique() > 1 else table)
    figures = {"retrieval": retrieval_figure(tables[0], watermark=run.watermark)}
    return write_stage(
        run, predictions, {"retrieval": pd.concat(tables, ignore_index=True)}, figures, _CAPTIONS
    )


def retrieval_table(
    ecg: ArrayLike,
    cmr: ArrayLike,
    patient: ArrayLike,
    draws: int,
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
        Columns direction, rank, recall, low, high, reason (why there is no interval), chance, pairs.
    """
    rows = []
    for direction, queries, gallery in (("ECG to CMR", ecg, cmr), ("CMR to ECG", cmr, ecg)):
        ranks = true_ranks(queries, gallery, patient)
        for rank in _RANKS:
            units = pd.DataFrame({"found": (ranks <= rank).astype(float), "patient": patient})
            interval = cluster_bootstrap(units, _mean_found, "patient", draws=draws, seed=seed)
            chance = min(1.0, rank / len(ranks))
            rows.append((direction, rank, *interval.cells, chance, len(ranks)))
    columns = ["direction", "rank", "recall", "low", "high", "reason", "chance", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def _mean_found(units: pd.DataFrame, weights: Array) -> Array:
    return weights @ units["found"].to_numpy() / weights.sum(axis=1)
