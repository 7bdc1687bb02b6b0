"""Judging runs that draw cines.

What counts is what can be measured in a drawn cine: ejection fraction, volumes, mass and wall thickness,
against the truth, beside the measuring method's own error on true cines, and beside baselines that know the
same training patients. A single cine is drawn with everything that an ECG does not know, so it cannot
correlate with the truth better than by the share of the variance that the ECG knows, where a regression
reaches the square root of it; the mean of what is measured in several is what is compared with a regression.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from systems.base.evaluation_run import EvaluationRun
from systems.base.task import CARRIED
from systems.ecg_cmr.cine.measures import MEASURED
from systems.ecg_cmr.evaluate import Tables, write_stage
from systems.ecg_cmr.generation.ground_truth import (
    CHOSEN_BY,
    Court,
    filled,
    mean_of_tables,
    measure_all,
    open_court,
    print_tables,
    truth_of,
)
from systems.ecg_cmr.generation.image_quality import diversity
from systems.ecg_cmr.generation.image_scores import figures_of, images_of, in_latents, memorization_of
from systems.ecg_cmr.generation.sampling import (
    nearest_neighbours,
    regressed_indicators,
    sample_cines,
    to_bytes,
)
from systems.ecg_cmr.phenotypes.scores import compare_indicator, indicator_table

GUIDANCES = (1.0, 1.5, 2.0, 3.0)
"""Scales to choose from; 1 is plain conditional."""
TRUE, GENERATED = "true_", "generated_mean_of_samples_"
"""Prefixes, in the predictions, of the columns of the truth and of what is measured in drawn cines."""
SAMPLES_TO_CHOOSE = 4


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run of ecg-to-cmr, write its results, and return its metrics and the files written."""
    court = open_court(run)
    test = court.fold.test
    truth = truth_of(court.samples, test, court)
    tables: Tables = {}
    tables["guidance"], guidance = choose_guidance(court)
    how = dataclasses.replace(court.how, guidance=guidance)
    drawn = sample_cines(
        court.network, court.samples.condition[torch.from_numpy(test)], test.tolist(), how, "test"
    )
    measured = measure_all(court, drawn)
    found = baselines(court, measured)
    tables["indicators"] = indicators_of(court, truth, found)
    tables["comparisons"] = comparisons_of(court, truth, found)
    tables["spread"] = spread_of(truth, measured)
    tables["images"] = images_of(court, drawn[:, 0])
    tables["diversity"] = pd.DataFrame([diversity(*in_latents(court, drawn))])
    tables["memorization"] = memorization_of(court, drawn[:, 0])
    print_tables(tables)
    figures = {} if run.settings.compact else figures_of(court, truth, measured, drawn)
    return write_stage(run, predictions_of(court, truth, found), tables, figures)


# Guidance -------------------------------------------------------------------------------------------


def choose_guidance(court: Court) -> tuple[pd.DataFrame, float]:
    """Return how each scale does on the validation part, and the scale to use.

    A scale other than 1 is chosen only if its correlation is higher than that of 1 by more than chance.
    """
    rows = court.fold.validation
    asked = court.how.guidance
    if asked or len(rows) < 3:
        return pd.DataFrame([{"guidance": asked or 1.0, "chosen": True}]), asked or 1.0
    truth = truth_of(court.samples, rows, court)[CHOSEN_BY]
    patient = court.samples.table["session"].to_numpy()[rows].tolist()
    condition = court.samples.condition[torch.from_numpy(rows)]
    found, table = {}, []
    for scale in GUIDANCES:
        how = dataclasses.replace(court.how, samples=SAMPLES_TO_CHOOSE, guidance=scale)
        drawn = sample_cines(court.network, condition, rows.tolist(), how, f"guidance {scale:g}")
        found[scale] = filled(mean_of_tables(measure_all(court, drawn)))[CHOSEN_BY]
        row: dict[str, Any] = {"guidance": scale, "r": float(np.corrcoef(truth, found[scale])[0, 1])}
        if scale != 1:
            row |= compare_indicator(
                truth, found[scale], found[1.0], patient, draws=court.run.settings.bootstrap_draws
            )
        table.append(row)
    result = pd.DataFrame(table)
    better = result[result.get("low", pd.Series(dtype=float)) > 0]
    chosen = float(better.loc[better["r"].idxmax(), "guidance"]) if len(better) else 1.0
    return result.assign(chosen=result["guidance"] == chosen), chosen


