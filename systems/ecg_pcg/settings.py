"""Settings of ecg-pcg: preparation, model, training, and its presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from common.options import Bounds, Count, InnerShare, Names, NotNegative, Positive, Share
from config import EvaluationSettings, OptimizationSettings, PredictionSettings, RunSettings, SourceSettings
from simulation.settings import SimulationSettings

Protocol = Literal["paper", "beat", "recording", "session", "database"]
Onsets = Literal["hand-corrected", "springer", "automatic", "ecg"]
Band = Annotated[tuple[float, float], Bounds(0, open=True, rising=True)]
MODELS = (
    *("pacfnet", "ecg-network", "pcg-network", "last-fusion", "concatenation", "spatial-attention"),
    *("channel-attention", "early-fusion", "late-fusion", "cross-attention", "linear", "phase-fusion"),
    "cycle-shape",
)
"""Names of `models.MODELS`, which cannot be imported without torch."""


@dataclass(frozen=True)
class PreparationSettings:
    """What is done to a recording before a model reads it. Part of the name of the cache."""

    onsets: Onsets = "hand-corrected"
    """Where beats come from: annotated heart states (hand-corrected, or Springer's as published), those that
    predict.py finds in every heart sound (automatic), or R-peaks of the ECG (ecg). Where nothing is annotated
    heart states are found automatically, and without a heart sound R-peaks."""
    cut: Literal["beats", "windows"] = "beats"
    """What a sample is: beats, or windows of a fixed length that slide over the whole recording. Windows that
    overlap share signal: train and test do as well under protocols paper and beat, which split samples."""
    beats_per_sample: Count = 1
    """Beats in a row that make one sample; no beat is in two."""
    window_seconds: Positive = 3.0
    """Length of a window; used with --cut windows."""
    window_step: Positive = 1.0
    """Seconds from the start of a window to that of the next; used with --cut windows."""
    beat_points: Count = 2000
    """Samples of one beat, or of one sample of several beats or a window, after cubic time normalization."""
    bandpass: bool = False
    """Zero-phase Butterworth band-pass of order 2 on both signals (off in the published method)."""
    ecg_band: Band = (0.5, 100.0)
    """Pass band of the ECG, hertz; used with --bandpass."""
    pcg_band: Band = (25.0, 400.0)
    """Pass band of the heart sound, hertz; used with --bandpass."""
    keep_low_quality: bool = False
    """Keep recordings whose signal quality is 0 ("unsure") in the reference table."""
    modalities: Literal["as-published", "both", "any"] = "as-published"
    """Signals a recording must have: those its set was published with (training-a: both; training-b
    to f: heart sound), always both, or at least one."""


@dataclass(frozen=True)
class LoadDataSettings(SourceSettings):
    """Settings of load_data.py."""

    raw_dir: Path | None = None
    """Folder of raw recordings: one that holds training-a ... training-f and annotations, one's own
    cohort (recordings and labels.csv), or CirCor. Default: $PHYSIONET2016_DIR, data/raw/challenge-2016."""
    source: Literal["auto", "physionet2016", "cohort", "circor"] = "auto"
    """Layout of raw_dir; auto looks for labels.csv (cohort), training-* folders (physionet2016) or
    <patient>.txt (circor)."""
    label: Literal["outcome", "murmur"] = "outcome"
    """CirCor: what is learned, the outcome of the patient (normal or abnormal) or the murmur (absent or
    present)."""
    sets: tuple[Literal["a", "b", "c", "d", "e", "f"], ...] = ("a",)
    """Sets of PhysioNet/CinC 2016 to read or download; only training-a has an ECG."""
    download: bool = False
    """Fetch the sets and their annotations from PhysioNet into raw_dir first (checksums, resumable)."""
    preparation: tyro.conf.OmitArgPrefixes[PreparationSettings] = PreparationSettings()
    simulation: SimulationSettings = dataclasses.field(default_factory=SimulationSettings)
    ecg_channel: str = ""
    """Own cohort: name of the ECG channel in the WFDB headers; empty: recognized by its name."""
    pcg_channel: str = ""
    """Own cohort: name of the heart-sound channel in the WFDB headers; empty: recognized by its name."""


@dataclass(frozen=True)
class ModelSettings:
    """Which network, and its size."""

    model: Annotated[str, Names("model", MODELS)] = "pacfnet"
    """Name of the model."""
    width: Count = 64
    """Channels of the first level; level k has k times as many."""
    points: Count = 2000
    """Samples of a beat that the model takes; fewer than cached are taken anti-aliased."""
    kernel_size: Count = 7
    """Kernel of the encoder convolutions, samples."""
    dropout: Share = 0.5
    """Dropout of the dense layers of the head, 0 to 1."""
    start: Literal["he-normal", "uniform"] = "he-normal"
    """Weights at the start: normal of variance 2 / inputs and zero biases (He et al. 2015, as published), or
    uniform and smaller (torch's default), from which narrow networks learn faster."""
    norm_momentum: Share = 0.01
    """Weight of the newest batch in the running statistics of batch normalization."""
    levels: Annotated[int | None, Bounds(1, 4)] = None
    """Levels of the encoders and of the fusion, 1 to 4; default: 4, as published."""
    fusion_levels: Annotated[tuple[int, ...] | None, Bounds(1, 4)] = None
    """Levels at which the signals are fused, from 1, as in --fusion-levels 2 4; the last must be among them.
    Default: all."""
    attention: Literal["cascaded", "parallel"] | None = None
    """Channel attention reads the spatially weighted features (cascaded: the default, as in the paper's text
    and figure), or the raw features (parallel: as in the code published with it)."""
    modality_dropout: Share = 0.0
    """Share of training samples in which the ECG or the heart sound, chosen at random, is hidden, 0 to 1.
    Above 0 the model learns features for what is absent and then takes both signals or either one."""
    zeroed: Literal["none", "ecg", "pcg"] = "none"
    """Signal that is zeros in training and in use: the paper's way to measure one modality. Of zeros an
    encoder can learn but constants, so constants are learned in its place."""


@dataclass(frozen=True)
class TrainingSettings(RunSettings):
    """Settings of training.py."""

    protocol: Protocol = "session"
    """Who is kept apart between train and test: sessions (session, the default), recordings, beats;
    database: one hospital with its devices is left out at a time (a set of PhysioNet/CinC 2016, or the column
    database of labels.csv); or paper: beats, with selection on the test fold, to reproduce the published
    figures."""
    model: tyro.conf.OmitArgPrefixes[ModelSettings] = ModelSettings()
    focal_gamma: NotNegative = 0.0
    """Exponent of focal loss, by which samples that are already right count less; 0: cross-entropy."""

    def variant(self) -> str:
        """Return the model, and what it does about missing signals."""
        hidden = f"-no-{self.model.zeroed}" if self.model.zeroed != "none" else ""
        return f"{self.model.model}{hidden}{'-subsets' if self.model.modality_dropout else ''}"


@dataclass(frozen=True)
class EcgPcgEvaluationSettings(EvaluationSettings):
    """Settings of evaluate.py for a run of ecg-pcg."""

    audit: bool = False
    """Evaluate no model but the data and the splits: what is known from metadata alone, what train and test
    share. Exit status 1 if a protocol does not keep what it promises."""
    stress: bool = False
    """Evaluate the run again under noise, clipping, shifts and lower sampling rates: 82 corruptions of the
    recordings, on one CPU core about 15 minutes for a small network."""
    prevalence: InnerShare = None
    """Share of abnormal, 0 to 1, at which scores are reported as well."""


EVALUATION: dict[str, type[EvaluationSettings]] = {"ecg-pcg": EcgPcgEvaluationSettings}
"""Settings of evaluate.py by task, where there are more than the shared ones."""


@dataclass(frozen=True)
class EcgPcgPredictionSettings(PredictionSettings):
    """Settings of predict.py for a run of ecg-pcg."""

    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """WFDB records (with or without .hea), heart sounds (.wav, .flac ...), .edf, .dcm, or folders of them."""
    ecg: Path | None = None
    """ECG recorded together with the one .wav that is given, starting at the same moment: a WFDB record, or
    .npy, .mat or .csv with one column of numbers (then with --ecg-rate)."""
    ecg_channel: str = ""
    """Name of the ECG channel in the WFDB headers; empty: recognized by its name."""
    pcg_channel: str = ""
    """Name of the heart-sound channel in the WFDB headers; empty: recognized by its name."""
    annotations: Path | None = None
    """Folder of heart-state onsets, <recording>_StateAns.mat each; default: beside each recording."""
    prevalence: InnerShare = None
    """Share of abnormal among those who are measured, 0 to 1: the probability is given for it as well."""


PREDICTION: dict[str, type[PredictionSettings]] = {"ecg-pcg": EcgPcgPredictionSettings}
"""Settings of predict.py by task."""

_PAPER = OptimizationSettings(
    adam_epsilon=1e-7, plateau_floor=1e-6, least_improvement=0.0, clip="tensor", drop_last=False
)
_SMALL_MODEL = ModelSettings(width=16, points=500, start="uniform", norm_momentum=0.1)
_SMALL = OptimizationSettings(
    batch_size=64,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=1e-2,
    schedule="one-cycle",
    epochs=12,
    early_stop=0,
)
_SMALL_UNSEEN_EPOCHS = 8
"""Fewer, where people of the test part are not in train: the network overfits earlier."""


def defaults(
    preset: Literal["paper", "small"], protocol: str = "", task: str = "ecg-pcg"
) -> TrainingSettings:
    """Return the training settings that a preset and a protocol stand for.

    A protocol that does not exist counts as the default: the command line refuses it.
    """
    chosen: Protocol = next((name for name in get_args(Protocol) if name == protocol), "session")
    folds = 0 if chosen == "database" else TrainingSettings.fold_count
    if preset == "paper":
        return TrainingSettings(preset=preset, protocol=chosen, fold_count=folds, optimization=_PAPER)
    if preset != "small":
        raise ValueError(f"Unknown preset {preset!r}: choose paper or small.")
    optimization = _SMALL
    if chosen in ("session", "database"):
        optimization = dataclasses.replace(optimization, epochs=_SMALL_UNSEEN_EPOCHS)
    return TrainingSettings(
        preset=preset, protocol=chosen, fold_count=folds, model=_SMALL_MODEL, optimization=optimization
    )
