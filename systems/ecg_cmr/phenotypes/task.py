"""Task ``ecg-phenotypes``: indicators of function and diseases from an ECG, or from the cine itself.

Data     ``ecg`` (B, 12, T) or ``cmr`` (B, frames, H, W); indicators in their units, diseases 0 or 1, NaN
         where not known; age, sex, height and weight as covariates
Model    an encoder, from scratch or from ``--init-ecg`` or ``--init-cmr``, covariates by FiLM, two heads
Loss     mean squared error of z-scores and binary cross-entropy, over what is known
Scores   Pearson's r an indicator, AUROC a disease
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.errors import UserError
from datasets.splits import Fold
from evaluation.scores import macro_auroc
from learning.distributed import unwrap
from learning.loop import FoldContext
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.transformer import TokenEncoder
from systems.ecg_cmr.phenotypes.conformal import measure_errors
from systems.ecg_cmr.phenotypes.layer_decay import layer_decay_groups
from systems.ecg_cmr.samples import Pairs
from systems.ecg_cmr.settings import PhenotypeSettings
from systems.ecg_cmr.stage import Stage, cmr_encoder, ecg_encoder, varied

TRUE = "true_"
"""Begins the names of the columns of predictions that hold the truth."""


class EcgPhenotypes(Stage):
    """What is particular to indicators and diseases."""

    name = "ecg-phenotypes"
    settings_class = PhenotypeSettings
    settings: PhenotypeSettings
    needs = ()

    def reads(self) -> tuple[str, ...]:
        """Return what a patient must have: what the encoder reads."""
        return (self.settings.reads,)

    def limited(self, samples: Pairs, fold: Fold) -> Fold:
        """Return the fold with that share of its training patients whose labels are known."""
        settings = self.settings
        if not 0 < settings.label_fraction <= 1:
            raise UserError(
                f"--label-fraction must be above 0 and at most 1, and is {settings.label_fraction}."
            )
        patients = np.unique(samples.table["session"].to_numpy()[fold.train])
        order = np.random.default_rng(settings.seed).permutation(len(patients))
        kept = patients[order[: max(2, round(settings.label_fraction * len(patients)))]]
        rows = fold.train[np.isin(samples.table["session"].to_numpy()[fold.train], kept)]
        return dataclasses.replace(fold, train=rows)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the model for inputs as `inputs` describes them."""
        settings = self.settings
        assert inputs is not None
        if not inputs["indicators"] and not inputs["diseases"]:
            raise UserError("These data name neither indicators nor diseases: there is nothing to learn.")
        encoder = (ecg_encoder if settings.reads == "ecg" else cmr_encoder)(settings, inputs)
        try:
            return PhenotypeModel(
                encoder,
                len(inputs["indicators"]),
                len(inputs["diseases"]),
                len(inputs["covariates"]) if settings.covariates else 0,
                token_dropout=settings.token_dropout,
                freeze_encoder=settings.freeze_encoder,
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Take the encoder of the parent, and mean and deviation of the targets from the training part."""
        super().initialize(model, run)
        assert isinstance(model, PhenotypeModel)
        targets = {name: values[run.train.to(values.device)] for name, values in run.samples.targets.items()}
        covariates = targets["covariates"] if self.settings.covariates else None
        indicators = targets["indicators"] if targets["indicators"].shape[1] else None
        try:
            model.fit_targets(indicators, covariates if covariates is None or covariates.shape[1] else None)
        except ValueError as error:
            raise UserError(f"{run.label}: {error}") from None

    def encoder_of(self, model: nn.Module, kind: str) -> TokenEncoder | None:
        """Return the encoder, if that is what it reads."""
        assert isinstance(model, PhenotypeModel)
        return model.encoder if kind == self.settings.reads else None

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]] | None:
        """Return the parameters with a learning rate that falls from the heads to the patches."""
        if not self.parents() or self.settings.freeze_encoder:
            return None
        optimization = self.settings.optimization
        return layer_decay_groups(
            model,
            optimization.learning_rate,
            decay=self.settings.layer_decay,
            weight_decay=optimization.weight_decay,
        )

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses of a batch, and its indicators in their units and probabilities of diseases."""
        network = unwrap(model)
        assert isinstance(network, PhenotypeModel)
        signal = varied(batch, self.settings.reads, self.settings.augment and model.training)
        given = (signal, batch["lead_present"] if self.settings.reads == "ecg" else None)
        outputs = model(*given, batch["covariates"] if network.covariates else None)
        indicators, diseases = (
            batch[name] if name in outputs else None for name in ("indicators", "diseases")
        )
        losses = network.losses(outputs, indicators, diseases)
        found = [network.in_units(outputs["indicators"].detach())] if "indicators" in outputs else []
        found += [outputs["diseases"].detach().float().sigmoid()] if "diseases" in outputs else []
        return losses, torch.cat(found, dim=1)

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the mean correlation over indicators and the mean AUROC over diseases, of what is known."""
        count = samples.targets["indicators"].shape[1]
        truth = samples.targets["indicators"].cpu().numpy()[rows.numpy()]
        found = [correlation(truth[:, k], predictions[:, k].numpy()) for k in range(count)]
        scores = {"r": float(np.nanmean(found))} if np.isfinite(found).any() else {}
        diseases = samples.targets["diseases"].cpu().numpy()[rows.numpy()]
        if diseases.shape[1] and not np.isnan(diseases).any():
            scores["auroc"] = macro_auroc(diseases, predictions[:, count:].numpy())
        return scores

    def extras(self, model: nn.Module, run: FoldContext) -> dict[str, Any]:
        """Return the errors of the model on the validation part, for the intervals of one patient."""
        assert isinstance(model, PhenotypeModel)
        parts = (run.train, run.validation)
        return {"validation": measure_errors(model, run.samples, *parts, reads=self.settings.reads)}

    def predicted(self, samples: Pairs) -> list[str]:
        """Return the names of the indicators and diseases."""
        return [*samples.names["indicators"], *samples.names["diseases"]]

    def predictions(self, samples: Pairs, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return who was predicted, each indicator and disease predicted, and beside it what is true."""
        table = super().predictions(samples, rows, probability)
        truth = torch.cat([samples.targets[kind] for kind in ("indicators", "diseases")], dim=1)
        names = [TRUE + name for name in self.predicted(samples)]
        return pd.concat([table, pd.DataFrame(truth.cpu().double().numpy()[rows], columns=names)], axis=1)


def correlation(truth: np.ndarray, found: np.ndarray) -> float:
    """Return Pearson's r where the truth is known; NaN where it is undefined."""
    known = np.isfinite(truth)
    if known.sum() < 3:
        return float("nan")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(np.corrcoef(truth[known], found[known])[0, 1])
