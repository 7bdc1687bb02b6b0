"""Protocol database: each database is the test part once, and neither it nor a session is shared."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.cache import Cache
from datasets.sources import DataError
from datasets.splits import LeakageError, assert_separated, make_folds, one_sided, splits_table

SIZES = {"b": 12, "a": 20, "c": 6}
"""Sessions of each database, two recordings each."""


def table(sizes=SIZES, label=lambda name, session: session % 2) -> pd.DataFrame:
    """Return two beats of each of two recordings of each session; labels change from session to session."""
    rows = [
        (f"{name}{session}-{number}", f"{name}{session}", f"p{name}{session}", name, label(name, session))
        for name, count in sizes.items()
        for session in range(count)
        for number in range(2)
        for _ in range(2)
    ]
    samples = pd.DataFrame(rows, columns=["recording", "session", "person", "database", "label"])
    samples.insert(0, "sample", np.arange(len(samples)))
    return samples


def test_each_database_is_left_out_once_and_sessions_of_the_others_are_validation():
    samples = table()
    folds = make_folds(samples, "database", 0, 0.1, 42)
    assert [(fold.name, fold.left_out) for fold in folds] == [
        ("fold_0", "a"),
        ("fold_1", "b"),
        ("fold_2", "c"),
    ]
    assert folds[1].title == "fold_1 (b left out)"
    for fold in folds:
        parts = [samples.iloc[rows] for rows in (fold.train, fold.validation, fold.test)]
        assert set(parts[2]["database"]) == {fold.left_out}
        assert len(parts[2]) == 4 * SIZES[fold.left_out], "all of it"
        assert fold.left_out not in {*parts[0]["database"], *parts[1]["database"]}
        assert set(parts[0]["database"]) == set(SIZES) - {fold.left_out}
        assert set(parts[1]["label"]) == {0, 1}
        sessions = [set(part["session"]) for part in parts]
        assert not (sessions[0] & sessions[1] or sessions[0] & sessions[2] or sessions[1] & sessions[2])
        assert 0.05 < len(sessions[1]) / (len(sessions[0]) + len(sessions[1])) < 0.2
    assert one_sided(samples, folds, "database") == ""


def test_the_seed_changes_the_validation_part_alone():
    samples = table()
    one, same, other = (make_folds(samples, "database", 3, 0.1, seed)[0] for seed in (0, 0, 1))
    assert one.validation.tolist() == same.validation.tolist() != other.validation.tolist()
    assert one.test.tolist() == other.test.tolist()


def test_no_validation_part_if_none_is_wanted():
    assert all(len(fold.validation) == 0 for fold in make_folds(table(), "database", 0, 0.0, 0))


def test_the_table_of_splits_names_the_database_of_each_sample():
    samples = table()
    written = splits_table(samples, make_folds(samples, "database", 0, 0.1, 0))
    tested = {name: set(written.loc[written[name] == "test", "database"]) for name in ("fold_0", "fold_2")}
    assert tested == {"fold_0": {"a"}, "fold_2": {"c"}}


@pytest.mark.parametrize(
    ("samples", "fold_count", "sentence"),
    [
        (table({"a": 20}), 0, r"there is only a: prepare several, such as load_data.py --sets a b c d e f"),
        (table(), 5, r"which makes 3 \(a, b, c\), and --fold-count is 5: leave it away"),
        (table().replace({"database": {"b": ""}}), 0, r"24 name none \(b0-0, b0-1, b1-0\).*labels.csv"),
        (table().replace({"session": {"b3": "a3"}}), 0, r"Session a3 is in the databases a and b"),
        (
            table(label=lambda name, _: int(name == "a")),
            0,
            r"Without a there is one label only to learn from",
        ),
    ],
)
def test_what_cannot_be_left_out_is_refused_in_a_sentence(samples, fold_count, sentence):
    with pytest.raises(DataError, match=sentence):
        make_folds(samples, "database", fold_count, 0.1, 0)


def test_too_few_sessions_for_a_validation_part_are_refused_without_naming_the_fold_count():
    with pytest.raises(DataError, match="Choose no validation part with --validation-share 0"):
        make_folds(table({"a": 2, "b": 2}), "database", 0, 0.1, 0)
    assert len(make_folds(table({"a": 2, "b": 2}), "database", 0, 0.0, 0)) == 2


def test_a_left_out_database_of_one_label_is_said():
    samples = table(label=lambda name, session: int(name == "c" or session % 2))
    folds = make_folds(samples, "database", 0, 0.0, 0)
    assert one_sided(samples, folds, "database") == (
        "Note: there is one label only in the test part of fold_2 (c left out), which has no AUROC."
    )


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_planted_recording_of_the_left_out_database_is_named(part):
    samples = table()
    fold = make_folds(samples, "database", 0, 0.1, 0)[0]
    leaked = int(fold.test[0])
    rows = np.sort(np.append(getattr(fold, part), leaked))
    samples.loc[leaked, "session"] = "another"  # so that only the database gives it away
    parts: dict[str, Any] = {part: rows, "test": fold.test[1:]}
    changed = dataclasses.replace(fold, **parts)
    with pytest.raises(LeakageError, match=rf"1 databases in both {part} and test, a among"):
        assert_separated(changed, samples, "database")
    assert_separated(changed, samples, "session")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_planted_session_is_named(part):
    samples = table()
    fold = make_folds(samples, "database", 0, 0.1, 0)[0]
    samples.loc[getattr(fold, part)[0], "session"] = samples["session"].iloc[fold.train[0]]
    with pytest.raises(LeakageError, match=f"1 sessions in both train and {part}"):
        assert_separated(fold, samples, "database")


def test_a_cache_that_was_prepared_before_names_its_databases(simulated_cache, tmp_path):
    for path in simulated_cache.path.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "samples.csv").unlink()
    text = (simulated_cache.path / "samples.csv").read_text()
    assert ",database," in text
    (tmp_path / "samples.csv").write_text(text.replace(",database,", ",set,"))
    assert set(Cache(tmp_path).table("samples")["database"]) == {"training-a"}
