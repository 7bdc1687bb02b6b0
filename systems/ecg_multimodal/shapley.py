"""How much each modality of a patient (image, signal, table) adds to a prediction, and to a score.

The prediction of a model is worked out from every set of modalities that it could have been given. What a
modality adds depends on what is known already, so it is averaged over all orders in which the modalities
could have come (Shapley, Contributions to the Theory of Games II, 1953). With three modalities these are
seven predictions and the answer is exact: nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain, combinations
from math import factorial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from evaluation.statistics import Array, Interval, Statistic, cluster_bootstrap, divided, weighted_auroc

Coalition = frozenset[str]
"""A set of modalities that a prediction was made from."""

_MOST_MODALITIES = 6
_CHANCE = 0.5
_SUM = "sum"


def coalitions(modalities: Collection[str]) -> list[Coalition]:
    """Return every non-empty set of the modalities: seven of three, small ones first."""
    return [part for part in _subsets(modalities) if part]


def coalition_name(coalition: Collection[str], modalities: Collection[str]) -> str:
    """Return the modalities of a set in the order of `views`, such as ``image + signal``."""
    return " + ".join(modality for modality in modalities if modality in coalition)


def shapley_values(
    values: Mapping[Coalition, ArrayLike],
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Array]:
    """Exact Shapley value of each modality for each patient.

    ``phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (v(S with i) - v(S))``, where v(S) is
    the prediction from the modalities S. The values of one patient sum to v(all modalities) - v(no modality).

    Parameters
    ----------
    values : mapping of frozenset of str to array_like, shape (N,)
        Prediction from every non-empty set of modalities (`coalitions`), as log-odds, in which what is
        independent adds up. Six modalities at most.
    empty : float or array_like, shape (N,)
        What is predicted of a patient of whom nothing is known: the log-odds of the training prevalence.
    present : mapping of str to array_like of bool, shape (N,), optional
        Which patients have a modality; modalities that are not named are there. Only the modalities that a
        patient has are players, and predictions from others are not looked at (they may be NaN).

    Returns
    -------
    dict of str to ndarray, shape (N,)
        Contribution of each modality in the order of the one-modality sets; NaN where the patient lacks the
        modality.

    Raises
    ------
    ValueError
        Where a set of modalities is missing, lengths differ, or a value that is needed is not finite.
    """
    game = _complete_game(values, empty, present)
    modalities = _modalities(game)
    found = {modality: np.zeros(len(game[frozenset()])) for modality in modalities}
    for modality in modalities:
        for others in _subsets([name for name in modalities if name != modality]):
            weight = (
                factorial(len(others))
                * factorial(len(modalities) - len(others) - 1)
                / factorial(len(modalities))
            )
            found[modality] += weight * (game[others | {modality}] - game[others])
    there = _presence(modalities, len(game[frozenset()]), present)
    return {modality: np.where(there[modality], found[modality], np.nan) for modality in modalities}


def _complete_game(
    values: Mapping[Coalition, ArrayLike],
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
) -> dict[Coalition, Array]:
    """Return the prediction of every patient from every set of modalities, the empty one included.

    A patient who lacks some of the modalities gets the prediction from those that are there. So a missing
    modality adds nothing anywhere, and the others get what they get in the game without it.
    Arguments as for `shapley_values`.
    """
    modalities = _checked_modalities(values)
    tables = {part: np.asarray(value, dtype=float) for part, value in values.items()}
    shapes = {table.shape for table in tables.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"Every set of modalities needs one value a patient, not shapes {sorted(shapes)}.")
    count = len(next(iter(tables.values())))
    there = _presence(modalities, count, present)
    tables[frozenset()] = np.broadcast_to(np.asarray(empty, dtype=float), (count,))
    return {part: _restricted(part, tables, there) for part in _subsets(modalities)}


def attribution(contributions: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Share of each modality in what moved the predictions of all patients.

    This is the size of its effect, right or wrong; `shapley_auroc` is its part in the score.

    Parameters
    ----------
    contributions : mapping of str to array_like, shape (N,)
        From `shapley_values`. A modality that a patient lacks did nothing for this patient.

    Returns
    -------
    pandas.DataFrame
        One row a modality: view, patients (that have it), mean_absolute (mean ``|phi|`` over all N patients,
        in log-odds), share (of their sum; NaN where all are zero).
    """
    sizes = np.stack([np.abs(np.asarray(value, dtype=float)) for value in contributions.values()])
    if not sizes.shape[1]:
        raise ValueError("There are no patients, so there are no contributions.")
    mean = np.nan_to_num(sizes).mean(axis=1)
    return pd.DataFrame(
        {
            "view": list(contributions),
            "patients": np.isfinite(sizes).sum(axis=1),
            "mean_absolute": mean,
            "share": divided(mean, mean.sum()),
        }
    )


