"""Task ``ecg-pcg``: one beat of ECG and heart sound, normal or abnormal.

Data     beats of a cache made by load_data.py, ``ecg`` and ``pcg`` (B, 1, points), ``label`` (B,)
Model    ``--model``, by default PACFNet
Loss     cross-entropy, weighted so that both classes count the same
Scores   accuracy, AUROC, sensitivity, specificity a beat, for the curves; evaluation/ has the rest
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from config import TrainingSettings
from datasets.cache import Cache
from datasets.signals import shorten_beats
from datasets.splits import Fold
from evaluation.figures import beat_attention_figure, confusion_figure, roc_figure
from evaluation.scores import best_threshold, binary_scores
from models import build_model
from models.pacfnet import PACFNet

CURVES = ("accuracy", "auroc", "sensitivity", "specificity")


@dataclasses.dataclass(frozen=True)
class Beats:
    """All beats of a cache, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        The cache's ``samples.csv``: one row a beat.
    ecg, pcg : torch.Tensor, shape (N, 1, points)
        Zeros where a recording lacks the signal.
    label, weight : torch.Tensor, shape (N,)
        Class, and its weight in the loss.
    """

    table: pd.DataFrame
    ecg: Tensor
    pcg: Tensor
    label: Tensor
    weight: Tensor

    def __len__(self) -> int:
        """Return the number of beats."""
        return len(self.label)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the beats of these rows: ``ecg``, ``pcg``, ``label``, ``weight``."""
        here = rows.to(self.label.device)
        return {name: getattr(self, name)[here] for name in ("ecg", "pcg", "label", "weight")}

    def describe(self, rows: Tensor) -> str:
        """Name the recordings of these rows."""
        names = sorted(self.table["recording"].iloc[rows.numpy()].unique())
        return f"recordings {', '.join(names)}"

    def weighted(self, rows: np.ndarray) -> Beats:
        """Return the same beats with class weights n / (2 n_class), counted on these rows only."""
        counts = torch.bincount(self.label[torch.from_numpy(rows).to(self.label.device)], minlength=2)
        weights = counts.sum() / (2 * counts.clamp(min=1))
        return dataclasses.replace(self, weight=weights[self.label])


class EcgPcg:
    """The task's six answers: samples, network, loss, scores, threshold, figures."""

    name = "ecg-pcg"

    def samples(self, cache: Cache, settings: TrainingSettings, device: torch.device) -> Beats:
        """Return the beats of a cache at the number of points the model sees."""
        table = cache.table("samples")
        signals = {
            kind: torch.from_numpy(shorten_beats(cache.beats(kind), settings.model.points))
            .unsqueeze(1)
            .to(device)
            for kind in ("ecg", "pcg")
        }
        label = torch.tensor(table["label"].to_numpy(np.int64)).to(device)
        return Beats(table, signals["ecg"], signals["pcg"], label, torch.ones(len(label), device=device))

    def for_fold(self, samples: Beats, fold: Fold, settings: TrainingSettings) -> Beats:
        """Return the samples with what is fitted on the fold's training part: the class weights."""
        return samples.weighted(fold.train) if settings.optimization.class_weights else samples

    def build(self, settings: TrainingSettings) -> nn.Module:
        """Return the network of the settings."""
        model = settings.model
        return build_model(
            model.model,
            width=model.width,
            kernel_size=model.kernel_size,
            dropout=model.dropout,
            attention=model.attention,
        )

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch, and the probability of abnormal, shape (B,)."""
        logits = model(batch["ecg"], batch["pcg"]).float()
        losses = functional.cross_entropy(logits, batch["label"], reduction="none")
        return {"loss": (losses * batch["weight"]).mean()}, logits.softmax(dim=1)[:, 1]

    def score(self, samples: Beats, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores of some beats at threshold 0.5, for the curves."""
        label = samples.table["label"].to_numpy()[rows.numpy()]
        scores = binary_scores(label, predictions.numpy())
        return {name: scores[name] for name in CURVES}

    def threshold(self, samples: Beats, rows: Tensor, predictions: Tensor) -> float:
        """Return the threshold that is best on these (validation) beats."""
        return best_threshold(samples.table["label"].to_numpy()[rows.numpy()], predictions.numpy())

    def predictions(self, samples: Beats, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions that evaluation reads, one row a beat."""
        names = ["sample", "recording", "session", "person", "label", "diagnosis", "site", "start", "end"]
        table = samples.table.iloc[rows][names].reset_index(drop=True)
        return table.assign(probability=probability.numpy().astype(np.float64))

    def figures(
        self, model: nn.Module, samples: Beats, rows: Tensor, probability: Tensor, settings: TrainingSettings
    ) -> dict[str, Figure]:
        """Return figures of the test part for TensorBoard: ROC, confusion, attention over one beat."""
        table = self.predictions(samples, rows.numpy(), probability).assign(threshold=0.5)
        stamp = "selected on test" if settings.protocol == "paper" else ""
        protocol = settings.protocol
        drawn = {
            "test/roc": roc_figure(table, protocol=protocol, stamp=stamp),
            "test/confusion": confusion_figure(table, protocol=protocol, stamp=stamp),
        }
        median = rows[int(torch.argsort(probability)[len(rows) // 2])]
        attention = self.attention_figure(model, samples, median, stamp)
        return drawn | ({"test/attention": attention} if attention is not None else {})

    @torch.no_grad()
    def attention_figure(self, model: nn.Module, samples: Beats, row: Tensor, stamp: str) -> Figure | None:
        """Draw one beat and where the model looks; None for a model without spatial attention."""
        if not isinstance(model, PACFNet):
            return None
        batch = samples.batch(row.reshape(1))
        _, levels = model.eval().forward_with_attention(batch["ecg"], batch["pcg"])
        maps = [level["spatial"][0].float().cpu().numpy() for level in levels if "spatial" in level]
        if not maps:
            return None
        ecg, pcg = (batch[name][0, 0].cpu().numpy() for name in ("ecg", "pcg"))
        beat = samples.table.iloc[int(row)]
        return beat_attention_figure(
            np.arange(len(ecg)) / len(ecg),
            ecg,
            pcg,
            {"ecg": [level[0] for level in maps], "pcg": [level[1] for level in maps]},
            title=f"Recording {beat['recording']}, beat at {beat['start']:.2f} s",
            stamp=stamp,
        )
