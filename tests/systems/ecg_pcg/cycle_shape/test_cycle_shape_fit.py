"""The fit of cycle-shape: databases weigh alike, and its calibration is that of most of them."""

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.metrics import roc_auc_score

from common.errors import UserError
from models.cycle_shape import CycleShape
from systems.ecg_pcg.cycle_shape.fit import balanced_weights, calibration_over, fit_cycle_shape


def test_each_class_of_each_database_weighs_the_same():
    labels = np.array([0, 0, 0, 1, 0, 1])
    databases = np.array(["a", "a", "a", "a", "b", "b"])
    assert balanced_weights(labels, databases) == pytest.approx([0.5, 0.5, 0.5, 1.5, 1.5, 1.5])


def hospitals(count, murmur, seed=0):
    """Grids of hospitals whose microphones differ, and in which abnormal hearts are louder in systole."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count * 60)
    databases = np.repeat([f"hospital-{number}" for number in range(count)], 60)
    grid = random.normal(size=(len(labels), 3, 22, 34))
    grid += np.repeat(random.normal(0, 3, (count, 34)), 60, axis=0)[:, None, None]
    grid[:, :, 3:9] += murmur * labels[:, None, None, None]
    return torch.from_numpy(grid.reshape(len(labels), -1)), labels, databases


def test_a_hospital_that_it_has_not_met_is_ordered_and_calibrated():
    grids, labels, databases = hospitals(6, 0.4)
    sessions = np.array([f"s{number}" for number in range(len(labels))])
    train = databases != "hospital-5"
    model = CycleShape()
    outside = fit_cycle_shape(model, grids[train], labels[train], databases[train], sessions[train])
    assert roc_auc_score(labels[train], outside) > 0.9
    with torch.no_grad():
        found = model.pcg(model.features(grids[~train])).numpy()
    assert roc_auc_score(labels[~train], found) > 0.9
    _, slope = calibration_over(found, labels[~train], databases[~train])
    assert 0.5 < slope < 2


def test_the_calibration_is_the_median_over_databases():
    """Three databases whose true slopes are 1, 2 and 9, and whose true intercepts are equal."""
    random = np.random.default_rng(0)
    score = np.tile(np.linspace(-1, 1, 4000), 3)
    slopes = np.repeat([1.0, 2.0, 9.0], 4000)
    labels = (random.random(12000) < special.expit(slopes * score)).astype(int)
    intercept, slope = calibration_over(score, labels, np.repeat(["a", "b", "c"], 4000))
    assert slope == pytest.approx(2.0, abs=0.3)
    assert intercept == pytest.approx(0.0, abs=0.1)


def test_classes_that_are_apart_in_one_database_do_not_decide():
    score = np.concatenate([np.linspace(-1, 1, 200), np.linspace(-1, 1, 200), np.linspace(-1, 1, 10)])
    groups = np.repeat(["a", "b", "c"], [200, 200, 10])
    random = np.random.default_rng(1)
    labels = (random.random(410) < special.expit(score)).astype(int)
    labels[400:] = score[400:] > 0
    assert calibration_over(score, labels, groups)[1] < 3


def test_one_class_alone_is_refused():
    grids, labels, databases = hospitals(2, 0.5)
    with pytest.raises(UserError, match="both classes"):
        fit_cycle_shape(CycleShape(), grids, np.zeros_like(labels), databases, databases)


def test_sessions_stand_in_where_there_are_few_databases():
    grids, labels, databases = hospitals(1, 0.5)
    sessions = np.repeat([f"s{number}" for number in range(20)], 3)
    outside = fit_cycle_shape(CycleShape(), grids, labels, databases, sessions)
    assert np.isfinite(outside).all()
    assert roc_auc_score(labels, outside) > 0.9
