"""Odd folders and file names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from numpy.random import Generator

from datasets.cache import Cache
from tests.robustness.mutations import LEFT_OUT, USED, Expect, Target, mutation
from tests.robustness.table_mutations import rows_of, user_row, write_rows
from tests.robustness.workspaces import COHORT, LAYOUTS

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


@mutation("odd folders", (COHORT,))
def records_in_an_odd_folder(target: Target, rng: Generator) -> Expect:
    folder = str(rng.choice(FOLDERS))
    name = f"{folder}/{target.header.name.removesuffix('.hea')}"
    for path in [*target.header.parent.glob(f"{target.header.stem}.*"), target.onsets]:
        if path.exists():
            (target.workspace.raw / folder).mkdir(exist_ok=True)
            shutil.move(path, target.workspace.raw / folder / path.name)
    rows = rows_of(target)
    user_row(target, rows)[0] = '"' + name.replace('"', '""') + '"'
    write_rows(target, rows, encoding="utf-8")
    # wfdb takes :: for a chain of addresses
    return Expect(LEFT_OUT if "::" in folder else USED, names=(name,))


@mutation("odd folders", LAYOUTS)
def all_recordings_in_an_odd_folder(target: Target, rng: Generator) -> Expect:
    """The location of the recordings has no effect."""
    folder = (
        target.workspace.base / str(rng.choice([name for name in FOLDERS if "::" not in name])) / ("y" * 250)
    )
    shutil.move(target.workspace.raw, folder)
    target.workspace.raw.symlink_to(folder, target_is_directory=True)
    return Expect(USED)


@mutation("odd folders", LAYOUTS)
def name_in_no_encoding(target: Target, rng: Generator) -> Expect:
    """Beside good files: it is listed, as well as possible, and left out."""
    path = os.fsencode(target.header.parent) + b"/b\xff\xfe.hea"
    Path(os.fsdecode(path)).write_bytes(target.header.read_bytes())

    def check(cache: Cache) -> None:
        assert any("b??" in name for name in cache.table("skipped")["recording"])

    return Expect(USED, check=check, lost=True)


@mutation("odd folders", LAYOUTS)
def files_that_belong_to_nothing(target: Target, rng: Generator) -> Expect:
    folder = target.header.parent
    (folder / "Thumbs.db").write_bytes(rng.bytes(300))
    (folder / "._a0001.hea").write_bytes(rng.bytes(300))
    (folder / ".hidden").mkdir()
    (folder / "notes.txt").write_text("none")
    return Expect(USED, lost=True)
