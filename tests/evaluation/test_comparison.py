import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.comparison import COLUMNS, compare, compare_with, delong_test, format_comparison
from evaluation.scores import aggregate
from evaluation.statistics import holm, paired_cluster_bootstrap


def run(noise: float, seed: int = 0, beats: int = 2, sessions: int = 30) -> pd.DataFrame:
    """Predictions of a model on the same recordings, the noisier the worse, in folds of its own."""
    random = np.random.default_rng(seed)
    session = np.repeat(np.arange(sessions), 4 * beats)
    label = (session + np.arange(len(session)) // (2 * beats)) % 2
    score = 2 * label - 1 + noise * random.standard_normal(len(session))
    return pd.DataFrame(
        {
            "sample": np.arange(len(session)),
            "recording": [f"a{row // beats:03d}" for row in range(len(session))],
            "session": [f"C{number}" for number in session],
            "person": [f"C{number}P{row // (2 * beats) % 2}" for row, number in enumerate(session)],
            "fold": (session + seed) % 5,
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
            "threshold": 0.5,
        }
    )


def test_a_row_is_what_its_parts_say():
    first, second = run(2.0), run(4.0, seed=1)
    table = compare(first, second, draws=200)
    assert list(table) == COLUMNS
    row = table.iloc[0]
    units = aggregate(first), aggregate(second)
    areas = [roc_auc_score(table["label"], table["probability"]) for table in units]
    assert [row["first"], row["second"]] == pytest.approx(areas)
    expected = paired_cluster_bootstrap(*units, draws=200)
    assert row["difference"] == pytest.approx(areas[0] - areas[1])
    assert (row["low"], row["high"], row["p"]) == pytest.approx(
        (expected.low, expected.high, expected.p_value)
    )
    assert row["p_holm"] == row["p"]
    counts = row[["recordings", "left_out", "n_abnormal", "n_normal", "sessions", "persons"]]
    assert counts.tolist() == [120, 0, 60, 60, 30, 60]


def test_persons_are_tested_by_delong_on_the_mean_log_odds_of_their_recordings():
    first, second = run(2.0, beats=1), run(4.0, seed=1, beats=1)
    row = compare(first, second, draws=10).iloc[0]
    odds = [np.log(table["probability"] / (1 - table["probability"])) for table in (first, second)]
    of_person = [score.groupby(first["person"]).mean() for score in odds]
    expected = delong_test(first.groupby("person")["label"].first(), *of_person)
    assert row["p_delong"] == pytest.approx(expected.p_value)
    assert row["persons_difference"] == pytest.approx(expected.difference)
    unknown = compare(first.assign(person=""), second, draws=10).iloc[0]
    assert np.isnan(unknown["p_delong"])
    assert unknown["persons"] == 0


def test_a_run_does_not_differ_from_itself_in_another_order_or_table_of_recordings():
    first = run(2.0)
    for other in (first.sample(frac=1, random_state=0), aggregate(first)):
        row = compare(first, other, draws=50).iloc[0]
        assert (row["difference"], row["low"], row["high"], row["p"], row["p_delong"]) == (0, 0, 0, 1, 1)


def test_recordings_of_one_run_only_are_left_out_and_counted():
    first, second = run(2.0), run(4.0, seed=1)
    part = second[second["fold"] == 0]
    row = compare(first, part, draws=50).iloc[0]
    assert row["recordings"] == part["recording"].nunique()
    assert row["left_out"] == 120 - row["recordings"]
    inside = aggregate(first[first["recording"].isin(part["recording"])])
    assert row["first"] == pytest.approx(roc_auc_score(inside["label"], inside["probability"]))


def test_several_seeds_count_by_the_mean_of_their_scores_and_not_as_an_ensemble():
    seeds = [run(6.0, seed=number) for number in range(4)]
    stacked = pd.concat([table.assign(seed=number) for number, table in enumerate(seeds)])
    row = compare(stacked, run(6.0, seed=9), draws=50).iloc[0]
    units = [aggregate(table) for table in seeds]
    areas = [roc_auc_score(table["label"], table["probability"]) for table in units]
    assert row["first"] == pytest.approx(np.mean(areas))
    ensemble = np.mean([table["probability"] for table in units], axis=0)
    assert roc_auc_score(units[0]["label"], ensemble) > row["first"] + 0.02
    assert (row["seeds_first"], row["seeds_second"]) == (4, 1)
    with pytest.raises(ValueError, match="Seed 3 has"):
        compare(stacked.iloc[:-2], seeds[0], draws=0)


def test_rows_of_a_column_are_compared_one_by_one_and_corrected_together():
    def inputs(noises, seed):
        parts = zip(("ecg", "ecg+pcg", "pcg"), noises, strict=True)
        return pd.concat(
            [run(noise, seed=seed + row).assign(input=kind) for row, (kind, noise) in enumerate(parts)]
        )

    table = compare(inputs((2, 1, 8), 0), inputs((4, 4, 8), 5), draws=200)
    assert table["row"].tolist() == ["ecg", "ecg+pcg", "pcg"]
    assert table["p_holm"].tolist() == holm(table["p"]).tolist()
    assert (table["p_holm"] >= table["p"]).all()
    assert table.loc[1, "p_holm"] < 0.05 < table.loc[2, "p_holm"]
    with pytest.raises(ValueError, match="no value of input in common"):
        compare(run(2).assign(input="ecg"), run(2).assign(input="pcg"), draws=0)


def test_one_run_beside_several_others():
    table = compare_with(run(2.0), {"near": run(2.1, seed=1), "far": run(9.0, seed=2)}, draws=200)
    assert table["row"].tolist() == ["near", "far"]
    assert table.loc[1, "p_holm"] == pytest.approx(min(2 * table.loc[1, "p"], 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(recording="b" + table["recording"]), "no recording in common"),
        (lambda table: table.assign(label=1 - table["label"]), "another label"),
        (lambda table: table.assign(session="D" + table["session"]), "another session"),
    ],
)
def test_runs_of_other_data_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compare(run(2.0), change(run(2.0)), draws=10)


def test_the_text_names_both_runs_and_what_was_left_out():
    first, second = run(2.0), run(4.0, seed=1)
    text = format_comparison(compare(first, second[second["fold"] == 0], draws=50), "linear", "pacfnet")
    for word in ("first: linear", "second: pacfnet", "left out", "DeLong", "all", "Holm"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 110
    unwrap = format_comparison(compare(first.assign(person=""), second, draws=0))
    assert "n/a" in unwrap
    assert "nan" not in unwrap


def test_where_a_class_comes_from_one_session_neither_interval_nor_p_is_given():
    first, second = run(2.0), run(4.0, seed=1)
    first, second = (
        table.assign(session=table["session"].where(table["label"] == 1, "C0")) for table in (first, second)
    )
    table = compare(first, second, draws=50)
    row = table.iloc[0]
    assert row["reason"] == "all normal recordings come from 1 session"
    assert np.isnan(row[["low", "high", "p", "p_holm", "p_delong"]].to_numpy(float)).all()
    assert np.isfinite([row["first"], row["second"], row["difference"]]).all()
    text = format_comparison(table)
    assert text.count("not estimable") == 4
    assert "Not estimable: all normal recordings come from 1 session." in text


def test_a_p_value_is_never_printed_as_zero():
    table = compare(run(0.5), run(9.0, seed=2), draws=3000)
    assert table.loc[0, "p"] < 0.001
    assert "< 0.001" in format_comparison(table)
    assert "0.000" not in format_comparison(table)
