"""Tables as programs save them: the same cells, or one sentence that says why not."""

import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sources import DataError, Problem
from datasets.tables import Marks, delimiter, find_entry, find_table, read_frame, read_rows

TABLE = [["id", "note"], ["1", "a, b; c"], ["2", 'said "no"'], ["3", "Zoë"]]


def saved(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def written(mark: str, end: str) -> str:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in TABLE]
    return "".join(mark.join(row) + end for row in quoted)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", ",,\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_is_read_however_it_was_saved(tmp_path, mark, end, encoding):
    text = written(mark, end.replace(",", mark))
    rows = [
        [cell for cell in cells if cell] for _, cells in read_rows(saved(tmp_path / "t.csv", text, encoding))
    ]
    assert rows == TABLE


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("id,age\n1,50\n", ","),
        ("1;0,12;0,13\n2;0,2;0,3\n", ";"),
        ("1,0;0,12;0,13\n2,0;0,2;0,3\n", ";"),
        ("1\t0,12\t0,13\n", "\t"),
        ('id,"a;b"\n1,"2,5"\n', ","),
        ("id,a;b\n1,2\n2,3\n3,4\n", ","),
        ("id;a\n1\n2;3\n", ";"),
        ("id\n1\n", ","),
        ("", ","),
    ],
)
def test_one_mark_separates_the_cells_of_a_whole_table(text, mark):
    assert delimiter(text) == (mark, text)


def test_the_line_that_names_the_mark_is_no_row(tmp_path):
    rows = read_rows(saved(tmp_path / "t.csv", "sep=;\r\nid;age\r\n1;2,5\r\n"))
    assert rows == [(2, ["id", "age"]), (3, ["1", "2,5"])]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-32"])
def test_another_encoding_is_refused(tmp_path, encoding):
    path = saved(tmp_path / "t.csv", "id,name\n1,Zoë\n", encoding)
    with pytest.raises(DataError, match=r"UTF-8|lacks"):
        read_frame(path, ["id"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read: it is empty"),
        ("id,b\n1,2\n", "lacks the columns age"),
        ("id,age,age\n1,2,3\n", "has the column age twice"),
        ("id,age\n1,2,3\n", "Row 2 of .* has 3 cells for 2 columns"),
        ('id,age\n1,"2\n', "cannot be read as a table"),
    ],
)
def test_a_published_table_that_was_damaged_is_refused(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence):
        read_frame(saved(tmp_path / "t.csv", text), ["id", "age"])


def test_short_rows_of_a_published_table_are_filled_up(tmp_path):
    frame = read_frame(saved(tmp_path / "t.csv", "id,age,sex\n1\n2,3,,\n"), ["id", "age"])
    assert frame.to_numpy().tolist() == [["1", "", ""], ["2", "3", ""]]


# Files ----------------------------------------------------------------------------------------------


def test_a_file_is_found_in_any_letter_case_and_its_twin_is_named(tmp_path):
    (tmp_path / "ECG_Signals.csv").touch()
    (tmp_path / "Images").mkdir()
    problems: list[Problem] = []
    assert find_entry(tmp_path, "ecg_signals.csv", problems) == tmp_path / "ECG_Signals.csv"
    assert find_entry(tmp_path, "images", problems) is None
    assert find_entry(tmp_path, "images", problems, Path.is_dir) == tmp_path / "Images"
    (tmp_path / "ecg_signals.csv").touch()
    assert find_entry(tmp_path, "ecg_signals.csv", problems) == tmp_path / "ecg_signals.csv"
    assert [(problem.where, problem.left_out) for problem in problems] == [("ECG_Signals.csv", False)]


@pytest.mark.parametrize(
    "name", ["clinical.xls", "Clinical.ODS", "clinical (2).csv", "clinical.txt", "CLINICAL_1.xlsx"]
)
def test_a_table_that_is_not_read_is_never_passed_over(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"is not read: save it as clinical\.xlsx or clinical\.csv"):
        find_table(tmp_path, "clinical", [])
    (tmp_path / "clinical.csv").touch()
    problems: list[Problem] = []
    assert find_table(tmp_path, "clinical", problems) == tmp_path / "clinical.csv"
    assert [problem.what for problem in problems] == [f"There is also {name}; clinical.csv is read."]


def test_what_systems_put_beside_a_table_is_no_table(tmp_path):
    for name in ("._clinical.csv", "~$clinical.xlsx", ".clinical.csv"):
        (tmp_path / name).touch()
    assert find_table(tmp_path, "clinical", []) is None


# Excel ----------------------------------------------------------------------------------------------


def book(path: Path, sheets: dict[str, list[list[object]]], hidden: str = "") -> Path:
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, rows in sheets.items():
        sheet = made.create_sheet(title)
        for row in rows:
            sheet.append(row)
        sheet.sheet_state = "hidden" if title == hidden else "visible"
    made.save(path)
    return path


