"""The heart of a simulated patient: what an ECG is rendered from, and what an image of the heart shows.

A `Heart` holds true anatomy and function; its `Drivers` are all that an ECG may be rendered from. The
two are tied by `simulation.physiology`: how much of each indicator the drivers tell is a stated
setting. Some things show on one side only: right bundle branch block and unspecific flat T waves in the
ECG, a small scar in the image. `simulation.heart_population` draws hearts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from simulation.physiology import STATED

MUSCLE_DENSITY = 1.05
"""Grams a millilitre."""
LONGITUDINAL_SHARE = 0.28
"""Shortening of the long axis for each unit of ejection fraction: 17 % at 60 %."""


@dataclass(frozen=True)
class Traits:
    """What makes the ECG of a person recognizable and says nothing about the heart's indicators.

    Attributes
    ----------
    axis, turn, t_axis : float
        Degrees by which the loops are rotated in the frontal and in the horizontal plane, and the T
        loop further in the horizontal plane.
    voltage, p_gain, t_gain, width : float
        Factors on QRS, P and T amplitude and on the QRS duration.
    pr_interval, qt_corrected : float
        Seconds; QT by Fridericia's formula at an RR interval of one second.
    variability : float
        Standard deviation of the RR interval in sinus rhythm, seconds.
    respiration_rate : float
        Hertz.
    lead_gains : tuple of float
        Factors on I, II, V1 to V6: where the electrodes sit on this chest.
    """

    axis: float
    turn: float
    t_axis: float
    voltage: float
    p_gain: float
    t_gain: float
    width: float
    pr_interval: float
    qt_corrected: float
    variability: float
    respiration_rate: float
    lead_gains: tuple[float, ...]


@dataclass(frozen=True)
class Drivers:
    """All that an ECG is rendered from.

    Attributes
    ----------
    age : float
        Years.
    sex : {"male", "female"}
    height, weight : float
        Centimetres and kilograms.
    heart_rate : float
        Beats a minute.
    pattern : str
        One of `CONDITIONS`: what the ECG looks like, which is not always what the patient has.
    severity : float
        Of the pattern and of the disease, .5 to 1.
    lv_size, lv_bulk, septum, rv_size, atrium, pump : float
        The visible share of LV volume, LV mass, wall thickness, RV volume, left atrial volume and
        ejection fraction: mean 0 and standard deviation 1 over the population.
    rhythm : {"sinus", "fibrillation"}
    ectopic_rate : float
        Ventricular ectopic beats a minute.
    right_block, flat_t : bool
        Right bundle branch block and flat T waves that have nothing to do with any indicator.
    traits : Traits
    """

    age: float
    sex: Literal["male", "female"]
    height: float
    weight: float
    heart_rate: float
    pattern: str
    severity: float
    lv_size: float
    lv_bulk: float
    septum: float
    rv_size: float
    atrium: float
    pump: float
    rhythm: Literal["sinus", "fibrillation"]
    ectopic_rate: float
    right_block: bool
    flat_t: bool
    traits: Traits

    @property
    def bmi(self) -> float:
        """Body mass index, kilograms a square metre."""
        return self.weight / (self.height / 100) ** 2


@dataclass(frozen=True)
class Scar:
    """A part of the left ventricle that is thin and moves less.

    Attributes
    ----------
    angle, extent : float
        Middle and width, degrees in a short-axis view from the apex as it is usually shown: lateral
        wall 0, anterior 90, septum 180, inferior 270.
    base, apex : float
        Where it begins and ends along the long axis: 0 at the base, 1 at the apex.
    thinning, akinesia : float
        Share of the wall, and of its motion, that is lost.
    """

    angle: float
    extent: float
    base: float
    apex: float
    thinning: float
    akinesia: float


@dataclass(frozen=True)
class Heart:
    """True anatomy and function of one patient's heart, and the drivers of the ECG.

    Attributes
    ----------
    drivers : Drivers
    condition : str
        One of `CONDITIONS`.
    lv_edv, rv_edv, la_volume : float
        End-diastolic volumes of the ventricles, greatest volume of the left atrium, mL.
    lv_mass : float
        Grams.
    wall_thickness : float
        Thickness of the septum at end-diastole, mm.
    ejection_fraction : float
        Of the left ventricle, percent.
    blood_contrast : float
        Brightness of blood relative to muscle in a cine image.
    sphericity : float
        Diameter over length of the LV cavity at end-diastole.
    rv_wall : float
        Thickness of the free wall of the right ventricle, mm.
    scar : Scar or None
        Of an infarction, or a small one that only an image shows.
    """

    drivers: Drivers
    condition: str
    lv_edv: float
    lv_mass: float
    wall_thickness: float
    rv_edv: float
    la_volume: float
    ejection_fraction: float
    blood_contrast: float
    sphericity: float
    rv_wall: float
    scar: Scar | None

    @property
    def disease(self) -> str:
        """The condition, with the three infarctions as one: ``infarction``."""
        return "infarction" if self.territory else self.condition

    @property
    def territory(self) -> str:
        """``anterior``, ``inferior`` or ``lateral`` of an infarction, otherwise empty."""
        return self.condition.split()[0] if self.condition.endswith("infarction") else ""

    @property
    def stroke_volume(self) -> float:
        """mL; the same for both ventricles, as no valve leaks."""
        return self.lv_edv * self.ejection_fraction / 100

    @property
    def lv_esv(self) -> float:
        """LV end-systolic volume, mL."""
        return self.lv_edv - self.stroke_volume

    @property
    def rv_esv(self) -> float:
        """RV end-systolic volume, mL."""
        return self.rv_edv - self.stroke_volume

    @property
    def rv_ejection_fraction(self) -> float:
        """Percent."""
        return 100 * self.stroke_volume / self.rv_edv

    @property
    def lv_radius(self) -> float:
        """Radius of the LV cavity at the base at end-diastole, mm: of half an ellipsoid of its volume."""
        return float(np.cbrt(750 * self.lv_edv * self.sphericity / np.pi))

    @property
    def lv_length(self) -> float:
        """Length of the LV cavity at end-diastole, base to apex, mm."""
        return 2 * self.lv_radius / self.sphericity

    @property
    def mean_wall(self) -> float:
        """Wall thickness that gives the half ellipsoid its mass if it is the same everywhere, mm."""
        return _shell_thickness(self.lv_radius, self.lv_length, self.lv_mass)

    @property
    def longitudinal_strain(self) -> float:
        """Global longitudinal strain, percent (negative: the long axis shortens)."""
        return -LONGITUDINAL_SHARE * self.ejection_fraction

    @property
    def circumferential_strain(self) -> float:
        """Global circumferential strain of the endocardium, percent: what volume and length imply."""
        length = 1 + self.longitudinal_strain / 100
        return float(100 * (np.sqrt((1 - self.ejection_fraction / 100) / length) - 1))

    @property
    def radial_strain(self) -> float:
        """Global radial strain, percent: thickening of the mean wall at unchanged mass."""
        radius = self.lv_radius * (1 + self.circumferential_strain / 100)
        length = self.lv_length * (1 + self.longitudinal_strain / 100)
        return 100 * (_shell_thickness(radius, length, self.lv_mass) / self.mean_wall - 1)

    def indicators(self) -> dict[str, float]:
        """Return every indicator by name, stated ones (`CEILINGS`) first; units as at the attributes."""
        derived = ("lv_esv", "stroke_volume", "rv_esv", "rv_ejection_fraction",
                   "longitudinal_strain", "circumferential_strain", "radial_strain")  # fmt: skip
        return {name: float(getattr(self, name)) for name in (*STATED, *derived)}


def _shell_thickness(radius: float, length: float, mass: float) -> float:
    """Return the thickness of the wall around half an ellipsoid, mm, from mm and grams."""

    def excess(wall: float) -> float:
        shell = (radius + wall) ** 2 * (length + wall) - radius**2 * length
        return float(2 / 3 * np.pi * shell - 1000 * mass / MUSCLE_DENSITY)

    return float(brentq(excess, 0.0, 100.0))
