"""TensorBoard: the same tags in every fold, so that curves overlay; nothing where a process does not lead."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter


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


def _wait_for_a_later_second(folder: Path) -> None:
    """Wait until a new event file sorts behind those of the folder.

    TensorBoard reads a folder's event files in the order of their names, which start with the whole second of
    their creation: two writers within one second may be read in the wrong order, and the purge with them.
    """
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.05)
