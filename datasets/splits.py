"""Folds under the protocols, and the assertion that they keep apart what they promise.

=========== =================== ================================== ==========================
protocol    folds over          validation part                    kept apart
=========== =================== ================================== ==========================
paper       beats               the test fold itself               beats of train and test
beat        beats               beats of the training part         beats
recording   recordings          recordings of the training part    recordings
session     sessions            sessions of the training part      sessions (and so people)
database    databases           sessions of the other databases    databases, and sessions
patient     patients            patients of the training part      patients
official    as the source says  fold 9 of the source               patients
=========== =================== ================================== ==========================

Under ``database`` each database (a hospital with its devices) is left out once, and the others are learned
from. Its validation part is made of sessions of these others. A whole further database would be nearer to
what is tested, but training would lose all of it, and the share of abnormal of that one hospital would set
the threshold. In the experiments of Gulrajani and Lopez-Paz (ICLR 2021) selection on held-out data of the
training domains was no worse than selection on a left-out domain.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from datasets.sources import DataError

if TYPE_CHECKING:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

UNIT = {"paper": "sample", "beat": "sample", "recording": "recording"}
UNIT |= {"session": "session", "database": "session", "patient": "session", "official": "session"}
"""Column of the sample table whose values a protocol keeps apart; where no session is known, the patient.

Protocol ``database`` keeps databases apart from the test part as well."""
BEAT_PROTOCOLS = ("paper", "beat", "recording", "session", "database")
"""Protocols of samples that are beats of recordings."""
OFFICIAL_VALIDATION, OFFICIAL_TEST = 9, 10
"""Folds of PTB-XL that are meant for validation and test."""
PARTS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
ALL = -1
"""Number of the fold that has everything in train: a final fit."""


class LeakageError(AssertionError):
    """A fold shares with its test part what its protocol promises to keep apart."""


@dataclass(frozen=True)
class Fold:
    """Which samples a fold learns from, selects on and is evaluated on.

    Attributes
    ----------
    number : int
        From 0; -1 for a final fit on everything.
    train, validation, test : numpy.ndarray of int
        Rows of the sample table, rising. Under ``paper`` validation and test are the same rows.
    left_out : str
        Database that is the test part, under protocol ``database``.
    """

    number: int
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    left_out: str = ""

    @property
    def name(self) -> str:
        """Name of the fold's folder."""
        return fold_name(self.number)

    @property
    def title(self) -> str:
        """Name of the fold in messages, with the database that is left out."""
        return f"{self.name} ({self.left_out} left out)" if self.left_out else self.name

    def parts(self, count: int) -> NDArray[np.int8]:
        """Return the part of each of ``count`` samples: 0 train, 1 validation, 2 test."""
        part = np.full(count, TRAIN, dtype=np.int8)
        part[self.validation] = VALIDATION
        part[self.test] = TEST
        return part


def fold_name(number: int) -> str:
    """Return the name of a fold's folder."""
    return "fold_all" if number == ALL else f"fold_{number}"


def fold_from_parts(number: int, part: NDArray[np.int8], protocol: str) -> Fold:
    """Return the fold that `Fold.parts` wrote down."""
    train, validation, test = (np.flatnonzero(part == value) for value in range(3))
    return Fold(number, train, test if protocol == "paper" else validation, test)


def final_fold(samples: pd.DataFrame) -> Fold:
    """Return the fold of a final fit: everything in train, nothing to select on or to evaluate on."""
    nothing = np.zeros(0, dtype=np.int64)
    return Fold(ALL, np.arange(len(samples)), nothing, nothing)


