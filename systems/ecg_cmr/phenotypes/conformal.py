"""How far off a model of ``ecg-phenotypes`` is on its validation part, kept in its checkpoint.

Age, sex, height and weight may be known of whoever is judged later, or not. A model that was trained with
them is less exact without, so its errors are measured for every choice of them.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.ecg_cmr.phenotypes.prediction_error import disease_error, indicator_error
from systems.ecg_cmr.samples import Pairs

MOST_AT_ONCE = 64
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
        indicator and disease what `systems.ecg_cmr.phenotypes.prediction_error` measures.
    """
    shares = samples.targets["diseases"][train.to(samples.ecg.device)].nanmean(dim=0).tolist()
    named = {
        name: share if np.isfinite(share) else None
        for name, share in zip(samples.names["diseases"], shares, strict=True)
    }
    return {"trained_share": named, "errors": _errors(model, samples, validation, reads)}


def _errors(model: PhenotypeModel, samples: Pairs, rows: Tensor, reads: str) -> dict[str, Any]:
    """Return the errors for every choice of covariates."""
    if not len(rows):
        return {}
    model.eval()
    pooled = torch.cat([_found(model, samples, part, reads) for part in rows.split(MOST_AT_ONCE)])
    here = rows.to(pooled.device)
    known = samples.targets["covariates"][here]
    names = samples.names["covariates"][: model.covariates]
    found = {}
    for flags in itertools.product((True, False), repeat=len(names)):
        kept = torch.tensor(flags, dtype=torch.bool, device=known.device)
        told = known.masked_fill(~kept, torch.nan) if model.covariates else None
        chosen = choice_key([name for name, flag in zip(names, flags, strict=True) if flag])
        found[chosen] = _compared(model, samples, here, model.predict(pooled, told))
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
        said, usual = model.in_units(outputs["indicators"]), model.indicator_mean.tolist()
        for place, name in enumerate(samples.names["indicators"]):
            truth = samples.targets["indicators"][rows, place]
            found["indicators"][name] = indicator_error(truth.cpu(), said[:, place].cpu(), usual[place])
    if "diseases" in outputs:
        said = outputs["diseases"].float().sigmoid()
        for place, name in enumerate(samples.names["diseases"]):
            truth = samples.targets["diseases"][rows, place]
            found["diseases"][name] = disease_error(truth.cpu(), said[:, place].cpu())
    return found
