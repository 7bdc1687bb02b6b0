"""Clinical values and labels: the same from Excel and CSV, whatever a spreadsheet did to them."""

import math
import unicodedata
from datetime import date

import openpyxl
import pytest

from datasets.identity import identity as patient_id
from datasets.patients import clinical_number, read_patients
from datasets.sources import DataError, Problem
from datasets.tables import find_table


def write_excel(path, rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("7", "7"),
        ("7.0", "7"),
        ("007", "7"),
        (" 7 ", "7"),
        ("\ufeff7", "7"),
        ("0", "0"),
        ("7.5", "7.5"),
        ("P-07", "P-07"),
        ("a  b", "a b"),
        (unicodedata.normalize("NFD", "Zoë"), "Zo\u00eb"),
        ("", ""),
    ],
)
def test_numbers_of_patients_are_compared_as_numbers(cell, name):
    assert patient_id(cell) == name


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("63", 63.0),
        (" 63.5 ", 63.5),
        ("63,5", 63.5),
        ("\N{MINUS SIGN}2", -2.0),
        ("+1.5e2", 150.0),
        (".5", 0.5),
        ("yes", 1.0),
        ("No", 0.0),
        ("TRUE", 1.0),
        ("", math.nan),
        ("N/A", math.nan),
        ("unknown", math.nan),
        ("-", math.nan),
    ],
)
def test_cells_are_numbers_words_or_missing(cell, value):
    assert clinical_number(cell) == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("cell", ["sixty", "63 kg", "1.2.3", "inf", "1e999", "12:30", "F", "1,00,000", "٣"])
def test_other_cells_are_no_numbers(cell):
    with pytest.raises(ValueError):
        clinical_number(cell)


def test_words_for_sex_are_known_in_its_column_only():
    assert [clinical_number(cell, sex=True) for cell in ("M", "male", "f", "Female", "w")] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("ending", ["xlsx", "csv", "CSV"])
def test_excel_and_csv_say_the_same(tmp_path, ending):
    rows = [
        ["IDX", " Age ", "Name"],
        [7.0, 63, "Zoë"],
        ["008", 0.1, None],
        [None, None, None],
        [9, True, "x"],
    ]
    path = tmp_path / f"table.{ending}"
    if ending == "xlsx":
        write_excel(path, rows)
    else:
        text = "\ufeffIDX; Age ;Name\r\n7.0;63;Zoë\r\n008;0.1;\r\n;;\r\n9;1;x\r\n"
        path.write_bytes(text.encode())
    problems: list[Problem] = []
    table = read_patients(path, problems)
    assert problems == []
    assert table.columns == ["Age", "Name"]
    assert [(name, row["Age"], row["Name"]) for name, row in table.rows.items()] == [
        ("7", "63", "Zoë"),
        ("8", "0.1", ""),
        ("9", "1", "x"),
    ]
    assert [row["row"] for row in table.rows.values()] == ["2", "3", "5"]


def test_a_date_stays_text_and_columns_of_nothing_are_not_there(tmp_path):
    path = write_excel(tmp_path / "t.xlsx", [["id", "seen", None], [1, date(2020, 1, 2), None]])
    table = read_patients(path, [])
    assert table.columns == ["seen"]
    assert table.rows["1"]["seen"].startswith("2020-01-02")


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("age,IDX", "IDX"),
        (",age,Id", "Id"),
        (",age", ""),
        ("Unnamed: 0,age", "Unnamed: 0"),
        ("Patient ID,age", "Patient ID"),
    ],
)
def test_the_column_of_the_patient_is_known_by_its_usual_names(tmp_path, columns, named):
    path = tmp_path / "t.csv"
    path.write_text(columns + "\n" + ",".join("P5" for _ in columns.split(",")) + "\n")
    table = read_patients(path, [])
    assert named not in table.columns
    assert set(table.rows) == {"P5"}


