"""Folders and names of files that are odd."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from numpy.random import Generator

from datasets.cache import Cache
from tests.torture.houses import COHORT, LAYOUTS
from tests.torture.mutations import LEFT_OUT, USED, Expect, Victim, kind
from tests.torture.table_mutations import own_row, rows_of, write_rows

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
    rows = rows_of(victim)
    own_row(victim, rows)[0] = '"' + name.replace('"', '""') + '"'
    write_rows(victim, rows, encoding="utf-8")
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
