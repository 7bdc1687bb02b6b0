"""Judge a trained run from its checkpoints and a cache alone, again and again.

    python evaluate.py                                         # the newest run
    python evaluate.py --checkpoint checkpoints/<run>          # a run, all folds that are trained
    python evaluate.py --checkpoint checkpoints/<run>/fold_0/best.pt
    python evaluate.py --checkpoint checkpoints/<run> --cache data/cache/<other>    # external test
    python evaluate.py --compare results/RUN_A results/RUN_B   # two runs, paired
    python evaluate.py --checkpoint checkpoints/<run> --stress # under noise, clipping, shifts, lower rates
    python evaluate.py --audit                                 # the data and the splits themselves

Scores each beat and each recording (mean over its beats) on the test parts, with 95 % intervals that
count sessions, not beats, and writes predictions.csv, metrics.json, figures, and a report to read
(report.html, report.md) to results/<run>.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.command_line import read_settings, split_task
from common.errors import UserError
from common.files import write_table
from common.script import run_script
from config import TASK_NAMES, EvaluationSettings
from datasets.cache import Cache, find_cache
from datasets.splits import ALL
from evaluation.comparison import compare, format_comparison
from evaluation.html_report import write_html_report
from learning.checkpoint import changed_data, changed_since, file_digest, load_checkpoint
from learning.devices import set_threads
from learning.runs import differing_settings, find_checkpoints
from systems import JUDGE
from systems.base.evaluation_run import EvaluationRun
from systems.ecg_pcg.audit import audit_data, audit_failed, format_audit
from systems.ecg_pcg.robustness.evaluate import stress_run
from systems.ecg_pcg.settings import TrainingSettings

PLACES = ("cache", "cache_dir", "checkpoint_dir", "log_dir")
"""Settings that say where files lie on one machine, and so do not belong into results."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Do what the command line names; return the metrics of a run that was judged."""
    _, rest = split_task(sys.argv[1:] if arguments is None else arguments, TASK_NAMES)
    settings = read_settings(EvaluationSettings, rest, __doc__)
    set_threads(settings.threads)
    if settings.audit:
        audit_cache(settings)
        return {}
    if settings.compare is not None:
        compare_results(*settings.compare, settings)
        return {}
    return judge(settings)


def judge(settings: EvaluationSettings) -> dict[str, Any]:
    """Evaluate one run, write its results and return its metrics."""
    paths = find_checkpoints(settings.checkpoint, settings.checkpoint_dir, settings.which)
    checkpoints = {path: load_checkpoint(path) for path in paths}
    first = next(iter(checkpoints.values()))
    cache = find_cache(settings.cache, settings.cache_dir, first["cache"]["identity"])
    external = cache.identity != first["cache"]["identity"]
    refuse_unjudgeable(checkpoints, external)
    folder = results_folder(first["run"], cache, external, settings)
    print(
        f"Run {first['run']}: {len(checkpoints)} of {first['settings']['fold_count']} folds, "
        f"{settings.which} checkpoints, on {cache.path}{' (external test)' * external}."
    )
    if settings.dry_run:
        print(f"Would evaluate {', '.join(str(path) for path in paths)} and write to {folder}.")
        return {}
    metadata = {name: first[name] for name in ("run", "task", "cache", "provenance")} | {
        "settings": {key: value for key, value in first["settings"].items() if key not in PLACES},
        "checkpoints": {f"{path.parent.name}/{path.name}": file_digest(path) for path in checkpoints},
        "changed": what_changed(list(checkpoints.values()), cache),
    }
    run = EvaluationRun(list(checkpoints.values()), cache, settings, external, folder, metadata)
    for line in metadata["changed"]:
        print(line)
    if settings.stress:
        return judge_stressed(run)
    metrics, written = JUDGE[first["task"]](run)
    if not settings.compact:
        written.append(write_html_report(folder, metrics, written))
    names = dict.fromkeys("figures" if path.suffix == ".png" else path.name for path in written)
    print(f"Written to {folder}: {', '.join(names)}.")
    return metrics


def what_changed(checkpoints: list[dict[str, Any]], cache: Cache) -> list[str]:
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


def judge_stressed(run: EvaluationRun) -> dict[str, Any]:
    """Judge a run on ever worse signals, and print and write the table; there are no metrics to return."""
    task = run.metadata["task"]
    if task != "ecg-pcg":
        raise UserError(f"--stress is for runs of ecg-pcg, and this one is of {task}.")
    table = stress_run(run.checkpoints, run.cache, run.settings)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    write_table(run.folder / "stress.csv", table)
    print(f"Written to {run.folder / 'stress.csv'}.")
    return {}


def refuse_unjudgeable(checkpoints: dict[Path, dict[str, Any]], external: bool) -> None:
    """Refuse checkpoints that are not of one run, or that have no test part."""
    first = next(iter(checkpoints.values()))
    for path, content in checkpoints.items():
        if content["fold"] == ALL and not external:
            raise UserError(
                f"{path} is a final fit on everything: no recording of this cache is left to judge it on. "
                "Evaluate the run's folds, trained without --folds none, or name another --cache."
            )
        if content["run"] != first["run"] or content["protocol"] != first["protocol"]:
            raise UserError(f"{path} belongs to run {content['run']}, the others to {first['run']}.")


def results_folder(run: str, cache: Cache, external: bool, settings: EvaluationSettings) -> Path:
    """Return the folder of results: the run's, and what is particular to this way of judging it."""
    hidden = f"-without-{settings.without}" if settings.without != "nothing" else ""
    elsewhere = f"-on-{cache.path.name}" if external else ""
    return settings.results_dir / f"{run}{hidden}{elsewhere}"


def compare_results(first: Path, second: Path, settings: EvaluationSettings) -> None:
    """Print the paired comparison of two runs, of one or several seeds, and write it to the results."""
    table = compare(read_seeds(first), read_seeds(second), draws=settings.bootstrap_draws)
    print(format_comparison(table, first.name, second.name))
    name = "--".join(place.name.replace("*", "all") for place in (first, second))
    path = settings.results_dir / "comparisons" / f"{name}.csv"
    write_table(path, table)
    print(f"Written to {path}.")


def read_seeds(place: Path) -> pd.DataFrame:
    """Return the recordings of the folders of results that a path, perhaps with ``*``, names: a seed each."""
    folders = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    tables: list[pd.DataFrame] = []
    for folder in folders or [place]:
        path = folder / "recordings.csv"
        if not path.is_file():
            raise UserError(f"There is no {path}: evaluate that run first, with evaluate.py --checkpoint.")
        text = dict.fromkeys(("recording", "session", "person"), str)
        tables.append(pd.read_csv(path, dtype=text).assign(seed=len(tables)))
    return pd.concat(tables, ignore_index=True)


def audit_cache(settings: EvaluationSettings) -> None:
    """Print and write the audit of a cache; leave with status 1 if a promise is broken."""
    cache = find_cache(settings.cache, settings.cache_dir)
    default = TrainingSettings()
    report = audit_data(cache, default.fold_count, default.validation_share, default.seed)
    print(format_audit(report))
    path = settings.results_dir / f"audit-{cache.path.name}.csv"
    write_table(path, report.table())
    print(f"Written to {path}.")
    if audit_failed(report):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
