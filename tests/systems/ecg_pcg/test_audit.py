import numpy as np
import pandas as pd
import pytest

from systems.ecg_pcg.audit import (
    PROMISES,
    AuditRow,
    audit,
    audit_failed,
    format_audit,
    nearest_label,
    overall_means,
    session_mean,
    site_score,
)

TRAIN, VALIDATION, TEST = range(3)


def cohort(sessions: int = 10, size: int = 4) -> pd.DataFrame:
    """Sessions 0, 3, 6 ... all normal, the others mixed (first half normal) or all abnormal."""
    number = np.repeat(np.arange(sessions), size)
    place = np.tile(np.arange(size), sessions)
    label = np.where(number % 3 == 0, 0, np.where(number % 3 == 1, 1, place >= size / 2)).astype(int)
    count = len(number)
    return pd.DataFrame(
        {
            "recording": [f"a{row:02d}" for row in range(count)],
            "session": [f"C{value}" for value in number],
            "person": [f"C{value}P{spot // 2}" for value, spot in zip(number, place, strict=True)],
            "label": label,
            "position": place.astype(float),
            "sha256": [f"{row:064d}" for row in range(count)],
            "duration": 30.0 - label,
            "beats": 30,
            "site": np.where(place % 2, "apex", "base"),
            "ecg_saturated": 0.0,
            "pcg_saturated": np.linspace(0, 1, count),
        }
    )


def beats(recordings: pd.DataFrame, each: int = 3) -> pd.DataFrame:
    names = np.repeat(recordings["recording"].to_numpy(), each)
    return pd.DataFrame({"sample": range(len(names)), "recording": names, "heart_rate": 60.0})


def folds(groups: pd.Series, count: int = 5) -> list[np.ndarray]:
    """Test parts by number of the group; the next group number is validation."""
    code = pd.factorize(groups)[0] % count
    return [
        np.where(code == fold, TEST, np.where(code == (fold + 1) % count, VALIDATION, TRAIN))
        for fold in range(count)
    ]


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    recordings = cohort()
    return beats(recordings), recordings


def by_session(samples: pd.DataFrame, recordings: pd.DataFrame) -> list[np.ndarray]:
    return folds(samples["recording"].map(recordings.set_index("recording")["session"]))


def value(report, check: str, protocol: str = "") -> AuditRow:
    (row,) = [row for row in report.rows if check in row.check and row.protocol == protocol]
    return row


def test_baselines_of_an_example_worked_by_hand():
    table = pd.DataFrame(
        {
            "recording": list("abcdef"),
            "session": ["C1", "C1", "C1", "C1", "C2", "C3"],
            "position": [0.0, 1.0, 2.0, 7.0, 0.0, np.nan],
            "label": [1, 1, 0, 0, 1, 0],
        }
    )
    means = overall_means(table)
    assert means.tolist() == pytest.approx([2 / 5, 2 / 5, 3 / 5, 3 / 5, 2 / 5, 3 / 5])
    others = session_mean(table, table, means, leave_out=True)
    assert others.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 5, 3 / 5])
    nearest = nearest_label(table, table, means, leave_out=True)
    assert nearest.tolist() == pytest.approx([1, 1 / 2, 1, 0, 2 / 5, 3 / 5]), "two as near are averaged"
    assert session_mean(table.iloc[:2], table, 0.5).tolist() == [1, 1, 1, 1, 0.5, 0.5]


def test_the_site_is_scored_by_other_sessions():
    table = pd.DataFrame(
        {"session": ["C1", "C1", "C2", "C3"], "site": ["apex", "apex", "apex", "base"], "label": [1, 0, 1, 0]}
    )
    assert site_score(table).tolist() == pytest.approx([1, 1, 1 / 2, 1 / 2])


def test_counts_and_predictors(tables):
    samples, recordings = tables
    report = audit(samples, recordings, {})
    expected = {
        "recordings": 40,
        "persons": 20,
        "sessions": 10,
        "all abnormal": 3,
        "all normal": 4,
        "mixed": 3,
    }
    for name, count in expected.items():
        check = (
            f"number of {name}"
            if name in ("recordings", "persons", "sessions")
            else f"sessions that are {name}"
        )
        rows = [row for row in report.rows if row.check.startswith(check) or row.check.endswith(check)]
        assert rows[0].value == count, name
    assert value(report, "normal recordings that lie in one session").value == pytest.approx(4 / 22)
    assert value(report, "duration").value == 0, "longer means normal here"
    assert value(report, "number of beats").value == 0.5
    assert value(report, "heart rate").value == 0.5
    assert not audit_failed(report)


