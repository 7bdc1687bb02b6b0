"""The training loop that all tasks share.

An epoch's order and its random numbers (dropout, augmentation) come from the seed and the number of the
epoch alone, so a run continued from the last finished epoch is the run that was never stopped.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from tqdm import tqdm

from common.errors import UserError
from config import OptimizationSettings
from learning.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from learning.devices import autocast
from learning.distributed import Processes
from learning.threads import ThreadChoice
from learning.tracking import Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLATEAU_IMPROVEMENT = 1e-4
"""Decrease of the validation loss that the plateau schedule calls better."""
_CHECK_EVERY = 20
"""Steps between two looks at the loss (reading it waits for the device)."""
COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True)
class Samples:
    """Samples of a task, read by row.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a sample, with ``recording``, ``session`` and ``label``.
    """

    table: pd.DataFrame

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.table)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the samples of these rows (int64, on any device) as a batch on the device of the samples."""
        raise NotImplementedError

    def describe(self, rows: Tensor) -> str:
        """Name the recordings of these rows, for an error message."""
        return f"recordings {', '.join(sorted(self.table['recording'].iloc[rows.cpu().numpy()].unique()))}"


def class_weights(label: Tensor, rows: np.ndarray) -> Tensor:
    """Return the weight of each sample: n / (2 n_class) of its class, counted on these rows only."""
    counts = torch.bincount(label[torch.from_numpy(rows).to(label.device)], minlength=2)
    return (counts.sum() / (2 * counts.clamp(min=1)))[label]


