"""Indicators that are known by name: how many, their fields, other names, and units."""

import pytest

from simulation.heart_population import draw_heart
from systems.ecg_cmr.indicators import KNOWN, PUBLISHED, known_name, same_unit, text_of, unit_of


def test_there_are_82_in_the_order_of_the_fields():
    kinds = {
        "wall_thickness": 17,
        "circumferential_strain": 17,
        "radial_strain": 17,
        "longitudinal_strain": 7,
    }
    assert len(PUBLISHED) == 82
    for family, count in kinds.items():
        assert sum(name.startswith(family) for name in PUBLISHED) == count


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("24100", "lv_edv"),
        ("f.24101.2.0", "lv_esv"),
        ("24103_2.0", "ejection_fraction"),
        ("24105", "lv_mass"),
        ("24106", "rv_edv"),
        ("24124", "wall_thickness_1"),
        ("24140", "wall_thickness"),
        ("24157", "circumferential_strain"),
        ("24174", "radial_strain"),
        ("24181", "longitudinal_strain"),
        ("24182", ""),
        ("24099", ""),
        ("lvef", "ejection_fraction"),
        ("rvedv", "rv_edv"),
        ("wall_thickness_16", "wall_thickness_16"),
        ("wall_thickness_17", ""),
        ("longitudinal_strain_7", ""),
        ("bmi", ""),
    ],
)
def test_names_that_columns_have(column, name):
    assert known_name(column) == name


@pytest.mark.parametrize(
    ("unit", "name", "same"),
    [
        ("", "lv_edv", True),
        ("ml", "lv_edv", True),
        ("L", "lv_edv", False),
        ("%", "ejection_fraction", True),
        ("fraction", "ejection_fraction", False),
        ("cm", "wall_thickness_3", False),
    ],
)
def test_another_unit_is_another_column(unit, name, same):
    assert same_unit(unit, name) is same


def test_units_and_text():
    assert unit_of("lv_mass") == "g" and unit_of("T1") is None
    assert text_of("ascending_aorta_area_max") == "ascending aorta area max (mm2)"


def test_every_indicator_of_many_simulated_patients_is_known_and_possible():
    for number in range(150):
        for name, value in draw_heart(0, number).indicators().items():
            assert KNOWN[name].low <= value <= KNOWN[name].high, (name, value)
