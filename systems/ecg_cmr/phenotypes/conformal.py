"""How far off a model of ``ecg-phenotypes`` is on its validation part, kept in its checkpoint.

Age, sex, height and weight may be known of a later patient, or not. A model that was trained with them is
less exact without, so its errors are measured for every choice of them.

The bound is that of split conformal prediction: of ``n`` absolute errors the ``ceil((n + 1) * coverage)``-th
smallest. If a patient is like those it was measured on, the true value lies within it of the prediction at
least that often, whatever the errors are distributed like (Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094).
Being like them is the condition: of other hospitals, devices and diseases it promises nothing.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from evaluation.delong import delong_covariance
from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.ecg_cmr.samples import Pairs

COVERAGE = 0.9
"""Share of patients whose true value lies within the bound."""
_ONE_SIDED = 1.645
"""Standard errors below an estimate that the truth lies above in 95 of 100 cases."""
_MOST_AT_ONCE = 64
"""Patients in one pass."""


def choice_key(names: tuple[str, ...] | list[str]) -> str:
    """Return the name of a choice of covariates, which are in the order of the model."""
    return "+".join(names)


@torch.no_grad()
def measure_errors(
    model: PhenotypeModel, samples: Pairs, train: Tensor, validation: Tensor, reads: str
) -> dict[str, Any]:
    """Compare predictions for the validation part with the truth.

    Parameters
    ----------
    model : PhenotypeModel
    samples : Pairs
    train, validation : torch.Tensor of int64
        Rows; without validation nothing is measured.
    reads : {"ecg", "cmr"}

    Returns
    -------
    dict
        ``trained_share``: share of each disease among the training patients, None where it is not known of
        any. ``errors``: for each choice of covariates (`choice_key`) that a patient may come with, by
        indicator and disease what `indicator_error` and `disease_error` measure.
    """
    shares = samples.targets["diseases"][train.to(samples.ecg.device)].nanmean(dim=0).tolist()
    shown = {
        name: share if np.isfinite(share) else None
        for name, share in zip(samples.names["diseases"], shares, strict=True)
    }
    return {"trained_share": shown, "errors": _errors(model, samples, validation, reads)}


def _errors(model: PhenotypeModel, samples: Pairs, rows: Tensor, reads: str) -> dict[str, Any]:
    """Return the errors for every choice of covariates."""
    if not len(rows):
        return {}
    model.eval()
    pooled = torch.cat([_found(model, samples, part, reads) for part in rows.split(_MOST_AT_ONCE)])
    here = rows.to(pooled.device)
    known = samples.targets["covariates"][here]
    names = samples.names["covariates"][: model.covariates]
    found = {}
    for flags in itertools.product((True, False), repeat=len(names)):
        kept = torch.tensor(flags, dtype=torch.bool, device=known.device)
        given = known.masked_fill(~kept, torch.nan) if model.covariates else None
        chosen = choice_key([name for name, flag in zip(names, flags, strict=True) if flag])
        found[chosen] = _compared(model, samples, here, model.predict(pooled, given))
    return found


def _found(model: PhenotypeModel, samples: Pairs, rows: Tensor, reads: str) -> Tensor:
    batch = samples.batch(rows)
    return model.features(batch[reads], batch["lead_present"] if reads == "ecg" else None)


def _compared(
    model: PhenotypeModel, samples: Pairs, rows: Tensor, outputs: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Return by name what is measured of each indicator and each disease."""
    found: dict[str, dict[str, Any]] = {"indicators": {}, "diseases": {}}
    if "indicators" in outputs:
        values, usual = model.in_units(outputs["indicators"]), model.indicator_mean.tolist()
        for index, name in enumerate(samples.names["indicators"]):
            truth = samples.targets["indicators"][rows, index]
            found["indicators"][name] = indicator_error(truth.cpu(), values[:, index].cpu(), usual[index])
    if "diseases" in outputs:
        values = outputs["diseases"].float().sigmoid()
        for index, name in enumerate(samples.names["diseases"]):
            truth = samples.targets["diseases"][rows, index]
            found["diseases"][name] = disease_error(truth.cpu(), values[:, index].cpu())
    return found


def indicator_error(truth: ArrayLike, predicted: ArrayLike, usual: float) -> dict[str, Any]:
    """Measure the errors of one indicator.

    Parameters
    ----------
    truth, predicted : array_like, shape (patients,)
        In its unit; NaN in ``truth`` where not known.
    usual : float
        Mean of the training patients: the prediction without any input.

    Returns
    -------
    dict
        ``patients`` of whom it is known; ``deviation``, root of the mean squared error; ``bound`` (above),
        None for too few; ``r2``, 1 less the squared error over that of saying ``usual`` of everybody, None
        where it is undefined; ``better``, whether the squared error is below that by more than chance would
        have it (one-sided, 5 %).
    """
    known = np.isfinite(np.asarray(truth, dtype=float))
    true, values = (np.asarray(values, dtype=float)[known] for values in (truth, predicted))
    error, baseline = (values - true) ** 2, (usual - true) ** 2
    count, gain = len(true), baseline - error
    rank = math.ceil((count + 1) * COVERAGE)
    spread = float(gain.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    defined = count > 1 and baseline.sum() > 0
    return {
        "patients": count,
        "deviation": float(np.sqrt(error.mean())) if count else None,
        "bound": float(np.sort(np.abs(values - true))[rank - 1]) if 0 < rank <= count else None,
        "r2": float(1 - error.sum() / baseline.sum()) if defined else None,
        "better": bool(defined and gain.mean() > _ONE_SIDED * spread),
    }


def disease_error(truth: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Measure how well the probabilities of one disease order patients.

    Parameters
    ----------
    truth, predicted : array_like, shape (patients,)
        0 or 1, NaN where not known; and probabilities.

    Returns
    -------
    dict
        ``patients`` of whom it is known, ``diseased`` among them, ``auroc`` (None without both), ``better``:
        whether that is above one half by more than chance would have it (DeLong, one-sided, 5 %).
    """
    known = np.isfinite(np.asarray(truth, dtype=float))
    true, values = (np.asarray(values, dtype=float)[known] for values in (truth, predicted))
    diseased = int(true.sum())
    found: dict[str, Any] = {"patients": len(true), "diseased": diseased, "auroc": None, "better": False}
    if not 0 < diseased < len(true):
        return found
    area, covariance = delong_covariance(true, values[None])
    spread = math.sqrt(max(float(covariance[0, 0]), 0.0))  # NaN, with one of a kind, makes it not better
    return found | {"auroc": float(area[0]), "better": bool(area[0] - _ONE_SIDED * spread > 0.5)}
