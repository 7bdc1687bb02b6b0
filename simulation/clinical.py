"""Clinical variables of a simulated patient: 24 values, tied to the same heart as the ECG.

Age, sex, height and weight are the heart's own. Blood pressure rises with age, weight and LV mass; a
diseased heart shows in the history; RR features come from a resting recording of five minutes, made on
a day without paroxysm. A *cardiometabolic burden* (high blood pressure, diabetes, the family's
histories) leaves its trace here and nowhere else.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from simulation.heart import Heart
from simulation.patient import Floats
from simulation.rhythm import Paroxysm, draw_beats

_HISTORY = ("hypertension", "diabetes", "dyslipidemia", "heart_disease", "stroke", "thyroid_disease")
_FAMILY = ("hypertension", "diabetes", "heart_disease", "stroke")
CLINICAL_COLUMNS = (
    "age",  # years
    "sex",  # 0 male, 1 female
    "height",  # centimetres
    "weight",  # kilograms
    "systolic_pressure",  # mmHg
    "diastolic_pressure",  # mmHg
    "BMI",  # kilograms a square metre
    "smoking",  # 0 never, 1 in the past, 2 now
    "alcohol",  # 0 never, 1 at times, 2 daily
    "activity",  # days with exercise in a week
    *(f"history_{name}" for name in _HISTORY),  # 0 no, 1 yes
    *(f"family_{name}" for name in _FAMILY),  # 0 no, 1 yes
    "mean_rr",  # milliseconds
    "sdnn",  # standard deviation of the intervals between sinus beats, milliseconds
    "rmssd",  # root mean square of their successive differences, milliseconds
    "pnn50",  # share of successive differences above 50 ms, percent
)
"""The 24 columns of the table, and their units."""

_RESTING_SECONDS = 300.0
# Log odds of each history at 58 years and a BMI of 26.5; what 10 years and 5 kg/m2 add; what the
# burden adds.
_HISTORY_ODDS = {
    "hypertension": (-0.9, 0.35, 0.45, 4.0),
    "diabetes": (-2.6, 0.25, 0.55, 4.2),
    "dyslipidemia": (-1.0, 0.25, 0.25, 1.6),
    "heart_disease": (-2.8, 0.40, 0.10, 0.0),
    "stroke": (-3.4, 0.40, 0.0, 0.0),
    "thyroid_disease": (-2.4, 0.05, 0.0, 0.0),
}
_FAMILY_SHARES = {
    "hypertension": (0.35, 0.80),
    "diabetes": (0.20, 0.70),
    "heart_disease": (0.22, 0.22),
    "stroke": (0.12, 0.12),
}
"""Share of patients with each family history, without and with the burden."""
_BURDEN_PRESSURE = (22.0, 10.0)
"""What the burden adds to systolic and diastolic pressure, mmHg."""
_KNOWN_DISEASE = 2.6
"""Log odds that a diseased heart adds to a history of heart disease."""


def draw_clinical(
    heart: Heart, rng: np.random.Generator, burdened: bool = False, missing: float = 0.0
) -> dict[str, float]:
    """Return the clinical values of a patient, rounded as a table has them.

    Parameters
    ----------
    heart : Heart
    rng : numpy.random.Generator
        Of this patient's table. Neither the burden nor the share of missing values changes what is
        drawn for the other values.
    burdened : bool
        Whether the patient carries the cardiometabolic burden.
    missing : float
        Share of values that are missing, completely at random, 0 to 1.

    Returns
    -------
    dict of str to float
        In the order of `CLINICAL_COLUMNS`; NaN where missing.

    Raises
    ------
    ValueError
        If the share is out of range.
    """
    if not 0 <= missing <= 1:
        raise ValueError(f"The share of missing clinical values is {missing}, but must be between 0 and 1.")
    value_rng, beat_rng, gap_rng = rng.spawn(3)
    drivers = heart.drivers
    values = {
        "age": round(drivers.age),
        "sex": int(drivers.sex == "female"),
        "height": round(drivers.height),
        "weight": round(drivers.weight, 1),
        **_pressures(heart, burdened, value_rng),
        "BMI": round(drivers.bmi, 1),
        **_habits(heart, value_rng),
        **_histories(heart, burdened, value_rng),
        **rr_features(_resting_intervals(heart, beat_rng)),
    }
    gaps = gap_rng.random(len(CLINICAL_COLUMNS)) < missing
    return {
        name: float("nan") if gap else float(values[name])
        for name, gap in zip(CLINICAL_COLUMNS, gaps, strict=True)
    }


def _pressures(heart: Heart, burdened: bool, rng: np.random.Generator) -> dict[str, float]:
    """Return blood pressure, mmHg: 127/77 for the mean man, with a pulse pressure that rises with age."""
    noise = np.clip(rng.normal(size=2), -2.5, 2.5)
    years, body = heart.drivers.age - 58, heart.drivers.bmi - 26.5
    added = _BURDEN_PRESSURE if burdened else (0.0, 0.0)
    systolic = 127 + 0.45 * years + 0.7 * body + 0.08 * (heart.lv_mass - 90) + 11 * noise[0] + added[0]
    diastolic = 77 + 0.5 * body + 5 * noise[0] + 5 * noise[1] + added[1]
    systolic = np.clip(systolic, 88, 215)
    diastolic = np.clip(diastolic, 45, min(125, systolic - 18))
    return {"systolic_pressure": round(systolic), "diastolic_pressure": round(diastolic)}


def _habits(heart: Heart, rng: np.random.Generator) -> dict[str, float]:
    """Return smoking, alcohol and activity."""
    smoking, alcohol, activity = rng.random(3)
    male = heart.drivers.sex == "male"
    mean = 3.0 - 0.08 * (heart.drivers.bmi - 26.5)
    return {
        "smoking": int(np.searchsorted((0.50, 0.82) if male else (0.62, 0.87), smoking)),
        "alcohol": int(np.searchsorted((0.25, 0.88) if male else (0.35, 0.95), alcohol)),
        "activity": int(np.clip(np.floor(mean + 5 * (activity - 0.5) + 0.5), 0, 7)),
    }


def _histories(heart: Heart, burdened: bool, rng: np.random.Generator) -> dict[str, float]:
    """Return what the patient and the family had."""
    chances = rng.random(len(_HISTORY) + len(_FAMILY))
    decades, body = (heart.drivers.age - 58) / 10, (heart.drivers.bmi - 26.5) / 5
    known = _KNOWN_DISEASE * (heart.condition != "none")
    shares = {}
    for name in _HISTORY:
        base, per_decade, per_body, burden = _HISTORY_ODDS[name]
        odds = base + per_decade * decades + per_body * body + burden * burdened
        shares[f"history_{name}"] = expit(odds + known * (name == "heart_disease"))
    for name in _FAMILY:
        shares[f"family_{name}"] = _FAMILY_SHARES[name][int(burdened)]
    return {name: int(chance < share) for (name, share), chance in zip(shares.items(), chances, strict=True)}


def _resting_intervals(heart: Heart, rng: np.random.Generator) -> Floats:
    """Return the intervals between neighbouring beats that are not ectopic, seconds, shape (intervals,)."""
    beats = draw_beats(heart.drivers, Paroxysm(), _RESTING_SECONDS, rng)
    normal = ~beats.ectopic[1:] & ~beats.ectopic[:-1]
    return np.asarray(np.diff(beats.onsets)[normal], np.float64)


def rr_features(intervals: Floats) -> dict[str, float]:
    """Return mean, SDNN, RMSSD (milliseconds) and pNN50 (percent) of intervals.

    Definitions: Task Force of the ESC and NASPE, Eur. Heart J. 17 (1996) 354.

    Parameters
    ----------
    intervals : numpy.ndarray, shape (intervals,)
        Seconds, at least two.
    """
    differences = np.diff(intervals)
    return {
        "mean_rr": round(1000 * float(intervals.mean()), 1),
        "sdnn": round(1000 * float(intervals.std(ddof=1)), 1),
        "rmssd": round(1000 * float(np.sqrt(np.mean(differences**2))), 1),
        "pnn50": round(100 * float(np.mean(np.abs(differences) > 0.050)), 1),
    }
