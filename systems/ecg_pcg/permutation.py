"""Whether an AUROC is better than chance, by labels permuted among persons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from evaluation.scores import one_label_a_person
from evaluation.weighted import Array


@dataclass(frozen=True)
class Permutation:
    """An AUROC beside those of permuted labels."""

    estimate: float
    """With the labels as they are."""
    null_mean: float
    """Mean over permutations."""
    null_deviation: float
    """Standard deviation over permutations."""
    p_value: float
    """Share of permutations with an AUROC at least as high, the labels as they are counted as one of them."""
    permutations: int
    """Permutations made."""
    persons: int
    """Persons whose labels were permuted."""


def permutation_test(recordings: pd.DataFrame, *, permutations: int = 2000, seed: int = 0) -> Permutation:
    """Test an AUROC per recording against chance by permuting the labels among persons.

    All recordings of a person get the same label, as they have in truth. The scores stay as they are: the
    test asks whether they go with the labels, not what a model trained on permuted labels would reach.
    It takes persons as exchangeable; where sessions differ, only intervals over sessions allow for it.

    Parameters
    ----------
    recordings : pandas.DataFrame
        One row a recording: ``person``, ``label``, ``probability``. A person with recordings of both
        labels counts as two.
    permutations : int
        Number of permutations; all there are, where these are fewer.
    seed : int
        Seed of the permutations.

    Returns
    -------
    Permutation

    Raises
    ------
    ValueError
        Where a person is not known, or there is only one class.
    """
    if recordings["person"].isna().any() or (recordings["person"] == "").any():
        raise ValueError("Labels are permuted among persons, and not every recording names one.")
    if recordings["label"].nunique() < 2:
        raise ValueError("There is one class only: nothing to test against chance.")
    codes, names = pd.factorize(one_label_a_person(recordings)["person"])
    first = np.unique(codes, return_index=True)[1]
    ranks = stats.rankdata(recordings["probability"])

    def auroc(labels: Array, axis: int = -1) -> Array:
        positive = np.moveaxis(labels, axis, -1)[..., codes]
        count = positive.sum(axis=-1)
        return (positive @ ranks - count * (count + 1) / 2) / (count * (len(ranks) - count))

    of_person = recordings["label"].to_numpy()[first].astype(float)
    test = stats.permutation_test(
        (of_person,),
        auroc,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        alternative="greater",
        rng=seed,
    )
    null = test.null_distribution
    return Permutation(
        estimate=float(test.statistic),
        null_mean=float(null.mean()),
        null_deviation=float(null.std(ddof=1)),
        p_value=float(test.pvalue),
        permutations=len(null),
        persons=len(names),
    )
