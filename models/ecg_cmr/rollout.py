"""Attention rollout weighted by gradients: which parts of an ECG counted for one output of a model.

Rollout (Abnar and Zuidema 2020, arXiv 2005.00928) multiplies the attention of all layers, so it is the same
for every output. Weighted by the gradient of an output (Chefer et al. 2021, arXiv 2103.15679) attention that
does not raise that output drops out; a discard ratio leaves the weakest of it away (Gildenblat 2020,
github.com/jacobgil/vit-explain). It shows what raised the output of this model, not what is evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.ecg_cmr.ecg_encoder import ECGEncoder
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.transformer import check_pooling, mean_of, pool_tokens

DISCARD_RATIO = 0.9
"""Share of the entries of each layer's weighted attention that is left away, the weakest first."""


def attention_rollout(
    attention: Sequence[Tensor], gradients: Sequence[Tensor], discard_ratio: float = DISCARD_RATIO
) -> Tensor:
    r"""Multiply the layers' attention, weighted by gradients, beside the residual path.

    .. math:: R = \prod_l \frac{W_l + I}{1 + W_l 1} - \prod_l \frac{I}{1 + W_l 1},
              \quad W_l = \frac{G_l}{\max_i (G_l 1)_i},
              \quad G_l = \max\left(0, \tfrac1H \sum_h \nabla A_{lh} \odot A_{lh}\right)

    with the last layer leftmost. The second product is the way through all residuals, on which no attention
    acts. With gradients that are all the same, R is the plain rollout less that way.

    Parameters
    ----------
    attention : sequence of torch.Tensor, shape (B, heads, N, N) each
        First layer first; every row sums to one.
    gradients : sequence of torch.Tensor, shape (B, heads, N, N) each
        Of one output of the model with respect to each.
    discard_ratio : float
        Share of the N x N entries of each G that is set to zero, the least first, in [0, 1).

    Returns
    -------
    torch.Tensor, shape (B, N, N)
        Row: a token after the last layer; column: a token before the first. Zero where no attention raised
        the output.
    """
    if not attention or len(attention) != len(gradients):
        raise ValueError("attention needs the maps of one layer at least, and gradients one for each.")
    if not 0 <= discard_ratio < 1:
        raise ValueError(f"discard_ratio must be in [0, 1), and is {discard_ratio}.")
    eye = torch.eye(attention[0].shape[-1], device=attention[0].device)
    rolled = eye.expand(len(attention[0]), -1, -1)
    residual = torch.ones_like(rolled[..., 0])
    for layer, gradient in zip(attention, gradients, strict=True):
        weighted = (layer.float() * gradient.float()).mean(dim=1).clamp(min=0)
        weighted = _without_weakest(weighted, discard_ratio)
        sums = weighted.sum(dim=-1, keepdim=True)
        largest = sums.amax(dim=1, keepdim=True)
        scale = torch.where(largest > 0, largest, 1.0)
        weighted, sums = weighted / scale, sums / scale
        rolled = (weighted + eye) / (1 + sums) @ rolled
        residual = residual / (1 + sums[..., 0])
    return (rolled - torch.diag_embed(residual)).clamp(min=0)


def _without_weakest(weighted: Tensor, ratio: float) -> Tensor:
    """Return matrices (B, N, N) with that share of their entries, the least, set to zero."""
    flat = weighted.flatten(1)
    least = flat.argsort(dim=1, stable=True)[:, : int(ratio * flat.shape[1])]
    return flat.scatter(1, least, 0.0).view_as(weighted)


def lead_relevance(
    model: PhenotypeModel,
    ecg: Tensor,
    lead_present: Tensor | None = None,
    covariates: Tensor | None = None,
    *,
    group: str,
    column: int,
    discard_ratio: float = DISCARD_RATIO,
) -> Tensor:
    """Return how much each stretch of each lead counted for one output, to be plotted over the leads.

    Parameters
    ----------
    model : PhenotypeModel
        Of an `ECGEncoder`; in evaluation.
    ecg : torch.Tensor, shape (B, leads, T)
    lead_present : torch.Tensor of bool, shape (B, leads), optional
    covariates : torch.Tensor, shape (B, covariates), optional
        As `PhenotypeModel.forward` takes them.
    group : str
        Head of the output, as `PhenotypeModel.forward` names it: ``indicators`` or ``diseases``, say.
    column : int
        Of that head.
    discard_ratio : float
        As for `attention_rollout`.

    Returns
    -------
    torch.Tensor, shape (B, leads, times)
        Sums to one for each ECG, or to zero where nothing raised the output; zero in leads that are absent,
        flat or not finite.
    """
    encoder = model.encoder
    if not isinstance(encoder, ECGEncoder):
        raise ValueError("This model reads no ECG.")
    check_pooling(model.pooling)
    with torch.enable_grad():
        encoded, usable, maps = encoder.encode_with_attention(ecg, lead_present)
        outputs = model.predict(pool_tokens(encoded, usable, model.pooling), covariates)
        gradients = torch.autograd.grad(outputs[group][:, column].sum(), maps)
    rolled = attention_rollout([layer.detach() for layer in maps], gradients, discard_ratio)[:, :, 1:]
    relevance = (rolled[:, 0] if model.pooling == "class" else mean_of(rolled[:, 1:], usable)) * usable
    relevance = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=torch.finfo(relevance.dtype).tiny)
    return relevance.unflatten(1, (encoder.leads, encoder.times))
