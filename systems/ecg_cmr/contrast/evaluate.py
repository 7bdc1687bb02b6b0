"""Evaluation of a run of ``ecg-cmr-contrast``: whether the other half of a pair is found among all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import Array, cluster_bootstrap
from evaluation.tables import Caption
from systems.base.evaluation_run import EvaluationRun, one_model, predict_run
from systems.ecg_cmr.contrast.task import true_ranks
from systems.ecg_cmr.evaluate import write_stage
from systems.ecg_cmr.figures import retrieval_figure

RANKS = (1, 5, 10)
_CAPTIONS = {
    "retrieval": Caption(
        "How often the other half of a pair is among the first 1, 5 or 10 of all test patients, ordered by "
        "likeness (recall), beside chance. CMR is the short axis."
    ),
    "predictions": Caption("One row a test patient: the embeddings of ECG and CMR that are compared."),
}


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    one_model(run, "Each fold has embeddings of its own space")
    predictions, draws = predict_run(run), run.settings.bootstrap_draws
    tables = []
    axis = run.checkpoints[0]["settings"].get("axis", "short")
    for number, fold in predictions.groupby("fold", sort=True):  # each fold has a space of its own
        patient = fold["session"].to_numpy()
        ecg = fold.filter(regex="^ecg_").to_numpy()
        parts = [
            retrieval_table(ecg[known], image[known], patient[known], draws, image=name)
            for name, image in images_of(fold, axis).items()
            if (known := np.isfinite(image).all(axis=1)).any()
        ]
        table = pd.concat(parts, ignore_index=True)
        tables.append(table.assign(fold=number) if predictions["fold"].nunique() > 1 else table)
    shown = tables[0][tables[0]["direction"].isin(tables[0]["direction"].unique()[-2:])]
    figures = {"retrieval": retrieval_figure(shown, watermark=run.watermark)}
    return write_stage(
        run, predictions, {"retrieval": pd.concat(tables, ignore_index=True)}, figures, _CAPTIONS
    )


def images_of(predictions: pd.DataFrame, axis: str) -> dict[str, Array]:
    """Return the embeddings of the images of an axis by name, with both axes also those of both together.

    Those of both are the mean of the two vectors: an ECG's similarity to them is the mean of the two
    similarities. NaN where a patient has no long axis.
    """
    cmr, long_axis = (predictions.filter(regex=f"^{name}_").to_numpy() for name in ("cmr", "long_axis"))
    if axis != "both":
        return {"long axis" if axis == "long" else "CMR": cmr}
    return {"CMR": cmr, "long axis": long_axis, "both axes": (cmr + long_axis) / 2}


def retrieval_table(
    ecg: ArrayLike,
    cmr: ArrayLike,
    patient: ArrayLike,
    draws: int,
    seed: int = 0,
    image: str = "CMR",
) -> pd.DataFrame:
    """Recall among the first 1, 5 and 10 both ways, beside chance.

    Parameters
    ----------
    ecg, cmr : array_like, shape (N, D)
        Embeddings, of which inner products are compared.
    patient : array_like, shape (N,)
        The unit that is drawn for the intervals.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`. The gallery stays whole in every draw.
    image : str
        Name of the images in the column direction.

    Returns
    -------
    pandas.DataFrame
        Columns direction, rank, recall, low, high, reason (why there is no interval), chance, pairs.
    """
    rows = []
    for direction, queries, gallery in ((f"ECG to {image}", ecg, cmr), (f"{image} to ECG", cmr, ecg)):
        ranks = true_ranks(queries, gallery, patient)
        for rank in RANKS:
            units = pd.DataFrame({"found": (ranks <= rank).astype(float), "patient": patient})
            interval = cluster_bootstrap(units, mean_found, "patient", draws=draws, seed=seed)
            chance = min(1.0, rank / len(ranks))
            rows.append((direction, rank, *interval.cells, chance, len(ranks)))
    columns = ["direction", "rank", "recall", "low", "high", "reason", "chance", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def mean_found(units: pd.DataFrame, weights: Array) -> Array:
    """Return the mean of the column ``found`` for many weightings (draws, N)."""
    return weights @ units["found"].to_numpy() / weights.sum(axis=1)
