"""Evaluate a trained run from its checkpoints and a cache alone, as often as needed.

    python evaluate.py                                         # the newest run
    python evaluate.py --checkpoint checkpoints/<run>          # a run, all folds that are trained
    python evaluate.py --checkpoint checkpoints/<run>/fold_0/best.pt
    python evaluate.py --checkpoint checkpoints/<run> --cache data/cache/<other>    # external test
    python evaluate.py --compare results/RUN_A results/RUN_B   # two runs, paired
    python evaluate.py --checkpoint checkpoints/<run> --stress # under noise, clipping, shifts, lower rates
    python evaluate.py --list                                  # the caches and runs that there are
    python evaluate.py --audit                                 # the data and the splits themselves
    python evaluate.py ecg-to-cmr --help                       # options of another task

Scores each beat and each recording (mean over its beats) on the test parts, with 95 % intervals that
count sessions, not beats, and writes predictions.csv, metrics.json, figures, and a report to read
(report.html, report.md) to results/<run>.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.command_line import named_early, read_settings, split_task
from common.errors import UserError
from common.script import run_script
from config import EvaluationSettings
from learning.runs import newest_run, task_of_run
from systems import registry


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Do what the command line names; return the metrics of a run that was evaluated."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    named, rest = split_task(given, registry.TASKS, "--checkpoint")
    named = named if given[:1] == [named] else ""
    if "--list" in rest:
        settings = read_settings(
            registry.evaluation_settings(named or next(iter(registry.TASKS))), rest, __doc__
        )
        print(registry.listing(settings.cache_dir, settings.checkpoint_dir))
        return {}
    task = choose_task(named, rest)
    registry.refuse_options_of_others(task, rest, registry.evaluation_settings)
    settings = read_settings(registry.evaluation_settings(task), rest, __doc__, more=registry.overview())
    from learning.devices import set_threads
    from systems.base import evaluation_run  # torch and all that draws: not before, so that --help is quick

    set_threads(settings.threads)
    if getattr(settings, "audit", False):
        registry.module_of(task, "audit").audit_newest(settings)
        return {}
    if settings.compare is not None:
        evaluation_run.compare_results(*settings.compare, settings)
        return {}
    if named and settings.checkpoint is None:
        settings = replace(settings, checkpoint=newest_run(settings.checkpoint_dir, task))
    return evaluation_run.evaluate(settings)


def choose_task(word: str, options: Sequence[str]) -> str:
    """Return the task of the run that is evaluated, which has options of its own.

    Raises
    ------
    UserError
        If the word at the beginning names another task than the checkpoint's.
    """
    early = named_early(options, "checkpoint", "checkpoint_dir")
    if early["checkpoint"] is not None:
        found = task_of_run(Path(early["checkpoint"]))
        if word and found and found != word:
            raise UserError(f"{early['checkpoint']} is a run of {found}: write {found} in place of {word}.")
    elif word or {"--audit", "--compare"} & set(options):
        found = word
    else:
        folder = Path(early["checkpoint_dir"] or EvaluationSettings.checkpoint_dir)
        found = task_of_run(newest_run(folder)) if any(folder.glob("*/fold_*/best.pt")) else ""
    return found if found in registry.TASKS else word or next(iter(registry.TASKS))


if __name__ == "__main__":
    run_script(main)
