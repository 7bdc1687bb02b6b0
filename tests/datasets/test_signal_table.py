"""The table of signals: the same samples however it was saved, and every faulty row named."""

import numpy as np
import pytest

from datasets.sources import DataError, Problem
from systems.ecg_multimodal.sources.modalities import read_row, scan_signals

RATE = 100.0
SAMPLES = np.round(np.sin(np.arange(200) / 7), 4)


def line(name, samples=SAMPLES, mark=","):
    return mark.join([str(name), *(str(value) for value in samples)])


def scan(path, *lines, ends="\n", encoding="utf-8"):
    path.write_bytes((ends.join(lines) + ends).encode(encoding))
    problems: list[Problem] = []
    return scan_signals(path, RATE, problems), problems


def reported(problems, name):
    return " ".join(problem.what for problem in problems if problem.where == name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ecg_signals.csv"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("head", [True, False])
def test_each_row_is_found_again_however_the_table_was_saved(path, ends, encoding, mark, head):
    lines = [line("idx", range(200), mark)] if head else []
    lines += [line(7, SAMPLES, mark), "", line("René", SAMPLES + 1, mark), line("009", SAMPLES + 2, mark)]
    rows, problems = scan(path, *lines, ends=ends, encoding=encoding)
    assert problems == []
    assert list(rows.places) == ["7", "René", "9"]
    assert rows.listed == set(rows.places)
    for number, name in enumerate(rows.places):
        np.testing.assert_allclose(read_row(path, name, rows.places[name]), SAMPLES + number)


def test_the_last_row_needs_no_line_end_and_cells_may_be_quoted(path):
    path.write_text("\n".join([line(1), line(2).replace(",", '","').join('""')]))
    rows = scan_signals(path, RATE, [])
    np.testing.assert_array_equal(read_row(path, "2", rows.places["2"]), SAMPLES)


def test_decimal_commas_are_read_where_another_mark_parts_the_cells(path):
    rows, problems = scan(path, line(1, SAMPLES, ";").replace(".", ","))
    assert problems == []
    np.testing.assert_array_equal(read_row(path, "1", rows.places["1"]), SAMPLES)


@pytest.mark.parametrize("names", ["t0,t1", "0,1", "first,second"])
@pytest.mark.parametrize("first", ["", "IDX", "Unnamed: 0", "patient_id"])
def test_a_first_row_of_names_is_no_patient(path, names, first):
    rows, problems = scan(path, f"{first},{names}", line("P1"), line("P2"))
    assert (rows.listed, problems) == ({"P1", "P2"}, [])


def test_words_after_an_unknown_name_are_a_head_and_numbers_are_not(path):
    rows, _ = scan(path, "Nummer," + ",".join(f"x{k}" for k in range(200)), line(1))
    assert rows.listed == {"1"}
    rows, _ = scan(path, line("P-1"), line("P-2"))
    assert rows.listed == {"P-1", "P-2"}


def test_gaps_become_nan_and_empty_cells_at_the_end_do_not_count(path):
    cells = [str(value) for value in SAMPLES]
    cells[3], cells[4], cells[5] = "", "NaN", "n/a"
    rows, problems = scan(path, ",".join(["1", *cells]) + ",,,,", line(2))
    assert problems == []
    samples = read_row(path, "1", rows.places["1"])
    assert np.flatnonzero(np.isnan(samples)).tolist() == [3, 4, 5]
    assert len(samples) == 200


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (["0.1", "x", *["0"] * 198], "'x' in column 3 is no number"),
        (["inf", *["0"] * 199], "'inf' in column 2 is no number"),
        (["1_000", *["0"] * 199], "'1_000' in column 2 is no number"),
        (["0.1"] * 30 + [""] * 40 + ["0.2"] * 130, "20% of its samples are missing"),
        (["0.1"] * 50, "50 samples are less than 1 s"),
        ([], "0 samples are less than 1 s"),
        (["0.1", "0.2"] * 85, "170 samples where 200 are usual"),
        (["0.1", "0.2"] * 115, "230 samples where 200 are usual"),
    ],
)
def test_a_faulty_row_is_named_with_its_line_and_the_others_are_used(path, samples, sentence):
    rows, problems = scan(path, line(1), ",".join(["2", *samples]), line(3), line(4))
    assert sentence in reported(problems, "2")
    assert "line 2" in reported(problems, "2")
    assert [problem.left_out for problem in problems] == [False]
    assert list(rows.places) == ["1", "3", "4"]
    assert rows.listed == {"1", "2", "3", "4"}


def test_a_row_shorter_within_a_tenth_is_used(path):
    rows, problems = scan(path, line(1), line(2, SAMPLES[:185]), line(3))
    assert problems == []
    assert len(read_row(path, "2", rows.places["2"])) == 185


