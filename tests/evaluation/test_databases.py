"""Databases are scored one by one: a mean worked by hand, its interval, and no pooled score anywhere."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison import compare, format_comparison
from evaluation.databases import (
    database_captions,
    database_files,
    database_prevalence,
    database_tables,
    evaluate_databases,
)
from evaluation.page import html_page
from evaluation.report import format_table, markdown_table
from evaluation.scores import aggregate, mean_auroc
from evaluation.statistics import (
    cluster_bootstrap,
    grouped_cluster_bootstrap,
    grouped_paired_bootstrap,
    paired_cluster_bootstrap,
)

BY_HAND = {
    "a": ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]),  # three of four pairs right: .75
    "b": ([0, 0, 0, 1], [0.6, 0.6, 0.6, 0.6]),  # ties: .5
    "c": ([0, 1, 1, 1], [0.7, 0.8, 0.9, 0.95]),  # all right: 1
}


def table(databases) -> pd.DataFrame:
    """Return predictions of (labels, probabilities) by database, each recording a session of its own."""
    parts = []
    for fold, (name, (label, probability)) in enumerate(databases.items()):
        names = [f"{name}{row:03d}" for row in range(len(label))]
        part = {"recording": names, "session": names, "person": names, "database": name, "fold": fold}
        parts.append(pd.DataFrame(part | {"label": label, "probability": probability, "threshold": 0.65}))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(sample=np.arange(len(rows)))


def simulated(seed=0, databases="abc", size=60, shift=1.0, prevalence=0.5) -> pd.DataFrame:
    """Return scores with the same separation in each database, at a share of abnormal."""
    random = np.random.default_rng(seed)
    made = {}
    for name in databases:
        label = (np.arange(size) < prevalence * size).astype(int)
        made[name] = label, 1 / (1 + np.exp(-shift * label - random.standard_normal(size)))
    return table(made)


def evaluated(predictions, draws=0, **options):
    return evaluate_databases(predictions, protocol="database", draws=draws, **options)


def keys(value) -> set[str]:
    if isinstance(value, dict):
        return {*value, *(key for item in value.values() for key in keys(item))}
    return {key for item in value for key in keys(item)} if isinstance(value, list) else set()


def test_the_mean_over_databases_is_the_one_worked_by_hand():
    found = evaluated(table(BY_HAND))["by_database"]["recordings"]
    assert [found["databases"][name]["auroc"] for name in "abc"] == [0.75, 0.5, 1.0]
    assert found["mean"]["auroc"] == 0.75
    assert found["worst"] == {"database": "b", "auroc": 0.5}
    assert found["mean"]["sensitivity"] == pytest.approx((1 / 2 + 1 + 1) / 3), "at 0.5"
    assert found["mean"]["specificity"] == pytest.approx((1 + 0 + 0) / 3)
    chosen = evaluated(table(BY_HAND), threshold="validation")["by_database"]["recordings"]["mean"]
    assert (chosen["sensitivity"], chosen["specificity"]) == pytest.approx(((1 / 2 + 0 + 1) / 3, 2 / 3))
    assert found["databases"]["c"]["prevalence"] == 0.75


def test_recordings_that_name_no_database_are_listed_as_such():
    found = evaluated(table({"a": BY_HAND["a"], "": BY_HAND["b"]}))["by_database"]["recordings"]
    assert [(name, row["auroc"]) for name, row in found["databases"].items()] == [
        ("(not named)", 0.5),
        ("a", 0.75),
    ]


def test_a_model_that_names_the_database_alone_is_worth_nothing():
    shares = {"a": 0.1, "b": 0.5, "c": 0.9}
    rows = table(
        {name: ((np.arange(40) < 40 * share).astype(int), [share] * 40) for name, share in shares.items()}
    )
    assert roc_auc_score(rows["label"], rows["probability"]) > 0.8, "pooled, which is never given"
    assert evaluated(rows)["by_database"]["recordings"]["mean"]["auroc"] == 0.5


def test_curves_of_training_do_not_count_pairs_of_two_databases():
    rows = table(BY_HAND | {"d": ([1, 1], [0.9, 0.9])})
    assert mean_auroc(rows["label"], rows["probability"], rows["database"].to_numpy()) == 0.75
    assert np.isnan(mean_auroc([1, 1], [0.1, 0.2], ["a", "b"]))


def test_nothing_that_is_written_or_printed_is_pooled():
    rows = simulated(prevalence=0.4)
    rows.loc[rows["database"] == "a", "probability"] **= 3  # so that the pooled AUROC is another number
    metrics = evaluated(rows, draws=50)
    pooled = roc_auc_score(rows["label"], rows["probability"])
    tables, captions = database_tables(metrics), database_captions(metrics)
    files = database_files(rows, metrics)
    figures = [name for name in files if name.startswith("figures/")]
    assert figures == ["figures/auroc_by_database.png"]
    drawn = " ".join(text.get_text() for text in files[figures[0]].axes[0].texts)
    page = html_page("a run", metrics, {f"{name}.csv": item for name, item in tables.items()}, captions)
    shown = tables["databases"].to_string() + format_table(metrics) + markdown_table(metrics) + drawn + page
    assert "pooled" not in keys(metrics)
    assert metrics["recordings"] is metrics["persons"] is metrics["beats"] is None
    for text in (shown, json.dumps(metrics)):
        assert "pooled" not in text
        assert f"{pooled:.3f}" not in text
    assert "The databases are fixed" in captions["databases"].text
    assert "Scores by database (recordings)" in page
    assert len(drawn.split()) == 4


def test_calibration_is_given_for_each_database_and_as_median():
    metrics = evaluated(simulated(size=400, shift=2.0), draws=0)
    found = metrics["by_database"]["recordings"]
    slopes = [found["databases"][name]["calibration"]["slope"]["value"] for name in "abc"]
    assert found["median"]["slope"] == np.median(slopes)
    written = database_tables(metrics)["database_calibration"]
    assert written["database"].tolist() == ["a", "b", "c", "median"]
    assert written["slope"].tolist() == pytest.approx([*slopes, np.median(slopes)])
    # log-odds of N(0, 1) against N(2, 1), equally many, are 2 (s - 1): the slope is 2, the intercept -2
    assert np.median(slopes) == pytest.approx(2, abs=0.35)
    assert found["median"]["intercept"] == pytest.approx(-2, abs=0.35)


def test_probabilities_are_brought_from_the_share_they_assume():
    """Odds at one tenth are a ninth of those at a half, which the intercept makes good."""
    rows = simulated(size=400, shift=2.0)
    half, tenth = (
        evaluated(rows, draws=0, assumed=share)["by_database"]["recordings"]["databases"]["a"]["calibration"]
        for share in (0.5, 0.1)
    )
    slope = half["slope"]["value"]
    assert tenth["slope"]["value"] == pytest.approx(slope, abs=1e-6)
    expected = half["intercept"]["value"] + slope * np.log(1 / 9)
    assert tenth["intercept"]["value"] == pytest.approx(expected, abs=1e-4)


def test_a_database_of_one_label_has_no_auroc_and_no_part_in_the_mean():
    metrics = evaluated(table(BY_HAND | {"d": ([1, 1, 1], [0.1, 0.2, 0.9])}))
    found = metrics["by_database"]["recordings"]
    assert found["databases"]["d"]["auroc"] is None
    assert (found["mean"]["auroc"], found["mean"]["databases"]) == (0.75, 3)
    assert "Database d has one label only: no AUROC, and no part in its mean." in metrics["notes"]


def test_the_interval_of_the_mean_is_that_of_independent_databases():
    """Of three databases alike but for their names the mean varies less than one, by the root of three."""
    one = simulated(databases="a", size=80)
    groups = {name: one.assign(session=name + one["session"]) for name in "abc"}
    single = cluster_bootstrap(one, draws=2000)
    intervals, mean = grouped_cluster_bootstrap(groups, draws=2000)
    assert mean.estimate == pytest.approx(single.estimate)
    width, narrower = (found.high - found.low for found in (single, mean))
    assert narrower == pytest.approx(width / np.sqrt(3), rel=0.1)
    assert mean.clusters == 240
    for interval in intervals.values():
        assert interval.high - interval.low == pytest.approx(width, rel=0.1)


def test_a_database_of_too_few_sessions_leaves_the_mean_without_an_interval():
    rows = simulated()
    rows.loc[(rows["database"] == "b") & (rows["label"] == 0), "session"] = "one"
    found = evaluated(rows, draws=100)["by_database"]["recordings"]
    assert found["mean"]["auroc_low"] is None
    assert found["mean"]["reason"] == "b: all normal recordings come from 1 session"
    assert found["databases"]["a"]["auroc_low"] < found["databases"]["a"]["auroc_high"]


def test_a_database_that_is_all_right_does_not_take_the_interval_from_the_mean():
    rows = simulated()
    rows.loc[rows["database"] == "c", "probability"] = rows["label"] * 0.9 + 0.05
    found = evaluated(rows, draws=100)["by_database"]["recordings"]
    assert found["databases"]["c"]["auroc_low"] is None
    assert found["mean"]["auroc_low"] < found["mean"]["auroc"] < found["mean"]["auroc_high"]


def test_persons_are_scored_where_all_are_known():
    rows = simulated()
    assert "databases_persons" in database_tables(evaluated(rows))
    unknown = evaluated(rows.assign(person=""))
    assert "databases_persons" not in database_tables(unknown)
    assert "Not every recording names a person: no scores per person." in unknown["notes"]


def test_another_prevalence_is_reckoned_in_each_database():
    shown = database_prevalence(table(BY_HAND | {"d": ([1, 1], [0.1, 0.9])}), 0.1, 0.5, 0)
    assert shown["database"].unique().tolist() == ["a", "b", "c"]
    sensitivity = shown[shown["score"] == "sensitivity"].set_index("database")["value"]
    assert sensitivity["c"] == pytest.approx(1 / 3), "of .8, .9, .95, now .31, .5, .68, one is above .65"


# Comparison -----------------------------------------------------------------------------------------


def test_runs_are_compared_by_their_means_over_databases_on_the_same_sessions():
    better, worse = simulated(shift=2.0), simulated(shift=1.0)  # the same noise: paired
    units = aggregate(better), aggregate(worse)
    shown = compare(*units, draws=300)
    assert shown["row"].tolist() == ["mean of 3 databases", "a", "b", "c"]
    mean, *each = shown.to_dict("records")
    assert mean["first"] == pytest.approx(np.mean([row["first"] for row in each]))
    assert mean["difference"] == pytest.approx(np.mean([row["difference"] for row in each]))
    pairs = {name: tuple(unit[unit["database"] == name] for unit in units) for name in "abc"}
    expected = grouped_paired_bootstrap(pairs, draws=300)
    assert (mean["low"], mean["high"], mean["p"]) == (expected.low, expected.high, expected.p_value)
    assert mean["low"] < mean["difference"] < mean["high"]
    assert mean["p_holm"] == mean["p"]
    assert mean["persons"] == 0, "DeLong's test would pool"
    assert np.isnan(mean["p_delong"])
    single = paired_cluster_bootstrap(*pairs["a"], draws=300)
    assert (each[0]["low"], each[0]["high"]) == (single.low, single.high)
    text = format_comparison(shown)
    assert "mean of 3 databases" in text
    assert "The databases are fixed" in text


def test_a_run_that_knows_no_databases_is_compared_by_those_of_the_other():
    first, second = aggregate(simulated(shift=2.0)), aggregate(simulated())
    both = compare(first, second, draws=20)
    one = compare(first, second.drop(columns="database"), draws=20)
    pd.testing.assert_frame_equal(one, both)
    assert compare(first, first, draws=20)["difference"].tolist() == [0, 0, 0, 0]
    of_one = [unit[unit["database"] == "a"] for unit in (first, second)]
    assert compare(*of_one, draws=20)["row"].tolist() == ["all"]


def test_probabilities_are_brought_to_the_share_of_abnormal_of_each_database():
    """Log-odds that are right where half are abnormal are right for one in ten after the shift."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [5400, 600])
    score = random.normal(size=6000) + 2 * labels
    right_at_half = 1 / (1 + np.exp(-2 * (score - 1)))
    other = ([0, 1] * 20, [0.3, 0.7] * 20)
    metrics = evaluated(table({"rare": (labels, right_at_half), "other": other}), draws=0)
    found = metrics["by_database"]["recordings"]["databases"]["rare"]["calibration"]
    assert found["slope"]["value"] == pytest.approx(1, abs=0.1)
    assert found["intercept"]["value"] == pytest.approx(0, abs=0.2)
    assert found["expected_calibration_error"]["value"] < 0.02
