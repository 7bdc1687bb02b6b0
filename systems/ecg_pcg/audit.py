"""The leakage audit: what a split shares between train and test, and what is known without any signal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError
from common.files import write_table
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from datasets.splits import BEAT_PROTOCOLS, make_folds
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.linear.fit import out_of_fold_log_odds
from systems.ecg_pcg.settings import TrainingSettings
from systems.ecg_pcg.signal_free import (
    PREDICTORS,
    auroc,
    nearest_label,
    numbers,
    out_of_fold,
    overall_means,
    session_mean,
    site_score,
)
from systems.ecg_pcg.subgroups import within_sessions

TRAIN, VALIDATION, TEST = range(3)
UNITS = ("sample", "recording", "content", "person", "session")
"""What may be shared, from the least to the most; content is that of the files of a recording."""
PROMISES = {
    "paper": ("sample",),
    "beat": ("sample",),
    "recording": ("sample", "recording", "content"),
    "session": ("sample", "recording", "content", "person", "session"),
}
"""What a protocol promises to keep apart; ``paper`` selects on its test part, and promises train only."""
WIDTH = 100


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
    more: Sequence[AuditRow] = (),
) -> AuditReport:
    """Look for what a model could know of the test part without hearing a heart.

    Parameters
    ----------
    samples : pandas.DataFrame
        One row a sample: ``sample``, ``recording``; ``heart_rate`` where known.
    recordings : pandas.DataFrame
        One row a recording: ``recording``, ``session``, ``person``, ``label``, ``position`` (index in
        the session); ``sha256`` (of its files), ``duration``, ``beats``, ``site``, ``ecg_saturated``,
        ``pcg_saturated`` and ``probe`` (score of the recording conditions, out of fold) where known.
    parts : mapping of str to sequence of ndarray, shape (samples,)
        For each protocol and each of its folds the part of each sample: 0 train, 1 validation, 2 test.
        Protocols not in `PROMISES` promise nothing.
    more : sequence of AuditRow
        Lines of other checks, such as `fitted_on_train_only`, to be judged with these.

    Returns
    -------
    AuditReport
    """
    rows = [*_cohort_rows(recordings), *_baseline_rows(recordings), *_predictor_rows(samples, recordings)]
    units = _units(samples, recordings)
    for protocol, folds in parts.items():
        for part in folds:
            if np.shape(part) != (len(samples),):
                raise ValueError(
                    f"A fold of {protocol} has parts {np.shape(part)} for {len(samples)} samples."
                )
        rows += [_shared_row(units, name, protocol, folds) for name in UNITS if name in units]
        rows += _protocol_baselines(samples, recordings, protocol, folds)
    return AuditReport((*rows, *more))


def audit_failed(report: AuditReport) -> bool:
    """Return whether a promise is broken."""
    return any(row.kept is False for row in report.rows)


def format_audit(report: AuditReport) -> str:
    """Return the audit as plain text: first the recordings, then each protocol, then what was broken."""
    lines = ["═" * WIDTH]
    for protocol in dict.fromkeys(row.protocol for row in report.rows):
        title = f"protocol {protocol}" if protocol else "recordings, whatever the split"
        lines += [f" {title}", "─" * WIDTH]
        for row in (row for row in report.rows if row.protocol == protocol):
            found = f"{row.value:,.0f}" if row.check.startswith("number of") else f"{row.value:.3f}"
            said = f"{row.promise}: {_answer(row.kept)}" if row.promise else ""
            lines.append(f" {row.check:<68}{found:>8}  {said}".rstrip())
        lines.append("─" * WIDTH)
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
    return "\n".join([*lines[:-1], "═" * WIDTH, *textwrap.wrap(verdict, WIDTH)])


def fitted_on_train_only(
    recomputed: Mapping[str, ArrayLike],
    stored: Mapping[str, ArrayLike],
    protocol: str = "",
    tolerance: float = 1e-4,
) -> AuditRow:
    """Check that what a checkpoint stores of a scaler is what the training rows alone give.

    Parameters
    ----------
    recomputed : mapping of str to array_like
        Statistics (means, standard deviations) computed again from the training rows only.
    stored : mapping of str to array_like
        Those of the checkpoint, by the same names; tensors on the CPU will do.
    protocol : str
        For the line.
    tolerance : float
        Largest difference allowed, as a share of the largest absolute value of a statistic.

    Returns
    -------
    AuditRow
        Not kept where a statistic differs by more, is not finite, is missing, or has another shape.
    """
    value = 0.0 if stored and set(recomputed) == set(stored) else np.inf
    for name in sorted(set(recomputed) & set(stored)):
        expected, found = (np.asarray(table[name], dtype=float) for table in (recomputed, stored))
        if expected.shape != found.shape or not np.isfinite([*expected.ravel(), *found.ravel()]).all():
            value = np.inf
        elif expected.size:
            scale = max(float(np.abs(expected).max()), 1e-12)
            value = max(value, float(np.abs(expected - found).max()) / scale)
    check = "largest deviation of a scaler from the training rows alone"
    return AuditRow(check, protocol, value, f"at most {tolerance:g}", bool(value <= tolerance))


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
        repeated = recordings["sha256"][_named(recordings["sha256"])].duplicated().sum()
        rows.append(AuditRow("number of recordings whose content occurred before", "", float(repeated)))
    return rows


def _baseline_rows(recordings: pd.DataFrame) -> list[AuditRow]:
    """Predict each recording from the labels of its neighbours, itself left out."""
    labels = recordings["label"].to_numpy()
    answers = {"AUROC of the mean label of the session's other recordings": session_mean}
    if np.isfinite(numbers(recordings, "position")).any():
        answers["AUROC of the label of the nearest index in the session"] = nearest_label
    means = overall_means(recordings)
    return [
        AuditRow(check, "", auroc(labels, answer(recordings, recordings, means, leave_out=True)))
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
    for column, name in PREDICTORS.items():
        values = numbers(table, column)
        if np.isfinite(values).all():
            rows.append(AuditRow(f"AUROC of the {name}", "", auroc(labels, values)))
    if "site" in table and table["site"].nunique() > 1:
        check = "AUROC of the mean label of the site in other sessions"
        rows.append(AuditRow(check, "", auroc(labels, site_score(table))))
    if "probe" in table:
        inside = within_sessions(table.assign(probability=table["probe"]), np.ones((1, len(table))))
        check = "AUROC of the probe of the recording conditions"
        rows.append(AuditRow(check, "", auroc(labels, table["probe"].to_numpy())))
        rows.append(AuditRow(f"{check}, pairs within sessions", "", float(inside[0])))
    return rows


def _units(samples: pd.DataFrame, recordings: pd.DataFrame) -> dict[str, NDArray[np.object_]]:
    """Return for each sample its name as each unit, empty where unknown."""
    metadata = recordings.set_index("recording")
    columns = {"content": "sha256", "person": "person", "session": "session"}
    names = {
        name: samples["recording"].map(metadata[key]) for name, key in columns.items() if key in metadata
    }
    names |= {"sample": samples["sample"], "recording": samples["recording"]}
    return {
        name: values.where(_named(values), "").astype(object).to_numpy() for name, values in names.items()
    }


def _named(values: pd.Series) -> pd.Series:
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
        learned = {*names[part == TRAIN], *(names[part == VALIDATION] if protocol != "paper" else ())} - {""}
        tested = names[part == TEST]
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
    if np.isfinite(numbers(recordings, "position")).any():
        kinds["AUROC of the label of the nearest index of the session in train"] = True
    return [
        AuditRow(check, protocol, auroc(*out_of_fold(samples, recordings, folds, nearest)))
        for check, nearest in kinds.items()
    ]


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


def audit_data(cache: Cache, fold_count: int, validation_share: float, seed: int) -> AuditReport:
    """Audit a cache and the folds that each protocol makes of it."""
    samples = cache.table("samples")
    parts = {
        protocol: [
            fold.parts(len(samples))
            for fold in make_folds(samples, protocol, fold_count, validation_share, seed)
        ]
        for protocol in BEAT_PROTOCOLS
    }
    return audit(samples, with_probe(cache.table("recordings"), cache), parts)


def audit_newest(settings: EvaluationSettings) -> None:
    """Print and write the audit of a cache; leave with status 1 if a promise is broken."""
    cache = find_cache(settings.cache, settings.cache_dir)
    default = TrainingSettings()
    report = audit_data(cache, default.fold_count, default.validation_share, default.seed)
    print(format_audit(report))
    path = settings.results_dir / f"audit-{cache.path.name}.csv"
    write_table(path, report.table())
    print(f"Written to {path}.")
    if audit_failed(report):
        sys.exit(1)
