"""Age, sex, height, weight and other covariates of whoever was recorded, given one by one or in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.identity import alike, identity
from datasets.patients import (
    PLAUSIBLE,
    PatientTable,
    clinical_number,
    plausible_values,
    read_patients,
)
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError, Problem
from systems.base.predictor import RecordingPath
from systems.ecg_cmr.settings import COVARIATES
from systems.ecg_cmr.sources.pairs import role_of
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
            text += f": {', '.join(self.columns)} count as not known."
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


def read_others(words: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Return covariates that are given as NAME=VALUE.

    Parameters
    ----------
    words : sequence of str
    known : sequence of str
        Covariates of the model.

    Raises
    ------
    DataError
        If a word is none such, or its name no covariate of the model.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DataError(f"--covariates takes NAME=VALUE, as in bmi=27.4, and {word!r} is none.")
        if name not in known:
            others = f"it has {', '.join(known)}" if known else "it has none"
            raise DataError(f"--covariates {name}: the model has no such input; {others}.")
        try:
            number = clinical_number(value, name == "sex")
        except ValueError as error:
            raise DataError(f"--covariates {name}: {error}.") from None
        if not math.isnan(number):
            found[name] = number
    return found


def read_people(
    given: Mapping[str, float | str | None], table: Path | None, covariates: Sequence[str] = COVARIATES
) -> People:
    """Check what is given of one person, and read the table of several.

    Parameters
    ----------
    given : mapping of str to float, str or None
        Age in years, sex as male or female, height in cm, weight in kg, others in units of their own; None
        where not known.
    table : pathlib.Path, optional
        ``.csv`` or ``.xlsx`` with a column patient and any of the covariates.
    covariates : sequence of str
        Those of the model.

    Raises
    ------
    DataError
        If a value is not possible, or the table cannot be read or has none of the columns.
    """
    numbers = {name: _SEX[value] if isinstance(value, str) else value for name, value in given.items()}
    known = {name: float(value) for name, value in numbers.items() if value is not None}
    for name, value in known.items():
        low, high, unit = PLAUSIBLE.get(name, (-math.inf, math.inf, ""))
        if not low <= value <= high:
            raise DataError(f"--{name} {value:g} is not possible: {low:g} to {high:g} {unit} is.")
    if table is None:
        return People(known)
    if not table.is_file():
        raise DataError(f"There is no table {table}: --patients names a .csv or .xlsx.")
    problems: list[Problem] = []
    found = read_patients(table, problems)
    columns = _columns(found.columns, covariates)
    if not columns:
        raise DataError(f"{table} has none of the columns {', '.join(covariates)}.")
    return People(known, found, columns, problems)


def _columns(names: list[str], covariates: Sequence[str]) -> dict[str, str]:
    """Return by covariate the first column that holds it."""
    columns: dict[str, str] = {}
    for column in names:
        name = role_of(column)
        if name in (covariates or COVARIATES):
            columns.setdefault(name, column)
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
