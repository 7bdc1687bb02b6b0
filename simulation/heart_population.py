"""SamplingConfig hearts: the drivers of the ECG first, then what no ECG shows.

Each patient has two random streams, one for the drivers and one for the rest. Two hearts with the same
drivers and another hidden stream are *twins*: no ECG tells them apart, and over many patients the
correlation of an indicator between twins is its ceiling, whatever the indicator.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit, ndtr, ndtri

from simulation.heart import Drivers, Heart, Scar, Traits
from simulation.patient import stream
from simulation.physiology import (
    CONDITIONS,
    DRIVER_OF,
    LEAST_SEVERITY,
    STATED,
    Calibration,
    Floats,
    calibrate,
    condition_probabilities,
    pattern_table,
)

_HEART = 10
"""First word of the key of a heart's random streams (those of `population` are below)."""
SHOWN, _HIDDEN = range(2)
IMPLIED_CEILINGS = {
    "lv_esv": 0.47,
    "stroke_volume": 0.53,
    "rv_esv": 0.51,
    "rv_ejection_fraction": 0.30,
    "longitudinal_strain": 0.30,
    "circumferential_strain": 0.30,
    "radial_strain": 0.26,
}
"""Ceilings of the indicators that follow from the others, for `CEILINGS`: the correlation of twins."""
_BOUND = 2.3
"""Standard deviations at which the normal distributions are cut off, before they are rescaled to 1."""
_TRIES = 30
"""Draws of what the ECG does not show until a heart has plausible values."""

_SCARS = {"anterior infarction": (115.0, 0.35, 1.0), "inferior infarction": (270.0, 0.0, 0.75),
         "lateral infarction": (0.0, 0.1, 0.8)}  # fmt: skip
"""Middle of the scar of an infarction in degrees, and where it begins and ends along the long axis."""


def draw_heart(
    seed: int,
    patient: int,
    condition: str | None = None,
    pattern: str | None = None,
    ceilings: Mapping[str, float] | None = None,
    twin: int = 0,
) -> Heart:
    """Return the heart of one patient; neither order nor size of the cohort changes it.

    Age is normal (58 +- 12 years, 28 to 89), half the patients are women; height 176 and 163 +- 7 cm,
    body mass index log-normal around 26.5; heart rate 67 +- 9, faster where the ECG shows failure.

    Parameters
    ----------
    seed : int
        Seed of the cohort.
    patient : int
        Number of the patient; names the patient's own random streams.
    condition, pattern : str, optional
        One of `CONDITIONS`: what the patient has, and what the ECG shows. Drawn if absent; if only the
        condition is given, the pattern is drawn as patients with it show it.
    ceilings : mapping of str to float, optional
        Share of each indicator that the ECG can know; absent: `CEILINGS`. They hold over patients whose
        condition and pattern are drawn.
    twin : int
        Another number gives another heart with the same drivers.

    Raises
    ------
    ValueError
        If a condition is unknown or a ceiling cannot be met.
    """
    for name in (condition, pattern):
        if name is not None and name not in CONDITIONS:
            raise ValueError(f"No condition is called {name!r}. Conditions: {', '.join(CONDITIONS)}.")
    solved = calibrate(ceilings)
    shown, hidden = stream(seed, _HEART, patient, SHOWN), stream(seed, _HEART, patient, _HIDDEN, twin)
    joint = pattern_table()
    weights = joint.sum(axis=0) if condition is None else joint[CONDITIONS.index(condition)]
    drawn = CONDITIONS[_pick(shown.random(), weights)]
    drivers, body = _draw_drivers(shown, pattern or drawn, solved)
    probabilities = condition_probabilities(drivers.pattern)
    for _ in range(_TRIES):
        suffered = CONDITIONS[_pick(hidden.random(), probabilities)]
        heart = _draw_hidden(hidden, drivers, condition or suffered, body, solved)
        if _could_live(heart):
            break
    return heart


def _could_live(heart: Heart) -> bool:
    """Return whether the sums have not added up to something no heart has; few in a thousand fail."""
    limits = {
        "lv_edv": (55, 400),
        "lv_mass": (32, 320),
        "wall_thickness": (4, 32),
        "la_volume": (20, 250),
        "ejection_fraction": (10, 82),
        "rv_ejection_fraction": (18, 75),
    }
    return all(low <= getattr(heart, name) <= high for name, (low, high) in limits.items())


def _pick(uniform: float, weights: Floats) -> int:
    """Return the place of a uniform number among weights."""
    return int(np.searchsorted(np.cumsum(weights / weights.sum()), uniform, side="right").clip(max=7))


def _normal(rng: np.random.Generator, count: int) -> Floats:
    """Return numbers of mean 0 and variance 1 from a normal distribution without its tails."""
    low = ndtr(-_BOUND)
    density = np.exp(-(_BOUND**2) / 2) / np.sqrt(2 * np.pi)
    deviation = np.sqrt(1 - 2 * _BOUND * density / (1 - 2 * low))
    return np.asarray(ndtri(low + (1 - 2 * low) * rng.random(count)) / deviation)


