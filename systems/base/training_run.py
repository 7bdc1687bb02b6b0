"""One call of training.py: what all its folds share, the training of each, and the estimate of --dry-run."""

from __future__ import annotations

import contextlib
import math
import resource
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import counted, flatten, path_option, to_plain
from common.errors import UserError
from common.files import replacing
from config import EvaluationSettings, RunSettings
from datasets.cache import Cache, describe_choice, find_cache
from datasets.sources import DataError
from datasets.splits import ALL, Fold, final_fold, make_folds, one_sided, splits_table
from evaluation.report import PROTOCOLS
from learning.checkpoint import BEST, LAST, load_checkpoint, provenance, save_checkpoint
from learning.devices import (
    choose_device,
    choose_layout,
    choose_precision,
    describe_machine,
    precision_note,
    set_threads,
)
from learning.distributed import Processes, process_group
from learning.loop import (
    FoldContext,
    Progress,
    Schedule,
    check_batch_size,
    make_optimizer,
    predict,
    train_one_epoch,
)
from learning.parallel_folds import (
    check_at_once,
    devices_at_once,
    fold_command,
    folds_beside,
    threads_each,
    train_at_once,
)
from learning.runs import (
    check_settings,
    differing_settings,
    is_begun,
    is_finished,
    lock_folder,
    lock_run,
    open_run,
    run_name,
    what_overwrite_deletes,
)
from learning.threads import ThreadChoice, thread_counts, trial_steps
from learning.tracking import Tracker
from models.layers.layout import set_layout
from systems.base.task import Task

_MATTERS = ("model.model", "protocol", "seed")
_MATTERS_TO_NETWORKS = ("optimization.learning_rate", "model.width", "model.points")
"""Settings that come first on the HPARAMS page, which shows five columns, by name, until more are chosen."""


