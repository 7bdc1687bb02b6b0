"""How much each view of a patient (image, signal, table) adds to a prediction, and to a score.

The prediction of a model is worked out from every set of views that it could have been given. What a view
adds depends on what is known already, so it is averaged over all orders in which the views could have come
(Shapley, Contributions to the Theory of Games II, 1953). With three views these are seven predictions and
the answer is exact: nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain, combinations
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import Interval, cluster_bootstrap
from evaluation.weighted import Array, Statistic, divided, weighted_auroc

Coalition = frozenset[str]
"""A set of views that a prediction was made from."""

MOST_VIEWS = 6
CHANCE = 0.5
SUM = "sum"


def coalitions(views: Collection[str]) -> list[Coalition]:
    """Return every non-empty set of the views: seven of three, small ones first."""
    return [part for part in _subsets(views) if part]


def coalition_name(coalition: Collection[str], views: Collection[str]) -> str:
    """Return the views of a set in the order of `views`, such as ``image + signal``."""
    return " + ".join(view for view in views if view in coalition)


def shapley_values(
    values: Mapping[Coalition, ArrayLike],
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Array]:
    """Exact Shapley value of each view for each patient.

    ``phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (v(S with i) - v(S))``, where v(S) is
    the prediction from the views S. The values of one patient sum to v(all views) - v(no view).

    Parameters
    ----------
    values : mapping of frozenset of str to array_like, shape (N,)
        Prediction from every non-empty set of views (`coalitions`), as log-odds, in which what is
        independent adds up. Six views at most.
    empty : float or array_like, shape (N,)
        What is predicted of a patient of whom nothing is known: the log-odds of the training prevalence.
    present : mapping of str to array_like of bool, shape (N,), optional
        Which patients have a view; views that are not named are there. Only the views that a patient
        has are players, and predictions from others are not looked at (they may be NaN).

    Returns
    -------
    dict of str to ndarray, shape (N,)
        Contribution of each view in the order of the one-view sets; NaN where the patient lacks the view.

    Raises
    ------
    ValueError
        Where a set of views is missing, lengths differ, or a value that is needed is not finite.
    """
    game = complete_game(values, empty, present)
    views = _views(game)
    found = {view: np.zeros(len(game[frozenset()])) for view in views}
    for view in views:
        for others in _subsets([name for name in views if name != view]):
            weight = factorial(len(others)) * factorial(len(views) - len(others) - 1) / factorial(len(views))
            found[view] += weight * (game[others | {view}] - game[others])
    there = _presence(views, len(game[frozenset()]), present)
    return {view: np.where(there[view], found[view], np.nan) for view in views}


def complete_game(
    values: Mapping[Coalition, ArrayLike],
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
) -> dict[Coalition, Array]:
    """Return the prediction of every patient from every set of views, the empty one included.

    A patient who lacks some of the views gets the prediction from those that are there. So a missing
    view adds nothing anywhere, and the others get what they get in the game without it.
    Arguments as for `shapley_values`.
    """
    views = _checked_views(values)
    tables = {part: np.asarray(value, dtype=float) for part, value in values.items()}
    shapes = {table.shape for table in tables.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"Every set of views needs one value a patient, not shapes {sorted(shapes)}.")
    count = len(next(iter(tables.values())))
    there = _presence(views, count, present)
    tables[frozenset()] = np.broadcast_to(np.asarray(empty, dtype=float), (count,))
    return {part: _restricted(part, tables, there) for part in _subsets(views)}


def patient_shares(contributions: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Share of each view in what moved the prediction of a patient: its part of the sum of ``|phi|``.

    Parameters
    ----------
    contributions : mapping of str to array_like, shape (N,)
        From `shapley_values`.

    Returns
    -------
    dict of str to ndarray, shape (N,)
        0 to 1, summing to 1 over the views that are there; NaN for a view that is not there, and for all
        views of a patient whose prediction nothing moved.
    """
    sizes = {view: np.abs(np.asarray(value, dtype=float)) for view, value in contributions.items()}
    total = np.nansum(list(sizes.values()), axis=0)
    return {view: divided(size, total) for view, size in sizes.items()}


