"""How the heart of a simulated patient moves: volumes by a curve over the cycle, walls by conserved muscle.

The left ventricle is the half ellipsoid that `simulation.heart` describes. While it empties, its
long axis shortens in proportion, its radius follows from volume and length, and its wall from the mass.
A *level* is a place on the long axis, 0 at the base and 1 at the apex of the cavity; the epicardium goes
on below 1. At each level the area of cavity and muscle is that of the half ellipsoid, however septum,
scar and a loaded right ventricle shape the outlines: areas add up to the stated volumes and mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulation.heart import LONGITUDINAL_SHARE, MUSCLE_DENSITY, Heart
from simulation.patient import Floats
from simulation.rhythm import FIBRILLATION_RATE

_TRIGGER_DELAY = 0.05
"""Seconds from the onset of QRS to the R wave, with which a cine begins."""
_ISOVOLUMIC = (0.035, 0.075)
"""Seconds after the R wave before the ventricles eject, and after systole before they fill."""
MID_LEVEL = 0.5
"""Level of the short-axis slice."""
_RV_LENGTH = 0.92
"""Length of the right ventricle beside that of the LV cavity."""
_SEPTUM_CENTER = 180.0
"""Degrees; angles as in `simulation.heart.Scar`."""
_SEPTAL_EDGES = (25.0, 65.0)
"""Degrees from the middle of the septum up to which it is thick, and from which it no longer is."""
_RV_SPAN = 88.0
"""Degrees from the middle of the septum to where the right ventricle is attached."""
_THINNEST = 2.0
"""Millimetres that a wall outside the septum has at least."""
_SOFTNESS = (40.0, 0.12)
"""Degrees and share of the long axis over which a scar fades out."""
_LARGEST_AKINESIA = 0.85
"""Share of a scar's room for standing still that is used at most: the rest of the wall has to move for it."""


@dataclass(frozen=True)
class _Outline:
    """Radii around the axis of the left ventricle, mm; arrays of shape (frames, levels, angles).

    Attributes
    ----------
    endocardium, epicardium : numpy.ndarray
        Of the left ventricle.
    right : numpy.ndarray
        Outer border of the RV cavity, which lies outside the epicardium; equal to it elsewhere.
    right_wall : numpy.ndarray
        Outer border of the free wall of the right ventricle.
    length, wall : numpy.ndarray, shape (frames,)
        Length of the LV cavity and mean thickness of its wall.
    """

    endocardium: Floats
    epicardium: Floats
    right: Floats
    right_wall: Floats
    length: Floats
    wall: Floats


# Over the cycle -------------------------------------------------------------------------------------


def _cycle_length(heart: Heart) -> float:
    """Return the mean RR interval, seconds."""
    fibrillates = heart.drivers.rhythm == "fibrillation"
    return 60 / (heart.drivers.heart_rate * (FIBRILLATION_RATE if fibrillates else 1.0))


def systole_share(heart: Heart) -> float:
    """Return the share of the cycle, from the R wave, after which the ventricles are smallest.

    Electromechanical systole is 546 - 2.1 ms a beat a minute in men and 549 - 2.0 in women (Weissler et
    al., Circulation 37 (1968) 149), counted from the onset of QRS.
    """
    cycle = _cycle_length(heart)
    start, slope = (0.549, 0.0020) if heart.drivers.sex == "female" else (0.546, 0.0021)
    return float(np.clip((start - slope * 60 / cycle - _TRIGGER_DELAY) / cycle, 0.25, 0.60))


