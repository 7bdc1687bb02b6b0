"""Samples of a task: what the loop reads of them, and class weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of a task, read by row.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a sample, with ``recording``, ``session`` and ``label``.
    """

    table: pd.DataFrame

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.table)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the samples of these rows (int64, on the CPU) as a batch on the device of the samples."""
        raise NotImplementedError

    def describe(self, rows: Tensor) -> str:
        """Name the recordings of these rows, for an error message."""
        return f"recordings {', '.join(sorted(self.table['recording'].iloc[rows.numpy()].unique()))}"


def class_weights(label: Tensor, rows: np.ndarray) -> Tensor:
    """Return the weight of each sample: n / (2 n_class) of its class, counted on these rows only."""
    counts = torch.bincount(label[torch.from_numpy(rows).to(label.device)], minlength=2)
    return (counts.sum() / (2 * counts.clamp(min=1)))[label]