def test_a_hidden_first_sheet_is_not_read_and_named(tmp_path):
    path = book(tmp_path / "t.xlsx", {"old": [["id"], [1]], "new": [["id"], [2]]}, hidden="old")
    problems: list[Problem] = []
    assert read_rows(path, problems) == [(1, ["id"]), (2, ["2"])]
    assert [problem.what for problem in problems] == ["Its sheet 'old' is hidden, and not read; 'new' is."]


def test_another_sheet_is_named_and_an_empty_one_is_not(tmp_path):
    path = book(tmp_path / "t.xlsx", {"a": [["id"], [1]], "b": [["id"], [2]], "c": []})
    problems: list[Problem] = []
    assert read_rows(path, problems)[1] == (2, ["1"])
    assert [problem.what for problem in problems] == ["Its sheet 'b' is another one, and not read; 'a' is."]


def test_a_formula_without_a_stored_result_is_shown_as_such(tmp_path):
    path = book(tmp_path / "t.xlsx", {"a": [["id", "bmi"], [1, "=B3/2"], [2, 24.5]]})
    assert read_rows(path)[1:] == [(2, ["1", "=B3/2"]), (3, ["2", "24.5"])]


def test_a_sheet_is_read_whatever_size_it_states(tmp_path):
    path = book(tmp_path / "t.xlsx", {"a": [["id", "age"], [1, 50], [2, 60]]})
    other = tmp_path / "other.xlsx"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b'ref="A1:B3"', b'ref="A1"'))
    assert read_rows(other) == read_rows(path) == [(1, ["id", "age"]), (2, ["1", "50"]), (3, ["2", "60"])]


# Numbers --------------------------------------------------------------------------------------------


def numbers(*cells: str, others: tuple[str, ...] = ()) -> list[float | str]:
    marks = Marks.of_table({"own": cells, "others": others})["own"]

    def number(cell: str) -> float | str:
        try:
            return marks.number(cell)
        except ValueError as error:
            return str(error)

    return [number(cell) for cell in cells]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("63,5", "70", "3,250"), [63.5, 70, 3.25]),
        (("63.5", "3.250", "70"), [63.5, 3.25, 70]),
        (("1.234", "2.345"), [1.234, 2.345]),
        (("1.234,5", "2.345", "0,5"), [1234.5, 2345, 0.5]),
        (("1,234.5", "3,250", "0.5"), [1234.5, 3250, 0.5]),
        (("1,234,567", "3,250"), [1234567, 3250]),
        (("1.234.567", "3.250"), [1234567, 3250]),
        (("0,250", "1,250"), [0.25, 1.25]),
        (("-0,5", "+1,250", "2,5e2"), [-0.5, 1.25, 250]),
        ((".5", "5.", "1e3"), [0.5, 5, 1000]),
    ],
)
def test_a_mark_means_one_thing_in_a_column(cells, values):
    assert numbers(*cells) == values


@pytest.mark.parametrize(
    ("cells", "doubtful"),
    [
        (("3,250", "980"), ["3,250"]),
        (("63.5", "3,250"), ["3,250"]),
        (("0,5", "1.234"), ["1.234"]),
        (("0,5", "63.5"), ["0,5"]),
        (("0,5", "1,234.5"), ["0,5", "1,234.5"]),
        (("1.234.567", "63.5", "7"), ["1.234.567", "63.5"]),
    ],
)
def test_what_may_be_two_numbers_is_refused_with_the_cell(cells, doubtful):
    found = dict(zip(cells, numbers(*cells), strict=True))
    assert [cell for cell, value in found.items() if isinstance(value, str)] == doubtful
    assert all(cell in str(found[cell]) and "write" in str(found[cell]) for cell in doubtful)


def test_a_column_that_shows_nothing_follows_the_rest_of_its_table():
    assert numbers("3,250", others=("0,5", "12,75")) == [3.25]
    assert numbers("3,250", others=("1,234.5",)) == [3250]
    assert "may be 3.25 or 3250" in str(numbers("3,250", others=("63.5",))[0])


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=8), st.sampled_from([(",", "."), (".", ",")]))
def test_numbers_written_with_thousands_are_read_or_refused_and_never_changed(thousandths, marks):
    group, point = marks

    def text(number: int) -> str:
        whole, rest = divmod(number, 1000)
        return f"{whole:,}".replace(",", group) + f"{point}{rest:03d}"

    cells = [text(number) for number in thousandths]
    for value, number in zip(numbers(*cells), thousandths, strict=True):
        assert isinstance(value, str) or value in (pytest.approx(number / 1000), _plain_point(number, point))


def _plain_point(number: int, point: str) -> float:
    """A point alone is a decimal one, unless its column shows otherwise; a comma alone is never guessed."""
    return number / 1000 if point == "." else float("nan")