def make_folds(
    samples: pd.DataFrame,
    protocol: str,
    fold_count: int,
    validation_share: float,
    seed: int,
    *,
    labelled: bool = True,
) -> list[Fold]:
    """Split samples into folds, stratified by label and grouped as the protocol says.

    Parameters
    ----------
    samples : pandas.DataFrame
        Columns ``sample``, ``recording``, ``session``, ``label``; ``database`` under that protocol.
    protocol : {"paper", "beat", "recording", "session", "database", "patient", "official"}
        Under ``official`` there is one fold, from the column ``official_fold``; under ``database`` one a
        database, in the order of their names.
    fold_count : int
        At least 2; under ``database`` 0, or the number of databases.
    validation_share : float
        Share of the training part held out; 0 for none. Not used under ``paper``.
    seed : int
        The same seed makes the same folds.
    labelled : bool
        Whether the labels mean something: both must then be in every part. Otherwise they are not looked at.

    Raises
    ------
    DataError
        If there are too few units for so many folds, fewer than two databases, or a session of two.
    LeakageError
        If a fold breaks the protocol's promise (a fault of this module).
    """
    databases = _databases(samples, fold_count) if protocol == "database" else []
    fold_count = len(databases) or fold_count
    if fold_count < 2 or not 0 <= validation_share <= 0.5:
        raise DataError(
            f"Folds need --fold-count of 2 or more (given {fold_count}) "
            f"and --validation-share from 0 to 0.5 (given {validation_share})."
        )
    if protocol == "official":
        return [_official_fold(samples)]
    row_of_sample, units = _units(samples if labelled else samples.assign(label=0), protocol)
    if labelled and units["label"].nunique() < 2:
        raise DataError(
            f"Protocol {protocol} cannot make {fold_count} folds: all samples have the label "
            f"{units['label'].iloc[0]}, and learning needs both. Prepare recordings of the other label too."
        )
    assigned = (
        units["database"].map(databases.index).to_numpy()
        if databases
        else _assign(units, protocol, fold_count, seed)
    )
    if len(np.unique(assigned)) < fold_count:  # the splitter may leave a fold empty when groups are few
        raise _too_few(units, protocol, fold_count)
    folds = []
    for number in range(fold_count):
        part = np.where(assigned == number, TEST, TRAIN).astype(np.int8)
        if protocol != "paper" and validation_share > 0:
            training = np.flatnonzero(part == TRAIN)
            held_out = _hold_out(units.iloc[training], protocol, validation_share, seed + 1 + number)
            part[training[held_out]] = VALIDATION
        fold = fold_from_parts(number, part[row_of_sample], protocol)
        fold = replace(fold, left_out=databases[number]) if databases else fold
        assert_separated(fold, samples, protocol)
        if labelled and samples["label"].iloc[fold.train].nunique() < 2:
            raise _too_few(units, protocol, fold_count)
        folds.append(fold)
    return folds


def _official_fold(samples: pd.DataFrame) -> Fold:
    """Return the fold that the source assigns."""
    assigned = samples["official_fold"] if "official_fold" in samples else pd.Series(0, samples.index)
    part = assigned.map({OFFICIAL_VALIDATION: VALIDATION, OFFICIAL_TEST: TEST}).fillna(TRAIN).astype(np.int8)
    if set(part) != {TRAIN, VALIDATION, TEST} or (assigned == 0).any():
        raise DataError(
            "These data have no official folds for train, validation (9) and test (10): "
            "use --protocol patient."
        )
    fold = fold_from_parts(0, part.to_numpy(), "official")
    assert_separated(fold, samples, "official")
    return fold


def _units(samples: pd.DataFrame, protocol: str) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """Return the unit that each sample belongs to (its row), and the units: label and group."""
    if protocol not in UNIT:
        raise DataError(f"There is no protocol {protocol!r}; choose one of {', '.join(UNIT)}.")
    if protocol in ("paper", "beat"):
        units = pd.DataFrame({"label": samples["label"].to_numpy(), "group": np.arange(len(samples))})
        return np.arange(len(samples)), units
    rows, names = pd.factorize(samples["recording"])
    first = samples.drop_duplicates("recording").set_index("recording").loc[names]
    group = first["session"] if UNIT[protocol] == "session" else first.index
    units = pd.DataFrame({"label": first["label"].to_numpy(), "group": np.asarray(group)})
    return rows, units.assign(database=first["database"].to_numpy()) if protocol == "database" else units


