import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.statistics import cluster_bootstrap
from systems.ecg_pcg.evaluate import (
    SUBGROUP_COLUMNS,
    diagnosis_parts,
    largest_normal_session,
    probe_fifths,
    subgroup_table,
    within_column,
    within_sessions,
)


def small() -> pd.DataFrame:
    """Two mixed sessions, one of normal recordings alone and one of disease alone."""
    return pd.DataFrame(
        {
            "recording": list("abcdefghi"),
            "session": ["C1", "C1", "C1", "C2", "C2", "C3", "C3", "C4", "C4"],
            "person": ["P1", "P1", "P2", "P3", "P4", "P5", "P5", "P6", "P6"],
            "label": [1, 1, 0, 1, 0, 0, 0, 1, 1],
            "diagnosis": ["MVP", "MVP", "Normal", "Benign", "Normal", "Normal", "Normal", "AD", "AD"],
            "probability": [0.7, 0.2, 0.4, 0.5, 0.5, 0.3, 0.1, 0.9, 0.8],
        }
    )


def cohort(seed: int = 0, sessions: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    session = np.repeat(np.arange(sessions), 6)
    label = (np.tile(np.arange(6), sessions) < np.repeat(random.integers(0, 7, sessions), 6)).astype(int)
    room = random.standard_normal(sessions)[session]
    score = label + room + random.standard_normal(len(session))
    return pd.DataFrame(
        {
            "recording": [f"a{row:04d}" for row in range(len(session))],
            "session": [f"C{number:02d}" for number in session],
            "person": [f"C{number:02d}P{row % 6 // 2}" for row, number in enumerate(session)],
            "label": label,
            "diagnosis": np.where(
                label == 0, "Normal", np.where(random.random(len(label)) < 0.5, "MVP", "Benign")
            ),
            "probability": 1 / (1 + np.exp(-score)),
            "probe": room + 0.1 * random.standard_normal(len(session)),
        }
    )


def test_the_table_of_an_example_worked_by_hand():
    table = subgroup_table(small(), draws=0).set_index("group")
    assert list(table.reset_index()) == SUBGROUP_COLUMNS
    counts = table[["n_abnormal", "n_normal", "sessions"]].apply(tuple, axis=1)
    values = table["value"]
    # Abnormal .7 .2 .5 .9 .8 against normal .4 .5 .3 .1: 4 + 1 + 3.5 + 4 + 4 of 20.
    assert counts["all"] == (5, 4, 4)
    assert values["all"] == pytest.approx(16.5 / 20)
    # Persons .45 .5 .85 against .4 .5 .2: 2 + 2.5 + 3 of 9.
    assert counts["per person"] == (3, 3, 4)
    assert values["per person"] == pytest.approx(7.5 / 9)
    assert values["mitral valve prolapse against normal"] == pytest.approx(5 / 8)
    assert values["innocent murmur against normal"] == pytest.approx(3.5 / 4)
    assert values["aortic disease against normal"] == 1
    assert counts["disease against normal and innocent murmur"] == (4, 5, 4)
    assert values["disease against normal and innocent murmur"] == pytest.approx((5 + 1 + 5 + 5) / 20)
    # C3 holds two of four normal recordings: .4 and .5 are left.
    assert counts["without session C3"] == (5, 2, 3)
    assert values["without session C3"] == pytest.approx((2 + 0 + 1.5 + 2 + 2) / 10)
    # C1: one pair right, one wrong; C2: a tie.
    assert values["within sessions"] == pytest.approx(1.5 / 3)
    assert np.isnan(table[["low", "high"]].to_numpy()).all()
    assert "within fifths of the probe" not in table.index


def test_pairs_within_fifths_of_the_probe_worked_by_hand():
    units = small().iloc[:5].assign(probe=[1, 1, 1, 2, 2])
    # Ranks 2 2 2 4.5 4.5 of five: fifths 1 and 4, the same pairs as the sessions.
    assert probe_fifths(units["probe"]).tolist() == [1, 1, 1, 4, 4]
    table = subgroup_table(units, draws=0).set_index("group")
    assert table.loc["within fifths of the probe", "value"] == pytest.approx(1.5 / 3)


def test_fifths_are_fifths_and_want_a_probe_score_of_every_recording():
    random = np.random.default_rng(0)
    for count in (5, 388, 1000):
        sizes = probe_fifths(pd.Series(random.random(count))).value_counts()
        assert len(sizes) == 5
        assert sizes.max() - sizes.min() <= 1
    with pytest.raises(ValueError, match="1 recordings have no probe score"):
        probe_fifths(pd.Series([0.1, np.nan]))


def test_pairs_under_weights_are_those_of_repeated_sessions():
    units = cohort(sessions=8)
    times = np.random.default_rng(1).integers(0, 3, (4, 8))
    codes = pd.factorize(units["session"])[0]
    found = within_sessions(units, times[:, codes])
    for row, value in zip(times, found, strict=True):
        copies = [
            units[codes == code].assign(session=f"{code}-{copy}")
            for code, number in enumerate(row)
            for copy in range(number)
        ]
        repeated = pd.concat(copies)
        assert value == pytest.approx(within_sessions(repeated, np.ones((1, len(repeated))))[0])


def test_pairs_within_one_stratum_are_the_auroc():
    units = cohort().assign(stratum=0)
    found = within_column("stratum")(units, np.ones((1, len(units))))[0]
    assert found == pytest.approx(roc_auc_score(units["label"], units["probability"]))


def test_within_sessions_and_fifths_a_model_of_the_room_is_no_better_than_chance():
    units = cohort(sessions=200)
    room = units.assign(label=(units["probe"] > 0).astype(int), probability=1 / (1 + np.exp(-units["probe"])))
    flipped = np.random.default_rng(0).random(len(units)) < 0.2
    room["label"] = np.where(flipped, 1 - room["label"], room["label"])
    table = subgroup_table(room.drop(columns="diagnosis"), draws=200).set_index("group")
    assert table.loc["all", "value"] > 0.7
    for group in ("within sessions", "within fifths of the probe"):
        assert table.loc[group, "value"] < table.loc["all", "value"] - 0.08
    assert table.loc["within sessions", "low"] < 0.56


def test_every_row_has_an_interval_around_its_value_and_the_seed_decides_it():
    units = cohort()
    table = subgroup_table(units, draws=200, seed=1)
    assert len(table) == 8
    assert (table["low"] < table["value"]).all()
    assert (table["value"] < table["high"]).all()
    assert table.equals(subgroup_table(units, draws=200, seed=1))
    assert not table["low"].equals(subgroup_table(units, draws=200, seed=2)["low"])
    interval = cluster_bootstrap(units, draws=200, seed=1)
    assert table.loc[0, ["value", "low", "high"]].tolist() == [interval.estimate, interval.low, interval.high]


def test_what_is_not_known_has_no_row_and_what_cannot_be_computed_is_nan():
    units = small().drop(columns=["person", "diagnosis"])
    assert subgroup_table(units, draws=10)["group"].tolist() == [
        "all",
        "without session C3",
        "within sessions",
    ]
    unknown = small().assign(person="", diagnosis="")
    assert "per person" not in set(subgroup_table(unknown, draws=10)["group"])
    assert diagnosis_parts(unknown) == {}
    assert diagnosis_parts(small().assign(diagnosis="MVP")) == {}
    abnormal = subgroup_table(units[units["label"] == 1], draws=10).set_index("group")
    assert abnormal["value"].isna().all()
    apart = units.assign(session=units["recording"])
    assert np.isnan(subgroup_table(apart, draws=10).set_index("group").loc["within sessions", "value"])


def test_a_session_may_be_named_and_equals_are_decided_by_name():
    groups = set(subgroup_table(small(), draws=0, session="C1")["group"])
    assert "without session C1" in groups
    assert "without session C3" not in groups
    assert largest_normal_session(pd.DataFrame({"label": [0, 0], "session": ["C9", "C2"]})) == "C2"
    assert largest_normal_session(pd.DataFrame({"label": [1], "session": ["C9"]})) == ""
