"""How the indicators of a heart hang together, and how much of each an ECG can know.

An indicator is, for a man, a linear sum of what drives it: body size and age, the volumes and masses it
follows, disease times severity, a part of its own that the ECG shows (``g``) and a part of its own that
it does not (``e``)::

    x = mean + parents + height + weight + age + disease[condition] * severity + gamma * g + sigma * e

For a woman everything is multiplied by the factor ``woman``. The ECG shows a *pattern* rather than a
disease: a disease shows its pattern in some patients only (`_SENSITIVITY`), and some show one without
having the disease (`_MIMICRY`). What the ECG can know of x is therefore ``E[x | drivers]``: the same
sum with the probability of each condition given the pattern in place of the condition, and without
``e``. Everything that is left has mean zero given the drivers, so that

    R2 ceiling = Var(E[x | drivers]) / Var(x)

holds exactly. `calibrate` solves it for ``gamma``, with ``gamma ** 2 + sigma ** 2`` as the equation
states. All variances are closed formulas; nothing is fitted.

Normal values: volumes, mass and ejection fraction after the healthy reference cohort of UK Biobank
(Petersen et al., J. Cardiovasc. Magn. Reson. 19 (2017) 18: men 58 +- 5 %, women 61 +- 5 % ejection
fraction; LV end-diastolic volume about 166 and 124 mL, mass about 103 and 70 g, RV end-diastolic volume
about 182 and 130 mL); greatest wall thickness at mid-cavity 8 and 7 mm (Kawel et al., Circ. Cardiovasc.
Imaging 5 (2012) 500). Spreads are a little wider than in the reference cohorts, which left out
everybody with high blood pressure. The effects of diseases are of the order seen in clinics, no more.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CEILINGS: dict[str, float] = {
    "lv_edv": 0.60,
    "lv_mass": 0.60,
    "wall_thickness": 0.60,
    "la_volume": 0.50,
    "ejection_fraction": 0.30,
    "rv_edv": 0.60,
    "blood_contrast": 0.0,
}
"""Share of the variance of each indicator that the ECG, age, sex, height and weight can know at best."""

CONDITIONS = (
    "none",
    "dilated",
    "hypertrophic",
    "restrictive",
    "anterior infarction",
    "inferior infarction",
    "lateral infarction",
    "pulmonary hypertension",
)
"""Conditions of the heart; the patterns of the ECG have the same names."""
PREVALENCE = (0.46, 0.12, 0.10, 0.07, 0.06, 0.05, 0.04, 0.10)
_SENSITIVITY = (0.0, 0.50, 0.80, 0.70, 0.55, 0.55, 0.55, 0.65)
"""Share of patients with a condition whose ECG shows its pattern for that reason."""
_MIMICRY = (0.0, 0.015, 0.015, 0.015, 0.012, 0.012, 0.012, 0.015)
"""Share of all others whose ECG shows a pattern by chance."""
LEAST_SEVERITY = 0.5
"""Severity is uniform between this and 1."""
COVARIATES = ("height", "weight", "age")


@dataclass(frozen=True)
class _Equation:
    """One indicator as a sum of its causes, in its own unit.

    Attributes
    ----------
    mean : float
        Of healthy men of mean height, weight and age.
    own : float
        Standard deviation of what nothing else explains.
    woman : float
        Factor that turns a man's value into a woman's.
    parents : mapping of str to float
        Earlier indicators, and how much one unit of each adds.
    covariates : tuple of float
        What a standard deviation of each of `COVARIATES` adds.
    disease : mapping of str to float
        What each condition adds at severity 1, beyond what comes through the parents.
    """

    mean: float
    own: float
    woman: float = 1.0
    parents: Mapping[str, float] = field(default_factory=dict)
    covariates: tuple[float, float, float] = (0.0, 0.0, 0.0)
    disease: Mapping[str, float] = field(default_factory=dict)


def _effects(*values: float) -> dict[str, float]:
    """Return the effects of `CONDITIONS` but the first: one value a condition, in their order."""
    return dict(zip(CONDITIONS[1:], values, strict=True))


# Wall thickness follows mass and volume as that of a half ellipsoid does: at 103 g around 166 mL one
# gram adds .053 mm to the mean wall and one millilitre takes .025 mm off; the septum is 1.25 times as
# thick. Its own part is asymmetry. The right ventricle is as large as the blood that the left one moves
# asks for, nearly: both have the same stroke volume.
_EQUATIONS: dict[str, _Equation] = {
    "lv_edv": _Equation(166, 27, 0.76, {}, (12, 8, -6), _effects(110, -22, -32, 40, 25, 25, -18)),
    "lv_mass": _Equation(103, 16, 0.71, {"lv_edv": 0.45}, (2, 5, 0), _effects(15, 80, 55, 5, 5, 5, 0)),
    "wall_thickness": _Equation(
        8.3,
        1.0,
        0.88,
        {"lv_mass": 0.066, "lv_edv": -0.031},
        (0, 0.1, 0.15),
        _effects(0, 5, 1.2, 0, 0, 0, 0),
    ),
    "la_volume": _Equation(72, 12, 0.9, {"lv_edv": 0.15}, (0, 3, 4), _effects(20, 22, 45, 6, 6, 6, 0)),
    "ejection_fraction": _Equation(58.5, 6.0, 1.04, {}, (0, 0, 0), _effects(-27, 6, -6, -17, -11, -11, -3)),
    "rv_edv": _Equation(
        182,
        18,
        0.76,
        {"lv_edv": 0.95, "ejection_fraction": 1.8},
        (2, 2, -2),
        _effects(-8, 0, 15, 0, 0, 0, 85),
    ),
    "blood_contrast": _Equation(2.6, 0.35),
}
STATED = tuple(_EQUATIONS)
"""Indicators with a stated ceiling: mL, g, mm, mL, percent, mL, ratio of blood to muscle in the image."""


DRIVER_OF = {
    "lv_edv": "lv_size",
    "lv_mass": "lv_bulk",
    "wall_thickness": "septum",
    "rv_edv": "rv_size",
    "la_volume": "atrium",
    "ejection_fraction": "pump",
}
"""What the ECG is rendered from for each indicator; one without a driver can only have the ceiling 0."""


def pattern_table() -> Floats:
    """Return P(condition and pattern), shape (conditions, patterns): what disease shows, and mimicry."""
    chance = np.array(_MIMICRY)
    chance[0] = 1 - chance.sum()
    shown = np.array(_SENSITIVITY)
    given = (1 - shown)[:, None] * chance + np.diag(shown)
    return np.array(PREVALENCE)[:, None] * given


def condition_probabilities(pattern: str) -> Floats:
    """Return P(condition | pattern of the ECG), shape (conditions,): what the ECG can know of disease."""
    joint = pattern_table()[:, CONDITIONS.index(pattern)]
    return joint / joint.sum()


@dataclass(frozen=True)
class Calibration:
    """The equations solved for given ceilings; rows are the indicators in the order of `STATED`.

    Attributes
    ----------
    mean, woman, ceiling : numpy.ndarray, shape (indicators,)
    covariates : numpy.ndarray, shape (indicators, 3)
        Total effect of height, weight and age, what comes through the parents included.
    disease : numpy.ndarray, shape (indicators, conditions)
        Total effect of each condition at severity 1.
    shown, hidden : numpy.ndarray, shape (indicators, indicators)
        Loadings on the indicators' own parts ``g`` and ``e``.
    population_mean, population_deviation : numpy.ndarray, shape (indicators,)
        Over conditions, severities and both sexes.
    """

    mean: Floats
    woman: Floats
    ceiling: Floats
    covariates: Floats
    disease: Floats
    shown: Floats
    hidden: Floats
    population_mean: Floats
    population_deviation: Floats


def calibrate(ceilings: Mapping[str, float] | None = None) -> Calibration:
    """Return the equations solved for some ceilings; those not named stay as in `CEILINGS`.

    Raises
    ------
    ValueError
        If a name is unknown, or if no split of an indicator's own part gives the ceiling: sex, body and
        the patterns of disease alone may tell more, or the own part too little. Names the range.
    """
    asked = {**CEILINGS, **(ceilings or {})}
    unknown = sorted(set(asked) - set(STATED))
    if unknown:
        raise ValueError(f"No indicator is called {unknown[0]}. Indicators: {', '.join(STATED)}.")
    return _calibrated(tuple(asked[name] for name in STATED))


@functools.cache
def _calibrated(ceilings: tuple[float, ...]) -> Calibration:
    """Return the solved equations; the ceilings in the order of `STATED`."""
    equations = list(_EQUATIONS.values())
    through = np.linalg.inv(np.eye(len(STATED)) - _parents())
    covariates = through @ np.array([equation.covariates for equation in equations])
    disease = through @ np.array(
        [[equation.disease.get(name, 0.0) for name in CONDITIONS] for equation in equations]
    )
    mean, own, woman = (
        np.array([getattr(equation, name) for equation in equations]) for name in ("mean", "own", "woman")
    )
    everything, visible = _disease_covariances()
    known = (covariates**2).sum(axis=1) + np.einsum("ij,jk,ik->i", disease, visible, disease)
    total = (covariates**2).sum(axis=1) + np.einsum("ij,jk,ik->i", disease, everything, disease)
    total = total + through**2 @ own**2
    expected = mean + disease @ np.array(PREVALENCE) * (1 + LEAST_SEVERITY) / 2
    between = ((1 - woman) / 2) ** 2 * expected**2  # what knowing the sex alone tells
    within = (1 + woman**2) / 2
    gamma = np.zeros(len(STATED))
    for row, name in enumerate(STATED):
        before = known[row] + through[row] ** 2 @ gamma**2
        whole = within[row] * total[row] + between[row]
        room = (0.0, own[row] ** 2 if name in DRIVER_OF else 0.0)
        low, high = (float((within[row] * (before + part) + between[row]) / whole) for part in room)
        if not low <= ceilings[row] <= high:
            raise ValueError(
                f"A ceiling of {ceilings[row]:g} for {name} cannot be met: the others as they are, it lies "
                f"between {low:.2f} and {high:.2f}."
            )
        gamma[row] = np.sqrt(max((ceilings[row] * whole - between[row]) / within[row] - before, 0.0))
    return Calibration(
        mean,
        woman,
        np.array(ceilings),
        covariates,
        disease,
        shown=through * gamma,
        hidden=np.asarray(through * np.sqrt(own**2 - gamma**2), np.float64),
        population_mean=expected * (1 + woman) / 2,
        population_deviation=np.sqrt(within * total + between),
    )


def _parents() -> Floats:
    """Return the direct effect of each indicator (columns) on each (rows)."""
    return np.array(
        [[equation.parents.get(name, 0.0) for name in STATED] for equation in _EQUATIONS.values()]
    )


def _disease_covariances() -> tuple[Floats, Floats]:
    """Return covariances of severity times condition, and of its expectation given the drivers."""
    first = (1 + LEAST_SEVERITY) / 2
    second = (1 - LEAST_SEVERITY**3) / (3 * (1 - LEAST_SEVERITY))
    joint = pattern_table()
    prevalence, patterns = joint.sum(axis=1), joint.sum(axis=0)
    square = first**2 * np.outer(prevalence, prevalence)
    visible = (joint / patterns) @ joint.T
    return second * np.diag(prevalence) - square, second * visible - square