def _databases(samples: pd.DataFrame, fold_count: int) -> list[str]:
    """Return the names of the databases, sorted; refuse those that cannot be left out one by one."""
    unnamed = samples.loc[samples["database"] == "", "recording"].unique()
    if len(unnamed):
        raise DataError(
            f"Protocol database needs the database of each recording, and {len(unnamed)} name none "
            f"({', '.join(map(str, unnamed[:3]))}): fill in the column database of labels.csv."
        )
    names = sorted(samples["database"].unique())
    if len(names) < 2:
        raise DataError(
            f"Protocol database leaves one database out, and there is only {', '.join(names)}: prepare "
            "several, such as load_data.py --sets a b c d e f, or a column database in the labels.csv of "
            "your own cohort."
        )
    of_session = samples.groupby("session")["database"].unique()
    shared = of_session[of_session.str.len() > 1]
    if len(shared):
        raise DataError(
            f"Session {shared.index[0]} is in the databases {' and '.join(sorted(shared.iloc[0]))}, and "
            "protocol database cannot keep them apart: name it otherwise in each if these are several, "
            "else give its recordings one database."
        )
    if fold_count not in (0, len(names)):
        raise DataError(
            f"Protocol database has one fold a database, which makes {len(names)} ({', '.join(names)}), and "
            f"--fold-count is {fold_count}: leave it away."
        )
    for name in names:
        if samples["label"][samples["database"] != name].nunique() < 2:
            raise DataError(
                f"Without {name} there is one label only to learn from: prepare another database that has "
                "both, or choose --protocol session."
            )
    return names


def _assign(units: pd.DataFrame, protocol: str, count: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (0 to count - 1) of each unit; with few sessions a fold may be empty."""
    groups = units.groupby("label")["group"].nunique()
    if _most_folds(units) < count or (UNIT[protocol] != "session" and groups.min() < count):
        raise _too_few(units, protocol, count)
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # half a second

    grouped = UNIT[protocol] == "session"
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(count, shuffle=True, random_state=seed)
    assigned = np.zeros(len(units), dtype=np.int64)
    parts = split_quietly(splitter, units["label"].to_numpy(), units["group"] if grouped else None)
    for number, (_, chosen) in enumerate(parts):
        assigned[chosen] = number
    return assigned


def split_quietly(
    splitter: StratifiedGroupKFold | StratifiedKFold, labels: NDArray[np.integer], groups: ArrayLike | None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return train and test rows of each part, without the library's words on small classes.

    `one_sided` has ours. There are no parts where no class has a row for each.
    """
    if np.unique(labels, return_counts=True)[1].max() < splitter.get_n_splits():
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(labels, labels, groups))


def one_sided(samples: pd.DataFrame, folds: Sequence[Fold], protocol: str) -> str:
    """Return which folds have one label only in a part that is scored, or a label from one session only."""
    found = []
    for part in PARTS[1:]:
        rows = {fold.title: getattr(fold, part) for fold in folds if len(getattr(fold, part))}
        names = [name for name, here in rows.items() if samples["label"].iloc[here].nunique() < 2]
        found += [f"the {part} part of {', '.join(names)}"] if names else []
    if not found:
        return _from_one_session(samples, folds, protocol)
    if protocol == "database":
        return f"Note: there is one label only in {' and '.join(found)}, which has no AUROC."
    counts = samples.groupby("label")[UNIT[protocol]].nunique()
    which = ", ".join(f"{number} of label {label}" for label, number in counts.items())
    return (
        f"Note: there is one label only in {' and '.join(found)}, which has no AUROC, as there are {which} "
        f"({UNIT[protocol]}s): choose a smaller --fold-count, or prepare more data."
    )