@dataclass(frozen=True)
class TrainingRun:
    """What all folds of one call of training.py share."""

    task: Task
    cache: Cache
    samples: Any
    device: torch.device
    processes: Processes
    thread_counts: Sequence[int] = ()
    """CPU threads that its steps may take."""

    @property
    def settings(self) -> RunSettings:
        """Settings of training.py."""
        settings: RunSettings = self.task.settings
        return settings

    @property
    def name(self) -> str:
        """Name of the run."""
        return run_name(self.task.name, self.settings)

    @property
    def folder(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.settings.checkpoint_dir / self.name

    @property
    def log_folder(self) -> Path:
        """Folder of the run's curves."""
        return self.settings.log_dir / self.name

    def print(self, text: str) -> None:
        """Print, if this process leads."""
        if self.processes.leads:
            print(text, flush=True)


def train(task: Task, command: Sequence[str | Path]) -> Path:
    """Train the folds that the settings of a task name, or say what would be trained.

    Parameters
    ----------
    task : Task
        In the form of the run's settings.
    command : sequence
        training.py and what the user gave it, for the processes of folds that are trained in parallel.

    Returns
    -------
    pathlib.Path
        Folder of the checkpoints.
    """
    settings: RunSettings = task.settings
    if settings.at_once != 1:
        check_at_once(settings.at_once)
    set_threads(settings.threads)
    if settings.at_once > 1 and not settings.dry_run:
        return _train_parallel_folds(task, command)
    with process_group(settings.device) as processes:
        run, folds = _open(task, processes)
        if settings.dry_run:
            run.print(_estimate(run, folds))
            if settings.overwrite:
                names = [fold.name for fold in folds]
                run.print(what_overwrite_deletes(run.folder, run.log_folder, names, "Would delete"))
            return run.folder
        names = [fold.name for fold in folds]
        with lock_run(run.folder, names) if processes.leads else contextlib.nullcontext():
            if processes.leads:
                _open_folder(run, folds)
            processes.share(None)  # nobody reads the folder before it is ready
            for fold in folds:
                _train_fold(run, fold)
        cache_dir = run.cache.path.parent
        run.print(_what_next(run.folder, names, cache_dir, settings) if processes.leads else "")
        return run.folder


def _train_parallel_folds(task: Task, command: Sequence[str | Path]) -> Path:
    """Open the folder of the run, and train its folds in processes that are given the same words and more."""
    settings: RunSettings = task.settings
    count = settings.at_once
    devices = devices_at_once(settings.device, count)
    device = choose_device(settings.device)
    run, folds = _open(task, Processes(), torch.device("cpu"))
    with lock_run(run.folder, [fold.name for fold in folds]):
        _open_folder(run, folds)
    cache, log_folder, folder = run.cache.path, run.log_folder, run.folder
    del run  # the samples, which each process has of its own
    threads = [
        settings.threads if beside == 1 else threads_each(settings.threads, beside)
        for beside in folds_beside(len(folds), count)
    ]
    per = f"{counted(threads_each(settings.threads, count), 'CPU thread')} each"
    where = f"{', '.join(dict.fromkeys(devices))} and " if device.type == "cuda" else ""
    print(f"{count} folds at once, with {where}{per}.", flush=True)
    script, *words = map(str, command)
    commands = {
        fold.name: fold_command(
            Path(script), words, "none" if fold.number == ALL else str(fold.number), number, cache
        )
        for fold, number in zip(folds, threads, strict=True)
    }
    train_at_once(commands, devices, log_folder)
    print(_what_next(folder, list(commands), cache.parent, settings), flush=True)
    return folder


def _what_next(folder: Path, names: Sequence[str], cache_dir: Path, settings: RunSettings) -> str:
    """Return how well these folds of a trained run did, and what can be done with it."""
    scores = _over_folds(folder, names, settings)
    curves = f"\nCurves:   tensorboard --logdir {shlex.quote(str(settings.log_dir))}"
    evaluate = f"\nEvaluate: python evaluate.py --checkpoint {shlex.quote(str(folder))}"
    evaluate += path_option("cache-dir", cache_dir, EvaluationSettings.cache_dir)
    return (f"\n{scores}\n" if scores else "") + curves + ("" if settings.folds == "none" else evaluate)


# Opening a run --------------------------------------------------------------------------------------


def _open(
    task: Task, processes: Processes, samples_on: torch.device | None = None
) -> tuple[TrainingRun, list[Fold]]:
    """Open the cache, choose the folds and bring the samples to the device of the run, or another."""
    settings: RunSettings = task.settings
    device = choose_device(settings.device, processes.local_rank)
    cache = find_cache(settings.cache, settings.cache_dir, task=task.name)
    check_settings(
        settings.checkpoint_dir / run_name(task.name, settings), task.name, settings, cache.identity
    )
    counts = thread_counts(settings.threads) if _chooses_threads(settings, device, processes) else ()
    run = TrainingRun(task, cache, task.samples(cache, samples_on or device), device, processes, counts)
    folds = _choose_folds(run)
    run.print(
        f"Run {run.name}: preset {settings.preset}, protocol {settings.protocol}, "
        f"{counted(len(folds), 'fold')}, {counted(len(run.samples), 'sample')} from {cache.title} "
        f"({cache.path}), on {describe_machine(device)}."
    )
    choice = "" if settings.cache else describe_choice(cache, settings.cache_dir)
    note = one_sided(run.samples.table, folds, settings.protocol) if task.labelled else ""
    left_out = ", ".join(f"{fold.number} {fold.left_out}" for fold in folds if fold.left_out)
    left_out = f"Databases left out, by fold: {left_out}." if left_out else ""
    precision = precision_note(settings.precision, device)
    for line in (choice, left_out, "" if settings.folds == "none" else note, precision, task.note()):
        if line:
            run.print(line)
    return run, folds


def _chooses_threads(settings: RunSettings, device: torch.device, processes: Processes) -> bool:
    """Whether steps may take another number of CPU threads: compiled ones would be compiled again for it."""
    return device.type == "cpu" and processes.count == 1 and not settings.compile


def _choose_folds(run: TrainingRun) -> list[Fold]:
    """Return the folds to train, separated as the protocol promises."""
    settings, table = run.settings, run.samples.table
    if settings.folds == "none":
        return [final_fold(table)]
    share = settings.validation_share if run.task.selects else 0.0
    folds = make_folds(
        table,
        settings.protocol,
        settings.fold_count,
        share,
        settings.seed,
        labelled=run.task.labelled,
    )
    if settings.folds == "all":
        return folds
    unknown = sorted(set(settings.folds) - set(range(len(folds))))
    if unknown:
        raise DataError(
            f"There is no fold {unknown[0]}: --fold-count {len(folds)} numbers them 0 to {len(folds) - 1}."
        )
    return [folds[number] for number in dict.fromkeys(settings.folds)]


def _open_folder(run: TrainingRun, folds: Sequence[Fold]) -> None:
    """Make the folder of the run, or check that these folds may be trained into it; write ``splits.csv``.

    It holds the part of each sample in each fold of this run, earlier ones included.
    """
    names = [fold.name for fold in folds]
    path = run.folder / "splits.csv"
    with lock_folder(run.folder):
        open_run(run.folder, run.log_folder, run.task.name, run.settings, run.cache.identity, names)
        table = splits_table(run.samples.table, folds)
        if path.exists():
            earlier = pd.read_csv(path)
            kept = [name for name in earlier if name not in table and is_begun(run.folder, name)]
            table = table.join(earlier[kept])
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)