def test_a_patient_listed_twice_has_no_signal(path):
    rows, problems = scan(path, line(7), line(8), line("07.0"))
    assert "occurs 2 times (lines 1, 3)" in reported(problems, "7")
    assert list(rows.places) == ["8"]


def test_a_row_without_a_name_is_named(path):
    _, problems = scan(path, line(1), line(""), line(2))
    assert "names no patient" in reported(problems, "ecg_signals.csv, line 2")


def test_a_constant_signal_is_used_and_named(path):
    rows, problems = scan(path, line(1), line(2, np.full(200, 0.5)))
    assert "constant" in reported(problems, "2")
    assert list(rows.places) == ["1", "2"]


def test_signals_that_are_hardly_in_millivolts_are_warned_of_once(path):
    _, problems = scan(path, *(line(name, 1000 * SAMPLES) for name in range(5)))
    assert [problem.where for problem in problems] == ["ecg_signals.csv"]
    assert "not to be in millivolts" in problems[0].what


def test_what_is_no_text_is_refused(path):
    path.write_bytes(b"1,0.5\n\xff\xff\xff,\x80\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        scan_signals(path, RATE, [])


def test_an_empty_table_has_no_patients(path):
    path.write_text("")
    assert scan_signals(path, RATE, []).listed == set()


def test_a_row_that_has_changed_since_is_reported(path):
    rows, _ = scan(path, line(1), line(2))
    kept = path.read_text()
    for changed in (kept.replace(str(SAMPLES[1]), "?"), "1,23456\n" + kept, line(2), ""):
        path.write_text(changed)
        with pytest.raises(DataError, match="has changed since it was checked"):
            read_row(path, "2", rows.places["2"])


def quoted(name, samples=SAMPLES):
    return f"{name}," + ",".join('"' + str(value).replace(".", ",") + '"' for value in samples)


def test_quoted_decimal_commas_are_read(path):
    rows, problems = scan(path, quoted(1), quoted(2, SAMPLES + 1))
    assert problems == []
    assert rows.reread
    for number, name in enumerate(rows.places):
        np.testing.assert_allclose(read_row(path, name, rows.places[name]), SAMPLES + number)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([line(1), quoted(2)], "decimals with commas .* and with points"),
        ([line(1, SAMPLES, ";").replace(".", ","), line(2, SAMPLES, ";")], "with commas .* and with points"),
        ([quoted(1, ["1,234"] * 200)], "'1,234', of which the comma may mark thousands"),
        (["1," + '"1,234.5","0.5",' * 100] * 2, "'1,234.5', of which the comma may mark thousands"),
        ([quoted(1, ["3,250,000"] * 200)] * 2, "may mark thousands"),
    ],
)
def test_decimals_with_two_marks_are_refused_as_a_whole(path, lines, sentence):
    with pytest.raises(DataError, match=sentence):
        scan(path, *lines)


@pytest.mark.parametrize("head", [",id", "Unnamed: 0,Patient_ID", "unnamed: 0.1,Unnamed: 0,id"])
@pytest.mark.parametrize("mark", [",", ";"])
def test_the_named_column_is_the_patient_and_an_index_before_it_is_none(path, head, mark):
    before = [str(number) + mark + str(number) if head.count(",") > 1 else str(number) for number in (0, 1)]
    lines = [
        f"{start}{mark}{line(name, SAMPLES, mark)}" for start, name in zip(before, ("17", "P3"), strict=True)
    ]
    if mark == ";":
        lines = [text.replace(".", ",") for text in lines]
    names = mark.join([*head.split(","), *(str(number) for number in range(200))])
    rows, problems = scan(path, names, *lines)
    assert problems == []
    assert list(rows.places) == ["17", "P3"]
    for name in rows.places:
        np.testing.assert_allclose(read_row(path, name, rows.places[name]), SAMPLES)


def test_an_index_alone_is_refused_with_or_without_a_first_row(path):
    for first in ("", "Unnamed: 0"):
        with pytest.raises(DataError, match="without a name only counts rows"):
            scan(path, line(first, range(200)), line(0), line(1))
    with pytest.raises(DataError, match=r"The first column of .* only counts rows"):
        scan(path, "0," + line(17), "1," + line(3))
    rows, _ = scan(path, line(1, np.arange(200)), line(2, np.arange(200) + 1))
    assert list(rows.places) == ["1", "2"]


def test_a_line_that_names_the_mark_and_blank_lines_before_the_names_are_no_patients(path):
    rows, problems = scan(path, "sep=;", "", "id;" + ";".join(map(str, range(200))), line(4, SAMPLES, ";"))
    assert problems == []
    np.testing.assert_allclose(read_row(path, "4", rows.places["4"]), SAMPLES)
