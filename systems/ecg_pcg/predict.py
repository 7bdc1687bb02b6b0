"""Predictions for one recording with a model of task ``ecg-pcg``, prepared and cut exactly as in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from datasets.beats import PLAUSIBLE_CYCLE
from datasets.signal_quality import NAMES, SHORTEST, Quality, examine
from datasets.sources import DataError
from evaluation.calibration import SMALLEST_PROBABILITY
from learning.checkpoint import Checkpoint
from learning.devices import rows_at_once
from learning.loop import predict
from models import FITTED_MODELS
from systems.base import predictor as base
from systems.base.predictor import Metadata, RecordingPath
from systems.ecg_pcg import inputs
from systems.ecg_pcg.explain.attribution import attention
from systems.ecg_pcg.features.spectral import BAND_EDGES, FRAME, GRID_SHAPE, RATE, STATE_PARTS
from systems.ecg_pcg.linear.task import Recordings
from systems.ecg_pcg.segmentation.automatic import automatic_states
from systems.ecg_pcg.settings import EcgPcgPredictionSettings, TrainingSettings
from systems.ecg_pcg.sources.user_recording import (
    UserRecording,
    find_recordings,
    read_user_recording,
    signal_digest,
)
from systems.ecg_pcg.task import Beats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from systems.ecg_pcg.figure import Contributions, MeanAttention

_IDENTITY = (0.0, 1.0)
"""Intercept and slope of log-odds that are left as they are."""


@dataclass(frozen=True, kw_only=True)
class RecordingPrediction(base.Prediction):
    """What the models predict for one recording.

    Attributes
    ----------
    user : UserRecording
    prepared : inputs.PreparedInput
    quality : Quality
    model_name : str
    values : numpy.ndarray of float64, shape (beats,) or (1,)
        Probability of abnormal of each sample, mean over the models.
    models : list of (dict, torch.nn.Module)
        Those that were used, and their checkpoints.
    """

    user: UserRecording
    prepared: inputs.PreparedInput
    quality: Quality
    model_name: str
    values: NDArray[np.float64]
    models: list[tuple[Checkpoint, nn.Module]]

    @property
    def by_beat(self) -> bool:
        """Whether the models read beats rather than the whole recording."""
        return isinstance(self.prepared.samples, Beats)

    @property
    def probability(self) -> float:
        """Probability of abnormal, for the prevalence that the model assumes."""
        return float(self.values.mean())

    def metadata(self) -> Metadata:
        """Return all of it in plain types."""
        prepared, by_beat = self.prepared, self.by_beat
        low, high = (float(value) for value in np.percentile(self.values, [10, 90]))
        spans = zip(prepared.spans.tolist(), self.values.tolist(), strict=by_beat)
        each = [{"start": start, "end": end, "probability": value} for (start, end), value in spans]
        return {
            "probability": self.probability,
            "assumed_prevalence": self.assumed_prevalence,
            "prevalence": self.target_prevalence,
            "probability_at_prevalence": self.at_target(self.probability),
            "spread_over_beats": {"percentile_10": low, "percentile_90": high} if by_beat else None,
            "model": self.model_name,
            "signals_used": list(prepared.used),
            "channels": self.user.channels,
            "duration": self.user.duration,
            "beats": len(prepared.beats),
            "beat_source": prepared.source,
            "models": len(self.models),
            "models_trained_on_it": self.left_out,
            "log_odds": None if by_beat else self._log_odds(),
            "quality": self.quality.signals,
            "sound_delay": self.quality.sound_delay,
            "warnings": [dataclasses.asdict(warning) for warning in self.warnings],
            "each_beat": each if by_beat else None,
        }

    @torch.no_grad()
    def _log_odds(self) -> dict[str, float]:
        """Return the calibrated log-odds of each modality, and the intercept, mean over the models."""
        samples = self.prepared.samples
        assert isinstance(samples, Recordings)
        batch = samples.batch(torch.arange(1))
        lines = [calibration_line(content, self.prepared) for content, _ in self.models]
        parts: dict[str, list[float]] = {}
        for (_, slope), (_, model) in zip(lines, self.models, strict=True):
            fitted: Any = model
            for name, value in fitted.parts(batch).items():
                if name in self.prepared.used or name not in NAMES:
                    parts.setdefault(name, []).append(slope * float(value))
        shift = float(np.mean([intercept for intercept, _ in lines]))
        means = {name: float(np.sum(values) / len(lines)) for name, values in parts.items()}
        return means | ({"calibration": shift} if shift else {})

    def figure(self) -> Figure:
        """Return the figure of the recording."""
        from systems.ecg_pcg.figure import Trace, recording_figure  # matplotlib: see systems.base.predictor

        prepared, recording, by_beat = self.prepared, self.user.recording, self.by_beat
        traces = {
            modality: Trace(signal.samples, signal.sampling_rate)
            for modality in NAMES
            if (signal := getattr(recording, modality)) is not None
        }
        return recording_figure(
            traces,
            prepared.spans,
            title=self.name,
            subtitle=self.subtitle(self.probability),
            watermark=self.watermark,
            beat_label=(
                f"starts of beats, by {prepared.source}" if prepared.one_beat else "starts of samples"
            ),
            beat_probability=self.values if by_beat else None,
            probability=self.probability,
            contributions=None if by_beat else self.contributions(),
            mean_attention=self._mean_attention() if by_beat and prepared.one_beat else None,
        )

    @torch.no_grad()
    def contributions(self) -> Contributions:
        """Return what the log-odds are made of, mean over the models."""
        from systems.ecg_pcg.figure import Contributions

        parts = {NAMES.get(name, name): value for name, value in self._log_odds().items()}
        if "pcg" not in self.prepared.used or not all(hasattr(model, "terms") for _, model in self.models):
            return Contributions(parts)  # the grid of the sound does not add up in every model
        samples = self.prepared.samples
        assert isinstance(samples, Recordings)
        grids = []
        for content, model in self.models:
            fitted: Any = model
            slope = calibration_line(content, self.prepared)[1]
            grids.append(slope * fitted.terms(samples.pcg_grid)[0])
        grid = torch.stack(grids).mean(dim=0).reshape(GRID_SHAPE).sum(dim=0).cpu().numpy()
        return Contributions(parts, grid, STATE_PARTS, np.array(BAND_EDGES) * RATE / FRAME)

    def _mean_attention(self) -> MeanAttention | None:
        """Return mean beat and attention over beats and models; None for networks without attention."""
        from systems.ecg_pcg.figure import MeanAttention

        samples = self.prepared.samples
        assert isinstance(samples, Beats)
        batch = samples.batch(torch.arange(len(samples)))
        maps = [attention(model, batch) for _, model in self.models]
        found = [parts["attention"].mean(dim=0).cpu().numpy() for parts in maps if parts]
        if not found:
            return None
        mean = dict(zip(NAMES, np.mean(found, axis=0), strict=True))
        beats = {name: batch[name][:, 0].mean(dim=0).cpu().numpy() for name in self.prepared.used}
        return MeanAttention(beats, {name: mean[name] for name in beats})


class Predictor(base.Predictor):
    """Trained models of one run, ready for recordings.

    Parameters
    ----------
    checkpoints, settings
        As of `systems.base.predictor.Predictor`.
    segment : callable
        Finds heart states in a recording.
    """

    settings: EcgPcgPredictionSettings
    identity = "content"

    def __init__(
        self,
        checkpoints: Mapping[Path, Checkpoint],
        settings: EcgPcgPredictionSettings,
        segment: inputs.Segment = automatic_states,
    ) -> None:
        if settings.annotations is not None and not settings.annotations.is_dir():
            raise UserError(f"--annotations {settings.annotations} is no folder.")
        super().__init__(checkpoints, settings)
        self.trained: TrainingSettings = self.task.settings
        self.preparer = inputs.InputPreparer(self.trained.model, self.cache, self.device, segment)
        self.assumed_prevalence = base.assumed_prevalence(self.checkpoints)
        self.check_prevalence(settings.prevalence)

    def model_name(self) -> str:
        """Return the name of the network."""
        return self.trained.model.model

    def model_text(self, model: Metadata) -> list[str]:
        """Return what the model is, and what was measured on databases left out, if that was."""
        first, *lines = super().model_text(model)
        found = self.checkpoints[0].get("left_out")
        if not found:
            return [first, *lines]
        (low, high), (least, most) = found["auroc"], found["specificity"]
        return [
            first.replace("on sessions kept apart", "on databases left out"),
            *lines,
            f"On {found['databases']} databases left out one by one, its AUROC was {low:.2f} to {high:.2f} "
            f"(mean {found['mean_auroc']:.2f}).",
            f"Its threshold does not travel: at one half, specificity there was {least:.2f} to {most:.2f}. "
            "Compare recordings of one device, and choose a threshold on your own recordings.",
        ]

    def find(self) -> list[RecordingPath]:
        """Return the recordings that paths name."""
        found = find_recordings(self.given())
        if self.settings.ecg is not None and len(found) > 1:
            raise UserError(f"--ecg belongs to one recording, and {len(found)} were given.")
        return found

    def predict(self, path: RecordingPath) -> RecordingPrediction:
        """Return the prediction for one recording, or say in a DataError why there is none."""
        user = read_user_recording(path, self.settings)
        if user.recording.ecg is None and isinstance(self.sound_alone, Predictor):
            return self.sound_alone.predict_read(user)
        return self.predict_read(user)

    def predict_read(self, user: UserRecording) -> RecordingPrediction:
        """Return the prediction for a recording that was read."""
        if user.duration < SHORTEST:
            raise DataError(f"It lasts {user.duration:.1f} s, and at least {SHORTEST:g} s are needed.")
        prepared = (
            self.preparer.for_recording(user, self.models)
            if self.model_name() in FITTED_MODELS
            else self.preparer.for_network(user)
        )
        check_heart_rate(prepared.beats)
        quality = examine(user.recording, prepared.beats)
        if quality.shows_no_heart(prepared.used):
            names = " nor in the ".join(NAMES[modality] for modality in prepared.used)
            raise DataError(f"No heart beat that repeats is found in the {names}: it is too noisy.")
        signals = [signal for signal in (user.recording.ecg, user.recording.pcg) if signal is not None]
        digests = [user.recording.sha256, *(signal_digest(signal.samples) for signal in signals)]
        chosen, seen = self.unseen(digests)
        probabilities = [self._probabilities(content, model, prepared) for content, model in chosen]
        values = torch.stack(probabilities).mean(dim=0).cpu().numpy()
        if not np.isfinite(values).all():
            raise DataError("The prediction is not a number: the signals are unlike those of training.")
        return RecordingPrediction(
            name=user.name,
            user=user,
            prepared=prepared,
            quality=quality,
            model_name=self.model_name(),
            warnings=[
                *user.warnings,
                *prepared.warnings,
                *quality.warnings,
                *self.warnings_of_models(seen),
            ],
            values=values,
            models=chosen,
            left_out=len(self.models) - len(chosen),
            assumed_prevalence=self.assumed_prevalence,
            target_prevalence=self.settings.prevalence,
            watermark=self.watermark(seen),
        )

    def _probabilities(self, content: Checkpoint, model: nn.Module, prepared: inputs.PreparedInput) -> Tensor:
        """Return the probability of abnormal of each sample by one model, calibrated if it can be."""
        rows = torch.arange(len(prepared.samples))
        size = rows_at_once(self.settings.batch_size, self.device)
        found = predict(self.task, model, prepared.samples, rows, batch_size=size, device=self.device)[1]
        intercept, slope = calibration_line(content, prepared)
        if (intercept, slope) == _IDENTITY:
            return found.double()
        return torch.sigmoid(intercept + slope * torch.logit(found.double(), SMALLEST_PROBABILITY))


def calibration_line(checkpoint: Checkpoint, prepared: inputs.PreparedInput) -> tuple[float, float]:
    """Return intercept and slope by which a model's log-odds of such an input are made a probability."""
    known = checkpoint.get("calibration") or {}
    states = {inputs.ANNOTATION: " annotated", inputs.AUTOMATIC: " automatic"}.get(prepared.source, "")
    name = "+".join(prepared.used) + (states if "pcg" in prepared.used else "")
    intercept, slope = known.get(name, _IDENTITY)
    return float(intercept), float(slope)


def check_heart_rate(spans: NDArray[np.float64]) -> None:
    """Refuse beats (n, 2), in seconds, that last as no heart's do: what was found are no beats."""
    usual = float(np.median(spans[:, 1] - spans[:, 0])) if len(spans) else float("nan")
    if not len(spans) or PLAUSIBLE_CYCLE[0] <= usual <= PLAUSIBLE_CYCLE[1]:
        return
    raise DataError(
        f"What was found repeats {60 / usual:.0f} times a minute, as no heart does: it is too noisy, or its "
        "sampling rate is wrong."
    )
