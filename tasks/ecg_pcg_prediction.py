"""Judging one recording with a model of task ``ecg-pcg``: prepared, cut and asked exactly as in training.

`tasks.ecg_pcg_own` prepares. Of several models (folds) the mean is given; those that were trained on this
very recording are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import from_plain
from common.errors import UserError
from config import EvaluationSettings, TrainingSettings
from datasets.own_recording import OwnRecording, Place, ReadingOptions, read_own_recording
from datasets.signal_quality import NAMES, SHORTEST, Quality, Remark, examine
from datasets.sources import DataError
from datasets.spectral import (
    BAND_EDGES,
    FRAME,
    GRID_SHAPE,
    RATE,
    STATE_PARTS,
)
from evaluation.prevalence import shift_prior
from evaluation.recording_figure import Contributions, Looked, Trace, recording_figure
from learning.checkpoint import file_digest
from learning.devices import choose_device
from learning.loop import predict
from settings.prediction import PredictionSettings
from tasks.beats import Beats
from tasks.ecg_pcg_judging import BALANCED
from tasks.ecg_pcg_linear import Recordings
from tasks.ecg_pcg_own import Preparer, Ready, Segment, automatic_states
from tasks.explanation import attention
from tasks.judging import Checkpoint, trained_model
from tasks.registry import find_task


class EcgPcgPredictor:
    """Trained models of one run, ready for recordings.

    Parameters
    ----------
    checkpoints : mapping of pathlib.Path to dict
        Folds of one run, or one file.
    settings : PredictionSettings
    segment : callable
        Finds heart states in a recording.
    """

    def __init__(
        self,
        checkpoints: Mapping[Path, Checkpoint],
        settings: PredictionSettings,
        segment: Segment = automatic_states,
    ) -> None:
        self.settings = settings
        self.paths, self.checkpoints = list(checkpoints), list(checkpoints.values())
        first = self.checkpoints[0]
        self.trained = from_plain(TrainingSettings, first["settings"])
        self.task = find_task("ecg-pcg", self.trained)
        self.device = choose_device(settings.device)
        self.preparer = Preparer(first, self.device, segment)
        at = EvaluationSettings(device=settings.device)
        self.models = [trained_model(self.task, self.trained, content, at) for content in self.checkpoints]
        self.options = ReadingOptions(
            settings.ecg,
            settings.ecg_rate,
            settings.ecg_channel,
            settings.pcg_channel,
            settings.annotations,
        )
        self.believed = believed_prevalence(self.checkpoints, self.trained)
        if settings.prevalence is not None and self.believed is None:
            raise UserError(
                "These checkpoints do not tell which prevalence they believe in: omit --prevalence."
            )

    @property
    def stamp(self) -> str:
        """What has to be printed on every figure."""
        first = self.checkpoints[0]
        notes = {
            "trained on simulated data": first["cache"]["simulated"],
            "selected on test": first["protocol"] == "paper",
        }
        return ", ".join(note for note, holds in notes.items() if holds)

    @property
    def is_linear(self) -> bool:
        """Whether the model sees whole recordings instead of beats."""
        return self.trained.model.model == "linear"

    def facts(self) -> dict[str, Any]:
        """Return what the model is, for programs."""
        first = self.checkpoints[0]
        return {
            "task": "ecg-pcg",
            "model": self.trained.model.model,
            "run": first["run"],
            "protocol": first["protocol"],
            "simulated": bool(first["cache"]["simulated"]),
            "assumed_prevalence": self.believed,
            "checkpoints": {path.as_posix(): file_digest(path) for path in self.paths},
        }

    def predict(self, place: Place) -> EcgPcgPrediction:
        """Judge one recording, or say in a DataError why it cannot be judged."""
        own = read_own_recording(place, self.options)
        duration = own.duration
        if duration < SHORTEST:
            raise DataError(f"It lasts {duration:.1f} s, and at least {SHORTEST:g} s are needed.")
        ready = (
            self.preparer.for_linear(own, self.models) if self.is_linear else self.preparer.for_network(own)
        )
        quality = examine(own.recording, ready.spans)
        if quality.shows_no_heart(ready.used):
            names = " nor in the ".join(NAMES[kind] for kind in ready.used)
            raise DataError(f"No heart beat that repeats is found in the {names}: it is too noisy to judge.")
        chosen = self._unseen(own)
        values = torch.stack([self._ask(model, ready) for _, model in chosen]).mean(dim=0).double().numpy()
        if not np.isfinite(values).all():
            raise DataError("The model's answer is not a number: the signals are unlike any it was made for.")
        remarks = [*own.remarks, *ready.remarks, *quality.remarks, *self._doubts(chosen, own)]
        return EcgPcgPrediction(self, own, ready, quality, remarks, values, [model for _, model in chosen])

    def _ask(self, model: nn.Module, ready: Ready) -> Tensor:
        """Return the probability of abnormal that one model gives to each sample."""
        rows = torch.arange(len(ready.samples))
        size = self.settings.batch_size
        return predict(self.task, model, ready.samples, rows, batch_size=size, device=self.device)[1]

    def _unseen(self, own: OwnRecording) -> list[tuple[Checkpoint, nn.Module]]:
        """Return the models that were not trained on this recording; all, if all were."""
        pairs = list(zip(self.checkpoints, self.models, strict=True))
        return [pair for pair in pairs if not was_trained_on(pair[0], own)] or pairs

    def _doubts(self, chosen: list[tuple[Checkpoint, nn.Module]], own: OwnRecording) -> list[Remark]:
        """Return what is doubtful about asking these models."""
        remarks = []
        if was_trained_on(chosen[0][0], own):
            text = "The model was trained on this very recording: its answer says nothing about new ones."
            remarks.append(Remark("seen", "", text))
        if self.checkpoints[0]["cache"]["simulated"]:
            text = "The model was trained on virtual patients: its answer says nothing about real ones."
            remarks.append(Remark("simulated", "", text))
        return remarks


@dataclass(frozen=True)
class EcgPcgPrediction:
    """What the models say of one recording.

    Attributes
    ----------
    predictor : EcgPcgPredictor
    own : OwnRecording
    ready : Ready
    quality : Quality
    remarks : list of Remark
        All that is doubtful.
    values : numpy.ndarray of float64, shape (beats,) or (1,)
        Probability of abnormal of each sample, mean over the models.
    models : list of torch.nn.Module
        Those that were asked.
    """

    predictor: EcgPcgPredictor
    own: OwnRecording
    ready: Ready
    quality: Quality
    remarks: list[Remark]
    values: NDArray[np.float64]
    models: list[nn.Module]

    @property
    def probability(self) -> float:
        """Probability of abnormal, for the prevalence that the model assumes."""
        return float(self.values.mean())

    def facts(self) -> dict[str, Any]:
        """Return all of it for programs."""
        predictor, ready = self.predictor, self.ready
        low, high = (float(value) for value in np.percentile(self.values, [10, 90]))
        by_beat = not predictor.is_linear
        return {
            "probability": self.probability,
            "assumed_prevalence": predictor.believed,
            "prevalence": predictor.settings.prevalence,
            "probability_at_prevalence": self._shifted(self.probability),
            "spread_over_beats": {"percentile_10": low, "percentile_90": high} if by_beat else None,
            "signals_used": list(ready.used),
            "channels": self.own.channels,
            "duration": self.own.duration,
            "beats": len(ready.spans),
            "beat_source": ready.source,
            "models": len(self.models),
            "models_trained_on_it": len(predictor.models) - len(self.models),
            "log_odds": None if by_beat else self._log_odds(),
            "quality": self.quality.signals,
            "sound_delay": self.quality.sound_delay,
            "warnings": [dataclasses.asdict(remark) for remark in self.remarks],
            "each_beat": self._each_beat() if by_beat else None,
        }

    def _shifted(self, probability: float) -> float | None:
        """Return a probability at the prevalence that the user wants; None if none was named."""
        wanted, believed = self.predictor.settings.prevalence, self.predictor.believed
        if wanted is None or believed is None:
            return None
        return float(shift_prior(probability, believed, wanted))

    def _each_beat(self) -> list[dict[str, float]]:
        spans = zip(self.ready.spans.tolist(), self.values.tolist(), strict=True)
        return [{"start": start, "end": end, "probability": value} for (start, end), value in spans]

    @torch.no_grad()
    def _log_odds(self) -> dict[str, float]:
        """Return the log-odds of each signal, mean over the models."""
        samples = self.ready.samples
        assert isinstance(samples, Recordings)
        rows = {"ecg": samples.ecg_bands, "pcg": samples.pcg_grid}
        return {
            kind: float(torch.stack([getattr(model, kind)(rows[kind]) for model in self.models]).mean())
            for kind in self.ready.used
        }

    def figure(self) -> Figure:
        """Return the figure of the recording."""
        predictor, ready, recording = self.predictor, self.ready, self.own.recording
        traces = {
            kind: Trace(signal.samples, signal.sampling_rate)
            for kind in NAMES
            if (signal := getattr(recording, kind)) is not None
        }
        linear = predictor.is_linear
        return recording_figure(
            traces,
            ready.spans,
            title=self.own.name,
            subtitle=self._subtitle(),
            stamp=predictor.stamp,
            beat_label=f"starts of beats, by {ready.source}",
            beat_probability=None if linear else self.values,
            probability=self.probability,
            contributions=self._contributions() if linear else None,
            looked=None if linear else self._looked(),
        )

    def _subtitle(self) -> str:
        believed, wanted = self.predictor.believed, self.predictor.settings.prevalence
        text = f"probability of abnormal {self.probability:.2f}"
        text += "" if believed is None else f" if a share of {believed:.2g} is abnormal"
        shifted = self._shifted(self.probability)
        return text + ("" if shifted is None else f", {shifted:.2f} if {wanted:.2g} is")

    @torch.no_grad()
    def _contributions(self) -> Contributions:
        """Return what the log-odds are made of, mean over the models."""
        parts = {NAMES[kind]: value for kind, value in self._log_odds().items()}
        if "pcg" not in self.ready.used:
            return Contributions(parts)
        samples = self.ready.samples
        assert isinstance(samples, Recordings)
        sounds: list[Any] = [model.pcg for model in self.models]
        told = [(samples.pcg_grid[0] - part.mean) / part.scale * part.weight for part in sounds]
        grid = torch.stack(told).mean(dim=0).reshape(GRID_SHAPE).sum(dim=0).cpu().numpy()
        return Contributions(parts, grid, STATE_PARTS, np.array(BAND_EDGES) * RATE / FRAME)

    def _looked(self) -> Looked | None:
        """Return where the networks look, mean over beats and models; None for those without attention."""
        samples = self.ready.samples
        assert isinstance(samples, Beats)
        batch = samples.batch(torch.arange(len(samples)))
        maps = [attention(model, batch) for model in self.models]
        found = [named["attention"].mean(dim=0).cpu().numpy() for named in maps if named]
        if not found:
            return None
        mean = dict(zip(NAMES, np.mean(found, axis=0), strict=True))
        beats = {kind: batch[kind][:, 0].mean(dim=0).cpu().numpy() for kind in self.ready.used}
        return Looked(beats, {kind: mean[kind] for kind in beats})


def believed_prevalence(checkpoints: list[Checkpoint], trained: TrainingSettings) -> float | None:
    """Return the share of abnormal that the probabilities of a run assume; None if it cannot be told.

    A loss that weights both classes the same makes it one half, else it is that of the training parts.
    """
    if trained.model.model == "linear" or trained.optimization.class_weights:
        return BALANCED
    shares = [share for content in checkpoints if (share := content.get("label_share")) is not None]
    return float(np.mean(shares)) if len(shares) == len(checkpoints) else None


def was_trained_on(checkpoint: Checkpoint, own: OwnRecording) -> bool:
    """Whether this very recording, by its content, was among those a model was trained on."""
    return own.recording.sha256 in checkpoint["trained_on"]["content"]
