"""Folds: nothing is shared that a protocol keeps apart, whatever the table looks like."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from datasets.sources import DataError
from datasets.splits import (
    ALL,
    UNIT,
    Fold,
    LeakageError,
    assert_separated,
    final_fold,
    fold_from_parts,
    fold_name,
    make_folds,
    one_sided,
    split_quietly,
    splits_table,
)

pytestmark = pytest.mark.filterwarnings("ignore:The least populated class")
PROTOCOLS = ("paper", "beat", "recording", "session")


def sample_table(sessions):
    """Return a table of samples from a list of sessions, each a list of (label, beats) a recording."""
    rows = [
        (f"r{session}-{number}", f"s{session}", f"p{session}", label)
        for session, recordings in enumerate(sessions)
        for number, (label, beats) in enumerate(recordings)
        for _ in range(beats)
    ]
    table = pd.DataFrame(rows, columns=["recording", "session", "person", "label"])
    table.insert(0, "sample", np.arange(len(table)))
    return table


def usual_table(seed=0, sessions=20):
    """Return a table of mixed sessions, 2 to 5 recordings each, of 3 to 8 beats."""
    rng = np.random.default_rng(seed)
    return sample_table(
        [
            [(int(rng.random() < 0.6), int(rng.integers(3, 9))) for _ in range(rng.integers(2, 6))]
            for _ in range(sessions)
        ]
    )


USUAL = usual_table()


def units(samples, rows, protocol):
    return set(samples[UNIT[protocol]].iloc[rows])


@settings(max_examples=150, deadline=None)
@given(
    sessions=st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4)), min_size=1, max_size=5),
        min_size=2,
        max_size=16,
    ),
    protocol=st.sampled_from(PROTOCOLS),
    fold_count=st.integers(2, 5),
    validation_share=st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    seed=st.integers(0, 1000),
)
def test_no_unit_is_shared_and_every_sample_is_tested_once(
    sessions, protocol, fold_count, validation_share, seed
):
    samples = sample_table(sessions)
    try:
        folds = make_folds(samples, protocol, fold_count, validation_share, seed)
    except DataError:  # too few units for such folds; no other error is allowed
        event("refused")
        return
    event(f"{protocol}, validation {validation_share > 0}")
    everything = np.arange(len(samples))
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.test for fold in folds])), everything)
    for fold in folds:
        train, validation, test = (
            units(samples, rows, protocol) for rows in (fold.train, fold.validation, fold.test)
        )
        assert len(fold.train) > 0
        assert len(fold.test) > 0
        assert not train & test
        assert not train & validation
        if protocol == "paper":
            np.testing.assert_array_equal(fold.validation, fold.test)
        else:
            assert not validation & test
            assert bool(len(fold.validation)) == (validation_share > 0)
        used = np.unique(np.concatenate([fold.train, fold.validation, fold.test]))
        np.testing.assert_array_equal(used, everything)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_usual_table_is_split_under_every_protocol(protocol):
    folds = make_folds(USUAL, protocol, 5, 0.1, 42)
    assert [fold.name for fold in folds] == ["fold_0", "fold_1", "fold_2", "fold_3", "fold_4"]
    for fold in folds:
        assert set(USUAL["label"].iloc[fold.test]) == {0, 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_seed_gives_the_same_folds_and_another_seed_others(protocol):
    first, again, other = (make_folds(USUAL, protocol, 5, 0.1, seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.parts(len(USUAL)), two.parts(len(USUAL)))
    tests = [[tuple(fold.test) for fold in folds] for folds in (first, other)]
    assert tests[0] != tests[1]


def test_folds_over_recordings_and_beats_are_stratified():
    samples = sample_table([[(int(number % 10 < 3), 2)] for number in range(100)])
    for protocol in ("paper", "beat", "recording"):
        for fold in make_folds(samples, protocol, 5, 0.0, 0):
            assert len(fold.test) == 40
            assert samples["label"].iloc[fold.test].sum() == 12


@pytest.mark.parametrize(("share", "expected"), [(0.1, 16), (0.25, 40), (0.5, 80)])
def test_the_validation_part_has_the_size_asked_for(share, expected):
    samples = sample_table([[(number % 2, 2)] for number in range(100)])
    for fold in make_folds(samples, "recording", 5, share, 0):
        assert len(fold.validation) == expected
        assert samples["label"].iloc[fold.validation].mean() == 0.5


def test_the_validation_part_has_both_classes_even_where_normals_are_rare():
    all_abnormal = [[(1, 3), (1, 3)]] * 16
    mixed = [[(0, 3), (1, 3)]] * 4
    samples = sample_table(all_abnormal + mixed)
    for seed in range(5):
        for fold in make_folds(samples, "session", 2, 0.1, seed):
            if samples["label"].iloc[np.r_[fold.train, fold.validation]].min() == 0:
                assert set(samples["label"].iloc[fold.validation]) == {0, 1}


def test_validation_differs_between_folds_and_is_absent_if_not_wanted():
    folds = make_folds(USUAL, "session", 5, 0.1, 0)
    assert len({tuple(fold.validation) for fold in folds}) > 1
    assert all(len(fold.validation) == 0 for fold in make_folds(USUAL, "session", 5, 0.0, 0))


def test_the_paper_protocol_selects_on_its_test_fold_whatever_the_share():
    for share in (0.0, 0.1):
        for fold in make_folds(USUAL, "paper", 5, share, 42):
            np.testing.assert_array_equal(fold.validation, fold.test)


def test_beats_of_one_recording_are_shared_under_beat_and_never_under_recording():
    def shared(protocol, column):
        return any(
            set(USUAL[column].iloc[fold.train]) & set(USUAL[column].iloc[fold.test])
            for fold in make_folds(USUAL, protocol, 5, 0.0, 0)
        )

    assert shared("beat", "recording")
    assert not shared("recording", "recording")
    assert shared("recording", "session")
    assert not shared("session", "session")


def test_few_and_unequal_sessions_still_leave_a_validation_part():
    """The splitter leaves one of eight candidates empty here; it must not be chosen, nor stop the split."""
    labels = ["1", "0001", "0111", "00111", "0", "11", "000", "001"]
    samples = sample_table([[(int(label), 1) for label in session] for session in labels])
    for seed in (84, 155):
        for fold in make_folds(samples, "session", 2, 0.1, seed):
            assert len(fold.validation) > 0


def test_folds_the_splitter_leaves_empty_are_refused(monkeypatch):
    monkeypatch.setattr("datasets.splits._assign", lambda units, *_: np.zeros(len(units), dtype=int))
    with pytest.raises(DataError, match="cannot make 5 folds"):
        make_folds(USUAL, "session", 5, 0.0, 0)


# Refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "sessions", "sentence"),
    [
        ("session", [[(0, 2), (1, 2)]] * 4, "cannot make 5 folds: there are 4 of label 0, 4 of label 1"),
        ("recording", [[(0, 2), (1, 2), (1, 2)]] * 4, "4 of label 0, 8 of label 1 .recordings."),
        ("beat", [[(0, 3), (1, 9)]], "3 of label 0, 9 of label 1 .samples."),
        ("session", [[(0, 2)]] * 4 + [[(1, 2)]] * 4, "there are 4 of label 0, 4 of label 1"),
    ],
)
def test_too_few_units_are_reported_with_the_remedy(protocol, sessions, sentence):
    with pytest.raises(DataError, match=rf"Protocol {protocol} .*{sentence}.*--fold-count"):
        make_folds(sample_table(sessions), protocol, 5, 0.0, 0)


def test_samples_of_one_label_are_refused_with_a_remedy_that_helps():
    with pytest.raises(DataError, match="cannot make 5 folds: all samples have the label 1") as refused:
        make_folds(sample_table([[(1, 2)]] * 9), "session", 5, 0.0, 0)
    assert "--fold-count" not in str(refused.value)


def test_too_few_units_for_a_validation_part_are_reported_with_the_remedy():
    samples = sample_table([[(0, 2), (1, 2)], [(0, 2), (1, 2)]])
    assert len(make_folds(samples, "recording", 2, 0.0, 0)) == 2
    with pytest.raises(DataError, match="--validation-share 0"):
        make_folds(samples, "recording", 2, 0.1, 0)


@pytest.mark.parametrize(("fold_count", "share"), [(1, 0.1), (0, 0.1), (5, -0.1), (5, 0.6)])
def test_settings_out_of_range_are_refused(fold_count, share):
    with pytest.raises(DataError, match=rf"given {fold_count}.*given {share}"):
        make_folds(USUAL, "session", fold_count, share, 0)


def test_an_unknown_protocol_is_refused_with_the_list():
    with pytest.raises(
        DataError, match="no protocol 'person'; choose one of paper, beat, recording, session"
    ):
        make_folds(USUAL, "person", 5, 0.1, 0)


# The assertion itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("into", ["test", "validation"])
def test_a_planted_leak_is_named(protocol, into):
    fold = make_folds(USUAL, protocol, 5, 0.1, 0)[2]
    assert_separated(fold, USUAL, protocol)
    leaked = int(getattr(fold, into)[0])
    unit = USUAL[UNIT[protocol]].iloc[leaked]
    train = np.sort(np.append(fold.train, leaked))
    with pytest.raises(LeakageError, match=rf"Fold 2 of protocol {protocol} has 1 .*, {unit} among"):
        assert_separated(dataclasses.replace(fold, train=train), USUAL, protocol)


@pytest.mark.parametrize("protocol", ["beat", "recording", "session"])
def test_a_leak_between_validation_and_test_is_named_too(protocol):
    fold = make_folds(USUAL, protocol, 5, 0.1, 0)[0]
    validation = np.append(fold.validation, fold.test[:1])
    with pytest.raises(LeakageError, match="in both validation and test"):
        assert_separated(dataclasses.replace(fold, validation=validation), USUAL, protocol)


def test_another_beat_of_a_tested_session_is_a_leak_only_where_sessions_are_kept_apart():
    samples = sample_table([[(0, 2)], [(1, 2)]])
    nothing = np.zeros(0, dtype=np.int64)
    fold = Fold(0, train=np.array([0, 2]), validation=nothing, test=np.array([1, 3]))
    assert_separated(fold, samples, "beat")
    for protocol in ("recording", "session"):
        with pytest.raises(LeakageError, match="has 2 "):
            assert_separated(fold, samples, protocol)


def test_make_folds_asserts_each_fold(monkeypatch):
    def leaky(units, protocol, count, seed):
        return np.arange(len(units)) % count  # recordings of one session in several folds

    monkeypatch.setattr("datasets.splits._assign", leaky)
    with pytest.raises(LeakageError, match="sessions in both train and test"):
        make_folds(USUAL, "session", 5, 0.0, 0)


# Writing down and reading back ----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parts_make_the_same_fold_again(protocol):
    for fold in make_folds(USUAL, protocol, 3, 0.2, 0):
        again = fold_from_parts(fold.number, fold.parts(len(USUAL)), protocol)
        assert again.number == fold.number
        for part in ("train", "validation", "test"):
            np.testing.assert_array_equal(getattr(again, part), getattr(fold, part))


def test_a_final_fit_learns_from_everything():
    fold = final_fold(USUAL)
    assert (fold.number, fold.name) == (ALL, "fold_all")
    np.testing.assert_array_equal(fold.train, np.arange(len(USUAL)))
    assert len(fold.validation) == len(fold.test) == 0
    assert not fold.parts(len(USUAL)).any()


def test_the_table_of_splits_names_the_part_of_each_sample():
    folds = make_folds(USUAL, "session", 3, 0.2, 0)
    table = splits_table(USUAL, folds)
    assert list(table.columns[:5]) == ["sample", "recording", "session", "person", "label"]
    for fold in folds:
        for part in ("train", "validation", "test"):
            np.testing.assert_array_equal(np.flatnonzero(table[fold.name] == part), getattr(fold, part))
    assert (table[[fold_name(number) for number in range(3)]] == "test").sum(axis=1).eq(1).all()
    assert "fold_0" not in USUAL.columns


# --- patients, and the folds of the source -----------------------------------------------------------


def patients(official: list[int]) -> pd.DataFrame:
    """Return two recordings of each patient, of the official folds given."""
    count = 2 * len(official)
    return pd.DataFrame(
        {
            "sample": range(count),
            "recording": [f"r{row:03d}" for row in range(count)],
            "session": [f"p{row // 2:03d}" for row in range(count)],
            "person": [f"p{row // 2:03d}" for row in range(count)],
            "label": [row // 2 % 2 for row in range(count)],
            "official_fold": np.repeat(official, 2),
        }
    )


def test_patients_are_kept_apart():
    table = patients([1] * 30)
    for fold in make_folds(table, "patient", 5, 0.1, 0):
        parts = [set(table["person"].iloc[rows]) for rows in (fold.train, fold.validation, fold.test)]
        assert all(parts)
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_the_official_fold_is_the_one_of_the_source():
    (fold,) = make_folds(patients([1, 9, 10, 3, 10]), "official", 5, 0.1, 0)
    assert fold.train.tolist() == [0, 1, 6, 7]
    assert fold.validation.tolist() == [2, 3]
    assert fold.test.tolist() == [4, 5, 8, 9]


def test_an_official_fold_that_shares_a_patient_is_refused():
    table = patients([1, 9, 10, 3])
    table.loc[7, "session"] = "p002"
    with pytest.raises(LeakageError, match=r"p002"):
        make_folds(table, "official", 5, 0.1, 0)


@pytest.mark.parametrize("official", [[0, 0, 0], [1, 2, 10], [1, 2, 9], [0, 9, 10]])
def test_data_without_official_folds_say_so(official):
    with pytest.raises(DataError, match=r"no official folds.*--protocol patient"):
        make_folds(patients(official), "official", 5, 0.1, 0)


def test_small_classes_are_said_in_our_words_and_once(recwarn):
    samples = sample_table([[(label, 1)] for label in (1, 1, 1, 0, 0, 0, 0, 0)])
    folds = make_folds(samples, "session", 5, 0.1, 42)
    note = one_sided(samples, folds, "session")
    lacking = [fold.name for fold in folds if samples["label"].iloc[fold.test].nunique() < 2]
    assert f"the test part of {', '.join(lacking)}" in note
    assert "5 of label 0, 3 of label 1 (sessions): choose a smaller --fold-count" in note
    note = one_sided(samples, make_folds(samples, "session", 2, 0.0, 42), "session")
    assert note.startswith("Note: all of label 1 in the test part of fold_1 are of one session")
    many = usual_table()
    assert one_sided(many, make_folds(many, "session", 2, 0.0, 42), "session") == ""
    assert not recwarn.list


def test_no_parts_are_made_where_no_class_fills_them(recwarn):
    splitter = StratifiedGroupKFold(5)
    assert split_quietly(splitter, np.array([0, 0, 0, 0, 1, 1]), np.arange(6)) == []
    assert len(split_quietly(splitter, np.array([0, 0, 0, 0, 0, 1]), np.arange(6))) == 5
    assert not recwarn.list


def test_a_training_part_without_a_class_is_refused_before_anything_is_trained():
    samples = sample_table([[(label, 1)] for label in (1, 0, 0, 0, 0, 0, 0, 0)])
    with pytest.raises(DataError, match=r"7 of label 0, 1 of label 1 \(sessions\)"):
        make_folds(samples, "session", 5, 0.1, 42)
