"""Tables of labels that are wrong."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

from datasets.cache import Cache
from tests.torture.houses import COHORT, PHYSIONET
from tests.torture.mutations import LEFT_OUT, REFUSED, SAFE, USED, Expect, Victim, kind

APPENDIX = "annotations/Online_Appendix_training_set.csv"


def rows_of(victim: Victim) -> list[list[str]]:
    return [line.split(",") for line in victim.house.table.read_text().splitlines()]


def write_rows(victim: Victim, rows: list[list[str]], **options: Any) -> None:
    victim.house.table.write_text("".join(",".join(row) + "\n" for row in rows), newline="", **options)


def own_row(victim: Victim, rows: list[list[str]]) -> list[str]:
    return next(row for row in rows if row[0] == victim.name)


def _label(victim: Victim) -> int:
    return 3 if victim.house.layout == COHORT else 1


def _text(victim: Victim, change: Callable[[str], str | bytes]) -> None:
    text = change(victim.house.table.read_text())
    victim.house.table.write_bytes(text if isinstance(text, bytes) else text.encode())


@kind("label or quality that is none")
def label_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    own_row(victim, rows)[_label(victim)] = str(
        rng.choice(["", "2", "-2", "sick", "nan", "1;", "\u0661", "x" * 3000, '"1,\n1"'])
    )
    write_rows(victim, rows)
    return Expect(LEFT_OUT, "label")


@kind("label or quality that is none")
def quality_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    quality = 6 if victim.house.layout == COHORT else 2
    own_row(victim, rows)[quality] = str(rng.choice(["2", "poor", "-", "0.5", "x" * 3000]))
    write_rows(victim, rows)
    return Expect(LEFT_OUT, "quality")


@kind("duplicate names")
def name_listed_twice(victim: Victim, rng: Generator) -> Expect:
    """PhysioNet 2016: the first row counts, with a warning. One's own: neither can be trusted."""
    rows = rows_of(victim)
    rows.insert(int(rng.integers(1, len(rows) + 1)), list(own_row(victim, rows)))
    write_rows(victim, rows)
    return Expect(LEFT_OUT, "occurs 2 times") if victim.house.layout == COHORT else Expect(SAFE)


@kind("duplicate names", (PHYSIONET,))
def name_in_two_sets(victim: Victim, rng: Generator) -> Expect:
    folder = victim.house.raw / "training-b"
    folder.mkdir()
    for path in victim.header.parent.glob(f"{victim.name}.*"):
        shutil.copy(path, folder / path.name)
    (folder / "REFERENCE-SQI.csv").write_text(f"{victim.name},1,1\n")

    def check(cache: Cache) -> None:
        assert "of this name" in cache.table("skipped")["reason"].str.cat()
        assert len(cache.table("samples")) == len(cache.beats("ecg"))

    return Expect(USED, check=check, options=("--sets", "a", "b"), lost=True)


@kind("duplicate names", (COHORT,))
def name_in_two_spellings(victim: Victim, rng: Generator) -> Expect:
    """é in one letter and in two: for a table of labels that is one name."""
    rows = rows_of(victim)
    own_row(victim, rows)[0] = "caf\u00e9"
    write_rows(victim, rows)
    for form in ("NFC", "NFD"):
        victim.house.header(unicodedata.normalize(form, "caf\u00e9")).write_bytes(victim.header.read_bytes())
    return Expect(LEFT_OUT, "Two records have this name|no row in", names=(victim.name, "caf\u00e9"))


@kind("name that is none")
def name_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    names = [
        "",
        " ",
        "../secret/a0001",
        "/etc/passwd",
        "a b",
        "x" * 300,
        "x" * 5000,
        "caf\u00e9?",
        "\x1b[31m",
        "a\x00b",
        "C:a",
    ]
    own_row(victim, rows)[0] = str(rng.choice(names))
    write_rows(victim, rows, encoding="utf-8")
    return Expect(LEFT_OUT, "no row in")


@kind("name that is none", (COHORT,))
def annotation_that_leads_away(victim: Victim, rng: Generator) -> Expect:
    """Beats are then found without it, with a warning."""
    rows = rows_of(victim)
    names = [
        "../secret/a0001_StateAns.mat",
        "{secret}/a0001_StateAns.mat",
        "nothing.mat",
        "x" * 300,
        "a\x00b",
        "..\\secret\\x",
    ]
    own_row(victim, rows)[7] = str(rng.choice(names)).format(secret=victim.house.secret)
    write_rows(victim, rows)
    return Expect(SAFE)


@kind("spelling of the table")
def byte_order_mark(victim: Victim, rng: Generator) -> Expect:
    _text(victim, lambda text: b"\xef\xbb\xbf" + text.encode())
    return Expect(USED)


@kind("spelling of the table")
def other_line_ends(victim: Victim, rng: Generator) -> Expect:
    end = str(rng.choice(["\r\n", "\r", "\n\n", "\n,,\n"]))
    _text(victim, lambda text: text.replace("\n", end))
    return Expect(USED)


@kind("spelling of the table")
def spaces_and_quotes(victim: Victim, rng: Generator) -> Expect:
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace(",", " , "),
        lambda text: "".join('"' + line.replace(",", '","') + '"\n' for line in text.splitlines()),
        lambda text: text.replace(",", ",\u00a0"),
        lambda text: text.rstrip("\n"),
    ]
    _text(victim, ways[int(rng.integers(len(ways)))])
    return Expect(USED)


