"""Task ``ecg-cmr-contrast``: align the embeddings of the ECG and the cine of a patient.

Data     pairs: ``ecg`` (B, 12, T), ``cmr`` (B, frames, H, W); with --axis both also ``long_axis``
Model    two encoders, from ``--init-ecg`` and ``--init-cmr``, and a head each (`models.ecg_cmr.contrast`)
Loss     symmetric InfoNCE with a learned temperature; all heads are always trained. With both axes it is the
         sum of ECG to short axis and ECG to long axis (Ding et al., arXiv 2411.13602)
Scores   recall among the first 1, 5 and 10, both ways; the predictions are the embeddings
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from common.errors import UserError
from datasets.cache import Cache
from datasets.splits import Fold
from evaluation.statistics import Array
from learning.loop import FoldContext
from models.ecg_cmr.contrast import ContrastiveModel
from systems.ecg_cmr.samples import Pairs, check_columns, choose_columns, require_values
from systems.ecg_cmr.settings import KNOWN_TARGETS, ContrastSettings
from systems.ecg_cmr.stage import Stage, cmr_encoder, ecg_encoder, varied

_RANK = 10
_LOSSES = ("short_axis", "long_axis")


class EcgCmrContrast(Stage):
    """What is particular to pairs that are compared."""

    name = "ecg-cmr-contrast"
    settings_class = ContrastSettings
    settings: ContrastSettings
    needs = ("ecg", "cmr")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What is embedded, by the name that the samples have for it."""
        return ("ecg", "cmr", "long_axis") if self.settings.axis == "both" else ("ecg", "cmr")

    def samples(self, cache: Cache, device: torch.device) -> Pairs:
        """Return the pairs, with the columns that are inputs beside the ECG."""
        self.everything = super().samples(cache, device)
        return choose_columns(self.everything, self.settings.covariates, (KNOWN_TARGETS,))

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Take the encoders of the parents, and the statistics of the covariates from the training part."""
        super().initialize(model, run)
        assert isinstance(model, ContrastiveModel)
        if model.modulation is not None:
            check_columns(run.samples, self.everything)
            known = run.samples.targets["covariates"]
            known = known[run.train.to(known.device)]
            require_values(known, run.samples.names["covariates"], f"{run.label}: covariates")
            model.modulation.fit(known)

    def for_fold(self, samples: Pairs, fold: Fold) -> Pairs:
        """Return the samples; with ``--shuffle-pairs`` each training ECG beside another patient's cine."""
        return shuffled_pairs(samples, fold) if self.settings.shuffle_pairs else samples

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for inputs as `inputs` describes them."""
        settings = self.settings
        assert inputs is not None
        try:
            return ContrastiveModel(
                ecg_encoder(settings, inputs),
                cmr_encoder(settings, inputs),
                settings.dimension,
                settings.temperature,
                local=settings.local,
                long_axis_encoder=cmr_encoder(settings, inputs) if settings.axis == "both" else None,
                token_dropout=settings.token_dropout,
                freeze_cmr=settings.freeze_cmr,
                covariates=len(inputs["covariates"]) if settings.covariates else 0,
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of a batch of pairs, and their embeddings side by side.

        Those are (B, 2 * dimension), with both axes (B, 3 * dimension): NaN where a patient has no long axis.
        """
        augment = self.settings.augment and model.training
        signals = {name: varied(batch, name, augment) for name in self.modalities}
        there = batch["has_long_axis"] if "long_axis" in signals else None
        known = batch["covariates"] if batch["covariates"].shape[1] and self.settings.covariates else None
        found = model(
            **signals,
            lead_present=batch["lead_present"],
            has_long_axis=there,
            patient=batch["patient"],
            covariates=known,
        )
        embeddings = [found[f"{name}_embedding"].float() for name in self.modalities]
        if there is not None:
            embeddings[-1] = embeddings[-1].where(there[:, None], torch.nan)
        losses = {name: found[name] for name in ("loss", *_LOSSES, "temperature") if name in found}
        return losses, torch.cat(embeddings, dim=1)

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the recall of the CMR from the ECG among these patients, and its multiple of chance."""
        patient = samples.table["session"].to_numpy()[rows.numpy()]
        parts = predictions.numpy().astype(float).reshape(len(rows), len(self.modalities), -1)
        ecg, *images = parts.transpose(1, 0, 2)
        scores = {}
        for prefix, image in zip(("", "long_axis_"), images, strict=False):
            known = np.isfinite(image).all(axis=1)
            if known.any():
                recall = float((true_ranks(ecg[known], image[known], patient[known]) <= _RANK).mean())
                scores[f"{prefix}recall_at_10"] = recall
                scores[f"{prefix}times_chance"] = recall / min(1.0, _RANK / int(known.sum()))
        return scores

    def predicted(self, samples: Pairs) -> list[str]:
        """Return the names of the columns: the embeddings."""
        return [f"{name}_{number}" for name in self.modalities for number in range(self.settings.dimension)]


def shuffled_pairs(samples: Pairs, fold: Fold) -> Pairs:
    """Return the samples with each ECG that is learned from beside another patient's cine, of all axes."""
    rows = np.concatenate([fold.train, fold.validation])
    here, there = (torch.from_numpy(each) for each in (rows, np.roll(rows, len(rows) // 2)))
    cines: dict[str, Tensor] = {name: cines.clone() for name, cines in samples.cines().items()}
    has = {name: known.clone() if name in cines else known for name, known in samples.has.items()}
    for name, own in samples.cines().items():
        cines[name][here] = own[there]
        has[name][here] = samples.has[name][there]
    changed: dict[str, Any] = {"has": has, **cines}
    return dataclasses.replace(samples, **changed)


def true_ranks(queries: ArrayLike, gallery: ArrayLike, patient: ArrayLike | None = None) -> Array:
    """Rank of each query's partner among the gallery, 1 the best.

    Parameters
    ----------
    queries, gallery : array_like, shape (N, D)
        Embeddings of length one; row by row of one pair.
    patient : array_like, shape (N,), optional
        The best rank of any pair of the same patient counts.

    Returns
    -------
    ndarray, shape (N,)
        Of ties the worst rank counts, so that embeddings that are all alike find nothing.
    """
    similarity = np.asarray(queries, dtype=float) @ np.asarray(gallery, dtype=float).T
    names = np.arange(len(similarity)) if patient is None else np.asarray(patient)
    same = names[:, None] == names[None, :]
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((similarity >= best) & ~same).sum(axis=1).astype(float)
