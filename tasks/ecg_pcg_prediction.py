"""Judging one recording with a model of task ``ecg-pcg``: prepared, cut and asked exactly as in training.

Networks    need beats: from annotated heart states where there are any, else from R-peaks of the ECG, else
            from an automatic segmentation of the heart sound; the probability is the mean over the beats
Linear      needs heart states for the heart sound: annotated or automatic; the ECG needs no beats
Folds       of several models the mean; those that were trained on this very recording are left out
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import from_plain
from common.errors import UserError
from config import EvaluationSettings, PreparationSettings, TrainingSettings
from datasets.beats import annotated_spans, r_peak_spans
from datasets.heart_states import HeartStates
from datasets.own_recording import OwnRecording, Place, ReadingOptions, read_own_recording
from datasets.preparation import _states
from datasets.recordings import Recording
from datasets.segmentation import segment_heart_sound
from datasets.signal_quality import FEWEST_BEATS, NAMES, SHORTEST, Quality, Remark, examine
from datasets.signals import fill_gaps, shorten_beats
from datasets.sources import DataError
from datasets.spectral import (
    BAND_EDGES,
    ECG_BAND,
    ECG_BANDS,
    FRAME,
    GRID_SHAPE,
    PCG_BAND,
    RATE,
    STATE_PARTS,
    cell_edges,
    ecg_band_powers,
    pcg_grid,
)
from datasets.stress import prepare_beats
from evaluation.prevalence import shift_prior
from evaluation.recording_figure import Contributions, Looked, Trace, recording_figure
from learning.checkpoint import file_digest
from learning.devices import choose_device
from learning.loop import predict
from settings.prediction import PredictionSettings
from tasks.beats import Beats
from tasks.ecg_pcg import needs_tokens
from tasks.ecg_pcg_judging import BALANCED
from tasks.ecg_pcg_linear import Recordings
from tasks.explanation import attention, signals_read
from tasks.judging import Checkpoint, trained_model
from tasks.registry import find_task

Segment = Callable[[Recording], HeartStates]
ANNOTATION, R_PEAKS, AUTOMATIC = "annotation", "R-peaks of the ECG", "automatic segmentation"
HIGHEST = {"ecg": ECG_BAND[1], "pcg": PCG_BAND[1]}
"""Highest frequency that the features of the linear model look at, hertz."""
UNLIKE = {"ecg": 3.0, "pcg": 2.5}
"""Root mean square of standardized features from which a recording is unlike those of the training. On
training-a, out of fold, one recording in a hundred has 2.4 (ECG) or 2.1 (heart sound) or more."""


def automatic_states(recording: Recording) -> HeartStates:
    """Return heart states found in the heart sound, with the help of the ECG where there is one."""
    pcg, ecg = recording.pcg, recording.ecg
    if pcg is None:
        raise DataError("There is no heart sound to segment.")
    if ecg is None:
        return segment_heart_sound(pcg.samples, pcg.sampling_rate)
    return segment_heart_sound(pcg.samples, pcg.sampling_rate, ecg.samples, ecg.sampling_rate)


@dataclass(frozen=True)
class Ready:
    """A recording as a model takes it.

    Attributes
    ----------
    samples : Beats or Recordings
    used : tuple of str
        Signals that the model reads of it.
    spans : numpy.ndarray, shape (beats, 2)
        Seconds.
    source : str
        Where beats or heart states come from.
    remarks : list of Remark
    """

    samples: Beats | Recordings
    used: tuple[str, ...]
    spans: NDArray[np.float64]
    source: str
    remarks: list[Remark]


class Preparer:
    """Makes of a recording what a model takes, as training did.

    Parameters
    ----------
    content : dict
        A checkpoint of the model.
    device : torch.device
    segment : callable
        Finds heart states in a recording.
    """

    def __init__(self, content: Checkpoint, device: torch.device, segment: Segment) -> None:
        self.model = from_plain(TrainingSettings, content["settings"]).model
        self.preparation = from_plain(PreparationSettings, content["cache"]["settings"])
        self.source = content["cache"]["source"]
        self.device, self.segment = device, segment

    def for_network(self, own: OwnRecording) -> Ready:
        """Cut the beats of a recording as preparation does."""
        model, recording = self.model, own.recording
        read = signals_read(model)
        used = tuple(kind for kind in read if getattr(recording, kind) is not None)
        lacking = [NAMES[kind] for kind in read if kind not in used]
        if not used or (lacking and not needs_tokens(model)):
            raise DataError(
                f"There is no {' and no '.join(lacking)}, which {model.model} needs: use a model trained "
                "with --modality-dropout, or the linear one, which take either signal."
            )
        spans, source, remarks = self._find_spans(own)
        signals, has = {}, {}
        for kind in NAMES:
            signal = getattr(recording, kind)
            beats = np.zeros((len(spans), model.points), dtype=np.float32)
            if signal is not None:
                cut = prepare_beats(signal.samples, signal.sampling_rate, kind, spans, self.preparation)
                beats = shorten_beats(cut, model.points)
            signals[kind] = torch.tensor(beats).unsqueeze(1).to(self.device)
            has[kind] = torch.full((len(spans),), signal is not None, device=self.device)
        nothing = torch.zeros(len(spans), dtype=torch.int64, device=self.device)
        samples = Beats(
            table=pd.DataFrame({"recording": [own.name] * len(spans)}),
            ecg=signals["ecg"],
            pcg=signals["pcg"],
            label=nothing,
            weight=torch.ones(len(spans), device=self.device),
            has_ecg=has["ecg"],
            has_pcg=has["pcg"],
            zeroed=model.zeroed,
        )
        return Ready(samples, used, spans, source, remarks)

    def _find_spans(self, own: OwnRecording) -> tuple[NDArray[np.float64], str, list[Remark]]:
        """Return the beats by the first way that finds some, its name, and what is doubtful about it."""
        duration = _duration(own.recording)
        states, remarks = self._annotated(own)
        tried: list[str] = []
        for source in (ANNOTATION, R_PEAKS, AUTOMATIC):
            try:
                spans = self._spans_by(source, own.recording, states)
            except DataError as error:
                tried.append(str(error))
                continue
            spans = spans[spans[:, 1] <= duration]
            if len(spans) >= FEWEST_BEATS:
                return spans, source, remarks + self._unlike_training(source)
        raise DataError(" ".join(["No beats are found.", *tried]))

    def _spans_by(self, source: str, recording: Recording, states: HeartStates | None) -> NDArray[np.float64]:
        """Return beats found in one way; none where that way is not open."""
        none: NDArray[np.float64] = np.zeros((0, 2))
        duration = _duration(recording)
        if source == ANNOTATION:
            return none if states is None else annotated_spans(states, duration)
        if source == R_PEAKS:
            ecg = recording.ecg
            return none if ecg is None else r_peak_spans(fill_gaps(ecg.samples), ecg.sampling_rate)
        return none if recording.pcg is None else annotated_spans(self.segment(recording), duration)

    def _annotated(self, own: OwnRecording) -> tuple[HeartStates | None, list[Remark]]:
        """Return the annotated heart states by the rule of preparation, or why they are not used."""
        if own.annotation is None:
            return None, []
        try:
            row: dict[str, object] = {"annotation": own.annotation.name}
            return _states(own.annotation.parent, row, own.recording, self.preparation), []
        except DataError as error:
            return None, [Remark("annotation", "", f"The annotation is not used: {error}")]

    def _unlike_training(self, source: str) -> list[Remark]:
        """Return the doubt about beats cut otherwise than those that a network learned."""
        from_ecg = self.preparation.onsets == "ecg"
        known = self.source == "physionet2016"
        if (source == R_PEAKS) == from_ecg or not known:
            return []
        begins = {True: "at R-peaks", False: "at S1"}
        text = f"Beats are cut {begins[not from_ecg]}, and the model learned beats cut {begins[from_ecg]}."
        return [Remark("beats", "", text)]

    def for_linear(self, own: OwnRecording, models: Sequence[nn.Module]) -> Ready:
        """Compute the features of a recording, of the signals that are good enough for them."""
        recording = own.recording
        states, remarks = self._annotated(own)
        source = ANNOTATION
        grid, bands = np.full(math.prod(GRID_SHAPE), np.nan), np.full(ECG_BANDS, np.nan)
        pcg, ecg = recording.pcg, recording.ecg
        if pcg is not None and _is_read(models, "pcg", pcg.sampling_rate, remarks):
            if states is None:
                states, source = self._segmented(recording, remarks), AUTOMATIC
            if states is not None:
                grid = pcg_grid(pcg.samples, pcg.sampling_rate, states)
        if ecg is not None and _is_read(models, "ecg", ecg.sampling_rate, remarks):
            bands = ecg_band_powers(ecg.samples, ecg.sampling_rate)
        values = {"ecg": bands.astype(np.float32), "pcg": grid.astype(np.float32)}
        used = tuple(kind for kind in NAMES if np.isfinite(values[kind]).all())
        if not used:
            reasons = [remark.text for remark in remarks] or ["No complete beat is found in the heart sound."]
            raise DataError(" ".join(reasons))
        if pcg is not None and states is not None and "pcg" not in used:
            text = "The heart sound is left out: no complete beat (S1, systole, S2, diastole) is in it."
            remarks.append(Remark("no-beats", "pcg", text))
        spans = np.zeros((0, 2))
        if states is not None:
            spans = cell_edges(states, _duration(recording))[:, [0, -1]]
        elif ecg is not None:
            spans, source = r_peak_spans(fill_gaps(ecg.samples), ecg.sampling_rate), R_PEAKS
        samples = Recordings(
            table=pd.DataFrame({"recording": [own.name]}),
            pcg_grid=torch.from_numpy(values["pcg"][None]).to(self.device),
            ecg_bands=torch.from_numpy(values["ecg"][None]).to(self.device),
            has_pcg=torch.tensor(["pcg" in used], device=self.device),
            has_ecg=torch.tensor(["ecg" in used], device=self.device),
            label=torch.zeros(1, dtype=torch.int64, device=self.device),
            weight=torch.ones(1, device=self.device),
        )
        return Ready(samples, used, spans, source, remarks + _remarks_of_features(models, values, used))

    def _segmented(self, recording: Recording, remarks: list[Remark]) -> HeartStates | None:
        """Return heart states found automatically, or None and a remark."""
        try:
            return self.segment(recording)
        except DataError as error:
            text = f"The heart sound is left out: no heart states are found in it. {error}"
            remarks.append(Remark("no-beats", "pcg", text))
            return None


def _is_read(models: Sequence[nn.Module], kind: str, sampling_rate: float, remarks: list[Remark]) -> bool:
    """Whether linear models read a signal, and it is sampled fast enough for their features."""
    if not all(bool(getattr(model, kind).fitted) for model in models):
        remarks.append(Remark("unread", kind, f"The model does not read the {NAMES[kind]}."))
        return False
    highest = HIGHEST[kind]
    if sampling_rate < 2 * highest:
        text = (
            f"The {NAMES[kind]} is left out: it is sampled at {sampling_rate:g} Hz, and the model looks "
            f"up to {highest:g} Hz, for which {2 * highest:g} Hz are needed."
        )
        remarks.append(Remark("rate", kind, text))
        return False
    return True


def _remarks_of_features(
    models: Sequence[nn.Module], values: Mapping[str, NDArray[np.float32]], used: tuple[str, ...]
) -> list[Remark]:
    """Return the doubt about features that are far from those of the training."""
    remarks = []
    for kind in used:
        parts = [getattr(model, kind) for model in models]
        scores = [(values[kind] - part.mean.cpu().numpy()) / part.scale.cpu().numpy() for part in parts]
        distance = float(np.sqrt(np.mean(np.square(scores))))
        if distance > UNLIKE[kind]:
            text = (
                f"The {NAMES[kind]} is unlike those the model was trained on (distance {distance:.1f}; "
                f"1 is usual, {UNLIKE[kind]:g} rare): another device or noise, and the answer may be wrong."
            )
            remarks.append(Remark("unlike", kind, text))
    return remarks


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
        duration = _duration(own.recording)
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
            "duration": _duration(self.own.recording),
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


def _duration(recording: Recording) -> float:
    """Return the time that all signals of a recording last, seconds."""
    return min(signal.duration for signal in (recording.ecg, recording.pcg) if signal is not None)
