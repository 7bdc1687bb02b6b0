"""Index PTB-XL: 12-lead ECGs of ten seconds with age, sex, height, weight and diagnostic statements.

Source: Wagner et al., Sci. Data 7 (2020) 154; physionet.org/content/ptb-xl/1.0.3 (CC BY 4.0).

Rules
-----
- A record has the superclass of each of its statements that has one, with any likelihood. The likelihood
  is no filter: statements of rhythm and form carry 0, and 15 to 80 are uncertain statements, not absent ones.
- NORM alone is normal (0); any other superclass without NORM is abnormal (1).
- No superclass: left out. Nothing says what such a record is.
- NORM together with another: contradictory for normal against abnormal, and left out unless ``mixed`` is
  "abnormal"; for the five superclasses as separate labels such a record is as good as any.
- Rhythm: the statements of rhythm, several at once.
- Of three classes normal is NORM alone with no rhythm but SR, borderline is any other record with NORM, and
  abnormal is one without.
- An age of 300 stands for "over 89", and counts as 90.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from pathlib import Path
from typing import Literal

import pandas as pd

from datasets.ecg import LEADS
from datasets.identity import identity
from datasets.patients import (
    KEPT_TOGETHER,
    PATIENT_COLUMNS,
    SUPERCLASSES,
    TARGET,
    UNLABELLED,
    PatientIndex,
    by_patient,
    index_tables,
    persons,
    plausible_values,
    require_some,
)
from datasets.sources import DataError, Problem
from datasets.tables import REREAD, read_frame

DATABASE = "ptbxl_database.csv"
_STATEMENTS_TABLE = "scp_statements.csv"
CLINICAL = ("age", "sex", "height", "weight")
_FOUND_BY = ("ecg_id", *CLINICAL, "filename_lr", "filename_hr")
COLUMNS = (*_FOUND_BY, "patient_id", "scp_codes", "strat_fold")
FILES = {100: "filename_lr", 500: "filename_hr"}
"""Column that names the record at each rate, hertz."""
_OVER_89, _COUNTS_AS = 300.0, 90.0
NO_SUPERCLASS = "It has no diagnostic superclass: neither normal nor abnormal."
CONTRADICTORY = "It is normal (NORM) and has another superclass: contradictory."


def index_ptbxl(
    root: Path,
    rate: Literal[100, 500] = 100,
    mixed: Literal["leave-out", "abnormal"] = "leave-out",
    *,
    labelled: bool = True,
) -> PatientIndex:
    """Index the records of PTB-XL, or of a part of it in the same layout.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds ``ptbxl_database.csv``, ``scp_statements.csv`` and ``records100`` or ``records500``.
    rate : {100, 500}
        Sampling rate requested, hertz. Where a record is there at the other rate only, that is taken.
    mixed : {"leave-out", "abnormal"}
        What a record with NORM and another superclass is.
    labelled : bool
        Whether a label is needed; else diagnoses are not read.

    Returns
    -------
    PatientIndex
        Every record with a label whose file is there.

    Raises
    ------
    DataError
        If a table is absent, lacks a column, or nothing can be used.
    """
    if rate not in FILES or mixed not in ("leave-out", "abnormal"):
        raise ValueError(f"rate is {rate} (100 or 500), mixed {mixed!r} (leave-out or abnormal).")
    classes, rhythms = _statements(root) if labelled else ({}, set[str]())
    database = _read(root, DATABASE, COLUMNS if labelled else _FOUND_BY)
    rows: list[dict[str, object]] = []
    clinical: dict[str, dict[str, float]] = {}
    problems: list[Problem] = []
    fallback: Counter[int] = Counter()
    for record in _unique(database.to_dict("records"), problems):
        stated = _diagnosis(record, classes, mixed, problems) if labelled else ([], UNLABELLED)
        if stated is None:
            continue
        header, other = _header(root, record, rate)
        if not header:
            what = f"Its file {record[FILES[rate]]!r} is absent."
            problems.append(Problem(record["ecg_id"], what, "Fetch the record from PhysioNet."))
            continue
        fallback[other] += 1
        metadata = (
            _metadata(record, problems) if labelled else {"person": record["ecg_id"], "official_fold": 0}
        )
        rows.append(_row(record, *stated, header) | _targets(record, stated[0], rhythms) | metadata)
        clinical[record["ecg_id"]] = _clinical(record, problems)
    require_some(rows, problems, root)
    together = persons((str(row["person"]) for row in rows), KEPT_TOGETHER, problems)
    rows = [row | {"person": together.get(str(row["person"]), row["person"])} for row in rows]
    notes = _notes(database, fallback, rate)
    table, values = index_tables(PATIENT_COLUMNS, rows, clinical, list(CLINICAL))
    choices = {"rate": str(rate), "mixed": mixed} | (REREAD if together else {})
    files = [DATABASE, _STATEMENTS_TABLE]
    units = {"ptbxl": "person"}
    return PatientIndex(
        "ptbxl",
        root,
        table,
        notes + problems,
        units,
        files,
        choices,
        values,
        LEADS,
        drawn=True,
        warnings={"clinical": by_patient(problem for problem in problems if not problem.left_out)},
    )


def _read(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a table as text, with at least these columns."""
    if not (root / name).is_file():
        raise DataError(
            f"There is no {name} in {root}: name the folder of PTB-XL (physionet.org/content/ptb-xl)."
        )
    try:
        return read_frame(root / name, columns)
    except DataError as error:
        raise DataError(f"{error} Fetch the file again.") from None


