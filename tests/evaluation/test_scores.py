import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.scores import aggregate, best_threshold, binary_scores, check_predictions, fold_scores


def table(**columns) -> pd.DataFrame:
    count = len(columns["probability"])
    default = {
        "sample": range(count),
        "recording": [f"a{row}" for row in range(count)],
        "session": "C1",
        "person": "P1",
        "fold": 0,
        "label": 1,
        "threshold": 0.5,
    }
    return pd.DataFrame({**default, **columns})


def test_scores_of_a_small_example_worked_by_hand():
    scores = binary_scores([0, 0, 0, 1, 1], [0.1, 0.4, 0.6, 0.4, 0.9])
    assert [scores[name] for name in ("tn", "fp", "fn", "tp", "n")] == [2, 1, 1, 1, 5]
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["sensitivity"] == pytest.approx(1 / 2)
    assert scores["specificity"] == pytest.approx(2 / 3)
    assert scores["precision"] == pytest.approx(1 / 2)
    assert scores["f1"] == pytest.approx(1 / 2)
    assert scores["macc"] == pytest.approx(7 / 12)
    assert scores["auroc"] == pytest.approx(4.5 / 6), "pairs: 1 + 0.5 + 0 for 0.4, and 3 for 0.9"
    assert scores["auprc"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 4)
    assert scores["brier"] == pytest.approx((0.01 + 0.16 + 0.36 + 0.36 + 0.01) / 5)
    assert scores["prevalence"] == pytest.approx(2 / 5)


def test_confusion_matrix_of_the_published_model_gives_the_published_scores():
    label = np.repeat([0, 0, 1, 1], [4186, 117, 196, 9538])
    scores = binary_scores(label, np.repeat([0.0, 1.0, 0.0, 1.0], [4186, 117, 196, 9538]))
    published = {"accuracy": 0.9777, "specificity": 0.9728, "sensitivity": 0.9799, "f1": 0.9839}
    assert {name: round(scores[name], 4) for name in published} == published


def test_a_probability_at_the_threshold_counts_as_abnormal_and_thresholds_may_differ_by_row():
    assert binary_scores([0, 1], [0.5, 0.5])["tp"] == 1
    scores = binary_scores([0, 1, 0, 1], [0.3, 0.3, 0.6, 0.6], [0.4, 0.2, 0.7, 0.5])
    assert scores["accuracy"] == 1


