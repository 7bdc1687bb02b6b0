"""Task ``ecg-pcg`` with ``--model linear``: one recording, a linear model on its phase-normalized grid.

Data     features of each recording (`systems.ecg_pcg.features.phase_grid`), computed once and kept beside the
         cache
Model    `models.linear.PhaseGridLinear`: two logistic regressions, their log-odds added
Fit      closed, a second a fold; needs no validation part, its threshold comes from inner, grouped
         out-of-fold predictions on the training part
Scores   as for the networks, one prediction a recording; has no meaning where beats are split
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.command_line import counted
from common.errors import UserError
from datasets.cache import Cache
from datasets.signal_quality import NAMES
from datasets.splits import Fold
from evaluation.scores import best_threshold
from learning.loop import FoldContext, Progress, Samples, class_weights, save_finished
from learning.tracking import Tracker
from models import build_model, takes
from systems.base.task import BinaryTask
from systems.ecg_pcg.features.phase_grid import phase_grid
from systems.ecg_pcg.features.spectral import ECG_BAND, PCG_BAND
from systems.ecg_pcg.linear.fit import fit_linear, out_of_fold_log_odds
from systems.ecg_pcg.settings import TrainingSettings

_INNER_FOLDS = 5
HIGHEST = {"ecg": ECG_BAND[1], "pcg": PCG_BAND[1]}
"""Highest frequency that the features read, hertz."""
TENSORS = ("pcg_grid", "ecg_bands", "has_pcg", "has_ecg", "label", "weight")


@dataclasses.dataclass(frozen=True)
class Recordings(Samples):
    """All recordings of a cache that have features, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a recording, with the columns of a sample table.
    pcg_grid, ecg_bands : torch.Tensor, shape (N, features)
        NaN where a recording lacks them.
    has_pcg, has_ecg : torch.Tensor of bool, shape (N,)
    label, weight : torch.Tensor, shape (N,)
    """

    pcg_grid: Tensor
    ecg_bands: Tensor
    has_pcg: Tensor
    has_ecg: Tensor
    label: Tensor
    weight: Tensor

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the recordings of these rows: the tensors above."""
        here = rows.to(self.label.device)
        return {name: getattr(self, name)[here] for name in TENSORS}

    def rows(self, kept: Tensor) -> Recordings:
        """Return some of the recordings, those of a mask (N,)."""
        tensors: dict[str, Any] = {name: getattr(self, name)[kept] for name in TENSORS}
        table = self.table[kept.cpu().numpy()].reset_index(drop=True)
        return dataclasses.replace(self, table=table.assign(sample=np.arange(len(table))), **tensors)

    def without(self, modality: str) -> Recordings:
        """Return the same recordings without their ``ecg`` or ``pcg``."""
        absent = torch.zeros_like(getattr(self, f"has_{modality}"))
        changed: dict[str, Any] = {f"has_{modality}": absent}
        return dataclasses.replace(self, **changed)

    def weighted(self, rows: np.ndarray) -> Recordings:
        """Return the same recordings with class weights counted on these rows only."""
        return dataclasses.replace(self, weight=class_weights(self.label, rows))

    def features(self, rows: Tensor) -> dict[str, np.ndarray]:
        """Return the features of these rows, as the fit takes them."""
        return {"pcg": self.pcg_grid[rows].cpu().numpy(), "ecg": self.ecg_bands[rows].cpu().numpy()}


