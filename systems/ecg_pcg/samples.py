"""Samples of task ``ecg-pcg``: the beats of a cache, as tensors on a device."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learning.samples import Samples, class_weights

BATCH = ("ecg", "pcg", "label", "weight", "has_ecg", "has_pcg")


@dataclasses.dataclass(frozen=True)
class Beats(Samples):
    """All beats of a cache, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        The cache's ``samples.csv``: one row a beat.
    ecg, pcg : torch.Tensor, shape (N, 1, points)
        Zeros where a recording lacks the signal.
    label, weight : torch.Tensor, shape (N,)
        Class, and its weight in the loss.
    has_ecg, has_pcg : torch.Tensor of bool, shape (N,)
        Whether the recording has the signal. Models with absence tokens read it; others get the zeros.
    modality_dropout : float
        Chance that training hides one signal of a beat that has both.
    zeroed : {"none", "ecg", "pcg"}
        Signal that is zeros and absent in every batch, whatever is stored.
    """

    ecg: Tensor
    pcg: Tensor
    label: Tensor
    weight: Tensor
    has_ecg: Tensor
    has_pcg: Tensor
    modality_dropout: float = 0.0
    zeroed: str = "none"

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the beats of these rows: the tensors above, and ``hide`` (B,), the modality dropout."""
        here = rows.to(self.label.device)
        batch = {name: getattr(self, name)[here] for name in BATCH}
        if self.zeroed != "none":
            for name in (self.zeroed, f"has_{self.zeroed}"):
                batch[name] = torch.zeros_like(batch[name])
        return batch | {"hide": self.modality_dropout * (batch["has_ecg"] & batch["has_pcg"])}

    def without(self, modality: str) -> Beats:
        """Return the same beats without their ``ecg`` or ``pcg``, as if it had not been recorded."""
        signal, has = getattr(self, modality), getattr(self, f"has_{modality}")
        absent: dict[str, Any] = {
            modality: torch.zeros_like(signal),
            f"has_{modality}": torch.zeros_like(has),
        }
        return dataclasses.replace(self, **absent)

    def weighted(self, rows: np.ndarray) -> Beats:
        """Return the same beats with class weights n / (2 n_class), counted on these rows only."""
        return dataclasses.replace(self, weight=class_weights(self.label, rows))
