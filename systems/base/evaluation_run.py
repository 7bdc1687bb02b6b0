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
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import counted
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
from systems.base.parents import lineage
from systems.base.predictor import BALANCED_PREVALENCE, assumed_prevalence
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

    @property
    def assumed_prevalence(self) -> float | None:
        """Share of abnormal that the probabilities assume; None if the checkpoints do not state it."""
        return assumed_prevalence(self.checkpoints)

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
        """Return the model of one of the checkpoints with its weights, in evaluation."""
        return self.task.load_model(checkpoint, self.device).eval()


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
    contents = list(checkpoints.values())
    changes = _changes(contents, cache) + (_namesakes(contents, cache) if external else [])
    metadata = {
        "run": first["run"],
        "task": first["task"],
        "cache": first["cache"],
        "provenance": first["provenance"],
        "settings": {key: value for key, value in first["settings"].items() if key not in _LOCAL},
        "checkpoints": {f"{path.parent.name}/{path.name}": file_digest(path) for path in checkpoints},
        "changed": changes,
        "evaluated_on": {"title": cache.title, "folder": cache.path.name},
    }
    for line in changes:
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
    """Return a line for each unfinished fold, and each way in which folds, code or data differ."""
    now, first = cache.describe(), checkpoints[0]
    lines = []
    for content in checkpoints:
        if not content["progress"]["finished"] and "threshold" not in content:
            epochs = content["settings"]["optimization"]["epochs"]
            lines.append(
                f"Note: the weights of fold {content['fold']} are of epoch {_kept_epoch(content)} of at most "
                f"{epochs}: the fold is not finished, and training.py --resume goes on."
            )
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
    last = "-last" if settings.which == "last" else ""
    hidden = f"-without-{settings.without}" if settings.without != "nothing" else ""
    elsewhere = f"-on-{cache.path.name}" if external else ""
    return settings.results_dir / f"{run}{last}{hidden}{elsewhere}"


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
            f"{run.settings.which}.pt of {lacking[0]} holds no threshold of a validation part, as {BEST} of "
            "a finished fold does: finish the fold with --resume, or leave --threshold and --which away."
        )
    about: dict[str, Any] = {
        "protocol": run.protocol,
        "threshold": run.settings.threshold,
        "draws": run.settings.bootstrap_draws,
        "watermark": run.watermark,
        "scope": run.scope(predictions["recording"].nunique()),
    }
    if "database" in predictions:
        assumed = run.assumed_prevalence or BALANCED_PREVALENCE
        metrics = evaluate_databases(predictions, **about, assumed=assumed)
    else:
        metrics = evaluate_predictions(predictions, **about)
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


def _known_sessions(checkpoints: Sequence[Checkpoint], cache: Cache) -> set[str]:
    """Return the sessions of a cache of which a recording was trained on, known by its content.

    What the runs were trained on that these start from counts too.
    """
    content: set[str] = set().union(*(lineage(checkpoint, "content") for checkpoint in checkpoints))
    recordings = cache.table("recordings")
    return set(recordings.loc[recordings["sha256"].isin(content), "session"])


def _namesakes(checkpoints: Sequence[Checkpoint], cache: Cache) -> list[str]:
    """Return a line where sessions of another cache, of the same source, are named as some trained on."""
    if cache.manifest["source"] != checkpoints[0]["cache"]["source"]:
        return []
    learned: set[str] = set().union(*map(lineage, checkpoints))
    found = learned & set(cache.table("recordings")["session"]) - _known_sessions(checkpoints, cache)
    if not found:
        return []
    return [
        f"Note: {counted(len(found), 'session')} of this cache, {min(found)} among them, have the name of "
        "one that was trained on: if these are the same people, this is no test on others."
    ]


def unseen_rows(run: EvaluationRun) -> NDArray[np.int64]:
    """Return the samples of another cache that are left for an external test.

    What the models were trained on is left out, and with it all else of the same session: other recordings
    of these people.

    Raises
    ------
    UserError
        If none is left.
    """
    known = _known_sessions(run.checkpoints, run.cache)
    rows = np.flatnonzero(~run.samples.table["session"].isin(known))
    if not len(rows):
        raise UserError(
            f"Every recording of {run.cache.path} was trained on: none is left for an external test, to "
            "which no other of the same session belongs."
        )
    return rows


def one_model(run: EvaluationRun, why: str) -> None:
    """Refuse to evaluate several models on another cache whose predictions have no mean, and say why."""
    if run.external and len(run.checkpoints) > 1:
        raise UserError(
            f"{why}: on another cache this run is evaluated one fold at a time. Name a checkpoint, as in "
            "--checkpoint checkpoints/<run>/fold_0/best.pt."
        )


def _predict_external(run: EvaluationRun) -> pd.DataFrame:
    """Return predictions on recordings of another cache: the mean over the models of all folds.

    Where these are of several databases, the column ``database`` tells them apart.
    """
    rows = unseen_rows(run)
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
        try:
            table = compare(one, two, draws=settings.bootstrap_draws)
        except ValueError as error:
            raise UserError(f"{first} and {second} cannot be compared. {error}") from None
        text = format_comparison(table, first.name, second.name)
    print(text)
    name = "--".join(path.name.replace("*", "all") for path in (first, second))
    path = settings.results_dir / "comparisons" / f"{name}.csv"
    write_table(path, table)
    print(f"Written to {path}.")


def _folders(path: Path) -> list[Path]:
    """Return the folders of results that a path, perhaps with ``*``, names: a seed each.

    What else a run was evaluated for (its last weights, without a modality, another cache) is no seed of it:
    such folders are taken where the path ends as they do.
    """
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else []
    return [folder for folder in found if path.name.endswith(_particular(folder))] or [path]


def _particular(folder: Path) -> str:
    """Return the end of a folder's name that `_results_folder` adds to that of the run."""
    added = folder.name.removeprefix(str(_run_of_results(folder).get("run", "")))
    return added if added.startswith(("-last", "-without-", "-on-")) else ""


def _run_of_results(folder: Path) -> dict[str, Any]:
    """Return what results say of their run; nothing where they do not."""
    file = folder / "metrics.json"
    return dict(json.loads(file.read_text(encoding="utf-8")).get("run", {})) if file.is_file() else {}


def _task_of_results(path: Path) -> str:
    """Return the task whose results a path names; empty where they do not say it."""
    return str(_run_of_results(_folders(path)[0]).get("task", ""))


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
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""])  # "NA" may be a name
        table = table.fillna({"database": ""})
        tables.append(table.assign(seed=len(tables)))
    return tables
