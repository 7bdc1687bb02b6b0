"""How far off a model of ``ecg-phenotypes`` is on its validation part, kept in its checkpoint.

Covariates such as age and sex may be known of a later patient, or not. A model that was trained with them is
less exact without, so its errors are measured for every choice of them; of many, for those of `choices`.

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

from evaluation.comparison import delong_covariance
from evaluation.scores import best_threshold
from models.ecg_cmr.phenotypes import PhenotypeModel
from systems.ecg_cmr.samples import CLASSES, Pairs
from systems.ecg_cmr.settings import COVARIATES

COVERAGE = 0.9
"""Share of patients whose true value lies within the bound."""
_ONE_SIDED = 1.645
"""Standard errors below an estimate that the truth lies above in 95 of 100 cases."""
_MOST_AT_ONCE = 64
"""Patients in one pass."""
_MOST_COVARIATES = 6
"""Covariates of which every choice is measured."""


def choice_key(names: tuple[str, ...] | list[str]) -> str:
    """Return the name of a choice of covariates, which are in the order of the model."""
    return "+".join(names)


def choices(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the choices of covariates for which errors are measured.

    All of up to six. Of more: all but none or one of them, and every choice of age, sex, height and weight
    alone.
    """
    whole = (
        list(itertools.product((True, False), repeat=len(names))) if len(names) <= _MOST_COVARIATES else []
    )
    if whole:
        return [tuple(itertools.compress(names, flags)) for flags in whole]
    usual = [name for name in names if name in COVARIATES]
    flags = itertools.product((True, False), repeat=len(usual))
    lacking = [tuple(name for name in names if name != other) for other in names]
    return list(dict.fromkeys([names, *lacking, *(tuple(itertools.compress(usual, each)) for each in flags)]))


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
        any, and of each class, by its target. ``errors``: for each choice of covariates (`choice_key`) that a
        patient may come with, by indicator, disease and class what `indicator_error`, `disease_error` and
        `class_error` measure.
    """
    shares = samples.targets["diseases"][train.to(samples.ecg.device)].nanmean(dim=0).tolist()
    shown: dict[str, Any] = {
        name: share if np.isfinite(share) else None
        for name, share in zip(samples.names["diseases"], shares, strict=True)
    }
    for column, (name, labels) in enumerate(samples.labels.items()):
        numbers = samples.targets[CLASSES][train.to(samples.ecg.device), column]
        counts = [int((numbers == number).sum()) for number in range(len(labels))]
        shown[name] = {
            label: count / max(sum(counts), 1) for label, count in zip(labels, counts, strict=True)
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
    for chosen in choices(names):
        kept = torch.tensor([name in chosen for name in names], dtype=torch.bool, device=known.device)
        given = known.masked_fill(~kept, torch.nan) if model.covariates else None
        found[choice_key(chosen)] = _compared(model, samples, here, model.predict(pooled, given))
    return found


def _found(model: PhenotypeModel, samples: Pairs, rows: Tensor, reads: str) -> Tensor:
    batch = samples.batch(rows)
    return model.features(batch[reads], batch["lead_present"] if reads == "ecg" else None)


def _compared(
    model: PhenotypeModel, samples: Pairs, rows: Tensor, outputs: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Return by name what is measured of each indicator and each disease."""
    found: dict[str, dict[str, Any]] = {"indicators": {}, "diseases": {}, CLASSES: {}}
    if "indicators" in outputs:
        values, usual = model.in_units(outputs["indicators"]), model.indicator_mean.tolist()
        for index, name in enumerate(samples.names["indicators"]):
            truth = samples.targets["indicators"][rows, index]
            found["indicators"][name] = indicator_error(truth.cpu(), values[:, index].cpu(), usual[index])
    probabilities = {name: values.cpu() for name, values in model.probabilities(outputs).items()}
    for index, name in enumerate(samples.names["diseases"]):
        truth = samples.targets["diseases"][rows, index]
        found["diseases"][name] = disease_error(truth.cpu(), probabilities["diseases"][:, index])
    parts = probabilities[CLASSES].split(list(model.classes), dim=1) if model.classes else ()
    for index, (name, part) in enumerate(zip(samples.labels, parts, strict=True)):
        truth = samples.targets[CLASSES][rows, index]
        found[CLASSES][name] = class_error(truth.cpu(), part)
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
        whether that is above one half by more than chance would have it (DeLong, one-sided, 5 %),
        ``threshold``: the probability with the highest mean of sensitivity and specificity (None without
        both).
    """
    known = np.isfinite(np.asarray(truth, dtype=float))
    true, values = (np.asarray(values, dtype=float)[known] for values in (truth, predicted))
    diseased = int(true.sum())
    found: dict[str, Any] = {"patients": len(true), "diseased": diseased, "auroc": None, "better": False}
    found["threshold"] = None
    if not 0 < diseased < len(true):
        return found
    area, covariance = delong_covariance(true, values[None])
    spread = math.sqrt(max(float(covariance[0, 0]), 0.0))  # NaN, with one of a kind, makes it not better
    better = bool(area[0] - _ONE_SIDED * spread > 0.5)
    return found | {"auroc": float(area[0]), "better": better, "threshold": best_threshold(true, values)}


def class_error(truth: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Measure how often the most probable class is the true one.

    Parameters
    ----------
    truth, predicted : array_like, shapes (patients,) and (patients, classes)
        Number of the class, NaN where not known; and probabilities.

    Returns
    -------
    dict
        ``patients`` of whom it is known, ``accuracy`` (None without any), ``usual``: that of always naming
        the class most frequent here, ``better``: whether the accuracy is above it by more than chance would
        have it (one-sided, 5 %).
    """
    true, values = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    known = np.isfinite(true)
    if not known.any():
        return {"patients": 0, "accuracy": None, "usual": None, "better": False}
    numbers = true[known].astype(int)
    right = values[known].argmax(axis=1) == numbers
    baseline = numbers == np.bincount(numbers).argmax()
    gain, count = right.astype(float) - baseline, len(numbers)
    spread = float(gain.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return {
        "patients": count,
        "accuracy": float(right.mean()),
        "usual": float(baseline.mean()),
        "better": bool(gain.mean() > _ONE_SIDED * spread),
    }
