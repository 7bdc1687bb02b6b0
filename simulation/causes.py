"""Patients whose disease shows in one view alone: in the clinical table, in today's signal, or on old paper.

A patient is abnormal if at least one of three independent causes is there: a cardiometabolic burden in
the clinical table, a paroxysm (an irregular or ectopic rhythm, say) in today's digital signal, a
paroxysm on the paper of another day. Everything else (age, sex, body, anatomy, noise) is drawn without
looking at the causes; all hearts are healthy otherwise, and in the table RR features come from a third
recording, which is calm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from simulation.clinical import draw_clinical
from simulation.heart import Drivers
from simulation.heart_population import draw_heart
from simulation.patient import stream
from simulation.rhythm import Paroxysm
from simulation.vectorcardiogram import render_ecg

Cause = Literal["clinical", "signal", "image"]
Sign = Literal["fibrillation", "ectopy", "st depression", "late potentials"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
_SIGNS: tuple[Sign, ...] = get_args(Sign)

COHORT = 11
"""First word of the key of a patient's random streams (that of the heart is 10)."""
_CAUSE, TABLE, _SIGNAL, PAPER = range(4)
_LEAD = 1
"""Lead II."""
_SIGNAL_RATE, PAPER_RATE = 250, 500
"""Hertz."""
_SIGNAL_SAMPLES = (2460, 2501)
"""Shortest row of ecg_signals.csv, and the first length that does not occur."""
PAPER_SECONDS = 10.0
_DAY_TO_DAY = 0.05
"""Standard deviation of the logarithm of the heart rate between the days of two recordings."""


@dataclasses.dataclass(frozen=True)
class CauseSettings:
    """What decides the content of a cohort.

    Attributes
    ----------
    patients, seed : int
    causes : tuple of {"clinical", "signal", "image"}
        Causes that occur.
    prevalences : tuple of float
        Share of patients with each of the causes; empty: alike, so that ``abnormal_share`` results.
    abnormal_share : float
        Share of patients with at least one cause, used where prevalences are empty.
    borderline : float
        Share of patients whose label is borderline, whatever they have.
    missing : float
        Share of clinical values that are missing, at random.
    signal_signs, paper_signs : tuple of {"fibrillation", "ectopy", "st depression", "late potentials"}
        What the signal-only and the image-only cause look like; one of them for each patient.
    noise : float
        Factor on wander, muscle noise and hum of both recordings.
    """

    patients: int
    seed: int = 0
    causes: tuple[Cause, ...] = CAUSES
    prevalences: tuple[float, ...] = ()
    abnormal_share: float = 0.4
    borderline: float = 0.04
    missing: float = 0.1
    signal_signs: tuple[Sign, ...] = ("fibrillation", "ectopy")
    paper_signs: tuple[Sign, ...] = ("fibrillation", "ectopy")
    noise: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        rules = (
            (self.patients >= 1, "patients", "1 or more"),
            (self.seed >= 0, "seed", "0 or more"),
            (_all_different(self.causes, CAUSES), "causes", f"some of {', '.join(CAUSES)}"),
            (len(self.prevalences) in (0, len(self.causes)), "prevalences", "one a cause, or none"),
            (all(0 <= share <= 1 for share in self.prevalences), "prevalences", "between 0 and 1"),
            (0 <= self.abnormal_share <= 1, "abnormal_share", "between 0 and 1"),
            (0 <= self.borderline <= 1, "borderline", "between 0 and 1"),
            (0 <= self.missing <= 1, "missing", "between 0 and 1"),
            (_all_different(self.signal_signs, _SIGNS), "signal_signs", f"some of {', '.join(_SIGNS)}"),
            (_all_different(self.paper_signs, _SIGNS), "paper_signs", f"some of {', '.join(_SIGNS)}"),
            (self.noise >= 0, "noise", "0 or more"),
        )
        for holds, name, expected in rules:
            if not holds:
                given = getattr(self, name)
                raise ValueError(f"Simulation setting {name} is {given}, but must be {expected}.")

    def prevalence(self) -> dict[Cause, float]:
        """Return the share of patients with each cause; 0 for those that do not occur."""
        alike = 1 - (1 - self.abnormal_share) ** (1 / len(self.causes))
        shares = self.prevalences or (alike,) * len(self.causes)
        return {cause: dict(zip(self.causes, shares, strict=True)).get(cause, 0.0) for cause in CAUSES}


