import warnings
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, cohen_kappa_score, precision_score, roc_auc_score

from evaluation.scores import binary_scores
from evaluation.statistics import (
    STATISTICS,
    cluster_bootstrap,
    holm,
    paired_cluster_bootstrap,
    too_few_clusters,
    weighted_auroc,
    weighted_average_precision,
    wilson_interval,
)

SEPARATION, SPREAD = 1.5, 1.0
TRUE_AUROC = NormalDist().cdf(SEPARATION / np.sqrt(2 * (1 + SPREAD**2)))


def clustered(seed: int, sessions: int = 60, size: int = 5) -> pd.DataFrame:
    """Scores that share a deviation within a session of one class, so that TRUE_AUROC is exact."""
    random = np.random.default_rng(seed)
    session = np.repeat(np.arange(sessions), size)
    label = session % 2
    shared = SPREAD * random.standard_normal(sessions)[session]
    score = SEPARATION * label + shared + random.standard_normal(len(session))
    return pd.DataFrame(
        {
            "recording": [f"a{row:04d}" for row in range(len(session))],
            "session": [f"C{number}" for number in session],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
            "threshold": 0.5,
        }
    )


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=25),
)
def test_weighted_areas_agree_with_sklearn(rows):
    label, score, weight = np.array(rows).T
    assume(weight[label == 0].sum() and weight[label == 1].sum())
    expected = roc_auc_score(label, score, sample_weight=weight)
    assert weighted_auroc(label, score, weight[None])[0] == pytest.approx(expected)
    expected = average_precision_score(label, score, sample_weight=weight)
    assert weighted_average_precision(label, score, weight[None])[0] == pytest.approx(expected)


def test_weighted_auroc_is_nan_where_a_class_has_no_weight():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        areas = weighted_auroc([0, 1, 1], [0.1, 0.2, 0.3], [[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    assert np.isnan(areas[:2]).all()
    assert areas[2] == 1


@pytest.mark.parametrize("name", STATISTICS)
def test_a_weighted_statistic_is_the_score_of_repeated_rows(name):
    units = clustered(1, sessions=8)
    times = np.random.default_rng(0).integers(0, 4, (3, len(units)))
    for weights, value in zip(times, STATISTICS[name](units, times.astype(float)), strict=True):
        repeated = units.loc[units.index.repeat(weights)]
        decided = repeated["probability"] >= 0.5
        expected = binary_scores(repeated["label"], repeated["probability"]) | {
            "ppv": precision_score(repeated["label"], decided),
            "npv": precision_score(1 - repeated["label"], ~decided),
            "kappa": cohen_kappa_score(repeated["label"], decided),
        }
        assert value == pytest.approx(expected[name])


def test_same_seed_equal_and_different_seed_different():
    units = clustered(0)
    first, second = (cluster_bootstrap(units, draws=200, seed=3) for _ in range(2))
    assert first == second
    other = cluster_bootstrap(units, draws=200, seed=4)
    assert (
        other.estimate == first.estimate == pytest.approx(roc_auc_score(units["label"], units["probability"]))
    )
    assert (other.low, other.high) != (first.low, first.high)
    assert first.low < first.estimate < first.high
    assert (first.draws, first.clusters, first.redrawn) == (200, 60, 0)


def test_drawing_sessions_widens_the_interval_of_clustered_data():
    units = clustered(0)
    of_sessions = cluster_bootstrap(units, draws=500)
    of_recordings = cluster_bootstrap(units, cluster="recording", draws=500)
    assert of_sessions.high - of_sessions.low > 1.4 * (of_recordings.high - of_recordings.low)


def test_intervals_over_sessions_cover_the_truth_and_those_over_recordings_do_not():
    def covers(seed: int, cluster: str) -> bool:
        interval = cluster_bootstrap(clustered(seed), cluster=cluster, draws=300, seed=seed)
        return interval.low <= TRUE_AUROC <= interval.high

    by_session = np.mean([covers(seed, "session") for seed in range(150)])
    by_recording = np.mean([covers(seed, "recording") for seed in range(150)])
    assert 0.89 <= by_session <= 0.99
    assert by_recording < 0.8


def test_a_model_differs_from_itself_by_nothing_and_from_a_worse_one_by_the_difference():
    units = clustered(0)
    same = paired_cluster_bootstrap(units, units.sample(frac=1, random_state=0), draws=200)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    worse = units.assign(probability=1 - units["probability"])
    difference = paired_cluster_bootstrap(units, worse, draws=200)
    expected = 2 * roc_auc_score(units["label"], units["probability"]) - 1
    assert difference.estimate == pytest.approx(expected)
    assert 0 < difference.low < expected < difference.high


def test_a_paired_interval_is_narrower_than_that_of_either_model():
    units = clustered(0)
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(units))
    near = units.assign(probability=np.clip(units["probability"] + noise, 0, 1))
    paired, alone = paired_cluster_bootstrap(units, near, draws=300), cluster_bootstrap(units, draws=300)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda units: units.iloc[1:], "differ in 1 recordings"),
        (lambda units: units.assign(label=1 - units["label"]), "another label"),
        (lambda units: units.assign(session="C0"), "another session"),
        (lambda units: units.assign(recording="a"), "occurs twice"),
        (lambda units: units.drop(columns="recording"), "in common"),
    ],
)
def test_tables_of_other_units_are_not_compared(change, message):
    units = clustered(0)
    with pytest.raises(ValueError, match=message):
        paired_cluster_bootstrap(units, change(units), draws=10)


