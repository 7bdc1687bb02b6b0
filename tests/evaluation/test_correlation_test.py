import numpy as np
import pytest
from scipy import stats

from evaluation.comparison import correlation_test, dependent_correlations_test


def test_it_gives_what_its_authors_found():
    """Meng, Rosenthal and Rubin (1992): r .63 and -.03, between them -.19, 15 people: z is 1.68."""
    z, p_value = dependent_correlations_test(0.63, -0.03, -0.19, 15)
    assert z == pytest.approx(1.68, abs=0.005)
    assert p_value == pytest.approx(2 * stats.norm.sf(z))


def test_independent_predictions_without_correlation_are_compared_as_two_samples_would_be():
    """With no correlation anywhere the variance of the difference is that of two independent Fisher z."""
    z, _ = dependent_correlations_test(0.1, -0.1, 0.0, 103)
    mean = 0.01
    spread = 2 * (1 - mean * 1 / (2 * (1 - mean))) / (1 - mean)
    assert z == pytest.approx(2 * np.arctanh(0.1) * np.sqrt(100 / spread))
    assert spread == pytest.approx(2.0, abs=0.02)


def test_equal_predictions_are_called_different_in_one_of_twenty_cohorts():
    random = np.random.default_rng(0)
    found = []
    for _ in range(1500):
        truth, shared, *own = random.standard_normal((4, 60))
        found.append(correlation_test(truth, *(truth + shared + each for each in own))[1])
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.018)


def test_one_that_is_better_is_found_and_the_order_gives_the_sign():
    random = np.random.default_rng(1)
    truth, one, two = random.standard_normal((3, 200))
    better = correlation_test(truth, truth + one, truth + 3 * two)
    worse = correlation_test(truth, truth + 3 * two, truth + one)
    assert better[0] > 3 and better[0] == pytest.approx(-worse[0]) and better[1] < 0.001


def test_what_has_no_test():
    truth = np.arange(5.0)
    noise = np.array([0.0, 1.0, 0.0, -1.0, 0.3])
    assert correlation_test(truth, truth + noise, 3 * (truth + noise) - 2) == (0.0, 1.0), "only rescaled"
    assert np.isnan(correlation_test(truth, truth * 0 + 0.1, truth + noise)).all(), "a constant has no r"
    assert np.isnan(correlation_test(truth[:3], truth[:3] + noise[:3], noise[:3])).all()
    with pytest.raises(ValueError, match="must be finite"):
        correlation_test(truth, truth, np.full(5, np.nan))
