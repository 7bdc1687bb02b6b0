"""Two runs side by side: the tests that are made, what is matched, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from evaluation.comparison import correlation_test, delong_test
from evaluation.statistics import holm
from systems.ecg_cmr.phenotypes.compare import compare

COUNT = 80
NAMES = ("one", "two")


def predictions(noise: float, seed: int = 1) -> pd.DataFrame:
    """Return predictions of the same patients, the truer the less noise."""
    random = np.random.default_rng(0)
    volume = random.normal(150, 30, COUNT)
    disease = (random.random(COUNT) < 0.4).astype(float)
    kind = random.integers(0, 3, COUNT)
    errors = np.random.default_rng(seed)
    sick = 1 / (1 + np.exp(-(2 * disease - 1 + noise * errors.standard_normal(COUNT))))
    volume[:3] = np.nan
    values = np.eye(3)[kind] + noise * errors.random((COUNT, 3))
    table = pd.DataFrame(
        values / values.sum(axis=1, keepdims=True), columns=[f"class_k={n}" for n in range(3)]
    )
    return table.assign(
        recording=[f"r{row}" for row in range(COUNT)],
        session=[f"p{row}" for row in range(COUNT)],
        lv_edv=np.nan_to_num(volume, nan=150) + 20 * noise * errors.standard_normal(COUNT),
        disease_x=sick,
        true_lv_edv=volume,
        true_disease_x=disease,
        true_class_k=kind,  # classes named by numbers are read as numbers
        seed=0,
    )


def test_each_target_has_its_test_and_holm_is_over_all():
    one, two = predictions(0.5), predictions(3.0, seed=2)
    table, text = compare([one], [two], NAMES, draws=200)
    rows = table.set_index("target")
    assert list(rows.index) == ["lv_edv", "disease_x", "class_k=0", "class_k=1", "class_k=2"]
    test = delong_test(one["true_disease_x"], one["disease_x"], two["disease_x"])
    sick = rows.loc["disease_x"]
    assert sick["test"] == "DeLong" and sick["p"] == pytest.approx(test.p_value)
    assert (sick["first"], sick["second"], sick["difference"]) == pytest.approx(
        (test.first, test.second, test.difference)
    )
    known = one["true_lv_edv"].notna()
    volume = rows.loc["lv_edv"]
    assert volume["test"] == "Fisher z" and volume["patients"] == COUNT - 3
    expected = correlation_test(one["true_lv_edv"][known], one["lv_edv"][known], two["lv_edv"][known])[1]
    assert volume["p"] == pytest.approx(expected) and volume["low"] > 0
    assert rows["p_holm"].tolist() == pytest.approx(holm(rows["p"]).tolist())
    assert "80 recordings of 80 patients in both" in text and "Fisher z" in text


def test_a_run_does_not_differ_from_itself():
    one = predictions(1.0)
    table, _ = compare([one], [one], NAMES, draws=50)
    assert (table["difference"] == 0).all() and (table["p"] == 1).all() and (table["p_holm"] == 1).all()


def test_order_of_the_rows_does_not_matter_and_others_are_left_out_and_counted():
    one, two = predictions(0.5), predictions(2.0, seed=2)
    table, _ = compare([one], [two], NAMES, draws=50)
    turned, text = compare([one], [two.iloc[::-1]], NAMES, draws=50)
    pd.testing.assert_frame_equal(table, turned)
    _, text = compare([one], [two.iloc[10:]], NAMES, draws=50)
    assert "70 recordings of 70 patients in both, 10 in one only and left out" in text


def test_patients_with_two_recordings_and_several_seeds_leave_the_bootstrap():
    one, two = predictions(0.5), predictions(2.0, seed=2)
    patient = [f"p{row // 2}" for row in range(COUNT)]
    table, _ = compare([one.assign(session=patient)], [two.assign(session=patient)], NAMES, draws=100)
    assert set(table["test"]) == {"bootstrap"} and (table["p"] == table["p_bootstrap"]).all()
    seeds = [two, predictions(2.0, seed=3).assign(seed=1)]
    table, text = compare([one], seeds, NAMES, draws=50)
    each = [compare([one], [seed], NAMES, draws=0)[0]["second"] for seed in seeds]
    assert table["second"].tolist() == pytest.approx(np.mean(each, axis=0).tolist())
    assert set(table["test"]) == {"bootstrap"} and "seeds 1 and 2" in text


def test_what_cannot_be_compared_is_refused():
    one = predictions(1.0)
    with pytest.raises(UserError, match="no recording in common"):
        compare([one], [one.assign(recording=one["recording"] + "x")], NAMES, draws=10)
    other = one.assign(true_lv_edv=one["true_lv_edv"] + (one["recording"] == "r7"))
    with pytest.raises(UserError, match="The true lv_edv of r7 differs between the two runs"):
        compare([one], [other], NAMES, draws=10)
    few = one[[name for name in one if "lv_edv" not in name and "x" not in name and "class" not in name]]
    with pytest.raises(UserError, match="no indicator, disease or class in common"):
        compare([one], [few], NAMES, draws=10)


def test_a_disease_that_nobody_has_is_named_and_has_no_test():
    one = predictions(1.0).assign(true_disease_x=0.0)
    table, _ = compare([one], [one], NAMES, draws=10)
    row = table.set_index("target").loc["disease_x"]
    assert np.isnan(row["p"]) and row["reason"]