def shapley_shares(contributions: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Share of each view in what moved the predictions of all patients.

    This is the size of what a view does, right or wrong; `score_contributions` credits what was right.

    Parameters
    ----------
    contributions : mapping of str to array_like, shape (N,)
        From `shapley_values`. A view that a patient lacks did nothing for this patient.

    Returns
    -------
    pandas.DataFrame
        One row a view: view, patients (that have it), mean_absolute (mean ``|phi|`` over all N patients, in
        log-odds), share (of their sum; NaN where all are zero).
    """
    sizes = np.stack([np.abs(np.asarray(value, dtype=float)) for value in contributions.values()])
    if not sizes.shape[1]:
        raise ValueError("There are no patients to share contributions of.")
    mean = np.nan_to_num(sizes).mean(axis=1)
    return pd.DataFrame(
        {
            "view": list(contributions),
            "patients": np.isfinite(sizes).sum(axis=1),
            "mean_absolute": mean,
            "share": divided(mean, mean.sum()),
        }
    )


def score_contributions(
    label: ArrayLike,
    values: Mapping[Coalition, ArrayLike],
    groups: ArrayLike,
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Credit each view its part of the AUROC: the Shapley values of the score itself.

    v(S) is the AUROC of the predictions from the views S, and 0.5 of none. The rows of the views sum to
    the AUROC of all views - 0.5. A view that only echoes another one shares its part.

    Parameters
    ----------
    label : array_like, shape (N,)
        0 or 1; both must be there.
    values, empty, present
        As for `shapley_values`. Who lacks all views of a set is predicted as `empty`: give one number,
        since one a fold would rank the folds.
    groups : array_like, shape (N,)
        Patient of each row: the unit that is drawn.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns view, value, low, high (95 %); one row a view, and last the row ``sum``.
    """
    game = complete_game(values, empty, present)
    units = _units(label, groups, game)

    rows = []
    for view in [*_views(game), SUM]:
        interval = cluster_bootstrap(units, _part(view, game), "group", draws=draws, seed=seed)
        rows.append({"view": view, **_ends(interval)})
    return pd.DataFrame(rows)


def subset_scores(
    label: ArrayLike,
    values: Mapping[Coalition, ArrayLike],
    groups: ArrayLike,
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC of the predictions from every non-empty set of views, with patient-clustered intervals.

    Arguments as for `score_contributions`.

    Returns
    -------
    pandas.DataFrame
        One row a set, small ones first: views (such as ``image + signal``), patients (rows with at least
        one of the views; the others are predicted as `empty`), value, low, high (95 %).
    """
    game = complete_game(values, empty, present)
    units, views = _units(label, groups, game), _views(game)
    there = _presence(views, len(units), present)
    rows = []
    for part in coalitions(views):
        interval = cluster_bootstrap(
            units.assign(probability=game[part]), "auroc", "group", draws=draws, seed=seed
        )
        known = np.any([there[view] for view in part], axis=0)
        rows.append({"views": coalition_name(part, views), "patients": int(known.sum()), **_ends(interval)})
    return pd.DataFrame(rows)


def _subsets(views: Collection[str]) -> Iterator[Coalition]:
    """Give every set of the views, the empty one first."""
    parts = (combinations(views, size) for size in range(len(views) + 1))
    return (frozenset(part) for part in chain.from_iterable(parts))


def _views(game: Mapping[Coalition, Array]) -> list[str]:
    return [view for part in game if len(part) == 1 for view in part]


def _checked_views(values: Mapping[Coalition, ArrayLike]) -> list[str]:
    views = list(dict.fromkeys([view for part in values if len(part) == 1 for view in part]))
    views += sorted({view for part in values for view in part} - set(views))
    if frozenset() in values:
        raise ValueError("The prediction from no view is the argument `empty`, and no part of `values`.")
    if not 1 <= len(views) <= MOST_VIEWS:
        raise ValueError(f"Exact Shapley values are for 1 to {MOST_VIEWS} views, not {len(views)}.")
    missing = [part for part in coalitions(views) if part not in values]
    if missing:
        names = "; ".join(coalition_name(part, views) for part in missing)
        raise ValueError(f"Predict from every set of views; there are no predictions from: {names}.")
    return views


def _presence(
    views: Collection[str], count: int, present: Mapping[str, ArrayLike] | None
) -> dict[str, Array]:
    named = dict(present or {})
    unknown = sorted(set(named) - set(views))
    if unknown:
        raise ValueError(f"Presence is given of {', '.join(unknown)}; the views are {', '.join(views)}.")
    found = {view: np.asarray(named.get(view, np.ones(count)), dtype=bool) for view in views}
    wrong = [f"{table.shape} of {view}" for view, table in found.items() if table.shape != (count,)]
    if wrong:
        raise ValueError(f"Presence needs shape ({count},), not {', '.join(wrong)}.")
    return found


def _restricted(part: Coalition, tables: Mapping[Coalition, Array], there: Mapping[str, Array]) -> Array:
    """Return the prediction of each patient from those views of a set that the patient has."""
    found = np.full(len(tables[part]), np.nan)
    for left in _subsets(part):
        rows = np.ones(len(found), dtype=bool)
        for view in part:
            rows &= there[view] == (view in left)
        found[rows] = tables[left][rows]
    if not np.isfinite(found).all():
        name = coalition_name(part, sorted(part)) or "no view"
        raise ValueError(
            f"{int((~np.isfinite(found)).sum())} predictions from {name} are not finite: say in `present` "
            "who lacks a view, and keep probabilities away from 0 and 1 before taking log-odds."
        )
    return found


def _units(label: ArrayLike, groups: ArrayLike, game: Mapping[Coalition, Array]) -> pd.DataFrame:
    units = pd.DataFrame({"label": np.asarray(label), "group": np.asarray(groups)})
    if len(units) != len(game[frozenset()]):
        raise ValueError(f"There are {len(units)} labels for {len(game[frozenset()])} predictions.")
    if not units["label"].isin((0, 1)).all() or units["label"].nunique() < 2:
        raise ValueError("The AUROC of sets of views needs labels 0 and 1, both of them, and no others.")
    return units


def _part(view: str, game: Mapping[Coalition, Array]) -> Statistic:
    """Return the statistic that credits a view its part of the AUROC - 0.5, or all of it to the sum."""

    def statistic(units: pd.DataFrame, weights: Array) -> Array:
        areas = {part: weighted_auroc(units["label"], score, weights) for part, score in game.items() if part}
        found = shapley_values(areas, CHANCE)
        return found[view] if view != SUM else np.sum(list(found.values()), axis=0)

    return statistic


def _ends(interval: Interval) -> dict[str, float]:
    return {"value": interval.estimate, "low": interval.low, "high": interval.high}
