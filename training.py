"""Train a model, fold by fold, from a prepared cache.

    python training.py                              # PACFNet, sessions kept apart, all five folds
    python training.py --protocol paper --folds 0   # the published protocol, first fold
    python training.py --folds none                 # one final fit on everything, nothing to judge it on
    python training.py --resume                     # go on after a stop, exactly
    python training.py --at-once 5                  # five folds beside each other, on one GPU or several
    python training.py --dry-run                    # how long would it take, in how much memory
    torchrun --nproc-per-node 2 training.py         # two processes, one model
    python training.py ecg-multimodal --help        # another task, with settings of its own

Curves: tensorboard --logdir runs. Then: python evaluate.py --checkpoint checkpoints/<run>.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import read_preset_settings, split_task, to_plain
from common.script import run_script
from config import TASK_NAMES, RunSettings
from datasets.splits import ALL, Fold
from learning.checkpoint import BEST, load_checkpoint, save_checkpoint
from learning.devices import choose_device, set_threads
from learning.distributed import Processes, together
from learning.fold import FoldContext, Progress
from learning.loop import check_batch_size, predict, train_one_epoch
from learning.optimization import Schedule, make_optimizer
from learning.parallel_folds import (
    check_at_once,
    devices_at_once,
    fold_words,
    python,
    threads_each,
    train_at_once,
)
from learning.runs import flatten, is_finished, lock_run
from learning.tracking import Tracker
from systems import TASKS, find_task
from systems.base.training_run import Session, fold_context, new_model, open_folder, open_session


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the folds that the command line names; return the folder of their checkpoints."""
    task_name, rest = split_task(sys.argv[1:] if arguments is None else arguments, TASK_NAMES)
    settings = read_preset_settings(rest, __doc__, TASKS[task_name].defaults, resolve_preset)
    check_at_once(settings.at_once)
    set_threads(settings.threads)
    if settings.at_once > 1 and not settings.dry_run:
        return train_side_by_side([task_name, *rest], settings)
    with together(settings.device) as processes:
        session, folds = open_session(find_task(task_name, settings), settings, processes)
        if settings.dry_run:
            session.say(estimate(session, folds))
            return session.folder
        names = [fold.name for fold in folds]
        with lock_run(session.folder, names) if processes.leads else contextlib.nullcontext():
            train_folds(session, folds)
        session.say(what_next(session.folder, settings))
        return session.folder


def train_side_by_side(words: Sequence[str], settings: RunSettings) -> Path:
    """Open the folder of the run, and train its folds in processes that are given the same words and more."""
    count = settings.at_once
    devices, threads = devices_at_once(settings.device, count), threads_each(settings.threads, count)
    device = choose_device(settings.device)
    session, folds = open_session(find_task(words[0], settings), settings, Processes(), torch.device("cpu"))
    names = {fold.name: "none" if fold.number == ALL else str(fold.number) for fold in folds}
    with lock_run(session.folder, list(names)):
        open_folder(session, folds)
    cache, log_folder, folder = session.cache.path, session.log_folder, session.folder
    del session  # the samples, which each process has of its own
    per = f"{threads} CPU thread{'s' * (threads != 1)} each"
    where = f"{', '.join(dict.fromkeys(devices))} and " if device.type == "cuda" else ""
    print(f"{count} folds at once, with {where}{per}.", flush=True)

    def command(fold: str, place: int) -> list[str]:
        given = fold_words(names[fold], threads, devices[place], cache)
        return python(Path(__file__).resolve(), *words, *given)

    commands = {name: partial(command, name) for name in names}
    train_at_once(commands, count, log_folder, partial(print, flush=True))
    print(what_next(folder, settings), flush=True)
    return folder


def what_next(folder: Path, settings: RunSettings) -> str:
    """Return what can be done with a trained run."""
    curves = f"\nCurves:   tensorboard --logdir {settings.log_dir}"
    judge = f"\nJudge it: python evaluate.py --checkpoint {folder}"
    return curves + ("" if settings.folds == "none" else judge)


def resolve_preset(preset: str, device: str) -> Literal["paper", "small"]:
    """Return the preset that auto stands for on this machine."""
    if preset == "auto":
        return "paper" if choose_device(device).type == "cuda" else "small"
    return "paper" if preset == "paper" else "small"