def test_every_protocol_is_evaluated_by_its_own_promise(tables):
    samples, recordings = tables
    parts = {
        "paper": [np.where(part == VALIDATION, TRAIN, part) for part in folds(samples["sample"])],
        "beat": folds(samples["sample"]),
        "recording": folds(samples["recording"]),
        "session": by_session(samples, recordings),
    }
    report = audit(samples, recordings, parts)
    assert not audit_failed(report)
    for protocol in parts:
        kept = {row.check for row in report.rows if row.protocol == protocol and row.kept}
        assert len(kept) == len(PROMISES[protocol])
    share = {name: value(report, "whose session was", name).value for name in parts}
    assert share == {"paper": 1, "beat": 1, "recording": 1, "session": 0}
    assert value(report, "whose recording was", "beat").value == 1
    nearest = {name: value(report, "nearest index of the session in train", name).value for name in parts}
    assert nearest["beat"] == 1, "a recording with beats in train knows itself"
    assert nearest["session"] == 0.5


@pytest.mark.parametrize("part", [TRAIN, VALIDATION])
def test_a_planted_session_in_both_train_and_test_fails(tables, part):
    samples, recordings = tables
    parts = by_session(samples, recordings)
    leaked = parts[2].copy()
    leaked[np.flatnonzero(leaked == TEST)[0]] = part
    report = audit(samples, recordings, {"session": [*parts[:2], leaked, *parts[3:]]})
    assert audit_failed(report)
    row = value(report, "whose session was", "session")
    assert row.kept is False
    assert 0 < row.value < 1
    assert "BROKEN" in format_audit(report)
    assert not audit_failed(audit(samples, recordings, {"beat": [leaked]})), "beat promises no sessions"


def test_a_planted_copy_of_a_recording_under_another_name_fails(tables):
    samples, recordings = tables
    parts = {"session": by_session(samples, recordings), "beat": folds(samples["sample"])}
    recordings.loc[recordings["session"] == "C1", "sha256"] = recordings.loc[
        recordings["session"] == "C2", "sha256"
    ].to_numpy()
    report = audit(samples, recordings, parts)
    assert value(report, "content occurred before").value == 4
    assert value(report, "whose content was", "session").kept is False
    assert value(report, "whose session was", "session").kept is True
    assert value(report, "whose content was", "beat").kept is None


def test_a_person_who_came_twice_fails_under_session_and_an_unknown_one_does_not(tables):
    samples, recordings = tables
    parts = {"session": by_session(samples, recordings)}
    twice = recordings.assign(person=recordings["person"].replace({"C0P0": "X", "C1P0": "X"}))
    assert value(audit(samples, twice, parts), "whose person was", "session").kept is False
    unknown = audit(samples, recordings.assign(person=""), parts)
    assert not audit_failed(unknown)


def test_a_fold_that_tests_nothing_keeps_no_promise_and_parts_must_fit(tables):
    samples, recordings = tables
    empty = audit(samples, recordings, {"session": [np.zeros(len(samples), dtype=int)]})
    assert audit_failed(empty)
    with pytest.raises(ValueError, match="has parts"):
        audit(samples, recordings, {"session": [np.zeros(3, dtype=int)]})


def test_a_protocol_of_ones_own_promises_nothing(tables):
    samples, recordings = tables
    report = audit(samples, recordings, {"mine": folds(samples["sample"])})
    assert not audit_failed(report)
    assert all(row.kept is None for row in report.rows)


def test_tables_without_index_site_content_or_rates_are_audited_all_the_same(tables):
    samples, recordings = tables
    unwrap = recordings[["recording", "session", "person", "label"]]
    report = audit(samples[["sample", "recording"]], unwrap, {"session": by_session(samples, recordings)})
    assert not audit_failed(report)
    assert not [row for row in report.rows if "nearest" in row.check or "site" in row.check]
    nameless = audit(samples, recordings.assign(position="", site=""), {})
    assert not [row for row in nameless.rows if "index" in row.check or "site" in row.check]


def test_the_probe_is_reported_over_all_and_within_sessions(tables):
    samples, recordings = tables
    report = audit(samples, recordings.assign(probe=recordings["label"].astype(float)), {})
    rows = [row for row in report.rows if "probe" in row.check]
    assert [row.value for row in rows] == [1, 1]


def test_text_and_table_say_the_same(tables):
    samples, recordings = tables
    report = audit(samples, recordings, {"session": by_session(samples, recordings)})
    text = format_audit(report)
    assert "Every promise is kept." in text
    assert "protocol session" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    table = report.table()
    assert list(table) == ["check", "protocol", "value", "promise", "kept"]
    assert set(table["kept"]) == {"", "yes"}
    assert all(check in text for check in table["check"])
