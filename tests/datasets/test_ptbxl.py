"""PTB-XL: superclasses whatever their likelihood, records that are neither, and the real counts."""

import numpy as np
import pandas as pd
import pytest

from datasets.patients import SUPERCLASSES
from datasets.ptbxl import CONTRADICTORY, NO_SUPERCLASS, index_ptbxl
from datasets.sources import DataError


def codes(**likelihoods):
    """Return statements as the database holds them."""
    return str(likelihoods)


NORMAL = codes(NORM=100.0, SR=0.0)


def reported(index, where):
    return " ".join(problem.what for problem in index.problems if problem.where == where)


# The 500 real records -------------------------------------------------------------------------------


def test_the_real_records_are_those_that_were_counted_by_hand(ptbxl_dir):
    index = index_ptbxl(ptbxl_dir, 500)
    table = index.recordings
    assert len(table) == 500 - 12 - 7
    assert (table["label"] == 0).sum() == 290
    reasons = pd.Series([problem.what for problem in index.problems]).value_counts()
    assert dict(reasons) == {NO_SUPERCLASS: 12, CONTRADICTORY: 7}
    assert table["superclasses"].min() == 1
    assert (table.loc[table["label"] == 0, "diagnosis"] == "NORM").all()
    assert not table.loc[table["label"] == 1, "NORM"].any()
    assert (table[list(SUPERCLASSES)].sum(axis=1) == table["superclasses"]).all()


def test_of_all_real_records_patients_and_missing_values_are_as_published(ptbxl_dir):
    index = index_ptbxl(ptbxl_dir, 500, "abnormal")
    table = index.recordings
    assert len(table) == 488
    assert (table["NORM"] == 1).sum() == 297
    assert ((table["NORM"] == 1) & (table["label"] == 1)).sum() == 7
    database = pd.read_csv(ptbxl_dir / "ptbxl_database.csv", dtype={"ecg_id": str}).set_index("ecg_id")
    assert database["patient_id"].nunique() == 466
    assert table.groupby("person")["official_fold"].nunique().max() == 1
    clinical = index.clinical.set_index("recording")
    kept = database.loc[clinical.index]
    assert (database["height"].isna().sum(), database["weight"].isna().sum()) == (341, 112)
    for name in ("age", "sex", "height", "weight"):
        np.testing.assert_array_equal(clinical[name], kept[name])
    np.testing.assert_array_equal(table["official_fold"], kept["strat_fold"])
    assert (table["person"].astype(int).to_numpy() == kept["patient_id"].astype(int).to_numpy()).all()


def test_where_the_slower_files_are_absent_the_faster_are_taken_and_that_is_said_once(ptbxl_dir):
    index = index_ptbxl(ptbxl_dir, 100)
    assert index.recordings["signal"].str.startswith("records500/").all()
    assert "481 records are not there at 100 Hz" in reported(index, "records100")


