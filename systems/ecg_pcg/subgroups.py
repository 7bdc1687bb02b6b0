"""The same scores where it is harder to be right for the wrong reason.

A model may tell sessions apart instead of hearts. So pairs of an abnormal and a normal recording are also
compared within sessions, among recordings made under like conditions (fifths of a probe of the recording
conditions), without the session that holds most normals, per diagnosis, and for disease, to which an
innocent murmur does not count.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from evaluation.scores import aggregate
from evaluation.statistics import cluster_bootstrap
from evaluation.weighted import Array, Statistic, divided, weighted_auroc

NORMAL = "Normal"
INNOCENT = ("Normal", "Benign")
DISEASES = ("MVP", "AD", "MPC")
DIAGNOSES = {
    "Benign": "innocent murmur",
    "MVP": "mitral valve prolapse",
    "AD": "aortic disease",
    "MPC": "miscellaneous",
}
"""Diagnoses of training-a in its own words, and in ours."""
COLUMNS = ["group", "n_abnormal", "n_normal", "sessions", "value", "low", "high"]


def subgroup_table(
    recordings: pd.DataFrame, draws: int = 2000, seed: int = 0, session: str | None = None
) -> pd.DataFrame:
    """AUROC in parts of the recordings, with session-clustered 95 % intervals.

    Parameters
    ----------
    recordings : pandas.DataFrame
        One row a recording: ``recording``, ``session``, ``label``, ``probability``, and where known
        ``person``, ``diagnosis`` (names of training-a) and ``probe`` (a score of the recording conditions).
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.
    session : str, optional
        Session to leave out in one row; default: the one with the most normal recordings (C115 in
        training-a).

    Returns
    -------
    pandas.DataFrame
        Columns group, n_abnormal, n_normal, sessions, value, low, high. Rows: all; per person; each
        diagnosis against normal; disease against normal and innocent murmur; without a session; within
        sessions and within fifths of the probe (share of the pairs of an abnormal and a normal recording
        in the same session or fifth that are ordered right, ties half). What the table does not
        know has no row; what cannot be computed is nan.
    """
    parts: dict[str, pd.DataFrame] = {"all": recordings}
    persons = _persons(recordings)
    if persons is not None:
        parts["per person"] = persons
    parts |= diagnosis_parts(recordings)
    named = session if session is not None else largest_session_of_normals(recordings)
    if named:
        parts[f"without session {named}"] = recordings[recordings["session"] != named]
    rows = [_row(name, part, _auroc, draws, seed) for name, part in parts.items()]
    rows.append(_row("within sessions", recordings, within_sessions, draws, seed))
    if "probe" in recordings:
        fifths = recordings.assign(fifth=probe_fifths(recordings["probe"]))
        rows.append(_row("within fifths of the probe", fifths, within_column("fifth"), draws, seed))
    return pd.DataFrame(rows, columns=COLUMNS)


def diagnosis_parts(recordings: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the recordings of each diagnosis with the normal ones, and all of them labelled by disease.

    Parameters
    ----------
    recordings : pandas.DataFrame
        Columns ``label`` and ``diagnosis``; rows without a diagnosis are in none of the parts.

    Returns
    -------
    dict of str to pandas.DataFrame
        By name of the comparison; empty where diagnoses, or normal recordings, are not known.
    """
    if "diagnosis" not in recordings:
        return {}
    diagnosis = recordings["diagnosis"].fillna("").astype(str)
    found = [name for name in dict.fromkeys([*DIAGNOSES, *sorted(diagnosis)]) if name in set(diagnosis)]
    found = [name for name in found if name not in ("", NORMAL)]
    if not (diagnosis == NORMAL).any():
        return {}
    parts = {
        f"{DIAGNOSES.get(name, name)} against normal": recordings[diagnosis.isin([name, NORMAL])]
        for name in found
    }
    known = recordings[diagnosis.isin([*INNOCENT, *DISEASES])]
    if set(found) & set(DISEASES):
        disease = diagnosis[known.index].isin(DISEASES).astype(int)
        parts["disease against normal and innocent murmur"] = known.assign(label=disease)
    return parts


