"""Onsets, tables of labels and folders that are wrong."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.random import Generator

from datasets.cache import Cache
from datasets.heart_states import read_heart_states
from datasets.simulate.layout import write_states
from tests.torture.houses import COHORT, LAYOUTS, PHYSIONET
from tests.torture.mutations import LEFT_OUT, REFUSED, SAFE, USED, Expect, Victim, kind

APPENDIX = "annotations/Online_Appendix_training_set.csv"
RATE = 2000

# Onsets ---------------------------------------------------------------------------------------------

States = list[tuple[int, str]]


def _states(victim: Victim) -> States:
    """Return the onsets of the victim, or of a good neighbour where it has none."""
    path = victim.onsets if victim.has_onsets else next(victim.house.raw.rglob("*_StateAns.mat"))
    states = read_heart_states(path, RATE)
    return [(round(time * RATE) + 1, str(name)) for time, name in zip(states.time, states.state, strict=True)]


def _write(victim: Victim, states: States) -> None:
    write_states(victim.onsets, "state_ans", states)


def _save(victim: Victim, **variables: Any) -> None:
    scipy.io.savemat(victim.onsets, variables)


@kind("onsets in the wrong order or place")
def onsets_unsorted(victim: Victim, rng: Generator) -> Expect:
    states = _states(victim)
    first, second = sorted(rng.choice(len(states), size=2, replace=False))
    states[first], states[second] = states[second], states[first]
    _write(victim, states)
    return Expect(LEFT_OUT, "not in order")


@kind("onsets in the wrong order or place")
def onset_negative(victim: Victim, rng: Generator) -> Expect:
    states = _states(victim)
    _write(victim, [(-int(rng.integers(0, 10**6)), "S1"), *states])
    return Expect(LEFT_OUT, "negative or missing onset")


@kind("onsets in the wrong order or place")
def onset_past_the_end(victim: Victim, rng: Generator) -> Expect:
    count = len(victim.samples("pcg"))
    _write(victim, [*_states(victim), (count + int(rng.integers(2, 10**6)), "S1")])
    return Expect(LEFT_OUT, "after the end")


@kind("missing or unknown states")
def states_missing(victim: Victim, rng: Generator) -> Expect:
    """Beats run from S1 to S1: the other states are not needed for them."""
    states = _states(victim)
    gone = {"systole", "S2", "diastole"} - set(rng.choice(["systole", "S2", "diastole"], size=1))
    _write(victim, [state for state in states if state[1] not in gone])
    return Expect(USED, changed=not victim.has_onsets or victim.house.layout == COHORT)


@kind("missing or unknown states")
def one_s1_missing(victim: Victim, rng: Generator) -> Expect:
    """Two cycles without the S1 between them are not taken for one."""
    states = _states(victim)
    onsets = [row for row, state in enumerate(states) if state[1] == "S1"]
    gone = onsets[int(rng.integers(1, len(onsets) - 1))]
    longest = max(np.diff([states[row][0] for row in onsets])) / RATE
    _write(victim, [state for row, state in enumerate(states) if row != gone])

    def check(cache: Cache) -> None:
        samples = cache.table("samples")
        samples = samples[samples["recording"] == victim.name]
        assert (samples["end"] - samples["start"]).max() <= longest + 1e-4
        assert len(samples) == len(onsets) - 3

    return Expect(USED, changed=True, check=check)


@kind("missing or unknown states")
def unknown_state(victim: Victim, rng: Generator) -> Expect:
    states = _states(victim)
    place = int(rng.integers(len(states)))
    name = str(rng.choice(["S3", "s1", "", "murmur", "心音", "S1S2", "x" * 5000]))
    states[place] = (states[place][0], name)
    _write(victim, states)
    return Expect(LEFT_OUT, "not known|cannot be read")


@kind("missing or unknown states")
def no_states_at_all(victim: Victim, rng: Generator) -> Expect:
    _write(victim, _states(victim)[: int(rng.integers(2))])
    return Expect(LEFT_OUT, "No complete beat|no table")


@kind("wrong MATLAB type")
def another_matlab_type(victim: Victim, rng: Generator) -> Expect:
    table = np.array([[1.0, 1.0], [500.0, 2.0]])
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2, "S2"], [3, "S1"]]
    contents: list[dict[str, Any]] = [
        {"state_ans": table},
        {"state_ans": scipy.sparse.csc_matrix(table)},
        {"state_ans": {"onset": table[:, 0], "state": "S1"}},
        {"state_ans": np.array(["ab", "cd"])},
        {"state_ans": cells[:, :1]},
        {"state_ans": np.concatenate([cells, cells[:, :1]], axis=1)},
        {"state_ans": np.empty((0, 2), dtype=object)},
        {"state_ans": cells[None]},
        {"state_ans": np.array([[1 + 2j, 2], [3, 4]])},
        {},
    ]
    _save(victim, **contents[int(rng.integers(len(contents)))])
    return Expect(LEFT_OUT, "no table|No complete beat|not known")


@kind("wrong MATLAB type")
def another_type_in_a_cell(victim: Victim, rng: Generator) -> Expect:
    values: list[Any] = [np.nan, np.inf, 1 + 2j, "x", np.zeros((0, 0)), np.arange(4.0), {"a": 1}, True]
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2000, "S2"], [4000, "S1"]]
    cells[int(rng.integers(3)), 0] = values[int(rng.integers(len(values) - 1))]
    _save(victim, state_ans=cells)
    return Expect(LEFT_OUT, "not a number|missing onset|cannot be read")


@kind("wrong MATLAB type")
def names_and_onsets_exchanged(victim: Victim, rng: Generator) -> Expect:
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [["S1", 1], ["S1", 2000]]
    _save(victim, state_ans=cells)
    return Expect(LEFT_OUT, "not known")


@kind("damaged onsets")
def onsets_cut_short(victim: Victim, rng: Generator) -> Expect:
    _write(victim, _states(victim))
    content = victim.onsets.read_bytes()
    victim.onsets.write_bytes(content[: int(rng.integers(len(content)))])
    return Expect(LEFT_OUT, "cannot be read|no table")


@kind("damaged onsets")
def onsets_that_are_another_file(victim: Victim, rng: Generator) -> Expect:
    contents = [
        b"",
        b"onset,state\n1,S1\n",
        rng.bytes(2000),
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        b"MATLAB 7.3 MAT-file".ljust(512),
    ]
    victim.onsets.write_bytes(contents[int(rng.integers(len(contents)))])
    return Expect(LEFT_OUT, "cannot be read|no table")


@kind("damaged onsets")
def onsets_of_a_huge_declared_size(victim: Victim, rng: Generator) -> Expect:
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2, "S2"], [3, "S1"]]
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"state_ans": cells})
    content = buffer.getvalue()
    place = content.index((8).to_bytes(4, "little") + (3).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    huge = int(rng.choice([2**24, 2**28, 2**31 - 1]))
    victim.onsets.write_bytes(content[: place + 4] + huge.to_bytes(4, "little") + content[place + 8 :])
    return Expect(LEFT_OUT, "no table")


@kind("damaged onsets")
def onsets_linked_from_outside(victim: Victim, rng: Generator) -> Expect:
    victim.onsets.unlink(missing_ok=True)
    victim.onsets.symlink_to(victim.house.secret / "a0001_StateAns.mat")
    return Expect(LEFT_OUT, "outside the data folder")


# Tables ---------------------------------------------------------------------------------------------


def _rows(victim: Victim) -> list[list[str]]:
    return [line.split(",") for line in victim.house.table.read_text().splitlines()]


def _write_rows(victim: Victim, rows: list[list[str]], **options: Any) -> None:
    victim.house.table.write_text("".join(",".join(row) + "\n" for row in rows), newline="", **options)


def _own(victim: Victim, rows: list[list[str]]) -> list[str]:
    return next(row for row in rows if row[0] == victim.name)


def _label(victim: Victim) -> int:
    return 3 if victim.house.layout == COHORT else 1


def _text(victim: Victim, change: Callable[[str], str | bytes]) -> None:
    text = change(victim.house.table.read_text())
    victim.house.table.write_bytes(text if isinstance(text, bytes) else text.encode())


@kind("label or quality that is none")
def label_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    _own(victim, rows)[_label(victim)] = str(
        rng.choice(["", "2", "-2", "sick", "nan", "1;", "\u0661", "x" * 3000, '"1,\n1"'])
    )
    _write_rows(victim, rows)
    return Expect(LEFT_OUT, "label")


@kind("label or quality that is none")
def quality_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    quality = 6 if victim.house.layout == COHORT else 2
    _own(victim, rows)[quality] = str(rng.choice(["2", "poor", "-", "0.5", "x" * 3000]))
    _write_rows(victim, rows)
    return Expect(LEFT_OUT, "quality")


@kind("duplicate names")
def name_listed_twice(victim: Victim, rng: Generator) -> Expect:
    """PhysioNet 2016: the first row counts, with a warning. One's own: neither can be trusted."""
    rows = _rows(victim)
    rows.insert(int(rng.integers(1, len(rows) + 1)), list(_own(victim, rows)))
    _write_rows(victim, rows)
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
    rows = _rows(victim)
    _own(victim, rows)[0] = "caf\u00e9"
    _write_rows(victim, rows)
    for form in ("NFC", "NFD"):
        victim.house.header(unicodedata.normalize(form, "caf\u00e9")).write_bytes(victim.header.read_bytes())
    return Expect(LEFT_OUT, "Two records have this name|no row in", names=(victim.name, "caf\u00e9"))