@dataclasses.dataclass(frozen=True)
class PatientViews:
    """Everything that is measured of one patient.

    Attributes
    ----------
    signal : numpy.ndarray of float32, shape (samples,)
        Lead II of today, millivolts at 250 Hz.
    paper : numpy.ndarray of float32, shape (5000,)
        Lead II of another day, millivolts at 500 Hz; only a drawing of it is handed out.
    clinical : dict of str to float
    truth : dict
        The row of truth.csv.
    """

    signal: NDArray[np.float32]
    paper: NDArray[np.float32]
    clinical: dict[str, float]
    truth: dict[str, Any]


def _all_different(given: Sequence[str], known: Sequence[str]) -> bool:
    return 0 < len(set(given)) == len(given) and set(given) <= set(known)


def simulate_views(settings: CauseSettings, patient: int) -> PatientViews:
    """Return one patient of a cohort, without touching a file; others do not matter.

    Parameters
    ----------
    settings : FolderSettings
    patient : int
        Number from 0; the id in the files is one more.
    """
    seed = settings.seed
    rng = stream(seed, COHORT, patient, _CAUSE)
    chances, picks, doubt = rng.random(len(CAUSES)), rng.random(2), rng.random()
    has = {
        cause: bool(chance < share)
        for (cause, share), chance in zip(settings.prevalence().items(), chances, strict=True)
    }
    signs = {
        cause: str(choices[int(pick * len(choices))]) if has[cause] else "absent"
        for cause, choices, pick in (
            (CAUSES[1], settings.signal_signs, picks[0]),
            (CAUSES[2], settings.paper_signs, picks[1]),
        )
    }
    heart = draw_heart(seed, patient, condition="none", pattern="none")
    heart = dataclasses.replace(heart, drivers=_calm(heart.drivers))
    abnormal = any(has.values())
    drawn = "abnormal" if abnormal else "normal"
    today = stream(seed, COHORT, patient, _SIGNAL)
    samples = int(today.integers(*_SIGNAL_SAMPLES))
    return PatientViews(
        signal=_recorded(heart.drivers, samples, _SIGNAL_RATE, signs["signal"], settings.noise, today),
        paper=_recorded(
            heart.drivers,
            round(PAPER_SECONDS * PAPER_RATE),
            PAPER_RATE,
            signs["image"],
            settings.noise,
            stream(seed, COHORT, patient, PAPER),
        ),
        clinical=draw_clinical(
            heart, stream(seed, COHORT, patient, TABLE), has["clinical"], settings.missing
        ),
        truth={
            "id": patient + 1,
            "abnormal": int(abnormal),
            "label": "borderline" if doubt < settings.borderline else drawn,
            **{f"cause_{cause}": int(has[cause]) for cause in CAUSES},
            "signal_sign": signs["signal"],
            "image_sign": signs["image"],
        },
    )


def _calm(drivers: Drivers) -> Drivers:
    """Return drivers without anything in the ECG that a doctor would call abnormal."""
    return dataclasses.replace(drivers, rhythm="sinus", ectopic_rate=0.0, right_block=False, flat_t=False)


def _recorded(
    drivers: Drivers, samples: int, rate: int, sign: str, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return lead II of one day, millivolts, shape (samples,)."""
    change = np.exp(_DAY_TO_DAY * np.clip(rng.normal(), -2.5, 2.5))
    today = dataclasses.replace(drivers, heart_rate=float(drivers.heart_rate * change))
    paroxysm = _paroxysm(sign, rng)
    return render_ecg(today, samples / rate, rate, rng, paroxysm, noise)[_LEAD]


def _paroxysm(sign: str, rng: np.random.Generator) -> Paroxysm:
    """Return a sign as a paroxysm; draws alike for all signs."""
    beats, depth, height = (
        int(rng.integers(2, 5)),
        float(rng.uniform(0.12, 0.22)),
        float(rng.uniform(0.02, 0.04)),
    )
    return Paroxysm(
        fibrillation=sign == "fibrillation",
        ectopic_beats=beats if sign == "ectopy" else 0,
        st_depression=depth if sign == "st depression" else 0.0,
        late_potentials=height if sign == "late potentials" else 0.0,
    )
