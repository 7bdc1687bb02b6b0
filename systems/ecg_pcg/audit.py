"""The leakage audit: what a split shares between train and test, and what is known without any signal.

A figure on a split means something only beside baselines without signals: the labels of the neighbours in the
same session, and metadata of the recording such as its length.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.files import write_table
from config import EvaluationSettings
from datasets.cache import Cache, describe_choice, find_cache
from datasets.sources import DataError
from datasets.splits import BEAT_PROTOCOLS, make_folds, split_quietly
from evaluation.scores import macro_auroc
from evaluation.statistics import Array, divided
from systems.ecg_pcg.evaluate import with_probe, within_sessions
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.linear.fit import INVERSE_PENALTY, ITERATIONS
from systems.ecg_pcg.settings import TrainingSettings

_TRAIN, _VALIDATION, _TEST = range(3)
_UNITS = ("sample", "recording", "content", "person", "session", "database")
"""What may be shared, from the least to the most; content is that of the files of a recording."""
PROMISES = {
    "paper": ("sample",),
    "beat": ("sample",),
    "recording": ("sample", "recording", "content"),
    "session": ("sample", "recording", "content", "person", "session"),
    "database": ("sample", "recording", "content", "person", "session", "database"),
}
"""What a protocol promises to keep apart; ``paper`` selects on its test part, and promises train only."""
_WIDTH = 100
_FOLDS = 5
"""Parts, sessions apart, in which the database is predicted, and predicts the label."""


@dataclass(frozen=True)
class AuditRow:
    """One line of the audit."""

    check: str
    """What was looked at."""
    protocol: str
    """Protocol whose folds were looked at; empty: the recordings themselves."""
    value: float
    """What was found: a share, a count, an AUROC."""
    promise: str = ""
    """What is promised of it; empty: nothing."""
    kept: bool | None = None
    """Whether the promise is kept; None where there is none."""


@dataclass(frozen=True)
class AuditReport:
    """All lines of the audit."""

    rows: tuple[AuditRow, ...]

    def table(self) -> pd.DataFrame:
        """Return the lines as a table: check, protocol, value, promise, kept ("yes", "NO" or empty)."""
        table = pd.DataFrame([asdict(row) for row in self.rows])
        return table.assign(kept=[_answer(row.kept) for row in self.rows])


def audit(
    samples: pd.DataFrame,
    recordings: pd.DataFrame,
    parts: Mapping[str, Sequence[NDArray[np.integer]]],
    features: NDArray[np.floating] | None = None,
) -> AuditReport:
    """Audit recordings and splits: what the test part shares with train, and baselines without signals.

    Parameters
    ----------
    samples : pandas.DataFrame
        One row a sample: ``sample``, ``recording``; ``heart_rate`` where known.
    recordings : pandas.DataFrame
        One row a recording: ``recording``, ``session``, ``person``, ``label``, ``position`` (index in
        the session); ``sha256`` (of its files), ``duration``, ``beats``, ``site``, ``ecg_saturated``,
        ``pcg_saturated``, ``probe`` (score of the recording conditions, out of fold) and ``database`` where
        known.
    parts : mapping of str to sequence of ndarray, shape (samples,)
        For each protocol and each of its folds the part of each sample: 0 train, 1 validation, 2 test.
        Protocols not in `PROMISES` promise nothing.
    features : ndarray, shape (recordings, features), optional
        Of the heart sound, NaN where there are none: how well they name the database is looked at.

    Returns
    -------
    AuditReport
    """
    rows = [*_cohort_rows(recordings), *_baseline_rows(recordings), *_predictor_rows(samples, recordings)]
    if _has_databases(recordings):
        rows += _database_rows(recordings, features)
    units = _units(samples, recordings)
    for protocol, folds in parts.items():
        for part in folds:
            if np.shape(part) != (len(samples),):
                raise ValueError(
                    f"A fold of {protocol} has parts {np.shape(part)} for {len(samples)} samples."
                )
        rows += [_shared_row(units, name, protocol, folds) for name in _UNITS if name in units]
        rows += _protocol_baselines(samples, recordings, protocol, folds)
    return AuditReport(tuple(rows))


def audit_failed(report: AuditReport) -> bool:
    """Return whether a promise is broken."""
    return any(row.kept is False for row in report.rows)


def format_audit(report: AuditReport) -> str:
    """Return the audit as plain text: first the recordings, then each protocol, then what was broken."""
    lines = ["═" * _WIDTH]
    for protocol in dict.fromkeys(row.protocol for row in report.rows):
        title = f"protocol {protocol}" if protocol else "recordings, whatever the split"
        lines += [f" {title}", "─" * _WIDTH]
        for row in (row for row in report.rows if row.protocol == protocol):
            found = f"{row.value:,.0f}" if row.check.startswith("number of") else f"{row.value:.3f}"
            said = f"{row.promise}: {_answer(row.kept)}" if row.promise else ""
            lines.append(f" {row.check:<68}{found:>8}  {said}".rstrip())
        lines.append("─" * _WIDTH)
    broken = [row for row in report.rows if row.kept is False]
    verdict = (
        "Every promise is kept."
        if not broken
        else "BROKEN: "
        + "; ".join(
            f"{row.protocol or 'recordings'}, {row.check} ({row.value:.3g}, promised {row.promise})"
            for row in broken
        )
    )
    return "\n".join([*lines[:-1], "═" * _WIDTH, *textwrap.wrap(verdict, _WIDTH)])


def _answer(kept: bool | None) -> str:
    return {None: "", True: "yes", False: "NO"}[kept]


def _cohort_rows(recordings: pd.DataFrame) -> list[AuditRow]:
    """Count recordings, sessions by class, and contents that occur twice."""
    of_session = recordings.groupby("session")["label"]
    share, normal = of_session.mean(), (recordings["label"] == 0).groupby(recordings["session"]).sum()
    counts = {
        "recordings": len(recordings),
        "persons, as far as inferred": recordings.loc[recordings["person"] != "", "person"].nunique(),
        "sessions": len(share),
        "sessions that are all abnormal": int((share == 1).sum()),
        "sessions that are all normal": int((share == 0).sum()),
        "sessions that are mixed": int(((share > 0) & (share < 1)).sum()),
    }
    rows = [AuditRow(f"number of {name}", "", float(count)) for name, count in counts.items()]
    if normal.sum():
        check = "share of the normal recordings that lie in one session"
        rows.append(AuditRow(check, "", float(normal.max() / normal.sum())))
    if "sha256" in recordings:
        repeated = recordings["sha256"][_is_known(recordings["sha256"])].duplicated().sum()
        rows.append(AuditRow("number of recordings whose content occurred before", "", float(repeated)))
    return rows


def _baseline_rows(recordings: pd.DataFrame) -> list[AuditRow]:
    """Predict each recording from the labels of its neighbours, itself left out."""
    labels = recordings["label"].to_numpy()
    answers = {"AUROC of the mean label of the session's other recordings": session_mean}
    if np.isfinite(_numbers(recordings, "position")).any():
        answers["AUROC of the label of the nearest index in the session"] = nearest_label
    means = overall_means(recordings)
    return [
        AuditRow(check, "", _auroc(labels, answer(recordings, recordings, means, leave_out=True)))
        for check, answer in answers.items()
    ]


def _predictor_rows(samples: pd.DataFrame, recordings: pd.DataFrame) -> list[AuditRow]:
    """Score metadata of a recording that are no signal, higher meaning abnormal, and the probe."""
    labels = recordings["label"].to_numpy()
    table = recordings
    if "heart_rate" in samples:
        rate = samples.groupby("recording")["heart_rate"].median()
        table = recordings.assign(heart_rate=recordings["recording"].map(rate))
    rows = []
    for column, name in _PREDICTORS.items():
        values = _numbers(table, column)
        if np.isfinite(values).all():
            rows.append(AuditRow(f"AUROC of the {name}", "", _auroc(labels, values)))
    if "site" in table and table["site"].nunique() > 1:
        check = "AUROC of the mean label of the site in other sessions"
        rows.append(AuditRow(check, "", _auroc(labels, site_score(table))))
    if "probe" in table:
        inside = within_sessions(table.assign(probability=table["probe"]), np.ones((1, len(table))))
        check = "AUROC of the probe of the recording conditions"
        rows.append(AuditRow(check, "", _auroc(labels, table["probe"].to_numpy())))
        rows.append(AuditRow(f"{check}, pairs within sessions", "", float(inside[0])))
    return rows


def _has_databases(recordings: pd.DataFrame) -> bool:
    return "database" in recordings and recordings["database"].nunique() > 1


def _database_rows(recordings: pd.DataFrame, features: NDArray[np.floating] | None) -> list[AuditRow]:
    """Count each database, and say what it tells of the label, and the features of it."""
    rows = []
    for name, own in recordings.groupby("database"):
        counts = {"recordings": len(own), "sessions": own["session"].nunique()}
        counts["persons"] = own.loc[own["person"] != "", "person"].nunique()
        rows += [AuditRow(f"number of {what} of {name}", "", float(count)) for what, count in counts.items()]
        rows.append(AuditRow(f"share of abnormal recordings of {name}", "", float(own["label"].mean())))
    check = "AUROC of the share of abnormal of the database, sessions apart"
    rows.append(AuditRow(check, "", database_baseline(recordings)))
    if features is not None:
        known = np.isfinite(features).all(axis=1)
        found = named_databases(features[known], recordings[known])
        rows += [AuditRow(check, "", value) for check, value in found.items()]
    return rows


def _session_folds(recordings: pd.DataFrame) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return folds that keep sessions apart and hold databases and labels in like shares."""
    kinds = pd.factorize(recordings["database"] + " " + recordings["label"].astype(str))[0]
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    few = recordings["session"].nunique() < _FOLDS
    return [] if few else split_quietly(splitter, kinds, recordings["session"])


