"""What is measured in generated cines, and which of them show no heart that there could be."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from systems.ecg_cmr.cine.measures import MEASURED, UNITS, measure_cines

PLAUSIBLE = {"lv_edv": (20.0, 600.0), "ejection_fraction": (5.0, 95.0)}
"""Lowest and highest value that a living heart may have, mL and percent.

600 mL is the end of the scale on which the Second Annual Data Science Bowl (Kaggle 2015) had volumes of the
left ventricle estimated, in patients of all ages with and without disease. Those of healthy adults lie far
within (Petersen et al., J. Cardiovasc. Magn. Reson. 19:18, 2017). The other bounds are as wide: they find
what no heart has, not what is abnormal.
"""
NOT_FOUND = "not found"
_NOTHING = "no left ventricle is found"
_NAMES = {"lv_edv": "end-diastolic volume", "ejection_fraction": "ejection fraction"}


def measure_generated(cines: Iterable[ArrayLike], pixel_spacing: float) -> tuple[pd.DataFrame, list[str]]:
    """Measure generated cines; nothing is taken from one in which a value is that of no heart.

    Parameters
    ----------
    cines : iterable of array_like, shape (frames, height, width)
        Brightness 0 to 1.
    pixel_spacing : float
        Millimetres.

    Returns
    -------
    table : pandas.DataFrame
        A row a cine, columns `MEASURED`; NaN where nothing is found.
    reasons : list of str
        Why nothing is found in each; empty where something is.
    """
    table = measure_cines(cines, pixel_spacing)
    reasons = [why_no_heart(row) for row in table.to_dict("records")]
    table.loc[[bool(reason) for reason in reasons], list(MEASURED)] = np.nan
    return table, reasons


def why_no_heart(values: dict[str, float]) -> str:
    """Return why what was measured in a cine is of no heart; nothing where it may be of one."""
    for name, (low, high) in PLAUSIBLE.items():
        value, unit = values[name], UNITS[name]
        if not np.isfinite(value):
            return _NOTHING
        if not low <= value <= high:
            return f"{_NAMES[name]} outside {low:g} to {high:g} {unit}, which no heart has"
    return ""