# Rules, on records of our own -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statements", "superclasses"),
    [
        (NORMAL, ["NORM"]),
        (codes(NORM=0.0), ["NORM"]),
        (codes(IMI=15.0, SR=0.0), ["MI"]),
        (codes(LVH=0.0, IMI=100.0), ["MI", "HYP"]),
    ],
)
def test_a_record_is_labelled_by_its_superclasses_whatever_their_likelihood(
    make_ptbxl, statements, superclasses
):
    index = index_ptbxl(make_ptbxl([{"scp_codes": statements}]))
    row = index.recordings.loc[0]
    assert row["label"] == int(superclasses != ["NORM"])
    assert [name for name in SUPERCLASSES if row[name]] == superclasses
    assert (row["diagnosis"], row["superclasses"]) == ("+".join(superclasses), len(superclasses))


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (codes(SR=0.0), NO_SUPERCLASS),
        ("{}", NO_SUPERCLASS),
        (codes(UNHEARD=100.0), NO_SUPERCLASS),
        (codes(NORM=80.0, LVH=50.0), CONTRADICTORY),
        ("not a table", "cannot be read"),
        ("['NORM']", "cannot be read"),
        ("{'NORM': __import__('os').getcwd()}", "cannot be read"),
    ],
)
def test_a_record_that_is_neither_is_left_out_with_the_reason(make_ptbxl, statements, reason):
    index = index_ptbxl(make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": statements}]))
    assert index.recordings["recording"].tolist() == ["1"]
    assert reason in reported(index, "2")
    assert [problem.left_out for problem in index.problems] == [True]


def test_a_contradictory_record_may_count_as_abnormal(make_ptbxl):
    root = make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": codes(NORM=80.0, LVH=50.0)}])
    index = index_ptbxl(root, mixed="abnormal")
    assert index.recordings["label"].tolist() == [0, 1]
    assert index.problems == []


def test_rhythm_and_three_classes_can_be_learned(make_ptbxl):
    records = {
        codes(NORM=80.0, SR=0.0): ("SR", "normal"),
        codes(NORM=80.0): ("", "normal"),
        codes(NORM=80.0, AFIB=0.0): ("AFIB", "borderline"),
        codes(NORM=80.0, LVH=50.0, SR=0.0): ("SR", "borderline"),
        codes(IMI=15.0, SR=0.0, AFIB=0.0): ("AFIB+SR", "abnormal"),
    }
    root = make_ptbxl([{"scp_codes": statements} for statements in records])
    table = index_ptbxl(root, mixed="abnormal").recordings
    found = list(zip(table["target_rhythm"], table["target_three_classes"], strict=True))
    assert found == list(records.values())


def test_the_age_of_300_means_over_89(make_ptbxl):
    root = make_ptbxl([{"scp_codes": NORMAL, "age": age} for age in ("300.0", "89.0", "300", "")])
    index = index_ptbxl(root)
    np.testing.assert_array_equal(index.clinical["age"], [90, 89, 90, np.nan])
    assert reported(index, "ptbxl_database.csv").startswith("2 ages are coded 300")
    assert not any(problem.left_out for problem in index.problems)


def test_impossible_values_count_as_missing_and_are_named(make_ptbxl):
    wrong = {"scp_codes": NORMAL, "age": "old", "sex": 2, "height": "6.0", "weight": "0.0"}
    index = index_ptbxl(make_ptbxl([{"scp_codes": NORMAL}, wrong]))
    assert index.clinical.loc[1, ["age", "sex", "height", "weight"]].isna().all()
    assert index.clinical.loc[0].notna().sum() == 4  # name, age, sex, weight
    text = reported(index, "2")
    for words in ("age 'old' is no number", "sex 2", "height 6 is not possible (50 to 250 cm)", "weight 0"):
        assert words in text
    assert len(index.recordings) == 2


@pytest.mark.parametrize("rate", [100, 500])
def test_the_rate_chooses_the_files(make_ptbxl, rate):
    index = index_ptbxl(make_ptbxl([{"scp_codes": NORMAL}], rate=rate), rate)
    assert index.recordings["signal"].tolist() == [f"records{rate}/00001_{'lr' if rate == 100 else 'hr'}.hea"]
    assert index.problems == []
    assert index.choices == {"rate": str(rate), "mixed": "leave-out"}
    assert (index.name, len(index.leads), index.drawn) == ("ptbxl", 12, True)


def test_faulty_rows_are_named_and_the_rest_is_used(make_ptbxl):
    root = make_ptbxl(
        [
            {"scp_codes": NORMAL},
            {"scp_codes": NORMAL, "ecg_id": 3},
            {"scp_codes": NORMAL},
            {"scp_codes": NORMAL, "patient_id": "", "strat_fold": "11"},
            {"scp_codes": NORMAL, "filename_lr": "records100/gone", "filename_hr": ""},
            {"scp_codes": NORMAL, "filename_lr": "../outside", "filename_hr": ""},
        ]
    )
    (root / "records100/00001_lr.hea").rename(root.parent / "outside.hea")
    (root / "records100/00004_lr.hea").rename(root / "records100/00001_lr.hea")
    (root / "records100/00002_lr.hea").rename(root / "records100/00004_lr.hea")
    index = index_ptbxl(root)
    assert index.recordings["recording"].tolist() == ["1", "4"]
    assert index.recordings["official_fold"].tolist() == [1, 0]
    assert index.recordings["person"].tolist() == ["7", "record 4"]
    assert "occurs 2 times" in reported(index, "3")
    assert "patient_id '' is no number" in reported(index, "4")
    assert "strat_fold '11' is not 1 to 10" in reported(index, "4")
    assert "'records100/gone' is absent" in reported(index, "5")
    assert "'../outside' is absent" in reported(index, "6")


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv"])
def test_an_absent_or_foreign_table_is_named(make_ptbxl, name):
    root = make_ptbxl([{"scp_codes": NORMAL}])
    (root / name).write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=rf"{name} lacks the columns"):
        index_ptbxl(root)
    (root / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        index_ptbxl(root)
    (root / name).unlink()
    with pytest.raises(DataError, match=rf"There is no {name}"):
        index_ptbxl(root)


def test_without_any_record_the_reasons_are_reported(make_ptbxl):
    root = make_ptbxl([{"scp_codes": "{}"}])
    with pytest.raises(DataError, match=r"No patient of .* The first reasons: 1: It has no diagnostic"):
        index_ptbxl(root)


def test_unknown_choices_are_refused(make_ptbxl):
    root = make_ptbxl([{"scp_codes": NORMAL}])
    with pytest.raises(ValueError, match="rate is 250"):
        index_ptbxl(root, 250)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mixed 'both'"):
        index_ptbxl(root, mixed="both")  # type: ignore[arg-type]


def test_a_patient_is_one_however_the_number_is_written(make_ptbxl):
    rows = [
        {"scp_codes": NORMAL, "patient_id": cell} for cell in ("7.0", "7", "007", "P7", "p7", "7.5", "8.5")
    ]
    index = index_ptbxl(make_ptbxl(rows))
    assert index.recordings["person"].tolist() == ["7", "7", "7", "P7+p7", "P7+p7", "7.5", "8.5"]
    assert "P7 and p7 may be one" in reported(index, "P7, p7")


def test_tables_saved_again_with_an_index_or_semicolons_say_the_same(make_ptbxl):
    root = make_ptbxl([{"scp_codes": NORMAL}, {"scp_codes": codes(IMI=100.0)}])
    plain = index_ptbxl(root)
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        table = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        table.to_csv(root / name, sep=";", encoding="utf-16")
    index = index_ptbxl(root)
    assert index.problems == plain.problems == []
    assert index.recordings.equals(plain.recordings)
    assert index.clinical.equals(plain.clinical)
