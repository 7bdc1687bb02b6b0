"""Indicators of the heart that are known by name, with unit and possible range.

The 82 of `PUBLISHED` are those that Bai et al. (Nat. Med. 26 (2020) 1654) measure in the cardiac MRI of UK
Biobank (category 157, fields 24100 to 24181): volumes and function of the four chambers, size and stiffness
of the aorta, and of the left ventricle the wall thickness and the strains by segment. Segments are numbered
as the American Heart Association does (Cerqueira et al., Circulation 105 (2002) 539): 1 to 6 basal, 7 to 12
mid, 13 to 16 apical, each from anterior against the clock; longitudinal strain has six segments of the long
axis. A name without a number is the mean of all segments.

Strains that mean shortening are negative, or positive where a source counts them so: both are possible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SEGMENTS = 16
"""Segments of the short axis of the left ventricle."""
_LONG_AXIS_SEGMENTS = 6
_FIRST_FIELD = 24100
"""UK Biobank's number of the first of `PUBLISHED`; the others follow one by one."""
_FIELD = re.compile(r"(?:f\.?)?(241\d\d)(?:[._]\d+){0,2}")


@dataclass(frozen=True)
class Indicator:
    """One indicator.

    Attributes
    ----------
    unit : str
        Empty for what has none.
    low, high : float
        Lowest and highest value that is possible.
    """

    unit: str
    low: float
    high: float


_VOLUME = Indicator("mL", 1, 1000)
_SHARE = Indicator("%", 1, 100)
_AREA = Indicator("mm2", 50, 5000)
_STIFFNESS = Indicator("10-3/mmHg", 0, 50)
_THICKNESS = Indicator("mm", 1, 40)
_STRAIN = Indicator("%", -70, 70)
_RADIAL = Indicator("%", -50, 200)


def _segments(name: str, kind: Indicator, count: int) -> dict[str, Indicator]:
    """Return an indicator of each segment, and last their mean."""
    return {f"{name}_{number}": kind for number in range(1, count + 1)} | {name: kind}


PUBLISHED: dict[str, Indicator] = {
    "lv_edv": _VOLUME,
    "lv_esv": _VOLUME,
    "stroke_volume": _VOLUME,
    "ejection_fraction": _SHARE,
    "cardiac_output": Indicator("L/min", 0.3, 30),
    "lv_mass": Indicator("g", 10, 800),
    "rv_edv": _VOLUME,
    "rv_esv": _VOLUME,
    "rv_stroke_volume": _VOLUME,
    "rv_ejection_fraction": _SHARE,
    "la_volume": _VOLUME,
    "la_volume_min": _VOLUME,
    "la_stroke_volume": _VOLUME,
    "la_ejection_fraction": _SHARE,
    "ra_volume": _VOLUME,
    "ra_volume_min": _VOLUME,
    "ra_stroke_volume": _VOLUME,
    "ra_ejection_fraction": _SHARE,
    "ascending_aorta_area_max": _AREA,
    "ascending_aorta_area_min": _AREA,
    "ascending_aorta_distensibility": _STIFFNESS,
    "descending_aorta_area_max": _AREA,
    "descending_aorta_area_min": _AREA,
    "descending_aorta_distensibility": _STIFFNESS,
    **_segments("wall_thickness", _THICKNESS, SEGMENTS),
    **_segments("circumferential_strain", _STRAIN, SEGMENTS),
    **_segments("radial_strain", _RADIAL, SEGMENTS),
    **_segments("longitudinal_strain", _STRAIN, _LONG_AXIS_SEGMENTS),
}
"""The 82 of UK Biobank, in the order of its fields."""
KNOWN: dict[str, Indicator] = PUBLISHED | {
    "blood_contrast": Indicator("", 0, 100),
    "septal_thickness": _THICKNESS,
    "posterior_wall_thickness": _THICKNESS,
    "lv_diameter": Indicator("mm", 5, 150),
    "lv_diameter_systole": Indicator("mm", 5, 150),
    "tr_velocity": Indicator("m/s", 0.1, 8),
    "pulmonary_pressure": Indicator("mmHg", 1, 200),
    "tapse": Indicator("mm", 1, 60),
}
"""All indicators that are known by name: also that of simulated cines, and those of echocardiography."""
_SYNONYMS = {
    "lvedv": "lv_edv",
    "lvesv": "lv_esv",
    "lvsv": "stroke_volume",
    "lv_stroke_volume": "stroke_volume",
    "lvef": "ejection_fraction",
    "lv_ef": "ejection_fraction",
    "lv_ejection_fraction": "ejection_fraction",
    "lvco": "cardiac_output",
    "lv_cardiac_output": "cardiac_output",
    "lvm": "lv_mass",
    "rvedv": "rv_edv",
    "rvesv": "rv_esv",
    "rvsv": "rv_stroke_volume",
    "rvef": "rv_ejection_fraction",
    "rv_ef": "rv_ejection_fraction",
    "la_volume_max": "la_volume",
    "ra_volume_max": "ra_volume",
    **{
        f"{name}_global": name
        for name in ("wall_thickness", "circumferential_strain", "radial_strain", "longitudinal_strain")
    },
}
_UNITS = {
    "ml": "mL",
    "percent": "%",
    "pct": "%",
    "g": "g",
    "gram": "g",
    "grams": "g",
    "mm": "mm",
    "mm2": "mm2",
    "mm^2": "mm2",
    "mm²": "mm2",
    "l/min": "L/min",
    "10-3/mmhg": "10-3/mmHg",
    "10^-3/mmhg": "10-3/mmHg",
    "10-3 mmhg-1": "10-3/mmHg",
    "m/s": "m/s",
    "mmhg": "mmHg",
}
"""Spellings of units."""


def known_name(plain: str) -> str:
    """Return the name of a known indicator that a column means; empty if it means none.

    Parameters
    ----------
    plain : str
        Name of the column in lower case, words joined by ``_``, without a unit: a name of `KNOWN`, another
        usual one such as ``lvef``, or a field of UK Biobank (``24103``, ``f.24103.2.0``, ``24103_2.0``).
    """
    name = _SYNONYMS.get(plain, plain)
    if name in KNOWN:
        return name
    field = _FIELD.fullmatch(plain)
    names = list(PUBLISHED)
    place = int(field[1]) - _FIRST_FIELD if field else -1
    return names[place] if 0 <= place < len(names) else ""


def same_unit(stated: str, name: str) -> bool:
    """Tell whether a unit that a column states is the one of the indicator; one that states none is."""
    text = stated.strip().casefold()
    return not text or _UNITS.get(text, text) == KNOWN[name].unit


def unit_of(name: str) -> str | None:
    """Return the unit of an indicator; None where the name is none that is known."""
    return KNOWN[name].unit if name in KNOWN else None


def text_of(name: str) -> str:
    """Return the name of an indicator with its unit, for a reader."""
    unit = unit_of(name)
    return f"{name.replace('_', ' ')}{f' ({unit})' * bool(unit)}"
