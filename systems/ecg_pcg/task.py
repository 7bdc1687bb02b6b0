"""Task ``ecg-pcg``: one beat of ECG and heart sound, normal or abnormal.

Data     beats of a cache made by load_data.py, ``ecg`` and ``pcg`` (B, 1, points), ``label`` (B,)
Model    ``--model``, by default PACFNet; ``--modality-dropout`` lets it take either signal alone
Loss     cross-entropy, weighted so that both classes count the same
Scores   accuracy, AUROC, sensitivity, specificity a beat, for the curves; evaluation/ has the rest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.command_line import counted
from common.errors import UserError
from datasets.cache import Cache
from datasets.signal_quality import NAMES
from datasets.signals import shorten_beats
from datasets.splits import Fold
from learning.devices import choose_precision
from learning.loop import Samples, class_weights, unwrap
from models import MODELS, TAKES_ABSENCE, Takes, build_model, takes
from models.layers.blocks import MODALITIES
from models.layers.layout import start_he_normal
from models.pacfnet import PACFNet
from systems.base.task import BinaryTask
from systems.ecg_pcg.cycle_shape.task import EcgPcgCycleShape
from systems.ecg_pcg.linear.task import EcgPcgLinear
from systems.ecg_pcg.phase_fusion.task import EcgPcgPhaseFusion
from systems.ecg_pcg.settings import ModelSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH = ("ecg", "pcg", "label", "weight", "has_ecg", "has_pcg")
_LEAST_WRONG = 1e-12
"""Least probability of the other class in focal loss: a root has no gradient at zero."""
_SHORTEST_BFLOAT16 = 250
"""Points of a beat from which bfloat16 gradients on a CPU were found right (torch 2.13)."""


@dataclasses.dataclass(frozen=True)
class Beats(Samples):
    """All beats of a cache, on a device.

    Attributes
    ----------
    table : pandas.DataFrame
        The cache's ``samples.csv``: one row a beat.
    ecg, pcg : torch.Tensor, shape (N, 1, points)
        Zeros where a recording lacks the signal.
    label, weight : torch.Tensor, shape (N,)
        Class, and its weight in the loss.
    has_ecg, has_pcg : torch.Tensor of bool, shape (N,)
        Whether the recording has the signal. Models with absence tokens read it; others get the zeros.
    modality_dropout : float
        Chance that training hides one signal of a beat that has both.
    zeroed : {"none", "ecg", "pcg"}
        Signal that is zeros and absent in every batch, whatever is stored.
    """

    ecg: Tensor
    pcg: Tensor
    label: Tensor
    weight: Tensor
    has_ecg: Tensor
    has_pcg: Tensor
    modality_dropout: float = 0.0
    zeroed: str = "none"

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the beats of these rows: the tensors above, and ``hide`` (B,), the modality dropout."""
        here = rows.to(self.label.device)
        batch = {name: getattr(self, name)[here] for name in _BATCH}
        if self.zeroed != "none":
            for name in (self.zeroed, f"has_{self.zeroed}"):
                batch[name] = torch.zeros_like(batch[name])
        return batch | {"hide": self.modality_dropout * (batch["has_ecg"] & batch["has_pcg"])}

    def without(self, modality: str) -> Beats:
        """Return the same beats without their ``ecg`` or ``pcg``, as if it had not been recorded."""
        signal, has = getattr(self, modality), getattr(self, f"has_{modality}")
        absent: dict[str, Any] = {
            modality: torch.zeros_like(signal),
            f"has_{modality}": torch.zeros_like(has),
        }
        return dataclasses.replace(self, **absent)

    def weighted(self, rows: np.ndarray) -> Beats:
        """Return the same beats with class weights n / (2 n_class), counted on these rows only."""
        return dataclasses.replace(self, weight=class_weights(self.label, rows))


