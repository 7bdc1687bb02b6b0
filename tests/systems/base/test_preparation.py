"""What the plain command says of recordings that are used."""

from pathlib import Path
from typing import Any

import pandas as pd

from datasets.sources import Problem, SourceIndex
from systems.base.prepare import format_warnings


class Prepared:
    """A cache of which only its warnings and its skipped recordings count."""

    path = Path("data/cache/x-0")

    def __init__(self, warnings: list[str], skipped: tuple[tuple[str, str], ...] = ()) -> None:
        self.manifest = {"warnings": warnings}
        self.skipped = pd.DataFrame(skipped, columns=["recording", "reason"])

    def table(self, name: str) -> pd.DataFrame:
        assert name == "skipped"
        return self.skipped


def shown(cache: Any, *problems: Problem) -> list[str]:
    return format_warnings(cache, SourceIndex("x", Path(), pd.DataFrame(), list(problems)))


def test_kinds_are_counted_with_the_first_few_names() -> None:
    small = [f"p{number}: Its beats span 0.{number} mV: is it right?" for number in range(1, 7)]
    lines = shown(Prepared(["q: It lacks V1.", *small]))
    assert lines == [
        "7 warnings about what is used; all are in data/cache/x-0/manifest.json:",
        "     6  p1, p2, p3, p4, ...: Its beats span 0.1 mV: is it right?",
        "     1  q: It lacks V1.",
    ]


def test_what_was_said_already_is_not_said_again_and_nothing_makes_no_line() -> None:
    cache = Prepared(["a: One.", "b: Two.", "c: Three."], (("b", "Two."),))
    assert shown(cache, Problem("a", "One.", left_out=False))[1:] == ["     1  c: Three."]
    assert shown(Prepared([])) == []


def test_many_kinds_are_cut() -> None:
    lines = shown(Prepared([f"p: Kind {letter}." for letter in "abcdefghijk"]))
    assert len(lines) == 10
    assert lines[-1] == "  ... and 3 other kinds."
