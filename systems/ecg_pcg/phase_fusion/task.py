"""Task ``ecg-pcg`` with ``--model phase-fusion``: evidence that adds up, and a small fusion network.

Data     features of each recording (`systems.ecg_pcg.features.phase_grid`,
         `systems.ecg_pcg.features.ecg_cycle_grid`), kept by the cache
Model    `models.phase_fusion.PhaseFusion`, which takes both signals or either one
Fit      systems/ecg_pcg/phase_fusion/fit.py, well under a minute a fold; no validation part: what it chooses,
         it chooses on inner folds of the training part, sessions apart
Scores   as for the linear model, one prediction a recording
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.cache import Cache
from evaluation.scores import best_threshold
from learning.loop import FoldContext, Progress, save_finished
from learning.tracking import Tracker
from models import build_model
from systems.ecg_pcg.features.ecg_cycle_grid import cycle_grids
from systems.ecg_pcg.linear.task import TENSORS, EcgPcgLinear, Recordings
from systems.ecg_pcg.phase_fusion.fit import Recorded, fit_phase_fusion
from systems.ecg_pcg.settings import TrainingSettings

_INPUTS = ("pcg_grid", "ecg_bands", "ecg_grid", "has_pcg", "has_ecg")


@dataclasses.dataclass(frozen=True)
class GridRecordings(Recordings):
    """Recordings as the linear model has them, and the grid of their ECG.

    Attributes
    ----------
    ecg_grid : torch.Tensor, shape (N, features)
        NaN where no beats were found in an ECG, or there is none.
    """

    ecg_grid: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0))

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: the tensors above."""
        here = rows.to(self.label.device)
        return {name: getattr(self, name)[here] for name in (*TENSORS, "ecg_grid")}

    def recorded(self, rows: Tensor) -> Recorded:
        """Return these rows as the fit takes them, on the CPU."""
        table = self.table.iloc[rows.numpy()]
        here = rows.to(self.label.device)
        tensors = (getattr(self, name)[here].cpu() for name in _INPUTS)
        pcg_grid, ecg_bands, ecg_grid, has_pcg, has_ecg = tensors
        return Recorded(
            pcg_grid,
            ecg_bands,
            ecg_grid,
            has_pcg,
            has_ecg,
            label=table["label"].to_numpy(np.int64),
            session=table["session"].to_numpy(str),
        )


class EcgPcgPhaseFusion(EcgPcgLinear):
    """The task's answers for the phase-fusion network."""

    fit_time = "under a minute each"
    read = _INPUTS

    def __init__(self, settings: TrainingSettings | None = None) -> None:
        super().__init__(settings)
        self._out_of_fold: NDArray[np.float64] | None = None

    def samples(self, cache: Cache, device: torch.device) -> GridRecordings:
        """Return the recordings that have features."""
        found = super().samples(cache, device)
        names = cache.table("recordings")["recording"].to_numpy(str)
        row_of = {name: row for row, name in enumerate(names)}
        rows = [row_of[str(name)] for name in found.table["recording"]]
        grids = torch.from_numpy(cycle_grids(cache)[rows]).to(device)
        known = {field.name: getattr(found, field.name) for field in dataclasses.fields(Recordings)}
        return GridRecordings(**known, ecg_grid=grids)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model, not fitted yet."""
        return build_model("phase-fusion")

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Fit on the training recordings and write the checkpoints; there is nothing to resume."""
        device = next(model.parameters()).device
        model.cpu()
        self._out_of_fold = fit_phase_fusion(model, run.samples.recorded(run.train), seed=run.seed)
        model.to(device)
        tracker.scalars({"train/deep_share": float(model.get_buffer("share"))}, 1)
        return save_finished(run, model)

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return the best threshold on the out-of-fold log-odds of the fit that was just made."""
        log_odds = self._out_of_fold
        if log_odds is None or not np.isfinite(log_odds).all():
            return None
        labels = run.samples.table["label"].to_numpy()[run.train.numpy()]
        return best_threshold(labels, 1 / (1 + np.exp(-log_odds)))