def database_baseline(recordings: pd.DataFrame) -> float:
    """Return the AUROC of predicting the label by the database alone: its share of abnormal in train.

    The mean over folds that share no session: a score of all folds together would compare the shares of
    different training parts, which are lower where more abnormal recordings were held out.
    """
    areas = []
    for train, test in _session_folds(recordings):
        learned, tested = recordings.iloc[train], recordings.iloc[test]
        share = learned.groupby("database")["label"].mean()
        score = tested["database"].map(share).fillna(learned["label"].mean())
        areas.append(_auroc(tested["label"].to_numpy(), score.to_numpy()))
    return float(pd.Series(areas, dtype=float).mean())


def named_databases(features: NDArray[np.floating], recordings: pd.DataFrame) -> dict[str, float]:
    """Say how well features name the database: logistic regression, out of folds that share no session.

    Parameters
    ----------
    features : ndarray, shape (N, features)
        Finite.
    recordings : pandas.DataFrame
        Of these N: ``database``, ``session``, ``label``.

    Returns
    -------
    dict of str to float
        Accuracy, what always naming the largest database would give, and the mean over databases of the
        AUROC of each against the others (0.5 by chance); empty where there are too few sessions.
    """
    names, folds = np.unique(recordings["database"]), _session_folds(recordings)
    if len(names) < 2 or not folds:
        return {}
    truth = recordings["database"].to_numpy()
    probability = np.zeros((len(truth), len(names)))
    for train, test in folds:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=INVERSE_PENALTY["pcg"], max_iter=ITERATIONS)
        ).fit(features[train], truth[train])
        probability[np.ix_(test, np.searchsorted(names, model.classes_))] = model.predict_proba(
            features[test]
        )
    right = names[probability.argmax(axis=1)] == truth
    return {
        "accuracy of naming the database by the heart sound, sessions apart": float(right.mean()),
        "accuracy of naming the largest database always": float(recordings["database"].value_counts().max())
        / len(truth),
        "AUROC of naming the database, mean over databases": macro_auroc(
            truth[:, None] == names, probability
        ),
    }