# One fold -------------------------------------------------------------------------------------------


def _train_fold(run: TrainingRun, fold: Fold) -> None:
    """Train one fold, find its threshold on the validation part, and log how it does on its test part."""
    folder, last = run.folder / fold.name, run.folder / fold.name / LAST
    if run.settings.resume and is_finished(folder):
        run.print(f"{fold.name} is finished already.")
        return
    context = _fold_context(run, fold, folder)
    model = _new_model(run)
    run.task.initialize(model, context)
    log_folder = run.log_folder / fold.name if run.processes.leads else None
    begun = run.task.has_epochs and last.exists()
    progress = Progress(**load_checkpoint(last)["progress"]) if begun else Progress()
    with Tracker(log_folder, progress.epoch, progress.step) as tracker:
        tracker.text("run", _run_text(run, fold))
        tracker.text("settings", to_plain(run.settings))
        if run.settings.graph and not begun:
            tracker.graph(run.task, model, context.samples.batch(context.train[:2]))
        run.task.fit(context, model, tracker, resume=run.settings.resume)
        if run.processes.leads:
            _finish_fold(run, fold, context, model, tracker)
    run.processes.share(None)


def _finish_fold(
    run: TrainingRun, fold: Fold, context: FoldContext, model: nn.Module, tracker: Tracker
) -> None:
    """Load the weights to keep, store threshold and test scores beside them, and log scores and figures."""
    best = load_checkpoint(context.folder / BEST)
    model.load_state_dict(best["model"])
    task, samples, epoch = run.task, run.samples, best["progress"]["epoch"]
    found: dict[str, Any] = {}

    def probability(part: NDArray[np.int64], label: str) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(part)
        _, predictions = predict(
            task,
            model,
            samples,
            rows,
            batch_size=4 * context.optimization.batch_size,
            device=run.device,
            precision=context.precision,
            label=label,
        )
        return rows, predictions

    threshold = task.inner_threshold(context)
    if threshold is None and len(fold.validation) and run.settings.protocol != "paper":
        threshold = task.threshold(samples, *probability(fold.validation, "validation"))
    if threshold is None and not (task.selects or task.has_epochs):
        run.print(_inner_note(samples.table.iloc[fold.train], fold))
    if len(fold.test):
        rows, predictions = probability(fold.test, "test")
        found["test"] = task.test_scores(samples, rows, predictions)
        by_tag = {f"test/{name}": value for name, value in found["test"].items() if not math.isnan(value)}
        tracker.scalars(by_tag, epoch)
        tracker.hyperparameters(_hyperparameters(run, fold), by_tag)
        run.print(f"{context.label}  test: {_scores_text(found['test'])}  ({_protocol_text(run.settings)})")
        for tag, figure in task.figures(model, samples, rows, predictions).items():
            tracker.figure(tag, figure, epoch)
    found |= {"threshold": 0.5 if threshold is None else threshold, **task.extras(model, context)}
    save_checkpoint(context.folder / BEST, {**best, **found})


