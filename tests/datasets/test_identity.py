"""Who is meant by a cell: what is one is joined, what is two stays apart, and a doubt is named."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.identity import alike, counts_rows, identity, spelled, warn_alike
from datasets.sources import Problem

SPACES = "\u00a0\u2007\u202f\u3000\u200b\u200d\u2060\ufeff \t\n"
"""Spaces of all kinds, and characters that nobody sees."""
PADDING = st.text(SPACES, max_size=3)
NUMBERS = st.integers(0, 10**12)
NAMES = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=8)


@given(
    NUMBERS,
    PADDING,
    PADDING,
    st.integers(0, 4),
    st.sampled_from(["", ".", ".0", ".00", ",0", ",00", ".0000"]),
)
def test_a_number_is_one_however_it_is_written(number, before, after, zeros, fraction):
    assert identity(f"{before}{'0' * zeros}{number}{fraction}{after}") == str(number)


@given(NAMES, PADDING, PADDING)
def test_what_cannot_be_seen_around_a_name_does_not_count(name, before, after):
    assert identity(before + name + after) == identity(name)
    assert identity(identity(name)) == identity(name)


@given(NUMBERS, NUMBERS)
def test_two_numbers_are_two(one, other):
    assert (identity(str(one)) == identity(str(other))) == (one == other)


@given(st.text(string.ascii_letters, min_size=1, max_size=4), NUMBERS)
def test_letters_keep_a_name_apart_from_its_number(letters, number):
    assert identity(f"{letters}{number}") == f"{letters}{number}" != str(number)


@pytest.mark.parametrize(
    "cell", ['="007"', '"007"', "'007", "7.0", "\uff17", "\ufeff7", " 7 ", "7,0", "0007"]
)
def test_what_spreadsheets_put_around_a_number_does_not_count(cell):
    assert identity(cell) == "7"


@pytest.mark.parametrize("cell", ["", "  ", "nan", "NaN", "N/A", "#N/A", "-", "?", "None", "\u200b", '=""'])
def test_nobody_is_meant_by_a_cell_that_says_so(cell):
    assert identity(cell) == ""


def test_what_must_stay_apart_stays_apart():
    names = ["7", "P7", "P07", "p7", "7a", "7.5", "7.50", "70", "1-1", "11", "7.000", "7000", "Zoe", "Zoë"]
    assert len({identity(name) for name in names}) == len(names)


def test_dashes_of_all_kinds_are_one():
    assert {identity(f"P{dash}7") for dash in "-\u2010\u2011\u2012\u2013\u2212"} == {"P-7"}


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["P7", "p7", "P07", "7"], [["P07", "P7", "p7"]]),
        (["P-7", "P 7", "P_7", "P7"], [["P 7", "P-7", "P7", "P_7"]]),
        (["7", "7.000"], [["7", "7.000"]]),
        (["1-01", "1-1", "11"], [["1-01", "1-1"]]),
        (["1.1", "1.10", "S1-1", "S11", "P10", "P100", "", "a"], []),
    ],
)
def test_names_that_may_be_one_are_found_and_others_are_not(names, groups):
    assert alike(names) == groups
    problems: list[Problem] = []
    assert warn_alike(names, "persons", "they count as several", problems) == groups
    assert len(problems) == len(groups)
    assert all(
        name in problem.what for group, problem in zip(groups, problems, strict=True) for name in group
    )


@given(st.lists(st.tuples(NUMBERS, st.sampled_from(["{}", "0{}", "{}.0"])), min_size=1, max_size=9))
def test_a_name_is_shown_as_written_unless_it_is_written_in_several_ways(written):
    cells = [form.format(number) for number, form in written]
    shown = spelled(cells)
    for one in cells:
        others = {cell for cell in cells if identity(cell) == identity(one)}
        assert shown[one] == (one if len(others) == 1 else identity(one))


@pytest.mark.parametrize(
    ("names", "first", "counts"),
    [
        (["0", "1", "2"], 0, True),
        (["1", "2"], 1, True),
        (["1", "2"], 0, False),
        (["1", "3"], 1, False),
        ([], 0, False),
    ],
)
def test_an_index_is_known_by_its_counting(names, first, counts):
    assert counts_rows(names, first) == counts