def filled_share(heart: Heart, phases: Floats) -> Floats:
    """Return how full the ventricles are: 1 at end-diastole, 0 at end-systole.

    Ejection, a rest, early filling, a rest, the atrial kick. Early filling does most of it in the young
    and in a stiff ventricle, and all of it where the atria fibrillate.

    Parameters
    ----------
    heart : Heart
    phases : numpy.ndarray
        Shares of the cycle from the R wave; 0 is end-diastole, and so is 1.
    """
    cycle, end = _cycle_length(heart), systole_share(heart)
    wait, rest = (seconds / cycle for seconds in _ISOVOLUMIC)
    early = _early_share(heart)
    diastole = 1 - end - rest
    stiff = heart.condition == "restrictive"
    lasting = 0.75 if early == 1 else (0.34 if stiff else 0.48)
    phases = np.mod(phases, 1.0)
    ejected = _smooth_step((phases - wait) / (end - wait))
    filling = _smooth_step((phases - end - rest) / (lasting * diastole))
    kick = _smooth_step((phases - 1 + 0.28 * diastole) / (0.26 * diastole))
    return np.asarray(1 - ejected + early * filling + (1 - early) * kick)


def _early_share(heart: Heart) -> float:
    """Return the share of the filling that does not come from the kick of the atria."""
    if heart.drivers.rhythm == "fibrillation":
        return 1.0
    usual = float(np.clip(0.90 - 0.0045 * (heart.drivers.age - 20), 0.5, 0.9))
    changes = {"restrictive": 0.15, "hypertrophic": -0.12}
    return float(np.clip(usual + changes.get(heart.condition, 0.0), 0.45, 0.95))


def _smooth_step(position: Floats) -> Floats:
    """Return 0 below 0, 1 above 1, and half a cosine between."""
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.clip(position, 0.0, 1.0)))


def volume_curve(heart: Heart, phases: Floats) -> Floats:
    """Return the volume of the LV cavity at phases of the cycle, mL."""
    return np.asarray(heart.lv_esv + heart.stroke_volume * filled_share(heart, phases))


def rv_volume_curve(heart: Heart, phases: Floats) -> Floats:
    """Return the volume of the RV cavity at phases of the cycle, mL."""
    return np.asarray(heart.rv_esv + heart.stroke_volume * filled_share(heart, phases))


def la_volume_curve(heart: Heart, phases: Floats) -> Floats:
    """Return the volume of the left atrium, mL: greatest at end-systole, it empties as the LV fills."""
    weak = heart.drivers.rhythm == "fibrillation" or heart.condition in ("restrictive", "dilated")
    return np.asarray(heart.la_volume * (1 - (0.32 if weak else 0.50) * filled_share(heart, phases)))


def shell_thickness(radius: Floats, length: Floats, mass: float) -> Floats:
    """Return the wall of half an ellipsoid, mm, from mm and grams: as `Heart.mean_wall`, for arrays."""
    cubic = 1.5 * 1000 * mass / (MUSCLE_DENSITY * np.pi)
    wall = np.full(np.shape(radius), np.cbrt(cubic))  # too thick, so Newton's steps come down to the root
    for _ in range(12):
        outer = radius + wall
        excess = outer**2 * (length + wall) - radius**2 * length - cubic
        wall = wall - excess / (2 * outer * (length + wall) + outer**2)
    return np.asarray(wall, np.float64)


# Outlines -------------------------------------------------------------------------------------------


def angles_of(count: int) -> Floats:
    """Return evenly spaced angles of a full circle, degrees, from 0."""
    return np.arange(count, dtype=np.float64) * (360.0 / count)


def outline(heart: Heart, phases: Floats, levels: Floats, count: int = 120) -> _Outline:
    """Return the outlines of the ventricles.

    Parameters
    ----------
    heart : Heart
    phases : numpy.ndarray, shape (frames,)
        Shares of the cycle from end-diastole.
    levels : numpy.ndarray, shape (levels,) or (frames, levels)
    count : int
        Number of angles, from 0 degrees (the lateral wall) on.
    """
    angles = angles_of(count)
    levels = np.broadcast_to(levels, (len(phases), np.shape(levels)[-1]))
    radius, length, wall = _half_ellipsoid(heart, phases)
    cavity, ring = _areas(heart, radius, length, wall, levels)
    resting = heart.lv_radius**2 * np.maximum(1 - levels**2, 0.0)
    scar = _scar_profile(heart, angles, levels)
    shape = _cross_section(heart, phases, angles)
    endocardium = np.sqrt(_moved(shape, resting, cavity, _mobility(heart, scar)))
    thickness = _wall_profile(heart, angles) * _scarred(heart, scar, wall)
    epicardium = endocardium + _conserving(endocardium, thickness, ring)
    right, right_wall = _right_ventricle(heart, phases, angles, levels, epicardium, length)
    return _Outline(endocardium, epicardium, right, right_wall, length, wall)


