"""SamplingConfig cines from ECGs with a trained generator, and what they are held against.

The baselines know the same training patients, and are asked for the same unseen ones: the mean training cine,
the cine of the training patient whose ECG is most alike, and regression from the ECG, of the indicators and
of the cine itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from learning.devices import choose_precision
from models.ecg_cmr.cine_generator import CineGenerator
from systems.ecg_cmr.generation.ridge import fit_ridge, predict_each
from systems.ecg_cmr.generation.task import EncodedPairs

Bytes = NDArray[np.uint8]
SEED_STRIDE = 100_003
"""Samples that one patient can have before its seeds meet those of the next."""


@dataclass(frozen=True)
class SamplingConfig:
    """How cines are drawn.

    Attributes
    ----------
    steps, samples : int
        Predictions a cine; cines an ECG.
    guidance : float
        1: as learned.
    batch_size : int
        Cines drawn together.
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


def seeds_of(number: int, how: SamplingConfig) -> list[int]:
    """Return the seeds of the samples of a patient of this number."""
    return [(how.seed * 7919 + number) * SEED_STRIDE + sample for sample in range(how.samples)]


def to_bytes(cines: Tensor) -> Bytes:
    """Return brightness from 0 to 1 as bytes."""
    return (cines * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def sample_cines(
    network: CineGenerator, condition: Tensor, numbers: Sequence[int], how: SamplingConfig, label: str = ""
) -> Bytes:
    """Draw several cines for each ECG.

    Parameters
    ----------
    network : CineGenerator
    condition : torch.Tensor, shape (N, tokens, width)
    numbers : sequence of int
        One a patient: the same number, ECG and seed give the same cines.
    how : SamplingConfig
    label : str
        Of the progress bar; empty: none.

    Returns
    -------
    numpy.ndarray of uint8, shape (N, samples, frames, H, W)
    """
    network.eval()
    precision = choose_precision(how.precision, condition.device)
    seeds = torch.tensor([seed for number in numbers for seed in seeds_of(number, how)])
    rows = torch.arange(len(numbers)).repeat_interleave(how.samples)
    found = []
    chunks = torch.arange(len(rows)).split(how.batch_size)
    for chunk in tqdm(chunks, desc=label, unit="batch", leave=False, disable=not label):
        tokens = condition[rows[chunk].to(condition.device)]
        found.append(
            to_bytes(network.sample(tokens, seeds[chunk].tolist(), how.steps, how.guidance, precision))
        )
    cines = np.concatenate(found)
    return cines.reshape(len(numbers), how.samples, *cines.shape[1:])


# Baselines ---------------------------------------------------------------------------------------------


def nearest_neighbours(condition: Tensor, train: Tensor, rows: Tensor) -> Tensor:
    """Return for each row the training row whose ECG is most alike: cosine of the mean tokens."""
    embedding = condition.mean(dim=1)
    embedding = functional.normalize(embedding - embedding[train].mean(dim=0), dim=1)
    return train[(embedding[rows] @ embedding[train].T).argmax(dim=1).cpu()]


def regressed_indicators(
    condition: Tensor, known: pd.DataFrame, train: NDArray[np.int64], rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Return indicators as linear regression from the tokens of the ECG predicts them.

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
    """Return cines, decoded from latents as linear regression from the tokens of the ECG predicts them."""
    features = samples.condition.flatten(1).double().cpu().numpy()
    latents = samples.data[torch.from_numpy(train)].flatten(1).double().cpu().numpy()
    found = fit_ridge(features[train], latents).predict(features[rows])
    data = torch.from_numpy(found).to(samples.data).unflatten(1, network.shape)
    return to_bytes(network.cines_of(data))
