"""From a table of predictions to scores: per sample, per recording, per person, and per fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

COLUMNS = ("sample", "recording", "session", "person", "fold", "label", "probability", "threshold")
_CARRIED_COLUMNS = ("database", "diagnosis", "site")
SCORE_NAMES = (
    "accuracy",
    "sensitivity",
    "specificity",
    "precision",
    "f1",
    "auroc",
    "auprc",
    "macc",
    "brier",
)
SEVERAL_FOLDS = -1


def check_predictions(predictions: pd.DataFrame) -> None:
    """Raise a ValueError where the table is not one of predictions (see the text of this package)."""
    missing = [name for name in COLUMNS if name not in predictions.columns]
    if missing:
        raise ValueError(f"The table of predictions lacks {', '.join(missing)}; it has {list(predictions)}.")
    if predictions.empty:
        raise ValueError("The table of predictions has no rows: was a fold evaluated?")
    for name in ("recording", "session", "fold"):
        if predictions[name].isna().any():
            raise ValueError(f"{int(predictions[name].isna().sum())} predictions have no {name}.")
    repeated = predictions.duplicated(["fold", "sample"])
    if repeated.any():
        row = predictions[repeated].iloc[0]
        raise ValueError(f"Sample {row['sample']} is predicted twice in fold {row['fold']}.")
    checked(predictions["label"], predictions["probability"], predictions["threshold"])


def aggregate(predictions: pd.DataFrame, by: str = "recording") -> pd.DataFrame:
    """Put the predictions of one recording, or of one person, together into one.

    The probability is the mean over the beats of a recording, and over the recordings of a person. It
    is a mean and no sum or vote, so that the number of beats, which differs between the classes, does
    not count. A person with recordings of both labels (persons may be inferred) counts as two.

    Parameters
    ----------
    predictions : pandas.DataFrame
        One row a sample, columns as described in the text of this package.
    by : {"recording", "person"}
        Unit to put together.

    Returns
    -------
    pandas.DataFrame
        One row a unit, sorted by its name, with session, person, fold (-1 where the beats of the unit
        lie in several folds), label, probability, threshold (the mean over its beats, where they differ),
        beats, for persons also recordings, and database, diagnosis and site where given.

    Raises
    ------
    ValueError
        Where labels, sessions or persons differ within a recording, sessions within a person, or a
        unit has no name.
    """
    if by not in ("recording", "person"):
        raise ValueError(f"Cannot aggregate by {by!r}: choose recording or person.")
    recordings = _mean_over(predictions.assign(beats=1), "recording")
    if by == "recording":
        return recordings
    return _mean_over(one_label_a_person(recordings).assign(recordings=1), "person")


def one_label_a_person(recordings: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a person who has both labels named as two, one a label."""
    labels = recordings["person"].map(recordings.groupby("person")["label"].nunique())
    suffix = recordings["label"].map({0: " (normal)", 1: " (abnormal)"})
    return recordings.assign(person=recordings["person"] + suffix.where(labels > 1, ""))


def macro_auroc(label: ArrayLike, probability: ArrayLike) -> float:
    """Mean over classes of the AUROC, (N, classes) each; of classes that have both labels, else nan."""
    from sklearn.metrics import roc_auc_score  # half a second, and predictions need none of it

    labels, probabilities = np.asarray(label), np.asarray(probability)
    both = np.flatnonzero((labels.min(axis=0) == 0) & (labels.max(axis=0) == 1))
    areas = [roc_auc_score(labels[:, k], probabilities[:, k]) for k in both]
    return float(np.mean(areas)) if areas else np.nan


def mean_auroc(label: ArrayLike, probability: ArrayLike, group: ArrayLike) -> float:
    """Mean over groups of the AUROC within each, (N,) each; of groups that have both labels, else nan."""
    from sklearn.metrics import roc_auc_score  # takes a second to import

    table = pd.DataFrame({"label": label, "probability": probability, "group": group})
    both = [rows for _, rows in table.groupby("group") if rows["label"].nunique() == 2]
    areas = [roc_auc_score(rows["label"], rows["probability"]) for rows in both]
    return float(np.mean(areas)) if areas else np.nan


