"""Judging the stages that learn from pairs of ECG and cardiac MRI: what each is for, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from common.files import write_table, write_text
from evaluation.figures import save_figure
from evaluation.multilabel import multilabel_scores, multilabel_table
from evaluation.report import json_safe, write_json
from evaluation.tables import PROTOCOLS, frame_to_markdown
from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.rollout import lead_relevance
from systems.base.evaluation_run import EvaluationRun, predict_run
from systems.ecg_cmr.contrast.retrieval import retrieval_table
from systems.ecg_cmr.figures import indicators_figure, relevance_figure, retrieval_figure
from systems.ecg_cmr.mae.reconstruction import reconstruction_table
from systems.ecg_cmr.phenotypes.scores import indicator_table
from systems.ecg_cmr.phenotypes.task import TRUE

Tables = dict[str, pd.DataFrame]
Figures = dict[str, Figure]


def evaluate(run: EvaluationRun) -> tuple[dict[str, Any], list[Path]]:
    """Evaluate a run of a stage, write its results, and return its metrics and the files written."""
    predictions = predict_run(run)
    tables, figures = STAGES[run.metadata["task"]](run, predictions)
    for name, table in tables.items():
        print(f"\n{name.replace('_', ' ')}\n{table.to_string(index=False, float_format='{:.3f}'.format)}")
    print()
    return write_stage(run, predictions, tables, {} if run.settings.compact else figures)


def judge_masked(run: EvaluationRun, predictions: pd.DataFrame) -> tuple[Tables, Figures]:
    """Score what was hidden and reconstructed, beside the mean as the simplest guess."""
    found = reconstruction_table(predictions, draws=run.settings.bootstrap_draws)
    return {"reconstruction": found}, {}


def judge_contrast(run: EvaluationRun, predictions: pd.DataFrame) -> tuple[Tables, Figures]:
    """Score whether the other half of a pair is found among all patients of the test part."""
    tables = []
    for _, fold in predictions.groupby("fold", sort=True):  # each fold has a space of its own
        ecg, cmr = (
            fold[[name for name in fold if str(name).startswith(f"{kind}_")]].to_numpy()
            for kind in ("ecg", "cmr")
        )
        draws = run.settings.bootstrap_draws
        table = retrieval_table(ecg, cmr, fold["session"].to_numpy(), draws=draws)
        tables.append(table.assign(fold=fold["fold"].iloc[0]) if predictions["fold"].nunique() > 1 else table)
    table = pd.concat(tables, ignore_index=True)
    return {"retrieval": table}, {"retrieval": retrieval_figure(tables[0], watermark=watermark_of(run))}


def judge_phenotypes(run: EvaluationRun, predictions: pd.DataFrame) -> tuple[Tables, Figures]:
    """Score indicators beside their ceilings, and diseases."""
    draws, patient = run.settings.bootstrap_draws, predictions["session"].to_numpy()
    indicators, diseases = (named_targets(run, kind) for kind in ("indicators", "diseases"))
    truth = predictions[[TRUE + name for name in indicators]].set_axis(indicators, axis=1)
    reads_ecg = run.checkpoints[0]["settings"]["reads"] == "ecg"
    ceilings = run.cache.manifest.get("ceilings", {}) if reads_ecg else {}  # an ECG's, not a cine's
    tables: Tables = {}
    figures: Figures = {}
    if indicators:
        table = indicator_table(truth, predictions[indicators], patient.tolist(), ceilings, draws=draws)
        tables["indicators"] = table
        figures["indicators"] = indicators_figure(
            truth, predictions[indicators], table, watermark=watermark_of(run)
        )
    if diseases:
        scores = multilabel_scores(
            predictions[[TRUE + name for name in diseases]], predictions[diseases], patient, diseases, draws
        )
        tables["diseases"] = multilabel_table(scores)
    if reads_ecg and not run.settings.compact:
        figures |= rollout_figures(run, predictions, diseases)
    return tables, figures


def named_targets(run: EvaluationRun, kind: str) -> list[str]:
    """Return the columns that the network of a run predicts."""
    return list(run.checkpoints[0]["inputs"][kind])


def rollout_figures(run: EvaluationRun, predictions: pd.DataFrame, diseases: list[str]) -> Figures:
    """Return, for each disease, the ECG of whom it is believed most, and what counted."""
    samples = run.samples
    place = {name: row for row, name in enumerate(samples.table["recording"])}
    leads = tuple(run.cache.manifest["leads"])
    figures = {}
    for name in diseases:
        chosen = predictions.loc[predictions[name].idxmax()]
        content = run.checkpoints[0]
        if not run.external:
            content = next(item for item in run.checkpoints if item["fold"] == chosen["fold"])
        network = run.model(content)
        assert isinstance(network, PhenotypeModel) and isinstance(network.encoder, ECGEncoder)
        batch = samples.batch(torch.tensor([place[chosen["recording"]]]))
        relevance = lead_relevance(network.encoder, batch["ecg"], batch["lead_present"], network.pooling)
        figures[f"rollout_{name}"] = relevance_figure(
            batch["ecg"][0].cpu().numpy(),
            relevance[0].cpu().numpy(),
            leads,
            samples.ecg_rate,
            title=f"{chosen['recording']}: {name.replace('_', ' ')} {chosen[name]:.2f}",
            watermark=watermark_of(run),
        )
    return figures


def watermark_of(run: EvaluationRun) -> str:
    """Return the warning that belongs on every output."""
    return "simulated data" if run.cache.simulated else ""


def write_stage(
    run: EvaluationRun,
    predictions: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
) -> tuple[dict[str, Any], list[Path]]:
    """Write predictions, tables, figures, a report and last metrics.json; return metrics and files."""
    folder = run.folder
    protocol = "external" if run.external else run.checkpoints[0]["protocol"]
    metrics: dict[str, Any] = {
        "protocol": protocol,
        "meaning": PROTOCOLS[protocol],
        "stamp": watermark_of(run),
        "counts": {"recordings": len(predictions), "patients": int(predictions["session"].nunique())},
        "bootstrap": {"draws": run.settings.bootstrap_draws, "cluster": "patient"},
        **{name: table.to_dict("records") for name, table in tables.items()},
        "run": run.metadata,
    }
    metrics = json_safe(metrics)
    head = f"Protocol `{protocol}`: {PROTOCOLS[protocol]}."
    sections = [head + (f" **{metrics['stamp']}**" if metrics["stamp"] else "")]
    written = [folder / "predictions.csv"]
    write_table(written[0], predictions, digits=6)
    for name, table in tables.items():
        written.append(folder / f"{name}.csv")
        write_table(written[-1], table, digits=6)
        sections.append(f"## {name.capitalize()}\n\n{frame_to_markdown(table)}")
    for name, figure in figures.items():
        written.append(folder / "figures" / f"{name}.png")
        save_figure(figure, written[-1])
    written += [folder / "report.md", folder / "metrics.json"]
    write_text(written[-2], "\n\n".join(sections) + "\n")
    write_json(written[-1], metrics)
    return metrics, written


STAGES: dict[str, Callable[[EvaluationRun, pd.DataFrame], tuple[Tables, Figures]]] = {
    "ecg-mae": judge_masked,
    "cmr-mae": judge_masked,
    "ecg-cmr-contrast": judge_contrast,
    "ecg-phenotypes": judge_phenotypes,
}
"""What scores the predictions of each stage, as tables and figures."""
