"""Volumes, ejection fraction, mass and wall thickness measured in a short-axis cine through the middle.

One slice does not show a length, so a shape has to be assumed: half an ellipsoid whose cavity is `SPHERICITY`
times as wide as long at end-diastole, cut at half its length, and whose length shortens by
`LONGITUDINAL_SHARE` of the ejection fraction (17 % at 60 %). With areas A of the cavity then, of its radius r
at the base and its length L::

    r = sqrt(A / pi / (1 - MID_LEVEL ** 2))     L = 2 r / SPHERICITY     volume = 2 / 3 pi r ** 2 L
    ejection fraction = (1 - q) / (1 - LONGITUDINAL_SHARE * q),   q = smallest area / largest area

and the mass is that of the shell, 1.05 g/mL, whose cut has the area of the muscle; muscle is not lost in a
beat, so the median over the frames is taken. How far all that is from the truth has to be measured beside
whatever is measured with it: `measuring_error`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from systems.ecg_cmr.cine.contours import ANGLES, Contours, find_contours

Array = NDArray[np.float64]

MEASURED = ("lv_edv", "lv_esv", "ejection_fraction", "lv_mass", "wall_thickness")
"""mL, mL, percent, g, mm: names as those of a simulated heart's indicators."""
UNITS = {"lv_edv": "mL", "lv_esv": "mL", "ejection_fraction": "%", "lv_mass": "g", "wall_thickness": "mm"}
MID_LEVEL = 0.5
SPHERICITY = 0.5
LONGITUDINAL_SHARE = 0.28
MUSCLE_DENSITY = 1.05
SEPTUM = 25.0
"""Degrees on both sides of the middle of the septum over which its thickness is taken."""
DIASTOLE = (0, 1, -1)
"""Frames around end-diastole."""


def measure_cine(cine: ArrayLike, pixel_spacing: float) -> dict[str, float]:
    """Measure one cine; all values are NaN where no left ventricle is found.

    Parameters
    ----------
    cine : array_like, shape (frames, height, width)
        Brightness 0 to 1, from end-diastole on over one cycle.
    pixel_spacing : float
        Millimetres.
    """
    contours = find_contours(cine)
    return dict.fromkeys(MEASURED, np.nan) if contours is None else indicators_of(contours, pixel_spacing)


def measure_cines(cines: Iterable[ArrayLike], pixel_spacing: float) -> pd.DataFrame:
    """Measure cines, one row each; columns are `MEASURED`."""
    rows = [measure_cine(cine, pixel_spacing) for cine in cines]
    return pd.DataFrame(rows, columns=list(MEASURED), dtype=float)


def indicators_of(contours: Contours, pixel_spacing: float) -> dict[str, float]:
    """Return what the borders of a left ventricle imply, in mL, percent, g and mm."""
    inner, outer = contours.endocardium * pixel_spacing, contours.epicardium * pixel_spacing
    square = ndimage.convolve1d((inner**2).mean(axis=1), [0.25, 0.5, 0.25], mode="wrap")
    left = square / square.max()
    shortening = 1 - LONGITUDINAL_SHARE * ejected(left)
    radius = np.sqrt(square / (1 - MID_LEVEL**2))
    length = 2 * radius.max() / SPHERICITY * shortening
    fraction = float(ejected(left.min()))
    volume = float(2 / 3 * np.pi * (radius**2 * length).max() / 1000)
    muscle = (outer**2 - inner**2).mean(axis=1)
    mass = np.median([shell_mass(*frame) for frame in zip(radius, length, muscle, strict=True)])
    return {
        "lv_edv": volume,
        "lv_esv": volume * (1 - fraction),
        "ejection_fraction": 100 * fraction,
        "lv_mass": float(mass),
        "wall_thickness": _septal_thickness(contours, pixel_spacing),
    }


def ejected(left: ArrayLike) -> Array:
    """Return the share of the volume that is gone when this share of the mid-level area is left.

    With the length L (1 - k f) at an ejected share f, ``1 - f = left * (1 - k f)``.
    """
    left = np.asarray(left, float)
    return np.asarray((1 - left) / (1 - LONGITUDINAL_SHARE * left))


def shell_mass(radius: float, length: float, muscle: float) -> float:
    """Return the mass, g, of the shell around half an ellipsoid whose cut at mid-level shows this muscle.

    Parameters
    ----------
    radius, length : float
        Of the cavity, mm.
    muscle : float
        Area of muscle over pi, square mm.
    """
    walls = np.linspace(0.0, 40.0, 801)
    level = MID_LEVEL * length / (length + walls)
    cut = (radius + walls) ** 2 * (1 - level**2) - radius**2 * (1 - MID_LEVEL**2)
    wall = float(np.interp(muscle, cut, walls))
    shell = (radius + wall) ** 2 * (length + wall) - radius**2 * length
    return float(2 / 3 * np.pi * shell * MUSCLE_DENSITY / 1000)


def _septal_thickness(contours: Contours, pixel_spacing: float) -> float:
    """Return the thickness of the septum around end-diastole, mm."""
    angles = np.arange(ANGLES) * (360 / ANGLES)
    away = np.abs((angles - contours.septum + 180) % 360 - 180)
    wall = (contours.epicardium - contours.endocardium)[list(DIASTOLE)]
    return float(np.median(wall[:, away <= SEPTUM]) * pixel_spacing)
