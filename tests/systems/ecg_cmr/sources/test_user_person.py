"""Age, sex, height and weight of whoever was recorded: from the row meant, or with the reason why not."""

import re
from pathlib import Path

import pytest

from datasets.sources import DataError
from systems.base.predictor import RecordingPath
from systems.ecg_cmr.sources.user_person import read_others, read_people


def people(tmp_path, text, name="people.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_people({"age": 40.0}, tmp_path / name)


def of(found, name):
    values, warnings = found.of(RecordingPath(name, Path(name)))
    return values, " ".join(warning.text for warning in warnings)


@pytest.mark.parametrize("cell", ["7", "007", "7.0", "\u00a07", "'7"])
@pytest.mark.parametrize("name", ["7", "007.npy", "07.hea"])
def test_a_person_is_one_however_the_number_is_written(tmp_path, cell, name):
    assert of(people(tmp_path, f"patient,age,weight\n{cell},61,70.5\n"), name) == (
        {"age": 61, "weight": 70.5},
        "",
    )


@pytest.mark.parametrize(
    ("rows", "known", "sentence"),
    [
        ("8,61,70.5\n", {"age": 40}, "people.csv has no row for 7: age"),
        ("7,61,70.5\n07,62,71\n", {"age": 40}, "no usable row for 7.* occurs 2 times in people.csv"),
        ("7,61,70.5,1\n", {"age": 40}, "no usable row for 7.* has 4 cells"),
        ('7,61,"3,250"\n', {"age": 61}, "The weight '3,250' may be 3.25 or 3250"),
        ('7,61,"70,5"\n', {"age": 61, "weight": 70.5}, "^$"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_the_reason(tmp_path, rows, known, sentence):
    values, text = of(people(tmp_path, "patient,age,weight\n" + rows), "7")
    assert values == known
    assert re.search(sentence, text)


def test_a_row_that_may_be_meant_is_hinted_at(tmp_path):
    assert "no row for p7 (but for P07)" in of(people(tmp_path, "patient,age\nP07,61\n"), "p7")[1]


def test_an_index_is_no_person(tmp_path):
    with pytest.raises(DataError, match="without a name only counts rows"):
        people(tmp_path, ",age\n0,61\n1,62\n")


def test_other_inputs_of_the_model_come_one_by_one_or_from_the_table(tmp_path):
    (tmp_path / "people.csv").write_text("patient,age,bmi,smoking,other\n7,61,27.4,yes,3\n", encoding="utf-8")
    found = read_people({}, tmp_path / "people.csv", ["age", "bmi", "smoking"])
    assert of(found, "7") == ({"age": 61, "bmi": 27.4, "smoking": 1.0}, "")
    assert read_others(["bmi=27.4", "smoking=no", "age="], ["age", "bmi", "smoking"]) == {
        "bmi": 27.4,
        "smoking": 0.0,
    }


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("bmi", "takes NAME=VALUE, as in bmi=27.4, and 'bmi' is none"),
        ("income=3", "the model has no such input; it has age, bmi"),
        ("bmi=high", "--covariates bmi: 'high' is no number"),
    ],
)
def test_an_input_that_cannot_be_used_is_refused(word, sentence):
    with pytest.raises(DataError, match=re.escape(sentence)):
        read_others([word], ["age", "bmi"])


def test_an_impossible_value_of_another_input_is_refused_too():
    with pytest.raises(DataError, match="--bmi 300 is not possible"):
        read_people({"bmi": 300.0}, None, ["bmi"])


def test_a_column_in_another_unit_is_not_taken_for_the_input(tmp_path):
    (tmp_path / "t.csv").write_text("patient,age (years),weight (lb),lv_edv (L)\n7,61,150,0.12\n", "utf-8")
    found = read_people({}, tmp_path / "t.csv", ["age", "weight", "lv_edv"])
    assert of(found, "7")[0] == {"age": 61}
