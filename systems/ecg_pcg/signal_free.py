"""What can be said of a recording's label without looking at its signals.

A figure on a split means something only beside these: the labels of the neighbours in the same session,
and metadata of the recording such as its length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from evaluation.weighted import Array, divided

PREDICTORS = {
    "duration": "duration of the recording",
    "beats": "number of beats",
    "heart_rate": "heart rate",
    "position": "index within the session",
    "ecg_saturated": "saturated share of the ECG",
    "pcg_saturated": "saturated share of the heart sound",
}
"""Columns of the recording table that say nothing of how a signal looks, and their names in the audit."""


def session_mean(
    known: pd.DataFrame, asked: pd.DataFrame, overall: float | Array, leave_out: bool = False
) -> Array:
    """Mean label of the known recordings of the same session.

    Parameters
    ----------
    known, asked : pandas.DataFrame
        Recordings whose labels are known, and those to predict: ``recording``, ``session``, ``label``.
    overall : float or ndarray, shape (asked,)
        Answer where none of the session is known.
    leave_out : bool
        Whether a recording is kept from its own prediction.

    Returns
    -------
    ndarray, shape (asked,)
    """
    return _neighbours(known, asked, overall, leave_out, nearest=False)


def nearest_label(
    known: pd.DataFrame, asked: pd.DataFrame, overall: float | Array, leave_out: bool = False
) -> Array:
    """Mean label of the known recordings nearest by index (``position``) in the same session.

    Several at the same distance are averaged; arguments as for `session_mean`.
    """
    return _neighbours(known, asked, overall, leave_out, nearest=True)


def overall_means(recordings: pd.DataFrame) -> Array:
    """Return for each recording the mean label of all others."""
    labels = recordings["label"].to_numpy(dtype=float)
    return divided(labels.sum() - labels, np.full(len(labels), len(labels) - 1))


def out_of_fold(
    samples: pd.DataFrame, recordings: pd.DataFrame, parts: Sequence[NDArray[np.integer]], nearest: bool
) -> tuple[Array, Array]:
    """Predict the test recordings of each fold from the labels of the recordings in its training part.

    A recording with beats in train counts as known, as it is to a model: under ``beat`` most recordings
    know themselves. One of which no neighbour is known gets the mean label of all, the same in all folds.

    Parameters
    ----------
    samples, recordings : pandas.DataFrame
        As for `systems.ecg_pcg.audit.audit`.
    parts : sequence of ndarray
        Part of each sample in each fold: 0 train, 1 validation, 2 test.
    nearest : bool
        Whether by `nearest_label`; otherwise by `session_mean`.

    Returns
    -------
    label, prediction : ndarray
        Of the test recordings of all folds.
    """
    overall = float(recordings["label"].mean())
    labels, answers = [], []
    for part in parts:
        trained, tested = (set(samples["recording"].to_numpy()[part == code]) for code in (0, 2))
        known = recordings[recordings["recording"].isin(trained)]
        asked = recordings[recordings["recording"].isin(tested)]
        answers.append((nearest_label if nearest else session_mean)(known, asked, overall))
        labels.append(asked["label"].to_numpy())
    return np.concatenate(labels), np.concatenate(answers)


def site_score(recordings: pd.DataFrame) -> Array:
    """Mean label of the recordings at the same auscultation site in all other sessions."""
    others = recordings[["label", "site", "session"]]
    site = others.groupby("site")["label"].agg(["sum", "size"]).loc[others["site"]].to_numpy()
    own = others.groupby(["site", "session"])["label"].agg(["sum", "size"])
    inside = own.loc[list(zip(others["site"], others["session"], strict=True))].to_numpy()
    found = divided(site[:, 0] - inside[:, 0], site[:, 1] - inside[:, 1])
    return np.where(np.isnan(found), others["label"].mean(), found)


def numbers(table: pd.DataFrame, column: str) -> Array:
    """Return a column as numbers, nan where it has none; all nan where there is no such column."""
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)


def auroc(label: Array, score: Array) -> float:
    """Return the area under the ROC curve, nan where there is one class."""
    return float(roc_auc_score(label, score)) if len(np.unique(label)) == 2 else np.nan


def _neighbours(
    known: pd.DataFrame, asked: pd.DataFrame, overall: float | Array, leave_out: bool, nearest: bool
) -> Array:
    names, labels = known["recording"].to_numpy(), known["label"].to_numpy(dtype=float)
    sessions = known["session"].to_numpy()
    places = numbers(known, "position") if nearest else np.zeros(len(known))
    positions = numbers(asked, "position") if nearest else np.zeros(len(asked))
    answers = np.broadcast_to(np.asarray(overall, dtype=float), len(asked)).copy()
    for row, item in enumerate(asked.to_dict("records")):
        usable = sessions == item["session"]
        if leave_out:
            usable = usable & (names != item["recording"])
        if nearest:
            distance = np.abs(places - positions[row])
            usable = usable & np.isfinite(distance)
            usable = usable & (distance == distance[usable].min()) if usable.any() else usable
        if usable.any():
            answers[row] = labels[usable].mean()
    return answers