def _draw_drivers(rng: np.random.Generator, pattern: str, solved: Calibration) -> tuple[Drivers, Floats]:
    """Return the drivers, and the visible sum of each indicator for a man."""
    severity = LEAST_SEVERITY + (1 - LEAST_SEVERITY) * rng.random()
    female = rng.random() < 0.5
    body, own = _normal(rng, 3), _normal(rng, len(STATED))
    visible = solved.mean + solved.covariates @ body + solved.shown @ own
    expected = visible + solved.disease @ condition_probabilities(pattern) * severity
    factor = solved.woman if female else np.ones_like(solved.woman)
    spread = np.sqrt(solved.ceiling) * solved.population_deviation
    scores = (factor * expected - solved.population_mean) / np.where(spread > 0, spread, np.inf)
    named = {driver: float(scores[STATED.index(name)]) for name, driver in DRIVER_OF.items()}
    height = (163 if female else 176) + 6.7 * body[0]
    age, rate, chance = 58 + 12 * body[2], _normal(rng, 1)[0], rng.random(4)
    failing = {"dilated": 8.0, "restrictive": 6.0, "pulmonary hypertension": 6.0}.get(pattern, 0.0)
    fibrillates = chance[0] < expit(-4.3 + 0.05 * (age - 58) + 0.7 * named["atrium"])
    drivers = Drivers(
        age=float(age),
        sex="female" if female else "male",
        height=float(height),
        weight=float(26.5 * np.exp(0.15 * body[1]) * (height / 100) ** 2),
        heart_rate=float(67 + 9 * rate + failing * severity),
        pattern=pattern,
        severity=float(severity),
        **named,
        rhythm="fibrillation" if fibrillates else "sinus",
        ectopic_rate=float(rng.exponential(3.0)) if chance[1] < 0.06 else 0.0,
        right_block=bool(chance[2] < 0.05),
        flat_t=bool(chance[3] < 0.08),
        traits=_draw_traits(rng, age, female),
    )
    return drivers, visible


def _draw_traits(rng: np.random.Generator, age: float, female: bool) -> Traits:
    """Return the traits of a person; with age the PR interval is longer and the rhythm steadier."""
    angle, gain, timing, leads = (_normal(rng, count) for count in (3, 4, 4, 8))
    return Traits(
        axis=float(14 * angle[0] - 0.35 * (age - 58)),
        turn=float(9 * angle[1]),
        t_axis=float(12 * angle[2]),
        voltage=float(np.exp(0.13 * gain[0])),
        p_gain=float(np.exp(0.20 * gain[1])),
        t_gain=float(np.exp(0.20 * gain[2] - (0.12 if female else 0.0))),
        width=float(np.exp(0.04 * gain[3])),
        pr_interval=float(0.160 + 0.016 * timing[0] + 0.0004 * (age - 58)),
        qt_corrected=float(0.405 + 0.013 * timing[1] + (0.008 if female else 0.0)),
        variability=float(0.032 * np.exp(0.4 * timing[2] - 0.012 * (age - 58))),
        respiration_rate=float(0.25 + 0.035 * timing[3]),
        lead_gains=tuple(float(value) for value in np.exp(np.array([0.05] * 2 + [0.10] * 6) * leads)),
    )


def _draw_hidden(
    rng: np.random.Generator, drivers: Drivers, condition: str, visible: Floats, solved: Calibration
) -> Heart:
    """Return the heart around some drivers: the true condition, and what no ECG shows."""
    own, shape, scar = _normal(rng, len(STATED)), _normal(rng, 2), rng.random(6)
    has = np.array([name == condition for name in CONDITIONS], float)
    factor = solved.woman if drivers.sex == "female" else np.ones_like(solved.woman)
    values = factor * (visible + solved.disease @ has * drivers.severity + solved.hidden @ own)
    rounder = {"dilated": 0.14, "hypertrophic": -0.04}.get(condition, 0.05 * (condition in _SCARS))
    thicker = 4.0 if condition == "pulmonary hypertension" else 0.0
    return Heart(
        drivers=drivers,
        condition=condition,
        **dict(zip(STATED, map(float, values), strict=True)),
        sphericity=float(0.50 + 0.025 * shape[0] + rounder * drivers.severity),
        rv_wall=float(3.2 + 0.4 * shape[1] + thicker * drivers.severity),
        scar=_draw_scar(condition, drivers.severity, scar),
    )


def _draw_scar(condition: str, severity: float, uniform: Floats) -> Scar | None:
    """Return the scar of an infarction; in few of the others a small one that the ECG does not show."""
    spread = 2 * uniform - 1
    if condition in _SCARS:
        angle, base, apex = _SCARS[condition]
        extent = (50 + 75 * severity) * (1 + 0.15 * spread[1])
        angle = float((angle + 12 * spread[0]) % 360)
        return Scar(
            angle, float(extent), base, apex, float(0.25 + 0.3 * severity), float(0.5 + 0.5 * severity)
        )
    if uniform[0] < 0.07:
        base = 0.2 + 0.3 * uniform[2]
        return Scar(float(360 * uniform[1]), float(25 + 15 * uniform[3]), float(base), float(base + 0.25),
                    float(0.15 + 0.2 * uniform[4]), float(0.3 + 0.4 * uniform[5]))  # fmt: skip
    return None


def best_prediction(drivers: Drivers, ceilings: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the expectation of each stated indicator given the drivers: no model can do better.

    Parameters
    ----------
    drivers : Drivers
    ceilings : mapping of str to float, optional
        Those the heart was drawn with.
    """
    solved = calibrate(ceilings)
    shown = np.array([getattr(drivers, DRIVER_OF.get(name, ""), 0.0) for name in STATED])
    values = solved.population_mean + np.sqrt(solved.ceiling) * solved.population_deviation * shown
    return dict(zip(STATED, map(float, values), strict=True))
