"""Judging what was trained: predictions on test parts and on other cohorts, the audit of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.command_line import from_plain
from common.errors import UserError
from config import EvaluationSettings, RunSettings
from datasets.cache import Cache
from datasets.splits import assert_separated, fold_from_parts
from evaluation.report import evaluate_predictions
from evaluation.tables import format_table
from learning.devices import choose_device, rows_at_once
from learning.loop import predict
from systems.base.task import Task
from systems.registry import TASKS, find_task

Checkpoint = dict[str, Any]


@dataclass(frozen=True)
class EvaluationRun:
    """A trained run, and what it is to be judged on.

    Attributes
    ----------
    checkpoints : list of dict
        One a fold.
    cache : Cache
    settings : EvaluationSettings
    external : bool
        Whether the cache is another than the run was trained from.
    folder : pathlib.Path
        Where results are written.
    metadata : dict
        Where the run comes from, for ``metrics.json``.
    """

    checkpoints: list[Checkpoint]
    cache: Cache
    settings: EvaluationSettings
    external: bool
    folder: Path
    metadata: dict[str, Any]


def predict_run(run: EvaluationRun) -> pd.DataFrame:
    """Return the predictions of an opened run: of each fold on its test part, or of all on another cache."""
    read = predict_external if run.external else predict_folds
    return read(run.checkpoints, run.cache, run.settings)


def score_run(run: EvaluationRun, predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the scores of binary predictions, with the metadata of the run, and print them."""
    settings = run.settings
    metrics = evaluate_predictions(
        predictions,
        protocol="external" if run.external else run.checkpoints[0]["protocol"],
        threshold=settings.threshold,
        draws=settings.bootstrap_draws,
        watermark="simulated data" if run.cache.simulated else "",
    )
    print(f"\n{format_table(metrics)}\n")
    return metrics | {"run": run.metadata}


def predict_folds(
    checkpoints: Sequence[Checkpoint], cache: Cache, settings: EvaluationSettings
) -> pd.DataFrame:
    """Return the predictions of each fold's model on the fold's own test part, one row a sample."""
    task, trained, samples = open_run(checkpoints[0], cache, settings)
    tables = []
    for content in checkpoints:
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        assert_separated(fold, samples.table, content["protocol"])
        probability = _predict(task, trained, content, samples, fold.test, settings)
        table = task.predictions(samples, fold.test, probability)
        tables.append(table.assign(fold=fold.number, threshold=content.get("threshold", 0.5)))
    return pd.concat(tables, ignore_index=True)


def predict_external(
    checkpoints: Sequence[Checkpoint], cache: Cache, settings: EvaluationSettings
) -> pd.DataFrame:
    """Return predictions on recordings of another cache: the mean over the models of all folds.

    Raises
    ------
    UserError
        If every recording was seen in training; those that were are left out.
    """
    task, trained, samples = open_run(checkpoints[0], cache, settings)
    rows = np.flatnonzero(~samples.table["recording"].isin(seen_in_training(checkpoints, cache)))
    if not len(rows):
        raise UserError(f"Every recording of {cache.path} was trained on: none is left for an external test.")
    probability = torch.stack(
        [_predict(task, trained, content, samples, rows, settings) for content in checkpoints]
    ).mean(dim=0)
    threshold = float(np.mean([content.get("threshold", 0.5) for content in checkpoints]))
    return task.predictions(samples, rows, probability).assign(fold=0, threshold=threshold)


def seen_in_training(checkpoints: Sequence[Checkpoint], cache: Cache) -> list[str]:
    """Return recordings of a cache whose content any of the models was trained on."""
    content = {digest for checkpoint in checkpoints for digest in checkpoint["trained_on"]["content"]}
    recordings = cache.table("recordings")
    return recordings.loc[recordings["sha256"].isin(content), "recording"].tolist()


def open_run(
    checkpoint: Checkpoint, cache: Cache, settings: EvaluationSettings
) -> tuple[Task, RunSettings, Any]:
    """Return the task of a checkpoint, its settings, and the samples of a cache as it takes them."""
    trained = from_plain(TASKS[checkpoint["task"]].settings, checkpoint["settings"])
    task = find_task(checkpoint["task"], trained)
    samples = task.samples(cache, trained, choose_device(settings.device))
    samples = task.aligned(samples, checkpoint.get("inputs", {}))
    for hidden in settings.without.split("+") if settings.without != "nothing" else ():
        samples = task.hide(samples, hidden, trained)
    return task, trained, samples


def _predict(
    task: Task,
    trained: RunSettings,
    checkpoint: Checkpoint,
    samples: Any,
    rows: np.ndarray,
    settings: EvaluationSettings,
) -> Tensor:
    """Return the probabilities of a checkpoint's model for some rows."""
    model, device = trained_model(task, trained, checkpoint, settings), choose_device(settings.device)
    _, probability = predict(
        task,
        model,
        samples,
        torch.from_numpy(rows),
        batch_size=rows_at_once(settings.batch_size, device),
        device=device,
        label=f"fold {checkpoint['fold']}",
    )
    return probability


def trained_model(
    task: Task, trained: RunSettings, checkpoint: Checkpoint, settings: EvaluationSettings
) -> nn.Module:
    """Return the network of a checkpoint with its weights, on the device."""
    model = task.build(trained, checkpoint.get("inputs", {})).to(choose_device(settings.device))
    model.load_state_dict(checkpoint["model"])
    return model