def _run_text(run: TrainingRun, fold: Fold) -> str:
    """Return what a fold learns from what, as a Markdown table."""
    table, settings = run.samples.table, run.settings
    parts = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    counts = (f"{len(set(table['recording'].iloc[rows]))} in {part}" for part, rows in parts.items())
    rows = {
        "data": f"{'SIMULATED: ' * run.cache.simulated}{run.cache.manifest['source']}, {run.cache.path.name}",
        "task": run.task.name,
        "model": settings.variant(),
        "protocol": f"{settings.protocol}: {PROTOCOLS[settings.protocol]}",
        "left out": fold.left_out,
        "recordings": ", ".join(counts),
        "seed": str(settings.seed),
    }
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    )


def _hyperparameters(run: TrainingRun, fold: Fold) -> dict[str, Any]:
    """Return what tells runs apart: what matters most, then all else that is no default."""
    chosen, usual = (flatten(to_plain(each)) for each in (run.settings, type(run.settings)()))
    first = [*_MATTERS, *(_MATTERS_TO_NETWORKS if run.task.has_epochs else ())]
    found = {name.rpartition(".")[2]: chosen[name] for name in first if name in chosen}
    found |= {"run.data": run.cache.path.name, "run.fold": fold.number, "run.task": run.task.name}
    found |= {"run.left_out": fold.left_out} if fold.left_out else {}
    changed = differing_settings(usual, chosen) if run.task.has_epochs else []
    return found | {f"settings.{name}": value for name, _, value in changed if name not in first}


def _scores_text(scores: Mapping[str, float], deviations: Mapping[str, float] | None = None) -> str:
    """Return AUROC by unit, or all scores of a task without one; with deviations over folds if given."""
    shown = {name: value for name, value in scores.items() if name.endswith("/auroc")} or scores
    texts = []
    for name, value in shown.items():
        unit, _, score = name.partition("/")
        text = "not defined (one class)" if math.isnan(value) else f"{value:.3f}"
        spread = (deviations or {}).get(name, math.nan)
        label = "AUROC" if score == "auroc" else score.replace("_", " ")
        texts.append(f"{unit} {label} {text}{'' if math.isnan(spread) else f' ± {spread:.3f}'}")
    return ", ".join(texts)


def _protocol_text(settings: RunSettings) -> str:
    """Return the protocol, and what must be said of it."""
    return f"protocol {settings.protocol}{', selected on test' * (settings.protocol == 'paper')}"


def _over_folds(folder: Path, names: Sequence[str], settings: RunSettings) -> str:
    """Return mean and deviation of the test scores of some finished folds; nothing of fewer than two."""
    found = [
        content["test"] for name in names if "test" in (content := load_checkpoint(folder / name / BEST))
    ]
    if len(found) < 2:
        return ""
    table = pd.DataFrame(found)
    text = _scores_text(table.mean().to_dict(), table.std().to_dict())
    return f"Test, mean ± standard deviation of {len(found)} folds: {text}  ({_protocol_text(settings)})"


def _inner_note(learned: pd.DataFrame, fold: Fold) -> str:
    """Return why a model without epochs chose nothing on inner folds, and what holds instead."""
    counts = learned.groupby("label")["session"].nunique()
    which = " and ".join(f"{number} of label {label}" for label, number in counts.items())
    return (
        f"Note: {fold.title} learns from too few sessions for inner folds ({which}): what would be chosen on "
        "them stays as it is, the threshold at 0.5."
    )


def _new_model(run: TrainingRun) -> nn.Module:
    """Return the network with the initial weights of the run's seed."""
    torch.manual_seed(run.settings.seed)
    try:
        model = run.task.build(run.task.inputs(run.samples)).to(run.device)
    except ValueError as error:
        raise UserError(f"Such a network cannot be built: {error}") from None
    set_layout(model, choose_layout(run.settings.layout, model, run.device))
    return model


