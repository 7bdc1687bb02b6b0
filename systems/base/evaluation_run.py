"""One call of evaluate.py: a trained run, the cache it is evaluated on, its predictions and its results."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.files import write_table
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from datasets.splits import ALL, assert_separated, fold_from_parts, fold_name
from evaluation.comparison import compare, format_comparison
from evaluation.databases import evaluate_databases
from evaluation.report import evaluate_predictions, format_table
from learning.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    changed_data,
    changed_since,
    file_digest,
    load_checkpoint,
)
from learning.devices import choose_device, rows_at_once
from learning.loop import predict
from learning.runs import differing_settings, find_checkpoints
from systems import registry
from systems.base.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOCAL = ("cache", "cache_dir", "checkpoint_dir", "log_dir")
"""Settings that say where files lie on one machine, and so do not belong into results."""


@dataclass(frozen=True)
class EvaluationRun:
    """A trained run, and what it is evaluated on.

    Attributes
    ----------
    checkpoints : list of Checkpoint
        One a fold.
    cache : Cache
    settings : EvaluationSettings
        Those of the system that the run is of.
    external : bool
        Whether the cache is another than the run was trained from.
    folder : pathlib.Path
        Where results are written.
    metadata : dict
        Where the run comes from, for ``metrics.json``.
    histories : mapping of str to sequence of mapping
        By the name of the fold, the scores of each epoch as TensorBoard names them.
    """

    checkpoints: list[Checkpoint]
    cache: Cache
    settings: Any
    external: bool = False
    folder: Path = Path()
    metadata: dict[str, Any] = field(default_factory=dict)
    histories: dict[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    @functools.cached_property
    def task(self) -> Task:
        """Task of the run, with the settings it was trained with."""
        return registry.task_of(self.checkpoints[0])

    @functools.cached_property
    def device(self) -> torch.device:
        """Device of the evaluation."""
        return choose_device(self.settings.device)

    @functools.cached_property
    def samples(self) -> Any:
        """Samples of the cache as the model takes them, without what the settings hide."""
        samples = self.task.samples(self.cache, self.device)
        samples = self.task.with_inputs(samples, self.checkpoints[0].get("inputs", {}))
        for hidden in self.settings.without.split("+") if self.settings.without != "nothing" else ():
            samples = self.task.without(samples, hidden)
        return samples

    @property
    def protocol(self) -> str:
        """Protocol of the predictions."""
        return "external" if self.external else self.checkpoints[0]["protocol"]

    @property
    def watermark(self) -> str:
        """Warning that belongs on every output; empty if there is none."""
        return "simulated data" if self.cache.simulated else ""

    def scope(self, recordings: int) -> str:
        """Return how much of the run and of the cache is evaluated, in words."""
        total = self.samples.table["recording"].nunique()
        of_these = f"{recordings:,} of {total:,} recordings"
        if self.external:
            models = len(self.checkpoints)
            return f"mean of {models} model{'s' * (models != 1)}: {of_these}, none of them trained on"
        return f"{folds_said(self.checkpoints)}: {of_these}"

    def learning_curves(self) -> dict[str, Figure]:
        """Return the figure of loss and score over the epochs; nothing for a run without epochs."""
        kept = {fold_name(content["fold"]): _kept_epoch(content) for content in self.checkpoints}
        if self.settings.compact or not any(map(len, self.histories.values())):
            return {}
        from evaluation.figures import learning_curves_figure  # half a second, and --compact draws nothing

        figure = learning_curves_figure(self.histories, kept, watermark=self.watermark)
        return {"learning_curves": figure}

    def model(self, checkpoint: Checkpoint) -> nn.Module:
        """Return the model of one of the checkpoints with its weights."""
        return self.task.load_model(checkpoint, self.device)


def evaluate(settings: EvaluationSettings) -> dict[str, Any]:
    """Evaluate the run that the settings name, write its results and return its metrics."""
    paths = find_checkpoints(settings.checkpoint, settings.checkpoint_dir, settings.which)
    checkpoints = {path: load_checkpoint(path) for path in paths}
    first = next(iter(checkpoints.values()))
    cache = find_cache(settings.cache, settings.cache_dir, first["cache"]["identity"])
    external = cache.identity != first["cache"]["identity"]
    _check_checkpoints(checkpoints, external)
    folder = _results_folder(first["run"], cache, external, settings)
    print(
        f"Run {first['run']}: {folds_said(list(checkpoints.values()))}, "
        f"{settings.which} checkpoints, on {cache.title} ({cache.path}){' (external test)' * external}."
    )
    if settings.dry_run:
        print(f"Would evaluate {', '.join(str(path) for path in paths)} and write to {folder}.")
        return {}
    metadata = {
        "run": first["run"],
        "task": first["task"],
        "cache": first["cache"],
        "provenance": first["provenance"],
        "settings": {key: value for key, value in first["settings"].items() if key not in _LOCAL},
        "checkpoints": {f"{path.parent.name}/{path.name}": file_digest(path) for path in checkpoints},
        "changed": _changes(list(checkpoints.values()), cache),
        "evaluated_on": {"title": cache.title, "folder": cache.path.name},
    }
    for line in metadata["changed"]:
        print(line)
    histories = {} if settings.compact else _histories(checkpoints)
    run = EvaluationRun(list(checkpoints.values()), cache, settings, external, folder, metadata, histories)
    metrics, written = registry.evaluation(first["task"])(run)
    names = dict.fromkeys("figures" if path.suffix == ".png" else path.name for path in written)
    print(f"Written to {folder}: {', '.join(names)}.")
    return metrics


def folds_said(checkpoints: Sequence[Checkpoint]) -> str:
    """Return how many of the folds of a run these are, in words."""
    first = checkpoints[0]
    count = 1 if first["protocol"] == "official" or first["fold"] == ALL else first["settings"]["fold_count"]
    if first["protocol"] == "database" and first["fold"] != ALL:
        count = len(first["trained_on"]["database"]) + 1
    return f"{len(checkpoints)} of {count} fold{'s' * (count != 1)}"


def _histories(checkpoints: Mapping[Path, Checkpoint]) -> dict[str, Sequence[Mapping[str, float]]]:
    """Return the scores of each epoch of each fold: all that were trained, not only up to the best."""
    found = {}
    for path, content in checkpoints.items():
        last = path.with_name(LAST)
        whole = load_checkpoint(last) if path.name == BEST and last.is_file() else content
        found[fold_name(content["fold"])] = whole["progress"].get("history", [])
    return found


def _kept_epoch(content: Checkpoint) -> int:
    """Return the epoch whose weights a checkpoint holds, from 1."""
    return int(content["progress"].get("epoch", 0))


def _changes(checkpoints: list[Checkpoint], cache: Cache) -> list[str]:
    """Return a line for each way in which folds differ from one another, or code and data from what was."""
    now, first = cache.describe(), checkpoints[0]
    lines = []
    for content in checkpoints:
        lines += [*changed_since(content["provenance"]), *changed_data(content["cache"], now)]
        lines += [
            f"Note: fold {content['fold']} was trained with {name} {own}, fold {first['fold']} with {other}."
            for name, own, other in differing_settings(content["settings"], first["settings"])
        ]
    return list(dict.fromkeys(lines))


def _check_checkpoints(checkpoints: dict[Path, Checkpoint], external: bool) -> None:
    """Refuse checkpoints that are not of one run, or that have no test part."""
    first = next(iter(checkpoints.values()))
    for path, content in checkpoints.items():
        if content["fold"] == ALL and not external:
            raise UserError(
                f"{path} is a final fit on everything: no recording of this cache is left to evaluate it on. "
                "Evaluate the run's folds, trained without --folds none, or name another --cache."
            )
        if content["run"] != first["run"] or content["protocol"] != first["protocol"]:
            raise UserError(f"{path} belongs to run {content['run']}, the others to {first['run']}.")


def _results_folder(run: str, cache: Cache, external: bool, settings: EvaluationSettings) -> Path:
    """Return the folder of results: the run's, and what is particular to this evaluation of it."""
    hidden = f"-without-{settings.without}" if settings.without != "nothing" else ""
    elsewhere = f"-on-{cache.path.name}" if external else ""
    return settings.results_dir / f"{run}{hidden}{elsewhere}"


