"""Evaluation of a run of ``ecg-multimodal``: every subset of modalities, what each adds, and the shortcuts.

Shortcuts are baselines that do not depend on the heart. The sick are older, and which clinical values are
measured depends on the ward. A model that is given the clinical table can score by that alone, so its score
means something only beside these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from common.files import write_table
from datasets.splits import fold_from_parts
from evaluation.calibration import calibration_table, log_odds
from evaluation.multilabel import format_multilabel, multilabel_scores, multilabel_table
from evaluation.report import PROTOCOLS, identity_sentence
from evaluation.scores import aggregate
from evaluation.statistics import Array, cluster_bootstrap
from evaluation.tables import Caption, markdown_of
from learning.checkpoint import Checkpoint
from systems.base.evaluation_run import EvaluationRun, predict_run, score_run
from systems.base.predictor import BALANCED_PREVALENCE, assumed_prevalence
from systems.base.results import LEARNING_CURVES, print_tables, write_binary_results, write_results
from systems.ecg_multimodal.explain import explain_patient
from systems.ecg_multimodal.figures import contributions_figure, subsets_figure
from systems.ecg_multimodal.shapley import (
    Coalition,
    attribution,
    coalitions,
    shapley_auroc,
    shapley_values,
    subset_scores,
)
from systems.ecg_multimodal.task import as_network

SHORTCUTS = MappingProxyType(
    {"missingness": "which clinical values are missing", "age_sex": "age and sex alone"}
)
_EXPLAINED = {"surest_abnormal": 1.0, "surest_normal": 0.0, "least_sure": 0.5}
"""Patients who are drawn: those whose probability is nearest."""
_ITERATIONS = 2000
_CAPTIONS = {
    "calibration": Caption(
        "Expected calibration error: mean distance between probability and share of abnormal, 0 at best. "
        "Slope: 1 is right, below 1 the probabilities are too extreme. Intercept: 0 is right, above 0 they "
        "are too low."
    ),
    "shortcuts": Caption(
        "AUROC of logistic regressions without any signal of the heart, fitted and tested on the same folds. "
        "A model that is given clinical values means something only where it is better.",
        heads={"value": "AUROC"},
    ),
    "subsets": Caption(
        "AUROC of the same model when it is given only some of the modalities.",
        "AUROC by the modalities that are given",
        heads={"value": "AUROC"},
    ),
    "credits": Caption(
        "Part of each modality in the AUROC above 0.5 (Shapley values of the score). The parts add up to "
        "the sum.",
        "Part of each modality in the AUROC",
        heads={"value": "part of AUROC − 0.5"},
    ),
    "shares": Caption(
        "Share of each modality in what moved the predictions, right or wrong: the mean size of its "
        "contribution, in log-odds.",
        "Share of each modality in the predictions",
        heads={"mean_absolute": "mean size (log-odds)"},
    ),
    "contributions": Caption(
        "What each modality adds to the log-odds of abnormal: a point is a patient, the line spans the "
        "quartiles, the large point is the median. Below: share of each modality in the mean size of the "
        "contributions. The table has one row a patient.",
    ),
    "classes": Caption(
        "One row a diagnostic class; macro is the mean over classes. ECE: expected calibration error, ten "
        "bins."
    ),
    "confusion": Caption("Recordings by their class (rows) and the likeliest class (columns)."),
    "patient_surest_abnormal": Caption("The patient with the highest probability of abnormal."),
    "patient_surest_normal": Caption("The patient with the lowest probability of abnormal."),
    "patient_least_sure": Caption("The patient whose probability of abnormal is nearest to 0.5."),
    "learning_curves": LEARNING_CURVES,
}
_Fold = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Rows of train, and rows of test."""


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    settings, draws, compact = (
        run.checkpoints[0]["settings"],
        run.settings.bootstrap_draws,
        run.settings.compact,
    )
    predictions = predict_run(run)
    if settings["target"] != "normal":
        return _evaluate_classes(run, predictions)
    metrics = score_run(run, predictions)
    takes_any = settings["model"]["modality_dropout"] > 0
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    if draws and predictions["label"].nunique() == 2:
        recordings = aggregate(predictions, "recording")
        tables["calibration"] = calibration_table(recordings, noun="patient", draws=draws)
        if not run.external:
            tables["shortcuts"] = _shortcuts_table(run, predictions)
        if len(settings["model"]["views"]) > 1 and takes_any and run.settings.without == "nothing":
            more_tables, figures = _evaluate_subsets(run, predictions, tables.get("shortcuts"))
            tables |= more_tables
    if not compact and (takes_any or len(settings["model"]["views"]) == 1):
        figures |= _patient_figures(run, predictions)
    figures |= run.learning_curves()
    print_tables(tables, captions=_CAPTIONS)
    return metrics, write_binary_results(
        run.folder, predictions, metrics, tables, figures, compact=compact, captions=_CAPTIONS
    )


