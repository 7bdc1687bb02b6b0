"""Against one modality that dominates: modality dropout, branch losses, and modulation of gradients.

The modulation is that of Peng, Wei, Deng, Wang, Hu, "Balanced multimodal learning via on-the-fly gradient
modulation", CVPR 2022 (OGM-GE), for two modalities; here for any number, some of which a patient may lack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


def drop_modalities(
    has: Mapping[str, Tensor], rate: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Hide modalities at random for training: modality dropout.

    Parameters
    ----------
    has : mapping of str to torch.Tensor of bool, shape (B,)
        Which rows have which modality.
    rate : float
        Probability that a row is changed. Of a changed row a subset of its modalities is hidden, each subset
        that is neither empty nor all of them with the same probability; a row with one modality keeps it.
    generator : torch.Generator, optional
        On the device of the masks; default torch's own.

    Returns
    -------
    dict of str to torch.Tensor
        Which modalities are left.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be 0 to 1, and is {rate}.")
    present = torch.stack(list(has.values()), dim=1)
    count, device = present.shape[1], present.device
    # every subset of modalities as a row of bits; the first is the empty one
    subsets = torch.arange(2**count, device=device).unsqueeze(1) >> torch.arange(count, device=device) & 1 > 0
    held = (subsets & ~present.unsqueeze(1)).logical_not().all(dim=2)
    size = subsets.sum(dim=1)
    allowed = held & (size > 0) & (size < present.sum(dim=1, keepdim=True))
    allowed[:, 0] = ~allowed.any(dim=1)
    chosen = torch.multinomial(allowed.float(), 1, generator=generator).squeeze(1)
    touched = torch.rand(len(present), generator=generator, device=device) < rate
    left = present & ~(subsets[chosen] & touched.unsqueeze(1))
    return dict(zip(has, left.unbind(dim=1), strict=True))


def row_losses(logits: Tensor, label: Tensor, exclusive: bool = False) -> Tensor:
    """Return the loss of each row, shape (B,).

    Parameters
    ----------
    logits : torch.Tensor, shape (B, classes)
    label : torch.Tensor, shape (B,) or (B, classes)
        0 or 1.
    exclusive : bool
        Cross-entropy of classes that exclude each other; else the mean binary cross-entropy of the classes.
    """
    truth = _labels_like(label, logits)
    if exclusive:
        return functional.cross_entropy(logits, truth, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)


def branch_losses(
    branch_logits: Mapping[str, Tensor],
    label: Tensor,
    has: Mapping[str, Tensor],
    weight: Tensor | None = None,
    exclusive: bool = False,
) -> dict[str, Tensor]:
    """Return each branch's loss (`row_losses`), averaged over the rows that have its modality.

    Parameters
    ----------
    branch_logits : mapping of str to torch.Tensor, shape (B, classes)
        Anything, NaN too, where the modality is absent.
    label : torch.Tensor, shape (B,) or (B, classes)
        0 or 1.
    has : mapping of str to torch.Tensor of bool, shape (B,)
        Which rows have the modality (after modality dropout).
    weight : torch.Tensor, shape (B,), optional
        Of each row.
    exclusive : bool
        Whether the classes exclude each other.

    Returns
    -------
    dict of str to torch.Tensor
        0, with a gradient of 0, for a modality that no row has. Their sum is the auxiliary loss.
    """
    losses = {}
    for name, logits in branch_logits.items():
        present = has[name]
        # absent rows are set to 0 before the loss: NaN times 0 would still be NaN
        known = torch.where(present.unsqueeze(1), logits.float(), 0.0)
        counts = present.float() if weight is None else present * weight
        losses[name] = (row_losses(known, label, exclusive) * counts).sum() / present.sum().clamp(min=1)
    return losses


@torch.no_grad()
def branch_confidences(
    branch_logits: Mapping[str, Tensor], label: Tensor, has: Mapping[str, Tensor], exclusive: bool = False
) -> dict[str, Tensor]:
    """Return each branch's mean probability of the true label, over the rows with its modality.

    Parameters are those of `branch_losses`. Of several classes the mean counts; a modality that no row has
    gets NaN. The branches' heads must be trained, by the branch losses or as probes.
    """
    confidences = {}
    for name, logits in branch_logits.items():
        truth = _labels_like(label, logits.float())
        if exclusive:
            of_truth = (truth * logits.float().softmax(dim=1)).sum(dim=1)
        else:
            probability = logits.float().sigmoid()
            of_truth = truth * probability + (1 - truth) * (1 - probability)
        confidences[name] = of_truth[has[name]].mean()
    return confidences


def discrepancy_ratios(confidences: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Return each modality's confidence over the mean confidence of the others; 1 where there are none.

    With two modalities these are the two ratios of the paper.
    """
    values = {name: float(value) for name, value in confidences.items()}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    ratios = dict.fromkeys(values, 1.0)
    for name, value in known.items():
        others = [other for key, other in known.items() if key != name]
        if others and sum(others) > 0:
            ratios[name] = value * len(others) / sum(others)
    return ratios


def modulation_coefficients(
    confidences: Mapping[str, Tensor | float], strength: float = 0.1
) -> dict[str, float]:
    """Return the factor of the gradients of each branch, 0 to 1.

    ``1 - tanh(strength * ratio)`` where the ratio of `discrepancy_ratios` exceeds 1, else 1.

    Parameters
    ----------
    confidences : mapping of str to float
        As `branch_confidences` gives them.
    strength : float
        Alpha of the paper, 0 or more; 0 changes nothing.
    """
    if strength < 0:
        raise ValueError(f"strength must be 0 or more, and is {strength}.")
    return {
        name: 1 - math.tanh(strength * ratio) if ratio > 1 else 1.0
        for name, ratio in discrepancy_ratios(confidences).items()
    }


@torch.no_grad()
def modulate_gradients(
    branches: Mapping[str, nn.Module] | nn.ModuleDict,
    coefficients: Mapping[str, float],
    *,
    noise: bool = False,
    generator: torch.Generator | None = None,
) -> None:
    """Multiply the gradients of each branch in place, between ``backward`` and clipping.

    Parameters
    ----------
    branches : mapping of str to torch.nn.Module
        ``network.branches``.
    coefficients : mapping of str to float
        As `modulation_coefficients` gives them; several processes must use the same (their mean).
    noise : bool
        Add to every gradient normal noise of its own standard deviation before modulation: the paper's
        generalization enhancement.
    generator : torch.Generator, optional
        On the device of the weights; default torch's own.

    Notes
    -----
    The paper trains with SGD. Adam divides by the recent size of a gradient, so a coefficient that stays
    the same changes nothing there; only its changes from step to step do, and clipping of the whole norm.
    """
    for name, branch in branches.items():
        for weight in branch.parameters():
            if weight.grad is None:
                continue
            deviation = weight.grad.std(correction=0)
            weight.grad.mul_(coefficients[name])
            if noise:
                random = torch.empty_like(weight.grad).normal_(generator=generator)
                weight.grad.add_(random * deviation)


def _labels_like(label: Tensor, logits: Tensor) -> Tensor:
    """Return the label as numbers of the logits' shape (B, classes)."""
    truth = label.to(logits.dtype)
    truth = truth.unsqueeze(1) if truth.ndim == 1 else truth
    if truth.shape != logits.shape:
        raise ValueError(
            f"label must be (batch,) for one class, or (batch, classes): {tuple(label.shape)} does not fit "
            f"logits {tuple(logits.shape)}."
        )
    return truth
