"""Which stretches of an ECG counted for one target: gradient-weighted attention rollout, mean over models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError
from common.options import nearest
from datasets.ecg import LEADS
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.rollout import lead_relevance
from systems.ecg_cmr.figures import relevance_figure

_GROUPS = ("indicators", "diseases")
_NAMED_LEADS = 4
"""Leads that the text names, those with the largest shares."""


@dataclass(frozen=True)
class Relevance:
    """How much each stretch of each lead counted for a target.

    Attributes
    ----------
    target : str
    ecg : numpy.ndarray, shape (12, T)
        As the models read it, millivolts.
    shares : numpy.ndarray, shape (12, times)
        Sums to one, or to zero where nothing raised the prediction.
    sampling_rate : float
        Hertz, of ``ecg``.
    discard_ratio : float
    """

    target: str
    ecg: NDArray[np.float32]
    shares: NDArray[np.float64]
    sampling_rate: float
    discard_ratio: float

    def metadata(self) -> dict[str, Any]:
        """Return target, settings, and the share of each lead and of each stretch, in plain types."""
        return {
            "target": self.target,
            "discard_ratio": self.discard_ratio,
            "share_of_lead": dict(zip(LEADS, self.shares.sum(axis=1).tolist(), strict=True)),
            "seconds_of_stretch": self.ecg.shape[1] / self.shares.shape[1] / self.sampling_rate,
            "share_of_stretch": self.shares.tolist(),
        }

    def figure(self, title: str, watermark: str) -> Figure:
        """Return the figure of the ECG, darker where more counted."""
        return relevance_figure(
            self.ecg, self.shares, LEADS, self.sampling_rate, title=title, watermark=watermark
        )


def relevance_text(explained: Mapping[str, Any]) -> str:
    """Return the leads with the largest shares, from what `Relevance.metadata` returns."""
    shares = sorted(explained["share_of_lead"].items(), key=lambda item: -item[1])[:_NAMED_LEADS]
    if not shares[0][1]:
        return "no stretch of the ECG raised it"
    return ", ".join(f"{lead} {share:.0%}" for lead, share in shares)


def column_of(name: str, inputs: Mapping[str, Any]) -> tuple[str, int]:
    """Return the head and the column that predict a target, named as in the table of the data.

    Raises
    ------
    UserError
        If there is no such target; it names those there are.
    """
    names = [known for group in _GROUPS for known in inputs[group]]
    for group in _GROUPS:
        if name in inputs[group]:
            return group, list(inputs[group]).index(name)
    raise UserError(
        f"--explain {name!r} is no indicator and no disease of this run.{nearest(name, names)} "
        f"There are {', '.join(names)}."
    )


def explain(
    models: Sequence[PhenotypeModel],
    signal: NDArray[np.float32],
    present: NDArray[np.bool_],
    covariates: Tensor | None,
    target: str,
    column: tuple[str, int],
    *,
    sampling_rate: float,
    discard_ratio: float,
) -> Relevance:
    """Return how much each stretch of an ECG counted for a target.

    Parameters
    ----------
    models : sequence of PhenotypeModel
        The mean over them is given.
    signal : numpy.ndarray, shape (12, T)
        As the models read it, millivolts.
    present : numpy.ndarray of bool, shape (12,)
    covariates : torch.Tensor, shape (1, covariates), or None
        As the models take them.
    target : str
    column : tuple of str and int
        From `column_of`.
    sampling_rate : float
        Hertz.
    discard_ratio : float
        As for `models.ecg_cmr.rollout.attention_rollout`.
    """
    group, number = column
    found = []
    for model in models:
        device = model.indicator_mean.device
        ecg, leads = (torch.from_numpy(array)[None].to(device) for array in (signal, present))
        known = None if covariates is None else covariates.to(device)
        shares = lead_relevance(
            model, ecg, leads, known, group=group, column=number, discard_ratio=discard_ratio
        )
        found.append(shares[0].double().cpu().numpy())
    return Relevance(target, signal, np.mean(found, axis=0), sampling_rate, discard_ratio)