def binary_scores(label: ArrayLike, probability: ArrayLike, threshold: ArrayLike = 0.5) -> dict[str, float]:
    """Score the probabilities of class 1 against labels 0 and 1.

    Parameters
    ----------
    label : array_like, shape (N,)
        0 normal, 1 abnormal.
    probability : array_like, shape (N,)
        Probability of class 1, 0 to 1.
    threshold : float or array_like, shape (N,)
        A sample counts as abnormal from this probability on; one for all, or one a sample.

    Returns
    -------
    dict of str to float
        accuracy, sensitivity (Se), specificity (Sp), precision, f1, auroc, auprc (average precision),
        macc = (Se + Sp) / 2 (the score of the PhysioNet/CinC challenge 2016), brier (mean squared error
        of the probability), tn, fp, fn, tp, n, and prevalence (share of label 1). What is not
        defined, such as the auroc of one class, is nan.

    Raises
    ------
    ValueError
        For NaN, labels other than 0 and 1, probabilities outside 0 to 1, or unequal lengths.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, probabilities, thresholds = checked(label, probability, threshold)
    counts = np.bincount((2 * labels + (probabilities >= thresholds)).astype(int), minlength=4)
    both = 0 < labels.sum() < len(labels)
    return {
        **_rates(*(int(count) for count in counts)),
        "auroc": float(roc_auc_score(labels, probabilities)) if both else np.nan,
        "auprc": float(average_precision_score(labels, probabilities)) if both else np.nan,
        "brier": float(np.mean((probabilities - labels) ** 2)),
        **{name: int(count) for name, count in zip(("tn", "fp", "fn", "tp"), counts, strict=True)},
        "n": len(labels),
        "prevalence": float(labels.mean()),
    }


def fold_scores(
    units: pd.DataFrame, folds: Mapping[int, pd.DataFrame], threshold: float | None = None
) -> dict[str, Any]:
    """Score each fold, and all folds pooled.

    Parameters
    ----------
    units : pandas.DataFrame
        One row a sample, or what `aggregate` makes of all samples.
    folds : mapping of int to pandas.DataFrame
        The same of the samples of each fold: some of those of a recording, where beats are split.
    threshold : float, optional
        One threshold for all; None: the column ``threshold``.

    Returns
    -------
    dict
        ``per_fold``, a list of scores with the number of the fold; ``mean`` and ``standard_deviation``
        (ddof 1) over the folds in which a score is defined; ``pooled``.
    """
    per_fold = [{"fold": fold, **_score_units(rows, threshold)} for fold, rows in folds.items()]
    table = pd.DataFrame(per_fold)[list(SCORE_NAMES)].astype(float)
    return {
        "per_fold": per_fold,
        "mean": {name: float(value) for name, value in table.mean().items()},
        "standard_deviation": {name: float(value) for name, value in table.std(ddof=1).items()},
        "pooled": _score_units(units, threshold),
    }


def best_threshold(label: ArrayLike, probability: ArrayLike) -> float:
    """Return the threshold with the highest MAcc; to be found on validation parts only.

    Parameters
    ----------
    label, probability : array_like, shape (N,)
        As for `binary_scores`.

    Returns
    -------
    float
        Half way between the two neighbouring probabilities it divides; of several equally good ones
        the closest to 0.5; 0.5 where only one class is there.
    """
    labels, probabilities, _ = checked(label, probability)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    values, group = np.unique(probabilities, return_inverse=True)
    below = np.concatenate([[0.0], values])
    middle = (below + np.concatenate([values, [1.0]])) / 2
    candidates = np.where(middle > below, middle, np.concatenate([values, [1.0]]))
    positives_below = np.concatenate([[0], np.cumsum(np.bincount(group, weights=labels))])
    negatives_below = np.concatenate([[0], np.cumsum(np.bincount(group, weights=1 - labels))])
    # Whole numbers, so that equally good thresholds compare as equal.
    score = (positives - positives_below) * negatives + negatives_below * positives
    best = candidates[score == score.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def checked(
    label: ArrayLike, probability: ArrayLike, threshold: ArrayLike = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return labels, probabilities and thresholds as arrays; raise as `binary_scores` does."""
    labels = np.asarray(label, dtype=np.float64)
    probabilities = np.asarray(probability, dtype=np.float64)
    thresholds = np.asarray(threshold, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError(
            f"Labels and probabilities must be two rows of equal length, not of shape {labels.shape} "
            f"and {probabilities.shape}."
        )
    if thresholds.ndim and thresholds.shape != labels.shape:
        raise ValueError(f"Give one threshold, or one a sample: {thresholds.shape} for {labels.shape}.")
    if len(labels) == 0:
        raise ValueError("There is nothing to score: no labels were given.")
    _refuse_values(labels, probabilities, thresholds)
    return labels, probabilities, thresholds


def _refuse_values(labels: NDArray[Any], probabilities: NDArray[Any], thresholds: NDArray[Any]) -> None:
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"Labels must be 0 or 1, not {np.unique(labels[~np.isin(labels, (0, 1))])[:5]}.")
    if np.isnan(probabilities).any():
        raise ValueError(
            f"{int(np.isnan(probabilities).sum())} of {len(probabilities)} probabilities are NaN: "
            "look for a non-finite input or weight."
        )
    if (probabilities < 0).any() or (probabilities > 1).any():
        raise ValueError(
            f"Probabilities must lie in 0 to 1, not {probabilities.min():g} to {probabilities.max():g}: "
            "are these logits?"
        )
    if np.isnan(thresholds).any():
        raise ValueError("A threshold is NaN; give 0.5 where no validation part chose one.")


