"""Task ``ecg-phenotypes``: indicators of function and diseases from an ECG, or from the cine itself.

Data     ``ecg`` (B, 12, T) or ``cmr`` (B, frames, H, W); indicators in their units, diseases 0 or 1, classes
         by number, NaN where not known; the columns that ``--covariates`` names
Model    an encoder, from scratch or from ``--init-ecg`` or ``--init-cmr``, covariates by FiLM, a head a kind
Loss     mean squared error of z-scores, binary cross-entropy and cross-entropy, over what is known
Scores   Pearson's r an indicator, AUROC a disease, accuracy of the classes
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from common.errors import UserError
from datasets.cache import Cache
from datasets.splits import Fold
from evaluation.scores import macro_auroc
from learning.loop import FoldContext, unwrap
from models.ecg_cmr.phenotypes import PhenotypeModel
from models.ecg_cmr.transformer import TokenEncoder
from systems.ecg_cmr.phenotypes.conformal import measure_errors
from systems.ecg_cmr.phenotypes.layer_decay import layer_decay_groups
from systems.ecg_cmr.samples import CLASSES, Pairs, check_columns, choose_columns, read_pairs, require_values
from systems.ecg_cmr.settings import NO_COLUMN, PhenotypeSettings
from systems.ecg_cmr.stage import Stage, cmr_encoder, ecg_encoder, varied

TRUE = "true_"
"""Begins the names of the columns of predictions that hold the truth."""
IS = "="
"""Between a target of classes and one of its classes, in the name of the column of its probability."""
_TARGETS = ("indicators", "diseases", CLASSES)


class EcgPhenotypes(Stage):
    """What is particular to indicators and diseases."""

    name = "ecg-phenotypes"
    settings_class = PhenotypeSettings
    settings: PhenotypeSettings
    needs = ()

    def __init__(self, settings: PhenotypeSettings | None = None) -> None:
        super().__init__(settings)
        self.everything: Pairs | None = None

    def samples(self, cache: Cache, device: torch.device) -> Pairs:
        """Return the patients who have what is read, with the columns that the settings choose."""
        self.everything = read_pairs(cache, self.reads(), device)
        return choose_columns(self.everything, self.settings.covariates, self.settings.targets)

    def with_inputs(self, samples: Pairs, inputs: Mapping[str, Any]) -> Pairs:
        """Return the patients with the columns of a network, also those that the settings do not choose."""
        return (samples if self.everything is None else self.everything).with_inputs(inputs)

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
        labels = inputs.get(CLASSES, {})
        if not inputs["indicators"] and not inputs["diseases"] and not labels:
            raise UserError(
                "These data name no indicator, disease or class that is known: there is nothing to learn. "
                "Name columns with --targets."
            )
        encoder = (ecg_encoder if settings.reads == "ecg" else cmr_encoder)(settings, inputs)
        try:
            return PhenotypeModel(
                encoder,
                len(inputs["indicators"]),
                len(inputs["diseases"]),
                len(inputs["covariates"]) if NO_COLUMN not in settings.covariates else 0,
                token_dropout=settings.token_dropout,
                freeze_encoder=settings.freeze_encoder,
                classes=[len(each) for each in labels.values()],
                balance=settings.class_balance,
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Take the encoder of the parent, and mean and deviation of the targets from the training part."""
        super().initialize(model, run)
        assert isinstance(model, PhenotypeModel)
        if self.everything is not None:
            left = check_columns(run.samples, self.everything)
            if left and run.processes.leads:
                print(left, flush=True)
            self.everything = None  # said once, and no longer needed
        targets = {name: values[run.train.to(values.device)] for name, values in run.samples.targets.items()}
        for group in ("indicators", "covariates") if model.covariates else ("indicators",):
            require_values(targets[group], run.samples.names[group], f"{run.label}: {group}")
        model.fit_targets(
            targets["indicators"] if targets["indicators"].shape[1] else None,
            targets["covariates"] if model.covariates else None,
        )
        if model.balance:
            model.fit_weights(targets["diseases"], targets[CLASSES])

    def encoder_of(self, model: nn.Module, modality: str) -> TokenEncoder | None:
        """Return the encoder, if that is what it reads."""
        assert isinstance(model, PhenotypeModel)
        return model.encoder if modality == self.settings.reads else None

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
        indicators, diseases, classes = (batch[name] if name in outputs else None for name in _TARGETS)
        losses = network.losses(outputs, indicators, diseases, classes)
        outputs = {name: values.detach() for name, values in outputs.items()}
        found = [network.in_units(outputs["indicators"])] if "indicators" in outputs else []
        return losses, torch.cat([*found, *network.probabilities(outputs).values()], dim=1)

    def score(self, samples: Pairs, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return mean r over indicators, AUROC over diseases and accuracy over classes, where known."""
        truth = {name: values.cpu().numpy()[rows.numpy()] for name, values in samples.targets.items()}
        parts = split_predictions(predictions.numpy(), samples)
        found = [
            correlation(truth["indicators"][:, k], parts["indicators"][:, k])
            for k in range(len(samples.names["indicators"]))
        ]
        scores = {"r": float(np.nanmean(found))} if np.isfinite(found).any() else {}
        areas = []
        for label, probability in zip(truth["diseases"].T, parts["diseases"].T, strict=True):
            known = np.isfinite(label)
            if known.any():
                areas.append(macro_auroc(label[known, None], probability[known, None]))
        if np.isfinite(areas).any():
            scores["auroc"] = float(np.nanmean(areas))
        right = [
            (part.argmax(axis=1) == label)[np.isfinite(label)].mean()
            for part, label in zip(parts[CLASSES], truth.get(CLASSES, np.empty((0, 0))).T, strict=True)
            if np.isfinite(label).any()
        ]
        return scores | ({"accuracy": float(np.mean(right))} if right else {})

    def extras(self, model: nn.Module, run: FoldContext) -> dict[str, Any]:
        """Return the errors of the model on the validation part, for the intervals of one patient."""
        assert isinstance(model, PhenotypeModel)
        parts = (run.train, run.validation)
        return {"validation": measure_errors(model, run.samples, *parts, reads=self.settings.reads)}

    def predicted(self, samples: Pairs) -> list[str]:
        """Return the names of the indicators and diseases, and of each class."""
        return [*samples.names["indicators"], *samples.names["diseases"], *class_columns(samples.labels)]

    def predictions(self, samples: Pairs, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return who was predicted, each target predicted, and beside it what is true."""
        table = super().predictions(samples, rows, probability)
        truth = {
            TRUE + name: column.cpu().double().numpy()[rows]
            for name, column in samples.columns().items()
            if name not in samples.names["covariates"]
        }
        for name, labels in samples.labels.items():
            numbers = truth[TRUE + name]
            truth[TRUE + name] = np.array([labels[int(k)] if np.isfinite(k) else "" for k in numbers])
        return pd.concat([table, pd.DataFrame(truth)], axis=1)


def class_columns(labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of the columns that hold the probabilities of classes, target by target."""
    return [f"{name}{IS}{label}" for name, each in labels.items() for label in each]


def split_predictions(values: np.ndarray, samples: Pairs) -> dict[str, Any]:
    """Return predictions (N, columns) as ``indicators``, ``diseases``, and ``classes``: a part a target."""
    first, second = len(samples.names["indicators"]), len(samples.names["diseases"])
    indicators, diseases, rest = np.split(values, [first, first + second], axis=1)
    ends = np.cumsum([len(labels) for labels in samples.labels.values()])
    return {
        "indicators": indicators,
        "diseases": diseases,
        CLASSES: np.split(rest, ends[:-1], axis=1) if len(ends) else [],
    }


def correlation(truth: np.ndarray, found: np.ndarray) -> float:
    """Return Pearson's r where the truth is known; NaN where it is undefined."""
    known = np.isfinite(truth)
    if known.sum() < 3:
        return float("nan")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(np.corrcoef(truth[known], found[known])[0, 1])
