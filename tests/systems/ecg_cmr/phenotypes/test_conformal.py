"""How far off predictions are: worked by hand, and held against what was promised."""

import numpy as np
import pytest

from systems.ecg_cmr.phenotypes.conformal import class_error, disease_error, indicator_error


def test_errors_worked_by_hand():
    truth = np.arange(19.0)
    found = indicator_error(np.append(truth, np.nan), np.append(truth + np.arange(1, 20), 0), usual=9.0)
    assert found["patients"] == 19
    assert found["bound"] == 18.0, "of 19 errors of 1 to 19 the 18th, as 0.9 times 20"
    assert found["deviation"] == pytest.approx(np.sqrt(np.mean(np.arange(1, 20) ** 2)))
    assert found["r2"] == pytest.approx(1 - 2470 / 570) and found["better"] is False


def test_too_few_patients_have_no_bound():
    assert indicator_error(np.arange(8.0), np.arange(8.0), 0.0)["bound"] is None
    assert indicator_error(np.arange(9.0), np.zeros(9), 0.0)["bound"] == 8.0
    nothing = indicator_error([np.nan], [1.0], 0.0)
    assert nothing == {"patients": 0, "deviation": None, "bound": None, "r2": None, "better": False}


def test_the_bound_holds_what_it_promises_whatever_the_errors_are_like():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        errors = rng.exponential(size=31) ** 2
        bound = indicator_error(np.zeros(30), errors[:30], 1.0)["bound"]
        held.append(errors[30] <= bound)
    assert 0.86 < np.mean(held) < 0.96


def test_what_is_no_better_than_the_mean_is_seldom_called_better():
    rng = np.random.default_rng(1)
    blind = [
        indicator_error(rng.normal(size=60), 0.1 * rng.normal(size=60), 0.0)["better"] for _ in range(300)
    ]
    assert np.mean(blind) < 0.08
    truth = rng.normal(size=60)
    assert indicator_error(truth, truth + 0.5 * rng.normal(size=60), 0.0)["better"] is True


def test_diseases():
    assert disease_error([0, 0, 1, 1, np.nan], [0.1, 0.4, 0.35, 0.8, 0.9]) == {
        "patients": 4,
        "diseased": 2,
        "auroc": 0.75,
        "better": False,
        "threshold": pytest.approx(0.6),  # or 0.225: sensitivity and specificity 1 and 1/2, or the other way
    }
    found = disease_error([0, 0], [0.1, 0.2])
    assert found["auroc"] is None and found["threshold"] is None
    label = np.repeat([0, 1], 40)
    assert (
        disease_error(label, np.clip(label + np.random.default_rng(0).normal(0, 0.5, 80), 0, 1))["better"]
        is True
    )


def test_classes():
    values = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])
    found = class_error([0, 1, 2, 1, np.nan], values)
    assert found == {"patients": 4, "accuracy": 0.75, "usual": 0.5, "better": False}
    assert class_error([np.nan], values[:1])["accuracy"] is None
    truth = np.arange(60) % 3
    assert class_error(truth, np.eye(3)[truth])["better"] is True
    assert class_error(truth, np.eye(3)[np.zeros(60, int)])["better"] is False
