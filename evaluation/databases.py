"""Scores of each database, and their plain mean: never one of all recordings together.

The share of abnormal differs between hospitals. A model that told hospitals apart, and nothing else, would
reach a high AUROC over the recordings of all of them. So pairs are compared within a database only, and each
database counts the same in the mean, whatever its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from evaluation.calibration import calibration_table, prevalence_table, shift_prior
from evaluation.report import describe_evaluation, interval_sentence, json_safe, unscorable
from evaluation.scores import aggregate, binary_scores
from evaluation.statistics import grouped_cluster_bootstrap
from evaluation.tables import Caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN, MEDIAN = "mean", "median"
UNNAMED = "(not named)"
"""What recordings of another cache are listed under that say no database, where others do."""
_ASSUMED = 0.5
"""Share of abnormal that probabilities assume where classes weigh the same in training."""
_UNITS = {"recordings": "recording", "persons": "person"}
_AT_THRESHOLD = ("sensitivity", "specificity", "macc", "brier")
_CALIBRATION = {"slope": "slope", "intercept": "intercept"}
_CALIBRATION |= {"expected calibration error": "expected_calibration_error"}


def evaluate_databases(
    predictions: pd.DataFrame,
    *,
    protocol: str,
    draws: int,
    threshold: str = "half",
    seed: int = 0,
    watermark: str = "",
    scope: str = "",
    assumed: float = _ASSUMED,
) -> dict[str, Any]:
    """Score predictions of several databases, each by itself.

    Parameters
    ----------
    predictions : pandas.DataFrame
        As for `evaluation.report.evaluate_predictions`, and the column ``database``.
    protocol, threshold, watermark, scope
        As there.
    draws, seed : int
        Of the bootstrap: whole sessions are drawn within each database. The databases are fixed.
    assumed : float
        Share of abnormal that the probabilities assume, from which they are brought to that of each database.

    Returns
    -------
    dict
        JSON-safe: what `evaluation.report.describe_evaluation` gives, and ``by_database`` with, for
        recordings and where they are known persons: ``databases``, a mapping of each one to its scores,
        AUROC interval and calibration; ``mean`` of the scores over the databases where they are defined,
        the AUROC with its interval; ``median`` of the calibration; ``worst``, the database of the lowest
        AUROC. ``beats``, ``recordings`` and ``persons``, which would be pooled, are None.
    """
    metrics = describe_evaluation(
        predictions,
        protocol=protocol,
        draws=draws,
        threshold=threshold,
        seed=seed,
        watermark=watermark,
        scope=scope,
    )
    metrics["bootstrap"]["within"] = "database"
    metrics["counts"]["databases"] = predictions["database"].nunique()
    metrics |= {"beats": None, "recordings": None, "persons": None, "by_database": {}}
    for name, by in _UNITS.items():
        reason = unscorable(predictions, name)
        if reason:
            metrics["notes"].append(reason)
            continue
        units = aggregate(predictions, by)
        limits = 0.5 if threshold == "half" else units["threshold"]
        metrics["by_database"][name] = _evaluate_units(units.assign(threshold=limits), draws, seed, assumed)
    metrics["notes"] += _one_sided(metrics["by_database"]["recordings"]["databases"])
    return json_safe(metrics)


def _evaluate_units(units: pd.DataFrame, draws: int, seed: int, assumed: float) -> dict[str, Any]:
    """Return the scores of each database, their mean and median, and the worst."""
    groups = {str(name) or UNNAMED: rows for name, rows in units.groupby("database")}
    intervals, mean = grouped_cluster_bootstrap(groups, draws=draws, seed=seed)
    found: dict[str, dict[str, Any]] = {}
    for name, rows in groups.items():
        scores = binary_scores(rows["label"], rows["probability"], rows["threshold"])
        ends = {"auroc_low": intervals[name].low, "auroc_high": intervals[name].high}
        calibration = calibration_table(_at_own_prevalence(rows, assumed), draws=draws, seed=seed)
        found[name] = {
            **scores,
            **ends,
            "fold": int(rows["fold"].iloc[0]),
            "sessions": rows["session"].nunique(),
            "reason": intervals[name].reason,
            "calibration": {
                _CALIBRATION[row["score"]]: {end: row[end] for end in ("value", "low", "high", "reason")}
                for row in calibration.to_dict("records")
            },
        }
    table = pd.DataFrame(found.values(), index=list(found))
    calibrations = {
        score: [found[name]["calibration"][score]["value"] for name in found]
        for score in _CALIBRATION.values()
    }
    return {
        "databases": found,
        "mean": {
            "auroc": mean.estimate,
            "auroc_low": mean.low,
            "auroc_high": mean.high,
            "reason": mean.reason,
            "databases": int(table["auroc"].notna().sum()),
            **{score: float(table[score].mean()) for score in _AT_THRESHOLD},
        },
        "median": {
            score: float(pd.Series(values, dtype=float).median()) for score, values in calibrations.items()
        },
        "worst": _worst(table["auroc"]),
    }


def _at_own_prevalence(units: pd.DataFrame, assumed: float) -> pd.DataFrame:
    """Return units with their probabilities brought from an assumed share of abnormal to that among them.

    Models of beats and recordings learn with both classes weighing the same, unless told otherwise. What is
    asked here is whether their probabilities hold, not whether every hospital has as many abnormal hearts.
    """
    share = units["label"].mean()
    if share in (0, 1):
        return units
    return units.assign(probability=shift_prior(units["probability"], assumed, share))


def _worst(auroc: pd.Series) -> dict[str, Any]:
    """Return the database of the lowest AUROC; nothing where none has one."""
    return {"database": auroc.idxmin(), "auroc": auroc.min()} if auroc.notna().any() else {}


def _one_sided(databases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which databases have one label only, and so no AUROC."""
    names = [name for name, scores in databases.items() if scores["prevalence"] in (0, 1)]
    which = "Database {} has" if len(names) == 1 else "Databases {} have"
    text = f"{which.format(', '.join(names))} one label only: no AUROC, and no part in its mean."
    return [text] if names else []


