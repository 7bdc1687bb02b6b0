"""Judge a trained run from its checkpoints and the cache alone, again and again.

    python evaluate.py                                         # the newest run
    python evaluate.py --checkpoint checkpoints/<run>          # a run, all folds that are trained
    python evaluate.py --checkpoint checkpoints/<run>/fold_0/best.pt

Scores each beat and each recording (mean over its beats) on the test parts, with 95 % intervals that
count sessions, not beats, and writes predictions.csv, metrics.json, report.md and figures to results/<run>.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from common.errors import UserError
from common.script import run_script
from config import EvaluationSettings, read_settings, split_task, training_settings_from_plain
from datasets.cache import Cache, find_cache
from datasets.splits import ALL, assert_separated, fold_from_parts
from evaluation.report import evaluate_predictions, write_results
from evaluation.tables import format_table
from learning.checkpoint import file_digest, load_checkpoint
from learning.devices import choose_device, set_threads
from learning.loop import predict
from learning.runs import find_checkpoints
from tasks import TASKS


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate the run that the command line names; return its metrics."""
    _, rest = split_task(sys.argv[1:] if arguments is None else arguments)
    settings = read_settings(EvaluationSettings, rest, __doc__)
    set_threads(0)
    checkpoints = {
        path: load_checkpoint(path)
        for path in find_checkpoints(settings.checkpoint, settings.checkpoint_dir, settings.which)
    }
    first = next(iter(checkpoints.values()))
    cache = find_cache(settings.cache, settings.cache_dir, first["cache"]["identity"])
    refuse_unjudgeable(checkpoints, cache)
    folder = settings.results_dir / first["run"]
    print(
        f"Run {first['run']}: {len(checkpoints)} of {first['settings']['fold_count']} folds, "
        f"{settings.which} checkpoints, on {cache.path}."
    )
    if settings.dry_run:
        print(f"Would evaluate {', '.join(str(path) for path in checkpoints)} and write to {folder}.")
        return {}
    predictions = predict_folds(list(checkpoints.values()), cache, settings)
    metrics = evaluate_predictions(
        predictions,
        protocol=first["protocol"],
        threshold=settings.threshold,
        draws=settings.bootstrap_draws,
        stamp="simulated data" if cache.simulated else "",
    )
    metrics["run"] = {name: first[name] for name in ("run", "task", "settings", "cache", "provenance")} | {
        "checkpoints": {path.as_posix(): file_digest(path) for path in checkpoints}
    }
    print(f"\n{format_table(metrics)}\n")
    write_results(folder, predictions, metrics)
    print(f"Written to {folder}: predictions.csv, recordings.csv, metrics.json, report.md, figures.")
    return metrics


def refuse_unjudgeable(checkpoints: dict[Path, dict[str, Any]], cache: Cache) -> None:
    """Refuse checkpoints that are not of one run, of another cache, or that have no test part."""
    first = next(iter(checkpoints.values()))
    for path, content in checkpoints.items():
        if content["fold"] == ALL:
            raise UserError(
                f"{path} is a final fit on everything: no recording of this cache is left to judge it on. "
                "Evaluate the run's folds, trained without --folds none."
            )
        if content["cache"]["identity"] != cache.identity:
            raise UserError(
                f"{path} is from another cache ({content['cache']['identity'][:8]}) than {cache.path}: "
                "its test part is not known there. Leave --cache away, or name the right one."
            )
        if content["run"] != first["run"] or content["protocol"] != first["protocol"]:
            raise UserError(f"{path} belongs to run {content['run']}, the others to {first['run']}.")


def predict_folds(
    checkpoints: Sequence[dict[str, Any]], cache: Cache, settings: EvaluationSettings
) -> pd.DataFrame:
    """Return the predictions of each fold's network on the fold's own test part, one row a sample."""
    device = choose_device(settings.device)
    tables = []
    samples = None
    for content in checkpoints:
        trained = training_settings_from_plain(content["settings"])
        task = TASKS[content["task"]]
        samples = samples if samples is not None else task.samples(cache, trained, device)
        fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
        assert_separated(fold, cache.table("samples"), content["protocol"])
        model = task.build(trained).to(device)
        model.load_state_dict(content["model"])
        _, probability = predict(
            task,
            model,
            samples,
            torch.from_numpy(fold.test),
            batch_size=settings.batch_size,
            device=device,
            label=fold.name.replace("_", " "),
        )
        table = task.predictions(samples, fold.test, probability)
        tables.append(table.assign(fold=fold.number, threshold=content.get("threshold", 0.5)))
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    run_script(main)
