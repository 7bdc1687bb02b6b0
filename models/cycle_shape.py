"""The cycle-shape model: how loud each part of the cardiac cycle is, against the end of diastole.

A microphone, a room and a chest filter the whole cycle alike. On a logarithmic scale such a filter adds a
constant to each band, and the difference of two parts of the cycle does not change. So the features are
differences from the last part of diastole, where a heart is most often silent. They are taken of the lowest
percentile over the beats, which holds what is there in every beat, and of few broad bands. One logistic
regression with a strong penalty reads them. It takes the heart sound alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.linear import StandardizedLogistic

_SILENT_CELLS = 4
"""Last cells of diastole that the others are compared with."""


class CycleShape(nn.Module):
    """Log-odds of abnormal from the shape of the cycle.

    Parameters
    ----------
    percentiles, cells, bands : int
        Shape of the grid of the heart sound; its first percentile is read.
    together : int
        Neighbouring bands that are averaged.
    """

    modalities = ("pcg",)

    def __init__(self, percentiles: int = 3, cells: int = 22, bands: int = 34, together: int = 5) -> None:
        super().__init__()
        self.grid = percentiles, cells, bands
        self.groups = torch.arange(bands) // together
        self.pcg = StandardizedLogistic(cells * (int(self.groups[-1]) + 1))

    def features(self, pcg_grid: Tensor) -> Tensor:
        """Map grids (N, percentiles * cells * bands), log10 of power, to features (N, features)."""
        lowest = pcg_grid.double().reshape(-1, *self.grid)[:, 0]
        broad = torch.stack(
            [lowest[..., self.groups == group].mean(-1) for group in self.groups.unique()], -1
        )
        return (broad - broad[:, -_SILENT_CELLS:].mean(dim=1, keepdim=True)).flatten(1)

    def forward(self, pcg_grid: Tensor, ecg_bands: Tensor, has_pcg: Tensor, has_ecg: Tensor) -> Tensor:
        """Return the log-odds of abnormal, shape (N,), float64.

        Parameters
        ----------
        pcg_grid : torch.Tensor, shape (N, percentiles * cells * bands)
        ecg_bands, has_ecg : torch.Tensor
            Not read: the arguments are those of every model of whole recordings.
        has_pcg : torch.Tensor of bool, shape (N,)

        Raises
        ------
        ValueError
            If a recording has no heart sound, or the model is not fitted.
        """
        mute = int((~(has_pcg & self.pcg.fitted)).sum())  # waits for the device: an answer must not be wrong
        if mute:
            raise ValueError(
                f"{mute} of {len(has_pcg)} recordings have no heart sound, or the model is not fitted: leave "
                "them out."
            )
        return self.pcg(self.features(pcg_grid))

    def reads(self, modality: str) -> bool:
        """Whether the model was fitted on a modality, ``ecg`` or ``pcg``."""
        return modality == "pcg" and bool(self.pcg.fitted)

    def terms(self, pcg_grid: Tensor) -> Tensor:
        """Return what each value of the grid adds to the log-odds, in the shape of the grid (N, features).

        A broad band adds in equal parts to the bands that it is made of.
        """
        standardized = (self.features(pcg_grid) - self.pcg.mean) / self.pcg.scale
        broad = (standardized * self.pcg.weight).reshape(len(pcg_grid), self.grid[1], -1)
        terms = broad.new_zeros(len(pcg_grid), *self.grid)
        terms[:, 0] = (broad / torch.bincount(self.groups))[..., self.groups]
        return terms.flatten(1)

    def parts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log-odds of the heart sound, shape (N,)."""
        return {"pcg": self.pcg(self.features(batch["pcg_grid"]))}