def _units(samples: pd.DataFrame, recordings: pd.DataFrame) -> dict[str, NDArray[np.object_]]:
    """Return for each sample its name as each unit, empty where unknown."""
    metadata = recordings.set_index("recording")
    columns = {"content": "sha256", "person": "person", "session": "session"}
    columns |= {"database": "database"} if _has_databases(recordings) else {}
    names = {
        name: samples["recording"].map(metadata[key]) for name, key in columns.items() if key in metadata
    }
    names |= {"sample": samples["sample"], "recording": samples["recording"]}
    return {
        name: values.where(_is_known(values), "").astype(object).to_numpy() for name, values in names.items()
    }


def _is_known(values: pd.Series) -> pd.Series:
    return values.notna() & (values.astype(str) != "")


def _shared_row(
    units: Mapping[str, NDArray[np.object_]],
    unit: str,
    protocol: str,
    folds: Sequence[NDArray[np.integer]],
) -> AuditRow:
    """Return the share of test samples whose unit the fold has learned from, or selected on."""
    names = units[unit]
    shared = total = 0
    for part in folds:
        learned = {*names[part == _TRAIN], *(names[part == _VALIDATION] if protocol != "paper" else ())} - {
            ""
        }
        tested = names[part == _TEST]
        shared, total = shared + sum(name in learned for name in tested), total + len(tested)
    value = shared / total if total else np.nan
    check = f"share of test samples whose {unit} was learned from"
    if unit not in PROMISES.get(protocol, ()):
        return AuditRow(check, protocol, value)
    return AuditRow(check, protocol, value, "0", shared == 0 and total > 0)


