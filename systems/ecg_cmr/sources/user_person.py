"""Age, sex, height and weight of whoever was recorded, given one by one or in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.identity import alike, identity
from datasets.patients import (
    PLAUSIBLE,
    SYNONYMS,
    PatientTable,
    plausible_values,
    read_patients,
)
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError, Problem
from systems.base.predictor import RecordingPath
from systems.ecg_cmr.sources.pairs import COVARIATES
from systems.ecg_cmr.sources.user_ecg import name_of

_SEX = {"male": 0.0, "female": 1.0}


@dataclass(frozen=True)
class People:
    """What is known of those who were recorded.

    Attributes
    ----------
    given : dict of str to float
        Of everybody.
    table : PatientTable, optional
        What it says of several.
    columns : dict of str to str
        By covariate the column of the table.
    problems : list of Problem
        What is wrong with the table.
    """

    given: dict[str, float] = field(default_factory=dict)
    table: PatientTable | None = None
    columns: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def of(self, path: RecordingPath) -> tuple[dict[str, float], list[SignalWarning]]:
        """Return what is known of who was recorded there, and what is doubtful about it."""
        if self.table is None:
            return dict(self.given), []
        names = [identity(name_of(path.path.name))]
        if "/" in path.name:  # a name without folder may have a number, being the second of its kind
            names.insert(0, identity(path.name))
        texts = [problem.what for problem in self.problems if problem.where in (self.table.name, *names)]
        name = next((name for name in names if name in self.table.rows), None)
        if name is None:
            text = f"{self.table.name} has no usable row for {names[-1]}" if texts else ""
            text = text or f"{self.table.name} has no row for {self._hint(names[-1])}"
            text += ": age, sex, height and weight count as not known."
            warnings = [SignalWarning("person", "", each) for each in texts]
            return dict(self.given), [SignalWarning("no-row", "", text), *warnings]
        known, problems = _numbers(name, self.table, self.columns)
        texts += [problem.what for problem in problems]
        return self.given | known, [SignalWarning("person", "", each) for each in texts]

    def _hint(self, name: str) -> str:
        """Return a name, and the one of the table that may be meant."""
        listed = self.table.listed if self.table else set()
        close = [other for other in sorted(listed) if alike([name, other])]
        return f"{name} (but for {close[0]})" if close else name


def read_people(given: Mapping[str, float | str | None], table: Path | None) -> People:
    """Check what is given of one person, and read the table of several.

    Parameters
    ----------
    given : mapping of str to float, str or None
        Age in years, sex as male or female, height in cm, weight in kg; None where not known.
    table : pathlib.Path, optional
        ``.csv`` or ``.xlsx`` with a column patient and any of the four.

    Raises
    ------
    DataError
        If a value is not possible, or the table cannot be read or has none of the columns.
    """
    numbers = {name: _SEX[value] if isinstance(value, str) else value for name, value in given.items()}
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    for name, value in known.items():
        low, high, unit = PLAUSIBLE[name]
        if not low <= value <= high:
            raise DataError(f"--{name} {value:g} is not possible: {low:g} to {high:g} {unit} is.")
    if table is None:
        return People(known)
    if not table.is_file():
        raise DataError(f"There is no table {table}: --patients names a .csv or .xlsx.")
    problems: list[Problem] = []
    found = read_patients(table, problems)
    columns = _columns(found.columns)
    if not columns:
        raise DataError(f"{table} has none of the columns {', '.join(COVARIATES)}.")
    return People(known, found, columns, problems)


def _columns(names: list[str]) -> dict[str, str]:
    """Return by covariate the first column that holds it."""
    usual = {synonym: name for name in COVARIATES for synonym in SYNONYMS[name]}
    columns: dict[str, str] = {}
    for column in names:
        plain = re.sub(r"[\s-]+", "_", re.sub(r"[(\[].*?[)\]]", "", column).strip()).casefold()
        if plain in usual:
            columns.setdefault(usual[plain], column)
    return columns


def _numbers(
    where: str, table: PatientTable, columns: Mapping[str, str]
) -> tuple[dict[str, float], list[Problem]]:
    """Return the values that are known and possible, and what is wrong with the others."""
    problems, values = list[Problem](), {}
    for name, column in columns.items():
        try:
            values[name] = table.number(where, column, name == "sex")
        except ValueError as error:
            what = f"The {name} {error} ({table.name}); it counts as missing."
            problems.append(Problem(where, what, "Correct the cell.", left_out=False))
    kept = plausible_values(values, where, problems)
    return {name: value for name, value in kept.items() if not math.isnan(value)}, problems
