"""Whether an ECG is what its reader takes it for: millivolts, every lead in its place, nothing missing.

Every reader calls `check_ecg`, for learning as for predicting. What is surely wrong is a `DataError`, what is
doubtful a warning. Limits come from 500 records of PTB-XL: none is refused, 5 (1 %) get a warning.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.ecg import LEADS, Ecg, flat_leads
from datasets.signal_quality import BAND, SignalWarning, in_band_share
from datasets.signals import bandpass, fill_gaps
from datasets.sources import DataError

LARGEST_GAP = 0.1
"""Share of a lead that may be missing; gaps are filled by straight lines, and more would be invented."""
_WINDOW = 1.5
"""Seconds in which a heart at rest beats at least once."""
_POSSIBLE, _USUAL = (0.05, 25.0), (0.2, 10.0)
"""Millivolts that the beats of the largest lead span: others are another unit; unusual. PTB-XL: 1.0 to 7.6;
lead II alone 0.23 to 3.5."""
_OTHER_UNITS = (("volts", 1e3), ("microvolts", 1e-3))
_SMALLEST_SHARE = 0.004
"""What a lead's beats span of the largest one's, below which its unit is another. PTB-XL: 0.03 and more."""
_SMALLEST_IN_BAND = 0.3
"""Share of the power at frequencies of a heart. PTB-XL: 0.9 and more; twelve leads mixed up: 0.1."""
_LARGEST_MISMATCH = 0.25
"""Deviation that may be left between a limb lead and what the others make of it, as a share of the larger:
leads in another order have 0.5 or more, PTB-XL at most 0.08."""
_FIT = 0.1
"""The same, below which rows surely are the limb leads that they are tried as."""
_OPPOSITE = -0.5
"""Correlation of leads I and V6 below which one of them is upside down; PTB-XL: one record."""
_BACKWARDS = 0.5
"""Correlation that lead I has more with V1 than with V6: no record of 500 of PTB-XL has it, and 92 % have
with their chest leads backwards."""
_SKIPPED, _LONGER = 0.5, 1.5
"""Unlikeness (1 - correlation) summed from V1 to V6, beyond that of the best order and as a multiple of it,
that is doubted: 2 of 500 records of PTB-XL have more, and 94 % of their shuffled chest leads."""
_ALIKE = 0.5
"""Correlation with a neighbour below which a chest lead is too noisy to be ordered."""
_LIMB, _CHEST = LEADS[:6], LEADS[6:]
_FROM_LIMBS = {"II": (1, 0, 1), "aVR": (-0.5, -0.5, 0), "aVL": (0.5, 0, -0.5), "aVF": (0, 0.5, 0.5)}
"""What I, II and III make of the other limb leads, by Einthoven and Goldberger."""
_POINTING = ("I", "II", "V5", "V6")
"""Leads whose beats usually point up."""


def check_ecg(ecg: Ecg, leads: Sequence[str] = LEADS) -> list[SignalWarning]:
    """Return what is doubtful about the leads of an ECG.

    Parameters
    ----------
    ecg : Ecg
        Leads that are not there are NaN.
    leads : sequence of str
        Names of its rows.

    Raises
    ------
    DataError
        If its beats are so small or so large that its values cannot be millivolts.
    """
    there = [name for name, flat in zip(leads, flat_leads(ecg.samples), strict=True) if not flat]
    if not there:
        return [SignalWarning("flat", "ecg", "None of its leads holds a signal.")]
    rows = [fill_gaps(ecg.samples[list(leads).index(name)].astype(np.float64)) for name in there]
    shown = np.asarray(bandpass(np.stack(rows), ecg.sampling_rate, BAND["ecg"]), np.float64)
    spans = beat_spans(shown, ecg.sampling_rate)
    texts = _texts_of_absence(ecg, leads, there) + _texts_of_unit(dict(zip(there, spans, strict=True)))
    largest = rows[int(spans.argmax())]
    if (share := in_band_share(largest, ecg.sampling_rate, "ecg")) < _SMALLEST_IN_BAND:
        text = f"{share:.0%} of its power is at frequencies of a heart: is it noise, or are samples mixed up?"
        texts.append(("no-heart", text))
    texts += _texts_of_order(dict(zip(there, shown, strict=True)))
    return [SignalWarning(code, "ecg", text) for code, text in texts]


def without_gaps(ecg: Ecg) -> tuple[Ecg, NDArray[np.bool_]]:
    """Return an ECG whose leads of which too much is missing hold nothing, and which these are, (leads,).

    A lead that holds nothing anyway is none of them.
    """
    missing = np.isnan(ecg.samples).mean(axis=1)
    lost = (missing > LARGEST_GAP) & (missing < 1)
    kept = np.where(lost[:, None], np.nan, ecg.samples)
    return (dataclasses.replace(ecg, samples=kept) if lost.any() else ecg), lost


def named(leads: Sequence[str], flags: Iterable[Any]) -> str:
    """Return the names of the leads that are flagged."""
    return ", ".join(lead for lead, flag in zip(leads, flags, strict=True) if flag)


# Amplitude ------------------------------------------------------------------------------------------


def beat_spans(shown: NDArray[np.float64], sampling_rate: float) -> NDArray[np.float64]:
    """Return what the beats of each lead span, the median over windows of one beat or two, shape (leads,).

    Parameters
    ----------
    shown : numpy.ndarray, shape (leads, T)
        Without drift.
    sampling_rate : float
        Hertz.
    """
    size = min(round(_WINDOW * sampling_rate), shown.shape[1])
    count = shown.shape[1] // size
    windows = shown[:, : count * size].reshape(len(shown), count, size)
    return np.asarray(np.median(np.ptp(windows, axis=2), axis=1))


def _texts_of_unit(spans: dict[str, np.float64]) -> list[tuple[str, str]]:
    """Return what is doubtful about the amplitude of leads; refuse what cannot be millivolts."""
    largest = float(max(spans.values()))
    if not _POSSIBLE[0] <= largest <= _POSSIBLE[1]:
        raise DataError(
            f"Its beats span {largest:.2g} mV, and {_POSSIBLE[0]:g} to {_POSSIBLE[1]:g} are possible: "
            f"its values are not in millivolts{_guessed_unit(largest)}. Convert them, or state unit or gain."
        )
    texts = []
    if not _USUAL[0] <= largest <= _USUAL[1]:
        texts.append(
            ("unit", f"Its beats span {largest:.2g} mV, which is unusual: is its unit or gain right?")
        )
    if small := [name for name, span in spans.items() if span < _SMALLEST_SHARE * largest]:
        text = f"Lead {', '.join(small)} is over {1 / _SMALLEST_SHARE:g} times smaller than the largest lead"
        texts.append(("unit", f"{text}: is its unit or gain another?"))
    return texts


def _guessed_unit(millivolts: float) -> str:
    """Return which unit beats of this size have, where one fits."""
    for unit, factor in _OTHER_UNITS:
        if _USUAL[0] <= factor * millivolts <= _USUAL[1]:
            return f", but seem to be {unit}"
    return ""


# What is absent -------------------------------------------------------------------------------------


def _texts_of_absence(ecg: Ecg, leads: Sequence[str], there: Sequence[str]) -> list[tuple[str, str]]:
    """Return which leads hold nothing, and of which much is missing."""
    missing = np.isnan(ecg.samples).mean(axis=1)
    texts = []
    if absent := named(leads, missing == 1):
        texts.append(("absent", f"It lacks {absent}."))
    if flat := named(
        leads, [name not in there and share < 1 for name, share in zip(leads, missing, strict=True)]
    ):
        texts.append(("flat", f"No signal is in {flat}."))
    return texts


# Order and polarity ---------------------------------------------------------------------------------


def _texts_of_order(shown: dict[str, NDArray[np.float64]]) -> list[tuple[str, str]]:
    """Return what is doubtful about the order and the sign of leads, without drift, by name."""
    if wrong := _limb_mismatch(shown):
        return [("lead-order", wrong + _fitting_order(shown))]
    texts = []
    if set(_POINTING) | {"aVR"} <= set(shown) and _skew(shown["aVR"]) > 0:
        if all(_skew(shown[name]) < 0 for name in _POINTING):
            text = f"{', '.join(_POINTING)} point down and aVR up: are all leads upside down?"
            texts.append(("polarity", text))
        elif np.corrcoef(shown["I"], shown["V6"])[0, 1] < _OPPOSITE:
            text = "Lead I is upside down beside V6, and aVR upright: were the arm electrodes exchanged?"
            texts.append(("polarity", text))
    if not texts and {"I", "V1", "V6"} <= set(shown):
        alike = np.corrcoef([shown[name] for name in ("I", "V1", "V6")])[0]
        if alike[1] - alike[2] > _BACKWARDS:
            text = "Lead I resembles V1, not V6: are chest leads numbered backwards, or arm leads exchanged?"
            return [("chest-order", text)]
    if set(_CHEST) <= set(shown) and (text := _chest_mismatch(np.stack([shown[name] for name in _CHEST]))):
        texts.append(("chest-order", text))
    return texts


def _skew(lead: NDArray[np.float64]) -> float:
    """Return whether the beats of a lead point up (positive) or down."""
    centred = lead - lead.mean()
    return float((centred**3).mean())


def _limb_mismatch(shown: dict[str, NDArray[np.float64]]) -> str:
    """Return a sentence about limb leads that are not what the others make of them; empty: all are."""
    found = []
    for name, weights in _FROM_LIMBS.items():
        parts = [(weight, lead) for weight, lead in zip(weights, ("I", "II", "III"), strict=True) if weight]
        if name not in shown or not all(lead in shown for _, lead in parts):
            continue
        made = np.sum([weight * shown[lead] for weight, lead in parts], axis=0)
        left = np.std(shown[name] - made) / max(np.std(shown[name]), np.std(made))
        if left > _LARGEST_MISMATCH:
            sense = "the sum of I and III" if name == "II" else "what I, II and III make of it"
            found.append(f"Lead {name} is not {sense} ({left:.0%} of it is left)")
    return f"{found[0]}: are the leads in the order {', '.join(LEADS)}?" if found else ""


def _fitting_order(shown: dict[str, NDArray[np.float64]]) -> str:
    """Return a sentence that names the order in which the limb leads fit each other; empty: none is known."""
    if list(shown) != list(LEADS):
        return ""
    rows = _limb_rows(np.stack(list(shown.values())))
    if rows is None:
        return ""
    rest = iter(_CHEST)
    names = [_LIMB[rows.index(row)] if row in rows else next(rest) for row in range(len(LEADS))]
    return f" They fit each other in the order {', '.join(names)}."


def _limb_rows(shown: NDArray[np.float64]) -> list[int] | None:
    """Return which of twelve rows are I, II, III, aVR, aVL and aVF, by what these make of each other.

    Tried are all triples with the middle one the sum of the others; the augmented leads tell I from III.
    """
    power = shown @ shown.T
    best, found = np.inf, None
    for triple in itertools.permutations(range(len(shown)), 3):
        first, second, third = triple
        weights = np.zeros(len(shown))
        weights[[first, second, third]] = -1, 1, -1
        left = weights @ power @ weights / power[second, second]
        if not left < _FIT**2 or min(power[row, row] for row in triple) < 1e-4 * power.max():
            continue
        rows, total = list(triple), left
        for name in _LIMB[3:]:
            row, left = _nearest(power, np.array(triple), np.array(_FROM_LIMBS[name]))
            rows, total = [*rows, row], max(total, left)
        if total < min(best, _FIT**2) and len(set(rows)) == len(rows):
            best, found = total, rows
    return found


def _nearest(
    power: NDArray[np.float64], triple: NDArray[np.intp], weights: NDArray[np.float64]
) -> tuple[int, float]:
    """Return the row nearest to a weighted sum of three rows, and the power that is left as a share of it."""
    size = weights @ power[np.ix_(triple, triple)] @ weights
    left = np.diag(power) + size - 2 * (power[:, triple] @ weights)
    row = int(left.argmin())
    return row, float(left[row] / max(size, 1e-12))


_ORDERS = np.array([order for order in itertools.permutations(range(6)) if order[0] < order[-1]])
"""All orders of six leads, one of each pair that runs the other way."""


def _chest_mismatch(chest: NDArray[np.float64]) -> str:
    """Return a sentence about chest leads that change to and fro from V1 to V6; empty: they do not."""
    alike: NDArray[np.float64] = np.asarray(np.corrcoef(chest))
    if (np.sort(alike, axis=1)[:, -2] < _ALIKE).any():
        return ""
    lengths = (1 - alike)[_ORDERS[:, :-1], _ORDERS[:, 1:]].sum(axis=1)
    own, best = lengths[0], lengths.min()
    if own - best <= _SKIPPED or own <= _LONGER * best:
        return ""
    order = ", ".join(_CHEST[row] for row in _ORDERS[lengths.argmin()])
    return f"The chest leads change most evenly in the order {order}, or backwards: are they named rightly?"