def _protocol_baselines(
    samples: pd.DataFrame,
    recordings: pd.DataFrame,
    protocol: str,
    folds: Sequence[NDArray[np.integer]],
) -> list[AuditRow]:
    """Score what the labels of the training part alone tell of the test part."""
    kinds = {"AUROC of the mean label of the session's recordings in train": False}
    if np.isfinite(_numbers(recordings, "position")).any():
        kinds["AUROC of the label of the nearest index of the session in train"] = True
    return [
        AuditRow(check, protocol, _auroc(*_out_of_fold(samples, recordings, folds, nearest)))
        for check, nearest in kinds.items()
    ]


def _audit_data(cache: Cache, fold_count: int, validation_share: float, seed: int) -> AuditReport:
    """Audit a cache and the folds that each protocol makes of it."""
    samples, recordings = cache.table("samples"), with_probe(cache.table("recordings"), cache)
    parts = {
        protocol: [
            fold.parts(len(samples))
            for fold in make_folds(samples, protocol, fold_count, validation_share, seed)
        ]
        for protocol in BEAT_PROTOCOLS
        if protocol != "database"
    }
    if not _has_databases(recordings):
        return audit(samples, recordings, parts)
    try:
        folds = make_folds(samples, "database", 0, validation_share, seed)
        parts["database"] = [fold.parts(len(samples)) for fold in folds]
    except DataError as error:
        print(f"Protocol database is not audited. {error}")
    return audit(samples, recordings, parts, phase_grid(cache).pcg)


_PREDICTORS = {
    "duration": "duration of the recording",
    "beats": "number of beats",
    "heart_rate": "heart rate",
    "position": "index within the session",
    "ecg_saturated": "saturated share of the ECG",
    "pcg_saturated": "saturated share of the heart sound",
}
"""Columns of the recording table that say nothing of how a signal looks, and their names in the audit."""


