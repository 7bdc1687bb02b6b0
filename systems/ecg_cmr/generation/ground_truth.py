"""What a run of ecg-to-cmr is judged with: its network, its patients, and what is true of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from common.errors import UserError
from datasets.splits import Fold, assert_separated, fold_from_parts
from models.ecg_cmr.cine_generator import CineGenerator
from systems.base.evaluation_run import EvaluationRun
from systems.ecg_cmr.cine.measures import MEASURED, measure_cines
from systems.ecg_cmr.evaluate import Tables
from systems.ecg_cmr.generation.sampling import Bytes, SamplingConfig
from systems.ecg_cmr.generation.task import EncodedPairs, encoded_pairs
from systems.ecg_cmr.samples import Pairs

CHOSEN_BY = "ejection_fraction"
"""Indicator by which runs are chosen and patients are shown."""


@dataclass(frozen=True)
class Court:
    """All that one run is judged with.

    Attributes
    ----------
    run : EvaluationRun
    samples : EncodedPairs
    network : CineGenerator
    fold : Fold
        Its test part cut to the patients who are judged.
    spacing : float
        Millimetres a pixel.
    how : SamplingConfig
        As asked for; the guidance is still to be chosen where it is 0.
    """

    run: EvaluationRun
    samples: EncodedPairs
    network: CineGenerator
    fold: Fold
    spacing: float
    how: SamplingConfig

    def true(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the true cines of some rows, 0 to 1."""
        return cines_of(self.samples, rows)

    def measure(self, cines: NDArray[Any]) -> pd.DataFrame:
        """Measure cines (N, frames, H, W), bytes or 0 to 1."""
        scale = 255 if cines.dtype == np.uint8 else 1
        return measure_cines((cine.astype(np.float32) / scale for cine in cines), self.spacing)


def open_court(run: EvaluationRun) -> Court:
    """Open the run of one fold, encode its patients, and choose who is judged."""
    if run.external or len(run.checkpoints) != 1:
        raise UserError(
            "A run of ecg-to-cmr is judged one fold at a time, on the cache that it was trained from: name "
            "a checkpoint, as in --checkpoint checkpoints/<run>/fold_0/best.pt."
        )
    content, settings = run.checkpoints[0], run.settings
    samples, network = run.samples, run.model(content)
    assert isinstance(network, CineGenerator)
    fold = fold_from_parts(content["fold"], content["parts"].numpy(), content["protocol"])
    assert_separated(fold, samples.table, content["protocol"])
    order = np.random.default_rng(0).permutation(len(fold.test))[: settings.patients]
    fold = Fold(fold.number, fold.train, fold.validation, fold.test[np.sort(order)])
    rows = torch.from_numpy(np.concatenate([fold.train, fold.validation, fold.test]))
    how = SamplingConfig(settings.steps, settings.samples, settings.guidance, settings.batch_size)
    spacing = float(run.cache.manifest["settings"]["pixel_spacing"])
    return Court(run, encoded_pairs(samples, network, rows), network, fold, spacing, how)


def cines_of(samples: Pairs, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return cines of some rows, 0 to 1."""
    cines = samples.cmr[torch.from_numpy(rows).to(samples.cmr.device)].cpu().numpy()
    return np.asarray(cines / (255 if cines.dtype == np.uint8 else 1), np.float32)


def truth_of(samples: Pairs, rows: NDArray[np.int64], court: Court | None = None) -> pd.DataFrame:
    """Return the stated indicators among `MEASURED`; with a court, one not stated as measured instead."""
    names = samples.names["indicators"]
    stated = {name: samples.targets["indicators"][:, names.index(name)] for name in MEASURED if name in names}
    table = pd.DataFrame({name: values.cpu().numpy()[rows] for name, values in stated.items()})
    if court is None or (len(stated) == len(MEASURED) and table.notna().all().all()):
        return table.reindex(columns=list(MEASURED))
    return table.reindex(columns=list(MEASURED)).combine_first(court.measure(court.true(rows)))[
        list(MEASURED)
    ]


def measure_all(court: Court, drawn: Bytes) -> list[pd.DataFrame]:
    """Return what is measured in each sample (N, samples, ...) of all patients, a table a sample."""
    return [court.measure(drawn[:, sample]) for sample in range(drawn.shape[1])]


def mean_of_tables(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean of tables of one shape, over those that are known."""
    values = np.stack([table.to_numpy(float) for table in tables])
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    count = known.sum(axis=0)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return pd.DataFrame(mean, columns=tables[0].columns)


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the mean of each column where nothing could be measured."""
    return table.fillna(table.mean())


def print_tables(tables: Tables) -> None:
    """Print the tables."""
    for name, table in tables.items():
        print(f"\n{name}\n{table.to_string(index=False, float_format='{:.3f}'.format)}")
    print()
