"""Ridge regression: a line is found, noise is shrunk away, and what is not known is left out."""

import numpy as np
import pytest

from systems.ecg_cmr.generation.sampling import fit_ridge, predict_each

rng = np.random.default_rng(0)


def test_a_line_is_found():
    features = rng.normal(size=(200, 3)) * [1, 10, 0.1] + 5
    targets = features @ np.array([[1.0, 0], [0.2, 1], [3, -1]]) + [7, 0]
    assert fit_ridge(features[:150], targets[:150]).predict(features[150:]) == pytest.approx(
        targets[150:], abs=0.3
    )


def test_what_is_noise_is_predicted_as_the_mean():
    features, targets = rng.normal(size=(60, 200)), rng.normal(size=60) + 10
    found = fit_ridge(features, targets).predict(rng.normal(size=(500, 200)))
    assert found.std() < 0.5 and found.mean() == pytest.approx(10, abs=0.3)


def test_each_column_uses_whom_it_is_known_of():
    features = rng.normal(size=(100, 2))
    targets = np.stack([features[:, 0], 3 * features[:, 1], np.full(100, np.nan)], axis=1)
    targets[:50, 0] = np.nan
    targets[5, 2] = 4.0
    found = predict_each(features, targets, features[:10])
    assert found[:, 0] == pytest.approx(features[:10, 0], abs=0.15)
    assert found[:, 1] == pytest.approx(3 * features[:10, 1], abs=0.2)
    assert found[:, 2] == pytest.approx(4.0)


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="too few"):
        fit_ridge(np.zeros((9, 2)), np.zeros(9))
