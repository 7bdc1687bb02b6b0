"""Judging a run of task ``ecg-multimodal``: every subset of views, what each adds, and the shortcuts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.files import write_table, write_text
from datasets.patients import SUPERCLASSES
from datasets.splits import fold_from_parts
from evaluation.calibration import calibration_table, log_odds
from evaluation.figures import save_figure
from evaluation.multilabel import format_multilabel, multilabel_scores, multilabel_table
from evaluation.report import write_json, write_results
from evaluation.scores import aggregate
from evaluation.statistics import cluster_bootstrap
from evaluation.tables import PROTOCOLS, frame_to_markdown
from systems.base.evaluation_run import EvaluationRun, predict_run, score_run
from systems.ecg_multimodal.explain import explain_patient
from systems.ecg_multimodal.modality_figures import contributions_figure, subsets_figure
from systems.ecg_multimodal.shapley import (
    Coalition,
    coalitions,
    score_contributions,
    shapley_shares,
    shapley_values,
    subset_scores,
)
from systems.ecg_multimodal.shortcuts import SHORTCUTS, shortcut_predictions
from systems.ecg_multimodal.task import as_network

EXPLAINED = {"surest_abnormal": 1.0, "surest_normal": 0.0, "least_sure": 0.5}
"""Patients who are drawn: those whose probability is nearest."""


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run, write its results, and return its metrics and the files written."""
    settings = run.checkpoints[0]["settings"]
    predictions = predict_run(run)
    if settings["target"] == "superclasses":
        return judge_superclasses(run, predictions)
    metrics = score_run(run, predictions)
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    draws = run.settings.bootstrap_draws
    if draws and predictions["label"].nunique() == 2:
        tables["calibration"] = calibration_table(aggregate(predictions, "recording"), draws=draws)
        if not run.external:
            tables["shortcuts"] = shortcuts_table(run, predictions)
        views = settings["model"]["views"]
        takes_any = settings["model"]["modality_dropout"] > 0
        if len(views) > 1 and takes_any and run.settings.without == "nothing":
            more_tables, figures = judge_views(run, predictions, tables.get("shortcuts"))
            tables |= more_tables
    if not run.settings.compact:
        figures |= patient_figures(run, predictions)
    for name, table in tables.items():
        print(f"{name.replace('_', ' ')}\n{table.to_string(index=False, float_format='{:.3f}'.format)}\n")
    written = write_results(run.folder, predictions, metrics, compact=run.settings.compact, tables=tables)
    for name, figure in figures.items():
        written.append(run.folder / "figures" / f"{name}.png")
        save_figure(figure, written[-1])
    return metrics, written


def judge_views(
    run: EvaluationRun, predictions: pd.DataFrame, shortcuts: pd.DataFrame | None
) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """Return scores of every subset of views from the same checkpoints, and what each view adds to them."""
    content = run.checkpoints[0]["settings"]
    values = subset_log_odds(run, predictions, content["model"]["views"])
    samples = run.cache.table("samples").set_index("recording")
    present = {
        view: samples.loc[predictions["recording"], f"has_{view}"].to_numpy(bool)
        for view in content["model"]["views"]
    }
    empty = float(log_odds(assumed_prevalence_given(run)))
    draws = run.settings.bootstrap_draws
    about = (predictions["label"], values, predictions["session"], empty, present)
    subsets, credits = subset_scores(*about, draws=draws), score_contributions(*about, draws=draws)
    contributions = shapley_values(values, empty, present)
    watermark = "simulated data" if run.cache.simulated else ""
    references = None if shortcuts is None else shortcuts.rename(columns={"shortcut": "views"})
    protocol = "external" if run.external else run.checkpoints[0]["protocol"]
    figures = {
        "subsets": subsets_figure(
            subsets, references=references, credits=credits, protocol=protocol, watermark=watermark
        ),
        "contributions": contributions_figure(contributions, predictions["label"], watermark=watermark),
    }
    of_patients = predictions[["recording", "person", "label", "probability"]].assign(**contributions)
    tables = {"subsets": subsets, "credits": credits, "shares": shapley_shares(contributions)}
    if not run.settings.compact:
        write_table(run.folder / "contributions.csv", of_patients)
    return tables, figures