class Learner:
    """What the loop takes from a task."""

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return mean losses by name (``loss`` is minimized) and the predictions, shape (B, ...).

        Each name gets curves, ``train/<name>`` and ``val/<name>``.
        """
        raise NotImplementedError

    def score(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return scores of the predictions for these rows, for the curves."""
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return groups of parameters with learning rates of their own, or None: all alike."""
        return None

    def after_backward(self, model: nn.Module, losses: Mapping[str, Tensor], processes: Processes) -> None:
        """Change gradients before they are clipped, in all processes alike."""

    def epoch_figures(self, model: nn.Module, run: FoldContext, epoch: int) -> Mapping[str, Figure]:
        """Return figures by tag of what the model does after an epoch (from 1), without drawing at random."""
        return {}


@dataclass
class Progress:
    """How far a fold has come; stored in its checkpoints.

    Attributes
    ----------
    epoch, step : int
        Finished epochs, and steps taken.
    best_loss : float
        Lowest validation loss so far.
    best_epoch, stale : int
        Epoch (from 1) that had it, and epochs since.
    finished : bool
    threads : int
        CPU threads that its steps took last; 0: as set.
    """

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    threads: int = 0


@dataclass(frozen=True)
class FoldContext:
    """All that one fold is trained with.

    Attributes
    ----------
    learner, samples : Learner, Samples
    train, validation : torch.Tensor of int64
        Rows to learn from, and to validate and select on (may be empty).
    optimization : OptimizationSettings
    seed : int
    device, precision : torch.device, torch.dtype
    processes : Processes
    folder : pathlib.Path
        Where the fold's checkpoints are written.
    metadata : mapping
        Plain metadata stored in every checkpoint: settings, parts, provenance.
    label : str
        What the progress bar says.
    compiles : bool
        Whether the steps of training are compiled.
    compile_mode : str
        What `torch.compile` aims at.
    histograms : bool
        Whether histograms of the weights are drawn every epoch.
    thread_counts : sequence of int
        Numbers of CPU threads that steps may take; empty: as set.
    """

    learner: Learner
    samples: Any
    train: Tensor
    validation: Tensor
    optimization: OptimizationSettings
    seed: int
    device: torch.device
    precision: torch.dtype
    processes: Processes
    folder: Path
    metadata: Mapping[str, Any]
    label: str
    compiles: bool = False
    compile_mode: str = "default"
    histograms: bool = False
    thread_counts: Sequence[int] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; a last batch that is not full may count, if every process gets two samples."""
        full, rest = divmod(len(self.train), self.optimization.batch_size)
        counts = not self.optimization.drop_last and rest >= 2 * self.processes.count
        return max(1, full + counts)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of the steps of one epoch."""
        return min(self.steps_per_epoch * self.optimization.batch_size, len(self.train))


class NonFiniteLossError(UserError):
    """The loss became infinite or not a number."""


def fit(run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
    """Train one fold to its end, writing ``last.pt`` after every epoch and ``best.pt`` when it is better.

    Parameters
    ----------
    run : FoldContext
    model : torch.nn.Module
        On the device of the run; trained in place.
    tracker : Tracker
    resume : bool
        Continue from ``last.pt`` where there is one.

    Raises
    ------
    NonFiniteLossError
        Naming the recordings of the batch.
    """
    check_batch_size(run)
    optimizer = make_optimizer(model, run.optimization, run.learner.parameter_groups(model))
    schedule = Schedule(optimizer, run.optimization, run.steps_per_epoch)
    progress = Progress()
    if resume and (run.folder / LAST).exists():
        progress = _restore(run, model, optimizer, schedule)
    wrapped = run.processes.wrap(model, run.device)
    wrapped = compiled(wrapped, run.device, run.compile_mode) if run.compiles else wrapped
    threads = ThreadChoice(run.thread_counts, progress.threads)
    while not progress.finished:
        scores = train_one_epoch(run, wrapped, optimizer, schedule, progress, tracker, threads)
        progress.threads = threads.chosen
        scores |= run.processes.share(_validate(run, unwrap(wrapped)))
        better = _early_stopping(run, progress, scores)
        rate = optimizer.param_groups[0]["lr"]
        schedule.after_epoch(scores.get("val/loss", scores["train/loss"]))
        if run.processes.leads:
            tracker.epoch_scalars(scores | {"learning_rate": rate}, progress.epoch)
            for tag, figure in run.learner.epoch_figures(unwrap(wrapped), run, progress.epoch).items():
                tracker.figure(tag, figure, progress.epoch)
            if run.histograms:
                tracker.histograms(unwrap(wrapped), progress.epoch)
            tqdm.write(_epoch_line(run, progress, scores))
            _save(run, unwrap(wrapped), optimizer, schedule, progress, better)
    return progress


def make_optimizer(
    model: nn.Module, settings: OptimizationSettings, groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer of all trainable weights.

    Parameters
    ----------
    model : torch.nn.Module
    settings : OptimizationSettings
    groups : list of dict, optional
        Parameters in groups with a learning rate ``lr`` and a ``weight_decay`` each; default: all alike.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    weights: Any = groups or trainable
    return kinds[settings.optimizer](
        weights,
        lr=settings.learning_rate,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=settings.fused or None,
    )


class Schedule:
    """The learning rate over time, whether it moves by steps, by epochs, or not at all.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    settings : OptimizationSettings
    steps_per_epoch : int
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: OptimizationSettings, steps_per_epoch: int
    ) -> None:
        self._scheduler: LRScheduler
        if settings.schedule == "one-cycle":
            total = settings.epochs * steps_per_epoch
            peaks = [group["lr"] for group in optimizer.param_groups]
            self._scheduler = OneCycleLR(optimizer, max_lr=peaks, total_steps=total)
        elif settings.schedule == "plateau":
            # torch waits for one bad epoch more than its patience; Keras, and the paper, do not
            self._scheduler = ReduceLROnPlateau(
                optimizer,
                factor=0.1,
                patience=max(settings.plateau_patience - 1, 0),
                threshold=_PLATEAU_IMPROVEMENT,
                threshold_mode="abs",
                min_lr=settings.plateau_floor,
            )
        else:
            self._scheduler = LambdaLR(optimizer, lambda _: 1.0)

    def after_step(self) -> None:
        """Move on after an optimizer step."""
        if isinstance(self._scheduler, OneCycleLR):
            self._scheduler.step()

    def after_epoch(self, loss: float) -> None:
        """Move on after an epoch that ended with this (validation) loss."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)

    def state_dict(self) -> dict[str, object]:
        """Return the state as plain types."""
        return {
            key: value
            for key, value in self._scheduler.state_dict().items()
            if isinstance(value, int | float | str | bool | list)
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` returned."""
        self._scheduler.load_state_dict(state)


