"""From one recording of a user to what a model of task ``ecg-pcg`` takes, prepared exactly as in training.

Networks    need beats, cut as those of the training: from annotated heart states where there are any, else
            from S1 by an automatic segmentation of the heart sound. R-peaks of the ECG come after that; they
            come before it where the training took them for most recordings
Fitted      (linear, phase-fusion) need heart states for the heart sound: annotated or automatic; the ECG
            needs no beats
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from common.command_line import from_plain
from datasets.beats import HeartStates, annotated_spans, r_peak_spans
from datasets.recordings import Recording
from datasets.signal_quality import FEWEST_BEATS, NAMES, SignalWarning
from datasets.signals import fill_gaps, shorten_beats
from datasets.sources import DataError
from systems.ecg_pcg.features import spectral
from systems.ecg_pcg.features.ecg_cycle_grid import SHAPE, ecg_cycle_grid
from systems.ecg_pcg.linear.task import HIGHEST, Recordings
from systems.ecg_pcg.phase_fusion.task import GridRecordings
from systems.ecg_pcg.robustness.corruptions import prepare_beats
from systems.ecg_pcg.segmentation.automatic import certainty, repeats, segmentation_warnings
from systems.ecg_pcg.segmentation.segment import Segmentation
from systems.ecg_pcg.settings import ModelSettings, PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import (
    BY_ANNOTATION,
    BY_R_PEAKS,
    read_states,
    spans_of_samples,
)
from systems.ecg_pcg.sources.user_recording import UserRecording
from systems.ecg_pcg.task import Beats, signals_of

Segment = Callable[[Recording], Segmentation]
ANNOTATION, R_PEAKS, AUTOMATIC = "annotation", "R-peaks of the ECG", "automatic segmentation"
_AT_S1, _AT_R_PEAKS = (ANNOTATION, AUTOMATIC, R_PEAKS), (ANNOTATION, R_PEAKS, AUTOMATIC)
"""Ways to find beats in the order in which they are tried, by where the beats of the training began."""
_UNLIKE = {"ecg": 3.0, "pcg": 2.5}
"""Root mean square of standardized features from which a recording is unlike those of the training. On
training-a, out of fold, one recording in a hundred has 2.4 (ECG) or 2.1 (heart sound) or more in the linear
model."""


@dataclass(frozen=True)
class PreparedInput:
    """A recording as a model takes it.

    Attributes
    ----------
    samples : Beats or Recordings
    used : tuple of str
        Signals that the model reads of it.
    spans : numpy.ndarray, shape (samples, 2)
        Seconds.
    beats : numpy.ndarray, shape (beats, 2)
        Single beats, seconds; the same where a sample is a beat.
    source : str
        Where beats or heart states come from.
    warnings : list of SignalWarning
    """

    samples: Beats | Recordings
    used: tuple[str, ...]
    spans: NDArray[np.float64]
    beats: NDArray[np.float64]
    source: str
    warnings: list[SignalWarning]

    @property
    def one_beat(self) -> bool:
        """Whether each sample is one beat."""
        return np.array_equal(self.spans, self.beats)


def _usual_ways(cache: Mapping[str, Any], settings: PreparationSettings) -> dict[str, int]:
    """Return how beats of a training were found of which an older checkpoint does not say it."""
    if settings.onsets == "ecg":
        return {BY_R_PEAKS: 1}
    if cache["source"] == "physionet2016":
        return {BY_ANNOTATION: 1}
    return {BY_R_PEAKS: 1, BY_ANNOTATION: 1}  # a cohort was cut at R-peaks where nothing was annotated


class InputPreparer:
    """Makes of a recording what a model takes, as training did.

    Parameters
    ----------
    model : ModelSettings
    cache : dict
        What a checkpoint holds of the cache that the model was trained from.
    device : torch.device
    segment : callable
        Finds heart states in a recording.
    """

    def __init__(
        self, model: ModelSettings, cache: Mapping[str, Any], device: torch.device, segment: Segment
    ) -> None:
        self.preparation = from_plain(PreparationSettings, cache["settings"])
        self.model, self.device, self.segment = model, device, segment
        self.learned: Mapping[str, int] = cache.get("beat_source") or _usual_ways(cache, self.preparation)

    def for_network(self, user: UserRecording) -> PreparedInput:
        """Cut the beats of a recording as preparation does."""
        model, recording = self.model, user.recording
        takes = signals_of(model)
        read = takes.modalities
        used = tuple(modality for modality in read if getattr(recording, modality) is not None)
        lacking = [NAMES[modality] for modality in read if modality not in used]
        if not used or (lacking and not takes.any_subset):
            raise DataError(
                f"There is no {' and no '.join(lacking)}, which {model.model} needs: use a model trained "
                "with --modality-dropout, or the linear one, which take either signal."
            )
        found, source, warnings = self._find_beats(user)
        spans = spans_of_samples(found, user.duration, self.preparation)
        if not len(spans):
            raise DataError(
                "It is too short for one sample of this model, which reads more than a beat at once."
            )
        signals, has = {}, {}
        for modality in NAMES:
            signal = getattr(recording, modality)
            beats = np.zeros((len(spans), model.points), dtype=np.float32)
            if signal is not None:
                cut = prepare_beats(signal.samples, signal.sampling_rate, modality, spans, self.preparation)
                beats = shorten_beats(cut, model.points)
            signals[modality] = torch.tensor(beats).unsqueeze(1).to(self.device)
            has[modality] = torch.full((len(spans),), signal is not None, device=self.device)
        nothing = torch.zeros(len(spans), dtype=torch.int64, device=self.device)
        samples = Beats(
            table=pd.DataFrame({"recording": [user.name] * len(spans)}),
            ecg=signals["ecg"],
            pcg=signals["pcg"],
            label=nothing,
            weight=torch.ones(len(spans), device=self.device),
            has_ecg=has["ecg"],
            has_pcg=has["pcg"],
            zeroed=model.zeroed,
        )
        return PreparedInput(samples, used, spans, found, source, warnings)

    def _find_beats(self, user: UserRecording) -> tuple[NDArray[np.float64], str, list[SignalWarning]]:
        """Return the beats by the first way that finds some, its name, and what is doubtful about it."""
        duration = user.duration
        states, warnings = self._annotated(user)
        tried: list[str] = []
        for source in _AT_R_PEAKS if self._begins_at_r_peaks else _AT_S1:
            of_source: list[SignalWarning] = []
            try:
                spans = self._spans_by(source, user, states, of_source)
            except DataError as error:
                tried.append(str(error))
                continue
            spans = spans[spans[:, 1] <= duration]
            if len(spans) >= FEWEST_BEATS:
                return spans, source, [*warnings, *of_source, *self._unlike_training(source)]
        raise DataError(" ".join(["No beats are found.", *tried]))

    @property
    def _begins_at_r_peaks(self) -> bool:
        """Whether the training cut beats at R-peaks, in half of its recordings or more."""
        return self.learned.get(BY_R_PEAKS, 0) >= sum(self.learned.values()) / 2

    def _spans_by(
        self, source: str, user: UserRecording, states: HeartStates | None, warnings: list[SignalWarning]
    ) -> NDArray[np.float64]:
        """Return beats found in one way; none where that way is not open."""
        none: NDArray[np.float64] = np.zeros((0, 2))
        recording, duration = user.recording, user.duration
        if source == ANNOTATION:
            return none if states is None else annotated_spans(states, duration)
        if source == R_PEAKS:
            ecg = recording.ecg
            return none if ecg is None else r_peak_spans(fill_gaps(ecg.samples), ecg.sampling_rate)
        if recording.pcg is None:
            return none
        return annotated_spans(self._segmented(recording, warnings), duration)

    def _annotated(self, user: UserRecording) -> tuple[HeartStates | None, list[SignalWarning]]:
        """Return the annotated heart states by the rule of preparation, or why they are not used."""
        if user.annotation is None:
            return None, []
        try:
            row: dict[str, object] = {"annotation": user.annotation.name}
            return read_states(user.annotation.parent, row, user.recording, self.preparation), []
        except DataError as error:
            return None, [SignalWarning("annotation", "", f"The annotation is not used: {error}")]

    def _unlike_training(self, source: str) -> list[SignalWarning]:
        """Return a warning about beats cut otherwise than all of those of the training."""
        at_r_peaks = source == R_PEAKS
        alike = [way for way in self.learned if (way == BY_R_PEAKS) == at_r_peaks]
        if alike or self.preparation.cut == "windows":
            return []
        begins = {True: "at R-peaks", False: "at S1"}
        text = (
            f"Beats are cut {begins[at_r_peaks]}, and the model learned beats cut {begins[not at_r_peaks]}."
        )
        return [SignalWarning("beats", "", text)]

    def for_recording(self, user: UserRecording, models: Sequence[Any]) -> PreparedInput:
        """Compute the features of a recording, of the signals that are good enough for them."""
        recording = user.recording
        self._check_signals(recording)
        states, warnings = self._annotated(user)
        source = ANNOTATION
        grid, bands = np.full(math.prod(spectral.GRID_SHAPE), np.nan), np.full(spectral.ECG_BANDS, np.nan)
        pcg, ecg = recording.pcg, recording.ecg
        if pcg is not None and _is_read(models, "pcg", pcg.sampling_rate, warnings):
            if states is None:
                source = AUTOMATIC
                try:
                    states = self._segmented(recording, warnings)
                except DataError as error:
                    text = f"The heart sound is left out: no heart states are found in it. {error}"
                    warnings.append(SignalWarning("no-beats", "pcg", text))
            if states is not None:
                grid = spectral.pcg_grid(pcg.samples, pcg.sampling_rate, states)
        if ecg is not None and _is_read(models, "ecg", ecg.sampling_rate, warnings):
            bands = spectral.ecg_band_powers(ecg.samples, ecg.sampling_rate)
        values = {"ecg": bands.astype(np.float32), "pcg": grid.astype(np.float32)}
        used = tuple(modality for modality in NAMES if np.isfinite(values[modality]).all())
        if not used:
            reasons = [warning.text for warning in warnings] or [
                "No complete beat is found in the heart sound."
            ]
            raise DataError(" ".join(reasons))
        if pcg is not None and states is not None and "pcg" not in used:
            text = "The heart sound is left out: no complete beat (S1, systole, S2, diastole) is in it."
            warnings.append(SignalWarning("no-beats", "pcg", text))
        spans = np.zeros((0, 2))
        if states is not None:
            spans = spectral.cell_edges(states, user.duration)[:, [0, -1]]
        elif ecg is not None:
            spans, source = r_peak_spans(fill_gaps(ecg.samples), ecg.sampling_rate), R_PEAKS
        samples = self._features(user, values, used)
        return PreparedInput(
            samples, used, spans, spans, source, warnings + _warnings_of_features(models, samples, used)
        )

    def _check_signals(self, recording: Recording) -> None:
        """Refuse a recording that has none of the signals that the model reads."""
        read = signals_of(self.model).modalities
        if all(getattr(recording, modality) is None for modality in read):
            lacking = " and no ".join(NAMES[modality] for modality in read)
            raise DataError(f"There is no {lacking}, which {self.model.model} needs.")

    def _features(
        self, user: UserRecording, values: Mapping[str, NDArray[np.float32]], used: tuple[str, ...]
    ) -> Recordings:
        """Return the features of one recording as the fitted models take them."""
        content: dict[str, Any] = {
            "table": pd.DataFrame({"recording": [user.name]}),
            "pcg_grid": torch.from_numpy(values["pcg"][None]).to(self.device),
            "ecg_bands": torch.from_numpy(values["ecg"][None]).to(self.device),
            "has_pcg": torch.tensor(["pcg" in used], device=self.device),
            "has_ecg": torch.tensor(["ecg" in used], device=self.device),
            "label": torch.zeros(1, dtype=torch.int64, device=self.device),
            "weight": torch.ones(1, device=self.device),
        }
        if self.model.model != "phase-fusion":
            return Recordings(**content)
        ecg, cycle = user.recording.ecg, np.full(math.prod(SHAPE), np.nan)
        if ecg is not None and "ecg" in used:
            cycle = ecg_cycle_grid(ecg.samples, ecg.sampling_rate)
        ecg_grid = torch.from_numpy(cycle.astype(np.float32)[None]).to(self.device)
        return GridRecordings(**content, ecg_grid=ecg_grid)

    def _segmented(self, recording: Recording, warnings: list[SignalWarning]) -> HeartStates:
        """Return heart states found automatically, with a warning where they are uncertain."""
        found = self.segment(recording)
        if recording.ecg is None and not repeats(certainty(recording, found)):
            raise DataError("No heart beat that repeats is found in it: it is too noisy.")
        warnings += segmentation_warnings(recording, found)
        return found.states


def _is_read(
    models: Sequence[Any], modality: str, sampling_rate: float, warnings: list[SignalWarning]
) -> bool:
    """Whether linear models read a signal, and it is sampled fast enough for their features."""
    if not all(model.reads(modality) for model in models):
        warnings.append(SignalWarning("unread", modality, f"The model does not read the {NAMES[modality]}."))
        return False
    highest = HIGHEST[modality]
    if sampling_rate < 2 * highest:
        text = (
            f"The {NAMES[modality]} is left out: it is sampled at {sampling_rate:g} Hz, and the model reads "
            f"up to {highest:g} Hz, for which {2 * highest:g} Hz are needed."
        )
        warnings.append(SignalWarning("rate", modality, text))
        return False
    return True


def _warnings_of_features(
    models: Sequence[Any], samples: Recordings, used: tuple[str, ...]
) -> list[SignalWarning]:
    """Return warnings about features that are far from those of the training.

    None for cycle-shape: in databases left out, recordings far from the training were predicted no worse.
    """
    if not all(hasattr(model, "standardized") for model in models):
        return []
    values = {"ecg": samples.ecg_bands, "pcg": samples.pcg_grid}
    warnings = []
    for modality in used:
        scores = [model.standardized(modality, values[modality]) for model in models]
        distance = float(torch.stack(scores).square().mean().sqrt())
        if distance > _UNLIKE[modality]:
            text = (
                f"The {NAMES[modality]} is unlike those the model was trained on (distance {distance:.1f}; "
                f"1 is usual, {_UNLIKE[modality]:g} rare): another device or noise, and the prediction may "
                "be wrong."
            )
            warnings.append(SignalWarning("unlike", modality, text))
    return warnings
