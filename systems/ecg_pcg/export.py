"""Networks of task ``ecg-pcg`` for export: prepared beats to logits and the probability of abnormal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.command_line import from_plain, to_plain
from common.errors import UserError
from datasets.splits import ALL
from learning.checkpoint import Checkpoint, provenance
from models import FITTED_MODELS
from models.layers.blocks import MODALITIES
from systems import registry
from systems.base.exporting import Exportable
from systems.base.predictor import DISCLAIMER, assumed_prevalence
from systems.ecg_pcg.settings import ModelSettings, PreparationSettings, TrainingSettings
from systems.ecg_pcg.sources.beats_of_recording import BY_ANNOTATION, BY_R_PEAKS
from systems.ecg_pcg.task import signals_of

OUTPUTS = ("logits", "probability")
_HARMONICS = 12
"""Of the smooth half of a random beat."""


class ExportedBeats(nn.Module):
    """A network of beats as prediction uses it, with its output as a probability.

    Parameters
    ----------
    network : torch.nn.Module
        Of `models.NETWORKS`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        ecg: Tensor | None = None,
        pcg: Tensor | None = None,
        has_ecg: Tensor | None = None,
        has_pcg: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map beats (B, 1, T) to logits (B, 2) and the probability of abnormal (B,).

        Of a row that by its masks has no signal, both are NaN in an exported file; here it is refused.
        """
        masks = () if has_ecg is None else (has_ecg, has_pcg)
        logits = self.network(ecg, pcg, *masks).float()
        if has_ecg is not None and has_pcg is not None:
            logits = torch.where((has_ecg | has_pcg)[:, None], logits, torch.nan)
        return logits, logits.softmax(dim=1)[:, 1]


def exportable(checkpoint: Checkpoint, digest: str) -> Exportable:
    """Return the network of a checkpoint, random inputs to check it with, and the metadata of its file.

    Parameters
    ----------
    checkpoint : dict
    digest : str
        SHA-256 of the checkpoint's file.

    Raises
    ------
    UserError
        If the model reads features of whole recordings instead of beats.
    """
    task = registry.task_of(checkpoint)
    trained: TrainingSettings = task.settings
    model = trained.model
    if model.model in FITTED_MODELS:
        raise UserError(
            f"{model.model} reads features that only this code computes from a recording, so a file of it "
            "would be of no use alone: use it by predict.py, or export a run of a network of beats."
        )
    network = task.load_model(checkpoint, torch.device("cpu"))
    names = input_names(model)

    def random_inputs(rows: int, generator: torch.Generator) -> dict[str, Tensor]:
        return random_beats(names, rows, model.points, generator)

    metadata = describe(checkpoint, trained, names) | {"checkpoint_sha256": digest}
    return Exportable(ExportedBeats(network).eval(), random_inputs, OUTPUTS, metadata)


def input_names(model: ModelSettings) -> tuple[str, ...]:
    """Return the inputs of a network: the signals that it reads, and masks if it takes any subset of both."""
    takes = signals_of(model)
    return takes.modalities + (("has_ecg", "has_pcg") if takes.any_subset else ())


def random_beats(
    names: tuple[str, ...], rows: int, points: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return random inputs: waves and noise of the scale of prepared beats; every row has a signal."""
    found = {name: _waves(rows, points, generator) for name in names if name in MODALITIES}
    if "has_ecg" in names:
        case = torch.randint(0, 3, (rows,), generator=generator)
        found |= {"has_ecg": case != 0, "has_pcg": case != 1}
    return found


def _waves(rows: int, points: int, generator: torch.Generator) -> Tensor:
    """Return (rows, 1, points) of about unit variance: a random smooth wave and white noise."""
    phase = torch.linspace(0, 2 * torch.pi, points) * torch.arange(1, _HARMONICS + 1)[:, None]
    weights = torch.randn(rows, 2 * _HARMONICS, generator=generator) / _HARMONICS**0.5
    smooth = weights @ torch.cat([phase.sin(), phase.cos()])
    noise = torch.randn(rows, points, generator=generator)
    return ((smooth + noise) / 2**0.5).unsqueeze(1)


def describe(checkpoint: Checkpoint, trained: TrainingSettings, names: tuple[str, ...]) -> dict[str, str]:
    """Return what a file holds about itself: names to text, JSON where it has parts."""
    points = trained.model.points
    cache, prevalence = checkpoint["cache"], assumed_prevalence([checkpoint])
    known: dict[str, Any] = {
        "notice": DISCLAIMER,
        "task": "ecg-pcg",
        "model": trained.model.model,
        "model_settings": to_plain(trained.model),
        "run": checkpoint["run"],
        "fold": "all" if checkpoint["fold"] == ALL else checkpoint["fold"],
        "protocol": checkpoint["protocol"],
        "inputs": {name: _input_text(name, points) for name in names},
        "outputs": ", ".join(OUTPUTS),
        "logits": "float32 (batch, 2), one a class",
        "probability": "float32 (batch,), of abnormal: softmax of the logits; not calibrated",
        "classes": "normal, abnormal",
        "points": points,
        "sampling_rate": _rate_text(points, cache),
        "scaling": _scaling_text(from_plain(PreparationSettings, cache["settings"])),
        "preparation": cache["settings"],
        "recording": "the probability of a recording is the mean over its rows",
        "threshold": checkpoint.get("threshold", 0.5),
        "threshold_from": _threshold_text(checkpoint),
        "assumed_prevalence": "unknown" if prevalence is None else prevalence,
        "trained_on": cache["source"],
        "trained_on_simulated_data": "yes" if cache["simulated"] else "no",
        "trained_with": checkpoint["provenance"],
        "exported_with": provenance(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}


def _input_text(name: str, points: int) -> str:
    if name in MODALITIES:
        return f"float32 (batch, 1, {points}), prepared beats of the {name.upper()}"
    signal = name.removeprefix("has_")
    return (
        f"bool (batch,), whether a beat has its {signal.upper()}; without, {signal} may hold any finite value"
    )


def _rate_text(points: int, cache: Mapping[str, Any]) -> str:
    settings = from_plain(PreparationSettings, cache["settings"])
    cached, count = settings.beat_points, settings.beats_per_sample
    how = f"brought to {cached} points by a cubic spline"
    how += "" if points == cached else f", then to {points} without aliases"
    if settings.cut == "windows":
        seconds = settings.window_seconds
        return f"{points / seconds:g} Hz: a row is a window of {seconds:g} s, {how}"
    ways = cache.get("beat_source") or {BY_R_PEAKS if settings.onsets == "ecg" else BY_ANNOTATION: 1}
    cuts = ["S1 to S1"] * bool({*ways} - {BY_R_PEAKS}) + ["R-peak to R-peak"] * (BY_R_PEAKS in ways)
    row = "a beat is one cardiac cycle" if count == 1 else f"a row is {count} successive cardiac cycles"
    return f"none: {row}, {' or '.join(cuts)}, {how}"


def _scaling_text(settings: PreparationSettings) -> str:
    filtered = "band-passed, then " if settings.bandpass else ""
    return f"both signals {filtered}z-scored over the whole recording before beats are cut"


def _threshold_text(checkpoint: Checkpoint) -> str:
    if "threshold" not in checkpoint:
        return "nothing: the training of this fold was not finished"
    return "training and validation parts; 0.5 where these gave none"