def assumed_prevalence_given(run: EvaluationRun) -> float:
    """Return the share of abnormal that the networks believe in before they know anything of a patient."""
    if run.checkpoints[0]["settings"]["optimization"]["class_weights"]:
        return 0.5
    return float(np.mean([content["label_share"] for content in run.checkpoints]))


def subset_log_odds(
    run: EvaluationRun, predictions: pd.DataFrame, views: list[str]
) -> dict[Coalition, np.ndarray]:
    """Return the log-odds of each recording from every subset of views; NaN where it has none of them."""
    values = {}
    for part in coalitions(views):
        hidden = "+".join(view for view in views if view not in part)
        settings = dataclasses.replace(run.settings, without=hidden or "nothing")
        table = predict_run(dataclasses.replace(run, settings=settings)).set_index("recording")
        found = table["probability"].reindex(predictions["recording"]).to_numpy(dtype=float)
        values[part] = np.where(np.isnan(found), np.nan, log_odds(np.nan_to_num(found, nan=0.5)))
    return values


def shortcuts_table(run: EvaluationRun, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of what can be said without looking at the heart, out of the same folds."""
    samples = run.samples
    clinical = pd.DataFrame(samples.views["clinical"].cpu().numpy(), columns=list(samples.clinical_names))
    count = len(samples)
    folds = []
    for content in run.checkpoints:
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        folds.append((np.setdiff1d(np.arange(count), fold.test), fold.test))
    if not {"age", "sex"} <= set(clinical):
        return pd.DataFrame(columns=["shortcut", "value", "low", "high"])
    found = shortcut_predictions(clinical, samples.table["label"].to_numpy(float), folds)
    rows = []
    for name, probability in found.items():
        units = samples.table.assign(probability=probability)
        units = units[units["recording"].isin(predictions["recording"]) & units["probability"].notna()]
        interval = cluster_bootstrap(units, "auroc", draws=run.settings.bootstrap_draws)
        rows.append((SHORTCUTS[name], interval.estimate, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["shortcut", "value", "low", "high"])


def patient_figures(run: EvaluationRun, predictions: pd.DataFrame) -> dict[str, Figure]:
    """Return one figure each of the patients of whom the network is surest, and least sure."""
    samples = run.samples
    rate = float(run.cache.manifest["settings"].get("signal_rate", 100.0))
    place = {name: row for row, name in enumerate(samples.table["recording"])}
    figures = {}
    for kind, value in EXPLAINED.items():
        chosen = predictions.iloc[int((predictions["probability"] - value).abs().argmin())]
        content = run.checkpoints[0]
        if not run.external:
            content = next(item for item in run.checkpoints if item["fold"] == chosen["fold"])
        network = run.model(content)
        figures[f"patient_{kind}"] = explain_patient(
            as_network(network),
            samples,
            place[chosen["recording"]],
            sampling_rate=rate,
            watermark="simulated data" if run.cache.simulated else "",
        )
    return figures


def judge_superclasses(run: EvaluationRun, predictions: pd.DataFrame) -> tuple[dict[str, Any], list[Path]]:
    """Score five classes at once, write the results, and return metrics and the files written."""
    probabilities = predictions[[f"probability_{name}" for name in SUPERCLASSES]].to_numpy()
    scores = multilabel_scores(
        predictions[list(SUPERCLASSES)].to_numpy(),
        probabilities,
        predictions["session"],
        SUPERCLASSES,
        draws=run.settings.bootstrap_draws,
    )
    protocol = "external" if run.external else run.checkpoints[0]["protocol"]
    metrics = scores | {"protocol": protocol, "meaning": PROTOCOLS[protocol], "run": run.metadata}
    print(f"\nprotocol {protocol}: {PROTOCOLS[protocol]}\n\n{format_multilabel(scores)}\n")
    table = multilabel_table(scores)
    written = [run.folder / name for name in ("classes.csv", "predictions.csv", "report.md", "metrics.json")]
    write_table(written[0], table)
    write_table(written[1], predictions)
    write_text(written[2], f"Protocol `{protocol}`: {PROTOCOLS[protocol]}.\n\n{frame_to_markdown(table)}\n")
    write_json(written[3], metrics)
    return metrics, written
