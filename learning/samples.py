"""What tables of samples share: names of recordings for messages, and class weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor


def describe_recordings(table: pd.DataFrame, rows: Tensor) -> str:
    """Name the recordings of some rows of a sample table, for an error message."""
    return f"recordings {', '.join(sorted(table['recording'].iloc[rows.numpy()].unique()))}"


def class_weights(label: Tensor, rows: np.ndarray) -> Tensor:
    """Return the weight of each sample: n / (2 n_class) of its class, counted on these rows only."""
    counts = torch.bincount(label[torch.from_numpy(rows).to(label.device)], minlength=2)
    return (counts.sum() / (2 * counts.clamp(min=1)))[label]