@kind("name that is none")
def name_that_is_none(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
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
    _own(victim, rows)[0] = str(rng.choice(names))
    _write_rows(victim, rows, encoding="utf-8")
    return Expect(LEFT_OUT, "no row in")


@kind("name that is none", (COHORT,))
def annotation_that_leads_away(victim: Victim, rng: Generator) -> Expect:
    """Beats are then found without it, with a warning."""
    rows = _rows(victim)
    names = [
        "../secret/a0001_StateAns.mat",
        "{secret}/a0001_StateAns.mat",
        "nothing.mat",
        "x" * 300,
        "a\x00b",
        "..\\secret\\x",
    ]
    _own(victim, rows)[7] = str(rng.choice(names)).format(secret=victim.house.secret)
    _write_rows(victim, rows)
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
    rows = _rows(victim)
    if victim.house.layout == COHORT:
        _own(victim, rows)[4] = '"aortic\nstenosis, ""mild"""'
    else:
        _own(victim, rows).append('"first\nsecond, ""third"""')
    _write_rows(victim, rows)
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
        return Expect(USED)
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
    rows = _rows(victim)
    _own(victim, rows).append('"' + "x" * 200_000 + '"')
    _write_rows(victim, rows)
    return Expect(REFUSED, "cannot be read as a table")


@kind("table cut short")
def table_cut_after_a_line(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    first = 1 if victim.house.layout == COHORT else 0
    kept = int(rng.integers(first + 1, len(rows)))
    _write_rows(victim, rows[:kept])
    lost = tuple(row[0] for row in rows[kept:])
    return Expect(LEFT_OUT, "no row in", names=lost)


@kind("table cut short")
def a_quote_that_is_never_closed(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    place = rows.index(_own(victim, rows))
    first = 1 if victim.house.layout == COHORT else 0
    rows[place][_label(victim)] = '"' + rows[place][_label(victim)]
    _write_rows(victim, rows)
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
    rows = _rows(victim)
    for row, label in zip(rows[1:], rng.permutation(["-1", "0", "1", "1"]), strict=True):
        row[3] = str(label)
    _write_rows(victim, rows)
    return Expect(REFUSED, "ambiguous")


@kind("columns of the table", (COHORT,))
def session_missing(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    _own(victim, rows)[1] = str(rng.choice(["", "  "]))
    _write_rows(victim, rows)
    return Expect(LEFT_OUT, "session is missing")


@kind("columns of the table", (COHORT,))
def too_many_cells(victim: Victim, rng: Generator) -> Expect:
    rows = _rows(victim)
    _own(victim, rows).append("extra")
    _write_rows(victim, rows)
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
    cells[2] = str(rng.choice(["", "X1S1", "C1", "C" + "9" * 5000 + "S1", "C1S" + "9" * 400]))
    ways = ["".join(lines).replace(row, ""), "".join(lines).replace(row, ",".join(cells))]
    path.write_text(ways[int(rng.integers(2))])

    def check(cache: Cache) -> None:
        assert any(victim.name in warning and "session" in warning for warning in cache.manifest["warnings"])

    return Expect(USED, check=check)


# Folders --------------------------------------------------------------------------------------------

FOLDERS = [
    "Gr\u00fc\u00dfe \u5fc3\u97f3",
    "a b",
    "x" * 200,
    "%20",
    "a,b",
    "[x]*?",
    "#1",
    "a::b",
    "quote'\"s",
    "line\nbreak",
    "d.hea",
]


@kind("odd folders", (COHORT,))
def records_in_an_odd_folder(victim: Victim, rng: Generator) -> Expect:
    folder = str(rng.choice(FOLDERS))
    name = f"{folder}/{victim.header.name.removesuffix('.hea')}"
    for path in [*victim.header.parent.glob(f"{victim.header.stem}.*"), victim.onsets]:
        if path.exists():
            (victim.house.raw / folder).mkdir(exist_ok=True)
            shutil.move(path, victim.house.raw / folder / path.name)
    rows = _rows(victim)
    _own(victim, rows)[0] = '"' + name.replace('"', '""') + '"'
    _write_rows(victim, rows, encoding="utf-8")
    # wfdb takes :: for a chain of addresses
    return Expect(LEFT_OUT if "::" in folder else USED, names=(name,))


@kind("odd folders", LAYOUTS)
def whole_house_in_an_odd_folder(victim: Victim, rng: Generator) -> Expect:
    """Where the recordings lie does not count."""
    folder = victim.house.base / str(rng.choice([name for name in FOLDERS if "::" not in name])) / ("y" * 250)
    shutil.move(victim.house.raw, folder)
    victim.house.raw.symlink_to(folder, target_is_directory=True)
    return Expect(USED)


@kind("odd folders", LAYOUTS)
def name_in_no_encoding(victim: Victim, rng: Generator) -> Expect:
    """Beside good files: it is named, as well as can be, and left out."""
    path = os.fsencode(victim.header.parent) + b"/b\xff\xfe.hea"
    Path(os.fsdecode(path)).write_bytes(victim.header.read_bytes())

    def check(cache: Cache) -> None:
        assert any("b??" in name for name in cache.table("skipped")["recording"])

    return Expect(USED, check=check, lost=True)


@kind("odd folders", LAYOUTS)
def files_that_belong_to_nothing(victim: Victim, rng: Generator) -> Expect:
    folder = victim.header.parent
    (folder / "Thumbs.db").write_bytes(rng.bytes(300))
    (folder / "._a0001.hea").write_bytes(rng.bytes(300))
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("none")
    return Expect(USED, lost=True)
