"""The heart of simulated patients: realistic, and known to the ECG exactly as far as the ceilings say."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict

from simulation.heart import Heart
from simulation.heart_population import IMPLIED_CEILINGS, best_prediction, draw_heart
from simulation.physiology import (
    CEILINGS,
    CONDITIONS,
    PREVALENCE,
    calibrate,
    condition_probabilities,
    pattern_table,
)

COUNT = 5000
OTHER_CEILINGS = {"ejection_fraction": 0.5, "lv_edv": 0.55, "la_volume": 0.4}


def table(hearts):
    """Return the indicators of hearts, with condition and sex."""
    return pd.DataFrame(
        [{**heart.indicators(), "condition": heart.condition, "sex": heart.drivers.sex} for heart in hearts]
    )


def r_squared(truth, prediction):
    return 1 - ((truth - prediction) ** 2).mean() / truth.var()


@pytest.fixture(scope="module")
def hearts():
    return [draw_heart(0, patient) for patient in range(COUNT)]


@pytest.fixture(scope="module")
def values(hearts):
    return table(hearts)


@pytest.fixture(scope="module")
def twins():
    return [draw_heart(0, patient, twin=1) for patient in range(COUNT)]


@pytest.fixture(scope="module")
def twin_values(twins):
    return table(twins)


@pytest.fixture(scope="module")
def drivers(hearts):
    """Everything the ECG is rendered from, as numbers."""
    rows = [dataclasses.asdict(heart.drivers) for heart in hearts]
    flat = [row.pop("traits") | row for row in rows]
    frame = pd.DataFrame(flat).drop(columns="lead_gains")
    gains = pd.DataFrame([row["lead_gains"] for row in flat]).add_prefix("gain_")
    return pd.concat([pd.get_dummies(frame, dtype=float), gains], axis=1)


# What the ECG can know ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CEILINGS)
def test_the_best_prediction_reaches_the_stated_ceiling(hearts, values, name):
    predicted = np.array([best_prediction(heart.drivers)[name] for heart in hearts])
    truth = values[name]
    assert r_squared(truth, predicted) == pytest.approx(CEILINGS[name], abs=0.03)
    assert predicted.mean() == pytest.approx(truth.mean(), rel=0.02)


@pytest.mark.parametrize("name", [*CEILINGS, *IMPLIED_CEILINGS])
def test_twins_who_share_the_drivers_are_as_alike_as_the_ceiling_says(values, twin_values, name):
    correlation = np.corrcoef(values[name], twin_values[name])[0, 1]
    assert correlation == pytest.approx({**CEILINGS, **IMPLIED_CEILINGS}[name], abs=0.04)


@pytest.mark.parametrize("name", CEILINGS)
def test_no_model_of_all_drivers_beats_the_ceiling(values, drivers, name):
    truth = values[name].to_numpy()
    model = HistGradientBoostingRegressor(
        max_iter=80, learning_rate=0.06, max_leaf_nodes=8, early_stopping=False
    )
    predicted = cross_val_predict(model, drivers, truth, cv=3)
    assert CEILINGS[name] - 0.08 < r_squared(truth, predicted) < CEILINGS[name] + 0.03


@pytest.mark.parametrize("name", CEILINGS)
def test_what_the_drivers_do_not_tell_is_unrelated_to_each_of_them(hearts, values, drivers, name):
    rest = values[name] - np.array([best_prediction(heart.drivers)[name] for heart in hearts])
    strongest = drivers.corrwith(rest).abs().max()
    assert strongest < 4 / np.sqrt(COUNT)


def test_other_ceilings_are_met_as_well():
    hearts = [draw_heart(1, patient, ceilings=OTHER_CEILINGS) for patient in range(COUNT)]
    values = table(hearts)
    for name, ceiling in {**CEILINGS, **OTHER_CEILINGS}.items():
        predicted = [best_prediction(heart.drivers, OTHER_CEILINGS)[name] for heart in hearts]
        assert r_squared(values[name], np.array(predicted)) == pytest.approx(ceiling, abs=0.035)


@pytest.mark.parametrize(
    ("ceilings", "message"),
    [
        ({"ejection_fraction": 0.05}, r"0.05 for ejection_fraction cannot be met.* between 0.26 and 0.65"),
        ({"lv_mass": 0.95}, "0.95 for lv_mass cannot be met"),
        ({"blood_contrast": 0.2}, "between 0.00 and 0.00"),
        ({"vigour": 0.2}, "No indicator is called vigour"),
    ],
)
def test_ceilings_that_cannot_be_met_are_named(ceilings, message):
    with pytest.raises(ValueError, match=message):
        calibrate(ceilings)


def test_scores_of_drivers_are_standardized(hearts):
    for name in ("lv_size", "lv_bulk", "septum", "rv_size", "atrium", "pump"):
        values = np.array([getattr(heart.drivers, name) for heart in hearts])
        assert values.mean() == pytest.approx(0, abs=0.05)
        assert values.std() == pytest.approx(1, abs=0.05)


# Disease and pattern -----------------------------------------------------------------------------


def test_patterns_are_disease_shown_or_mimicked():
    joint = pattern_table()
    assert joint.sum() == pytest.approx(1)
    np.testing.assert_allclose(joint.sum(axis=1), PREVALENCE)
    dilated = CONDITIONS.index("dilated")
    assert joint[dilated, dilated] == pytest.approx(0.12 * (0.5 + 0.5 * 0.015))
    assert joint[0, dilated] == pytest.approx(0.46 * 0.015)


def test_condition_given_pattern_is_what_bayes_says(hearts):
    conditions = np.array([heart.condition for heart in hearts])
    patterns = np.array([heart.drivers.pattern for heart in hearts])
    for pattern in CONDITIONS:
        found = conditions[patterns == pattern]
        expected = condition_probabilities(pattern)[CONDITIONS.index(pattern)]
        assert (found == pattern).mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(len(found)))
    for number, condition in enumerate(CONDITIONS):
        assert (conditions == condition).mean() == pytest.approx(PREVALENCE[number], abs=0.02)


def mean_of(values, name, condition, sex):
    return values[name][(values.condition == condition) & (values.sex == sex)].mean()


@pytest.mark.parametrize(
    ("name", "men", "women"),
    [
        ("lv_edv", 166, 124),
        ("lv_mass", 103, 70),
        ("rv_edv", 182, 130),
        ("ejection_fraction", 58, 61),
        ("stroke_volume", 96, 75),
        ("wall_thickness", 8, 7),
    ],
)
def test_healthy_hearts_are_as_published(values, name, men, women):
    assert mean_of(values, name, "none", "male") == pytest.approx(men, rel=0.07)
    assert mean_of(values, name, "none", "female") == pytest.approx(women, rel=0.07)


def test_diseases_change_the_heart_as_they_should(values):
    def change(name, condition):
        return mean_of(values, name, condition, "male") - mean_of(values, name, "none", "male")

    assert change("lv_edv", "dilated") > 60
    assert change("ejection_fraction", "dilated") < -15
    assert change("wall_thickness", "hypertrophic") > 5
    assert change("lv_mass", "hypertrophic") > 40
    assert change("lv_edv", "hypertrophic") < -10
    assert change("ejection_fraction", "hypertrophic") > 2
    assert change("la_volume", "restrictive") > 20
    assert change("lv_edv", "restrictive") < -15
    assert change("rv_edv", "pulmonary hypertension") > 35
    assert change("rv_ejection_fraction", "pulmonary hypertension") < -10
    assert change("ejection_fraction", "anterior infarction") < change(
        "ejection_fraction", "inferior infarction"
    )
    assert change("ejection_fraction", "inferior infarction") < -5


def test_values_stay_within_what_hearts_can_be(hearts, values):
    assert values.lv_edv.between(55, 400).all()
    assert values.lv_esv.min() > 10
    assert values.ejection_fraction.between(10, 82).all()
    assert values.rv_ejection_fraction.between(18, 75).all()
    assert values.wall_thickness.between(4, 32).all()
    assert all(2 < heart.mean_wall < 20 for heart in hearts)
    ages = np.array([heart.drivers.age for heart in hearts])
    assert ages.min() > 18
    assert ages.max() < 95
    assert all(17 < heart.drivers.bmi < 42 for heart in hearts)
    assert all(40 < heart.drivers.heart_rate < 110 for heart in hearts)


def test_scars_lie_in_the_territory_of_the_infarction(hearts):
    for heart in hearts:
        if heart.territory:
            middle = {"anterior": 115, "inferior": 270, "lateral": 0}[heart.territory]
            off = (heart.scar.angle - middle + 180) % 360 - 180
            assert abs(off) <= 12
            assert 60 < heart.scar.extent < 150
            assert heart.disease == "infarction"
        elif heart.scar is not None:
            assert heart.scar.extent <= 40
    others = [heart for heart in hearts if not heart.territory]
    assert np.mean([heart.scar is not None for heart in others]) == pytest.approx(0.07, abs=0.02)


def test_what_shows_in_the_ecg_alone_says_nothing_about_disease(hearts):
    ill = np.array([heart.condition != "none" for heart in hearts])
    for name in ("right_block", "flat_t"):
        shown = np.array([getattr(heart.drivers, name) for heart in hearts])
        assert 0.03 < shown.mean() < 0.11
        assert abs(np.corrcoef(ill, shown)[0, 1]) < 4 / np.sqrt(COUNT)


# Geometry ----------------------------------------------------------------------------------------


def test_volumes_mass_and_strain_belong_to_one_geometry(hearts):
    for heart in hearts[:50]:
        radius, length, wall = heart.lv_radius, heart.lv_length, heart.mean_wall
        assert 2 / 3 * np.pi * radius**2 * length / 1000 == pytest.approx(heart.lv_edv)
        assert 2 * radius / length == pytest.approx(heart.sphericity)
        outside = 2 / 3 * np.pi * (radius + wall) ** 2 * (length + wall) / 1000
        assert 1.05 * (outside - heart.lv_edv) == pytest.approx(heart.lv_mass)
        narrow = radius * (1 + heart.circumferential_strain / 100)
        short = length * (1 + heart.longitudinal_strain / 100)
        assert 2 / 3 * np.pi * narrow**2 * short / 1000 == pytest.approx(heart.lv_esv)
        thick = wall * (1 + heart.radial_strain / 100)
        outside = 2 / 3 * np.pi * (narrow + thick) ** 2 * (short + thick) / 1000
        assert 1.05 * (outside - heart.lv_esv) == pytest.approx(heart.lv_mass)
        assert heart.lv_edv - heart.lv_esv == pytest.approx(heart.rv_edv - heart.rv_esv)
        assert heart.ejection_fraction == pytest.approx(100 * heart.stroke_volume / heart.lv_edv)


def test_strain_of_a_heart_worked_by_hand():
    heart = dataclasses.replace(draw_heart(0, 0), lv_edv=150.0, ejection_fraction=60.0, rv_edv=180.0)
    assert isinstance(heart, Heart)
    assert heart.lv_esv == pytest.approx(60)
    assert heart.rv_ejection_fraction == pytest.approx(50)
    assert heart.longitudinal_strain == pytest.approx(-16.8)
    assert heart.circumferential_strain == pytest.approx(100 * (np.sqrt(0.4 / 0.832) - 1))


# Who is drawn ------------------------------------------------------------------------------------


def test_neither_order_nor_company_changes_a_patient(hearts):
    assert draw_heart(0, 17) == hearts[17]
    assert draw_heart(0, 4321) == hearts[4321]


def test_seeds_and_patients_differ_and_twins_share_their_drivers(hearts, twins):
    assert draw_heart(1, 17) != hearts[17]
    assert hearts[17] != hearts[18]
    for heart, twin in zip(hearts[:100], twins[:100], strict=True):
        assert heart.drivers == twin.drivers
        assert heart.lv_edv != twin.lv_edv


def test_condition_and_pattern_can_be_chosen():
    for condition in CONDITIONS:
        heart = draw_heart(0, 3, condition=condition, pattern="none")
        assert (heart.condition, heart.drivers.pattern) == (condition, "none")
    shown = [
        draw_heart(0, patient, condition="hypertrophic").drivers.pattern == "hypertrophic"
        for patient in range(400)
    ]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.08)
    with pytest.raises(ValueError, match="No condition is called 'broken'"):
        draw_heart(0, 0, condition="broken")
