"""From one raw recording to what the cache keeps of it: waveforms, heart states, beats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.beats import (
    PLAUSIBLE_CYCLE,
    HeartStates,
    annotated_spans,
    groups_of_beats,
    r_peak_spans,
    read_heart_states,
    sliding_windows,
)
from datasets.cache import Prepared
from datasets.recordings import ChannelFinder, Recording, Signal, channels_by_name, read_recording
from datasets.signals import Floats, bandpass, cut_beats, fill_gaps, resample, shorten_beats, standardize
from datasets.sources import DataError, Problem
from datasets.wfdb_files import is_inside
from systems.ecg_pcg.settings import PreparationSettings

BY_ANNOTATION, BY_SEGMENTATION, BY_R_PEAKS, BY_NOTHING = "annotation", "automatic", "ecg", "none"
"""How the beats of a recording were found, as ``beat_source`` of ``recordings.csv`` says it."""
_BEAT_RATE = 2000.0
"""Rate above which signals are anti-aliased before beats are cut, hertz."""
MODALITIES = ("ecg", "pcg")
INDEX_COLUMNS = {
    "recording": str,  # unique name
    "database": str,  # hospital with its devices: training-a ... training-f, circor, or as a cohort says
    "header": str,  # WFDB header, path relative to the root, with forward slashes
    "annotation": str,  # heart-state onsets (.mat), path relative to the root; empty: none
    "session": str,  # session; the unit that the session protocol keeps apart
    "position": float,  # place in the order of the session; NaN: unknown
    "person": str,  # for reporting only; empty: to be inferred from the sites in order of position
    "label": int,  # 0 normal, 1 abnormal
    "diagnosis": str,  # as the source names it; empty: unknown
    "site": str,  # auscultation site; empty: unknown
    "quality": int,  # 1 good, 0 unsure
    "needs": str,  # signals the set was published with: "ecg+pcg", "pcg", or "any"
}


def index_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return rows as an index table: the columns of `INDEX_COLUMNS`, their types, sorted by recording.

    A text that a source does not name is empty.
    """
    texts = {name: "" for name, kind in INDEX_COLUMNS.items() if kind is str}
    table = pd.DataFrame(rows, columns=list(INDEX_COLUMNS)).fillna(texts).astype(INDEX_COLUMNS)
    return table.sort_values("recording", ignore_index=True)


@dataclass(frozen=True)
class PreparedRecording(Prepared):
    """What one recording of ECG and heart sound gives to the cache.

    Attributes
    ----------
    waveforms : dict of str to numpy.ndarray
        Continuous signals at their own rate, gaps as NaN: "ecg" in millivolts, "pcg" of full scale.
    beats : dict of str to numpy.ndarray, shape (samples, points)
        Standardized and time-normalized samples of each signal the recording has: beats, unless the settings
        say otherwise.
    spans : numpy.ndarray, shape (samples, 2)
        Their start and end, seconds.
    states : HeartStates or None
        Annotated or automatic onsets.
    """

    waveforms: dict[str, NDArray[np.float32]]
    beats: dict[str, NDArray[np.float32]]
    spans: NDArray[np.float64]
    states: HeartStates | None


def prepare_recording(
    root: Path,
    row: dict[str, object],
    settings: PreparationSettings,
    find_channels: ChannelFinder = channels_by_name,
) -> PreparedRecording | Problem:
    """Prepare one recording of an index, or say why it is left out.

    Parameters
    ----------
    root : pathlib.Path
        Folder that the paths of the index are relative to.
    row : dict
        One row of the index.
    settings : PreparationSettings
    find_channels : callable
        Tells which channel is the ECG and which the heart sound.
    """
    try:
        return _prepare(root, row, settings, find_channels)
    except DataError as error:
        return Problem(str(row["recording"]), str(error), "Mend or remove the recording, then prepare again.")