def train_folds(session: Session, folds: Sequence[Fold]) -> None:
    """Open the folder of the run and train its folds, one after the other."""
    if session.processes.leads:
        open_folder(session, folds)
    session.processes.share(None)  # nobody reads the folder before it is ready
    for fold in folds:
        train_fold(session, fold)


def train_fold(session: Session, fold: Fold) -> None:
    """Train one fold, find its threshold on the validation part, and log how it does on its test part."""
    folder = session.folder / fold.name
    if session.settings.resume and is_finished(folder):
        session.say(f"{fold.name} is finished already.")
        return
    run = fold_context(session, fold, folder)
    model = new_model(session)
    session.task.initialize(model, run)
    log_folder = session.log_folder / fold.name if session.processes.leads else None
    with Tracker(log_folder, finished_epochs=finished_epochs(folder)) as tracker:
        tracker.text("settings", to_plain(session.settings))
        session.task.fit(run, model, tracker, resume=session.settings.resume)
        if session.processes.leads:
            finish_fold(session, fold, run, model, tracker)
    session.processes.share(None)


def finished_epochs(folder: Path) -> int:
    """Return how many epochs a stopped fold has behind it."""
    last = folder / "last.pt"
    return load_checkpoint(last)["progress"]["epoch"] if last.exists() else 0


def finish_fold(session: Session, fold: Fold, run: FoldContext, model: nn.Module, tracker: Tracker) -> None:
    """Take the weights to keep, store the threshold beside them, and log test scores and figures."""
    best = load_checkpoint(run.folder / BEST)
    model.load_state_dict(best["model"])
    task, samples, epoch = session.task, session.samples, best["progress"]["epoch"]

    def probability(part: NDArray[np.int64], label: str) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(part)
        _, predictions = predict(
            task,
            model,
            samples,
            rows,
            batch_size=4 * run.optimization.batch_size,
            device=session.device,
            precision=run.precision,
            label=label,
        )
        return rows, predictions

    threshold = task.inner_threshold(run)
    if threshold is None and len(fold.validation) and session.settings.protocol != "paper":
        threshold = task.threshold(samples, *probability(fold.validation, "validation"))
    if len(fold.test):
        rows, predictions = probability(fold.test, "test")
        scores = task.score(samples, rows, predictions)
        named = {f"test/{name}": value for name, value in scores.items() if not math.isnan(value)}
        tracker.scalars(named, epoch)
        tracker.hyperparameters(flatten(to_plain(session.settings)), named)
        for tag, figure in task.figures(model, samples, rows, predictions, session.settings).items():
            tracker.figure(tag, figure, epoch)
    found = {"threshold": 0.5 if threshold is None else threshold} | task.remember(model, run)
    save_checkpoint(run.folder / BEST, best | found)


def estimate(session: Session, folds: Sequence[Fold]) -> str:
    """Return what a real call would do, from a few steps that are timed and thrown away."""
    if not session.task.has_epochs:
        return (
            f"Would fit {len(folds)} folds into {session.folder}, {session.task.fit_time}. "
            "Nothing was written."
        )
    size = session.settings.optimization.batch_size
    with tempfile.TemporaryDirectory() as nowhere:
        run = fold_context(session, folds[0], Path(nowhere))
    check_batch_size(run)
    steps = run.steps_per_epoch
    few = replace(run, train=run.train[: 4 * size])
    model = new_model(session)
    session.task.initialize(model, run)
    optimizer = make_optimizer(model, run.optimization, session.task.parameter_groups(model))
    schedule = Schedule(optimizer, replace(run.optimization, schedule="constant"), steps)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        train_one_epoch(few, model, optimizer, schedule, Progress(), Tracker(None))
        seconds = (time.perf_counter() - started) / few.steps_per_epoch * steps
    epochs = run.optimization.epochs
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if session.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(session.device) / 2**30
    parameters = sum(weight.numel() for weight in model.parameters())
    return (
        f"Would train {', '.join(fold.name for fold in folds)} into {session.folder}: "
        f"{parameters:,} parameters, {steps} steps of {size} samples an epoch, "
        f"about {seconds:.0f} s an epoch; "
        f"at most {epochs} epochs a fold, {seconds * epochs * len(folds) / 60:.0f} min in all; "
        f"{memory:.1f} GB of memory. Nothing was written."
    )


if __name__ == "__main__":
    run_script(main)
