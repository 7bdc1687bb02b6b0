import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from evaluation.comparison import delong_covariance, delong_test

LABEL = [1, 1, 1, 0, 0]
FIRST = [0.8, 0.6, 0.4, 0.5, 0.3]
SECOND = [0.9, 0.2, 0.3, 0.1, 0.4]


def test_areas_and_covariance_of_an_example_worked_by_hand():
    # Shares ordered right. First: of positives 1, 1, 1/2; of negatives 2/3, 1. Second: 1, 1/2, 1/2; 1, 1/3.
    # S10 = [[1/12, 1/24], [1/24, 1/12]], S01 = [[1/18, -1/9], [-1/9, 2/9]].
    areas, covariance = delong_covariance(LABEL, [FIRST, SECOND])
    assert areas.tolist() == pytest.approx([5 / 6, 2 / 3])
    assert covariance[0, 0] == pytest.approx(1 / 12 / 3 + 1 / 18 / 2)
    assert covariance[1, 1] == pytest.approx(1 / 12 / 3 + 2 / 9 / 2)
    assert covariance[0, 1] == covariance[1, 0] == pytest.approx(1 / 24 / 3 - 1 / 9 / 2)


def test_the_paired_test_of_the_same_example():
    found = delong_test(LABEL, FIRST, SECOND)
    assert found.difference == pytest.approx(1 / 6)
    assert found.standard_error == pytest.approx(np.sqrt(5 / 18))
    assert found.z == pytest.approx(1 / 6 / np.sqrt(5 / 18))
    assert found.p_value == pytest.approx(2 * (1 - norm.cdf(found.z)))


def test_midranks_agree_with_the_definition_pair_by_pair_with_ties():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 60)
    scores = random.integers(0, 6, (3, 60)) + label
    areas, covariance = delong_covariance(label, scores)
    assert areas.tolist() == pytest.approx([roc_auc_score(label, score) for score in scores])
    pairs = [
        np.sign(score[label == 1][:, None] - score[label == 0]) / 2 + 0.5 for score in scores
    ]  # 1 right, 1/2 tied, 0 wrong
    shape = pairs[0].shape
    expected = np.cov([pair.mean(axis=1) for pair in pairs]) / shape[0]
    expected = expected + np.cov([pair.mean(axis=0) for pair in pairs]) / shape[1]
    assert covariance == pytest.approx(expected)


def test_the_variance_is_that_of_many_samples_of_independent_persons():
    random = np.random.default_rng(0)
    label = np.repeat([0, 1], [30, 50])
    scores = random.standard_normal((800, 80)) + label
    areas = [roc_auc_score(label, row) for row in scores]
    variances = [delong_covariance(label, row)[1][0, 0] for row in scores[:100]]
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.15)


def test_a_score_does_not_differ_from_itself_and_one_person_of_a_class_is_too_few():
    same = delong_test(LABEL, FIRST, FIRST)
    assert (same.difference, same.z, same.p_value) == (0, 0, 1)
    few = delong_test([1, 0, 0], [0.5, 0.2, 0.6], [0.5, 0.2, 0.3])
    assert np.isnan([few.standard_error, few.z, few.p_value]).all()
    assert few.difference == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="one class"):
        delong_test([1, 1], [0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError, match="finite"):
        delong_covariance([1, 0], [0.1, np.nan])