@pytest.mark.parametrize("kind", [0, 1])
def test_one_class_gives_nan_without_a_warning(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = binary_scores([kind, kind], [0.2, 0.3])
    assert all(np.isnan(scores[name]) for name in ("auroc", "auprc", "macc"))
    assert scores["accuracy"] == 1 - kind
    assert best_threshold([kind, kind], [0.2, 0.3]) == 0.5


@pytest.mark.parametrize(
    ("label", "probability", "threshold", "message"),
    [
        ([0, 1], [0.1, np.nan], 0.5, "NaN"),
        ([0, 1], [0.1], 0.5, "equal length"),
        ([0, 2], [0.1, 0.2], 0.5, "0 or 1"),
        ([0, np.nan], [0.1, 0.2], 0.5, "0 or 1"),
        ([0, 1], [-3.0, 4.0], 0.5, "logits"),
        ([0, 1], [0.1, 0.2], [0.5], "one a sample"),
        ([0, 1], [0.1, 0.2], np.nan, "threshold is NaN"),
        ([], [], 0.5, "nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_reason(label, probability, threshold, message):
    with pytest.raises(ValueError, match=message):
        binary_scores(label, probability, threshold)


@pytest.mark.parametrize(
    ("label", "probability", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 0.25),
        ([0, 1, 0, 1], [0.1, 0.3, 0.35, 0.4], 0.375),
        ([0, 1], [1.0, 1.0], 0.5),
    ],
)
def test_best_threshold_lies_half_way_and_of_equals_closest_to_half(label, probability, expected):
    assert best_threshold(label, probability) == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=2, max_size=30))
def test_no_other_threshold_is_better_than_the_best(rows):
    label, probability = np.array(rows).T[0], np.array(rows).T[1] / 12
    if len(set(label)) == 2:
        reached = binary_scores(label, probability, best_threshold(label, probability))["macc"]
        decided = probability >= np.linspace(0, 1.1, 45)[:, None]
        others = [(row[label == 1].mean() + (~row)[label == 0].mean()) / 2 for row in decided]
        assert reached >= max(others) - 1e-12


def test_a_recording_is_the_mean_of_its_beats_and_a_person_the_mean_of_recordings():
    beats = table(
        recording=["a", "a", "b", "c"],
        person=["P1", "P1", "P1", "P2"],
        label=[1, 1, 1, 0],
        probability=[0.2, 0.4, 0.9, 0.5],
        diagnosis=["MVP", "MVP", "MVP", "Normal"],
        site=["LV", "LV", "Ao", "LV"],
    )
    recordings = aggregate(beats)
    assert recordings["probability"].tolist() == pytest.approx([0.3, 0.9, 0.5])
    assert recordings["beats"].tolist() == [2, 1, 1]
    assert recordings["diagnosis"].tolist() == ["MVP", "MVP", "Normal"]
    persons = aggregate(beats, "person")
    assert persons["probability"].tolist() == pytest.approx([0.6, 0.5])
    assert persons[["beats", "recordings"]].to_numpy().tolist() == [[3, 2], [1, 1]]
    assert persons["site"].tolist() == ["Ao, LV", "LV"]
    assert aggregate(beats.assign(site=[None, "LV", None, None]))["site"].tolist() == ["LV", "", ""]


def test_the_number_of_beats_does_not_count():
    once = table(recording=["a", "b"], probability=[0.25, 0.75])
    often = once.loc[[0] * 7 + [1] * 3].reset_index(drop=True).assign(sample=range(10))
    for by in ("recording", "person"):
        first, second = aggregate(once, by), aggregate(often, by)
        assert first.drop(columns="beats").equals(second.drop(columns="beats"))


def test_a_recording_split_over_folds_is_marked_and_its_threshold_is_the_mean():
    beats = table(
        recording=["a", "a", "b"], fold=[0, 1, 1], threshold=[0.2, 0.4, 0.1], probability=[0.1, 0.2, 0.3]
    )
    units = aggregate(beats)
    assert units["fold"].tolist() == [-1, 1]
    assert units["threshold"].tolist() == pytest.approx([0.3, 0.1])


@pytest.mark.parametrize(
    ("columns", "by", "message"),
    [
        ({"recording": ["a", "a"], "label": [0, 1]}, "recording", "recording a with 0, 1"),
        ({"recording": ["a", "a"], "session": ["C1", "C2"]}, "recording", "more than one session"),
        ({"session": ["C1", "C2"]}, "person", "more than one session"),
        ({"person": ["P1", ""]}, "person", "1 rows have none"),
        ({}, "site", "choose recording or person"),
    ],
)
def test_units_that_disagree_are_refused(columns, by, message):
    with pytest.raises(ValueError, match=message):
        aggregate(table(probability=[0.1, 0.2], **columns), by)


def test_fold_scores_are_means_over_folds_and_a_pool():
    predictions = table(
        fold=[0, 0, 1, 1, 2, 2], label=[0, 1, 0, 1, 1, 1], probability=[0.1, 0.9, 0.6, 0.7, 0.9, 0.9]
    )
    scores = fold_scores(predictions, dict(list(predictions.groupby("fold"))))
    assert [fold["accuracy"] for fold in scores["per_fold"]] == [1, 0.5, 1]
    assert scores["mean"]["accuracy"] == pytest.approx(5 / 6)
    assert scores["standard_deviation"]["accuracy"] == pytest.approx(np.std([1, 0.5, 1], ddof=1))
    assert scores["mean"]["auroc"] == 1, "the fold of one class does not count"
    assert scores["pooled"]["n"] == 6
    assert scores["pooled"]["accuracy"] == pytest.approx(5 / 6)


def test_fold_scores_take_the_thresholds_of_the_column_or_one_for_all():
    predictions = table(label=[0, 1], probability=[0.6, 0.7], threshold=0.65)
    assert fold_scores(predictions, {0: predictions})["pooled"]["accuracy"] == 1
    assert fold_scores(predictions, {0: predictions}, 0.5)["pooled"]["accuracy"] == 0.5


def test_a_table_that_is_none_of_predictions_is_refused():
    good = table(probability=[0.1, 0.2])
    check_predictions(good)
    for bad, message in (
        (good.drop(columns=["fold", "label"]), "lacks fold, label"),
        (good.iloc[:0], "no rows"),
        (good.assign(sample=3), "Sample 3 is predicted twice"),
        (good.assign(session=None), "2 predictions have no session"),
    ):
        with pytest.raises(ValueError, match=message):
            check_predictions(bad)
