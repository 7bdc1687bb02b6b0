"""The same recording twice, under two names or two patients: never on both sides of a split.

PTB-XL has such pairs. The same signal of two patients is most likely one person with two numbers, so the two
are kept together; where the source's own folds separate them, one copy has to go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pandas as pd

from datasets.patients import PatientIndex
from datasets.sources import Problem

CONTENT = {"signal_sha256": "signal", "image_sha256": "picture"}
"""Columns of digests, and what they are of."""
OFFICIAL_PARTS = {9: 1, 10: 2}
"""Folds of PTB-XL meant for validation and test; the others, 0, are for training."""


def leave_out_copies(index: PatientIndex, checksums: Mapping[str, str]) -> PatientIndex:
    """Return the index without recordings whose copy is in another part of the official folds.

    The copy for test stays, then that for validation.

    Parameters
    ----------
    index : PatientIndex
    checksums : mapping of str to str
        By file, its digest; a WFDB record is known by the ``.dat`` beside its header.
    """
    table = index.recordings
    content = table["signal"].str.replace(r"\.hea$", ".dat", regex=True).map(checksums)
    part = table["official_fold"].map(OFFICIAL_PARTS).fillna(0)
    lost = content.notna() & (part < part.groupby(content).transform("max"))
    if not lost.any():
        return index
    problems = []
    for row in table.index[lost]:
        same = table.index[(content == content[row]) & (part > part[row])]
        what = f"Its signal is that of {table['recording'][same[0]]}, in official fold "
        what += f"{table['official_fold'][same[0]]}, and its own is {table['official_fold'][row]}."
        problems.append(Problem(table["recording"][row], what, "Nothing: the copy for test is kept."))
    return dataclasses.replace(
        index,
        recordings=table[~lost].reset_index(drop=True),
        clinical=index.clinical[~lost].reset_index(drop=True),
        problems=[*index.problems, *problems],
    )


def keep_together(recordings: pd.DataFrame, warnings: list[Problem]) -> pd.Series:
    """Return the session of each recording: its person, joined with those who have the same content.

    Parameters
    ----------
    recordings : pandas.DataFrame
        ``recording``, ``person``, and digests of signal and picture, empty where there is none.
    warnings : list of Problem
        Gets a warning for each content that occurs twice.

    Returns
    -------
    pandas.Series of str
    """
    together = {person: {person} for person in recordings["person"]}
    for column, what in CONTENT.items():
        for _, same in recordings[recordings[column] != ""].groupby(column, sort=False):
            if len(same) < 2:
                continue
            first, *others = same["recording"]
            merged = set[str]().union(*(together[person] for person in same["person"]))
            together |= dict.fromkeys(merged, merged)
            patients = "another patient" if same["person"].nunique() > 1 else "the same patient"
            text = f"Its {what} is the same as that of {', '.join(others)} ({patients})."
            remedy = "Keep one; until then they are in the same part of every split."
            warnings.append(Problem(first, text, remedy, left_out=False))
    names = {person: "+".join(sorted(persons)) for person, persons in together.items()}
    return recordings["person"].map(names)
