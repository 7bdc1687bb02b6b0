"""Judging single recordings with a trained model, by the task that its checkpoint names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError
from datasets.recording_paths import Place
from learning.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from learning.runs import find_checkpoints
from systems import registry
from systems.base.prediction_settings import PredictionSettings

SHIPPED = Path(__file__).parents[2] / "models" / "weights" / "ecg_pcg_linear.pt"
"""The small model that comes with the code."""


class Prediction(Protocol):
    """What a model says of one recording."""

    def metadata(self) -> dict[str, Any]:
        """Return it in plain types, all numbers finite.

        At least ``warnings``, and what the task's `Words` tell. Without such, ``probability``,
        ``assumed_prevalence``, ``prevalence``, ``probability_at_prevalence``, ``spread_over_beats``,
        ``signals_used``, ``duration``, ``beats``, ``beat_source``, ``models`` and ``models_trained_on_it``;
        None for what a task does not have.
        """
        ...

    def figure(self) -> Figure:
        """Return its figure."""
        ...


@dataclass(frozen=True)
class Words:
    """How the metadata of a task are told on the screen.

    Attributes
    ----------
    model, recording : callable
        From the metadata of the model, and of a recording that was judged, to lines of text.
    column : str
        Heading of the column that `short` fills in the table of several recordings.
    short : callable
        From the metadata of a recording that was judged to a few words.
    doubts : callable, optional
        From the metadata of a recording that was judged to its warnings and files, in place of predict.py's.
    table : callable, optional
        From all rows to the table of several, in place of the one that `column` and `short` make.
    """

    model: Callable[[dict[str, Any]], list[str]]
    recording: Callable[[dict[str, Any]], list[str]]
    column: str
    short: Callable[[dict[str, Any]], str]
    doubts: Callable[[dict[str, Any]], list[str]] | None = None
    table: Callable[[Sequence[dict[str, Any]]], list[str]] | None = None


def assumed_prevalence(checkpoints: Sequence[Checkpoint], *, balanced: bool) -> float | None:
    """Return the share of abnormal that the probabilities of a run assume; None if it cannot be told.

    A loss that weights both classes the same makes it one half, else it is that of the training parts.
    """
    if balanced:
        return BALANCED
    shares = [share for content in checkpoints if (share := content.get("label_share")) is not None]
    return float(np.mean(shares)) if len(shares) == len(checkpoints) else None


def at_share(share: float | None) -> str:
    """Return the words for a probability that holds at a prevalence."""
    return "" if share is None else f"  if {share:.4g} of those measured are abnormal"


class Predictor(Protocol):
    """A trained model of a task, ready for recordings."""

    def metadata(self) -> dict[str, Any]:
        """Return what the model is, in plain types.

        At least ``task``, ``model``, ``run`` and ``checkpoints``, and what the task's `Words` tell. Without
        such, ``trained_on``, ``assumed_prevalence`` and ``calibrated``.
        """
        ...

    def find(self, given: Iterable[Path]) -> list[Place]:
        """Return what there is to judge in the paths of the command line."""
        ...

    def predict(self, place: Place) -> Prediction:
        """Judge one recording, or say in a UserError why it cannot be judged."""
        ...


def open_predictor(settings: PredictionSettings) -> Predictor:
    """Return the predictor for the checkpoints that the settings name, made by their task's maker.

    Raises
    ------
    UserError
        If there are none, they cannot be read, or their task judges no single recordings yet.
    """
    paths = checkpoint_files(settings.checkpoint)
    checkpoints = {path: load_checkpoint(path) for path in paths}
    first = checkpoints[paths[0]]
    for path, content in checkpoints.items():
        if content.get("run") != first.get("run"):
            raise UserError(f"{path} belongs to run {content.get('run')}, {paths[0]} to {first.get('run')}.")
    task = str(first.get("task"))
    maker = registry.predictor(task) if task in registry.TASKS else None
    if maker is None:
        predicted = ", ".join(name for name in registry.TASKS if registry.predictor(name) is not None)
        raise UserError(
            f"{paths[0]} is a checkpoint of task {task}, for which single recordings cannot be judged yet: "
            f"predict.py takes checkpoints of {predicted}."
        )
    try:
        predictor: Predictor = maker(checkpoints, settings)
        return predictor
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {paths[0]} does not fit this version of the code ({reason}): "
            "use the version it was written with, or train again."
        ) from error


def task_of(settings: PredictionSettings) -> str:
    """Return the task of the checkpoint that the settings name."""
    return str(load_checkpoint(checkpoint_files(settings.checkpoint)[0]).get("task"))


def checkpoint_files(given: Path | None) -> list[Path]:
    """Return the files to use: the one given, the final fit in a run's folder, or else the run's folds."""
    if given is None:
        if not SHIPPED.is_file():
            raise UserError(
                f"The model that comes with the code is not at {SHIPPED.parent.name}/{SHIPPED.name}. Name "
                "another with --checkpoint: a run's folder under checkpoints/, or one file."
            )
        return [SHIPPED]
    final = given / "fold_all" / "best.pt"
    return [final] if final.is_file() else find_checkpoints(given, given.parent, "best")


BALANCED = 0.5
"""Share of abnormal that class weights make a model believe in."""