def _from_one_session(samples: pd.DataFrame, folds: Sequence[Fold], protocol: str) -> str:
    """Return which folds have a class from one session only in the test part; empty if none has.

    Groups are kept whole, and the folds of a seed stay what they were: so it is said, and not mended.
    """
    if protocol != "session":
        return ""
    names: dict[int, list[str]] = {}
    for fold in folds:
        sessions = samples.iloc[fold.test].groupby("label")["session"].nunique()
        for label in sessions.index[sessions == 1]:
            names.setdefault(int(label), []).append(fold.name)
    parts = [f"all of label {label} in the test part of {', '.join(names[label])}" for label in sorted(names)]
    return (
        f"Note: {' and '.join(parts)} are of one session, so scores of that fold alone have no interval; "
        "evaluate all folds, or choose another --seed."
        if parts
        else ""
    )


def _too_few(units: pd.DataFrame, protocol: str, count: int) -> DataError:
    """Return the error of a table that cannot be split into so many folds."""
    groups = units.groupby("label")["group"].nunique()
    found = ", ".join(f"{number} of label {label}" for label, number in groups.items())
    fewer = "fewer folds with --fold-count, " if protocol != "database" else ""
    return DataError(
        f"Protocol {protocol} cannot make {count} folds: there are {found} ({UNIT[protocol]}s). "
        f"Choose {fewer}no validation part with --validation-share 0, or prepare more data."
    )


def _most_folds(units: pd.DataFrame) -> int:
    """Return into how many folds units can be split at most (the splitter needs one class to fill them)."""
    return int(min(units["group"].nunique(), units["label"].value_counts().max()))


def _hold_out(units: pd.DataFrame, protocol: str, share: float, seed: int) -> NDArray[np.int64]:
    """Return rows of ``units`` for validation.

    Of all candidates one with both classes, mixed most like the rest, and (under ``session``) of several
    sessions.
    """
    label = units["label"].to_numpy()
    smallest = units.groupby("label")["group"].nunique().min()
    available = _most_folds(units) if UNIT[protocol] == "session" else smallest
    count = max(2, round(min(1 / share, available)))
    assigned = _assign(units, protocol, count, seed)

    def unlikeness(number: int) -> tuple[bool, float]:
        inside = label[assigned == number]
        groups = units["group"].to_numpy()[assigned == number]
        return len(np.unique(inside)) < 2, abs(inside.mean() - label.mean()) + 1 / len(np.unique(groups))

    return np.flatnonzero(assigned == min(np.unique(assigned).tolist(), key=unlikeness))


def assert_separated(fold: Fold, samples: pd.DataFrame, protocol: str) -> None:
    """Assert that a fold keeps apart what its protocol promises.

    Raises
    ------
    LeakageError
        Naming what is in two parts.
    """
    learned = ("train", "validation") if protocol != "paper" else ("train",)
    apart = [(UNIT[protocol], one, "test") for one in learned] + [(UNIT[protocol], "train", "validation")]
    if protocol == "database":
        apart += [("database", one, "test") for one in learned]
    for unit, one, other in apart:
        names = samples[unit].to_numpy()
        shared = np.intersect1d(names[getattr(fold, one)], names[getattr(fold, other)])
        if len(shared):
            raise LeakageError(
                f"Fold {fold.number} of protocol {protocol} has {len(shared)} {unit}s in both "
                f"{one} and {other}, {shared[0]} among them."
            )


def splits_table(samples: pd.DataFrame, folds: Sequence[Fold]) -> pd.DataFrame:
    """Return which part each sample has in each fold, for ``splits.csv``."""
    columns = ("sample", "recording", "session", "person", "database", "label")
    table = samples[[name for name in columns if name in samples]].copy()
    names = np.array(PARTS)
    for fold in folds:
        table[fold.name] = names[fold.parts(len(samples))]
    return table
