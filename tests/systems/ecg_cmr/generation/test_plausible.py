"""Which generated cines show no heart that there could be: the same drawing at several pixel spacings."""

import numpy as np
import pandas as pd
import pytest

from systems.ecg_cmr.cine.measures import MEASURED, measure_cine
from systems.ecg_cmr.generation.evaluate import _fraction_text, _not_found
from systems.ecg_cmr.generation.plausible import PLAUSIBLE, measure_generated, why_no_heart
from systems.ecg_cmr.generation.predict import GeneratedCines, Predictor
from tests.systems.ecg_cmr.cine.test_cine_measures import FRAMES, beat, drawn

HEART = drawn(beat(10, 7), np.full(FRAMES, 5.0))
STILL = drawn(beat(10, 9.95), np.full(FRAMES, 5.0))
NOTHING = np.full((FRAMES, 64, 64), 0.5)


@pytest.mark.parametrize(
    ("cine", "spacing", "reason"),
    [
        (HEART, 2.2, ""),
        (HEART, 6.0, "end-diastolic volume outside 20 to 600 mL, which no heart has"),
        (HEART, 0.5, "end-diastolic volume outside 20 to 600 mL, which no heart has"),
        (STILL, 2.2, "ejection fraction outside 5 to 95 %, which no heart has"),
        (NOTHING, 2.2, "no left ventricle is found"),
    ],
    ids=["heart", "huge", "tiny", "still", "nothing"],
)
def test_values_that_no_heart_has_are_not_found(cine, spacing, reason):
    table, reasons = measure_generated([cine, HEART], spacing)
    assert reasons[0] == reason
    if reason:
        assert table.iloc[0].isna().all(), "the other values of that cine are no better"
    else:
        assert table.iloc[0].to_dict() == measure_cine(cine, spacing)


def test_the_bounds_belong_to_the_hearts():
    volume, fraction = PLAUSIBLE["lv_edv"], PLAUSIBLE["ejection_fraction"]
    for value in (*volume, 150.0):
        assert not why_no_heart({"lv_edv": value, "ejection_fraction": 60.0})
    for value in fraction:
        assert not why_no_heart({"lv_edv": 150.0, "ejection_fraction": value})


def test_prediction_says_not_found_and_why():
    cines = (np.stack([HEART, HEART, NOTHING]) * 255).astype(np.uint8)
    tables = [
        measure_generated([cine / 255], spacing) for cine, spacing in zip(cines, (2.2, 6, 2.2), strict=True)
    ]
    measured = pd.concat([table for table, _ in tables], ignore_index=True)
    reasons = [reason for _, each in tables for reason in each]
    shown = GeneratedCines(
        name="a", warnings=[], watermark="", left_out=0, cines=cines, measured=measured, reasons=reasons,
        pixel_spacing=2.2, origin={"ecg": "a.npy", "samples": 3, "trained_on_simulated": False},
    )  # fmt: skip
    found = shown.metadata()
    assert [part["sample"] for part in found["not_found"]] == [1, 2]
    assert found["indicators"]["lv_edv"]["measured_in"] == 1
    predictor = object.__new__(Predictor)
    text = "\n".join(predictor.recording_text(found | {"kept": False}))
    assert "In 1 of these cines nothing is measured: end-diastolic volume outside 20 to 600 mL" in text
    assert "In 1 of these cines nothing is measured: no left ventricle is found." in text
    assert "nan" not in text and "not found" not in text
    empty = found | {
        "kept": False,
        "indicators": {name: part | {"low": None} for name, part in found["indicators"].items()},
    }
    assert "\n".join(predictor.recording_text(empty)).count("not found") == len(MEASURED)


def test_scores_count_what_is_not_found_by_reason():
    table = _not_found(["", "no left ventricle is found", "", "no left ventricle is found"])
    assert table.to_dict("records") == [{"reason": "no left ventricle is found", "cines": 2, "of": 4}]
    assert _not_found(["", ""]).to_dict("records") == [{"reason": "none", "cines": 0, "of": 2}]
    assert _fraction_text(float("nan")) == "EF not found"
    assert _fraction_text(55.4) == "EF 55 %"