class EcgPcg(BinaryTask):
    """What is particular to beats: samples, network, loss, figures."""

    name = "ecg-pcg"
    settings_class = TrainingSettings
    settings: TrainingSettings
    sample_unit = "beat"

    @classmethod
    def create(cls, settings: TrainingSettings) -> BinaryTask:
        """Return the task for the model of the settings: a network of beats, or of whole recordings."""
        if settings.model.model == "linear":
            return EcgPcgLinear(settings)
        if settings.model.model == "phase-fusion":
            return EcgPcgPhaseFusion(settings)
        if settings.model.model == "cycle-shape":
            return EcgPcgCycleShape(settings)
        return cls(settings)

    def samples(self, cache: Cache, device: torch.device) -> Beats:
        """Return the beats of a cache at the number of points that the model takes."""
        settings = self.settings
        table = cache.table("samples")
        signals = {
            modality: torch.tensor(shorten_beats(cache.beats(modality), settings.model.points))
            .unsqueeze(1)
            .to(device)
            for modality in MODALITIES
        }
        label = torch.tensor(table["label"].to_numpy(np.int64)).to(device)
        has = {
            modality: torch.tensor(table[f"has_{modality}"].to_numpy(bool)).to(device)
            for modality in MODALITIES
        }
        return Beats(
            table,
            signals["ecg"],
            signals["pcg"],
            label,
            torch.ones(len(label), device=device),
            has["ecg"],
            has["pcg"],
            settings.model.modality_dropout,
            settings.model.zeroed,
        )

    def for_fold(self, samples: Beats, fold: Fold) -> Beats:
        """Return the samples with what is fitted on the fold's training part: the class weights."""
        _check_precision(self.settings, samples.label.device)
        _check_signals(samples, fold.train, self.settings.model)
        _check_left(samples, self.settings.model)
        return samples.weighted(fold.train) if self.settings.optimization.class_weights else samples

    def with_inputs(self, samples: Beats, inputs: Mapping[str, Any]) -> Beats:
        """Return the samples of a cache to evaluate on, refusing those that lack what the network needs."""
        model = self.settings.model
        for modality in () if needs_tokens(model) else signals_of(model).modalities:
            has = getattr(samples, f"has_{modality}").cpu().numpy()
            if not has.any():
                raise UserError(
                    f"No recording of this cache has the {NAMES[modality]}, which {model.model} needs: "
                    "evaluate a run of a model that can do without, such as one with --modality-dropout."
                )
            if not has.all():
                lacking = counted(samples.table["recording"][~has].nunique(), "recording")
                print(f"Note: no {NAMES[modality]} in {lacking}: {model.model} reads zeros in its place.")
        _check_left(samples, model)
        return samples

    def build(self, inputs: Mapping[str, Any] | None = None) -> nn.Module:
        """Return the network of the settings, with absence tokens where a signal may be missing."""
        model = self.settings.model
        _check_modalities(model)
        absence = {"absence_tokens": True} if needs_tokens(model) else {}
        try:
            network = build_model(
                model.model,
                width=model.width,
                kernel_size=model.kernel_size,
                dropout=model.dropout,
                levels=model.levels,
                fusion_levels=model.fusion_levels,
                attention=model.attention,
                **absence,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        if model.start == "he-normal":
            start_he_normal(network)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = model.norm_momentum
        return network

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of a batch, and the probability of abnormal, shape (B,)."""
        logits = model(*inputs(model, batch)).float()
        losses = functional.cross_entropy(logits, batch["label"], reduction="none")
        if self.settings.focal_gamma:
            wrong = (1 - torch.exp(-losses)).clamp(min=_LEAST_WRONG)
            losses = losses * wrong**self.settings.focal_gamma
        return {"loss": (losses * batch["weight"]).mean()}, logits.softmax(dim=1)[:, 1]

    def without(self, samples: Beats, modality: str) -> Beats:
        """Return the samples without one signal, for a network that can do without."""
        name, takes = self.settings.model.model, signals_of(self.settings.model)
        if not takes.any_subset:
            raise UserError(
                f"{name} was trained with {' and '.join(takes.modalities)}, and cannot do without: train it "
                "with --modality-dropout 0.5."
            )
        left = samples.without(modality)
        _check_left(left, self.settings.model)
        return left

    def figures(
        self, model: nn.Module, samples: Beats, rows: Tensor, probability: Tensor
    ) -> dict[str, Figure]:
        """Return figures of the test part for TensorBoard: ROC, confusion, attention over one beat."""
        from evaluation.figures import confusion_figure, roc_figure  # matplotlib: see systems.base.predictor

        table = self.predictions(samples, rows.numpy(), probability).assign(threshold=0.5)
        protocol = self.settings.protocol
        watermark = "selected on test" if protocol == "paper" else ""
        drawn = {
            "test/roc": roc_figure(table, protocol=protocol, watermark=watermark),
            "test/confusion": confusion_figure(table, threshold=0.5, protocol=protocol, watermark=watermark),
        }
        median = rows[int(torch.argsort(probability)[len(rows) // 2])]
        attention = self.attention_figure(model, samples, median, watermark)
        return drawn | ({"test/attention": attention} if attention is not None else {})

    @torch.no_grad()
    def attention_figure(
        self, model: nn.Module, samples: Beats, row: Tensor, watermark: str
    ) -> Figure | None:
        """Draw one beat and the attention of the model; None for a model without spatial attention."""
        if not isinstance(model, PACFNet):
            return None
        from evaluation.figures import beat_attention_figure

        batch = samples.batch(row.reshape(1))
        _, levels = model.eval().forward_with_attention(*inputs(model, batch))
        maps = [level["spatial"][0].float().cpu().numpy() for level in levels if "spatial" in level]
        if not maps:
            return None
        ecg, pcg = (batch[name][0, 0].cpu().numpy() for name in ("ecg", "pcg"))
        beat = samples.table.iloc[int(row)]
        return beat_attention_figure(
            np.arange(len(ecg)) / len(ecg),
            ecg,
            pcg,
            {"ecg": [level[0] for level in maps], "pcg": [level[1] for level in maps]},
            title=f"Recording {beat['recording']}, beat at {beat['start']:.2f} s",
            watermark=watermark,
        )


def inputs(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return what a network takes from a batch; in training some signals are hidden from one that may."""
    signals = batch["ecg"], batch["pcg"]
    if not getattr(unwrap(model), "absence_tokens", False):
        return signals
    has_ecg, has_pcg = batch["has_ecg"], batch["has_pcg"]
    if model.training:
        hidden = torch.rand_like(batch["hide"]) < batch["hide"]
        ecg_goes = torch.rand_like(batch["hide"]) < 0.5
        has_ecg, has_pcg = has_ecg & ~(hidden & ecg_goes), has_pcg & ~(hidden & ~ecg_goes)
    return *signals, has_ecg, has_pcg


def signals_of(model: ModelSettings) -> Takes:
    """Return which signals a model of these settings takes."""
    return takes(model.model, model.modality_dropout, model.zeroed)


def needs_tokens(model: ModelSettings) -> bool:
    """Return whether the network must learn features for signals that are missing.

    Zeros would do for a signal that is zeroed throughout, but batch normalization of an encoder with
    no other input divides by a deviation of zero: gradients explode, and clipping then stops all learning.
    """
    return model.modality_dropout > 0 or model.zeroed != "none"


def _check_modalities(model: ModelSettings) -> None:
    """Refuse settings of missing modalities that contradict each other or the network."""
    if not 0 <= model.modality_dropout <= 1:
        raise UserError(f"--modality-dropout must be 0 to 1, and is {model.modality_dropout}.")
    if model.modality_dropout and model.zeroed != "none":
        raise UserError("--zeroed and --modality-dropout exclude each other: choose one.")
    if needs_tokens(model) and model.model in MODELS and model.model not in TAKES_ABSENCE:
        raise UserError(
            f"{model.model} cannot do without a signal: leave --modality-dropout and --zeroed away, "
            f"or choose --model {', '.join(TAKES_ABSENCE)}."
        )


def _check_signals(samples: Beats, rows: np.ndarray, model: ModelSettings) -> None:
    """Refuse to train on rows that all lack a signal the network reads and cannot do without."""
    for modality in signals_of(model).modalities:
        has = getattr(samples, f"has_{modality}")[torch.from_numpy(rows).to(samples.label.device)]
        if needs_tokens(model) or bool(has.any()):
            continue
        other = next(name for name in MODALITIES if name != modality)
        raise UserError(
            f"No training sample has the {modality.upper()}, which {model.model} reads: choose "
            f"--model {other}-network, or a positive --modality-dropout, or prepare other recordings."
        )


def _check_left(samples: Beats, model: ModelSettings) -> None:
    """Refuse samples that have none of the signals that a network with absence tokens reads."""
    if not needs_tokens(model):
        return
    read = signals_of(model).modalities
    lacking = ~torch.stack([getattr(samples, f"has_{modality}") for modality in read]).any(dim=0)
    if bool(lacking.any()):
        names = samples.table["recording"][lacking.cpu().numpy()].unique()
        raise UserError(
            f"{counted(len(names), 'recording')} without {' and '.join(NAMES[name] for name in read)}, "
            f"{names[0]} among them, would leave {model.model} nothing to read: hide less, or prepare a "
            "cache without them."
        )


def _check_precision(settings: TrainingSettings, device: torch.device) -> None:
    """Refuse bfloat16 on a CPU for very short beats, where torch 2.13 gets its gradients wrong."""
    points = settings.model.points
    precision = choose_precision(settings.precision, device)
    if device.type == "cpu" and precision == torch.bfloat16 and points < _SHORTEST_BFLOAT16:
        raise UserError(
            f"Strided convolutions of beats of {points} points have wrong bfloat16 gradients on a CPU: "
            f"use --precision float32, or --points of {_SHORTEST_BFLOAT16} or more."
        )
