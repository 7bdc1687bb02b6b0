"""What every source of recordings hands over: an index, and a list of what is wrong with it.

A source (PhysioNet 2016, one's own cohort) is first *indexed*: tables are read, files are looked
up, nothing is decoded. The index has one row a recording (`INDEX_COLUMNS`); what cannot be used is a
`Problem`, so that one faulty file never stops the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common.errors import UserError

INDEX_COLUMNS = {
    "recording": str,  # unique name
    "set": str,  # training-a ... training-f, or cohort
    "header": str,  # WFDB header, path relative to the root, with forward slashes
    "annotation": str,  # heart-state onsets (.mat), path relative to the root; empty: none
    "session": str,  # session; the unit that the session protocol keeps apart
    "position": float,  # place in the order of the session; NaN: unknown
    "person": str,  # for reporting only; empty: to be inferred from the sites in order of position
    "label": int,  # 0 normal, 1 abnormal
    "diagnosis": str,  # as the source names it; empty: unknown
    "site": str,  # auscultation site; empty: unknown
    "quality": int,  # 1 good, 0 unsure
    "needs": str,  # signals the set was published with: "ecg+pcg", "pcg", or "any"
}


class DataError(UserError):
    """Data that cannot be used. The message says what, where, and how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the data.

    Attributes
    ----------
    where : str
        The recording, file or row.
    what : str
        What is wrong, in one sentence.
    remedy : str
        What the user can do about it.
    left_out : bool
        Whether the recording is left out; else it is used, and the problem is a warning.
    """

    where: str
    what: str
    remedy: str = ""
    left_out: bool = True


@dataclass(frozen=True)
class SourceIndex:
    """The recordings of a source, before any of them is decoded.

    Attributes
    ----------
    name : str
        Name of the source; the cache's folder begins with it.
    root : pathlib.Path
        Folder that the paths of the index are relative to.
    recordings : pandas.DataFrame
        One row a recording, columns `INDEX_COLUMNS`, sorted by recording.
    problems : list of Problem
        What was left out, or is doubtful.
    session_unit : dict of str to str
        For each set, what its ``session`` column holds: "session", "person" or "recording".
    files : list of str
        Tables that the index was made from, relative to the root (their content names the cache).
    choices : dict of str to str
        What the user chose beyond `PreparationSettings` that changes what is read; names the cache too.
    """

    name: str
    root: Path
    recordings: pd.DataFrame
    problems: list[Problem] = field(default_factory=list)
    session_unit: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)


def index_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return rows as an index table: the columns of `INDEX_COLUMNS`, their types, sorted by recording."""
    table = pd.DataFrame(rows, columns=list(INDEX_COLUMNS)).astype(INDEX_COLUMNS)
    return table.sort_values("recording", ignore_index=True)


def readable(name: str) -> str:
    """Return a file's name with letters that no text can hold (it is in no known encoding) replaced."""
    return name.encode("utf-8", errors="replace").decode("utf-8")


def infer_persons(recordings: pd.DataFrame) -> pd.Series:
    """Return the person of each recording, inferring those that the source does not name.

    Within a session, in order of position, a repeated auscultation site starts a new person. Over the
    388 usable recordings of training-a this finds 122 persons, where 121 are published for all 409. It is
    a guess, good for reporting and never for splitting.

    Parameters
    ----------
    recordings : pandas.DataFrame
        Columns ``recording``, ``session``, ``position``, ``site`` and ``person``.

    Returns
    -------
    pandas.Series of str
        Aligned with the table.
    """
    persons = recordings["person"].copy()
    unnamed = recordings[(persons == "") & recordings["position"].notna() & (recordings["site"] != "")]
    for session, rows in unnamed.sort_values(["session", "position"]).groupby("session"):
        sites: set[str] = set()
        number = 1
        for row, site in rows["site"].items():
            if site in sites:
                sites = set()
                number += 1
            sites.add(site)
            persons.loc[row] = f"{session}P{number}"
    return persons.where(persons != "", recordings["session"])