def database_tables(metrics: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the scores of `evaluate_databases` as tables by name, a row a database and one of all."""
    found = metrics["by_database"]
    tables = {"databases": _score_table(found["recordings"], "recordings")}
    tables["database_calibration"] = _calibration_table(found["recordings"])
    if "persons" in found:
        tables["databases_persons"] = _score_table(found["persons"], "persons")
    return tables


def _score_table(found: Mapping[str, Any], unit: str) -> pd.DataFrame:
    """Return counts, AUROC with its interval, and scores at the threshold."""
    columns = ["auroc", "auroc_low", "auroc_high", *_AT_THRESHOLD, "reason"]
    rows = [
        {"database": name, unit: scores["n"], "sessions": scores["sessions"], "share": scores["prevalence"]}
        | {column: scores[column] for column in columns}
        for name, scores in found["databases"].items()
    ]
    totals = {column: sum(row[column] for row in rows) for column in (unit, "sessions")}
    rows.append({"database": MEAN, **totals, "share": None} | {name: found["mean"][name] for name in columns})
    table = pd.DataFrame(rows)
    folds = [str(scores["fold"]) for scores in found["databases"].values()]
    if len(set(folds)) > 1:
        table.insert(1, "fold", [*folds, "all"])
    numbers = [name for name in table if name not in ("database", "fold", unit, "sessions", "reason")]
    return table.astype(dict.fromkeys(numbers, float))


def _calibration_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return slope, intercept and error of each database with their intervals, and the medians."""
    rows = []
    for name, scores in found["databases"].items():
        row: dict[str, Any] = {"database": name}
        for score in _CALIBRATION.values():
            values = scores["calibration"][score]
            row |= {score: values["value"], f"{score}_low": values["low"], f"{score}_high": values["high"]}
        reasons = dict.fromkeys(values["reason"] for values in scores["calibration"].values())
        rows.append(row | {"reason": "; ".join(filter(None, reasons))})
    table = pd.DataFrame([*rows, {"database": MEDIAN, "reason": "", **found["median"]}])
    return table.astype({name: float for name in table if name not in ("database", "reason")})


def database_prevalence(
    recordings: pd.DataFrame, prevalence: float, source: float, draws: int
) -> pd.DataFrame:
    """Return `evaluation.calibration.prevalence_table` of each database that has both labels."""
    tables = [
        prevalence_table(rows, prevalence, source=source, draws=draws).assign(database=str(name) or UNNAMED)
        for name, rows in recordings.groupby("database")
        if rows["label"].nunique() == 2
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["database", *table.columns.drop("database")]]


def database_captions(metrics: Mapping[str, Any]) -> dict[str, Caption]:
    """Return titles and sentences of the tables and the figure, by their name."""
    threshold = "0.5" if metrics["threshold"] == "half" else "the threshold of the validation part"
    heads = {"share": "abnormal", "macc": "MAcc"}
    worst = metrics["by_database"]["recordings"]["worst"]
    lowest = f" The lowest is {worst['auroc']:.3f} ({worst['database']})." if worst else ""
    scores = (
        "Pairs of an abnormal and a normal recording are compared within a database, never between two. The "
        f"mean counts each database the same.{lowest} Abnormal: their share. Sensitivity and specificity are "
        f"at {threshold}. {interval_sentence(metrics)}"
    )
    persons = "The same with one probability a person, the mean over the recordings."
    calibration = (
        "Slope: 1 is right, below 1 the probabilities are too extreme. Intercept: 0 is right, above 0 they "
        "are too low. ECE, the expected calibration error: mean distance between probability and share of "
        "abnormal, 0 at best. Probabilities are first brought from the share of abnormal that they "
        "assume, one half where classes weigh the same in training, to that of each database. The last row "
        "is the median over the databases."
    )
    figure = "AUROC per recording of each database, and their mean, with 95 % intervals over sessions."
    return {
        "databases": Caption(scores, "Scores by database (recordings)", heads),
        "database_calibration": Caption(calibration, "Calibration by database (recordings)"),
        "databases_persons": Caption(persons, "Scores by database (persons)", heads),
        "auroc_by_database": Caption(figure, "AUROC by database"),
    }


def database_files(
    predictions: pd.DataFrame, metrics: Mapping[str, Any], *, compact: bool = False
) -> dict[str, pd.DataFrame | Figure]:
    """Return predictions by unit and the figure, by their path in the folder of results."""
    if compact:
        return {"recordings.csv": aggregate(predictions)}
    from evaluation.figures import interval_figure  # half a second, and --compact draws nothing

    table = _score_table(metrics["by_database"]["recordings"], "recordings")
    figure = interval_figure(
        table.rename(
            columns={"database": "name", "auroc": "value", "auroc_low": "low", "auroc_high": "high"}
        ),
        title="AUROC by database",
        label="AUROC per recording",
        chance=0.5,
        protocol=metrics["protocol"],
        watermark=metrics["stamp"],
    )
    units = {f"{name}.csv": aggregate(predictions, _UNITS[name]) for name in metrics["by_database"]}
    return {"figures/auroc_by_database.png": figure, **units, "predictions.csv": predictions}
