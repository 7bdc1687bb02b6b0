"""Scores of one set of predictions under many weightings at once: what a bootstrap needs.

A draw of clusters is a weight for each row, namely how often it was drawn. A statistic takes the table of N
rows and weights ``(draws, N)`` and returns ``(draws,)``, nan where it is not defined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Statistic = Callable[[pd.DataFrame, Array], Array]


def weighted_auroc(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> Array:
    """Area under the ROC curve for many weightings at once.

    Parameters
    ----------
    label : array_like, shape (N,)
        0 or 1.
    score : array_like, shape (N,)
        Higher for class 1.
    weights : array_like, shape (draws, N)
        Weight of each sample, such as how often it was drawn.

    Returns
    -------
    ndarray, shape (draws,)
        Weighted share of pairs of both classes ordered right, ties counted half (the Mann-Whitney
        form); nan where a class has no weight.
    """
    positive, negative = _weights_by_score(label, score, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    return divided((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def weighted_average_precision(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> Array:
    """Average precision (area under the precision-recall steps); shapes as for `weighted_auroc`."""
    positive, negative = (part[:, ::-1] for part in _weights_by_score(label, score, weights))
    found = np.cumsum(positive, axis=1)
    precision = divided(found, found + np.cumsum(negative, axis=1))
    area = (positive * np.nan_to_num(precision)).sum(axis=1)
    return np.where(negative.sum(axis=1) > 0, divided(area, positive.sum(axis=1)), np.nan)


def divided(part: Array, whole: Array) -> Array:
    """Return part / whole, nan where the whole is zero; shapes as they broadcast."""
    result = np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan)
    return np.divide(part, whole, out=result, where=np.asarray(whole) != 0)


def _auroc(units: pd.DataFrame, weights: Array) -> Array:
    return weighted_auroc(units["label"], units["probability"], weights)


def _average_precision(units: pd.DataFrame, weights: Array) -> Array:
    return weighted_average_precision(units["label"], units["probability"], weights)


def _accuracy(units: pd.DataFrame, weights: Array) -> Array:
    right = _decisions(units) == units["label"].to_numpy()
    return divided(weights @ right.astype(float), weights.sum(axis=1))


def _sensitivity(units: pd.DataFrame, weights: Array) -> Array:
    positive = units["label"].to_numpy(dtype=float)
    return divided(weights @ (positive * _decisions(units)), weights @ positive)


def _specificity(units: pd.DataFrame, weights: Array) -> Array:
    negative = 1 - units["label"].to_numpy(dtype=float)
    return divided(weights @ (negative * ~_decisions(units)), weights @ negative)


def _macc(units: pd.DataFrame, weights: Array) -> Array:
    return (_sensitivity(units, weights) + _specificity(units, weights)) / 2


def _f1(units: pd.DataFrame, weights: Array) -> Array:
    positive = units["label"].to_numpy(dtype=float)
    decided = _decisions(units).astype(float)
    return divided(2 * weights @ (positive * decided), weights @ (positive + decided))


def _brier(units: pd.DataFrame, weights: Array) -> Array:
    error = (units["probability"] - units["label"]).to_numpy(dtype=float) ** 2
    return divided(weights @ error, weights.sum(axis=1))


def _ppv(units: pd.DataFrame, weights: Array) -> Array:
    decided = _decisions(units).astype(float)
    return divided(weights @ (decided * units["label"].to_numpy(dtype=float)), weights @ decided)


def _npv(units: pd.DataFrame, weights: Array) -> Array:
    rejected = (~_decisions(units)).astype(float)
    return divided(weights @ (rejected * (1 - units["label"].to_numpy(dtype=float))), weights @ rejected)


def _kappa(units: pd.DataFrame, weights: Array) -> Array:
    """Cohen's kappa of decision and label: agreement beyond that of chance, 1 at best."""
    positive, decided = units["label"].to_numpy(dtype=float), _decisions(units).astype(float)
    total = weights.sum(axis=1)
    one, two = divided(weights @ positive, total), divided(weights @ decided, total)
    chance = one * two + (1 - one) * (1 - two)
    return divided(_accuracy(units, weights) - chance, 1 - chance)


