"""Two runs side by side, on the recordings that both were tested on.

Runs may be split into other folds, and may have several seeds (column ``seed``). The score of a run with
several seeds is the mean of the AUROCs of its seeds, not the AUROC of their mean prediction: an ensemble
of five is better than one of its members, and would beat a single run for that reason alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from evaluation.calibration import log_odds
from evaluation.scores import aggregate
from evaluation.statistics import Array, holm, paired_cluster_bootstrap, weighted_auroc
from evaluation.tables import interval_text, p_text

SEED = "seed "
COLUMNS = [
    "row",
    *("recordings", "left_out", "n_abnormal", "n_normal", "sessions", "seeds_first", "seeds_second"),
    *("first", "second", "difference", "low", "high", "p", "p_holm", "reason"),
    *("persons", "persons_first", "persons_second", "persons_difference", "p_delong"),
]
HEADS = ("", "first", "second", "difference", "95 % interval", "p", "Holm", "persons", "DeLong p")


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, draws: int, rows: str = "input", seed: int = 0
) -> pd.DataFrame:
    """Compare the predictions of two runs by AUROC per recording.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Predictions as described in the text of this package, one row a sample, or recordings as
        `evaluation.scores.aggregate` makes them; a column ``seed`` tells several seeds apart. Recordings
        are matched by name; those that one table lacks are left out, and counted.
    rows : str
        Column whose values are compared one by one where both tables have it, such as the signals
        that a model was given.
    draws, seed : int
        As for `evaluation.statistics.paired_cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        One row a value of `rows`, or one named ``all``: counts; AUROC of both and its difference with the
        session-clustered 95 % interval, bootstrap p and Holm's p over the rows; and beside them per
        person (nan where persons are not known) both AUROCs and DeLong's p, of the mean log-odds over
        recordings and seeds. Where a class comes from too few sessions, interval and all p are nan, and
        ``reason`` says so.

    Raises
    ------
    ValueError
        Where no recording is in both, or one has another label or session.
    """
    pairs = {"all": (first, second)}
    if rows in first and rows in second:
        shared = sorted(set(first[rows]) & set(second[rows]), key=str)
        pairs = {str(value): (first[first[rows] == value], second[second[rows] == value]) for value in shared}
        if not pairs:
            raise ValueError(f"The two runs have no value of {rows} in common.")
    return _compared(pairs, draws, seed)


def compare_with(
    reference: pd.DataFrame, others: Mapping[str, pd.DataFrame], *, draws: int, seed: int = 0
) -> pd.DataFrame:
    """Compare one run (first) with each of several others (second), Holm's p over them; see `compare`."""
    return _compared({name: (reference, other) for name, other in others.items()}, draws, seed)


def format_comparison(table: pd.DataFrame, first: str = "first", second: str = "second") -> str:
    """Return a comparison as plain text.

    Parameters
    ----------
    table : pandas.DataFrame
        From `compare` or `compare_with`.
    first, second : str
        Names of the runs.
    """
    cells = [list(HEADS)]
    for row in table.to_dict("records"):
        interval = interval_text(row["low"], row["high"], row["reason"], sign="+")
        persons = f"{_number(row['persons_first'])} {_number(row['persons_second'])}"
        line = [str(row["row"]), _number(row["first"]), _number(row["second"]), f"{row['difference']:+.3f}"]
        cells.append([*line, interval, *(p_text(row[name], row["reason"]) for name in ("p", "p_holm"))])
        cells[-1] += [persons if row["persons"] else "n/a", p_text(row["p_delong"], row["reason"])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    counts = table.iloc[0]
    said = [
        f"AUROC per recording · first: {first} · second: {second}",
        f"{counts['recordings']} recordings of {counts['sessions']} sessions in both"
        + (f", {counts['left_out']} in one only and left out" if counts["left_out"] else "")
        + f" · seeds {counts['seeds_first']} and {counts['seeds_second']} (mean of their AUROCs)",
        "",
        *(line.rstrip() for line in body),
        "",
        *(f"Not estimable: {reason}." for reason in dict.fromkeys(filter(None, table["reason"]))),
        "Interval and p: whole sessions drawn, the same for both. DeLong takes persons as independent.",
    ]
    return "\n".join(said)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "n/a"


def _compared(pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], draws: int, seed: int) -> pd.DataFrame:
    rows = [{"row": name, **_pair(first, second, draws, seed)} for name, (first, second) in pairs.items()]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_holm"] = holm(table["p"])
    return table


def _pair(first: pd.DataFrame, second: pd.DataFrame, draws: int, seed: int) -> dict[str, Any]:
    """Return one row of the comparison."""
    wide = [_by_seed(table) for table in (first, second)]
    names = [set(table["recording"]) for table in wide]
    shared = names[0] & names[1]
    if not shared:
        raise ValueError("The two runs have no recording in common: were they tested on the same data?")
    one, two = (table[table["recording"].isin(shared)] for table in wide)
    found = paired_cluster_bootstrap(one, two, _mean_auroc, draws=draws, seed=seed)
    scores = [float(_mean_auroc(table, np.ones((1, len(table))))[0]) for table in (one, two)]
    abnormal = int(one["label"].sum())
    return {
        "recordings": len(shared),
        "left_out": len(names[0] ^ names[1]),
        "n_abnormal": abnormal,
        "n_normal": len(shared) - abnormal,
        "sessions": one["session"].nunique(),
        "seeds_first": len(_seeds(one)),
        "seeds_second": len(_seeds(two)),
        "first": scores[0],
        "second": scores[1],
        "difference": found.estimate,
        "low": found.low,
        "high": found.high,
        "p": found.p_value,
        "reason": found.reason,
        **_persons(one, two),
        **({"p_delong": np.nan} if found.reason else {}),
    }


def _by_seed(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return one row a recording with the probability of each seed in a column of its own."""
    default: dict[str, object] = {"fold": 0, "threshold": 0.5, "seed": 0, "person": ""}
    missing = [name for name in default if name not in predictions]
    full = predictions.assign(**{name: default[name] for name in missing})
    full["person"] = full["person"].fillna("")
    tables = {seed: aggregate(rows) for seed, rows in full.groupby("seed", sort=True)}
    wide = aggregate(full)[["recording", "session", "person", "label"]]
    for seed, table in tables.items():
        if len(table) != len(wide):
            raise ValueError(
                f"Seed {seed} has {len(table)} of {len(wide)} recordings: "
                "evaluate the same folds with every seed."
            )
        wide[f"{SEED}{seed}"] = table["probability"].to_numpy()
    return wide


def _seeds(wide: pd.DataFrame) -> list[str]:
    return [name for name in wide if str(name).startswith(SEED)]


def _mean_auroc(wide: pd.DataFrame, weights: Array) -> Array:
    """Return the mean over seeds of the AUROC, for each weighting."""
    areas = [weighted_auroc(wide["label"], wide[name], weights) for name in _seeds(wide)]
    return np.mean(areas, axis=0)


def _persons(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """Return both AUROCs per person and DeLong's test; nothing where persons are not known."""
    scored = []
    for wide in (first, second):
        score = log_odds(wide[_seeds(wide)]).mean(axis=1)
        person = wide["person"].astype(str) + wide["label"].map({0: " (normal)", 1: " (abnormal)"})
        known = wide.assign(person=person, score=score)[wide["person"] != ""]
        scored.append(
            known.groupby("person", sort=True).agg(label=("label", "first"), score=("score", "mean"))
        )
    one, two = scored
    if not one.index.equals(two.index) or one["label"].nunique() < 2 or (first["person"] == "").any():
        return {"persons": 0} | dict.fromkeys(COLUMNS[-4:], np.nan)
    test = delong_test(one["label"], one["score"], two["score"])
    values = (len(one), test.first, test.second, test.difference, test.p_value)
    return dict(zip(COLUMNS[-5:], values, strict=True))


@dataclass(frozen=True)
class DeLongTest:
    """Two AUROCs on the same persons, and the test of their difference."""

    first: float
    """AUROC of the first score."""
    second: float
    """AUROC of the second score."""
    difference: float
    """First minus second."""
    standard_error: float
    """Of the difference; nan with fewer than two persons of a class."""
    z: float
    """Difference over its standard error; 0 where both are 0."""
    p_value: float
    """Two-sided, from the normal distribution."""


def delong_covariance(label: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Areas under the ROC curves of several scores of the same persons, and their covariance.

    Parameters
    ----------
    label : array_like, shape (N,)
        1 abnormal, 0 normal.
    scores : array_like, shape (models, N)
        Higher for class 1.

    Returns
    -------
    areas : ndarray, shape (models,)
    covariance : ndarray, shape (models, models)
        S10 / m + S01 / n of the paper; nan with fewer than two persons of a class.
    """
    labels = np.asarray(label, dtype=bool)
    values = np.atleast_2d(np.asarray(scores, dtype=float))
    if values.shape[1:] != labels.shape or not np.isfinite(values).all():
        raise ValueError(
            f"Need finite scores (models, N) for N labels, not {values.shape} for {labels.shape}."
        )
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        raise ValueError("There is one class only: an area under the ROC curve needs both.")
    overall = stats.rankdata(values, axis=1)
    among_positives = stats.rankdata(values[:, labels], axis=1)
    among_negatives = stats.rankdata(values[:, ~labels], axis=1)
    # Share of the other class that each person is ordered right with.
    of_positives = (overall[:, labels] - among_positives) / negatives
    of_negatives = 1 - (overall[:, ~labels] - among_negatives) / positives
    areas = of_positives.mean(axis=1)
    if min(positives, negatives) < 2:
        return areas, np.full((len(values), len(values)), np.nan)
    covariance = np.cov(of_positives) / positives + np.cov(of_negatives) / negatives
    return areas, np.atleast_2d(covariance)


def delong_test(label: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLongTest:
    """Test whether two scores of the same persons have the same AUROC.

    Parameters
    ----------
    label : array_like, shape (N,)
        One person each: 1 abnormal, 0 normal.
    first, second : array_like, shape (N,)
        Scores of the two models.

    Returns
    -------
    DeLongTest
    """
    areas, covariance = delong_covariance(label, np.stack([np.asarray(first), np.asarray(second)]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = float(np.sqrt(max(variance, 0))) if np.isfinite(variance) else np.nan
    z = difference / error if error > 1e-12 else (0.0 if abs(difference) < 1e-12 else np.nan)
    z = np.nan if np.isnan(error) else z
    return DeLongTest(
        float(areas[0]), float(areas[1]), difference, error, z, float(2 * stats.norm.sf(abs(z)))
    )


def correlation_test(truth: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Test whether two predictions of the same persons correlate with the truth alike.

    The difference of the two Fisher z, whose correlation comes from that of the predictions (Meng, Rosenthal
    and Rubin, Psychol. Bull. 111 (1992) 172).

    Parameters
    ----------
    truth, first, second : array_like, shape (N,)
        One person each.

    Returns
    -------
    z, p_value : float
        Two-sided, from the normal distribution; nan with fewer than four persons, or where a correlation is
        not defined.
    """
    values = np.stack([np.asarray(item, dtype=float) for item in (truth, first, second)])
    if not np.isfinite(values).all():
        raise ValueError("Truth and predictions must be finite: leave out persons of whom one is not known.")
    count = values.shape[1]
    spread = values.std(axis=1) if count else np.zeros(3)
    if count < 4 or not (spread > 1e-12 * np.abs(values).max()).all():
        return np.nan, np.nan
    correlations = np.corrcoef(values)
    return dependent_correlations_test(correlations[0, 1], correlations[0, 2], correlations[1, 2], count)


def dependent_correlations_test(
    first: float, second: float, between: float, count: int
) -> tuple[float, float]:
    """Return z and p of `correlation_test` from the correlations with the truth, and between predictions."""
    if between > 1 - 1e-12:  # the same prediction but for its scale
        return 0.0, 1.0
    if max(abs(first), abs(second)) > 1 - 1e-12:
        return np.nan, np.nan
    mean = (first**2 + second**2) / 2
    factor = min(1.0, (1 - between) / (2 * (1 - mean)))
    spread = 2 * (1 - between) * (1 - factor * mean) / (1 - mean)
    z = float((np.arctanh(first) - np.arctanh(second)) * np.sqrt((count - 3) / spread))
    return z, float(2 * stats.norm.sf(abs(z)))