def test_draws_without_a_class_are_repeated_and_counted():
    units = clustered(0, sessions=20)
    rare = units[units["session"].isin(["C0", "C2", "C4", "C6", "C8"]) | (units["label"] == 1)]
    interval = cluster_bootstrap(rare, draws=1000)
    assert interval.draws == 1000
    assert interval.redrawn == pytest.approx((10 / 15) ** 15 + (5 / 15) ** 15, abs=0.01)
    assert np.isfinite([interval.low, interval.high]).all()


@pytest.mark.parametrize(("sessions", "said"), [(1, "1 session"), (4, "4 sessions, 5 are needed"), (5, "")])
def test_a_class_of_few_sessions_has_neither_interval_nor_p_value(sessions, said):
    units = clustered(0, sessions=40)
    normal = [f"C{2 * number}" for number in range(sessions)]
    units = units[units["session"].isin(normal) | (units["label"] == 1)]
    expected = said and f"all normal recordings come from {said}"
    interval = cluster_bootstrap(units, draws=100)
    noise = units.assign(probability=np.linspace(0, 1, len(units)))
    difference = paired_cluster_bootstrap(units, noise, draws=100)
    assert too_few_clusters(units) == interval.reason == difference.reason == expected
    missing = np.isnan([interval.low, interval.high, difference.low, difference.high, difference.p_value])
    assert missing.all() == missing.any() == bool(said)
    assert np.isfinite([interval.estimate, difference.estimate]).all()
    assert cluster_bootstrap(units, draws=0).reason == "", "no draws were asked for"


def test_an_interval_without_width_is_none():
    units = clustered(0).assign(probability=clustered(0)["label"].astype(float))
    interval = cluster_bootstrap(units, draws=100, noun="patient")
    assert (interval.estimate, interval.reason) == (1, "every draw of patients gives 1.000")
    assert np.isnan([interval.low, interval.high]).all()


def test_without_classes_the_clusters_themselves_are_counted():
    units = clustered(0, sessions=3).drop(columns="label")
    interval = cluster_bootstrap(units, lambda rows, weights: weights.mean(axis=1), draws=10)
    assert interval.reason == "there are only 3 sessions, 5 are needed"


@pytest.mark.parametrize("kind", ["no draws", "one class", "one session", "never defined"])
def test_where_no_interval_can_be_made_its_ends_are_nan(kind):
    units = clustered(0)
    units = units[units["label"] == 1] if kind == "one class" else units
    units = units.assign(session="C0") if kind == "one session" else units
    statistic = "auroc" if kind != "never defined" else lambda _, weights: np.full(len(weights), np.nan)
    interval = cluster_bootstrap(units, statistic, draws=0 if kind == "no draws" else 50)
    assert np.isnan([interval.low, interval.high]).all()
    assert interval.draws == 0