STATISTICS: dict[str, Statistic] = {
    "auroc": _auroc,
    "auprc": _average_precision,
    "accuracy": _accuracy,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "macc": _macc,
    "f1": _f1,
    "brier": _brier,
    "ppv": _ppv,
    "npv": _npv,
    "kappa": _kappa,
}


def _decisions(units: pd.DataFrame) -> NDArray[np.bool_]:
    return (units["probability"] >= units["threshold"]).to_numpy(dtype=bool)


def _weights_by_score(label: ArrayLike, score: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Return the weights (draws, distinct scores) of both classes, by ascending score."""
    scores = np.asarray(score, dtype=float)
    order = np.argsort(scores, kind="stable")
    ordered = np.atleast_2d(np.asarray(weights, dtype=float))[:, order]
    positive = ordered * np.asarray(label, dtype=float)[order]
    negative = ordered - positive
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    if len(first) == len(scores):
        return positive, negative
    return np.add.reduceat(positive, first, axis=1), np.add.reduceat(negative, first, axis=1)


SESSIONS_NEEDED = 5
"""Sessions (or patients) that a class must come from, for an interval and a p-value.

Percentile intervals from draws of whole sessions are too narrow where few are drawn. In simulations with an
AUROC of 0.90, thirty sessions of the other class and a session effect as large as the noise, a 95 % interval
covered the true value in 66 % of cohorts with 2 normal sessions, 79 % with 3, 83 % with 4, 86 % with 5, 88 %
with 6, 90 % with 10 and 92 % with 20 (``python -m studies.sessions_needed``). Five is the least number with
85 % or more, as with the 13 normal sessions of training-a (83 to 95 %, ``studies.interval_coverage``).
"""
_CLASSES = ("normal recordings", "abnormal recordings")
ELEMENTS_AT_ONCE = 2_000_000
"""Weights of rows in memory at once: draws are taken in groups."""
_LARGEST_REDRAWN_SHARE = 0.98
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A score and its percentile interval."""

    estimate: float
    """On all samples, each counted once."""
    low: float
    """Lower end; nan where no interval can be made (no draws, one cluster, one class)."""
    high: float
    """Upper end."""
    draws: int
    """Draws behind the interval."""
    redrawn: float
    """Share of draws that were repeated because a class was missing in them, 0 to 1."""
    level: float = 0.95
    """Share of draws between low and high."""
    clusters: int = 0
    """Number of clusters that were drawn from."""
    reason: str = ""
    """Why there is no interval although draws were asked for; empty where there is one."""

    @property
    def cells(self) -> tuple[float, float, float, str]:
        """Value, both ends and reason: a row of a table."""
        return self.estimate, self.low, self.high, self.reason

    def without_ends(self, reason: str) -> Interval:
        """Return the value alone, with the reason."""
        return replace(self, low=np.nan, high=np.nan, reason=reason)


@dataclass(frozen=True)
class Difference(Interval):
    """The difference of a score between two models, its interval, and how often draws change its sign."""

    p_value: float = np.nan
    """Two-sided: twice the smaller share of draws on one side of zero, 1 added to both counts."""


def cluster_bootstrap(
    units: pd.DataFrame,
    statistic: str | Statistic = "auroc",
    cluster: str = "session",
    *,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
    noun: str = "",
    classes: tuple[str, str] = _CLASSES,
) -> Interval:
    """Percentile interval of a score from drawing whole clusters with replacement.

    Parameters
    ----------
    units : pandas.DataFrame
        Predictions or what `evaluation.scores.aggregate` makes of them: ``label``, ``probability``,
        ``threshold`` (for scores that need one) and the column named by `cluster`. Without ``label`` the
        draws need not hold both classes.
    statistic : str or callable
        A name in `evaluation.statistics.STATISTICS`, or a function of the table of N rows and of weights
        ``(draws, N)`` (how often each row was drawn) that returns ``(draws,)``, nan where not defined.
    cluster : str
        Column of the unit that is drawn.
    draws : int
        Number of draws; 0: no interval. Draws without both classes, or for which the statistic is not
        defined, are repeated, and their share is reported.
    seed : int
        Seed of the draws.
    level : float
        Share of draws inside the interval, 0 to 1.
    noun, classes : str and (str, str)
        Words for a cluster (default: its column) and for the rows of label 0 and 1, for the reason.

    Returns
    -------
    Interval
        Without ends, and with the reason, where `too_few_clusters` gives one or all draws give one value.
    """
    function = _named(statistic)
    few = too_few_clusters(units, cluster, noun=noun, classes=classes)
    interval, values = _bootstrap(
        units, lambda weights: function(units, weights), cluster, 0 if few else draws, seed, level
    )
    return _reasoned(interval, values, few, draws, noun or cluster)


def _reasoned(interval: Interval, values: Array, few: str, draws: int, noun: str) -> Interval:
    """Return an interval with the reason where it has no ends, or should have none."""
    if few or not draws:
        return replace(interval, reason=few if draws else "")
    if not len(values):
        return replace(interval, reason=f"hardly any draw of {noun}s defines the score")
    if not np.isfinite(interval.estimate):
        return interval.without_ends(f"the score is defined for some draws of {noun}s only")
    if interval.high - interval.low < _ROUNDING:
        return interval.without_ends(f"every draw of {noun}s gives {interval.estimate:.3f}")
    return interval


def grouped_cluster_bootstrap(
    groups: Mapping[str, pd.DataFrame],
    statistic: str | Statistic = "auroc",
    cluster: str = "session",
    *,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[dict[str, Interval], Interval]:
    """Percentile intervals of a score in each of several groups, and of its plain mean over them.

    Clusters are drawn within each group, independently of the others. The groups themselves are fixed: the
    interval of the mean says what other clusters of these groups would give, and nothing of other groups.

    Parameters
    ----------
    groups : mapping of str to pandas.DataFrame
        The rows of each group, as for `cluster_bootstrap`.
    statistic, cluster, draws, seed, level
        As for `cluster_bootstrap`.

    Returns
    -------
    intervals : dict of str to Interval
        Of each group.
    mean : Interval
        Of the mean over the groups in which the score is defined; without ends where one of these has
        too few clusters, and with the name of it.
    """
    function = _named(statistic)
    scores = {name: (units, functools.partial(function, units)) for name, units in groups.items()}
    found, mean, _ = _grouped(scores, cluster, draws, seed, level)
    return found, mean


def grouped_paired_bootstrap(
    groups: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    statistic: str | Statistic = "auroc",
    cluster: str = "session",
    *,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Interval of the difference of two models in the mean over groups, on the same draws of clusters.

    Parameters
    ----------
    groups : mapping of str to (pandas.DataFrame, pandas.DataFrame)
        The rows of each group as the first and the second model predict them.
    statistic, cluster, draws, seed, level
        As for `grouped_cluster_bootstrap`.

    Returns
    -------
    Difference
        As `paired_cluster_bootstrap` gives it.
    """
    function = _named(statistic)
    scores = {}
    for name, tables in groups.items():
        first, second = _aligned(*tables, cluster)
        scores[name] = first, functools.partial(_difference, function, first, second)
    _, mean, values = _grouped(scores, cluster, draws, seed, level)
    return Difference(**asdict(mean), p_value=_sign_p_value(values))


def _grouped(
    scores: Mapping[str, tuple[pd.DataFrame, Callable[[Array], Array]]],
    cluster: str,
    draws: int,
    seed: int,
    level: float,
) -> tuple[dict[str, Interval], Interval, Array]:
    """Return the interval of each group, that of their mean, and the means of the draws behind it."""
    found: dict[str, Interval] = {}
    drawn: dict[str, Array] = {}
    for number, (name, (units, score)) in enumerate(scores.items()):
        few = too_few_clusters(units, cluster)
        interval, values = _bootstrap(units, score, cluster, 0 if few else draws, [seed, number], level)
        found[name], drawn[name] = _reasoned(interval, values, few, draws, cluster), values
    defined = [name for name, interval in found.items() if np.isfinite(interval.estimate)]
    estimate = float(np.mean([found[name].estimate for name in defined])) if defined else np.nan
    clusters = sum(found[name].clusters for name in defined)
    mean = Interval(estimate, np.nan, np.nan, 0, 0.0, level, clusters)
    lacking = [f"{name}: {found[name].reason}" for name in defined if len(drawn[name]) < draws]
    if lacking or not draws or not defined:
        return found, replace(mean, reason="; ".join(lacking) if draws else ""), np.empty(0)
    values = np.mean([drawn[name] for name in defined], axis=0)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    mean = replace(mean, low=float(low), high=float(high), draws=draws)
    return found, _reasoned(mean, values, "", draws, cluster), values


def _difference(function: Statistic, first: pd.DataFrame, second: pd.DataFrame, weights: Array) -> Array:
    """Return the score of the first table less that of the second, of the same units, in each draw."""
    return function(first, weights) - function(second, weights)


def _sign_p_value(values: Array) -> float:
    """Return twice the smaller share of draws on one side of zero, 1 added to both counts."""
    if not len(values):
        return np.nan
    one_side = min(int((values < _ROUNDING).sum()), int((values > -_ROUNDING).sum()))
    return min(1.0, 2 * (one_side + 1) / (len(values) + 1))


def too_few_clusters(
    units: pd.DataFrame,
    cluster: str = "session",
    *,
    noun: str = "",
    classes: tuple[str, str] = _CLASSES,
    needed: int = SESSIONS_NEEDED,
) -> str:
    """Return why the clusters are too few for an interval or a p-value; empty where they are enough.

    Parameters
    ----------
    units : pandas.DataFrame
        The column named by `cluster`, and ``label`` where there are two classes.
    cluster, noun, classes
        As for `cluster_bootstrap`.
    needed : int
        Clusters that each class must come from.
    """
    noun = noun or cluster
    if "label" not in units:
        parts = {"": units[cluster].nunique()}
    else:
        found = units.groupby("label")[cluster].nunique()
        parts = {name: int(found.get(label, 0)) for label, name in enumerate(classes)}
    name, count = min(parts.items(), key=lambda item: item[1])
    if count >= needed:
        return ""
    what = f"{count} {noun}{'s' * (count != 1)}"
    if not name:
        return f"there {'is' if count == 1 else 'are'} only {what}, {needed} are needed"
    if not count:
        return f"there are no {name}"
    return f"all {name} come from {what}" + (f", {needed} are needed" if count > 1 else "")


def paired_cluster_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    statistic: str | Statistic = "auroc",
    cluster: str = "session",
    *,
    draws: int,
    seed: int = 0,
    level: float = 0.95,
    noun: str = "",
    classes: tuple[str, str] = _CLASSES,
) -> Difference:
    """Interval of the difference of a score between two models, on the same draws of clusters.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Predictions of the two models on the same samples, recordings or persons, in any order.
    statistic, cluster, draws, seed, level, noun, classes
        As for `cluster_bootstrap`.

    Returns
    -------
    Difference
        Of the score of `first` minus the score of `second`; without ends and p-value, and with the reason,
        where `too_few_clusters` gives one.

    Raises
    ------
    ValueError
        Where the two tables do not hold the same units with the same labels and clusters.
    """
    function = _named(statistic)
    first, second = _aligned(first, second, cluster)
    difference = functools.partial(_difference, function, first, second)
    few = too_few_clusters(first, cluster, noun=noun, classes=classes)
    interval, values = _bootstrap(first, difference, cluster, 0 if few else draws, seed, level)
    interval = replace(interval, reason=few if draws else "")
    return Difference(**asdict(interval), p_value=_sign_p_value(values))


def wilson_interval(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share that was observed in independent cases (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Parameters
    ----------
    share : float
        Observed, 0 to 1.
    count : float
        Cases; where they are not independent, as many as there are independent ones.
    level : float
        Of the interval, 0 to 1.

    Returns
    -------
    low, high : float
        nan without a case.
    """
    if not count > 0 or not np.isfinite(share):
        return np.nan, np.nan
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + end) / (1 + z**2 / count) for end in (-half, half))
    return max(0.0, float(low)), min(1.0, float(high))


def holm(p_values: ArrayLike) -> Array:
    """Adjust p-values of several tests so that the chance of any false finding stays at its level.

    Holm, Scand. J. Statist. 6, 1979: the smallest of m is multiplied by m, the next by m - 1, and so on,
    none below the one before it, and none above 1. nan stays nan and does not count.

    Parameters
    ----------
    p_values : array_like, shape (N,)

    Returns
    -------
    ndarray, shape (N,)
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(values.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return adjusted


def _named(statistic: str | Statistic) -> Statistic:
    if callable(statistic):
        return statistic
    if statistic not in STATISTICS:
        raise ValueError(f"Unknown statistic {statistic!r}: choose one of {', '.join(STATISTICS)}.")
    return STATISTICS[statistic]


def _bootstrap(
    units: pd.DataFrame,
    score: Callable[[Array], Array],
    cluster: str,
    draws: int,
    seed: int | Sequence[int],
    level: float,
) -> tuple[Interval, Array]:
    """Return the interval and the scores of the draws behind it."""
    if not 0 < level < 1 or draws < 0:
        raise ValueError(f"Need 0 < level < 1 and draws >= 0, not level {level} and draws {draws}.")
    codes, names = pd.factorize(units[cluster], sort=True)
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} rows have no {cluster}, which is the unit to draw.")
    estimate = float(score(np.ones((1, len(units))))[0])
    labels = units["label"].to_numpy() if "label" in units else None
    possible = len(names) > 1 and (labels is None or len(np.unique(labels)) > 1)
    values, redrawn = _drawn(codes, labels, score, draws if possible else 0, seed)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else (np.nan, np.nan)
    interval = Interval(estimate, float(low), float(high), len(values), redrawn, level, len(names))
    return interval, values


def _drawn(
    codes: Array,
    labels: Array | None,
    score: Callable[[Array], Array],
    draws: int,
    seed: int | Sequence[int],
) -> tuple[Array, float]:
    """Return the score in the first `draws` usable draws of clusters, and the share that was not usable."""
    random = np.random.default_rng(seed)
    clusters = int(codes.max()) + 1
    parts = [np.ones(len(codes), dtype=bool)] if labels is None else [labels == label for label in (0, 1)]
    holds = np.stack([np.bincount(codes, part, clusters) for part in parts], axis=1)
    at_once = max(1, min(draws, ELEMENTS_AT_ONCE // len(codes)))
    kept, used, tried = [np.empty(0)], 0, 0
    while used < draws:
        times = random.multinomial(clusters, np.full(clusters, 1 / clusters), size=at_once).astype(float)
        values = np.full(at_once, np.nan)
        usable = (times @ holds > 0).all(axis=1)
        if usable.any():
            values[usable] = score(times[usable][:, codes])
        usable = np.isfinite(values)
        last = np.flatnonzero(usable)[draws - used - 1] + 1 if usable.sum() >= draws - used else at_once
        kept.append(values[:last][usable[:last]])
        used, tried = used + len(kept[-1]), tried + int(last)
        if tried > 1000 and used < (1 - _LARGEST_REDRAWN_SHARE) * tried:
            return np.empty(0), 1 - used / tried
    return np.concatenate(kept), (1 - used / tried if tried else 0.0)


def _aligned(first: pd.DataFrame, second: pd.DataFrame, cluster: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring two tables into the same order of units, and refuse those that hold different ones."""
    key = next((name for name in ("sample", "recording", "person") if name in first and name in second), None)
    if key is None:
        raise ValueError("Two tables need a column sample, recording or person in common to be compared.")
    for table in (first, second):
        if table[key].duplicated().any():
            raise ValueError(f"A {key} occurs twice in one table: aggregate or choose one fold first.")
    if set(first[key]) != set(second[key]):
        differing = len(set(first[key]) ^ set(second[key]))
        raise ValueError(
            f"The two tables differ in {differing} {key}s: evaluate both models on the same ones."
        )
    first, second = (table.sort_values(key).reset_index(drop=True) for table in (first, second))
    for column in ("label", cluster) if "label" in first else (cluster,):
        if not first[column].equals(second[column]):
            raise ValueError(
                f"The two tables give the same {key} another {column}: were they split from one?"
            )
    return first, second