def compiled(model: nn.Module, device: torch.device, mode: str = "default") -> nn.Module:
    """Return the model with its forward and backward pass compiled at the first step.

    The weights are those of ``model``; `unwrap` returns it.

    Raises
    ------
    UserError
        If the compiler is missing.
    """
    compilers = [name for name in (os.environ.get("CXX"), *COMPILERS) if name and shutil.which(name)]
    if device.type == "cpu" and not compilers:
        raise UserError("--compile needs a C++ compiler such as g++: install one, or go without.")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("--compile on CUDA needs Triton: pip install triton, or go without.")
    return cast(nn.Module, torch.compile(model, mode=mode))


def uncompiled(model: nn.Module) -> nn.Module:
    """Return what `compiled` was given."""
    return getattr(model, "_orig_mod", model)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `Processes.wrap` and `compiled`."""
    model = uncompiled(model)
    return model.module if isinstance(model, DistributedDataParallel) else model


def check_batch_size(run: FoldContext) -> None:
    """Refuse a batch that cannot be made, or cannot be shared out over the processes."""
    size, count = run.optimization.batch_size, run.processes.count
    if size < 1 or size % count:
        raise UserError(
            f"--batch-size {size} cannot be shared by {count} processes: choose a multiple of {count}."
        )
    if len(run.train) < 2:
        raise UserError(f"{run.label} has {len(run.train)} training samples; prepare more data.")


def train_one_epoch(
    run: FoldContext,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    progress: Progress,
    tracker: Tracker,
    threads: ThreadChoice,
) -> dict[str, float]:
    """Take the steps of one epoch and return its scores (``train/loss``, ..., ``samples_per_second``)."""
    _seed_epoch(run, progress.epoch)
    model.train()
    whole = min(run.optimization.batch_size, len(run.train)) // run.processes.count
    rows, losses, predictions, norms, rates, parts = [], [], [], [], [], []
    bar = tqdm(
        _batches(run, progress.epoch),
        total=run.steps_per_epoch,
        desc=f"{run.label} epoch {progress.epoch + 1}/{run.optimization.epochs}",
        unit="step",
        leave=False,
        disable=not run.processes.leads,
    )
    started = time.perf_counter()
    for batch_rows in bar:
        rates.append(float(optimizer.param_groups[0]["lr"]))
        # a last batch of another size would be compiled anew, for any size: many minutes, and slower steps
        network = model if len(batch_rows) == whole else uncompiled(model)
        with threads.step(progress.step):
            loss, predicted, norm, other = train_step(run, network, optimizer, batch_rows)
        schedule.after_step()
        progress.step += 1
        rows.append(batch_rows)
        losses.append(loss)
        predictions.append(predicted)
        norms.append(norm)
        parts.append(other)
        if len(losses) % _CHECK_EVERY == 0 or len(losses) == run.steps_per_epoch:
            recent = _read_finite(run, rows, losses, norms)
            tracker.step_scalars(recent | {"learning_rate": rates[-len(recent["loss"]) :]}, progress.step)
            rate = len(losses) * run.optimization.batch_size / (time.perf_counter() - started)
            bar.set_postfix_str(f"loss {recent['loss'][-1]:.3f}, {rate:.0f} samples/s")
    seconds = time.perf_counter() - started
    scores = run.learner.score(run.samples, torch.cat(rows).cpu(), torch.cat(predictions).float().cpu())
    scores |= _means(parts, run.processes)
    return {f"train/{name}": value for name, value in scores.items()} | {
        "train/loss": float(run.processes.mean(torch.stack(losses).mean())),
        "gradient_norm": float(torch.stack(norms).mean()),
        "samples_per_second": run.samples_per_epoch / seconds,
    }


def train_step(
    run: FoldContext, model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Learn from the samples of some rows.

    Returns
    -------
    loss, predictions, norm, others : torch.Tensor, torch.Tensor, torch.Tensor, dict of str to torch.Tensor
        Norm is that of the gradient; others are what the learner names beside the loss. All detached.
    """
    with autocast(run.device, run.precision):
        losses, predicted = run.learner.step(model, run.samples.batch(rows))
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    run.learner.after_backward(model, losses, run.processes)
    norm = clip_gradient(model, run.optimization)
    optimizer.step()
    found = {name: value.detach() for name, value in losses.items()}
    return found.pop("loss"), predicted.detach(), norm, found


