"""From the heart's dipole to twelve leads: projection, electrodes, and the noise they pick up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulation.patient import Floats

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

# How much of the dipole's components x (to the left), y (to the feet) and z (to the back) the leads I,
# II and V1 to V6 see: the coefficients of Dower (Clin. Cardiol. 3 (1980) 87), whose pseudo-inverse is
# the inverse Dower matrix of Edenbrandt and Pahlm (J. Electrocardiol. 21 (1988) 361).
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)

_WANDER = 0.035
"""Root mean square of the baseline wander of one electrode, millivolts."""
MUSCLE = 0.010
"""Root mean square of the muscle noise of one electrode, millivolts."""
_MAINS = 0.004
"""Amplitude of the mains hum of one electrode, millivolts."""
_PASS_BAND = (0.05, 150.0)
"""Hertz; what a resting electrocardiograph lets through."""


def twelve_leads(dipole: Floats, gains: tuple[float, ...] = (1.0,) * 8) -> Floats:
    """Return the twelve leads that see a dipole, millivolts.

    Parameters
    ----------
    dipole : numpy.ndarray, shape (3, samples)
        Components x (to the left), y (to the feet) and z (to the back), millivolts.
    gains : tuple of float
        Factors on I, II and V1 to V6.

    Returns
    -------
    numpy.ndarray of float64, shape (12, samples)
        In the order of `LEADS`.
    """
    return np.asarray(with_derived_leads(np.array(gains)[:, None] * (DOWER @ dipole)), np.float64)


def with_derived_leads(leads: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return twelve leads from I, II and V1 to V6, shape (8, samples) to (12, samples).

    Einthoven: III = II - I. Goldberger: aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2.
    """
    first, second = leads[0], leads[1]
    derived = (second - first, -(first + second) / 2, first - second / 2, second - first / 2)
    return np.concatenate([leads[:2], np.stack(derived), leads[2:]])


def electrode_noise(count: int, sampling_rate: float, level: float, rng: np.random.Generator) -> Floats:
    """Return what the electrodes pick up besides the heart, as seen by I, II and V1 to V6.

    Noise arises at each of the nine electrodes: slow wander, muscle, mains. The limb leads are
    differences of electrodes, the chest leads are taken against the mean of the three limbs.

    Parameters
    ----------
    count : int
        Samples.
    sampling_rate : float
        Hertz.
    level : float
        Factor on all noise; 0: none.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray of float64, shape (8, samples)
        Millivolts.
    """
    frequencies = np.fft.rfftfreq(count, 1 / sampling_rate)
    levels = np.exp(0.35 * rng.normal(size=(3, 9, 1)))
    wander = _shaped(rng, 9, count, np.exp(-((frequencies / 0.35) ** 2)) * (frequencies > _PASS_BAND[0]))
    band = (frequencies > 15) & (frequencies < _PASS_BAND[1])
    muscle = _shaped(rng, 9, count, band / np.sqrt(1 + (frequencies / 60) ** 2))
    mains = 50.0 if rng.random() < 0.6 else 60.0
    phases = rng.uniform(0, 2 * np.pi) + 0.4 * rng.normal(size=(9, 1))
    hum = np.sin(2 * np.pi * mains * np.arange(count) / sampling_rate + phases)
    electrodes = levels[0] * _WANDER * wander + levels[1] * MUSCLE * muscle + levels[2] * _MAINS * hum
    right, left, foot = electrodes[:3]
    chest = electrodes[3:] - electrodes[:3].mean(axis=0)
    return level * np.concatenate([[left - right, foot - right], chest])


def _shaped(rng: np.random.Generator, rows: int, count: int, response: Floats) -> Floats:
    """Return Gaussian noise with a spectrum, each row of unit variance, shape (rows, count).

    The spectrum is drawn rather than filtered, which takes one transform instead of two.
    """
    parts = rng.normal(size=(2, rows, len(response)))
    noise = np.fft.irfft((parts[0] + 1j * parts[1]) * response, count)
    deviation = noise.std(axis=1, keepdims=True)
    return np.asarray(noise / np.where(deviation > 0, deviation, 1.0))