def _rates(tn: int, fp: int, fn: int, tp: int) -> dict[str, float]:
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    return {
        "accuracy": _share(tp + tn, tp + tn + fp + fn),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _share(tp, tp + fp),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "macc": (sensitivity + specificity) / 2,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def _score_units(units: pd.DataFrame, threshold: float | None) -> dict[str, float]:
    limit = units["threshold"] if threshold is None else threshold
    return binary_scores(units["label"], units["probability"], limit)


def _mean_over(frame: pd.DataFrame, unit: str) -> pd.DataFrame:
    same = ["label", "session", *(["person"] if unit == "recording" else [])]
    names = frame[unit].astype("string")
    if names.isna().any() or (names == "").any():
        raise ValueError(f"Cannot aggregate by {unit}: {int((names.fillna('') == '').sum())} rows have none.")
    groups = frame.groupby(unit, sort=True)
    for column in same:
        _refuse_disagreement(groups, unit, column)
    table = groups[[*same]].first()
    table["fold"] = _shared(groups["fold"], SEVERAL_FOLDS)
    table["probability"] = groups["probability"].mean().clip(0, 1)
    table["threshold"] = _shared(groups["threshold"], groups["threshold"].mean())
    for column in ("beats", "recordings"):
        if column in frame:
            table[column] = groups[column].sum()
    for column in _CARRIED_COLUMNS:
        if column in frame:
            texts = frame[[unit, column]].dropna().astype({column: str}).drop_duplicates()
            texts = texts.sort_values([unit, column]).set_index(unit)[column]
            joined = (", " + texts).groupby(level=0).sum().str.removeprefix(", ")
            table[column] = joined.reindex(table.index, fill_value="")
    return table.reset_index()


def _shared(groups: Any, otherwise: Any) -> pd.Series:
    """Return the one value of each group, and `otherwise` for groups that have several."""
    lowest = groups.min()
    return lowest.where(lowest == groups.max(), otherwise)


def _refuse_disagreement(groups: Any, unit: str, column: str) -> None:
    counts = groups[column].nunique(dropna=False)
    if (counts > 1).any():
        name = counts.index[counts > 1][0]
        found = sorted(str(value) for value in groups.get_group(name)[column].unique())
        raise ValueError(
            f"{int((counts > 1).sum())} {unit}s have more than one {column}, the first is {unit} {name} with "
            f"{', '.join(found)}: a {unit} needs one {column}."
        )
