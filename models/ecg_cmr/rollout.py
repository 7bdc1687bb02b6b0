"""Attention rollout: how much each patch of an ECG counts, through all layers of the encoder.

Abnar and Zuidema 2020, arXiv 2005.00928. It shows where information flows, not whether it is evidence for or
against a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.transformer import check_pooling, mean_of


def attention_rollout(attention: Sequence[Tensor]) -> Tensor:
    r"""Multiply the layers' attention, with the residual path counted as half of each layer.

    .. math:: R = \prod_l \left(\tfrac12 \bar A_l + \tfrac12 I\right), \quad \text{last layer leftmost}

    Parameters
    ----------
    attention : sequence of torch.Tensor, shape (B, heads, N, N) each
        First layer first; every row sums to one.

    Returns
    -------
    torch.Tensor, shape (B, N, N)
        Row: a token after the last layer; column: a token before the first. Rows sum to one.
    """
    if not attention:
        raise ValueError("attention needs the maps of one layer at least.")
    eye = torch.eye(attention[0].shape[-1], device=attention[0].device)
    rolled = eye.expand(len(attention[0]), -1, -1)
    for layer in attention:
        rolled = (layer.float().mean(dim=1) + eye) / 2 @ rolled
    return rolled


@torch.no_grad()
def lead_relevance(
    encoder: ECGEncoder, ecg: Tensor, lead_present: Tensor | None = None, pooling: str = "mean"
) -> Tensor:
    """Return how much each stretch of each lead counts, to be plotted over the leads.

    Parameters
    ----------
    encoder : ECGEncoder
        Its dropout is off while this runs.
    ecg : torch.Tensor, shape (B, leads, T)
    lead_present : torch.Tensor of bool, shape (B, leads), optional
    pooling : {"mean", "class"}
        What the model's head reads.

    Returns
    -------
    torch.Tensor, shape (B, leads, times)
        Sums to one for each ECG; zero in leads that are absent, flat or not finite.
    """
    check_pooling(pooling)
    maps, usable = encoder.attention(ecg, lead_present)
    rolled = attention_rollout(maps)[:, :, 1:]
    relevance = (rolled[:, 0] if pooling == "class" else mean_of(rolled[:, 1:], usable)) * usable
    relevance = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=torch.finfo(relevance.dtype).tiny)
    return relevance.unflatten(1, (encoder.leads, encoder.times))