def _fold_context(run: TrainingRun, fold: Fold, folder: Path) -> FoldContext:
    """Return what the loop needs for one fold."""
    settings = run.settings
    learned = run.task.limited(run.samples, fold)
    precision = _precision(run, fold, folder)
    return FoldContext(
        learner=run.task,
        samples=run.task.for_fold(run.samples, learned),
        train=torch.from_numpy(learned.train),
        validation=torch.from_numpy(fold.validation),
        optimization=settings.optimization,
        seed=settings.seed,
        device=run.device,
        precision=precision,
        processes=run.processes,
        folder=folder,
        metadata=_metadata(run, fold) | {"precision": str(precision).removeprefix("torch.")},
        label=fold.title.replace("_", " ", 1),
        compiles=settings.compile,
        compile_mode=settings.compile_mode,
        histograms=settings.histograms,
        thread_counts=run.thread_counts,
    )


def _precision(run: TrainingRun, fold: Fold, folder: Path) -> torch.dtype:
    """Return what a fold is computed in: what was chosen where it was begun, unless this device cannot."""
    settings = run.settings
    here = choose_precision(settings.precision, run.device)
    if settings.precision != "auto" or not (settings.resume and (folder / LAST).exists()):
        return here
    begun = load_checkpoint(folder / LAST).get("precision")
    if begun == "float32":
        return torch.float32
    if begun == "bfloat16" and here == torch.float32:
        run.print(
            f"Note: {fold.title} was begun in bfloat16, which this machine does not compute well: it goes on "
            "in float32, and not exactly as it would have there."
        )
    return here


def _metadata(run: TrainingRun, fold: Fold) -> dict[str, Any]:
    """Return what a checkpoint stores of where it comes from: fields of `learning.checkpoint.Checkpoint`."""
    table = run.samples.table
    learned = table.iloc[np.union1d(fold.train, fold.validation)]
    content = run.cache.table("recordings")
    return {
        "task": run.task.name,
        "run": run.name,
        "fold": fold.number,
        "protocol": run.settings.protocol,
        "settings": to_plain(run.settings),
        "inputs": run.task.inputs(run.samples),
        "label_share": float(learned["label"].mean()),
        "parts": torch.from_numpy(fold.parts(len(table))),
        "trained_on": {
            "session": sorted(learned["session"].unique().tolist()),
            "recording": sorted(learned["recording"].unique().tolist()),
            **({"database": sorted(learned["database"].unique())} if "database" in learned else {}),
            "content": content[content["recording"].isin(learned["recording"])]["sha256"].tolist(),
        },
        "cache": run.cache.describe(),
        "provenance": provenance(),
        "parents": run.task.describe_parents(fold.number),
    }


# --dry-run ------------------------------------------------------------------------------------------


def _estimate(run: TrainingRun, folds: Sequence[Fold]) -> str:
    """Return what a real call would do, from a few steps that are timed and thrown away."""
    if not run.task.has_epochs:
        what = counted(len(folds), "fold")
        return f"Would fit {what} into {run.folder}, {run.task.fit_time}. Nothing was written."
    size = run.settings.optimization.batch_size
    with tempfile.TemporaryDirectory() as nowhere:
        context = _fold_context(run, folds[0], Path(nowhere))
    check_batch_size(context)
    steps = context.steps_per_epoch
    warm_up = replace(context, train=context.train[: max(4, trial_steps(context.thread_counts)) * size])
    few = replace(context, train=context.train[: 4 * size])
    model = _new_model(run)
    run.task.initialize(model, context)
    optimizer = make_optimizer(model, context.optimization, run.task.parameter_groups(model))
    schedule = Schedule(optimizer, replace(context.optimization, schedule="constant"), steps)
    threads, progress = ThreadChoice(context.thread_counts), Progress()
    for part in (warm_up, few):
        started = time.perf_counter()
        train_one_epoch(part, model, optimizer, schedule, progress, Tracker(None), threads)
        seconds = (time.perf_counter() - started) / few.steps_per_epoch * steps
    epochs = context.optimization.epochs
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if run.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(run.device) / 2**30
    parameters = sum(weight.numel() for weight in model.parameters())
    return (
        f"Would train {', '.join(fold.name for fold in folds)} into {run.folder}: "
        f"{parameters:,} parameters, {counted(steps, 'step')} of {counted(size, 'sample')} an epoch, "
        f"about {seconds:.0f} s an epoch; "
        f"at most {counted(epochs, 'epoch')} a fold, {seconds * epochs * len(folds) / 60:.0f} min in all; "
        f"{memory:.1f} GB of memory. Nothing was written."
    )