def _means(parts: list[dict[str, Tensor]], processes: Processes) -> dict[str, float]:
    """Return the mean over steps and processes of each loss by name."""
    if not parts[0]:
        return {}
    values = torch.stack([torch.stack(list(part.values())).float() for part in parts]).mean(dim=0)
    return dict(zip(parts[0], processes.mean(values).tolist(), strict=True))


def clip_gradient(model: nn.Module, settings: OptimizationSettings) -> Tensor:
    """Clip the gradient as the settings say; return its norm before that, over all weights."""
    largest = settings.gradient_clip or math.inf
    if settings.clip == "all":
        return nn.utils.clip_grad_norm_(model.parameters(), largest)
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    norm = nn.utils.get_total_norm([cast(Tensor, weight.grad) for weight in weights])
    for weight in weights:
        nn.utils.clip_grad_norm_(weight, largest)
    return norm


def _seed_epoch(run: FoldContext, epoch: int) -> None:
    """Set the random numbers of an epoch; processes differ, so that their dropout does."""
    torch.manual_seed((run.seed * 10_007 + epoch) * 1_009 + run.processes.rank)


def _batches(run: FoldContext, epoch: int) -> Iterator[Tensor]:
    """Yield this process's rows of each batch of an epoch, in an order set by seed and epoch.

    They lie on the device of the run, where all of them are copied at once.
    """
    generator = torch.Generator().manual_seed(run.seed * 10_007 + epoch)
    order = run.train[torch.randperm(len(run.train), generator=generator)].to(run.device)
    size = run.optimization.batch_size
    for step in range(run.steps_per_epoch):
        yield order[step * size : (step + 1) * size][run.processes.rank :: run.processes.count]


def _read_finite(
    run: FoldContext, rows: list[Tensor], losses: list[Tensor], norms: list[Tensor]
) -> dict[str, list[float]]:
    """Return loss and norm of the gradient of the steps since the last call, read from the device at once.

    They are of this process's share of the batches. Stop at the first that is not a finite number, and name
    the recordings.
    """
    count = (len(losses) - 1) % _CHECK_EVERY + 1
    recent = torch.stack([torch.stack(losses[-count:]).float(), torch.stack(norms[-count:]).float()]).cpu()
    finite = torch.isfinite(recent).all(dim=0)
    if finite.all():
        return dict(zip(("loss", "gradient_norm"), recent.tolist(), strict=True))
    first = len(losses) - len(finite) + int((~finite).nonzero()[0])
    raise NonFiniteLossError(
        f"{run.label}: the loss is {float(losses[first])} and the norm of its gradient "
        f"{float(norms[first])} at step {first + 1} of the epoch. "
        f"The batch came from {run.samples.describe(rows[first])}. "
        "Look at these recordings, or lower --learning-rate; the last finished epoch is saved."
    )


