"""Evaluation of a run of task ``ecg-pcg``: scores, subgroups, calibration, chance, other prevalences."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import write_table
from datasets.cache import Cache
from evaluation.calibration import calibration_table
from evaluation.prevalence import prevalence_table
from evaluation.report import write_results
from evaluation.scores import aggregate
from systems.base.evaluation_run import EvaluationRun, predict_run, score_run
from systems.base.predictor import BALANCED
from systems.ecg_pcg.audit import with_probe
from systems.ecg_pcg.permutation import permutation_test
from systems.ecg_pcg.robustness.evaluate import stress_run
from systems.ecg_pcg.subgroups import subgroup_table


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    if run.settings.stress:
        return {}, [_stress(run)]
    predictions = predict_run(run)
    metrics = score_run(run, predictions)
    settings = run.settings
    tables = recording_tables(
        aggregate(predictions, "recording"), run.cache, settings.bootstrap_draws, settings.prevalence
    )
    for name, table in tables.items():
        print(f"{name} (recordings)\n{table.to_string(index=False, float_format='{:.3f}'.format)}\n")
    written = write_results(run.folder, predictions, metrics, compact=settings.compact, tables=tables)
    return metrics, written


def _stress(run: EvaluationRun) -> Path:
    """Evaluate a run on corrupted recordings; print and write the table."""
    table = stress_run(run.checkpoints, run.cache, run.settings)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    write_table(run.folder / "stress.csv", table)
    return run.folder / "stress.csv"


def recording_tables(
    recordings: pd.DataFrame, cache: Cache, draws: int, prevalence: float | None = None
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
    prevalence : float, optional
        At which scores are reported as well.
    """
    if not draws or recordings["label"].nunique() < 2:
        return {}
    tables = {
        "subgroups": subgroup_table(with_probe(recordings, cache), draws),
        "calibration": calibration_table(recordings, draws=draws),
    }
    if (recordings["person"].fillna("") != "").all():
        chance = permutation_test(recordings, permutations=draws)
        tables["labels_permuted_among_persons"] = pd.DataFrame([dataclasses.asdict(chance)])
    if prevalence is not None:
        tables["prevalence"] = prevalence_table(recordings, prevalence, source=BALANCED, draws=draws)
    return tables