def _evaluate_classes(run: EvaluationRun, predictions: pd.DataFrame) -> tuple[dict[str, Any], list[Path]]:
    """Score each class against the others, write the results, and return metrics and the files written."""
    classes = list(run.samples.classes)
    truth = predictions[classes].to_numpy()
    probability = predictions[[f"probability_{name}" for name in classes]].to_numpy()
    draws = run.settings.bootstrap_draws
    scores = multilabel_scores(truth, probability, predictions["session"], classes, draws)
    meaning = PROTOCOLS[run.protocol]
    metrics = scores | {"protocol": run.protocol, "meaning": meaning, "run": run.metadata}
    metrics |= {"stamp": run.watermark, "scope": run.scope(predictions["recording"].nunique())}
    print(f"\nprotocol {run.protocol}: {meaning}\n{metrics['scope']}\n\n{format_multilabel(scores)}\n")
    table = multilabel_table(scores)
    sections = [
        f"Protocol `{run.protocol}`: {meaning}.",
        f"{identity_sentence(metrics)}.",
        f"{metrics['scope']}.",
    ]
    sections.append(markdown_of(table, _CAPTIONS["classes"]))
    files = {"classes.csv": table, "predictions.csv": predictions}
    if run.samples.exclusive:
        true, chosen = (np.array(classes)[values.argmax(axis=1)] for values in (truth, probability))
        confusion = pd.crosstab(true, chosen).reindex(classes, columns=classes, fill_value=0)
        metrics["accuracy"] = float((true == chosen).mean())
        print(f"Accuracy of the likeliest class: {metrics['accuracy']:.3f}\n")
        files["confusion.csv"] = confusion.rename_axis("truth").reset_index()
        sections.append(f"Accuracy of the likeliest class: {metrics['accuracy']:.3f}.")
        sections.append(markdown_of(files["confusion.csv"], _CAPTIONS["confusion"]))
    files |= {f"figures/{name}.png": figure for name, figure in run.learning_curves().items()}
    return metrics, write_results(
        run.folder, metrics, files, sections, page=not run.settings.compact, captions=_CAPTIONS
    )


def _evaluate_subsets(
    run: EvaluationRun, predictions: pd.DataFrame, shortcuts: pd.DataFrame | None
) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """Return scores of every subset of modalities from the same checkpoints, and what each adds to them."""
    settings, draws = run.checkpoints[0]["settings"], run.settings.bootstrap_draws
    modalities = settings["model"]["views"]
    values = _subset_log_odds(run, predictions, modalities)
    samples = run.cache.table("samples").set_index("recording").loc[predictions["recording"]]
    present = {name: samples[f"has_{name}"].to_numpy(bool) for name in modalities}
    empty = _start(run, run.checkpoints)
    about = (predictions["label"], values, predictions["session"], empty, present)
    contributions = shapley_values(values, empty, present)
    tables = {
        "subsets": subset_scores(*about, draws=draws),
        "credits": shapley_auroc(*about, draws=draws),
        "shares": attribution(contributions),
    }
    figures = {
        "subsets": subsets_figure(
            tables["subsets"],
            references=None if shortcuts is None else shortcuts.rename(columns={"shortcut": "views"}),
            shapley=tables["credits"],
            protocol=run.protocol,
            watermark=run.watermark,
        ),
        "contributions": contributions_figure(contributions, predictions["label"], watermark=run.watermark),
    }
    if not run.settings.compact:
        of_patients = predictions[["recording", "person", "label", "probability"]].assign(**contributions)
        write_table(run.folder / "contributions.csv", of_patients)
    return tables, figures


def _subset_log_odds(
    run: EvaluationRun, predictions: pd.DataFrame, modalities: Sequence[str]
) -> dict[Coalition, Array]:
    """Return the log-odds of each recording from every subset of modalities; NaN where it has none."""
    values = {}
    for part in coalitions(modalities):
        hidden = "+".join(name for name in modalities if name not in part)
        settings = dataclasses.replace(run.settings, without=hidden or "nothing")
        table = predict_run(dataclasses.replace(run, settings=settings)).set_index("recording")
        found = table["probability"].reindex(predictions["recording"]).to_numpy(dtype=float)
        values[part] = np.where(np.isnan(found), np.nan, log_odds(np.nan_to_num(found, nan=0.5)))
    return values


def _start(run: EvaluationRun, checkpoints: Sequence[Checkpoint]) -> float:
    """Return the log-odds of abnormal of a patient of whom nothing is known."""
    prevalence = assumed_prevalence(checkpoints)
    return float(log_odds(BALANCED_PREVALENCE if prevalence is None else prevalence))


def _patient_figures(run: EvaluationRun, predictions: pd.DataFrame) -> dict[str, Figure]:
    """Return figures of the patients with the highest, the lowest, and the least certain probability."""
    samples = run.samples
    row = {name: number for number, name in enumerate(samples.table["recording"])}
    figures = {}
    for name, value in _EXPLAINED.items():
        chosen = predictions.iloc[int((predictions["probability"] - value).abs().argmin())]
        content = run.checkpoints[0]
        if not run.external:
            content = next(item for item in run.checkpoints if item["fold"] == chosen["fold"])
        figures[f"patient_{name}"] = explain_patient(
            as_network(run.model(content)),
            samples,
            row[chosen["recording"]],
            empty=_start(run, [content]),
            watermark=run.watermark,
        )
    return figures


