"""Judging one recording with a model of task ``ecg-pcg``: prepared, cut and asked exactly as in training.

`systems.ecg_pcg.inputs` prepares. Of several models (folds) the mean is given; those that were trained on
this very recording are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import from_plain
from common.errors import UserError
from datasets.beats import PLAUSIBLE_CYCLE
from datasets.recording_paths import Place
from datasets.signal_quality import NAMES, SHORTEST, SignalWarning, examine
from datasets.sources import DataError
from evaluation.calibration import SMALLEST_PROBABILITY
from learning.checkpoint import Checkpoint, file_digest
from learning.devices import choose_device, rows_at_once
from learning.loop import predict
from systems.base.prediction_settings import PredictionSettings
from systems.base.predictor import assumed_prevalence
from systems.ecg_pcg.inputs import InputPreparer, PreparedInput, Segment, automatic_states
from systems.ecg_pcg.prediction import IDENTITY, EcgPcgPrediction, calibration_line
from systems.ecg_pcg.settings import TrainingSettings
from systems.ecg_pcg.sources.user_recording import (
    ReadingOptions,
    UserRecording,
    find_recordings,
    read_user_recording,
    sound_digest,
)
from systems.ecg_pcg.task import EcgPcg


class Predictor:
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
        self.task = EcgPcg.create(self.trained)
        self.device = choose_device(settings.device)
        self.preparer = InputPreparer(first, self.device, segment)
        self.models = [self.task.load_model(content, self.device) for content in self.checkpoints]
        self.options = ReadingOptions(
            settings.ecg,
            settings.ecg_rate,
            settings.ecg_channel,
            settings.pcg_channel,
            settings.annotations,
        )
        self.trained_on = self._trained_on()
        self.believed = assumed_prevalence_of(self.checkpoints, self.trained)
        if settings.prevalence is not None and self.believed is None:
            raise UserError(
                "These checkpoints do not tell which prevalence they believe in: omit --prevalence."
            )

    @property
    def watermark(self) -> str:
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

    def metadata(self) -> dict[str, Any]:
        """Return what the model is, for programs."""
        first = self.checkpoints[0]
        return {
            "task": "ecg-pcg",
            "model": self.trained.model.model,
            "run": first["run"],
            "protocol": first["protocol"],
            "simulated": bool(first["cache"]["simulated"]),
            "trained_on": self.trained_on,
            "assumed_prevalence": self.believed,
            "calibrated": self.calibrated,
            "checkpoints": {path.as_posix(): file_digest(path) for path in self.paths},
        }

    @property
    def calibrated(self) -> bool:
        """Whether the probabilities were calibrated on sessions that their models had not seen."""
        return all(content.get("calibration") for content in self.checkpoints)

    def _trained_on(self) -> dict[str, Any]:
        """Return how many recordings of which source the models learned from, all of them together."""
        metadata = [content["trained_on"] for content in self.checkpoints]
        shares = [content.get("label_share") for content in self.checkpoints]
        known = [share for share in shares if share is not None]
        return {
            "source": self.checkpoints[0]["cache"]["source"],
            "recordings": len({name for fact in metadata for name in fact["content"]}),
            "sessions": len({name for fact in metadata for name in fact.get("session", ())}),
            "abnormal_share": float(np.mean(known)) if known else None,
        }

    def find(self, given: Iterable[Path]) -> list[Place]:
        """Return the recordings that paths name."""
        return find_recordings(given)

    def predict(self, place: Place) -> EcgPcgPrediction:
        """Judge one recording, or say in a DataError why it cannot be judged."""
        own = read_user_recording(place, self.options)
        duration = own.duration
        if duration < SHORTEST:
            raise DataError(f"It lasts {duration:.1f} s, and at least {SHORTEST:g} s are needed.")
        ready = (
            self.preparer.for_linear(own, self.models) if self.is_linear else self.preparer.for_network(own)
        )
        check_heart_rate(ready.spans)
        quality = examine(own.recording, ready.spans)
        if quality.shows_no_heart(ready.used):
            names = " nor in the ".join(NAMES[kind] for kind in ready.used)
            raise DataError(f"No heart beat that repeats is found in the {names}: it is too noisy to judge.")
        chosen = self._unseen(own)
        answers = [self._ask(content, model, ready) for content, model in chosen]
        values = torch.stack(answers).mean(dim=0).cpu().numpy()
        if not np.isfinite(values).all():
            raise DataError("The model's answer is not a number: the signals are unlike any it was made for.")
        warnings = [*own.warnings, *ready.warnings, *quality.warnings, *self._warnings(chosen, own)]
        return EcgPcgPrediction(
            own,
            ready,
            quality,
            warnings,
            values,
            chosen,
            self.believed,
            self.settings.prevalence,
            ", ".join(filter(None, [self.watermark, "trained on this recording" * _was_seen(warnings)])),
            len(self.models) - len(chosen),
        )

    def _ask(self, content: Checkpoint, model: nn.Module, ready: PreparedInput) -> Tensor:
        """Return the probability of abnormal that one model gives to each sample, calibrated if it can be."""
        rows = torch.arange(len(ready.samples))
        size = rows_at_once(self.settings.batch_size, self.device)
        said = predict(self.task, model, ready.samples, rows, batch_size=size, device=self.device)[1].double()
        intercept, slope = calibration_line(content, ready)
        if (intercept, slope) == IDENTITY:
            return said
        return torch.sigmoid(intercept + slope * torch.logit(said, SMALLEST_PROBABILITY))

    def _unseen(self, own: UserRecording) -> list[tuple[Checkpoint, nn.Module]]:
        """Return the models that were not trained on this recording; all, if all were."""
        pairs = list(zip(self.checkpoints, self.models, strict=True))
        return [pair for pair in pairs if not was_trained_on(pair[0], own)] or pairs

    def _warnings(
        self, chosen: list[tuple[Checkpoint, nn.Module]], own: UserRecording
    ) -> list[SignalWarning]:
        """Return what is doubtful about asking these models."""
        warnings = []
        if was_trained_on(chosen[0][0], own):
            text = "The model was trained on this very recording: its answer says nothing about new ones."
            warnings.append(SignalWarning("seen", "", text))
        if self.checkpoints[0]["cache"]["simulated"]:
            text = "The model was trained on simulated patients: its answer says nothing about real ones."
            warnings.append(SignalWarning("simulated", "", text))
        return warnings


def check_heart_rate(spans: NDArray[np.float64]) -> None:
    """Refuse beats (n, 2), in seconds, that last as no heart's do: what was found are no beats."""
    usual = float(np.median(spans[:, 1] - spans[:, 0])) if len(spans) else float("nan")
    if not len(spans) or PLAUSIBLE_CYCLE[0] <= usual <= PLAUSIBLE_CYCLE[1]:
        return
    raise DataError(
        f"What was found repeats {60 / usual:.0f} times a minute, as no heart does: it is too noisy to "
        "judge, or its sampling rate is wrong."
    )


def _was_seen(warnings: Iterable[SignalWarning]) -> bool:
    return any(warning.code == "seen" for warning in warnings)


def assumed_prevalence_of(checkpoints: list[Checkpoint], trained: TrainingSettings) -> float | None:
    """Return the share of abnormal that the probabilities of a run assume; None if it cannot be told."""
    balanced = trained.model.model == "linear" or trained.optimization.class_weights
    return assumed_prevalence(checkpoints, balanced=balanced)


def was_trained_on(checkpoint: Checkpoint, own: UserRecording) -> bool:
    """Whether this very recording was among those a model was trained on.

    By the content of its files or, where the checkpoint tells, by the samples of its heart sound.
    """
    known, pcg = checkpoint["trained_on"], own.recording.pcg
    heard = pcg is not None and sound_digest(pcg.samples) in known.get("sound", ())
    return heard or own.recording.sha256 in known["content"]