def _half_ellipsoid(heart: Heart, phases: Floats) -> tuple[Floats, Floats, Floats]:
    """Return radius, length and mean wall at each phase, mm."""
    left = volume_curve(heart, phases) / heart.lv_edv
    shortening = 1 - LONGITUDINAL_SHARE * (1 - left)
    radius, length = heart.lv_radius * np.sqrt(left / shortening), heart.lv_length * shortening
    return radius, length, shell_thickness(radius, length, heart.lv_mass)


def _areas(
    heart: Heart, radius: Floats, length: Floats, wall: Floats, levels: Floats
) -> tuple[Floats, Floats]:
    """Return the areas of cavity and muscle at each level over pi, square mm, shape (frames, levels)."""
    cavity = (radius**2)[:, None] * np.maximum(1 - levels**2, 0.0)
    below = levels * (length / (length + wall))[:, None]
    whole = ((radius + wall) ** 2)[:, None] * np.maximum(1 - below**2, 0.0)
    return cavity, whole - cavity


def _lobe(angles: Floats, center: float, full: float, none: float) -> Floats:
    """Return 1 up to so many degrees from a centre, 0 from so many on, and half a cosine between."""
    away = np.abs((angles - center + 180) % 360 - 180)
    return _smooth_step((none - away) / (none - full))


def _scar_profile(heart: Heart, angles: Floats, levels: Floats) -> Floats:
    """Return how much each place belongs to the scar, 0 to 1, shape (frames, levels, angles)."""
    scar = heart.scar
    if scar is None:
        return np.zeros((1, 1, len(angles)))
    degrees, share = _SOFTNESS
    around = _lobe(angles, scar.angle, scar.extent / 2 - degrees / 2, scar.extent / 2 + degrees / 2)
    along = _smooth_step((levels - scar.base) / share + 0.5)
    if scar.apex < 1:  # one that reaches the apex includes it
        along = along * _smooth_step((scar.apex - levels) / share + 0.5)
    return np.asarray(along[:, :, None] * around)


def _mobility(heart: Heart, scar: Floats) -> Floats:
    """Return the share of its motion that each place has; what a scar keeps back, the others make up for."""
    if heart.scar is None:
        return 1 - scar
    length = 1 + heart.longitudinal_strain / 100
    least = (1 - heart.ejection_fraction / 100) / length  # area of the cavity at end-systole
    room = least / np.maximum(scar.mean(axis=2, keepdims=True), 1e-9)
    return np.asarray(1 - np.minimum(heart.scar.akinesia, _LARGEST_AKINESIA * room) * scar)


def _cross_section(heart: Heart, phases: Floats, angles: Floats) -> Floats:
    """Return the shape of the cavity as squared radii of mean 1, shape (frames, 1, angles).

    A right ventricle under pressure pushes the septum flat, most so at the end of systole.
    """
    if heart.condition != "pulmonary hypertension":
        return np.ones((1, 1, len(angles)))
    pushed = heart.drivers.severity * (0.08 + 0.30 * (1 - filled_share(heart, phases)))
    toward = np.cos(np.radians(angles - _SEPTUM_CENTER))
    chord = (1 - pushed)[:, None, None] / np.where(toward > 0.05, toward, 0.05)
    squared = np.minimum(chord, 1.0) ** 2
    return np.asarray(squared / squared.mean(axis=2, keepdims=True))


