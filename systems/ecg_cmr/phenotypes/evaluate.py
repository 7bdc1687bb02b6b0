"""Evaluation of a run of ``ecg-phenotypes``: scores of indicators (numbers) and of diseases (yes or no)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from evaluation.multilabel import multilabel_scores, multilabel_table
from evaluation.statistics import Array, Interval, cluster_bootstrap, divided, paired_cluster_bootstrap
from evaluation.tables import Caption
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.rollout import lead_relevance
from systems.base.evaluation_run import EvaluationRun, predict_run
from systems.ecg_cmr.evaluate import write_stage
from systems.ecg_cmr.figures import indicators_figure, relevance_figure
from systems.ecg_cmr.indicators import unit_of
from systems.ecg_cmr.phenotypes.bulls_eye import FAMILIES, evaluated_bulls_eyes
from systems.ecg_cmr.phenotypes.decisions import (
    calibrations_table,
    class_figures,
    classes_table,
    decisions_table,
    disease_figures,
    disease_units,
)
from systems.ecg_cmr.phenotypes.task import TRUE
from systems.ecg_cmr.samples import CLASSES

_INDICATOR_SCORES = ("r", "r2", "mae")
_CAPTIONS = {
    "indicators": Caption(
        "One row (and one panel) an indicator. r: correlation of predicted and true value. R²: share of the "
        "variance that is explained, below 0 worse than predicting the mean. R² possible: the most that "
        "this ECG can tell, known for simulated patients. The mean absolute error is in the unit of the "
        "indicator. On the dashed line prediction and truth are equal."
    ),
    "diseases": Caption(
        "One row a disease; macro is the mean over diseases. AUROC: how often a patient with the disease "
        "gets a higher probability than one without, 0.5 by chance. ECE: expected calibration error, ten "
        "bins."
    ),
    "decisions": Caption(
        "What follows where a patient counts as having the disease from the threshold on. The threshold is "
        "that with the best mean of sensitivity and specificity on the validation part of each fold (its "
        "mean is shown); with --threshold half it is 0.5. Shares have Wilson intervals, of as many cases as "
        "there are patients; F1 and kappa have intervals from draws of patients. Predictive values hold for "
        "the share of diseased in this table.",
        "Decisions at a threshold",
        heads={"n": "cases"},
    ),
    "calibration": Caption(
        "Slope: 1 is right, below 1 the probabilities are too extreme. Intercept: 0 is right, above 0 they "
        "are too low. Intervals are from draws of patients.",
        "Calibration of diseases",
    ),
    "classes": Caption(
        "The most probable class is the predicted one. Balanced accuracy is the mean over classes of the "
        "share that is found. Accuracy, sensitivity and PPV have Wilson intervals, of as many cases as there "
        "are patients; the others have intervals from draws of patients. AUROC of a class is that against "
        "all others.",
        heads={"n": "cases"},
    ),
    "roc": Caption(
        "Of each disease, with its area and interval. The point is the decision at the threshold.",
        "ROC curves",
    ),
    "calibration_curves": Caption(
        "Share of diseased over the predicted probability, in ten bins; the area of a point is its share of "
        "the patients. On the dotted line the probabilities are right.",
    ),
    "decision_curves": Caption(
        "Net benefit of acting on the model from a probability on, beside acting on all and on none (Vickers "
        "and Elkin 2006). The model is of use where its line is the highest.",
    ),
}


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    predictions, draws = predict_run(run), run.settings.bootstrap_draws
    patient = predictions["session"].to_numpy()
    indicators, diseases = (list(run.checkpoints[0]["inputs"][name]) for name in ("indicators", "diseases"))
    reads_ecg = run.checkpoints[0]["settings"]["reads"] == "ecg"
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    if indicators:
        truth = predictions[[TRUE + name for name in indicators]].set_axis(indicators, axis=1)
        ceilings = run.cache.manifest.get("ceilings", {}) if reads_ecg else {}  # an ECG's, not a cine's
        table = indicator_table(truth, predictions[indicators], patient.tolist(), ceilings, draws=draws)
        tables["indicators"] = table
        figures["indicators"] = indicators_figure(
            truth,
            predictions[indicators],
            table,
            units={name: unit_of(name) or "" for name in indicators},
            watermark=run.watermark,
        )
        figures |= evaluated_bulls_eyes(truth, predictions[indicators], table, watermark=run.watermark)
    if diseases:
        truth = predictions[[TRUE + name for name in diseases]]
        scores = multilabel_scores(truth, predictions[diseases], patient, diseases, draws)
        tables["diseases"] = multilabel_table(scores)
        found = disease_units(predictions, diseases, run.checkpoints, run.settings.threshold, run.external)
        tables["decisions"] = decisions_table(found, draws=draws)
        tables["calibration"] = calibrations_table(found, draws=draws)
        if not run.settings.compact:
            figures |= disease_figures(found, tables["diseases"], watermark=run.watermark)
    labels = {name: tuple(each) for name, each in run.checkpoints[0]["inputs"].get(CLASSES, {}).items()}
    if labels:
        tables["classes"] = classes_table(predictions, labels, draws=draws)
        if not run.settings.compact:
            figures |= class_figures(predictions, labels, watermark=run.watermark)
    if reads_ecg and not run.settings.compact and not run.cache.manifest.get("restricted"):
        figures |= _rollout_figures(run, predictions, diseases)
    rollouts = {
        f"rollout_{name}": Caption(
            "The ECG with the highest predicted probability. Darker parts raised it more (gradient-weighted "
            "attention rollout).",
            f"What raised {name.replace('_', ' ')}",
        )
        for name in diseases
    }
    confusions = {
        f"confusion_{name}": Caption("Recordings by true and predicted class, and their share of the row.")
        for name in labels
    }
    eyes = {
        f"bulls_eye_{family}": Caption(
            "Segments of the left ventricle as by the American Heart Association: the outer ring is the "
            "base, the inner one the apex. A grey segment is not known."
        )
        for family in FAMILIES
    }
    return write_stage(run, predictions, tables, figures, _CAPTIONS | rollouts | confusions | eyes)


def _rollout_figures(
    run: EvaluationRun, predictions: pd.DataFrame, diseases: Sequence[str]
) -> dict[str, Figure]:
    """Return, for each disease, the ECG with its highest probability, and which parts counted."""
    samples = run.samples
    row = {name: number for number, name in enumerate(samples.table["recording"])}
    figures = {}
    for column, name in enumerate(diseases):
        chosen = predictions.loc[predictions[name].idxmax()]
        content = run.checkpoints[0]
        if not run.external:
            content = next(item for item in run.checkpoints if item["fold"] == chosen["fold"])
        network = run.model(content)
        assert isinstance(network, PhenotypeModel)
        batch = samples.batch(torch.tensor([row[chosen["recording"]]]))
        covariates = batch["covariates"] if network.covariates else None
        given = (batch["ecg"], batch["lead_present"], covariates)
        relevance = lead_relevance(network, *given, group="diseases", column=column)
        figures[f"rollout_{name}"] = relevance_figure(
            batch["ecg"][0].cpu().numpy(),
            relevance[0].cpu().numpy(),
            tuple(run.cache.manifest["leads"]),
            samples.ecg_rate,
            title=f"{chosen['recording']}: {name.replace('_', ' ')} {chosen[name]:.2f}",
            watermark=run.watermark,
        )
    return figures


def _weighted_correlation(units: pd.DataFrame, weights: Array) -> Array:
    """Pearson's r of the columns ``truth`` and ``predicted`` for many weightings (draws, N)."""
    one, two = (units[name].to_numpy(dtype=float) for name in ("truth", "predicted"))
    total = weights.sum(axis=1)
    mean_one, mean_two = divided(weights @ one, total), divided(weights @ two, total)
    covariance = divided(weights @ (one * two), total) - mean_one * mean_two
    spread = (divided(weights @ one**2, total) - mean_one**2) * (
        divided(weights @ two**2, total) - mean_two**2
    )
    return divided(covariance, np.sqrt(np.maximum(spread, 0)))


