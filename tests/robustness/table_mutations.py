"""Tables of labels that are wrong."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

from datasets.cache import Cache
from tests.robustness.mutations import LEFT_OUT, REFUSED, SAFE, USED, Expect, Target, mutation
from tests.robustness.workspaces import COHORT, PHYSIONET

APPENDIX = "annotations/Online_Appendix_training_set.csv"


def rows_of(target: Target) -> list[list[str]]:
    return [line.split(",") for line in target.workspace.table.read_text().splitlines()]


def write_rows(target: Target, rows: list[list[str]], **options: Any) -> None:
    target.workspace.table.write_text("".join(",".join(row) + "\n" for row in rows), newline="", **options)


def user_row(target: Target, rows: list[list[str]]) -> list[str]:
    return next(row for row in rows if row[0] == target.name)


def _set_cell(target: Target, column: int, value: object, **options: Any) -> None:
    rows = rows_of(target)
    user_row(target, rows)[column] = str(value)
    write_rows(target, rows, **options)


def _label(target: Target) -> int:
    return 3 if target.workspace.layout == COHORT else 1


def _text(target: Target, change: Callable[[str], str | bytes]) -> None:
    text = change(target.workspace.table.read_text())
    target.workspace.table.write_bytes(text if isinstance(text, bytes) else text.encode())


@mutation("label or quality that is none")
def label_that_is_none(target: Target, rng: Generator) -> Expect:
    labels = ["", "2", "-2", "sick", "nan", "1;", "\u0661", "x" * 3000, '"1,\n1"']
    _set_cell(target, _label(target), rng.choice(labels))
    return Expect(LEFT_OUT, "label")


@mutation("label or quality that is none")
def quality_that_is_none(target: Target, rng: Generator) -> Expect:
    column = 6 if target.workspace.layout == COHORT else 2
    _set_cell(target, column, rng.choice(["2", "poor", "-", "0.5", "x" * 3000]))
    return Expect(LEFT_OUT, "quality")


@mutation("duplicate names")
def name_listed_twice(target: Target, rng: Generator) -> Expect:
    """PhysioNet 2016: the first row counts, with a warning. The user's own: neither can be trusted."""
    rows = rows_of(target)
    rows.insert(int(rng.integers(1, len(rows) + 1)), list(user_row(target, rows)))
    write_rows(target, rows)
    return Expect(LEFT_OUT, "occurs 2 times") if target.workspace.layout == COHORT else Expect(SAFE)


@mutation("duplicate names", (PHYSIONET,))
def name_in_two_sets(target: Target, rng: Generator) -> Expect:
    folder = target.workspace.raw / "training-b"
    folder.mkdir()
    for path in target.header.parent.glob(f"{target.name}.*"):
        shutil.copy(path, folder / path.name)
    (folder / "REFERENCE-SQI.csv").write_text(f"{target.name},1,1\n")

    def check(cache: Cache) -> None:
        assert "of this name" in cache.table("skipped")["reason"].str.cat()
        assert len(cache.table("samples")) == len(cache.beats("ecg"))

    return Expect(USED, check=check, options=("--sets", "a", "b"), lost=True)


@mutation("duplicate names", (COHORT,))
def name_in_two_spellings(target: Target, rng: Generator) -> Expect:
    """é in one letter and in two: for a table of labels that is one name."""
    _set_cell(target, 0, "caf\u00e9")
    for form in ("NFC", "NFD"):
        target.workspace.header(unicodedata.normalize(form, "caf\u00e9")).write_bytes(
            target.header.read_bytes()
        )
    return Expect(LEFT_OUT, "Two records have this name|no row in", names=(target.name, "caf\u00e9"))


@mutation("name that is none")
def name_that_is_none(target: Target, rng: Generator) -> Expect:
    names = ["", " ", "../secret/a0001", "/etc/passwd", "a b", "x" * 300, "x" * 5000]
    names += ["caf\u00e9?", "\x1b[31m", "a\x00b", "C:a"]
    _set_cell(target, 0, rng.choice(names), encoding="utf-8")
    return Expect(LEFT_OUT, "no row in")


@mutation("name that is none", (COHORT,))
def annotation_that_leads_away(target: Target, rng: Generator) -> Expect:
    """Beats are then found without it, with a warning."""
    names = ["../secret/a0001_StateAns.mat", "{secret}/a0001_StateAns.mat", "nothing.mat", "x" * 300]
    names += ["a\x00b", "..\\secret\\x"]
    _set_cell(target, 7, str(rng.choice(names)).format(secret=target.workspace.secret))
    return Expect(SAFE)


@mutation("spelling of the table")
def byte_order_mark(target: Target, rng: Generator) -> Expect:
    _text(target, lambda text: b"\xef\xbb\xbf" + text.encode())
    return Expect(USED)


@mutation("spelling of the table")
def other_line_ends(target: Target, rng: Generator) -> Expect:
    end = str(rng.choice(["\r\n", "\r", "\n\n", "\n,,\n"]))
    _text(target, lambda text: text.replace("\n", end))
    return Expect(USED)


@mutation("spelling of the table")
def spaces_and_quotes(target: Target, rng: Generator) -> Expect:
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace(",", " , "),
        lambda text: "".join('"' + line.replace(",", '","') + '"\n' for line in text.splitlines()),
        lambda text: text.replace(",", ",\u00a0"),
        lambda text: text.rstrip("\n"),
    ]
    _text(target, ways[int(rng.integers(len(ways)))])
    return Expect(USED)