def _statements(root: Path) -> tuple[dict[str, str], set[str]]:
    """Return the superclass of each statement that has one, and the statements of rhythm."""
    table = _read(root, _STATEMENTS_TABLE, ("diagnostic_class",))
    statements = next((cells for _, cells in table.items() if "NORM" in set(cells)), table.iloc[:, 0])
    pairs = zip(statements, table["diagnostic_class"], strict=True)
    rhythm = table["rhythm"] if "rhythm" in table else [""] * len(table)
    rhythms = {name for name, cell in zip(statements, rhythm, strict=True) if cell and float(cell)}
    return {statement: name for statement, name in pairs if name in SUPERCLASSES}, rhythms


def _unique(records: list[dict[str, str]], problems: list[Problem]) -> list[dict[str, str]]:
    """Return the records whose number occurs once, by that number."""
    records = [record | {"ecg_id": identity(record["ecg_id"])} for record in records]
    counts = Counter(record["ecg_id"] for record in records)
    for name, count in counts.items():
        if count > 1:
            what = f"The ecg_id occurs {count} times in {DATABASE}."
            problems.append(Problem(name, what, "Keep one row; until then the record is left out."))
    return [record for record in records if counts[record["ecg_id"]] == 1]


def _diagnosis(
    record: dict[str, str], classes: dict[str, str], mixed: str, problems: list[Problem]
) -> tuple[list[str], int] | None:
    """Return superclasses and label of a record; None for one that is left out."""
    found = _superclasses(record, classes, problems)
    label = None if found is None else _label(record, found, mixed, problems)
    return None if found is None or label is None else (found, label)


def _superclasses(
    record: dict[str, str], classes: dict[str, str], problems: list[Problem]
) -> list[str] | None:
    """Return the superclasses of a record in their usual order; None where its statements are no table."""
    try:
        statements = ast.literal_eval(record["scp_codes"])
        found = {classes[name] for name in dict(statements) if name in classes}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        what = f"Its scp_codes {record['scp_codes'][:40]!r} cannot be read."
        problems.append(Problem(record["ecg_id"], what, f"Fetch {DATABASE} again."))
        return None
    return [name for name in SUPERCLASSES if name in found]


