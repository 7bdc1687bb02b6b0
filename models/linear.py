"""The linear model on a phase-normalized time-frequency grid and ECG band powers: the baseline to beat.

Each modality has its own standardization and logistic regression, fitted separately
(systems/ecg_pcg/linear/fit.py). The log-odds of a recording are the sum over the modalities that it has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StandardizedLogistic(nn.Module):
    """Log-odds ``weight . (x - mean) / scale + bias``, in double precision.

    Parameters
    ----------
    features : int
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise ValueError(f"A linear model needs at least one feature; given {features}.")
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))
        self.weight = nn.Parameter(torch.zeros(features, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """Map features (N, features) to log-odds (N,)."""
        return (values.to(self.mean.dtype) - self.mean) / self.scale @ self.weight + self.bias


class PhaseGridLinear(nn.Module):
    """Sum of the log-odds of the modalities that a recording has.

    Parameters
    ----------
    pcg_features, ecg_features : int
        Features of the grid of the heart sound, and of the ECG band powers.
    """

    def __init__(self, pcg_features: int = 2244, ecg_features: int = 13) -> None:
        super().__init__()
        self.pcg = StandardizedLogistic(pcg_features)
        self.ecg = StandardizedLogistic(ecg_features)

    def forward(self, pcg_grid: Tensor, ecg_bands: Tensor, has_pcg: Tensor, has_ecg: Tensor) -> Tensor:
        """Return the log-odds of abnormal, shape (N,), float64.

        Parameters
        ----------
        pcg_grid : torch.Tensor, shape (N, pcg_features)
            Rows of absent modalities may hold anything, NaN as well.
        ecg_bands : torch.Tensor, shape (N, ecg_features)
        has_pcg, has_ecg : torch.Tensor of bool, shape (N,)
            Which modalities each recording has.

        Raises
        ------
        ValueError
            If a recording has no modality that the model was fitted on.
        """
        use_pcg, use_ecg = has_pcg & self.pcg.fitted, has_ecg & self.ecg.fitted
        mute = int((~(use_pcg | use_ecg)).sum())  # waits for the device: a row may be refused
        if mute:
            fitted = [name for name in ("pcg", "ecg") if getattr(self, name).fitted]
            raise ValueError(
                f"{mute} of {len(has_pcg)} recordings have no modality that this model was fitted on "
                f"({', '.join(fitted) or 'it is not fitted yet'}): leave them out."
            )
        return _log_odds(self.pcg, pcg_grid, use_pcg) + _log_odds(self.ecg, ecg_bands, use_ecg)

    def reads(self, modality: str) -> bool:
        """Whether the model was fitted on a modality, ``ecg`` or ``pcg``."""
        return bool(getattr(self, modality).fitted)

    def standardized(self, modality: str, values: Tensor) -> Tensor:
        """Return features (N, features) in standard deviations from the mean of the training part."""
        part = getattr(self, modality)
        return (values - part.mean) / part.scale

    def terms(self, pcg_grid: Tensor) -> Tensor:
        """Return what each feature of the grid adds to the log-odds, shape (N, features)."""
        return self.standardized("pcg", pcg_grid) * self.pcg.weight

    def parts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log-odds of each modality, shape (N,); NaN where a recording lacks it."""
        return {"ecg": self.ecg(batch["ecg_bands"]), "pcg": self.pcg(batch["pcg_grid"])}


def _log_odds(part: StandardizedLogistic, values: Tensor, use: Tensor) -> Tensor:
    """Return the log-odds of one modality, zero where it is not used."""
    return part(torch.where(use[:, None], values, 0.0)) * use
