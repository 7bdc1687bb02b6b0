"""TensorBoard: the same tags in every fold, so that curves overlay; nothing where a process does not lead."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from learning.loop import Learner


class Tracker:
    """Writes curves, figures and text of one fold.

    Parameters
    ----------
    folder : pathlib.Path or None
        Folder of the event files; None writes nothing.
    finished_epochs : int
        Epochs that a resumed run keeps; later points of the stopped run are purged.
    """

    def __init__(self, folder: Path | None, finished_epochs: int = 0) -> None:
        self._writer = None
        if folder is not None:
            purge = finished_epochs + 1 if finished_epochs else None
            _wait_for_a_later_second(folder)
            self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

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

    def text(self, tag: str, content: Mapping[str, Any]) -> None:
        """Add settings as indented text."""
        if self._writer is not None:
            self._writer.add_text(tag, "    " + json.dumps(content, indent=2).replace("\n", "\n    "))

    def hyperparameters(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Add a row to the HPARAMS page: flat settings and the final scores."""
        if self._writer is None:
            return
        plain = {
            key: value if isinstance(value, int | float | str | bool) else str(value)
            for key, value in settings.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._writer.add_hparams(plain, dict(scores), run_name="hparams")


class _Predictions(nn.Module):
    """What a learner predicts, as a function of the tensors of a batch."""

    def __init__(self, learner: Learner, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.learner, self.model, self.names = learner, model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Map the tensors of a batch to predictions, shape (B, ...)."""
        return self.learner.step(self.model, dict(zip(self.names, tensors, strict=True)))[1]


def _wait_for_a_later_second(folder: Path) -> None:
    """Wait until a new event file sorts behind those of the folder.

    TensorBoard reads a folder's event files in the order of their names, which start with the whole second of
    their creation: two writers within one second may be read in the wrong order, and the purge with them.
    """
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)
