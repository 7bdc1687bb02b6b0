"""What tasks share that tell normal from abnormal: scores, thresholds, the table of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from config import RunSettings
from datasets.cache import Cache
from datasets.splits import Fold
from evaluation.scores import best_threshold, binary_scores
from learning.fold import FoldContext, Progress
from learning.loop import fit
from learning.tracking import Tracker

CURVES = ("accuracy", "auroc", "sensitivity", "specificity")
CARRIED = ("sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end")


class Task(Protocol):
    """What the scripts ask of a task; its sample sets have a ``table`` of one row a sample."""

    name: str
    selects: bool
    has_epochs: bool
    labelled: bool
    fit_time: str

    @property
    def settings(self) -> type[RunSettings]:
        """Class of the task's training settings."""
        ...

    def defaults(self, preset: Literal["paper", "small"], protocol: str) -> RunSettings:
        """Return the settings that a preset and a protocol (empty: the default one) stand for."""
        ...

    def samples(self, cache: Cache, settings: Any, device: torch.device) -> Any:
        """Return all samples of a cache, on a device."""
        ...

    def for_fold(self, samples: Any, fold: Fold, settings: Any) -> Any:
        """Return the samples with what is fitted on the fold's training part."""
        ...

    def inputs(self, samples: Any) -> dict[str, Any]:
        """Return what a model must know of its inputs, in plain types."""
        ...

    def aligned(self, samples: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the samples of another cache as a model of these inputs takes them."""
        ...

    def build(self, settings: Any, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for such inputs."""
        ...

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Set what a model takes from its training part before the first step."""
        ...

    def limited(self, samples: Any, fold: Fold, settings: Any) -> Fold:
        """Return the fold with the part of its training samples that is learned from."""
        ...

    def describe_parents(self) -> list[dict[str, Any]]:
        """Return what a checkpoint remembers of the runs that it started from."""
        ...

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return groups of parameters with learning rates of their own, or None."""
        ...

    def after_backward(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """Change gradients before they are clipped."""
        ...

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return named losses of a batch and its predictions."""
        ...

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Train one fold."""
        ...

    def score(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return scores for the curves."""
        ...

    def threshold(self, samples: Any, rows: Tensor, predictions: Tensor) -> float:
        """Return the threshold that is best on these (validation) samples."""
        ...

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return a threshold found inside the training part, or None."""
        ...

    def remember(self, model: nn.Module, run: FoldContext) -> dict[str, Any]:
        """Return what the checkpoint shall hold of how the kept weights did on the validation part."""
        ...

    def hide(self, samples: Any, modality: str, settings: Any) -> Any:
        """Return the samples without one signal, or say why the model needs it."""
        ...

    def predictions(self, samples: Any, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions that evaluation reads."""
        ...

    def figures(
        self, model: nn.Module, samples: Any, rows: Tensor, probability: Tensor, settings: Any
    ) -> dict[str, Figure]:
        """Return figures of the test part for TensorBoard."""
        ...


class BinaryTask:
    """Answers that do not depend on what a sample is."""

    selects = True
    """Whether a validation part is of use."""
    has_epochs = True
    """Whether it is trained by the shared loop."""
    labelled = True
    """Whether the samples are normal or abnormal, and folds must hold both."""
    fit_time = ""
    """What ``--dry-run`` says of the time a fold takes that has no epochs."""

    def inputs(self, samples: Any) -> dict[str, Any]:
        """Return nothing: the settings say all that the model must know."""
        return {}

    def aligned(self, samples: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the samples as they are."""
        return samples

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Leave the weights as the seed made them."""

    def limited(self, samples: Any, fold: Fold, settings: Any) -> Fold:
        """Return the fold as it is."""
        return fold

    def describe_parents(self) -> list[dict[str, Any]]:
        """Return nothing: the weights start at random."""
        return []

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return None: all parameters alike."""
        return None

    def after_backward(self, model: nn.Module, named: Mapping[str, Tensor]) -> None:
        """Leave the gradients as they are."""

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Train one fold in the shared loop."""
        return fit(run, model, tracker, resume=resume)

    def score(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores of some samples at threshold 0.5, for the curves."""
        label = samples.table["label"].to_numpy()[rows.numpy()]
        scores = binary_scores(label, predictions.numpy())
        return {name: scores[name] for name in CURVES}

    def threshold(self, samples: Any, rows: Tensor, predictions: Tensor) -> float:
        """Return the threshold that is best on these (validation) samples."""
        return best_threshold(samples.table["label"].to_numpy()[rows.numpy()], predictions.numpy())

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return None: the validation part has to give the threshold."""
        return None

    def remember(self, model: nn.Module, run: FoldContext) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def predictions(self, samples: Any, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions that evaluation reads, one row a sample."""
        table = samples.table.iloc[rows][list(CARRIED)].reset_index(drop=True)
        return table.assign(probability=probability.numpy().astype(np.float64))
