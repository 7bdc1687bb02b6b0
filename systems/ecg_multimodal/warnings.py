"""What is doubtful about judging one patient: views that are left aside, and values unlike training's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.signal_quality import SignalWarning
from models.ecg_multimodal.clinical_branch import ClinicalScaler
from systems.ecg_multimodal.sources.user_patients import UserPatient

LARGEST_DISTANCE = 4.0
"""Standard deviations of training from its mean beyond which a clinical value is doubted."""
TWO_VALUED = 0.01
"""Share by which the variance of yes and no may differ from that of its mean."""


def modality_warnings(
    patient: UserPatient, reads: Sequence[str], inputs: Mapping[str, Any], source: str
) -> list[SignalWarning]:
    """Return what is said of each view that a patient has: why it is not used, and what is doubtful.

    Parameters
    ----------
    patient : UserPatient
    reads : sequence of str
        Views that the run reads.
    inputs : mapping
        What the checkpoint says of the inputs.
    source : str
        Where the run's patients come from.
    """
    warnings = []
    for view in patient.given:
        reason = _why_ignored(view, patient, reads, inputs)
        if reason:
            warnings.append(SignalWarning("ignored", view, f"The {view} was not looked at: {reason}."))
        else:
            warnings += [SignalWarning("reading", view, said) for said in patient.doubts.get(view, [])]
    if source == "ptbxl" and not patient.drawn and patient.image is not None and "image" in reads:
        text = "The run learned from pictures drawn from signals, never from a scan."
        warnings.append(SignalWarning("drawn", "image", text))
    return warnings


def _why_ignored(view: str, patient: UserPatient, reads: Sequence[str], inputs: Mapping[str, Any]) -> str:
    """Return why a view is not used; empty if it is."""
    if view not in reads:
        return f"the run reads {' and '.join(reads)}"
    if view == "signal" and len(patient.leads) != inputs["leads"]:
        return f"the run reads {inputs['leads']} leads, and there {_are(len(patient.leads))}"
    if view == "clinical" and not set(patient.clinical) & set(inputs["clinical"]):
        return f"the run knows {', '.join(inputs['clinical'])}, and none of them is there"
    return ""


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def clinical_warnings(
    values: Mapping[str, float], names: Sequence[str], scalers: Sequence[ClinicalScaler]
) -> list[SignalWarning]:
    """Return the doubts about clinical values that lie far from those of training.

    Parameters
    ----------
    values : mapping of str to float
        Those that are known.
    names : sequence of str
        Columns of the run.
    scalers : sequence of ClinicalScaler
        One a model, fitted on its training part; their mean counts.
    """
    warnings = []
    for column, name in enumerate(names):
        if name not in values:
            continue
        means = [float(scaler.mean[column]) for scaler in scalers]
        inverses = [float(scaler.inverse_deviation[column]) for scaler in scalers]
        known = any(bool(scaler.known[column]) for scaler in scalers)
        said = _far(values[name], float(np.mean(means)), float(np.mean(inverses)), known)
        if said:
            warnings.append(
                SignalWarning("unlike-training", "clinical", f"The {name} is {values[name]:g}: {said}.")
            )
    return warnings


def _far(value: float, mean: float, inverse: float, known: bool) -> str:
    """Return how a value differs from those of training; empty if it does not."""
    if not known:
        return "no patient of training had one, so it counts as missing"
    if not inverse:
        return "" if np.isclose(value, mean) else f"all of training had {mean:g}, so it counts for nothing"
    deviation = 1 / inverse
    chance = mean * (1 - mean)
    if value in (0, 1) and abs(deviation**2 - chance) <= TWO_VALUED * abs(chance):
        return ""  # a rare yes is far from the mean, and still a value that was seen
    if abs(value - mean) <= LARGEST_DISTANCE * deviation:
        return ""
    return f"far from those of training ({mean:.4g}, standard deviation {deviation:.3g})"
