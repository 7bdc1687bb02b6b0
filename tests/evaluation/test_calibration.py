import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from evaluation.calibration import (
    calibration_bins,
    calibration_line,
    calibration_table,
    expected_calibration_error,
    log_odds,
    weighted_calibration_line,
)
from evaluation.statistics import cluster_bootstrap


def drawn(slope: float = 1.0, intercept: float = 0.0, count: int = 400, seed: int = 0) -> pd.DataFrame:
    """Labels whose true log-odds are slope * logit(probability) + intercept."""
    random = np.random.default_rng(seed)
    odds = random.normal(0.5, 1.2, count)
    truth = 1 / (1 + np.exp(-(intercept + slope * odds)))
    return pd.DataFrame(
        {
            "session": [f"C{row // 8}" for row in range(count)],
            "label": (random.random(count) < truth).astype(int),
            "probability": 1 / (1 + np.exp(-odds)),
        }
    )


def test_calibration_of_an_example_worked_by_hand():
    label, probability = [0, 1, 1, 1], [0.1, 0.3, 0.9, 1.0]
    table = calibration_bins(label, probability, bins=2)
    assert table["count"].tolist() == [2, 2]
    assert table["mean_probability"].tolist() == pytest.approx([0.2, 0.95])
    assert table["share"].tolist() == pytest.approx([0.5, 1.0])
    assert expected_calibration_error(label, probability, bins=2) == pytest.approx((0.3 + 0.05) / 2)
    assert calibration_bins(label, probability)["count"].sum() == 4
    assert calibration_bins(label, probability)["share"].isna().sum() == 7


def test_slope_and_intercept_of_two_probabilities_worked_by_hand():
    # Of four at 0.2 one is abnormal, of four at 0.8 three are: the fitted log-odds are -log 3 and log 3.
    label, probability = [1, 0, 0, 0, 1, 1, 1, 0], [0.2] * 4 + [0.8] * 4
    slope, intercept = calibration_line(label, probability)
    assert slope == pytest.approx(np.log(3) / np.log(4))
    assert intercept == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.4, -0.5), (2.5, 1.0)])
def test_slope_and_intercept_agree_with_an_unpenalized_logistic_regression(slope, intercept):
    units = drawn(slope, intercept)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(log_odds(units["probability"])[:, None], units["label"])
    expected = model.coef_[0, 0], model.intercept_[0]
    assert calibration_line(units["label"], units["probability"]) == pytest.approx(
        expected, rel=1e-3, abs=1e-4
    )


def test_a_weighted_line_is_that_of_repeated_rows():
    units = drawn(count=60)
    times = np.random.default_rng(1).integers(0, 4, (3, len(units)))
    lines = weighted_calibration_line(units["label"], units["probability"], times)
    for weights, (intercept, slope) in zip(times, lines, strict=True):
        repeated = units.loc[units.index.repeat(weights)]
        found = calibration_line(repeated["label"], repeated["probability"])
        assert found == pytest.approx((slope, intercept))


@pytest.mark.parametrize(
    ("label", "probability"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]), ([1, 1, 1], [0.1, 0.2, 0.3]), ([0, 1, 0], [0.4, 0.4, 0.4])],
)
def test_where_no_line_exists_it_is_nan_without_a_warning(label, probability):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(calibration_line(label, probability)).all()


def test_probabilities_of_zero_and_one_do_not_break_the_line():
    slope, intercept = calibration_line([0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0])
    assert slope == pytest.approx(np.log(2) / np.log(1e6), rel=1e-3)
    assert intercept == pytest.approx(0, abs=1e-6)


def test_the_table_has_clustered_intervals_that_hold_the_truth():
    cohorts = [drawn(0.5, -0.5, seed=seed) for seed in range(30)]
    tables = [calibration_table(units, draws=150).set_index("score") for units in cohorts]
    for name, truth in (("slope", 0.5), ("intercept", -0.5)):
        assert np.mean([table.loc[name, "value"] for table in tables]) == pytest.approx(truth, abs=0.05)
        held = [table.loc[name, "low"] < truth < table.loc[name, "high"] for table in tables]
        assert np.mean(held) >= 0.8
    error = expected_calibration_error(cohorts[0]["label"], cohorts[0]["probability"])
    assert tables[0].loc["expected calibration error", "value"] == pytest.approx(error)
    assert tables[0].equals(calibration_table(cohorts[0], draws=150).set_index("score")), "same seed"


def test_the_intercept_has_the_interval_that_it_has_alone():
    units = drawn(0.7, 0.3, count=80)
    row = calibration_table(units, draws=50).set_index("score").loc["intercept"]

    def intercept(rows: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return weighted_calibration_line(rows["label"], rows["probability"], weights)[:, 0]

    alone = cluster_bootstrap(units, intercept, draws=50)
    assert (row["value"], row["low"], row["high"]) == (alone.estimate, alone.low, alone.high)