def _label(record: dict[str, str], found: list[str], mixed: str, problems: list[Problem]) -> int | None:
    """Return 0 or 1 by the rules above; None for a record that is left out."""
    if not found:
        problems.append(Problem(record["ecg_id"], NO_SUPERCLASS, "Nothing: a rule of this project."))
        return None
    if found == ["NORM"]:
        return 0
    if "NORM" in found and mixed == "leave-out":
        problems.append(Problem(record["ecg_id"], CONTRADICTORY, "Keep it with mixed set to abnormal."))
        return None
    return 1


def _header(root: Path, record: dict[str, str], rate: int) -> tuple[str, int]:
    """Return the header of a record, and the rate it is found at; empty where its file is absent."""
    for found in sorted(FILES, key=lambda other: other != rate):
        name = record[FILES[found]] + ".hea"
        path = root / name
        if record[FILES[found]] and path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return name, found
    return "", 0


def _metadata(record: dict[str, str], problems: list[Problem]) -> dict[str, object]:
    """Return whose a record is, and in which official fold."""
    name = record["ecg_id"]
    person, fold = identity(record["patient_id"]), _number(record["strat_fold"])
    if not person:
        what = f"Its patient_id {record['patient_id']!r} is no number; it counts as a patient of its own."
        problems.append(Problem(name, what, f"Fetch {DATABASE} again.", left_out=False))
    if fold not in range(1, 11):
        what = f"Its strat_fold {record['strat_fold']!r} is not 1 to 10; it is in no official fold."
        problems.append(Problem(name, what, f"Fetch {DATABASE} again.", left_out=False))
        fold = 0
    return {"person": person or f"record {name}", "official_fold": int(fold)}


def _row(record: dict[str, str], found: list[str], label: int, header: str) -> dict[str, object]:
    """Return the index row of one record, without whose it is."""
    return {
        "recording": record["ecg_id"],
        "label": label,
        "diagnosis": "+".join(found),
        "signal": header,
        "image": "",
        **{superclass: int(superclass in found) for superclass in SUPERCLASSES},
        "superclasses": len(found),
    }


def _targets(record: dict[str, str], found: list[str], rhythms: set[str]) -> dict[str, str]:
    """Return what can be learned of a record beside its superclasses; empty of one without diagnoses."""
    stated = sorted(set(ast.literal_eval(record["scp_codes"])) & rhythms) if found else []
    usual = "normal" if found == ["NORM"] and set(stated) <= {"SR"} else "borderline"
    three = (usual if "NORM" in found else "abnormal") if found else ""
    return {TARGET + "rhythm": "+".join(stated), TARGET + "three_classes": three}


def _clinical(record: dict[str, str], problems: list[Problem]) -> dict[str, float]:
    """Return the clinical values of one record."""
    values = {name: _number(record[name]) for name in CLINICAL}
    for name, value in values.items():
        if record[name] and math.isnan(value):
            what = f"The {name} {record[name]!r} is no number; it counts as missing."
            problems.append(Problem(record["ecg_id"], what, f"Correct {DATABASE}.", left_out=False))
    if values["age"] == _OVER_89:
        values["age"] = _COUNTS_AS
    return plausible_values(values, record["ecg_id"], problems)


def _number(text: str) -> float:
    """Return a number, NaN for what is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _notes(database: pd.DataFrame, found_at: Counter[int], rate: int) -> list[Problem]:
    """Return what holds for many records at once."""
    notes = []
    old = sum(_number(age) == _OVER_89 for age in database["age"])
    if old:
        what = f"{old} ages are coded 300, which stands for over 89; they count as 90."
        notes.append(Problem(DATABASE, what, "Nothing.", left_out=False))
    other = sum(count for found, count in found_at.items() if found != rate)
    if other:
        what = f"{other} records are not there at {rate} Hz; they are read at the other rate and resampled."
        remedy = f"Fetch records{rate} from PhysioNet, if you want the files resampled by its authors."
        notes.append(Problem(f"records{rate}", what, remedy, left_out=False))
    return notes