# Shortcuts -------------------------------------------------------------------------------------------


def _shortcuts_table(run: EvaluationRun, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of each shortcut, fitted and tested on the same folds."""
    samples = run.samples
    clinical = pd.DataFrame(samples.views["clinical"].cpu().numpy(), columns=list(samples.clinical_names))
    folds = []
    for content in run.checkpoints:
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        folds.append((np.setdiff1d(np.arange(len(samples)), fold.test), fold.test))
    rows = []
    if {"age", "sex"} <= set(clinical):
        found = shortcut_predictions(clinical, samples.table["label"].to_numpy(float), folds)
        for name, probability in found.items():
            units = samples.table.assign(probability=probability)
            units = units[units["recording"].isin(predictions["recording"]) & units["probability"].notna()]
            interval = cluster_bootstrap(units, "auroc", noun="patient", draws=run.settings.bootstrap_draws)
            rows.append((SHORTCUTS[name], *interval.cells))
    return pd.DataFrame(rows, columns=["shortcut", "value", "low", "high", "reason"])


def shortcut_predictions(
    clinical: pd.DataFrame, label: ArrayLike, folds: Sequence[_Fold], age: str = "age", sex: str = "sex"
) -> dict[str, Array]:
    """Out-of-fold probabilities of label 1 from each shortcut, by logistic regression.

    Medians of what is missing, scales and weights are fitted on the train rows of the fold alone.

    Parameters
    ----------
    clinical : pandas.DataFrame
        One row a sample, one column a clinical value, NaN where missing. Give every column that the
        model is given.
    label : array_like, shape (N,) or (N, classes)
        1, 0, or NaN where not known; a row whose label is not known is not learned from.
    folds : sequence of (train, test)
        Row numbers of both parts of each fold; keep the patients apart. No row is tested twice.
    age, sex : str
        Columns of the second shortcut, in numbers.

    Returns
    -------
    dict of str to ndarray, of the shape of `label`
        For each of `SHORTCUTS`; NaN in rows that no fold tests, and where a train part knows no label.

    Raises
    ------
    ValueError
        Where a fold tests what it trains on, a row is tested twice, or a column is not there or not numbers.
    """
    truth = np.asarray(label, dtype=float)
    if len(truth) != len(clinical) or truth.ndim not in (1, 2):
        raise ValueError(f"Labels of shape {truth.shape} do not fit a table of {len(clinical)} patients.")
    if not np.isin(truth[~np.isnan(truth)], (0, 1)).all():
        raise ValueError("Labels must be 0, 1, or NaN where not known.")
    _check_folds(folds, len(clinical))
    features = {
        "missingness": clinical.isna().to_numpy(dtype=float),
        "age_sex": _numbers(clinical, (age, sex)),
    }
    return {name: _out_of_fold(features[name], truth, folds) for name in SHORTCUTS}


def _check_folds(folds: Sequence[_Fold], count: int) -> None:
    if not len(folds):
        raise ValueError("There are no folds to predict in.")
    for number, (train, test) in enumerate(folds):
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"Fold {number} trains on {len(both)} of its own test rows, such as row {both[0]}."
            )
    rows = np.concatenate([np.concatenate([train, test]) for train, test in folds])
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(f"Folds name rows {rows.min()} to {rows.max()} of a table of {count}.")
    times = np.bincount(np.concatenate([test for _, test in folds]), minlength=count)
    if (times > 1).any():
        raise ValueError(f"{int((times > 1).sum())} rows are tested more than once: give one set of folds.")


def _numbers(clinical: pd.DataFrame, columns: Sequence[str]) -> Array:
    missing = [name for name in columns if name not in clinical]
    if missing:
        raise ValueError(f"The clinical table has no column {', '.join(missing)}; it has {list(clinical)}.")
    try:
        return clinical[list(columns)].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Columns {', '.join(columns)} must hold numbers: {error}.") from error


def _out_of_fold(features: Array, truth: Array, folds: Sequence[_Fold]) -> Array:
    columns = truth[:, None] if truth.ndim == 1 else truth
    found = np.full(columns.shape, np.nan)
    for train, test in folds:
        for number, label in enumerate(columns.T):
            learned = train[~np.isnan(label[train])]
            if len(learned) and len(test):
                found[test, number] = _fitted(features, label, learned, test)
    return found.reshape(truth.shape)


def _fitted(features: Array, label: Array, train: Array, test: Array) -> Array:
    """Return the probabilities of the test rows; the share of label 1 where train knows one label only."""
    if len(np.unique(label[train])) < 2:
        return np.full(len(test), label[train].mean())
    # A column that is missing throughout train stays, as zeros, so that train and test keep their columns.
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    model = make_pipeline(imputer, StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    return model.fit(features[train], label[train]).predict_proba(features[test])[:, 1]
