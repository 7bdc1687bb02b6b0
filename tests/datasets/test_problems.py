"""What the user is shown when data are wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sources import Problem, format_problems

PROBLEMS = [Problem(f"a{number:04d}", f"Fault number {number}.", "Mend it.") for number in range(30)]


def test_the_terminal_shows_some_and_says_where_the_rest_is():
    text = format_problems(PROBLEMS, limit=4, full_table="problems.csv")
    assert text.splitlines()[2].split("  ") == ["a0000", "Fault number 0.", "Mend it."]
    assert text.splitlines()[0].index("remedy") == text.splitlines()[2].index("Mend it.")
    assert "a0003" in text
    assert "a0004" not in text
    assert text.splitlines()[-1] == "... and 26 more: see problems.csv"
    assert "more" not in format_problems(PROBLEMS[:4], limit=4)
    assert format_problems([]) == "No problems."


def test_many_of_a_kind_share_a_row_and_do_not_hide_another():
    alike = [Problem(f"p{number:03d}", "It has no row.", "Add it.") for number in range(300)]
    text = format_problems([*alike, Problem("odd", "It is empty.", "Send it again.")], full_table="all.csv")
    joined = " ".join(text.split())
    assert "p000, p001, p002 and" in joined
    assert "297 more" in joined
    assert "It is empty." in text
    assert "p003" not in text
    assert text.splitlines()[-1] == "... and 297 more: see all.csv"
    assert "p299" in format_problems(alike, limit=300)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Problem, *[st.text("abcdefghij Ä/", max_size=300)] * 3), min_size=1, max_size=5))
def test_no_line_is_wider_than_the_terminal_and_no_letter_is_lost(problems):
    text = format_problems(problems, full_table="x" * 150)
    assert max(map(len, text.splitlines())) <= 100
    cells = "".join(problem.where + problem.what + problem.remedy for problem in problems)
    body = "".join(text.splitlines()[2:])
    assert sorted(body.replace(" ", "")) == sorted(cells.replace(" ", ""))


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        format_problems(PROBLEMS, limit=0)
