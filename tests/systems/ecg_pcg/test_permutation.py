import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from systems.ecg_pcg.evaluate import permutation_test


def cohort(separation: float, persons: int = 40, recordings: int = 4, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(persons), recordings)
    label = (person % 3 > 0).astype(int)
    score = separation * label + random.standard_normal(persons)[person] + random.standard_normal(len(person))
    return pd.DataFrame(
        {
            "recording": [f"a{row}" for row in range(len(person))],
            "person": [f"P{number}" for number in person],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
        }
    )


def test_a_clear_score_is_better_than_every_permutation():
    units = cohort(3.0)
    found = permutation_test(units, permutations=199)
    assert found.estimate == pytest.approx(roc_auc_score(units["label"], units["probability"]))
    assert found.p_value == pytest.approx(1 / 200), "the labels as they are count as one permutation"
    assert (found.permutations, found.persons) == (199, 40)
    assert found.null_mean == pytest.approx(0.5, abs=0.03)


def test_all_permutations_of_three_persons_worked_by_hand():
    # Normal person P0 with two recordings. The single label 0 among three persons: of the areas
    # 1 (P0 lowest), 1/2 (P1) and 0 (P2, or rather what its one recording reaches), one is as high.
    units = pd.DataFrame(
        {
            "person": ["P0", "P0", "P1", "P2"],
            "label": [0, 0, 1, 1],
            "probability": [0.1, 0.2, 0.3, 0.4],
        }
    )
    found = permutation_test(units, permutations=1000)
    assert found.permutations == 6
    assert found.estimate == 1
    assert found.p_value == pytest.approx(2 / 6)
    # P1 normal: 0.3 lies above two and below one of three abnormal; P2 normal: above all of them.
    assert found.null_mean == pytest.approx((1 + 1 / 3 + 0) / 3)


def test_persons_and_not_recordings_are_permuted():
    units = cohort(0.0, persons=12, recordings=30)
    of_persons = permutation_test(units, permutations=500)
    of_recordings = permutation_test(units.assign(person=units["recording"]), permutations=500)
    assert of_persons.null_deviation > 3 * of_recordings.null_deviation


def test_p_values_of_scores_without_meaning_are_even():
    values = [permutation_test(cohort(0.0, seed=seed), permutations=99).p_value for seed in range(100)]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.08)
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_same_seed_equal_and_different_seed_different():
    units = cohort(0.3)
    assert permutation_test(units, permutations=50) == permutation_test(units, permutations=50)
    other = permutation_test(units, permutations=50, seed=1)
    assert other.null_mean != permutation_test(units, permutations=50).null_mean


def test_a_person_of_both_labels_counts_as_two_and_unknown_persons_are_refused():
    units = cohort(1.0)
    mixed = units.assign(person=units["person"].replace("P1", "P0"))
    assert permutation_test(mixed, permutations=20).persons == 40
    with pytest.raises(ValueError, match="not every recording names one"):
        permutation_test(units.assign(person=""), permutations=20)
    with pytest.raises(ValueError, match="one class"):
        permutation_test(units[units["label"] == 1], permutations=20)
