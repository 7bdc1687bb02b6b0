"""What is learned from what: the questions that every task answers, with the answers most of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.errors import UserError
from config import RunSettings
from datasets.cache import Cache
from datasets.splits import Fold
from evaluation.scores import aggregate, best_threshold, binary_scores, mean_auroc
from learning.checkpoint import Checkpoint
from learning.loop import FoldContext, Learner, Progress, fit
from learning.tracking import Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARRIED = ("sample", "recording", "session", "person")
"""Columns of the sample table that every table of predictions keeps."""
BINARY_CARRIED = (*CARRIED, "label", "diagnosis", "site", "start", "end")
"""Those that the table of predictions of normal and abnormal keeps."""
_CURVES = ("accuracy", "auroc", "sensitivity", "specificity")


class Task(Learner):
    """One task in the form that the settings of a run give it.

    Parameters
    ----------
    settings : RunSettings, optional
        Of the run; default: those of the class as they are.
    """

    name: ClassVar[str]
    """The word that a user types."""
    settings_class: ClassVar[type[RunSettings]]
    """Class of the settings of training.py."""
    selects: ClassVar[bool] = True
    """Whether a validation part is of use."""
    has_epochs: ClassVar[bool] = True
    """Whether it is trained by the shared loop."""
    labelled: ClassVar[bool] = True
    """Whether the samples are normal or abnormal, and folds must hold both."""
    sample_unit: ClassVar[str] = "recording"
    """What one sample is, in the names of scores: a beat or a recording."""
    fit_time: ClassVar[str] = ""
    """What ``--dry-run`` says of the time a fold takes that has no epochs."""

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.settings_class() if settings is None else settings

    @property
    def balanced(self) -> bool:
        """Whether both classes weigh the same in what is minimized."""
        return bool(self.settings.optimization.class_weights)

    @classmethod
    def create(cls, settings: Any) -> Task:
        """Return the task for the settings of a run; a system chooses a subclass here by its model."""
        return cls(settings)

    def note(self) -> str:
        """Return what a user should know of how the run begins; empty if nothing."""
        return ""

    # Samples and network

    def samples(self, cache: Cache, device: torch.device) -> Any:
        """Return all samples of a cache, on a device."""
        raise NotImplementedError

    def for_fold(self, samples: Any, fold: Fold) -> Any:
        """Return the samples with what is fitted on the fold's training part."""
        return samples

    def limited(self, samples: Any, fold: Fold) -> Fold:
        """Return the fold with the part of its training samples that is learned from."""
        return fold

    def without(self, samples: Any, modality: str) -> Any:
        """Return the samples without one modality.

        Raises
        ------
        UserError
            If the model cannot do without it.
        """
        raise UserError(f"A run of {self.name} cannot do without what it reads: leave --without away.")

    def inputs(self, samples: Any) -> dict[str, Any]:
        """Return what a model must know of its inputs beside the settings, in plain types."""
        return {}

    def with_inputs(self, samples: Any, inputs: Mapping[str, Any]) -> Any:
        """Return the samples of another cache as a model of these inputs takes them."""
        return samples

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return a new model for such inputs."""
        raise NotImplementedError

    def load_model(self, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
        """Return the model of a checkpoint with its weights, on a device."""
        model = self.build(checkpoint.get("inputs", {})).to(device)
        model.load_state_dict(checkpoint["model"])
        return model

    # Training of one fold

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Set what a model takes from its training part, or from other runs, before the first step."""

    def describe_parents(self, fold: int) -> list[dict[str, Any]]:
        """Return what the checkpoint of a fold stores of the runs that it started from."""
        return []

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Train one fold, by default in the shared loop."""
        return fit(run, model, tracker, resume=resume)

    def threshold(self, samples: Any, rows: Tensor, predictions: Tensor) -> float:
        """Return the threshold that is best on these (validation) samples; 0.5 where none is needed."""
        return 0.5

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return a threshold found inside the training part; None: the validation part gives it."""
        return None

    def extras(self, model: nn.Module, run: FoldContext) -> dict[str, Any]:
        """Return what the checkpoint stores beside threshold and weights."""
        return {}

    # Evaluation

    def test_scores(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores of the test part as ``<unit>/<name>``, the unit being what is scored."""
        scores = self.score(samples, rows, predictions)
        return {f"{self.sample_unit}/{name}": value for name, value in scores.items()}

    def predictions(self, samples: Any, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions that evaluation reads, one row a sample."""
        raise NotImplementedError

    def figures(self, model: nn.Module, samples: Any, rows: Tensor, probability: Tensor) -> dict[str, Figure]:
        """Return figures of the test part for TensorBoard, by tag."""
        return {}


class BinaryTask(Task):
    """A task whose samples are normal or abnormal: scores, threshold and table of predictions."""

    def score(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores of some samples at threshold 0.5, for the curves.

        Under protocol ``database`` the AUROC is the mean over databases, which differ in their share of
        abnormal.
        """
        table, probability = samples.table.iloc[rows.numpy()], predictions.numpy()
        scores = _curves(table["label"].to_numpy(), probability)
        if self.settings.protocol == "database":
            scores["auroc"] = mean_auroc(table["label"], probability, table["database"].to_numpy())
        return scores

    def test_scores(self, samples: Any, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores of the test part by sample, and by recording where that is something else."""
        found = super().test_scores(samples, rows, predictions)
        if self.sample_unit == "recording":
            return found
        table = self.predictions(samples, rows.numpy(), predictions).assign(fold=0, threshold=0.5)
        units = aggregate(table)
        scores = _curves(units["label"].to_numpy(), units["probability"].to_numpy())
        return found | {f"recording/{name}": value for name, value in scores.items()}

    def threshold(self, samples: Any, rows: Tensor, predictions: Tensor) -> float:
        """Return the threshold that is best on these (validation) samples."""
        return best_threshold(samples.table["label"].to_numpy()[rows.numpy()], predictions.numpy())

    def predictions(self, samples: Any, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions that evaluation reads, one row a sample."""
        table = samples.table.iloc[rows][list(BINARY_CARRIED)].reset_index(drop=True)
        return table.assign(probability=probability.numpy().astype(np.float64))


def _curves(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return the scores that have a curve."""
    scores = binary_scores(label, probability)
    return {name: scores[name] for name in _CURVES}
