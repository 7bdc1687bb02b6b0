"""Task ``ecg-multimodal``: a patient's ECG image, ECG signal and clinical table, or any of them.

Data     patients of a cache made by load_data.py ecg-multimodal: ``image`` (B, 1, H, W), ``signal``
         (B, leads, T), ``clinical`` (B, features), and which of them each patient has
Model    a branch a modality and a gate a patient (`models.ecg_multimodal.network`), with absence tokens
Loss     cross-entropy, all classes counting the same if they exclude each other; beside it each branch's own,
         and if requested gradients of the modality that is ahead are damped
Target   normal or abnormal, or the classes of ``--target``: several at once, or one of them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from common.errors import UserError
from datasets.cache import Cache
from datasets.patients import SUPERCLASSES
from datasets.splits import Fold
from evaluation.calibration import log_odds
from evaluation.figures import confusion_figure, roc_figure
from evaluation.scores import macro_auroc
from learning.distributed import Processes
from learning.loop import FoldContext, class_weights, unwrap
from models.ecg_multimodal.network import MultimodalNetwork
from systems.base.parents import describe_parent
from systems.base.task import BINARY_CARRIED, BinaryTask
from systems.ecg_multimodal.augmentation import vary_signals
from systems.ecg_multimodal.branch_starts import (
    check_starts,
    frozen_parts,
    parent_files,
    start_branches,
    starts,
    starts_from_imagenet,
)
from systems.ecg_multimodal.explain import explain_patient
from systems.ecg_multimodal.modality_balance import (
    branch_confidences,
    branch_losses,
    drop_modalities,
    modulate_gradients,
    modulation_coefficients,
    row_losses,
)
from systems.ecg_multimodal.samples import Patients, read_patients
from systems.ecg_multimodal.settings import MultimodalTrainingSettings

Batch = dict[str, Tensor]
_DAMPED = "damped_"
"""Begins the names, in the losses, of what the gradient of a modality is multiplied by."""


class EcgMultimodal(BinaryTask):
    """What is particular to patients with up to three modalities."""

    name = "ecg-multimodal"
    settings_class = MultimodalTrainingSettings
    settings: MultimodalTrainingSettings

    def samples(self, cache: Cache, device: torch.device) -> Patients:
        """Return the patients of a cache that have a label and one of the modalities the network reads."""
        return read_patients(cache, self.settings.target, self.settings.model.views, device)

    def for_fold(self, samples: Patients, fold: Fold) -> Patients:
        """Return the samples with the class weights of the fold's training part; of several at once none."""
        if not self.settings.optimization.class_weights or (samples.classes and not samples.exclusive):
            return samples
        if not samples.classes:
            return samples.weighted(class_weights(samples.label, fold.train))
        counts = samples.label[torch.from_numpy(fold.train).to(samples.label.device)].sum(dim=0)
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
        return samples.weighted(weights[samples.label.argmax(dim=1)])

    def inputs(self, samples: Patients) -> dict[str, Any]:
        """Return sizes of the modalities, clinical columns, and how pictures are read, in plain types."""
        return samples.describe_views() | {"imagenet": starts_from_imagenet(self.settings.model)}

    def with_inputs(self, samples: Patients, inputs: Mapping[str, Any]) -> Patients:
        """Return the samples of a cache with the clinical values that a network was trained with."""
        return samples.with_inputs(inputs)

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the network for inputs as `inputs` describes them."""
        if inputs is None:
            raise ValueError("The size of this network depends on its inputs: give them.")
        settings, model = self.settings, self.settings.model
        check_starts(model)
        if model.modulation_noise and not model.modulation:
            raise UserError("--modulation-noise goes with --modulation: give its strength, such as 0.3.")
        try:
            return MultimodalNetwork(
                classes=len(class_names(settings, inputs)) or 1,
                exclusive=inputs.get("exclusive", False),
                leads=inputs["leads"],
                clinical_features=len(inputs["clinical"]),
                modalities=model.views,
                fusion=model.fusion,
                width=model.width,
                dropout=model.dropout,
                image_size=tuple(inputs["image_size"]),
                imagenet=inputs.get("imagenet", False),  # which earlier checkpoints do not have
                frozen=frozen_parts(model),
            )
        except ValueError as error:
            raise UserError(str(error)) from None

    def describe_parents(self, fold: int) -> list[dict[str, Any]]:
        """Return what a checkpoint stores of the runs that its branches started from."""
        return [describe_parent(name, file) for name, file in parent_files(self.settings.model, fold).items()]

    def initialize(self, model: nn.Module, run: FoldContext) -> None:
        """Fit the scalers on the training part; load image weights, and branches of the runs before."""
        network, samples = as_network(model), run.samples
        rows = run.train.to(samples.label.device)
        fitted = {name: samples.views[name][rows[samples.has[name][rows]]] for name in ("signal", "clinical")}
        try:
            network.fit(**{name: values for name, values in fitted.items() if name in network.modalities})
            if self.settings.model.image_weights is not None:
                branch: Any = network.branches["image"]
                branch.load_weights(self.settings.model.image_weights)
        except ValueError as error:
            raise UserError(f"{run.label}: {error}") from None
        if any(path is not None for path in starts(self.settings.model).values()):
            start_branches(network, self.settings, run)

    def step(self, model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return losses and probabilities of a batch, (B,) or (B, classes); NaN for who has no modality."""
        network = as_network(model)
        views = network.modalities
        known = torch.stack([batch[f"has_{name}"] for name in views]).any(dim=0)
        part = {name: value[known] for name, value in batch.items()}
        has = {name: part[f"has_{name}"] for name in views}
        if model.training and "signal" in views:
            part["signal"] = vary_signals(part["signal"], self.settings.augmentation)
        if model.training and self.settings.model.modality_dropout:
            has = drop_modalities(has, self.settings.model.modality_dropout)
        given = {name: part[name] for name in views} | {f"has_{name}": mask for name, mask in has.items()}
        logits, branches, gates = model(**given, with_branches=True)
        known_of = (part["label"], part["weight"], has)
        losses = self.losses(logits.float(), branches, *known_of, exclusive=network.exclusive)
        if self.settings.model.fusion == "gate" and len(views) > 1:
            losses |= {f"gate_{name}": gate for name, gate in zip(views, gates.mean(dim=0), strict=True)}
        probability = torch.full((len(known), logits.shape[1]), torch.nan, device=logits.device)
        probability[known] = network.probabilities(logits.detach())
        return losses, probability.squeeze(1)

    def losses(
        self,
        logits: Tensor,
        branches: Mapping[str, Tensor],
        label: Tensor,
        weight: Tensor,
        has: Mapping[str, Tensor],
        *,
        exclusive: bool,
    ) -> dict[str, Tensor]:
        """Return the loss, its parts, and what gradients are to be multiplied by."""
        each = row_losses(logits, label, exclusive)
        of_branches = branch_losses(branches, label, has, weight, exclusive)
        losses = {"fused": (each * weight).mean()} | {f"branch_{n}": loss for n, loss in of_branches.items()}
        # times 0 too, so that every weight has a gradient
        losses["loss"] = losses["fused"] + self.settings.model.branch_loss * sum(of_branches.values())
        if self.settings.model.modulation:
            ahead = modulation_coefficients(
                branch_confidences(branches, label, has, exclusive), self.settings.model.modulation
            )
            losses |= {_DAMPED + name: logits.new_tensor(value) for name, value in ahead.items()}
        return losses

    def after_backward(self, model: nn.Module, losses: Mapping[str, Tensor], processes: Processes) -> None:
        """Damp the gradients of the modality that is ahead, and add noise, if the settings say so."""
        network, settings = as_network(model), self.settings.model
        if not settings.modulation:
            return
        factors = processes.mean(torch.stack([losses[_DAMPED + name] for name in network.modalities]))
        generator = None
        if settings.modulation_noise:  # gradients are the same in all processes, and must stay so
            drawn = int(torch.randint(2**31, ()))  # waits for the device: no, as it is drawn on the CPU
            generator = torch.Generator(factors.device).manual_seed(processes.share(drawn))
        damping = factors.tolist()  # waits for the device: with --modulation
        modulate_gradients(
            dict(network.branches.items()),
            dict(zip(network.modalities, damping, strict=True)),
            noise=settings.modulation_noise,
            generator=generator,
        )

    def score(self, samples: Patients, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        """Return the scores for the curves: those of two classes, or the mean AUROC of several."""
        if predictions.ndim == 1:
            return super().score(samples, rows, predictions)
        label = samples.label.cpu().numpy()[rows.numpy()]
        return {"auroc": macro_auroc(label, predictions.numpy())}

    def threshold(self, samples: Patients, rows: Tensor, predictions: Tensor) -> float:
        """Return the best threshold of two classes on validation patients; of several classes 0.5."""
        return super().threshold(samples, rows, predictions) if predictions.ndim == 1 else 0.5

    def without(self, samples: Patients, modality: str) -> Patients:
        """Return the samples without one modality."""
        model = self.settings.model
        if modality not in model.views:
            raise UserError(f"This network reads {', '.join(model.views)}: {modality} cannot be hidden.")
        if not model.modality_dropout:
            raise UserError(
                "This network was trained with all views and cannot do without one: "
                "train it with --modality-dropout 0.3."
            )
        return samples.without(modality)

    def predictions(self, samples: Patients, rows: np.ndarray, probability: Tensor) -> pd.DataFrame:
        """Return the table of predictions, one row a recording; who has no modality is left out."""
        table = samples.table.iloc[rows].reset_index(drop=True)
        if probability.ndim == 1:
            made = table[list(BINARY_CARRIED)].assign(probability=probability.numpy().astype(np.float64))
            return made[made["probability"].notna()].reset_index(drop=True)
        columns = [name for name in BINARY_CARRIED if name != "label"]
        truth = dict(zip(samples.classes, samples.label.cpu().numpy()[rows].T, strict=True))
        found = {f"probability_{name}": probability[:, k].numpy() for k, name in enumerate(samples.classes)}
        predicted = ~probability.isnan().any(dim=1).numpy()
        return table[columns].assign(**truth, **found)[predicted].reset_index(drop=True)

    def figures(
        self, model: nn.Module, samples: Patients, rows: Tensor, probability: Tensor
    ) -> dict[str, Figure]:
        """Return figures of the test part for TensorBoard: ROC and confusion, of two classes."""
        if probability.ndim > 1:
            return {}
        settings = self.settings
        table = self.predictions(samples, rows.numpy(), probability).assign(threshold=0.5)
        figures = {
            "test/roc": roc_figure(table, unit="recordings", protocol=settings.protocol),
            "test/confusion": confusion_figure(
                table, threshold=0.5, unit="recordings", protocol=settings.protocol
            ),
        }
        if settings.model.modality_dropout or len(settings.model.views) == 1:
            median = int(rows[int(torch.argsort(probability)[len(rows) // 2])])
            learned = np.setdiff1d(np.arange(len(samples)), rows.numpy())
            share = float(samples.table["label"].iloc[learned].mean())
            empty = 0.0 if settings.optimization.class_weights else float(log_odds(share))
            figures["test/patient"] = explain_patient(as_network(model), samples, median, empty=empty)
        return figures


def class_names(settings: MultimodalTrainingSettings, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes that a network has a logit for each; none of normal and abnormal."""
    # earlier checkpoints do not have them
    return tuple(inputs.get("classes", SUPERCLASSES if settings.target == "superclasses" else ()))


def as_network(model: nn.Module) -> MultimodalNetwork:
    """Return the network itself, without what wraps it for several processes."""
    network = unwrap(model)
    assert isinstance(network, MultimodalNetwork)
    return network
