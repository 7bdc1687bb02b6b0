"""Predict for new recordings with a trained model: probability of abnormal, warnings, figure.

    python predict.py RECORDING                                # the small model that comes with the code
    python predict.py RECORDING --checkpoint checkpoints/<run> # a run: its final fit, or all its folds
    python predict.py sound.wav --ecg ecg.csv --ecg-rate 500   # a heart sound and the ECG recorded with it
    python predict.py FOLDER --out predicted                   # all in it, with a figure and metadata of each
    python predict.py RECORDING --prevalence 0.05 --json       # for programs
    python predict.py FOLDER --checkpoint checkpoints/<run of ecg-multimodal>    # patients
    python predict.py ECGS --checkpoint checkpoints/<run of ecg-to-cmr> --out generated --resume    # cines
    python predict.py --ecg ECG --checkpoint checkpoints/<run of ecg-phenotypes> --age 61 --sex female
    python predict.py ECGS --checkpoint checkpoints/<run of ecg-phenotypes> --patient-table pairs.csv

RECORDING is a WFDB record with ECG, heart sound (PCG) or both, a .wav heart sound, or a folder of these; for
a run of ecg-multimodal a folder of patients as load_data.py ecg-multimodal takes it, without labels.
The probability is one for a share of abnormal that the model assumes; --prevalence brings it to yours.
Runs of ecg-phenotypes take twelve-lead ECGs (WFDB records, .npy in millivolts, folders of these) and estimate
what a cardiac MRI would show, with intervals that covered the true value for 90 in 100 validation patients.
Each task has options of its own: --checkpoint RUN --help lists those of a run, --help those of ecg-pcg.
A recording that cannot be used is refused, with the reason. Exit status: 0 all were predicted, 1 some were
not, 2 none was (or the command is wrong). Research software, not a medical device: nothing it prints is a
diagnosis.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.command_line import named_early, read_settings
from common.errors import UserError
from common.script import run_script
from learning.runs import task_of_run
from systems import registry


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Predict for what the command line names; return the metadata of each recording."""
    options = list(sys.argv[1:] if arguments is None else arguments)
    task = choose_task(named_early(options, "checkpoint")["checkpoint"])
    registry.refuse_options_of_others(task, options, registry.prediction_settings)
    more = f"Tasks whose runs it takes: {', '.join(registry.tasks_with('predict'))}."
    settings = read_settings(registry.prediction_settings(task), options, __doc__, more=more)
    from learning.devices import set_threads
    from systems.base.predictor import open_predictor  # torch and all that draws: not before --help

    set_threads(settings.threads)
    with contextlib.redirect_stdout(sys.stderr) if settings.json else contextlib.nullcontext():
        predictor = open_predictor(settings)
        paths = predictor.find()
        bar = tqdm(paths, desc="Predicting", unit="recording", leave=False, disable=len(paths) < 2)
        rows = [predictor.row(path) for path in bar]
    if settings.json:
        print(json.dumps(predictor.document(rows), indent=2, allow_nan=False))
    else:
        print("\n".join(predictor.text(rows)))
    _exit_with_status(rows)
    return rows


def choose_task(checkpoint: str | None) -> str:
    """Return the task of a run, by default that of the model that comes with the code; it has the options.

    Raises
    ------
    UserError
        If its models predict nothing for single recordings.
    """
    task = "" if checkpoint is None else task_of_run(Path(checkpoint))
    if task and not registry.tasks_with("predict", [task]):
        raise UserError(
            f"{checkpoint} is of task {task}, which has no prediction for single recordings: predict.py "
            f"takes runs of {', '.join(registry.tasks_with('predict'))}."
        )
    return task or next(iter(registry.TASKS))


def _exit_with_status(rows: Sequence[dict[str, Any]]) -> None:
    """Exit with status 1 if some recordings were refused; with an error, and so status 2, if all were."""
    reasons = [f"{row['recording']}: {row['reason']}" for row in rows if "reason" in row]
    if len(reasons) == len(rows):
        others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UserError(f"No prediction{others} for {reasons[0]}")
    if reasons:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