@mutation("spelling of the table")
def quoted_line_break(target: Target, rng: Generator) -> Expect:
    """In a note it does no harm."""
    rows = rows_of(target)
    if target.workspace.layout == COHORT:
        user_row(target, rows)[4] = '"aortic\nstenosis, ""mild"""'
    else:
        user_row(target, rows).append('"first\nsecond, ""third"""')
    write_rows(target, rows)
    return Expect(USED)


@mutation("spelling of the table")
def semicolons(target: Target, rng: Generator) -> Expect:
    """As a spreadsheet of many countries saves the user's own table, and that of PhysioNet 2016."""
    _text(target, lambda text: text.replace(",", ";"))
    return Expect(USED)


@mutation("table that is none")
def table_in_another_encoding(target: Target, rng: Generator) -> Expect:
    encoding = str(rng.choice(["utf-16", "latin-1", "utf-32"]))
    _text(target, lambda text: (text + "caf\u00e9,s,p,1\n").encode(encoding))
    if encoding == "utf-16":
        return Expect(USED, lost=True)  # there is no record for the row that was added
    return Expect(REFUSED, "UTF-8|lacks")


@mutation("table that is none")
def table_absent_or_empty(target: Target, rng: Generator) -> Expect:
    table = target.workspace.table
    for other in ("REFERENCE.csv",) if target.workspace.layout == PHYSIONET else ():
        (table.parent / other).unlink(missing_ok=True)
    table.unlink()
    way = int(rng.integers(4))
    if way == 1:
        table.mkdir()
    elif way >= 2:
        table.write_bytes([b"", b"\n\n\r\n ,,\n"][way - 2])
    return Expect(REFUSED)


@mutation("table that is none")
def table_of_random_bytes(target: Target, rng: Generator) -> Expect:
    content = rng.bytes(int(rng.integers(1, 2000)))
    _text(target, lambda text: content)
    return Expect(REFUSED)


@mutation("table that is none")
def a_cell_beyond_all_measure(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    user_row(target, rows).append('"' + "x" * 200_000 + '"')
    write_rows(target, rows)
    return Expect(REFUSED, "cannot be read as a table")


@mutation("table cut short")
def table_cut_after_a_line(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    first = 1 if target.workspace.layout == COHORT else 0
    kept = int(rng.integers(first + 1, len(rows)))
    write_rows(target, rows[:kept])
    lost = tuple(row[0] for row in rows[kept:])
    return Expect(LEFT_OUT, "no row in", names=lost)


@mutation("table cut short")
def a_quote_that_is_never_closed(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    place = rows.index(user_row(target, rows))
    first = 1 if target.workspace.layout == COHORT else 0
    rows[place][_label(target)] = '"' + rows[place][_label(target)]
    write_rows(target, rows)
    names = tuple(row[0] for row in rows[place:])
    return Expect(REFUSED if place == first else LEFT_OUT, names=names)


@mutation("columns of the table", (COHORT,))
def columns_wrong(target: Target, rng: Generator) -> Expect:
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("label", "class", 1),
        lambda text: text.replace("recording", "name", 1),
        lambda text: text.replace("diagnosis", "label", 1),
        lambda text: text.replace("recording,", "", 1),
        lambda text: text.split("\n", 1)[1],
    ]
    _text(target, ways[int(rng.integers(len(ways)))])
    return Expect(REFUSED, "lacks|twice|ambiguous")


@mutation("columns of the table", (COHORT,))
def labels_of_two_conventions(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    for row, label in zip(rows[1:], rng.permutation(["-1", "0", "1", "1"]), strict=True):
        row[3] = str(label)
    write_rows(target, rows)
    return Expect(REFUSED, "ambiguous")


@mutation("columns of the table", (COHORT,))
def session_missing(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    user_row(target, rows)[1] = str(rng.choice(["", "  "]))
    write_rows(target, rows)
    return Expect(LEFT_OUT, "session is missing")


@mutation("columns of the table", (COHORT,))
def too_many_cells(target: Target, rng: Generator) -> Expect:
    rows = rows_of(target)
    user_row(target, rows).append("extra")
    write_rows(target, rows)
    return Expect(LEFT_OUT, "no row in")


@mutation("appendix", (PHYSIONET,))
def appendix_damaged(target: Target, rng: Generator) -> Expect:
    path = target.workspace.raw / APPENDIX
    text = path.read_text()
    contents = [
        b"",
        b"\xff\xfe\x00\x01" * 9,
        text.replace("Diagnosis", "Disease").encode(),
        (text + "a,b," * 40 + "\n").encode(),
        (text + "caf\u00e9").encode("latin-1"),
        (text + '"never closed').encode(),
    ]
    path.write_bytes(contents[int(rng.integers(len(contents)))])
    return Expect(REFUSED, "Online_Appendix")


@mutation("appendix", (PHYSIONET,))
def appendix_without_a_session(target: Target, rng: Generator) -> Expect:
    """The recording is used as a session of its own, with a warning."""
    path = target.workspace.raw / APPENDIX
    lines = path.read_text().splitlines(keepends=True)
    row = next(line for line in lines if target.name in line)
    cells = row.split(",")
    cells[2] = str(rng.choice(["", "X1S1", "C1", "C" + "9" * 5000 + "S1", "S1"]))
    ways = ["".join(lines).replace(row, ""), "".join(lines).replace(row, ",".join(cells))]
    path.write_text(ways[int(rng.integers(2))])

    def check(cache: Cache) -> None:
        assert any(target.name in warning and "session" in warning for warning in cache.manifest["warnings"])

    return Expect(USED, check=check)
