"""TensorBoard and a CSV log, the same in every fold; nothing is written where a process does not lead.

``train/...`` and ``val/...`` have a point an epoch, and ``step/...`` one a step of the optimizer.
``test/...`` has one at the end, by what is scored (``test/beat/auroc``, ``test/recording/auroc``).
``log.csv`` has a row for each epoch.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tensorboard.compat.proto.event_pb2 import Event

    from learning.loop import Learner

LOG = "log.csv"
_EPOCH = "epoch"
_EVENTS, _KEPT = "events.out.tfevents.*", "events.out.tfevents.0000000000.finished"
"""Event files, and the one that a resumed run begins with: TensorBoard reads them in the order of names."""
_STEP, _TEST = "step/", "test/"
"""Tags whose points are counted in steps, and those that are written anew when a fold ends."""


class Tracker:
    """Writes curves, figures and text of one fold.

    Parameters
    ----------
    folder : pathlib.Path or None
        Folder of the event files and of ``log.csv``; None writes nothing.
    finished_epochs, finished_steps : int
        What a resumed run keeps; what the stopped run wrote after that is removed.
    """

    def __init__(self, folder: Path | None, finished_epochs: int = 0, finished_steps: int = 0) -> None:
        self._writer, self._log = None, None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # half a second, and predictions write no curve

            _keep_events(folder, finished_epochs, finished_steps)
            self._log = folder / LOG
            self._columns = _keep_rows(self._log, finished_epochs)
            self._writer = SummaryWriter(str(folder), flush_secs=10)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each named curve; NaN (a score that does not exist) is left out."""
        if self._writer is not None:
            for tag, value in values.items():
                if value == value:
                    self._writer.add_scalar(tag, value, step)

    def epoch_scalars(self, values: Mapping[str, float], number: int) -> None:
        """Add what an epoch gave to the curves, and as a row to the log."""
        self.scalars(values, number)
        if self._log is None:
            return
        row = {_EPOCH: number, **values}
        first, self._columns = not self._columns, self._columns or list(row)
        with self._log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            if first:
                writer.writeheader()
            writer.writerow(row)

    def step_scalars(self, values: Mapping[str, Sequence[float]], last: int) -> None:
        """Add a point a step to the curves ``step/<name>``; the last value is that of step ``last``."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        steps = list(zip(*values.values(), strict=True))
        for step, row in enumerate(steps, last + 1 - len(steps)):
            points = [
                Summary.Value(tag=f"{_STEP}{name}", simple_value=value)
                for name, value in zip(values, row, strict=True)
            ]
            self._writer._get_file_writer().add_summary(Summary(value=points), step)

    def histograms(self, model: nn.Module, step: int) -> None:
        """Add a histogram of each weight, and of its gradient where it has one."""
        if self._writer is None:
            return
        for name, weight in model.named_parameters():
            for group, values in (("weights", weight.detach()), ("gradients", weight.grad)):
                if values is not None and values.isfinite().all():
                    self._writer.add_histogram(f"{group}/{name}", values.float().cpu(), step)

    def graph(self, learner: Learner, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        """Add the graph of a network's predictions for a batch."""
        if self._writer is None:
            return
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of tracing: values that it takes for constants
            traced = _Predictions(learner, model, list(batch)).eval()
            self._writer.add_graph(traced, tuple(batch.values()), use_strict_trace=False)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Add a matplotlib figure."""
        if self._writer is not None:
            self._writer.add_figure(tag, figure, step)

    def text(self, tag: str, content: str | Mapping[str, Any]) -> None:
        """Add Markdown, or settings as indented text."""
        if self._writer is not None:
            if not isinstance(content, str):
                content = "    " + json.dumps(content, indent=2).replace("\n", "\n    ")
            self._writer.add_text(tag, content)

    def hyperparameters(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Add a row to the HPARAMS page: settings that are not empty, and the curves of the final scores."""
        if self._writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in settings.items()
            if value not in (None, "", [], ())
        }
        for summary in hparams(plain, dict(scores)):  # add_hparams would make a second run of the fold
            self._writer._get_file_writer().add_summary(summary)


class _Predictions(nn.Module):
    """What a learner predicts, as a function of the tensors of a batch."""

    def __init__(self, learner: Learner, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.learner, self.model, self.names = learner, model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Map the tensors of a batch to predictions, shape (B, ...)."""
        return self.learner.step(self.model, dict(zip(self.names, tensors, strict=True)))[1]


def _keep_events(folder: Path, epochs: int, steps: int) -> None:
    """Make one event file of those in a folder, with the points of so many epochs and steps.

    TensorBoard's own way, to purge from a step on, knows one count for all tags.
    """
    files = sorted(folder.glob(_EVENTS))
    if not files:
        return
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.summary.writer.record_writer import RecordWriter

    with replacing(folder / _KEPT) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in (event for path in files for event in LegacyEventFileLoader(str(path)).Load()):
            if _is_kept(event, epochs, steps):
                writer.write(event.SerializeToString())
    for path in files:
        if path.name != _KEPT:
            path.unlink()


def _is_kept(event: Event, epochs: int, steps: int) -> bool:
    """Whether an event belongs to what is finished; texts and final scores are written anew."""
    tags = [value.tag for value in event.summary.value]
    if not tags or not event.step:
        return not tags
    by_step = tags[0].startswith(_STEP)
    return not tags[0].startswith(_TEST) and event.step <= (steps if by_step else epochs)


def _keep_rows(log: Path, epochs: int) -> list[str]:
    """Cut a log to so many epochs, and return its columns; remove it where no row is left."""
    kept, columns = [], []
    if log.is_file():
        with log.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            kept = [row for row in reader if None not in row.values() and int(row[_EPOCH]) <= epochs]
            columns = list(reader.fieldnames or ())
    if not kept:
        log.unlink(missing_ok=True)
        return []
    with replacing(log) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)
    return columns
