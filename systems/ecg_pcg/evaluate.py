"""Evaluation of a run of ``ecg-pcg``: scores, subgroups, calibration, chance, other prevalences.

A model may tell sessions apart instead of hearts. So pairs of an abnormal and a normal recording are also
compared within sessions, among recordings made under like conditions (fifths of a probe of the recording
conditions), without the session that holds most normal recordings, per diagnosis, and for disease, to which
an innocent murmur does not count.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from common.errors import UserError
from datasets.cache import Cache
from evaluation.calibration import calibration_table, prevalence_table
from evaluation.databases import database_captions, database_prevalence, database_tables
from evaluation.report import persons_sentence
from evaluation.scores import aggregate, one_label_a_person
from evaluation.statistics import (
    ELEMENTS_AT_ONCE,
    SESSIONS_NEEDED,
    STATISTICS,
    Array,
    Statistic,
    cluster_bootstrap,
    divided,
    too_few_clusters,
    weighted_auroc,
)
from evaluation.tables import Caption
from systems.base.evaluation_run import EvaluationRun, predict_run, score_run
from systems.base.results import LEARNING_CURVES, print_tables, write_binary_results
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.linear.fit import out_of_fold_log_odds
from systems.ecg_pcg.settings import EcgPcgEvaluationSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NORMAL = "Normal"
_INNOCENT = ("Normal", "Benign")
DISEASES = ("MVP", "AD", "MPC")
_DIAGNOSES = {
    "Benign": "innocent murmur",
    "MVP": "mitral valve prolapse",
    "AD": "aortic disease",
    "MPC": "miscellaneous",
}
"""Diagnoses of training-a in its own words, and in ours."""
SUBGROUP_COLUMNS = ["group", "n_abnormal", "n_normal", "sessions", "value", "low", "high", "reason"]


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    settings = run.settings
    if settings.stress:
        from systems.ecg_pcg.robustness import evaluate as robustness  # imported only where it is needed

        robustness.evaluate(run)
    assumed = run.assumed_prevalence
    if settings.prevalence is not None and assumed is None:
        raise UserError("These checkpoints do not state the prevalence they assume: omit --prevalence.")
    predictions = predict_run(run)
    metrics = score_run(run, predictions)
    recordings = aggregate(predictions, "recording")
    if settings.threshold == "half":
        recordings = recordings.assign(threshold=0.5)
    captions = _captions(metrics, settings.prevalence)
    if "by_database" in metrics:
        tables = _database_tables(recordings, metrics, settings, assumed)
        captions |= database_captions(metrics)
    else:
        tables = _recording_tables(
            recordings, run.cache, settings.bootstrap_draws, settings.prevalence, assumed
        )
    print_tables(tables, captions=captions)
    stress, figures = _stress_results(run)
    tables |= stress
    figures = {} if settings.compact else figures
    return metrics, write_binary_results(
        run.folder,
        predictions,
        metrics,
        tables,
        figures | run.learning_curves(),
        compact=settings.compact,
        captions=captions,
    )


def _database_tables(
    recordings: pd.DataFrame,
    metrics: dict[str, Any],
    settings: EcgPcgEvaluationSettings,
    assumed: float | None,
) -> dict[str, pd.DataFrame]:
    """Return the tables of a run on several databases, by name: none of them over all databases together."""
    tables = database_tables(metrics)
    if settings.prevalence is not None and assumed is not None and settings.bootstrap_draws:
        draws = settings.bootstrap_draws
        tables["prevalence"] = database_prevalence(recordings, settings.prevalence, assumed, draws)
    return tables


def _stress_results(run: EvaluationRun) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """Return table and figure of the run on corrupted recordings, if this or an earlier call made them."""
    if not (run.folder / "stress.csv").is_file():
        return {}, {}
    from systems.ecg_pcg.robustness import evaluate as robustness  # imported only where it is needed

    return robustness.results(run)


def _captions(metrics: dict[str, Any], prevalence: float | None) -> dict[str, Caption]:
    """Return what the tables show, by their name."""
    persons = persons_sentence(metrics)
    return {
        "subgroups": Caption(
            "AUROC in parts of the recordings. Within sessions, and within fifths of the probe: "
            "the share of the pairs of an abnormal and a normal recording of the same session (or "
            "fifth) that are ordered right. The probe is a score of the recording conditions "
            "alone; its fifths are recordings made under like conditions. The session left out is the one "
            f"with the most normal recordings. {persons}".strip(),
            "Subgroups (recordings)",
            {"value": "AUROC", "group": "part"},
        ),
        "calibration": Caption(
            "Expected calibration error: mean distance between probability and share of abnormal, 0 at "
            "best. Slope: 1 is right, below 1 the probabilities are too extreme. Intercept: 0 is right, "
            "above 0 they are too low.",
            "Calibration (recordings)",
        ),
        "labels_permuted_among_persons": Caption(
            "Whether the AUROC is better than chance: the labels are exchanged among persons many "
            f"times, and p is the share of exchanges that reach it. {persons}".strip(),
            "Labels permuted among persons (recordings)",
            {
                "estimate": "AUROC",
                "null_mean": "mean by chance",
                "null_deviation": "deviation by chance",
                "permutations": "exchanges",
            },
        ),
        "stress": Caption(
            "AUROC per recording on the same recordings with corrupted signals, and its paired change from "
            f"the clean ones{', both means over databases' * ('by_database' in metrics)}. Heart "
            "states stay those of the clean recordings.",
            "Under corruption (recordings)",
        ),
        "prevalence": Caption(
            f"The scores as they would be if {prevalence or 0:.1%} of recordings were abnormal. PPV: share "
            "of the predicted abnormal that is abnormal. NPV: share of the predicted normal that is normal.",
            "Prevalence (recordings)",
        ),
        "learning_curves": LEARNING_CURVES,
    }


def _recording_tables(
    recordings: pd.DataFrame,
    cache: Cache,
    draws: int,
    prevalence: float | None = None,
    assumed: float | None = None,
) -> dict[str, pd.DataFrame]:
    """Return further tables of a run, by name; none without draws, or where there is but one class.

    Parameters
    ----------
    recordings : pandas.DataFrame
        From `evaluation.scores.aggregate`.
    cache : Cache
        Gives the recording-condition probe.
    draws : int
        Of the bootstrap, and permutations of the labels.
    prevalence, assumed : float, optional
        At which scores are reported as well, and which the probabilities assume.
    """
    if not draws or recordings["label"].nunique() < 2:
        return {}
    tables = {
        "subgroups": subgroup_table(with_probe(recordings, cache), draws),
        "calibration": calibration_table(recordings, draws=draws),
    }
    if (recordings["person"].fillna("") != "").all():
        chance = dataclasses.asdict(permutation_test(recordings, permutations=draws))
        reason = too_few_clusters(recordings)
        chance |= {"p_value": np.nan if reason else chance["p_value"], "reason": reason}
        tables["labels_permuted_among_persons"] = pd.DataFrame([chance])
    if prevalence is not None:
        tables["prevalence"] = prevalence_table(recordings, prevalence, source=assumed, draws=draws)
    return tables


def with_probe(recordings: pd.DataFrame, cache: Cache) -> pd.DataFrame:
    """Return recordings with the out-of-fold score of the recording-condition probe, where it can be had."""
    grid = phase_grid(cache)
    metadata = cache.table("recordings").set_index("recording").loc[grid.recording]
    if not grid.has_pcg.all():
        return recordings
    features = {"pcg": grid.probe_pcg} | ({"ecg": grid.probe_ecg} if grid.has_ecg.all() else {})
    try:
        probe = out_of_fold_log_odds(features, metadata["label"].to_numpy(), metadata["session"].to_numpy())
    except (UserError, ValueError):  # too few sessions, or of one class, to be split
        return recordings
    return recordings.assign(probe=recordings["recording"].map(dict(zip(grid.recording, probe, strict=True))))


@dataclasses.dataclass(frozen=True)
class Permutation:
    """An AUROC beside those of permuted labels."""

    estimate: float
    """With the labels as they are."""
    null_mean: float
    """Mean over permutations."""
    null_deviation: float
    """Standard deviation over permutations."""
    p_value: float
    """Share of permutations with an AUROC at least as high, the labels as they are counted as one of them."""
    permutations: int
    """Permutations made."""
    persons: int
    """Persons whose labels were permuted."""


def permutation_test(recordings: pd.DataFrame, *, permutations: int, seed: int = 0) -> Permutation:
    """Test an AUROC per recording against chance by permuting the labels among persons.

    All recordings of a person get the same label, as they have in truth. The scores stay as they are: the
    test asks whether they go with the labels, not what a model trained on permuted labels would reach.
    It takes persons as exchangeable; where sessions differ, only intervals over sessions allow for it.

    Parameters
    ----------
    recordings : pandas.DataFrame
        One row a recording: ``person``, ``label``, ``probability``. A person with recordings of both
        labels counts as two.
    permutations : int
        Number of permutations; all there are, where these are fewer.
    seed : int
        Seed of the permutations.

    Returns
    -------
    Permutation

    Raises
    ------
    ValueError
        Where a person is not known, or there is only one class.
    """
    if recordings["person"].isna().any() or (recordings["person"] == "").any():
        raise ValueError("Labels are permuted among persons, and not every recording names one.")
    if recordings["label"].nunique() < 2:
        raise ValueError("There is one class only: nothing to test against chance.")
    codes, names = pd.factorize(one_label_a_person(recordings)["person"])
    first = np.unique(codes, return_index=True)[1]
    ranks = stats.rankdata(recordings["probability"])

    def auroc(labels: Array, axis: int = -1) -> Array:
        positive = np.moveaxis(labels, axis, -1)[..., codes]
        count = positive.sum(axis=-1)
        return (positive @ ranks - count * (count + 1) / 2) / (count * (len(ranks) - count))

    of_person = recordings["label"].to_numpy()[first].astype(float)
    test = stats.permutation_test(
        (of_person,),
        auroc,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, ELEMENTS_AT_ONCE // len(ranks)),
        alternative="greater",
        rng=seed,
    )
    null = test.null_distribution
    return Permutation(
        estimate=float(test.statistic),
        null_mean=float(null.mean()),
        null_deviation=float(null.std(ddof=1)),
        p_value=float(test.pvalue),
        permutations=len(null),
        persons=len(names),
    )


def subgroup_table(
    recordings: pd.DataFrame, draws: int, seed: int = 0, session: str | None = None
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
        Columns group, n_abnormal, n_normal, sessions, value, low, high, reason (why there is no interval).
        Rows: all; per person; each diagnosis against normal; disease against normal and innocent murmur;
        without a session; within
        sessions and within fifths of the probe (share of the pairs of an abnormal and a normal recording
        in the same session or fifth that are ordered right, ties half). What the table does not
        know has no row; what cannot be computed is nan.
    """
    parts: dict[str, pd.DataFrame] = {"all": recordings}
    persons = _persons(recordings)
    if persons is not None:
        parts["per person"] = persons
    parts |= diagnosis_parts(recordings)
    left_out = session if session is not None else largest_normal_session(recordings)
    if left_out:
        parts[f"without session {left_out}"] = recordings[recordings["session"] != left_out]
    rows = [_row(name, part, STATISTICS["auroc"], draws, seed) for name, part in parts.items()]
    rows.append(_row("within sessions", recordings, within_sessions, draws, seed))
    if "probe" in recordings:
        fifths = recordings.assign(fifth=probe_fifths(recordings["probe"]))
        rows.append(_row("within fifths of the probe", fifths, within_column("fifth"), draws, seed))
    return pd.DataFrame(rows, columns=SUBGROUP_COLUMNS)


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
    found = [name for name in dict.fromkeys([*_DIAGNOSES, *sorted(diagnosis)]) if name in set(diagnosis)]
    found = [name for name in found if name not in ("", _NORMAL)]
    if not (diagnosis == _NORMAL).any():
        return {}
    parts = {
        f"{_DIAGNOSES.get(name, name)} against normal": recordings[diagnosis.isin([name, _NORMAL])]
        for name in found
    }
    known = recordings[diagnosis.isin([*_INNOCENT, *DISEASES])]
    if set(found) & set(DISEASES):
        disease = diagnosis[known.index].isin(DISEASES).astype(int)
        parts["disease against normal and innocent murmur"] = known.assign(label=disease)
    return parts


