"""Find and read recordings of a user: files with their channels, and heart sounds with or without an ECG.

Nothing outside the folder of a recording is read on the word of its header. A signal that cannot be used is
left out with a warning, as long as the other one can.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.channel_files import CHANNEL_FILES
from datasets.recordings import RECORDINGS, ChannelFinder, Recording, Signal, make_signal, read_recording
from datasets.signal_quality import NAMES, SignalWarning
from datasets.sound_files import SOUNDS
from datasets.sources import DataError
from datasets.wfdb_files import find_files, unnamed_files
from systems.base.predictor import RecordingPath, distinct
from systems.ecg_pcg.settings import EcgPcgPredictionSettings
from systems.ecg_pcg.sources.cohort import PLAUSIBLE_RATE, find_channels, unknown_channels
from systems.ecg_pcg.sources.sample_files import SAMPLES, read_samples

_ANNOTATIONS = ("_StateAns.mat", "_StateAns0.mat", ".tsv")
"""Ends of the names of files of heart-state onsets, hand-corrected and automatic."""
_KNOWN = f"a WFDB record (with or without .hea), a sound ({', '.join(SOUNDS)}), {', '.join(CHANNEL_FILES)}"


@dataclass(frozen=True)
class UserRecording:
    """One recording of a user.

    Attributes
    ----------
    name : str
    path : pathlib.Path
        Its header, sound or file of channels.
    recording : Recording
        Signals that can be used.
    annotation : pathlib.Path or None
        Its file of heart-state onsets, not read yet.
    channels : dict of str to str
        Where each signal comes from: the name of a channel, or of a file.
    warnings : list of SignalWarning
        What was left out, and what is doubtful, as far as reading tells.
    """

    name: str
    path: Path
    recording: Recording
    annotation: Path | None = None
    channels: dict[str, str] = field(default_factory=dict)
    warnings: list[SignalWarning] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """Time that all of its signals last, seconds."""
        signals = (self.recording.ecg, self.recording.pcg)
        return min(signal.duration for signal in signals if signal is not None)


def find_recordings(given: Iterable[Path]) -> list[RecordingPath]:
    """Return the recordings that paths name: records, other files, and all of them in folders, recursively.

    Names are those of the files without ending, with their folders where a folder was given; equal names
    get a number. Hidden files and folders are left out, and so is a file that belongs to a record. Whether
    a file is there shows when it is read.

    Raises
    ------
    DataError
        If a folder holds no recording.
    """
    found: list[RecordingPath] = []
    for path in given:
        found += _of_folder(path) if path.is_dir() else [RecordingPath(_name(Path(path.name)), path)]
    return distinct(found)


def _resolve_recording(path: Path) -> Path:
    """Return the header or other file that a path means; records may be named without .hea.

    Raises
    ------
    DataError
        If there is none.
    """
    header = path.with_name(f"{path.name}.hea")
    if path.suffix.lower() in RECORDINGS and path.is_file():
        return path
    if path.name and header.is_file():
        return header
    beside = path.with_suffix(".hea") if path.suffix else header
    hint = f" Perhaps you meant {beside.with_suffix('')}." if path.is_file() and beside.is_file() else ""
    what = "is neither a WFDB record nor a .wav file" if path.is_file() else "does not exist"
    if path.suffix.lower() in SAMPLES and path.is_file() and not hint:
        hint = " An ECG of bare numbers is read beside a sound: predict.py SOUND --ecg FILE --ecg-rate HERTZ."
    raise DataError(f"{path} {what}.{hint} Name {_KNOWN}, or a folder.")


def _of_folder(folder: Path) -> list[RecordingPath]:
    """Return the recordings in a folder and its subfolders, sorted by name."""
    files = sorted(find_files(folder, RECORDINGS))
    if not files:
        raise DataError(
            f"{folder} holds no recording: no WFDB header (.hea), and none of {', '.join(RECORDINGS[1:])}."
        )
    return [RecordingPath(_name(path.relative_to(folder)), path) for path in files]


def _name(path: Path) -> str:
    """Return the name of a recording: its path without the ending."""
    return (path.with_suffix("") if path.suffix.lower() in RECORDINGS else path).as_posix()


def read_user_recording(path: RecordingPath, options: EcgPcgPredictionSettings) -> UserRecording:
    """Read one recording.

    Raises
    ------
    DataError
        If nothing usable is in it. The message says why.
    """
    found = RecordingPath(path.name, _resolve_recording(path.path))
    is_sound = found.path.suffix.lower() in SOUNDS
    if not is_sound and options.ecg is not None:
        raise DataError(f"--ecg belongs to a .wav; {found.path.name} is a WFDB record with its own channels.")
    try:
        user = (_read_sound if is_sound else _read_record)(found, options)
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # there is no end to the ways in which files from anywhere can be damaged
        reason = str(error) or type(error).__name__
        raise DataError(f"{found.path.name} cannot be read: {reason}.") from error
    return _plausible(user)


def _read_record(found: RecordingPath, options: EcgPcgPredictionSettings) -> UserRecording:
    """Read a record or file of channels; where one of two signals is unusable, the other one."""
    seen: list[Any] = []

    def find(record: Any) -> tuple[int | None, int | None]:
        seen.append(record)
        return find_channels(record, options.ecg_channel, options.pcg_channel)

    recording, warnings = _read_usable(found.path, find)
    warnings += _warnings_of_channels(seen[0], options)
    if found.path.suffix == ".hea":
        warnings += _warnings_of_sounds(found.path)
    annotation = _find_annotation(found.path, options)
    return UserRecording(found.name, found.path, recording, annotation, recording.channels, warnings)


def _read_usable(file: Path, find: ChannelFinder) -> tuple[Recording, list[SignalWarning]]:
    """Read both signals of a record, or the one that can be read and a warning about the other."""
    try:
        whole = read_recording(file, file.parent, find)
        return whole, [SignalWarning(*warning) for warning in whole.warnings]
    except DataError as both:
        found, faults = list[Recording](), dict[str, str]()
        for index, modality in enumerate(NAMES):
            try:
                alone = functools.partial(_only, find=find, kept=index)
                found.append(read_recording(file, file.parent, alone))
            except DataError as error:
                faults[modality] = str(error)
        if len(found) != 1:  # neither signal alone, or a fault of the record itself
            raise both from None
        ((modality, reason),) = faults.items()
        text = f"The {NAMES[modality]} is left out: {reason}"
        warnings = [SignalWarning(*warning) for warning in found[0].warnings]
        return found[0], [*warnings, SignalWarning("unusable", modality, text)]


def _only(record: Any, find: ChannelFinder, kept: int) -> tuple[int | None, int | None]:
    """Return the numbers of the channels of a record with one of the two hidden."""
    numbers = find(record)
    return (numbers[0], None) if kept == 0 else (None, numbers[1])


def _warnings_of_channels(record: Any, options: EcgPcgPredictionSettings) -> list[SignalWarning]:
    """Warn of channels in which the signal may be that is not found; refuse one that was asked for.

    Raises
    ------
    DataError
    """
    requested = {"ecg": options.ecg_channel, "pcg": options.pcg_channel}
    numbers = find_channels(record, *requested.values())
    names, unknown = ", ".join(map(str, record.sig_name)), unknown_channels(record, numbers)
    warnings = []
    for (modality, name), number in zip(requested.items(), numbers, strict=True):
        if number is None and name:
            raise DataError(f"There is no channel {name!r} for --{modality}-channel; there are {names}.")
        if number is None and unknown:
            text = f"No {NAMES[modality]} is recognized among the channels {names}. "
            remedy = f"If {' or '.join(unknown)} is one, name it with --{modality}-channel."
            warnings.append(SignalWarning("no-channel", modality, text + remedy))
    return warnings


def _warnings_of_sounds(header: Path) -> list[SignalWarning]:
    """Warn of a sound beside a header that does not name it."""
    return [
        SignalWarning(
            "unnamed-sound",
            "pcg",
            f"{sound.name} is not used, as {header.name} does not name it. If both were recorded together: "
            f"predict.py {sound.name} --ecg {header.stem}",
        )
        for sound in unnamed_files(header, SOUNDS)
    ]


def _read_sound(found: RecordingPath, options: EcgPcgPredictionSettings) -> UserRecording:
    """Read a heart sound, and the ECG that was recorded with it, if one is named."""
    recording = read_recording(found.path, found.path.parent)
    warnings = [SignalWarning(*warning) for warning in recording.warnings]
    if options.ecg is not None:
        ecg, source = _read_ecg(options)
        digest = hashlib.sha256(found.path.read_bytes())
        digest.update(source.read_bytes())
        channels = recording.channels | {"ecg": source.name}
        recording = dataclasses.replace(recording, ecg=ecg, sha256=digest.hexdigest(), channels=channels)
    annotation = _find_annotation(found.path, options)
    return UserRecording(found.name, found.path, recording, annotation, recording.channels, warnings)


def _read_ecg(options: EcgPcgPredictionSettings) -> tuple[Signal, Path]:
    """Read the ECG of a sound, and return the file that it is in."""
    path = options.ecg
    assert path is not None
    if path.suffix.lower() not in SAMPLES:
        file = _resolve_recording(path)
        if file.suffix.lower() in SOUNDS:
            raise DataError(
                f"--ecg {path} is a {file.suffix.lower()}: name a WFDB record, a .npy or a .csv file."
            )
        find = functools.partial(find_channels, ecg_channel=options.ecg_channel)
        ecg = read_recording(file, file.parent, functools.partial(_only, find=find, kept=0)).ecg
        assert ecg is not None  # else there would have been an error
        return ecg, file
    if not path.is_file():
        raise DataError(f"There is no {path}: --ecg names a WFDB record, a .npy or a .csv file.")
    if options.ecg_rate is None or not 0 < options.ecg_rate < float("inf"):
        raise DataError(f"{path.name} does not state its sampling rate: add --ecg-rate HERTZ.")
    return make_signal(read_samples(path), options.ecg_rate, path.name), path


def signal_digest(samples: NDArray[np.float32]) -> str:
    """Return a digest of the samples of one signal, the same from a whole record and from its .wav alone."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<f4").tobytes()).hexdigest()