def shapley_auroc(
    label: ArrayLike,
    values: Mapping[Coalition, ArrayLike],
    groups: ArrayLike,
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
    *,
    draws: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Part of each modality in the AUROC: the Shapley values of the score itself.

    v(S) is the AUROC of the predictions from the modalities S, and 0.5 of none. The rows of the modalities
    sum to the AUROC of all modalities - 0.5. Modalities that hold the same information share their part.

    Parameters
    ----------
    label : array_like, shape (N,)
        0 or 1; both must be there.
    values, empty, present
        As for `shapley_values`. Who lacks all modalities of a set is predicted as `empty`: give one number,
        since one a fold would rank the folds.
    groups : array_like, shape (N,)
        Patient of each row: the unit that is drawn.
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns view, value, low, high (95 %); one row a modality, and last the row ``sum``.
    """
    game = _complete_game(values, empty, present)
    units = _units(label, groups, game)

    rows = []
    for modality in [*_modalities(game), _SUM]:
        interval = cluster_bootstrap(
            units, _part(modality, game), "group", noun="patient", draws=draws, seed=seed
        )
        rows.append({"view": modality, **_ends(interval)})
    return pd.DataFrame(rows)


def subset_scores(
    label: ArrayLike,
    values: Mapping[Coalition, ArrayLike],
    groups: ArrayLike,
    empty: ArrayLike,
    present: Mapping[str, ArrayLike] | None = None,
    *,
    draws: int,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC of the predictions from every non-empty set of modalities, with patient-clustered intervals.

    Arguments as for `shapley_auroc`.

    Returns
    -------
    pandas.DataFrame
        One row a set, small ones first: views (such as ``image + signal``), patients (rows with at least
        one of the modalities; the others are predicted as `empty`), value, low, high (95 %).
    """
    game = _complete_game(values, empty, present)
    units, modalities = _units(label, groups, game), _modalities(game)
    there = _presence(modalities, len(units), present)
    rows = []
    for part in coalitions(modalities):
        interval = cluster_bootstrap(
            units.assign(probability=game[part]), "auroc", "group", noun="patient", draws=draws, seed=seed
        )
        known = np.any([there[modality] for modality in part], axis=0)
        rows.append(
            {"views": coalition_name(part, modalities), "patients": int(known.sum()), **_ends(interval)}
        )
    return pd.DataFrame(rows)


def _subsets(modalities: Collection[str]) -> Iterator[Coalition]:
    """Give every set of the modalities, the empty one first."""
    parts = (combinations(modalities, size) for size in range(len(modalities) + 1))
    return (frozenset(part) for part in chain.from_iterable(parts))


def _modalities(game: Mapping[Coalition, Array]) -> list[str]:
    return [modality for part in game if len(part) == 1 for modality in part]


def _checked_modalities(values: Mapping[Coalition, ArrayLike]) -> list[str]:
    modalities = list(dict.fromkeys([modality for part in values if len(part) == 1 for modality in part]))
    modalities += sorted({modality for part in values for modality in part} - set(modalities))
    if frozenset() in values:
        raise ValueError("The prediction from no modality is the argument `empty`, and no part of `values`.")
    if not 1 <= len(modalities) <= _MOST_MODALITIES:
        raise ValueError(
            f"Exact Shapley values are for 1 to {_MOST_MODALITIES} modalities, not {len(modalities)}."
        )
    missing = [part for part in coalitions(modalities) if part not in values]
    if missing:
        names = "; ".join(coalition_name(part, modalities) for part in missing)
        raise ValueError(f"Predict from every set of modalities; there are no predictions from: {names}.")
    return modalities


def _presence(
    modalities: Collection[str], count: int, present: Mapping[str, ArrayLike] | None
) -> dict[str, Array]:
    given = dict(present or {})
    unknown = sorted(set(given) - set(modalities))
    if unknown:
        raise ValueError(
            f"Presence is given of {', '.join(unknown)}; the modalities are {', '.join(modalities)}."
        )
    found = {modality: np.asarray(given.get(modality, np.ones(count)), dtype=bool) for modality in modalities}
    wrong = [f"{table.shape} of {modality}" for modality, table in found.items() if table.shape != (count,)]
    if wrong:
        raise ValueError(f"Presence needs shape ({count},), not {', '.join(wrong)}.")
    return found


def _restricted(part: Coalition, tables: Mapping[Coalition, Array], there: Mapping[str, Array]) -> Array:
    """Return the prediction of each patient from those modalities of a set that the patient has."""
    found = np.full(len(tables[part]), np.nan)
    for left in _subsets(part):
        rows = np.ones(len(found), dtype=bool)
        for modality in part:
            rows &= there[modality] == (modality in left)
        found[rows] = tables[left][rows]
    if not np.isfinite(found).all():
        name = coalition_name(part, sorted(part)) or "no modality"
        raise ValueError(
            f"{int((~np.isfinite(found)).sum())} predictions from {name} are not finite: say in `present` "
            "who lacks a modality, and keep probabilities away from 0 and 1 before taking log-odds."
        )
    return found


def _units(label: ArrayLike, groups: ArrayLike, game: Mapping[Coalition, Array]) -> pd.DataFrame:
    units = pd.DataFrame({"label": np.asarray(label), "group": np.asarray(groups)})
    if len(units) != len(game[frozenset()]):
        raise ValueError(f"There are {len(units)} labels for {len(game[frozenset()])} predictions.")
    if not units["label"].isin((0, 1)).all() or units["label"].nunique() < 2:
        raise ValueError("The AUROC of sets of modalities needs labels 0 and 1, both of them, and no others.")
    return units


def _part(modality: str, game: Mapping[Coalition, Array]) -> Statistic:
    """Return the statistic that is the part of a modality in the AUROC - 0.5, or all of it for the sum."""

    def statistic(units: pd.DataFrame, weights: Array) -> Array:
        areas = {part: weighted_auroc(units["label"], score, weights) for part, score in game.items() if part}
        found = shapley_values(areas, _CHANCE)
        return found[modality] if modality != _SUM else np.sum(list(found.values()), axis=0)

    return statistic


def _ends(interval: Interval) -> dict[str, float | str]:
    return dict(zip(("value", "low", "high", "reason"), interval.cells, strict=True))