def largest_session_of_normals(recordings: pd.DataFrame) -> str:
    """Return the session with the most normal recordings (the first by name of equals), or nothing."""
    counts = recordings.loc[recordings["label"] == 0, "session"].value_counts().sort_index()
    return str(counts.idxmax()) if len(counts) else ""


def probe_fifths(probe: pd.Series) -> pd.Series:
    """Return the fifth, 0 to 4, that each probe score lies in; equal scores in the same one."""
    if probe.isna().any():
        raise ValueError(f"{int(probe.isna().sum())} recordings have no probe score.")
    return (np.ceil(5 * probe.rank() / len(probe)) - 1).astype(int)


def within_sessions(units: pd.DataFrame, weights: Array) -> Array:
    """Share of the pairs of both classes within a session that are ordered right, ties half.

    A `evaluation.weighted.Statistic` for draws of whole sessions: pairs of all sessions are pooled, and a
    session drawn twice counts twice (its two copies are not paired with each other).

    Parameters
    ----------
    units : pandas.DataFrame
        ``session``, ``label``, ``probability``.
    weights : ndarray, shape (draws, N)
        The same for all rows of a session.

    Returns
    -------
    ndarray, shape (draws,)
        nan where no session has both classes.
    """
    codes, names = pd.factorize(units["session"])
    labels, scores = units["label"].to_numpy(), units["probability"].to_numpy(dtype=float)
    right, pairs, first = (np.zeros(len(names)) for _ in range(3))
    for code in range(len(names)):
        rows = codes == code
        first[code] = np.argmax(rows)
        one, other = scores[rows & (labels == 1)], scores[rows & (labels == 0)]
        pairs[code] = len(one) * len(other)
        right[code] = ((one[:, None] > other).sum() + (one[:, None] == other).sum() / 2) if pairs[code] else 0
    times = np.atleast_2d(weights)[:, first.astype(int)]
    return divided(times @ right, times @ pairs)


def within_column(column: str) -> Statistic:
    """Return the share of pairs of both classes with the same value of a column that are ordered right."""

    def share(units: pd.DataFrame, weights: Array) -> Array:
        labels = units["label"].to_numpy(dtype=float)
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for value in units[column].unique():
            rows = (units[column] == value).to_numpy()
            positive = labels[rows]
            part = weights[:, rows]
            count = (part @ positive) * (part @ (1 - positive))
            area = weighted_auroc(positive, units["probability"].to_numpy()[rows], part)
            right += np.nan_to_num(area) * count
            pairs += count
        return divided(right, pairs)

    return share


def _auroc(units: pd.DataFrame, weights: Array) -> Array:
    return weighted_auroc(units["label"], units["probability"], weights)


def _row(
    name: str, units: pd.DataFrame, statistic: Statistic, draws: int, seed: int
) -> tuple[str, int, int, int, float, float, float]:
    """Return one row of the table: counts, value and interval."""
    abnormal = int((units["label"] == 1).sum())
    counts = (name, abnormal, len(units) - abnormal, units["session"].nunique())
    if not 0 < abnormal < len(units):
        return (*counts, np.nan, np.nan, np.nan)
    interval = cluster_bootstrap(units, statistic, draws=draws, seed=seed)
    return (*counts, interval.estimate, interval.low, interval.high)


def _persons(recordings: pd.DataFrame) -> pd.DataFrame | None:
    """Return one row a person, or None where one is not known."""
    if "person" not in recordings:
        return None
    names = recordings["person"].fillna("").astype(str)
    if (names == "").any():
        return None
    filled = {name: value for name, value in {"fold": 0, "threshold": 0.5}.items() if name not in recordings}
    return aggregate(recordings.assign(**filled), "person")
