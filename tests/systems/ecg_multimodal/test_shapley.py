from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evaluation.statistics import cluster_bootstrap
from systems.ecg_multimodal.shapley import (
    attribution,
    coalition_name,
    coalitions,
    shapley_auroc,
    shapley_values,
    subset_scores,
)

VIEWS = ("image", "signal", "clinical")


def game(**values: float) -> dict[frozenset[str], np.ndarray]:
    return {frozenset(name): np.array([value], dtype=float) for name, value in values.items()}


@st.composite
def games(draw, views: str = "abcd", least: int = 1, patients: int = 3):
    """Any game of up to four views, and what is predicted of nothing, for a few patients."""
    players = views[: draw(st.integers(least, len(views)))]
    number = st.floats(-20, 20, allow_nan=False)
    column = st.lists(number, min_size=patients, max_size=patients).map(np.array)
    return {part: draw(column) for part in coalitions(players)}, draw(column)


def evidence(seed: int = 0, patients: int = 300, rows: int = 1):
    """Views that add up: the signal says most, the image less, the table nothing."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(patients), rows)
    label = (group % 2).astype(int)
    shared = random.standard_normal((3, patients))[:, group]
    own = random.standard_normal((3, len(group)))
    strength = np.array([0.5, 1.2, 0.0])[:, None]
    said = strength * (label - 0.5) + 0.8 * shared + 0.6 * own
    said[2] = 0
    values = {part: sum(said[VIEWS.index(view)] for view in part) for part in coalitions(VIEWS)}
    return label, values, group


def test_a_game_of_three_worked_by_hand():
    values = game(a=1, b=2, c=3, ab=5, ac=4, bc=8, abc=12)
    found = shapley_values(values, 0.0)
    # a: 1/3 (1 - 0) + 1/6 (5 - 2) + 1/6 (4 - 3) + 1/3 (12 - 8), and so on
    assert list(found) == ["a", "b", "c"]
    assert [found[view][0] for view in "abc"] == pytest.approx([7 / 3, 29 / 6, 29 / 6])
    lifted = shapley_values(values, 3.0)
    assert [lifted[view][0] for view in "abc"] == pytest.approx([4 / 3, 23 / 6, 23 / 6])


def test_the_fare_of_a_shared_taxi():
    fares = {"a": 6, "b": 12, "c": 42}
    values = {part: np.array([max(fares[name] for name in part)]) for part in coalitions("abc")}
    found = shapley_values(values, 0.0)
    assert [found[view][0] for view in "abc"] == pytest.approx([2, 5, 35])


@settings(deadline=None, max_examples=60)
@given(games())
def test_values_are_the_mean_over_all_orders_and_sum_to_the_whole(drawn):
    values, empty = drawn
    known = {**values, frozenset(): empty}
    views = sorted({view for part in values for view in part})
    expected = {view: np.zeros_like(empty) for view in views}
    orders = list(permutations(views))
    for order in orders:
        for place, view in enumerate(order):
            before = frozenset(order[:place])
            expected[view] += (known[before | {view}] - known[before]) / len(orders)
    found = shapley_values(values, empty)
    for view in views:
        np.testing.assert_allclose(found[view], expected[view], atol=1e-9)
    whole = values[frozenset(views)] - empty
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), whole, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(games(), st.data())
def test_contributions_of_a_sum_of_games_are_the_sum(drawn, data):
    values, empty = drawn
    other = {part: data.draw(st.floats(-5, 5)) * np.arange(1, 4) for part in values}
    both = {part: values[part] + other[part] for part in values}
    first, second, together = (
        shapley_values(*pair) for pair in ((values, empty), (other, 1.0), (both, empty + 1))
    )
    for view, value in together.items():
        np.testing.assert_allclose(value, first[view] + second[view], atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(games(views="abc"), st.floats(-5, 5))
def test_a_view_that_adds_the_same_everywhere_gets_that_and_nothing_else(drawn, worth):
    values, empty = drawn
    alone = shapley_values(values, empty)
    known = {**values, frozenset(): empty}
    wider = {part | {"z"}: value + worth for part, value in known.items()} | values
    found = shapley_values(wider, empty)
    np.testing.assert_allclose(found["z"], worth, atol=1e-9)
    for view, value in alone.items():
        np.testing.assert_allclose(found[view], value, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(games(least=2))
def test_views_that_are_worth_the_same_get_the_same(drawn):
    values, empty = drawn

    def swapped(part: frozenset[str]) -> frozenset[str]:
        return frozenset({"a": "b", "b": "a"}.get(view, view) for view in part)

    even = {part: values[part] + values[swapped(part)] for part in values}
    found = shapley_values(even, empty)
    np.testing.assert_allclose(found["a"], found["b"], atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(games(views="abc"), st.lists(st.tuples(*[st.booleans()] * 3), min_size=3, max_size=3))
def test_a_patient_who_lacks_views_plays_the_game_of_those_that_are_there(drawn, lines):
    values, empty = drawn
    views = sorted({view for part in values for view in part})
    present = {view: np.array([line["abc".index(view)] for line in lines]) for view in views}
    # What cannot be predicted is not looked at.
    holed = {
        part: np.where(np.all([present[view] for view in part], axis=0), value, np.nan)
        for part, value in values.items()
    }
    found = shapley_values(holed, empty, present)
    for row in range(3):
        there = [view for view in views if present[view][row]]
        small = {part: values[part][[row]] for part in coalitions(there)}
        expected = shapley_values(small, empty[[row]]) if there else {}
        for view in views:
            if view in there:
                assert found[view][row] == pytest.approx(expected[view][0], abs=1e-9)
            else:
                assert np.isnan(found[view][row])


@pytest.mark.parametrize(
    ("change", "empty", "present", "message"),
    [
        (lambda v: {k: x for k, x in v.items() if k != frozenset("ab")}, 0.0, None, "no predictions from: a"),
        (lambda v: {**v, frozenset(): np.zeros(1)}, 0.0, None, "argument `empty`"),
        (lambda v: {}, 0.0, None, "1 to 6 modalities, not 0"),
        (lambda v: {part: np.zeros(1) for part in coalitions("abcdefg")}, 0.0, None, "not 7"),
        (lambda v: {**v, frozenset("a"): np.zeros(2)}, 0.0, None, "one value a patient"),
        (
            lambda v: {**v, frozenset("b"): np.array([np.nan])},
            0.0,
            None,
            "1 predictions from b are not finite",
        ),
        (lambda v: {**v, frozenset("b"): np.array([np.inf])}, 0.0, None, "from b are not finite"),
        (lambda v: v, np.nan, None, "no modality are not finite"),
        (lambda v: v, 0.0, {"d": [True]}, "Presence is given of d"),
        (lambda v: v, 0.0, {"a": [True, False]}, "shape"),
    ],
)
def test_games_that_are_none_are_refused(change, empty, present, message):
    values = game(a=1, b=2, c=3, ab=5, ac=4, bc=8, abc=12)
    with pytest.raises(ValueError, match=message):
        shapley_values(change(values), empty, present)


def test_seven_sets_of_three_views_and_their_names():
    parts = coalitions(VIEWS)
    assert len(parts) == len(set(parts)) == 7
    names = [coalition_name(part, VIEWS) for part in parts]
    assert names[:4] == ["image", "signal", "clinical", "image + signal"]
    assert names[-1] == "image + signal + clinical"


def test_shares_count_what_moved_the_prediction_either_way():
    contributions = {
        "image": np.array([1.0, -1, np.nan, 0, np.nan]),
        "signal": np.array([-3.0, 1, 2, 0, np.nan]),
    }
    table = attribution(contributions).set_index("view")
    assert table["patients"].to_dict() == {"image": 3, "signal": 4}
    assert table["mean_absolute"].tolist() == pytest.approx([2 / 5, 6 / 5])
    assert table["share"].tolist() == pytest.approx([0.25, 0.75])
    assert attribution({"image": [0.0]})["share"].isna().all()
    with pytest.raises(ValueError, match="no patients"):
        attribution({"image": []})


def test_credits_sum_to_the_auroc_above_chance_and_an_idle_view_has_none():
    label, values, group = evidence()
    table = shapley_auroc(label, values, group, -0.2, draws=200).set_index("view")
    assert table.index.tolist() == [*VIEWS, "sum"]
    area = roc_auc_score(label, values[frozenset(VIEWS)])
    assert table["value"][:3].sum() == pytest.approx(area - 0.5)
    assert table.loc["sum", "value"] == pytest.approx(area - 0.5)
    assert abs(table.loc["clinical", "value"]) < 1e-12
    assert "every draw of patients gives" in table.loc["clinical", "reason"]
    assert table.loc["signal", "low"] > table.loc["image", "high"] > table.loc["image", "low"] > 0
    whole = pd.DataFrame({"label": label, "group": group, "probability": values[frozenset(VIEWS)]})
    expected = cluster_bootstrap(whole, "auroc", "group", draws=200)
    assert table.loc["sum", "low"] == pytest.approx(expected.low - 0.5)
    assert table.loc["sum", "high"] == pytest.approx(expected.high - 0.5)


def test_credits_of_two_views_worked_by_hand():
    # Alone: a orders 3 of 4 pairs right, b 2 of 4; together all.
    label = [0, 0, 1, 1]
    a, b = [0.0, 2, 1, 3], [0.0, -3, -1, -2]
    both = [0.0, 1, 2, 3]
    values = {frozenset("a"): a, frozenset("b"): b, frozenset("ab"): both}
    assert [roc_auc_score(label, score) for score in (a, b, both)] == [0.75, 0.5, 1]
    table = shapley_auroc(label, values, [0, 1, 2, 3], 0.0, draws=0)
    # what a adds to nothing is .25, and to b .5; the mean counts
    assert table["value"].tolist() == pytest.approx([0.375, 0.125, 0.5])
    assert table[["low", "high"]].isna().all(axis=None)


def test_two_views_that_say_the_same_share_the_credit():
    label, values, group = evidence()
    echo = {part: values[frozenset(["signal"])] for part in coalitions("ab")}
    table = shapley_auroc(label, echo, group, 0.0, draws=100).set_index("view")
    assert table.loc["a"].tolist() == table.loc["b"].tolist()


def test_who_lacks_all_views_of_a_set_is_predicted_as_the_prevalence():
    label, values, group = evidence()
    there = np.random.default_rng(1).random(len(label)) < 0.6
    holed = {
        part: np.where(there, value, np.nan) if "signal" in part else value for part, value in values.items()
    }
    table = subset_scores(label, holed, group, -0.4, {"signal": there}, draws=0).set_index("views")
    signal, image = values[frozenset(["signal"])], values[frozenset(["image"])]
    assert table.loc["signal", "value"] == pytest.approx(roc_auc_score(label, np.where(there, signal, -0.4)))
    assert table.loc["signal", "patients"] == there.sum()
    together = np.where(there, values[frozenset(["image", "signal"])], image)
    assert table.loc["image + signal", "value"] == pytest.approx(roc_auc_score(label, together))
    assert table.loc["image + signal", "patients"] == len(label)
    credits = shapley_auroc(label, holed, group, -0.4, {"signal": there}, draws=0).set_index("view")
    assert credits.loc["sum", "value"] == pytest.approx(table["value"].iloc[-1] - 0.5)


@pytest.mark.parametrize("scores", [subset_scores, shapley_auroc])
def test_intervals_are_of_patients_and_seeded(scores):
    label, values, group = evidence(patients=60, rows=4)
    first, again = (scores(label, values, group, 0.0, draws=200, seed=1) for _ in range(2))
    assert first.equals(again)
    assert not first.equals(scores(label, values, group, 0.0, draws=200, seed=2))
    rows = scores(label, values, np.arange(len(label)), 0.0, draws=200, seed=1)
    assert rows["value"].equals(first["value"])
    wide = (first["high"] - first["low"]) > 1.2 * (rows["high"] - rows["low"])
    assert wide[:2].all(), "image and signal, in both tables"


def test_intervals_of_credits_cover_the_truth():
    label, values, group = evidence(seed=10**6, patients=100_000, rows=1)
    truth = shapley_auroc(label, values, group, 0.0, draws=0).set_index("view")["value"]
    hits = []
    for seed in range(60):
        label, values, group = evidence(seed=seed, patients=80, rows=2)
        table = shapley_auroc(label, values, group, 0.0, draws=100, seed=seed).set_index("view")
        hits.append(
            [table["low"][view] <= truth[view] <= table["high"][view] for view in ("image", "signal")]
        )
    assert (np.mean(hits, axis=0) > 0.87).all()
    assert np.mean(hits) < 1


@pytest.mark.parametrize("label", [[0, 0], [0, 2], [0, np.nan], [0, 1, 1]])
def test_credits_need_labels_of_both_classes(label):
    values = {frozenset("a"): [0.0, 1.0]}
    with pytest.raises(ValueError, match="label"):
        shapley_auroc(label, values, list(range(len(label))), 0.0, draws=0)
