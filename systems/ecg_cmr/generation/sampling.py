"""Cines generated from ECGs with a trained generator, and the baselines that they are compared with.

The baselines are fitted on the same training patients, and predict the same unseen ones: the mean training
cine, the cine of the training patient whose ECG is most similar, and regression from the ECG, of the
indicators and of the cine itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from learning.devices import choose_precision
from models.ecg_cmr.cine_generator import CineGenerator
from systems.ecg_cmr.generation.task import EncodedPairs

Bytes = NDArray[np.uint8]
_SEED_STRIDE = 100_003
"""Samples that one patient can have before its seeds meet those of the next."""
_PENALTIES = np.logspace(0, 6, 13)
"""Penalties of ridge regression to choose from, for standardized features."""
FEWEST = 10
"""Samples that a regression is fitted to at least."""


@dataclass(frozen=True)
class SamplingConfig:
    """How cines are generated.

    Attributes
    ----------
    steps, samples : int
        Predictions a cine; cines an ECG.
    guidance : float
        1: as trained.
    batch_size : int
        Cines generated together.
    seed : int
    precision : str
        Of the U-Net: auto (bfloat16 where the device computes it natively), float32 or bfloat16.
    """

    steps: int = 20
    samples: int = 8
    guidance: float = 1.0
    batch_size: int = 64
    seed: int = 0
    precision: str = "auto"


def _seeds(number: int, sampling: SamplingConfig) -> list[int]:
    """Return the seeds of the samples of a patient of this number."""
    return [(sampling.seed * 7919 + number) * _SEED_STRIDE + sample for sample in range(sampling.samples)]


def to_bytes(cines: Tensor) -> Bytes:
    """Return brightness from 0 to 1 as bytes."""
    return (cines * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def sample_cines(
    network: CineGenerator,
    condition: Tensor,
    numbers: Sequence[int],
    sampling: SamplingConfig,
    label: str = "",
) -> Bytes:
    """Generate several cines for each ECG.

    Parameters
    ----------
    network : CineGenerator
    condition : torch.Tensor, shape (N, tokens, width)
    numbers : sequence of int
        One a patient: the same number, ECG and seed give the same cines.
    sampling : SamplingConfig
    label : str
        Of the progress bar; empty: none.

    Returns
    -------
    numpy.ndarray of uint8, shape (N, samples, frames, H, W)
    """
    network.eval()
    precision = choose_precision(sampling.precision, condition.device)
    seeds = torch.tensor([seed for number in numbers for seed in _seeds(number, sampling)])
    rows = torch.arange(len(numbers)).repeat_interleave(sampling.samples)
    found = []
    chunks = torch.arange(len(rows)).split(sampling.batch_size)
    for chunk in tqdm(chunks, desc=label, unit="batch", leave=False, disable=not label):
        tokens = condition[rows[chunk].to(condition.device)]
        found.append(
            to_bytes(
                network.sample(tokens, seeds[chunk].tolist(), sampling.steps, sampling.guidance, precision)
            )
        )
    cines = np.concatenate(found)
    return cines.reshape(len(numbers), sampling.samples, *cines.shape[1:])


# Baselines ---------------------------------------------------------------------------------------------


def nearest_neighbours(condition: Tensor, train: Tensor, rows: Tensor) -> Tensor:
    """Return for each row the training row whose ECG is most similar: cosine of the mean tokens."""
    embedding = condition.mean(dim=1)
    embedding = functional.normalize(embedding - embedding[train].mean(dim=0), dim=1)
    return train[(embedding[rows] @ embedding[train].T).argmax(dim=1).cpu()]


def regressed_indicators(
    condition: Tensor, known: pd.DataFrame, train: NDArray[np.int64], rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Return indicators predicted by linear regression from the tokens of the ECG.

    Parameters
    ----------
    condition : torch.Tensor, shape (N, tokens, width)
    known : pandas.DataFrame
        Indicators of the training rows, NaN where not known.
    train, rows : numpy.ndarray of int64
        To learn from, in the order of ``known``, and to predict.
    """
    features = condition.flatten(1).double().cpu().numpy()
    found = predict_each(features[train], known.to_numpy(float), features[rows])
    return pd.DataFrame(found, columns=known.columns)


def regressed_cines(
    network: CineGenerator, samples: EncodedPairs, train: NDArray[np.int64], rows: NDArray[np.int64]
) -> Bytes:
    """Return cines decoded from latents that linear regression from the tokens of the ECG predicts."""
    features = samples.condition.flatten(1).double().cpu().numpy()
    latents = samples.data[torch.from_numpy(train)].flatten(1).double().cpu().numpy()
    found = fit_ridge(features[train], latents).predict(features[rows])
    data = torch.from_numpy(found).to(samples.data).unflatten(1, network.shape)
    return to_bytes(network.cines_of(data))


def fit_ridge(features: ArrayLike, targets: ArrayLike) -> Pipeline:
    """Fit ridge regression; the penalty is the best of `_PENALTIES` by generalized cross-validation.

    Parameters
    ----------
    features : array_like, shape (N, F)
    targets : array_like, shape (N,) or (N, K)
        All known.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Its ``predict`` maps (M, F) to (M,) or (M, K).

    Raises
    ------
    ValueError
        If there are too few samples.
    """
    known = np.asarray(targets, np.float64)
    if len(known) < FEWEST:
        raise ValueError(f"{len(known)} samples are too few for a regression; {FEWEST} are needed.")
    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    return model.fit(np.asarray(features, np.float64), known)


def predict_each(features: NDArray[np.float64], targets: NDArray[np.float64], others: ArrayLike) -> NDArray:
    """Return each column of targets (N, K; NaN where not known) as its own regression predicts it, (M, K).

    A column that is known of too few is predicted as its mean.
    """
    found = []
    for column in targets.T:
        known = np.isfinite(column)
        if known.sum() >= FEWEST:
            found.append(fit_ridge(features[known], column[known]).predict(np.asarray(others, np.float64)))
        else:
            mean = column[known].mean() if known.any() else np.nan
            found.append(np.full(len(np.asarray(others)), mean))
    return np.stack(found, axis=1)