@kind("spelling of the table")
def quoted_line_break(victim: Victim, rng: Generator) -> Expect:
    """In a note it does no harm."""
    rows = rows_of(victim)
    if victim.house.layout == COHORT:
        own_row(victim, rows)[4] = '"aortic\nstenosis, ""mild"""'
    else:
        own_row(victim, rows).append('"first\nsecond, ""third"""')
    write_rows(victim, rows)
    return Expect(USED)


@kind("spelling of the table")
def semicolons(victim: Victim, rng: Generator) -> Expect:
    """One's own table may be written so; that of PhysioNet 2016 never is, and is refused as a whole."""
    _text(victim, lambda text: text.replace(",", ";"))
    return Expect(USED) if victim.house.layout == COHORT else Expect(REFUSED, "no recording name")


@kind("table that is none")
def table_in_another_encoding(victim: Victim, rng: Generator) -> Expect:
    encoding = str(rng.choice(["utf-16", "latin-1", "utf-32"]))
    _text(victim, lambda text: (text + "caf\u00e9,s,p,1\n").encode(encoding))
    if victim.house.layout == COHORT and encoding == "utf-16":
        return Expect(USED, lost=True)  # there is no record for the row that was added
    return Expect(REFUSED, "UTF-8|lacks")


@kind("table that is none")
def table_absent_or_empty(victim: Victim, rng: Generator) -> Expect:
    table = victim.house.table
    for other in ("REFERENCE.csv",) if victim.house.layout == PHYSIONET else ():
        (table.parent / other).unlink(missing_ok=True)
    table.unlink()
    way = int(rng.integers(4))
    if way == 1:
        table.mkdir()
    elif way >= 2:
        table.write_bytes([b"", b"\n\n\r\n ,,\n"][way - 2])
    return Expect(REFUSED)


@kind("table that is none")
def table_of_random_bytes(victim: Victim, rng: Generator) -> Expect:
    content = rng.bytes(int(rng.integers(1, 2000)))
    _text(victim, lambda text: content)
    return Expect(REFUSED)


@kind("table that is none")
def a_cell_beyond_all_measure(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    own_row(victim, rows).append('"' + "x" * 200_000 + '"')
    write_rows(victim, rows)
    return Expect(REFUSED, "cannot be read as a table")


@kind("table cut short")
def table_cut_after_a_line(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    first = 1 if victim.house.layout == COHORT else 0
    kept = int(rng.integers(first + 1, len(rows)))
    write_rows(victim, rows[:kept])
    lost = tuple(row[0] for row in rows[kept:])
    return Expect(LEFT_OUT, "no row in", names=lost)


@kind("table cut short")
def a_quote_that_is_never_closed(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    place = rows.index(own_row(victim, rows))
    first = 1 if victim.house.layout == COHORT else 0
    rows[place][_label(victim)] = '"' + rows[place][_label(victim)]
    write_rows(victim, rows)
    names = tuple(row[0] for row in rows[place:])
    return Expect(REFUSED if place == first else LEFT_OUT, names=names)


@kind("columns of the table", (COHORT,))
def columns_wrong(victim: Victim, rng: Generator) -> Expect:
    ways: list[Callable[[str], str]] = [
        lambda text: text.replace("label", "class", 1),
        lambda text: text.replace("recording", "name", 1),
        lambda text: text.replace("diagnosis", "label", 1),
        lambda text: text.replace("recording,", "", 1),
        lambda text: text.split("\n", 1)[1],
    ]
    _text(victim, ways[int(rng.integers(len(ways)))])
    return Expect(REFUSED, "lacks|twice|ambiguous")


@kind("columns of the table", (COHORT,))
def labels_of_two_conventions(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    for row, label in zip(rows[1:], rng.permutation(["-1", "0", "1", "1"]), strict=True):
        row[3] = str(label)
    write_rows(victim, rows)
    return Expect(REFUSED, "ambiguous")


@kind("columns of the table", (COHORT,))
def session_missing(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    own_row(victim, rows)[1] = str(rng.choice(["", "  "]))
    write_rows(victim, rows)
    return Expect(LEFT_OUT, "session is missing")


@kind("columns of the table", (COHORT,))
def too_many_cells(victim: Victim, rng: Generator) -> Expect:
    rows = rows_of(victim)
    own_row(victim, rows).append("extra")
    write_rows(victim, rows)
    return Expect(LEFT_OUT, "no row in")


@kind("appendix", (PHYSIONET,))
def appendix_damaged(victim: Victim, rng: Generator) -> Expect:
    path = victim.house.raw / APPENDIX
    text = path.read_text()
    contents = [
        b"",
        b"\xff\xfe\x00\x01" * 9,
        text.replace("Diagnosis", "Disease").encode(),
        (text + "a,b," * 40 + "\n").encode(),
        text.encode("utf-16"),
        (text + '"never closed').encode(),
    ]
    path.write_bytes(contents[int(rng.integers(len(contents)))])
    return Expect(REFUSED, "Online_Appendix")


@kind("appendix", (PHYSIONET,))
def appendix_without_a_session(victim: Victim, rng: Generator) -> Expect:
    """The recording is used as a session of its own, and that is told."""
    path = victim.house.raw / APPENDIX
    lines = path.read_text().splitlines(keepends=True)
    row = next(line for line in lines if victim.name in line)
    cells = row.split(",")
    cells[2] = str(rng.choice(["", "X1S1", "C1", "C" + "9" * 5000 + "S1", "S1"]))
    ways = ["".join(lines).replace(row, ""), "".join(lines).replace(row, ",".join(cells))]
    path.write_text(ways[int(rng.integers(2))])

    def check(cache: Cache) -> None:
        assert any(victim.name in warning and "session" in warning for warning in cache.manifest["warnings"])

    return Expect(USED, check=check)