# Indicators -----------------------------------------------------------------------------------------


def baselines(court: Court, measured: list[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the indicators of the judged patients by each way to come to them."""
    test, train = court.fold.test, court.fold.train
    network, samples = court.network, court.samples
    known = truth_of(samples, train)
    if known.isna().all().any():
        known = known.combine_first(court.measure(court.true(train)))[list(MEASURED)]
    near = nearest_neighbours(samples.condition, torch.from_numpy(train), torch.from_numpy(test)).numpy()
    through = to_bytes(network.cines_of(samples.data[torch.from_numpy(test)]))
    mean = filled(mean_of_tables(measured))
    return {
        "true cine": court.measure(court.true(test)),
        "true cine through the autoencoder": court.measure(through),
        "generated, mean of samples": mean,
        "generated, one sample": measured[0],
        "generated from another's ECG": mean.loc[np.roll(np.arange(len(mean)), len(mean) // 2)].reset_index(
            drop=True
        ),
        "regression from the ECG": regressed_indicators(samples.condition, known, train, test),
        "nearest ECG of training": court.measure(court.true(near)),
        "mean of training": pd.DataFrame([known.mean()] * len(test)).reset_index(drop=True),
    }


def indicators_of(court: Court, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the scores of each indicator by each way, the measuring method's own error first."""
    manifest, draws = court.run.cache.manifest, court.run.settings.bootstrap_draws
    patient = court.samples.table["session"].to_numpy()[court.fold.test].tolist()
    tables = []
    for name, values in found.items():
        ceilings = {} if name.startswith("true") else manifest.get("ceilings", {})
        table = indicator_table(truth, filled(values), patient, ceilings, draws=draws)
        lost = values.isna().to_numpy().sum(axis=0)
        tables.append(
            table.assign(source=name, not_found=lost, bias=(filled(values) - truth).mean().to_numpy())
        )
    table = pd.concat(tables, ignore_index=True)
    return table[["source", *(column for column in table if column != "source")]]


def comparisons_of(court: Court, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return r of the generated cines beside that of regression, their ratio, and the paired difference."""
    patient = court.samples.table["session"].to_numpy()[court.fold.test].tolist()
    drawn, line = found["generated, mean of samples"], found["regression from the ECG"]
    rows: list[dict[str, Any]] = []
    for name in MEASURED:
        r = [float(np.corrcoef(truth[name], values[name])[0, 1]) for values in (drawn, line)]
        difference = compare_indicator(
            truth[name], drawn[name], line[name], patient, draws=court.run.settings.bootstrap_draws
        )
        rows.append(
            {"indicator": name, "generated": r[0], "regression": r[1], "ratio": r[0] / r[1]} | difference
        )
    return pd.DataFrame(rows)


def spread_of(truth: pd.DataFrame, measured: list[pd.DataFrame]) -> pd.DataFrame:
    """Return how far samples of one ECG differ, beside how far their mean is from the truth.

    Drawn as they should be, the truth is one more sample: it lies between the least and the greatest of n in
    (n - 1) / (n + 1) of the patients.
    """
    rows: list[dict[str, Any]] = []
    for name in MEASURED:
        values = np.stack([filled(table)[name].to_numpy() for table in measured])
        real, count = truth[name].to_numpy(), len(values)
        inside = (real >= values.min(axis=0)) & (real <= values.max(axis=0))
        rows.append(
            {
                "indicator": name,
                "samples": count,
                "spread": float(values.std(axis=0, ddof=1).mean()) if count > 1 else np.nan,
                "error_of_mean": float(np.sqrt(((values.mean(axis=0) - real) ** 2).mean())),
                "truth_inside": float(inside.mean()),
                "expected_inside": (count - 1) / (count + 1),
            }
        )
    return pd.DataFrame(rows)


# Results ---------------------------------------------------------------------------------------------


def predictions_of(court: Court, truth: pd.DataFrame, found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row a judged patient: who it is, the truth, and each way's indicators."""
    table = court.samples.table.iloc[court.fold.test][list(CARRIED)].reset_index(drop=True)
    parts = [table.assign(fold=court.fold.number), truth.add_prefix(TRUE)]
    for name, values in found.items():
        if name != "mean of training":
            parts.append(values.add_prefix(name.replace(",", "").replace("'", "").replace(" ", "_") + "_"))
    return pd.concat(parts, axis=1)
