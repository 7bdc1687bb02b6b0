"""Features of a clinical table in which any value may be missing: values, what is missing, and an MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_SCALED = 10.0
"""Standard deviations at which a value is cut: a mistyped height shall not outweigh the others."""


class ClinicalScaler(nn.Module):
    """Impute by the median of train, standardize by its mean and deviation, and flag what was missing.

    Parameters
    ----------
    columns : int

    Notes
    -----
    The statistics are buffers, so a checkpoint holds them. Mean and deviation are those of the values that
    are not missing. A column that is constant over train is 0 for everyone, but its flag counts. A column
    without any value in train counts as missing for everyone. What is not finite is missing.
    """

    median: Tensor
    mean: Tensor
    inverse_deviation: Tensor
    known: Tensor
    fitted: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("median", torch.zeros(columns))
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("inverse_deviation", torch.zeros(columns))
        self.register_buffer("known", torch.zeros(columns, dtype=torch.bool))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, table: Tensor) -> None:
        """Take the statistics of the training rows (N, columns), NaN where a value is missing."""
        if table.ndim != 2 or not len(table) or table.shape[1] != len(self.median):
            raise ValueError(
                f"The imputer is fitted on a table (patients, {len(self.median)}), at least one row, "
                f"and was given {tuple(table.shape)}."
            )
        for column, cells in enumerate(table.double().unbind(dim=1)):
            values = cells[cells.isfinite()]
            self.known[column] = len(values) > 0
            deviation = values.std(correction=0) if len(values) else torch.zeros(())
            self.median[column] = values.quantile(0.5) if len(values) else 0.0
            self.mean[column] = values.mean() if len(values) else 0.0
            # a constant such as 0.1 has a deviation of some 1e-17
            varies = len(values) and float(deviation) > 1e-9 * float(values.abs().amax())
            self.inverse_deviation[column] = 1 / deviation if varies else 0.0
        self.fitted.fill_(True)

    def forward(self, table: Tensor) -> Tensor:
        """Map a table (P, columns) to standardized values, then flags of missing: (P, 2 * columns)."""
        if not self.fitted:
            raise RuntimeError(
                "The imputer is not fitted: call fit with the clinical table of the training part, "
                "or load a checkpoint."
            )
        present = table.isfinite() & self.known
        filled = torch.where(present, table.to(self.mean.dtype), self.median)
        scaled = (filled - self.mean) * self.inverse_deviation
        flags = (~present).to(scaled.dtype)
        return torch.cat([scaled.clamp(-LARGEST_SCALED, LARGEST_SCALED), flags], dim=1)


class ClinicalBranch(nn.Module):
    """Scaler with flags, and an MLP.

    Parameters
    ----------
    features : int
        Length of the output.
    columns : int
        Columns of the table.
    hidden : int
        Length of the hidden layer.
    dropout : float
        Dropout of the hidden layer and of the output.

    Notes
    -----
    Layer normalization, not batch normalization: a batch may hold one row with a table. Weights of the
    flags start at 0, and stay there if a flag is never raised in training: the first patient without a
    height then counts as one of median height.
    """

    def __init__(self, features: int, columns: int, hidden: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if columns < 1:
            raise ValueError(
                f"clinical_features must be at least 1 for the clinical modality, and is {columns}: "
                "give the number of columns, or leave the modality out."
            )
        self.columns = columns
        self.scaler = ClinicalScaler(columns)
        first = nn.Linear(2 * columns, hidden)
        nn.init.zeros_(first.weight[:, columns:])
        self.body = nn.Sequential(
            first,
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, features),
            nn.LayerNorm(features),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, clinical: Tensor) -> Tensor:
        """Map tables (P, columns), NaN where a value is missing, to features (P, features); P may be 0."""
        return self.body(self.scaler(clinical))

    def empty_batch(self) -> Tensor:
        """Return a table of no patients, on this module's device."""
        return self.scaler.mean.new_zeros((0, self.columns))

    def check(self, clinical: Tensor) -> None:
        """Refuse what is no table with these columns."""
        if clinical.ndim != 2 or clinical.shape[1] != self.columns:
            raise ValueError(
                f"clinical must have shape (batch, {self.columns}), and has {tuple(clinical.shape)}."
            )