def _weighted_r2(units: pd.DataFrame, weights: Array) -> Array:
    """Share of the variance of ``truth`` explained by ``predicted`` as it is; below 0 worse than the mean."""
    truth, predicted = (units[name].to_numpy(dtype=float) for name in ("truth", "predicted"))
    total = weights.sum(axis=1)
    variance = divided(weights @ truth**2, total) - divided(weights @ truth, total) ** 2
    return 1 - divided(divided(weights @ (truth - predicted) ** 2, total), variance)


def _weighted_absolute_error(units: pd.DataFrame, weights: Array) -> Array:
    """Mean absolute difference of ``truth`` and ``predicted``."""
    error = np.abs(units["truth"].to_numpy(dtype=float) - units["predicted"].to_numpy(dtype=float))
    return divided(weights @ error, weights.sum(axis=1))


STATISTICS = {"r": _weighted_correlation, "r2": _weighted_r2, "mae": _weighted_absolute_error}


def indicator_table(
    truth: pd.DataFrame,
    predicted: pd.DataFrame,
    patient: Sequence[object],
    ceilings: Mapping[str, float] | None = None,
    *,
    draws: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Score each indicator on the patients of whom it is known.

    Parameters
    ----------
    truth, predicted : pandas.DataFrame
        One column an indicator, in its unit; NaN in ``truth`` where not known.
    patient : sequence
        The unit that is drawn.
    ceilings : mapping of str to float, optional
        Highest R2 that is possible, where the truth is known (simulated patients).
    draws, seed : int
        As for `evaluation.statistics.cluster_bootstrap`.

    Returns
    -------
    pandas.DataFrame
        Columns indicator, patients, and for r, r2 and mae value, ``_low`` and ``_high``; r2_ceiling; reason
        (why there are no intervals).
    """
    rows = []
    for name in truth:
        units = _known(truth[name], predicted[name], patient)
        row: dict[str, object] = {"indicator": name, "patients": len(units)}
        reasons = []
        for score in _INDICATOR_SCORES:
            found = Interval(np.nan, np.nan, np.nan, 0, 0.0)
            if len(units) > 2:
                found = cluster_bootstrap(units, STATISTICS[score], "patient", draws=draws, seed=seed)
            row |= {score: found.estimate, f"{score}_low": found.low, f"{score}_high": found.high}
            reasons.append(found.reason)
        ceiling = (ceilings or {}).get(str(name), np.nan)
        rows.append(row | {"r2_ceiling": ceiling, "reason": "; ".join(dict.fromkeys(filter(None, reasons)))})
    return pd.DataFrame(rows)


def compare_indicator(
    truth: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    patient: Sequence[object],
    score: str = "r",
    *,
    draws: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the difference (first - second) of a score of one indicator, paired by patient."""
    one, two = (_known(truth, predicted, patient) for predicted in (first, second))
    found = paired_cluster_bootstrap(one, two, STATISTICS[score], "patient", draws=draws, seed=seed)
    names = ("difference", "low", "high", "reason")
    return dict(zip(names, found.cells, strict=True)) | {"p": found.p_value}


def _known(truth: ArrayLike, predicted: ArrayLike, patient: Sequence[object]) -> pd.DataFrame:
    units = pd.DataFrame(
        {"truth": np.asarray(truth, dtype=float), "predicted": np.asarray(predicted, dtype=float)}
    )
    units = units.assign(patient=np.asarray(patient), sample=np.arange(len(units)))
    return units[units["truth"].notna()].reset_index(drop=True)