def _find_annotation(path: Path, options: EcgPcgPredictionSettings) -> Path | None:
    """Return the file of heart-state onsets beside a recording, or in the folder named."""
    folder = options.annotations or path.parent
    candidates: Sequence[Path] = [folder / f"{path.stem}{ending}" for ending in _ANNOTATIONS]
    return next((file for file in candidates if file.is_file()), None)


def _plausible(user: UserRecording) -> UserRecording:
    """Leave out signals whose sampling rate cannot be right; refuse a recording without any other."""
    kept: dict[str, Signal | None] = {}
    warnings = list(user.warnings)
    for modality, name in NAMES.items():
        signal = kept[modality] = getattr(user.recording, modality)
        low, high = PLAUSIBLE_RATE[modality.upper()]
        if signal is not None and not low <= signal.sampling_rate <= high:
            kept[modality] = None
            text = f"{signal.sampling_rate:g} Hz; {low:g} to {high:g} Hz is plausible"
            warnings.append(
                SignalWarning("rate", modality, f"The {name} is left out: its sampling rate is {text}.")
            )
    if not any(kept.values()):
        raise DataError(" ".join(warning.text for warning in warnings))
    recording = dataclasses.replace(user.recording, ecg=kept["ecg"], pcg=kept["pcg"])
    return dataclasses.replace(user, recording=recording, warnings=warnings)