# Predictions ----------------------------------------------------------------------------------------


def predict_run(run: EvaluationRun) -> pd.DataFrame:
    """Return the predictions of a run: of each fold on its test part, or of all on another cache."""
    return _predict_external(run) if run.external else predict_folds(run)


def score_run(run: EvaluationRun, predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the scores of binary predictions, with the metadata of the run, and print them.

    Those with a column ``database`` are scored one database at a time, and have no pooled score.
    """
    lacking = [fold_name(content["fold"]) for content in run.checkpoints if "threshold" not in content]
    if lacking and run.settings.threshold == "validation":
        raise UserError(
            f"{run.settings.which}.pt of {lacking[0]} holds no threshold: that of a fold is found when it is "
            "finished, for its best.pt. Leave --threshold or --which away, or finish the fold with "
            "training.py --resume."
        )
    scored = evaluate_databases if "database" in predictions else evaluate_predictions
    metrics = scored(
        predictions,
        protocol=run.protocol,
        threshold=run.settings.threshold,
        draws=run.settings.bootstrap_draws,
        watermark=run.watermark,
        scope=run.scope(predictions["recording"].nunique()),
    )
    print(f"\n{format_table(metrics)}\n")
    return metrics | {"run": run.metadata}


def predict_folds(run: EvaluationRun) -> pd.DataFrame:
    """Return the predictions of each fold's model on the fold's own test part, one row a sample."""
    tables = []
    for content in run.checkpoints:
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        assert_separated(fold, run.samples.table, content["protocol"])
        table = run.task.predictions(run.samples, fold.test, _predict(run, content, fold.test))
        if content["protocol"] == "database":
            table = table.assign(database=run.samples.table["database"].to_numpy()[fold.test])
        tables.append(table.assign(fold=fold.number, threshold=content.get("threshold", 0.5)))
    return pd.concat(tables, ignore_index=True)


def _predict_external(run: EvaluationRun) -> pd.DataFrame:
    """Return predictions on recordings of another cache: the mean over the models of all folds.

    Where these are of several databases, the column ``database`` tells them apart.

    Raises
    ------
    UserError
        If every recording was used in training; those that were are left out.
    """
    content = {digest for checkpoint in run.checkpoints for digest in checkpoint["trained_on"]["content"]}
    recordings = run.cache.table("recordings")
    known = recordings.loc[recordings["sha256"].isin(content), "recording"]
    rows = np.flatnonzero(~run.samples.table["recording"].isin(known))
    if not len(rows):
        raise UserError(
            f"Every recording of {run.cache.path} was trained on: none is left for an external test."
        )
    probability = torch.stack([_predict(run, checkpoint, rows) for checkpoint in run.checkpoints]).mean(dim=0)
    threshold = float(np.mean([checkpoint.get("threshold", 0.5) for checkpoint in run.checkpoints]))
    table = run.task.predictions(run.samples, rows, probability).assign(fold=0, threshold=threshold)
    databases = run.samples.table.get("database", pd.Series("", run.samples.table.index)).to_numpy()[rows]
    return table.assign(database=databases) if len(np.unique(databases)) > 1 else table


def _predict(run: EvaluationRun, checkpoint: Checkpoint, rows: np.ndarray) -> Tensor:
    """Return the probabilities of a checkpoint's model for some rows."""
    _, probability = predict(
        run.task,
        run.model(checkpoint),
        run.samples,
        torch.from_numpy(rows),
        batch_size=rows_at_once(run.settings.batch_size, run.device),
        device=run.device,
        label=f"fold {checkpoint['fold']}",
    )
    return probability


# Comparison of two runs -----------------------------------------------------------------------------


def compare_results(first: Path, second: Path, settings: EvaluationSettings) -> None:
    """Print the paired comparison of two runs, of one or several seeds, and write it to the results.

    Results of a task with a module ``compare`` are compared by it, all others by AUROC per recording.

    Raises
    ------
    UserError
        If there are no results, or of two kinds of tasks, or of one that cannot be compared.
    """
    tasks = [_task_of_results(path) for path in (first, second)]
    modules = [registry.module_of(task, "compare") if task in registry.TASKS else None for task in tasks]
    if modules[0] is not modules[1]:
        for path, task in zip((first, second), tasks, strict=True):
            if not task:
                _read_seeds(path, "recordings.csv")  # says what is lacking
        raise UserError(
            f"{first} is of {tasks[0]}, {second} is of {tasks[1]}: they predict different things."
        )
    if modules[0] is not None:
        tables = (_read_seeds(path, "predictions.csv") for path in (first, second))
        table, text = modules[0].compare(*tables, (first.name, second.name), settings.bootstrap_draws)
    else:
        one, two = (pd.concat(_read_seeds(path, "recordings.csv")) for path in (first, second))
        table = compare(one, two, draws=settings.bootstrap_draws)
        text = format_comparison(table, first.name, second.name)
    print(text)
    name = "--".join(path.name.replace("*", "all") for path in (first, second))
    path = settings.results_dir / "comparisons" / f"{name}.csv"
    write_table(path, table)
    print(f"Written to {path}.")


def _folders(path: Path) -> list[Path]:
    """Return the folders of results that a path, perhaps with ``*``, names: a seed each."""
    return (sorted(path.parent.glob(path.name)) if "*" in path.name else [path]) or [path]


def _task_of_results(path: Path) -> str:
    """Return the task whose results a path names; empty where they do not say it."""
    file = _folders(path)[0] / "metrics.json"
    if not file.is_file():
        return ""
    content = json.loads(file.read_text(encoding="utf-8"))
    return str(content.get("run", {}).get("task", ""))


def _read_seeds(path: Path, name: str) -> list[pd.DataFrame]:
    """Return a table of each of the folders of results that a path names, with the column ``seed``."""
    tables: list[pd.DataFrame] = []
    for folder in _folders(path):
        file, task = folder / name, _task_of_results(folder)
        if not file.is_file() and task:
            raise UserError(
                f"{folder} has results of {task} without {name}, so --compare cannot take them: it compares "
                "runs that predict normal and abnormal, and runs of ecg-phenotypes."
            )
        if not file.is_file():
            raise UserError(f"There is no {file}: evaluate that run first, with evaluate.py --checkpoint.")
        text = dict.fromkeys(("recording", "session", "person", "database"), str)
        tables.append(pd.read_csv(file, dtype=text).assign(seed=len(tables)))
    return tables