class EcgPcgLinear(BinaryTask):
    """The task's answers for the linear model."""

    name = "ecg-pcg"
    settings_class = TrainingSettings
    settings: TrainingSettings
    selects = False
    has_epochs = False
    fit_time = "about a second each"
    read: ClassVar[tuple[str, ...]] = ("pcg_grid", "ecg_bands", "has_pcg", "has_ecg")
    """Tensors of a batch that the model takes."""

    @property
    def balanced(self) -> bool:
        """Whether both classes weigh the same in what is minimized: always, in a closed fit."""
        return True

    def samples(self, cache: Cache, device: torch.device) -> Recordings:
        """Return the recordings that have features."""
        settings = self.settings
        if settings.protocol in ("paper", "beat"):
            raise UserError(
                f"Model {settings.model.model} takes whole recordings, so protocol {settings.protocol}, "
                "which splits beats, has no meaning for it: choose --protocol recording, session or database."
            )
        _refuse_options_of_networks(settings)
        grid = phase_grid(cache)
        if grid.lacking():
            print(grid.lacking())
        for modality in takes(settings.model.model).modalities:
            highest, rate = HIGHEST[modality], cache.table("recordings")[f"{modality}_rate"]
            slow = int(((rate > 0) & (rate < 2 * highest)).sum())
            if slow:
                print(
                    f"Note: the {NAMES[modality]} of {counted(slow, 'recording')} is sampled below "
                    f"{2 * highest:g} Hz, and the model reads up to {highest:g} Hz: it takes silence for "
                    "what is not there, and predict.py leaves such a signal out."
                )
        usable = grid.has_pcg | grid.has_ecg
        table = cache.table("recordings")[usable].reset_index(drop=True)
        table = table.assign(sample=np.arange(len(table)), start=0.0, end=table["duration"])
        return Recordings(
            table=table,
            pcg_grid=torch.from_numpy(grid.pcg[usable]).to(device),
            ecg_bands=torch.from_numpy(grid.ecg[usable]).to(device),
            has_pcg=torch.from_numpy(grid.has_pcg[usable]).to(device),
            has_ecg=torch.from_numpy(grid.has_ecg[usable]).to(device),
            label=torch.tensor(table["label"].to_numpy(np.int64)).to(device),
            weight=torch.ones(len(table), device=device),
        )

    def for_fold(self, samples: Recordings, fold: Fold) -> Recordings:
        """Return the samples with the class weights of the fold's training part."""
        return samples.weighted(fold.train)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model, not fitted yet."""
        return build_model("linear")

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch, and the probability of abnormal, shape (B,)."""
        try:
            log_odds = model(*(batch[name] for name in self.read))
        except ValueError as error:  # a recording without a signal that was fitted
            raise UserError(f"Model {self.settings.model.model} cannot be used: {error}") from error
        target = batch["label"].to(log_odds.dtype)
        losses = functional.binary_cross_entropy_with_logits(log_odds, target, reduction="none")
        return {"loss": (losses * batch["weight"]).mean()}, log_odds.sigmoid()

    def fit(self, run: FoldContext, model: nn.Module, tracker: Tracker, *, resume: bool = False) -> Progress:
        """Fit on the training recordings and write the checkpoints; there is nothing to resume."""
        labels = run.samples.table["label"].to_numpy()[run.train.numpy()]
        fit_linear(model, run.samples.features(run.train), labels)
        return save_finished(run, model)

    def inner_threshold(self, run: FoldContext) -> float | None:
        """Return the best threshold on inner out-of-fold predictions, sessions of the training part apart."""
        rows = run.train.numpy()
        table = run.samples.table.iloc[rows]
        labels = table["label"].to_numpy()
        if min(table.groupby("label")["session"].nunique()) < 2 or table["session"].nunique() < _INNER_FOLDS:
            return None
        features = run.samples.features(run.train)
        try:
            log_odds = out_of_fold_log_odds(features, labels, table["session"], _INNER_FOLDS, run.seed)
        except UserError:  # an inner part would lack a class
            return None
        known = np.isfinite(log_odds)
        return best_threshold(labels[known], 1 / (1 + np.exp(-log_odds[known])))

    def without(self, samples: Recordings, modality: str) -> Recordings:
        """Return the samples without one signal."""
        return samples.without(modality)


def _refuse_options_of_networks(settings: TrainingSettings) -> None:
    """Refuse what would name or mean another model than the one that is fitted, which has no such option."""
    model = settings.model
    given = {
        "--zeroed": model.zeroed != "none",
        "--modality-dropout": model.modality_dropout > 0,
        "--levels": model.levels is not None,
        "--fusion-levels": model.fusion_levels is not None,
        "--attention": model.attention is not None,
        "--focal-gamma": settings.focal_gamma > 0,
        "--no-class-weights": not settings.optimization.class_weights,
    }
    words = [option for option, is_given in given.items() if is_given]
    if words:
        raise UserError(
            f"{model.model} has no {' and no '.join(words)}: leave it away. It takes what signals there are, "
            "and evaluate.py --without measures it on fewer."
        )
