"""How generated cines are compared with true ones: known answers."""

import numpy as np
import pytest

from systems.ecg_cmr.generation.image_quality import (
    diversity,
    frechet_distance,
    image_scores,
    memorization_table,
    nearest_two,
    peak_ratio,
    structural_similarity,
)

rng = np.random.default_rng(0)


def test_ssim_of_the_same_image_is_one_and_of_flat_ones_is_the_luminance_factor():
    image = rng.random((3, 16, 16))
    assert structural_similarity(image, image) == pytest.approx([1, 1, 1])
    dark, bright = np.full((16, 16), 0.2), np.full((16, 16), 0.6)
    by_hand = (2 * 0.2 * 0.6 + 0.0001) / (0.04 + 0.36 + 0.0001)
    assert structural_similarity(dark, bright) == pytest.approx(by_hand)


def test_ssim_of_one_window_by_hand():
    """In 11 x 11 pixels there is one window: weighted moments about its middle."""
    one, two = rng.random((2, 11, 11))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    m1, m2 = (weights * one).sum(), (weights * two).sum()
    v1, v2 = (weights * (one - m1) ** 2).sum(), (weights * (two - m2) ** 2).sum()
    cov = (weights * (one - m1) * (two - m2)).sum()
    by_hand = (2 * m1 * m2 + 1e-4) / (m1**2 + m2**2 + 1e-4) * (2 * cov + 9e-4) / (v1 + v2 + 9e-4)
    assert structural_similarity(one, two) == pytest.approx(by_hand, rel=1e-9)


def test_ssim_refuses_what_has_no_window():
    with pytest.raises(ValueError, match="11 x 11"):
        structural_similarity(np.zeros((10, 16)), np.zeros((10, 16)))
    with pytest.raises(ValueError, match="11 x 11"):
        structural_similarity(np.zeros((16, 16)), np.zeros((2, 16, 16)))


def test_peak_ratio_by_hand():
    truth = np.zeros((2, 4, 4))
    found = np.stack([np.full((4, 4), 0.1), np.zeros((4, 4))])
    assert peak_ratio(truth, found) == pytest.approx([20.0, np.inf])


def test_scores_of_cines_are_means_over_frames_and_patients():
    truth = np.zeros((2, 2, 12, 12))
    found = np.stack([np.full((2, 12, 12), 0.1), np.full((2, 12, 12), 0.01)])
    assert image_scores(truth, found)["psnr"] == pytest.approx(30.0)
    values = [0.0001 / (level**2 + 0.0001) for level in (0.1, 0.01)]
    assert image_scores(truth, found)["ssim"] == pytest.approx(np.mean(values))


def test_frechet_distance_of_exact_moments():
    """Points at +-a sqrt(n - 1 / n) on each axis have covariances that are known exactly."""

    def cross(mean, deviations):
        points = [
            sign * deviation * axis
            for axis, deviation in zip(np.eye(2), deviations, strict=True)
            for sign in (-1, 1)
        ]
        return np.array(points) * np.sqrt(3 / 2) + mean

    one, two = cross([0, 0], [1, 2]), cross([3, 4], [2, 2])
    assert np.cov(one, rowvar=False) == pytest.approx(np.diag([1, 4]))
    assert frechet_distance(one, two) == pytest.approx(25 + (1 - 2) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute():
    a, b = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(50, 3))
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values = np.linalg.eigvals(c1 @ c2)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * np.sqrt(values.real).sum()
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_nearest_and_second_nearest_by_hand():
    found = nearest_two([[0.0, 0.0]], [[3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
    assert found == pytest.approx(np.array([[2, 5]]) / np.sqrt(2))
    with pytest.raises(ValueError, match="second"):
        nearest_two([[0.0]], [[1.0]])


def test_planted_copies_are_counted_and_honest_samples_are_not():
    training, unseen, drawn = rng.normal(size=(100, 30)), rng.normal(size=(40, 30)), rng.normal(size=(40, 30))
    honest = memorization_table(drawn, unseen, training).set_index("cines")
    assert honest.loc["unseen", "copies"] == 0 and honest.loc["generated", "copies"] <= 2
    drawn[:5] = training[:5] + 0.01 * rng.normal(size=(5, 30))
    found = memorization_table(drawn, unseen, training).set_index("cines")
    assert found.loc["generated", "copies"] >= 5
    assert found.loc["generated", "distance_0"] < 0.02 < found.loc["unseen", "distance_0"]


def test_blurred_samples_lie_near_the_training_cines_but_are_no_copies():
    """What is drawn too close to the mean is near to all training cines, and to none in particular."""
    training, unseen = rng.normal(size=(100, 30)), rng.normal(size=(40, 30))
    found = memorization_table(0.2 * rng.normal(size=(40, 30)), unseen, training).set_index("cines")
    assert found.loc["generated", "distance_0.5"] < found.loc["unseen", "distance_0.5"]
    assert found.loc["generated", "copies"] == 0


def test_diversity_of_known_spread():
    center = 3 * rng.normal(size=(200, 1, 50))
    samples = center + 0.5 * rng.normal(size=(200, 4, 50))
    truth = center[:, 0] + 0.5 * rng.normal(size=(200, 50))
    found = diversity(samples, truth)
    assert found["within"] == pytest.approx(0.5 * np.sqrt(2), rel=0.02)
    assert found["between"] == pytest.approx(np.sqrt(2 * 9.25), rel=0.05)
    assert found["true"] == pytest.approx(found["between"], rel=0.05)
    assert np.isnan(diversity(samples[:, :1], truth)["within"])
