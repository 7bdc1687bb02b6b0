"""What one fold is trained with, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from config import OptimizationSettings
from learning.distributed import Processes

Batch = dict[str, Tensor]


class SampleSet(Protocol):
    """Samples of a task, read by row."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def batch(self, rows: Tensor) -> Batch:
        """Return the samples of these rows (int64, on the CPU) as a batch on the set's device."""
        ...

    def describe(self, rows: Tensor) -> str:
        """Name the recordings or patients of these rows, for an error message."""
        ...


class Learner(Protocol):
    """What the loop asks of a task."""

    def step(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return named mean losses (``loss`` is minimized) and the predictions, shape (B, ...)."""
        ...

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return groups of parameters with learning rates of their own, or None: all alike."""
        ...

    def after_backward(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """Change gradients before they are clipped, if the task wants to."""
        ...

    def score(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return scores of the predictions for these rows, for the curves."""
        ...


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
    """

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class FoldContext:
    """All that one fold is trained with.

    Attributes
    ----------
    learner, samples : Learner, SampleSet
    train, validation : torch.Tensor of int64
        Rows to learn from, and to follow and select on (may be empty).
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

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; a last batch that is not full is left out (the order changes every epoch)."""
        return max(1, len(self.train) // self.optimization.batch_size)