def largest_normal_session(recordings: pd.DataFrame) -> str:
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

    A `evaluation.statistics.Statistic` for draws of whole sessions: pairs of all sessions are pooled, and a
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
    labels, scores = units["label"].to_numpy(), units["probability"].to_numpy(dtype=float)
    sessions = units.groupby("session", sort=False).indices.values()
    right, pairs = np.zeros(len(sessions)), np.zeros(len(sessions))
    for number, rows in enumerate(sessions):
        one, other = (scores[rows[labels[rows] == label]] for label in (1, 0))
        pairs[number] = len(one) * len(other)
        right[number] = (one[:, None] > other).sum() + (one[:, None] == other).sum() / 2
    times = np.atleast_2d(weights)[:, [rows[0] for rows in sessions]]
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


def _row(
    name: str, units: pd.DataFrame, statistic: Statistic, draws: int, seed: int
) -> tuple[str, int, int, int, float, float, float, str]:
    """Return one row of the table: counts, value, interval, and why there is none."""
    abnormal = int((units["label"] == 1).sum())
    counts = (name, abnormal, len(units) - abnormal, units["session"].nunique())
    if not 0 < abnormal < len(units):
        return (*counts, np.nan, np.nan, np.nan, too_few_clusters(units))
    interval = cluster_bootstrap(units, statistic, draws=draws, seed=seed)
    if statistic is within_sessions and not interval.reason and draws:
        mixed = int((units.groupby("session")["label"].nunique() == 2).sum())
        verb = "is" if mixed == 1 else "are"
        few = f"{mixed} session{'s' * (mixed != 1)} with both classes, {SESSIONS_NEEDED} are needed"
        interval = interval if mixed >= SESSIONS_NEEDED else interval.without_ends(f"there {verb} only {few}")
    return (*counts, *interval.cells)


def _persons(recordings: pd.DataFrame) -> pd.DataFrame | None:
    """Return one row a person, or None where one is not known."""
    if "person" not in recordings:
        return None
    names = recordings["person"].fillna("").astype(str)
    if (names == "").any():
        return None
    filled = {name: value for name, value in {"fold": 0, "threshold": 0.5}.items() if name not in recordings}
    return aggregate(recordings.assign(**filled), "person")