@pytest.mark.parametrize("left_out", [True, False])
def test_warningful_rows_are_named_and_not_used(tmp_path, left_out):
    path = tmp_path / "t.csv"
    path.write_text("id,age\n1,50\n2,60\n1.0,51\n,70\n3,60,9\n4\n")
    problems: list[Problem] = []
    table = read_patients(path, problems, left_out)
    assert set(table.rows) == {"2", "4"}
    assert table.rows["4"]["age"] == ""
    assert table.listed == {"1", "2", "3", "4"}
    what = {problem.where: (problem.what, problem.left_out) for problem in problems}
    assert what["1"] == ("The patient occurs 2 times in t.csv (rows 2, 4); none is used.", left_out)
    assert what["3"] == ("Row 6 of t.csv has 3 cells, but there are 2 columns.", left_out)
    assert "names no patient" in what["t.csv, row 5"][0]
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"age,sex\n1,2\n", "no column with the number of the patient"),
        ("t.csv", b"id,age,age\n1,2,3\n", "the column age twice"),
        ("t.csv", b"id,n\xe9\n", "is not UTF-8 text"),
        ("t.xlsx", b"no workbook", "cannot be read as an Excel table"),
        ("t.xlsx", b"PK\x03\x04 half a workbook", "cannot be read as an Excel table"),
        ("t.xlsx", b"", "cannot be read as an Excel table"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{sentence}"):
        read_patients(tmp_path / name, [])


def test_of_two_tables_the_excel_one_is_read_and_the_other_named(tmp_path):
    for name in ("Labels.XLSX", "labels.csv"):
        (tmp_path / name).touch()
    problems: list[Problem] = []
    found = find_table(tmp_path, "labels", problems)
    assert found is not None
    assert found.name == "Labels.XLSX"
    assert [(problem.where, problem.left_out) for problem in problems] == [("labels.csv", False)]
    assert find_table(tmp_path, "clinical", problems) is None


@pytest.mark.parametrize("first", ["", "Unnamed: 0", "unnamed: 0.1"])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (0, 4, 9), (2, 0, 1)])
def test_a_column_without_a_name_that_counts_rows_is_no_patient(tmp_path, first, numbers):
    path = tmp_path / "t.csv"
    path.write_text(f"{first},age\n" + "".join(f"{number},5\n" for number in numbers))
    with pytest.raises(DataError, match="without a name only counts rows: name one IDX or id"):
        read_patients(path, [])
    for named in ("id", "Patient ID", "idx"):
        path.write_text(f"{first},{named},age\n" + "".join(f"{number},P{number},5\n" for number in numbers))
        assert set(read_patients(path, []).rows) == {f"P{number}" for number in numbers}


def test_an_index_with_a_name_gives_way_to_a_patient(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("IDX,patient_id,age\n0,17,5\n1,21,6\n")
    assert set(read_patients(path, []).rows) == {"17", "21"}
    path.write_text("IDX,patient,age\n17,Kim,5\n21,Lee,6\n")
    assert set(read_patients(path, []).rows) == {"17", "21"}


def test_a_patient_that_is_a_formula_without_a_result_is_named(tmp_path):
    path = write_excel(tmp_path / "t.xlsx", [["id", "age"], ["=A3+1", 50], [7, "=B2"]])
    problems: list[Problem] = []
    table = read_patients(path, problems)
    assert set(table.rows) == {"7"}
    assert [problem.what for problem in problems] == [
        "The row has =A3+1, a formula without a stored result, for a patient."
    ]
    with pytest.raises(ValueError, match="'=B2' is a formula without a stored result"):
        table.number("7", "age")


def test_what_a_comma_means_is_decided_for_a_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        'id,age,bnp,ldl\n1,63.5,"3,250",980\n2,70,"1,234.5","2,5"\n3,71,"0.5","3,250"\n4,72,980,3\n'
    )
    table = read_patients(path, [])
    assert [table.number(patient, "bnp") for patient in "1234"] == [3250, 1234.5, 0.5, 980]
    assert [table.number(patient, "ldl") for patient in "1234"] == [980, 2.5, 3.25, 3]
    path.write_text('id,age,bnp\n1,63.5,"3,250"\n2,70,"2,100"\n')
    table = read_patients(path, [])
    with pytest.raises(ValueError, match=r"'3,250' may be 3\.25 or 3250: write one of them"):
        table.number("1", "bnp")
    assert table.lacks_numbers("age") == ""
    assert table.lacks_numbers("bnp").startswith("holds no number that is sure ('3,250' may be")


@pytest.mark.parametrize("ending", ["xls", "ods", "sav"])
def test_a_table_of_another_program_is_refused_by_name(tmp_path, ending):
    path = tmp_path / f"t.{ending}"
    path.write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=rf"t\.{ending} is not read: save it as \.xlsx or \.csv"):
        read_patients(path, [])