@torch.no_grad()
def predict(
    learner: Learner,
    model: nn.Module,
    samples: Samples,
    rows: Tensor,
    *,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    label: str = "",
) -> tuple[dict[str, float], Tensor]:
    """Return the mean of each loss by name, and the predictions (on the CPU), for some rows.

    A bar shows if labelled.
    """
    model.eval()
    total: dict[str, Tensor] = {}
    predictions = []
    chunks = rows.to(device).split(batch_size)
    for chunk in tqdm(chunks, desc=label, unit="batch", leave=False, disable=not label):
        with autocast(device, precision):
            losses, predicted = learner.step(model, samples.batch(chunk))
        for name, value in losses.items():
            total[name] = total.get(name, 0.0) + value.float() * len(chunk)
        predictions.append(predicted.float())
    return {name: float(value) / len(rows) for name, value in total.items()}, torch.cat(predictions).cpu()


def _validate(run: FoldContext, model: nn.Module) -> dict[str, float]:
    """Return the scores on the validation part, computed by the leading process."""
    if not len(run.validation) or not run.processes.leads:
        return {}
    losses, predictions = predict(
        run.learner,
        model,
        run.samples,
        run.validation,
        batch_size=4 * run.optimization.batch_size,
        device=run.device,
        precision=run.precision,
    )
    scores = run.learner.score(run.samples, run.validation, predictions) | losses
    return {f"val/{name}": value for name, value in scores.items()}


def _early_stopping(run: FoldContext, progress: Progress, scores: dict[str, float]) -> bool:
    """Count the epoch; return whether it is the one to keep. Without early stopping the last one is."""
    settings = run.optimization
    progress.epoch += 1
    progress.history.append(scores)
    selects = settings.early_stop > 0 and "val/loss" in scores
    better = not selects or scores["val/loss"] < progress.best_loss - settings.least_improvement
    if better:
        progress.best_loss = scores.get("val/loss", math.inf)
        progress.best_epoch, progress.stale = progress.epoch, 0
    else:
        progress.stale += 1
    stops = selects and progress.stale >= settings.early_stop
    progress.finished = stops or progress.epoch >= settings.epochs
    return better and (selects or progress.finished)


def _epoch_line(run: FoldContext, progress: Progress, scores: Mapping[str, float]) -> str:
    """Return the line that stays on the screen after an epoch."""
    parts = [f"{run.label}  epoch {progress.epoch:3d}/{run.optimization.epochs}"]
    for tag, name in (("train/loss", "loss"), ("val/loss", "val loss"), ("val/auroc", "val AUROC")):
        if tag in scores and scores[tag] == scores[tag]:
            parts.append(f"{name} {scores[tag]:.3f}")
    return "  ".join([*parts, f"{scores['samples_per_second']:.0f} samples/s"])


def _save(
    run: FoldContext,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    progress: Progress,
    better: bool,
) -> None:
    """Write ``last.pt`` with all that a resumed run needs, and ``best.pt`` with the weights to use."""
    weights = {"model": model.state_dict(), "progress": dataclasses.asdict(progress), **run.metadata}
    if better:
        save_checkpoint(run.folder / BEST, weights)
    learned = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    save_checkpoint(run.folder / LAST, weights | learned)


def save_finished(run: FoldContext, model: nn.Module) -> Progress:
    """Write the checkpoints of a model that was fitted without epochs."""
    progress = Progress(epoch=1, best_epoch=1, finished=True)
    if run.processes.leads:
        content = {"model": model.state_dict(), "progress": dataclasses.asdict(progress), **run.metadata}
        for name in (BEST, LAST):
            save_checkpoint(run.folder / name, content)
    return progress


def _restore(
    run: FoldContext, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule
) -> Progress:
    """Load ``last.pt`` into model, optimizer and schedule; return how far it had come."""
    content = load_checkpoint(run.folder / LAST)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    return Progress(**content["progress"])
