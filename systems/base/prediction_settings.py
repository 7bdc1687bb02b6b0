"""Settings of predict.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class DrawingSettings:
    """How a cine is drawn from an ECG, by a run of ecg-to-cmr."""

    steps: int = 20
    """Steps of drawing a cine: more are finer and slower."""
    samples: int = 8
    """Cines drawn from one ECG; how far they differ says what the ECG leaves open."""
    guidance: float = 1.0
    """How strongly the ECG is followed: 1 as learned, more exaggerates."""
    seed: int = 0
    """The same seed draws the same cines."""


@dataclass(frozen=True)
class PersonSettings:
    """Who was recorded, for runs that learned from it (ecg-phenotypes); what is not given is not known."""

    age: float | None = None
    """Years."""
    sex: Literal["male", "female"] | None = None
    """male or female."""
    height: float | None = None
    """Centimetres."""
    weight: float | None = None
    """Kilograms."""
    patients: Path | None = None
    """Table (.csv, .xlsx) of several: column patient, named as the file of the recording without its ending,
    and any of age, sex, height and weight. A pairs.csv is one."""


@dataclass(frozen=True)
class PredictionSettings:
    """What is to be judged, by which model, and what is to be written."""

    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """WFDB records (with or without .hea), .wav heart sounds, or folders of them; for a run of ecg-multimodal
    folders of patients."""
    checkpoint: Path | None = None
    """A run's folder or one checkpoint file; default: the small model that comes with the code. Of a run's
    folder the final fit on everything (fold_all) is used where there is one, else the mean of its folds."""
    ecg: Path | None = None
    """ECG recorded together with the one .wav that is given, starting at the same moment: a WFDB record, or
    .npy or .csv with one column of numbers (then with --ecg-rate). Without a sound, for a run of ecg-to-cmr:
    the 12-lead ECG to draw a cine from, a WFDB record or .npy (leads, samples) in millivolts; for a run of
    ecg-phenotypes, the one to judge."""
    ecg_rate: float | None = None
    """Sampling rate of an --ecg file that does not know its own (.npy, .csv), hertz; of ecg_signals.csv in a
    folder of patients, which by default is that of the run's own table, or 250."""
    ecg_channel: str = ""
    """Name of the ECG channel in the WFDB headers; empty: recognized by its name."""
    pcg_channel: str = ""
    """Name of the heart-sound channel in the WFDB headers; empty: recognized by its name."""
    annotations: Path | None = None
    """Folder of heart-state onsets, <recording>_StateAns.mat each; default: beside each recording."""
    prevalence: float | None = None
    """Share of abnormal among those who are measured, 0 to 1: the probability is given for it as well."""
    out: Path | None = None
    """Folder to write a figure (.png) and the metadata (.json) of each recording to; default: no files."""
    json: bool = False
    """Print one JSON document instead of text; messages go to the error stream."""
    batch_size: int = 256
    """Beats of one forward pass, at most; a CPU, which many make slower, judges 64 at a time."""
    device: str = "cpu"
    """cpu, auto (CUDA if there is one), cuda or cuda:N."""
    threads: int = 0
    """CPU threads of torch; 0: one a core."""
    drawing: tyro.conf.OmitArgPrefixes[DrawingSettings] = DrawingSettings()
    person: tyro.conf.OmitArgPrefixes[PersonSettings] = PersonSettings()
