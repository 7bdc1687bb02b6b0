"""How well what was hidden is reconstructed, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_correlation(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Correlate truth and reconstruction over the hidden part (normalized cross-correlation).

    Parameters
    ----------
    truth, found : torch.Tensor, shape (B, ...)
    mask : torch.Tensor of bool, shape (B, ...)
        What was hidden, and is compared.

    Returns
    -------
    torch.Tensor, shape (B,)
        -1 to 1; 0 where either is constant, NaN where nothing was hidden.
    """
    count = mask.flatten(1).sum(dim=1)
    one, two = (_centred(values, mask, count) for values in (truth, found))
    together = (one * two).sum(dim=1)
    scale = (one.square().sum(dim=1) * two.square().sum(dim=1)).sqrt()
    value = torch.where(scale > 0, together / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0)
    return torch.where(count > 0, value, torch.nan)


def masked_error(truth: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the hidden part, shape (B,); NaN where nothing was hidden."""
    squared = ((truth - found).square() * mask).flatten(1).sum(dim=1)
    return squared / mask.flatten(1).sum(dim=1)


def _centred(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Return values (B, N) less their mean over the mask, 0 outside of it."""
    flat, known = values.double().flatten(1), mask.flatten(1)
    mean = (flat * known).sum(dim=1) / count.clamp(min=1)
    return (flat - mean.unsqueeze(1)) * known
