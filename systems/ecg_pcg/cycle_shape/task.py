"""Task ``ecg-pcg`` with ``--model cycle-shape``: a heart sound, by the shape of its cycle.

Data     the grid of the heart sound (`systems.ecg_pcg.features.phase_grid`)
Model    `models.cycle_shape.CycleShape`
Fit      closed, a second a fold; databases and classes weigh alike
Scores   as for the linear model, one prediction a recording
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import nn

from datasets.cache import Cache
from evaluation.scores import best_threshold
from learning.loop import FoldContext, Progress, save_finished
from learning.tracking import Tracker
from models import build_model
from systems.ecg_pcg.cycle_shape.fit import fit_cycle_shape
from systems.ecg_pcg.linear.task import EcgPcgLinear, Recordings
from systems.ecg_pcg.settings import TrainingSettings


class EcgPcgCycleShape(EcgPcgLinear):
    """The task's answers for the cycle-shape model."""

    def __init__(self, settings: TrainingSettings | None = None) -> None:
        super().__init__(settings)
        self._outside: NDArray[np.float64] | None = None

    def samples(self, cache: Cache, device: torch.device) -> Recordings:
        """Return the recordings that have a grid of the heart sound."""
        found = super().samples(cache, device)
        return found.rows(found.has_pcg)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model, not fitted yet."""
        return build_model("cycle-shape")

    def fit(self, run: FoldContext, model: Any, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Fit on the training recordings and write the checkpoints; there is nothing to resume."""
        table = run.samples.table.iloc[run.train.numpy()]
        device = next(model.parameters()).device
        model.cpu()
        self._outside = fit_cycle_shape(
            model,
            run.samples.pcg_grid[run.train].cpu(),
            table["label"].to_numpy(np.int64),
            table["database"].to_numpy(str),
            table["session"].to_numpy(str),
            seed=run.seed,
        )
        model.to(device)
        return save_finished(run, model)

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return the best threshold on databases (or sessions) that an inner fit had not seen."""
        outside = self._outside
        if outside is None or not np.isfinite(outside).any():
            return None
        known = np.isfinite(outside)
        labels = run.samples.table["label"].to_numpy()[run.train.numpy()]
        return best_threshold(labels[known], special.expit(outside[known]))