def _prepare(
    root: Path, row: dict[str, object], settings: PreparationSettings, find_channels: ChannelFinder
) -> PreparedRecording | Problem:
    name = str(row["recording"])
    if row["quality"] == 0 and not settings.keep_low_quality:
        return Problem(
            name, "The reference table gives its signal quality as 0.", "Keep it with --keep-low-quality."
        )
    recording = read_recording(root / str(row["header"]), root, find_channels)
    lacking = _lacking(recording, row, settings)
    if lacking:
        return Problem(name, f"It has no {lacking}.", "Keep it with --modalities any.")
    signals = {kind: signal for kind in MODALITIES if (signal := getattr(recording, kind)) is not None}
    ready = {kind: _condition(signal, kind, settings) for kind, signal in signals.items()}
    problems: list[Problem] = []
    states, source, certain = _find_states(root, row, recording, settings, problems)
    duration = min(signal.duration for signal in signals.values())
    beats, source = _find_beats(recording, states, source, duration)
    if source == BY_NOTHING and settings.cut == "beats":
        return Problem(name, "It has no ECG to find R-peaks in.", "Choose other --onsets.")
    usual = float(np.median(beats[:, 1] - beats[:, 0])) if len(beats) else math.nan
    if len(beats) and not PLAUSIBLE_CYCLE[0] <= usual <= PLAUSIBLE_CYCLE[1]:
        return Problem(
            name, f"Its beats last {usual:.3g} s, as no heart's do.", "Check the sampling rate in its header."
        )
    spans = spans_of_samples(beats, duration, settings)
    if not len(spans):
        return _without_samples(name, beats, settings)
    cut = {kind: cut_samples(*ready[kind], spans, settings) for kind in ready}
    metadata = _metadata(row, recording, len(spans), duration, source) | certain
    waveforms = {kind: signal.samples for kind, signal in signals.items()}
    return PreparedRecording(metadata, waveforms, cut, spans, states, problems=problems)


def _find_states(
    root: Path,
    row: dict[str, object],
    recording: Recording,
    settings: PreparationSettings,
    problems: list[Problem],
) -> tuple[HeartStates | None, str, dict[str, float]]:
    """Return heart states, how they were found, and how certain automatic ones are.

    Raises
    ------
    DataError
        If beats are needed, and the heart sound is too noisy, or all there is and cannot be segmented.
    """
    states = read_states(root, row, recording, settings)
    if states is not None:
        return states, BY_ANNOTATION, {}
    if settings.onsets == "ecg" or recording.pcg is None:
        return None, BY_NOTHING, {}
    from systems.ecg_pcg.segmentation import automatic  # takes a second, and others need none of it

    name = str(row["recording"])
    try:
        found = automatic.automatic_states(recording)
    except DataError as error:
        if recording.ecg is None and settings.cut == "beats":
            raise
        what = f"It has no heart states. {error}"
        problems.append(Problem(name, what, "Mend or remove it.", left_out=False))
        return None, BY_NOTHING, {}
    certain = automatic.certainty(recording, found)
    if not automatic.repeats(certain):
        if settings.cut == "beats":
            raise DataError(
                "No heart beat that repeats is found in the heart sound: it is too noisy or short."
            )
        return None, BY_NOTHING, {}
    problems += [
        Problem(name, warning.text, "Listen to it.", left_out=False)
        for warning in automatic.segmentation_warnings(recording, found)
    ]
    columns = {f"states_{key}": round(value, 4) for key, value in certain.items()}
    return found.states, BY_SEGMENTATION, columns


def _find_beats(
    recording: Recording, states: HeartStates | None, source: str, duration: float
) -> tuple[NDArray[np.float64], str]:
    """Return the beats that end within the recording, shape (beats, 2), and what they were found in."""
    if states is not None:
        return annotated_spans(states, duration), source
    if recording.ecg is None:
        return np.zeros((0, 2)), BY_NOTHING
    spans = r_peak_spans(fill_gaps(recording.ecg.samples), recording.ecg.sampling_rate)
    return spans[spans[:, 1] <= duration], BY_R_PEAKS


def spans_of_samples(
    beats: NDArray[np.float64], duration: float, settings: PreparationSettings
) -> NDArray[np.float64]:
    """Return the spans of a recording that become samples, shape (samples, 2), in seconds.

    Parameters
    ----------
    beats : numpy.ndarray, shape (beats, 2)
        Single beats, in order.
    duration : float
        Of the recording, seconds.
    settings : PreparationSettings
    """
    if settings.cut == "windows":
        return sliding_windows(duration, settings.window_seconds, settings.window_step)
    return groups_of_beats(beats, settings.beats_per_sample)