def test_a_statistic_may_be_a_function_or_a_known_name():
    units = clustered(0)
    interval = cluster_bootstrap(
        units, lambda rows, weights: weights @ rows["probability"].to_numpy() / weights.sum(axis=1), draws=100
    )
    assert interval.estimate == pytest.approx(units["probability"].mean())
    with pytest.raises(ValueError, match="choose one of auroc"):
        cluster_bootstrap(units, "roc", draws=0)
    with pytest.raises(ValueError, match="have no session"):
        cluster_bootstrap(units.assign(session=None), draws=0)
    with pytest.raises(ValueError, match="level"):
        cluster_bootstrap(units, draws=0, level=95)


def test_two_thousand_draws_of_the_real_size_are_few_calls():
    units = clustered(0, sessions=58, size=7).iloc[:388]
    drawn = []

    def mean(rows, weights):
        drawn.append(len(weights))
        return weights @ rows["probability"].to_numpy() / weights.sum(axis=1)

    assert cluster_bootstrap(units, mean, draws=2000).draws == 2000
    assert len(drawn) <= 3, "all draws at once, not one after the other"


def test_the_p_value_is_one_for_a_model_and_itself_and_small_where_no_draw_changes_the_sign():
    units = clustered(0)
    assert paired_cluster_bootstrap(units, units, draws=100).p_value == 1
    worse = units.assign(probability=1 - units["probability"])
    for first, second in ((units, worse), (worse, units)):
        assert paired_cluster_bootstrap(first, second, draws=199).p_value == pytest.approx(2 / 200)
    assert np.isnan(paired_cluster_bootstrap(units, worse, draws=0).p_value)


def test_the_p_value_falls_below_a_twentieth_where_the_interval_leaves_zero():
    units = clustered(0)
    random = np.random.default_rng(1)
    for noise in (0.05, 0.2, 0.4):
        near = units.assign(
            probability=np.clip(units["probability"] + noise * random.standard_normal(len(units)), 0, 1)
        )
        found = paired_cluster_bootstrap(units, near, draws=999)
        assert (found.p_value < 0.04) <= (found.low * found.high > 0)
        assert (found.low * found.high > 0) <= (found.p_value < 0.06)


def test_holm_of_an_example_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]).tolist() == pytest.approx([1, 1])
    adjusted = holm([np.nan, 0.02, 0.04])
    assert np.isnan(adjusted[0])
    assert adjusted[1:].tolist() == pytest.approx([0.04, 0.04])
    assert holm([0.2]).tolist() == [0.2]
    assert len(holm([])) == 0


@pytest.mark.parametrize(
    ("found", "cases", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe(found, cases, low, high):
    """Newcombe, Stat. Med. 17 (1998) 857, Table I, method 3."""
    assert wilson_interval(found / cases, cases) == pytest.approx((low, high), abs=5e-5)
    other = wilson_interval(1 - found / cases, cases)
    assert other == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_a_wilson_interval_without_cases_is_none():
    assert np.isnan(wilson_interval(np.nan, 0)).all()


def test_kappa_ppv_and_npv_of_an_example_worked_by_hand():
    """20 agree on yes, 15 on no, 5 and 10 differ: kappa .4, as in many a textbook."""
    counts = {(1, 0.9): 20, (0, 0.9): 5, (1, 0.1): 10, (0, 0.1): 15}
    rows = [pair for pair, count in counts.items() for _ in range(count)]
    units = pd.DataFrame(rows, columns=["label", "probability"]).assign(threshold=0.5)
    once = np.ones((1, len(units)))
    found = {name: STATISTICS[name](units, once)[0] for name in ("kappa", "ppv", "npv")}
    assert found == pytest.approx({"kappa": 0.4, "ppv": 0.8, "npv": 0.6})
    weights = np.array([[2.0] * 20 + [0.0] * 30])
    assert np.isnan(STATISTICS["npv"](units, weights)[0])


def test_a_score_that_is_not_defined_has_no_interval():
    units = pd.DataFrame({"session": np.arange(20), "label": np.arange(20) % 2})

    def of_some_draws(_: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
        return np.where((weights == 1).all(axis=1), np.nan, weights[:, 0])

    found = cluster_bootstrap(units, of_some_draws, draws=50)
    assert np.isnan([found.estimate, found.low, found.high]).all()
    assert found.reason == "the score is defined for some draws of sessions only"