def session_mean(
    known: pd.DataFrame, queries: pd.DataFrame, overall: float | Array, leave_out: bool = False
) -> Array:
    """Mean label of the known recordings of the same session.

    Parameters
    ----------
    known, queries : pandas.DataFrame
        Recordings whose labels are known, and those to predict: ``recording``, ``session``, ``label``.
    overall : float or ndarray, shape (queries,)
        Answer where none of the session is known.
    leave_out : bool
        Whether a recording is left out of its own prediction.

    Returns
    -------
    ndarray, shape (queries,)
    """
    return _neighbours(known, queries, overall, leave_out, nearest=False)


def nearest_label(
    known: pd.DataFrame, queries: pd.DataFrame, overall: float | Array, leave_out: bool = False
) -> Array:
    """Mean label of the known recordings nearest by index (``position``) in the same session.

    Several at the same distance are averaged; arguments as for `session_mean`.
    """
    return _neighbours(known, queries, overall, leave_out, nearest=True)


def overall_means(recordings: pd.DataFrame) -> Array:
    """Return for each recording the mean label of all others."""
    labels = recordings["label"].to_numpy(dtype=float)
    return divided(labels.sum() - labels, np.full(len(labels), len(labels) - 1))


def _out_of_fold(
    samples: pd.DataFrame, recordings: pd.DataFrame, parts: Sequence[NDArray[np.integer]], nearest: bool
) -> tuple[Array, Array]:
    """Predict the test recordings of each fold from the labels of the recordings in its training part.

    A recording with beats in train counts as known, as it is to a model: under ``beat`` that holds for most
    recordings. One without known neighbours gets the mean label of all, the same in all folds.

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
        queries = recordings[recordings["recording"].isin(tested)]
        answers.append((nearest_label if nearest else session_mean)(known, queries, overall))
        labels.append(queries["label"].to_numpy())
    return np.concatenate(labels), np.concatenate(answers)


def site_score(recordings: pd.DataFrame) -> Array:
    """Mean label of the recordings at the same auscultation site in all other sessions."""
    others = recordings[["label", "site", "session"]]
    site = others.groupby("site")["label"].agg(["sum", "size"]).loc[others["site"]].to_numpy()
    own = others.groupby(["site", "session"])["label"].agg(["sum", "size"])
    inside = own.loc[list(zip(others["site"], others["session"], strict=True))].to_numpy()
    found = divided(site[:, 0] - inside[:, 0], site[:, 1] - inside[:, 1])
    return np.where(np.isnan(found), others["label"].mean(), found)


def _numbers(table: pd.DataFrame, column: str) -> Array:
    """Return a column as numbers, nan where it has none; all nan where there is no such column."""
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)


def _auroc(label: Array, score: Array) -> float:
    """Return the area under the ROC curve, nan where there is one class."""
    return float(roc_auc_score(label, score)) if len(np.unique(label)) == 2 else np.nan


def _neighbours(
    known: pd.DataFrame, queries: pd.DataFrame, overall: float | Array, leave_out: bool, nearest: bool
) -> Array:
    names, labels = known["recording"].to_numpy(), known["label"].to_numpy(dtype=float)
    sessions = known["session"].to_numpy()
    places = _numbers(known, "position") if nearest else np.zeros(len(known))
    positions = _numbers(queries, "position") if nearest else np.zeros(len(queries))
    answers = np.broadcast_to(np.asarray(overall, dtype=float), len(queries)).copy()
    for row, item in enumerate(queries.to_dict("records")):
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


def audit_newest(settings: EvaluationSettings) -> None:
    """Print and write the audit of a cache; exit with status 1 if a promise is broken."""
    cache = find_cache(settings.cache, settings.cache_dir)
    print(f"Audit of {cache.title} ({cache.path}).")
    if settings.cache is None and (choice := describe_choice(cache, settings.cache_dir)):
        print(choice)
    default = TrainingSettings()
    report = _audit_data(cache, default.fold_count, default.validation_share, default.seed)
    print(format_audit(report))
    path = settings.results_dir / f"audit-{cache.path.name}.csv"
    write_table(path, report.table())
    print(f"Written to {path}.")
    if audit_failed(report):
        sys.exit(1)