def cut_samples(
    signal: Floats, sampling_rate: float, spans: Floats, settings: PreparationSettings
) -> NDArray[np.float32]:
    """Cut samples out of a conditioned signal, shape (samples, points).

    One beat is read off a spline, as published. Longer samples are read finer, and then made shorter without
    aliases.
    """
    finer = 1
    if settings.cut == "windows" or settings.beats_per_sample > 1:
        longest = float((spans[:, 1] - spans[:, 0]).max(initial=0.0))
        finer = max(1, math.ceil(longest * sampling_rate / settings.beat_points))
    beats = cut_beats(signal, sampling_rate, spans, finer * settings.beat_points)
    return shorten_beats(beats, settings.beat_points)


def _without_samples(name: str, beats: NDArray[np.float64], settings: PreparationSettings) -> Problem:
    """Say why a recording gives no sample."""
    if settings.cut == "windows":
        what = f"It is shorter than a window of {settings.window_seconds:g} s."
        return Problem(name, what, "Choose shorter ones with --window-seconds.")
    if len(beats):
        what = f"It has no {settings.beats_per_sample} complete beats in a row."
        return Problem(name, what, "Choose fewer with --beats-per-sample.")
    what = "No complete beat was found in it."
    return Problem(name, what, "Check its annotations, or try --onsets ecg.")


def _lacking(recording: Recording, row: dict[str, object], settings: PreparationSettings) -> str:
    """Name the signal that a recording must have and has not; empty if nothing is missing."""
    needs = {"as-published": str(row["needs"]), "both": "ecg+pcg", "any": "any"}[settings.modalities]
    absent = [kind for kind in MODALITIES if kind in needs and getattr(recording, kind) is None]
    return " and no ".join({"ecg": "ECG", "pcg": "heart sound"}[kind] for kind in absent)


def _condition(
    signal: Signal, kind: str, settings: PreparationSettings
) -> tuple[NDArray[np.floating], float]:
    """Return (signal, rate) to be cut: gaps filled, at most 2000 Hz, filtered if requested, z-scored."""
    samples, rate = fill_gaps(signal.samples.astype(np.float64)), signal.sampling_rate
    if rate > _BEAT_RATE:
        samples, rate = resample(samples, rate, _BEAT_RATE), _BEAT_RATE
    if settings.bandpass:
        try:
            samples = bandpass(samples, rate, settings.ecg_band if kind == "ecg" else settings.pcg_band)
        except ValueError as error:
            raise DataError(f"{error} Choose another with --{kind}-band.") from None
    return standardize(samples), rate


def read_states(
    root: Path, row: dict[str, object], recording: Recording, settings: PreparationSettings
) -> HeartStates | None:
    """Read the annotated onsets, where there are any and they are requested."""
    if settings.onsets in ("automatic", "ecg") or not row["annotation"]:
        return None
    if not is_inside(root / str(row["annotation"]), root):
        raise DataError(f"{row['annotation']} is a link that leads outside the data folder.")
    states = read_heart_states(root / str(row["annotation"]), recording.header_rate)
    longest = max(signal.duration for signal in (recording.ecg, recording.pcg) if signal is not None)
    if len(states.time) and states.time[-1] > longest:
        raise DataError(f"{row['annotation']} holds onsets after the end of the recording ({longest:.2f} s).")
    return states


def _metadata(
    row: dict[str, object], recording: Recording, beats: int, duration: float, beat_source: str
) -> dict[str, object]:
    """Return the recording's line for ``recordings.csv``."""
    metadata = {key: value for key, value in row.items() if key not in ("needs", "header", "annotation")}
    metadata |= {"duration": round(duration, 4), "beats": beats, "beat_source": beat_source}
    for kind in MODALITIES:
        signal = getattr(recording, kind)
        metadata[f"{kind}_rate"] = signal.sampling_rate if signal else 0.0
        metadata[f"{kind}_length"] = len(signal.samples) if signal else 0
        metadata[f"{kind}_saturated"] = round(signal.saturated, 6) if signal else 0.0
        metadata[f"{kind}_missing"] = round(signal.missing, 6) if signal else 0.0
    metadata["sha256"] = recording.sha256
    return metadata
