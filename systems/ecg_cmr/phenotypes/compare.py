"""Two runs of ``ecg-phenotypes`` side by side, on the recordings that both were tested on.

An indicator is compared by r, a disease by AUROC, a target of classes by the AUROC of each class against the
others. Runs may have several seeds; the score is then the mean over the seeds, as in `evaluation.comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from common.command_line import counted
from common.errors import UserError
from evaluation.comparison import correlation_test, delong_test
from evaluation.statistics import Array, Statistic, holm, paired_cluster_bootstrap, weighted_auroc
from evaluation.tables import Caption, text_table
from systems.ecg_cmr.phenotypes.evaluate import STATISTICS
from systems.ecg_cmr.phenotypes.task import IS, TRUE
from systems.ecg_cmr.sources.pairs import CLASS, DISEASE

_SEED = "seed "
_CAPTION = Caption(
    heads={"p_bootstrap": "p (bootstrap)", "first": "first", "second": "second", "test": "test"}
)
_FOOT = (
    "The interval and p (bootstrap) draw whole patients, the same for both. p is of DeLong's test (AUROC)\n"
    "or of the Fisher z of two correlations with one truth (r, Meng et al. 1992); both take patients as\n"
    "independent, so with several recordings of a patient, or several seeds, p is that of the bootstrap.\n"
    "p (Holm) is corrected over all rows."
)


@dataclass(frozen=True)
class _Target:
    """What is compared: its name, its score, and by run the truth (0 or 1 of a class) and predictions."""

    name: str
    score: str
    truth: tuple[pd.Series, pd.Series]
    predicted: tuple[list[pd.Series], list[pd.Series]]


def compare(
    first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame], names: tuple[str, str], draws: int
) -> tuple[pd.DataFrame, str]:
    """Compare the predictions of two runs.

    Parameters
    ----------
    first, second : sequence of pandas.DataFrame
        ``predictions.csv`` of each seed.
    names : tuple of str
        Of the runs.
    draws : int
        Of the bootstrap.

    Returns
    -------
    table : pandas.DataFrame
        One row a target.
    text : str
        The same, for a reader.

    Raises
    ------
    UserError
        If they have no recording or no target in common, or the same recording has another true value.
    """
    runs = [[table.set_index("recording") for table in tables] for tables in (first, second)]
    everyone = [set(table.index) for tables in runs for table in tables]
    shared = sorted(set.intersection(*everyone))
    if not shared:
        raise UserError("The two runs have no recording in common: were they tested on the same data?")
    left_out = len(set.union(*everyone)) - len(shared)
    one, two = ([table.loc[shared] for table in tables] for tables in runs)
    patient = one[0]["session"]
    rows = [_compared(target, patient, draws) for target in _targets(one, two)]
    if not rows:
        raise UserError("The two runs have no indicator, disease or class in common.")
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    lines = [
        f"first: {names[0]} · second: {names[1]}",
        f"{counted(len(shared), 'recording')} of {counted(patient.nunique(), 'patient')} in both"
        + (f", {left_out} in one only and left out" if left_out else "")
        + f" · seeds {len(one)} and {len(two)}",
        "",
        text_table(table, _CAPTION),
        "",
        _FOOT,
    ]
    return table, "\n".join(lines)


def _targets(one: list[pd.DataFrame], two: list[pd.DataFrame]) -> list[_Target]:
    """Return the targets that both runs predict."""
    found = []
    for column in (name for name in one[0] if str(name).startswith(TRUE) and name in two[0]):
        name = str(column).removeprefix(TRUE)
        truth = (one[0][column], two[0][column])
        _refuse_disagreement(name, *truth)
        kinds = {name: ("AUROC" if name.startswith(DISEASE) else "r", truth)}
        if name.startswith(CLASS):
            parts = [part for part in one[0] if str(part).startswith(f"{name}{IS}") and part in two[0]]
            kinds = {str(part): ("AUROC", _one_class(truth, str(part))) for part in parts}
        for part, (score, values) in kinds.items():
            predicted = ([table[part] for table in one], [table[part] for table in two])
            found.append(_Target(part, score, values, predicted))
    return found


def _refuse_disagreement(name: str, first: pd.Series, second: pd.Series) -> None:
    """Refuse true values that differ between the runs by more than the digits that are written."""
    if pd.api.types.is_numeric_dtype(first) and pd.api.types.is_numeric_dtype(second):
        same = np.isclose(first, second, rtol=1e-4, atol=1e-9, equal_nan=True)
    else:
        same = (first.fillna("") == second.fillna("")).to_numpy()
    if not same.all():
        raise UserError(
            f"The true {name} of {first.index[~same][0]} differs between the two runs: they were evaluated "
            "on different data."
        )


def _one_class(truth: tuple[pd.Series, pd.Series], column: str) -> tuple[pd.Series, pd.Series]:
    """Return 1 for the class of a column and 0 for the others, NaN where it is not known."""
    label = column.partition(IS)[2]

    def found(values: pd.Series) -> pd.Series:
        same = values == (float(label) if pd.api.types.is_numeric_dtype(values) else label)
        return same.astype(float).where(values.notna())

    return found(truth[0]), found(truth[1])


def _compared(target: _Target, patient: pd.Series, draws: int) -> dict[str, Any]:
    """Return one row of the comparison."""
    known = target.truth[0].notna()
    one, two = (
        pd.DataFrame(
            {
                "patient": patient[known],
                "label" if target.score == "AUROC" else "truth": target.truth[0][known],
            }
            | {f"{_SEED}{number}": values[known] for number, values in enumerate(predicted)}
        ).reset_index()
        for predicted in target.predicted
    )
    row: dict[str, Any] = {"target": target.name, "score": target.score, "patients": one["patient"].nunique()}
    empty = dict.fromkeys(("first", "second", "difference", "low", "high", "p_bootstrap", "p"), np.nan)
    if len(one) < 3 or (target.score == "AUROC" and one["label"].nunique() < 2):
        reason = f"too few are known of {target.name}, or of one kind only"
        return row | empty | {"test": "", "reason": reason}
    statistic = _mean_over_seeds(target.score)
    once = np.ones((1, len(one)))
    kinds = (f"patients without {target.name}", f"patients with {target.name}")
    found = paired_cluster_bootstrap(one, two, statistic, "patient", draws=draws, classes=kinds)
    row |= {name: float(statistic(table, once)[0]) for name, table in {"first": one, "second": two}.items()}
    row |= {"difference": found.estimate, "low": found.low, "high": found.high}
    p_value, test = _tested(one, two, target.score) if not found.reason else (np.nan, "")
    if np.isnan(p_value):
        p_value, test = found.p_value, "bootstrap" if np.isfinite(found.p_value) else ""
    row |= {"p_bootstrap": found.p_value, "p": p_value, "test": test}
    return row | {"reason": found.reason}


def _mean_over_seeds(score: str) -> Statistic:
    """Return the statistic of a table with a column of predictions a seed."""

    def mean(units: pd.DataFrame, weights: Array) -> Array:
        columns = [name for name in units if str(name).startswith(_SEED)]
        return np.mean([_score(units, name, weights) for name in columns], axis=0)

    def _score(units: pd.DataFrame, name: str, weights: Array) -> Array:
        if score == "AUROC":
            return weighted_auroc(units["label"], units[name], weights)
        return STATISTICS["r"](units.assign(predicted=units[name]), weights)

    return mean


def _tested(one: pd.DataFrame, two: pd.DataFrame, score: str) -> tuple[float, str]:
    """Return the p-value of a test of independent patients, and its name; NaN where they are not such."""
    several = any(f"{_SEED}1" in table for table in (one, two))
    if several or one["patient"].duplicated().any():
        return np.nan, ""
    first, second = one[f"{_SEED}0"], two[f"{_SEED}0"]
    if score == "AUROC":
        return delong_test(one["label"], first, second).p_value, "DeLong"
    return correlation_test(one["truth"], first, second)[1], "Fisher z"