def _moved(shape: Floats, resting: Floats, cavity: Floats, mobility: Floats) -> Floats:
    """Return the squared radius of the cavity: its mean is that of the area, whatever stands still."""
    weight = (shape * mobility).mean(axis=2, keepdims=True)
    inward = (resting - cavity)[:, :, None] / weight
    return np.asarray(np.maximum(shape * (resting[:, :, None] - inward * mobility), 0.0))


def _wall_profile(heart: Heart, angles: Floats) -> Floats:
    """Return the thickness of the wall at end-diastole and mid-level, a scar's thinning aside, mm.

    The septum is as thick as stated, and all else as thick as the mass then leaves it.
    """
    start, middle = np.zeros(1), np.full((1, 1), MID_LEVEL)
    cavity, ring = _areas(heart, *_half_ellipsoid(heart, start), middle)
    endocardium = np.sqrt(cavity * _cross_section(heart, start, angles)[0])[0]
    thinned = 1 - (heart.scar.thinning if heart.scar else 0.0) * _scar_profile(heart, angles, middle)[0, 0]
    septum = _lobe(angles, _SEPTUM_CENTER, *_SEPTAL_EDGES)
    fixed, free = thinned * septum * heart.wall_thickness, thinned * (1 - septum)
    # muscle is the mean of 2 r t + t ** 2; with t = fixed + other * free that is quadratic in other
    square, linear = (free**2).mean(), (free * (endocardium + fixed)).mean()
    constant = (fixed**2 + 2 * endocardium * fixed).mean() - ring[0, 0]
    other = (-linear + np.sqrt(max(linear**2 - square * constant, 0.0))) / square
    return np.asarray(max(other, _THINNEST) * (1 - septum) + heart.wall_thickness * septum)


def _scarred(heart: Heart, scar: Floats, wall: Floats) -> Floats:
    """Return the factor on the thickness of each place: a scar is thin, and hardly thickens."""
    if heart.scar is None:
        return np.ones((1, 1, 1))
    thickening = (heart.mean_wall / wall)[:, None, None]
    return np.asarray((1 - heart.scar.thinning * scar) * (1 - heart.scar.akinesia * scar * (1 - thickening)))


def _conserving(endocardium: Floats, thickness: Floats, ring: Floats) -> Floats:
    """Return the thickness scaled to the area of muscle that there is at each level."""
    square = (thickness**2).mean(axis=2)
    linear = (endocardium * thickness).mean(axis=2)
    factor = (-linear + np.sqrt(linear**2 + square * np.maximum(ring, 0.0))) / square
    return np.asarray(factor[:, :, None] * thickness)


def _right_ventricle(
    heart: Heart, phases: Floats, angles: Floats, levels: Floats, epicardium: Floats, length: Floats
) -> tuple[Floats, Floats]:
    """Return the outer borders of cavity and free wall of the right ventricle, mm."""
    volume = 1000 * rv_volume_curve(heart, phases)[:, None]
    area = 1.5 * volume / (_RV_LENGTH * length[:, None]) * np.maximum(1 - (levels / _RV_LENGTH) ** 2, 0.0)
    away = np.abs((angles - _SEPTUM_CENTER + 180) % 360 - 180)
    crescent = np.maximum(1 - (away / _RV_SPAN) ** 2, 0.0) ** 1.5
    right = np.sqrt(epicardium**2 + (area / (np.pi * crescent.mean()))[:, :, None] * crescent)
    around = _lobe(angles, _SEPTUM_CENTER, _RV_SPAN - 14, _RV_SPAN)
    contracted = 1 + 0.35 * (1 - filled_share(heart, phases))[:, None]
    wall = heart.rv_wall * contracted * np.clip((_RV_LENGTH - levels) / 0.08, 0.0, 1.0)
    return right, np.asarray(right + wall[:, :, None] * around)
