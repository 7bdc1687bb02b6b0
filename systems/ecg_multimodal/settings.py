"""Settings of task ``ecg-multimodal``: normal or abnormal from ECG image, ECG signal and clinical table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from common.options import Count, InnerShare, NotNegative, Positive, Seed, Share
from config import OptimizationSettings, PredictionSettings, RunSettings, SourceSettings

Cause = Literal["clinical", "signal", "image"]
Fusion = Literal["gate", "concatenation", "late"]
MultimodalProtocol = Literal["patient", "official"]
View = Literal["image", "signal", "clinical"]


@dataclass(frozen=True)
class ModalitySettings:
    """What is done to a patient's modalities before a model reads them. Part of the name of the cache."""

    signal_rate: Positive = 100.0
    """Sampling rate of the signals, hertz; higher ones are reduced without aliases."""
    seconds: Positive = 10.0
    """Length of the signals, seconds; longer ones are cut, shorter ones go on with their last value."""
    high_pass: NotNegative = 0.0
    """Signals lose what is slower, hertz, as in 0.5 (zero-phase Butterworth filter); 0: nothing."""
    low_pass: NotNegative = 0.0
    """Signals lose what is faster, hertz, as in 40; with high_pass this is a band-pass. 0: nothing."""
    baseline: bool = False
    """Take the baseline off the signals: the median over 0.2 s, and of that the median over 0.6 s."""
    image_width: Count = 640
    """Width of the pictures, pixels. Their height is a tenth of it (a strip), or four tenths (a sheet)."""
    sheet: bool = False
    """Pictures of twelve leads, 3 x 4 and a rhythm strip, in place of a strip of lead II."""
    rotation: NotNegative = 0.0
    """Drawn pictures lie askew by up to so many degrees, at random."""
    shadow: Share = 0.0
    """Drawn pictures are darkened on one side by up to this share, 0 to 1, at random."""
    noise: Share = 0.0
    """Drawn pictures have grey noise of up to this standard deviation, a share of full scale, at random."""
    text: str = ""
    """Text written on drawn pictures."""

    @property
    def image_height(self) -> int:
        """Height of the pictures, pixels."""
        return self.image_width * 2 // 5 if self.sheet else self.image_width // 10

    @property
    def points(self) -> int:
        """Samples of a signal."""
        return round(self.seconds * self.signal_rate)


@dataclass(frozen=True)
class PatientSimulationSettings:
    """Simulated patients whose disease shows in known modalities only."""

    patients: Count = 600
    """Number of patients."""
    causes: tuple[Cause, ...] = ("clinical", "signal", "image")
    """Causes of disease that occur, each of which shows in one view only."""
    missing: Share = 0.1
    """Share of clinical values that are missing, at random, 0 to 1."""
    seed: Seed = 0
    """Seed of the cohort; the same seed writes the same patients."""


@dataclass(frozen=True)
class LoadDataSettings(SourceSettings):
    """Settings of load_data.py ecg-multimodal."""

    raw_dir: Path | None = None
    """Folder of PTB-XL, or of one's own patients (images, ecg_signals.csv, clinical and labels tables).
    Default: $PTBXL_DIR, then data/raw/ptb-xl."""
    source: Literal["auto", "ptbxl", "patients"] = "auto"
    """Layout of raw_dir; auto looks for ptbxl_database.csv, then for a table of labels."""
    rate: Literal[100, 500] = 100
    """PTB-XL: the files to read, hertz; where only the others are there, these are taken and resampled."""
    mixed: Literal["leave-out", "abnormal"] = "leave-out"
    """PTB-XL: what a record is that has NORM and another superclass."""
    unlabelled: Literal["leave-out", "keep"] = "leave-out"
    """Own patients: those who are neither normal nor abnormal (borderline, or labelled in other columns).
    Kept, they are learned from under a target of training.py other than normal."""
    table_rate: Positive = 250.0
    """Own patients: sampling rate of ecg_signals.csv, hertz."""
    views: tyro.conf.OmitArgPrefixes[ModalitySettings] = ModalitySettings()
    simulation: PatientSimulationSettings = PatientSimulationSettings()


@dataclass(frozen=True)
class MultimodalModelSettings:
    """Which views are read, how they are fused, and the size of the network."""

    views: tuple[View, ...] = ("image", "signal", "clinical")
    """Views that the network reads; one alone is that branch alone."""
    fusion: Fusion = "gate"
    """A weight for each view of each patient (gate), features side by side (concatenation), or the mean of
    what each branch says by itself (late)."""
    width: Count = 64
    """Channels after the stems of image and signal branch, a multiple of 8; features of a view are four
    times as many."""
    dropout: Share = 0.2
    """Dropout of the branches' features and of the heads, 0 to 1."""
    modality_dropout: Share = 0.3
    """Share of training patients from whom some of their views, chosen at random, are hidden, 0 to 1.
    The network then takes any subset of the views."""
    branch_loss: NotNegative = 0.3
    """Weight of the loss of each branch's own verdict beside that of the fused one; 0: none."""
    modulation: NotNegative = 0.0
    """Strength with which gradients of a view that is ahead of the others are damped (OGM); 0: not."""
    modulation_noise: bool = False
    """Beside --modulation: add normal noise of their own deviation to the branches' gradients (OGM-GE)."""
    image_weights: Path | None = None
    """File of ImageNet weights that the image branch starts from, as torchvision publishes them for ResNet-18
    (width 64); pictures are then given to it as those weights expect them. Default: random."""
    init_image: Path | None = None
    """Run that the image branch and its own head start from, such as one of --views image: its folder, of
    which each fold takes the same fold, or a checkpoint. Default: random."""
    init_signal: Path | None = None
    """Run that the signal branch starts from, in the same way."""
    init_clinical: Path | None = None
    """Run that the branch of clinical values starts from, in the same way."""
    freeze: tuple[View, ...] = ()
    """Views whose branches stay as they start, from a run or from --image-weights; heads and fusion learn."""


@dataclass(frozen=True)
class SignalAugmentationSettings:
    """Random changes of the signals in training, each time anew."""

    signal_gain: Share = 0.0
    """Signals in training are made higher or lower by up to this share, 0 to 1."""
    signal_noise: NotNegative = 0.0
    """Signals in training get white noise of up to this standard deviation, millivolts."""
    signal_shift: Share = 0.0
    """Signals in training begin earlier or later by up to this share of their length, 0 to 1."""


@dataclass(frozen=True)
class MultimodalTrainingSettings(RunSettings):
    """Settings of training.py ecg-multimodal."""

    protocol: MultimodalProtocol = "patient"
    """Who is kept apart between train and test: patients, in folds drawn by the seed, or the one split that
    the source assigns (official; PTB-XL: validation 9, test 10)."""
    target: str = "normal"
    """What is learned: normal (or abnormal); three-classes (normal, borderline or abnormal); superclasses or
    rhythm of PTB-XL, several at once; or the classes in a column of the table of labels, by its name."""
    augmentation: tyro.conf.OmitArgPrefixes[SignalAugmentationSettings] = SignalAugmentationSettings()
    model: tyro.conf.OmitArgPrefixes[MultimodalModelSettings] = MultimodalModelSettings()

    def variant(self) -> str:
        """Return the target where it is not the usual one, the views, and how they are fused."""
        parts = [self.target] * (self.target != "normal") + ["+".join(self.model.views)]
        parts += [self.model.fusion] * (len(self.model.views) > 1)
        return "-".join(parts)


@dataclass(frozen=True)
class MultimodalPredictionSettings(PredictionSettings):
    """Settings of predict.py for a run of ecg-multimodal."""

    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of patients, as load_data.py ecg-multimodal takes them; labels are not read."""
    prevalence: InnerShare = None
    """Share of abnormal among those who are measured, 0 to 1: the probability is given for it as well."""


PREDICTION: dict[str, type[PredictionSettings]] = {"ecg-multimodal": MultimodalPredictionSettings}
"""Settings of predict.py by task."""

_PAPER = OptimizationSettings(
    batch_size=16,
    learning_rate=1e-4,
    plateau_patience=2,
    epochs=30,
    early_stop=5,
)
_SMALL_MODEL = MultimodalModelSettings(width=16)
_SMALL = OptimizationSettings(
    batch_size=16,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=1e-2,
    schedule="one-cycle",
    epochs=15,
    early_stop=0,
)


def defaults(
    preset: Literal["paper", "small"], protocol: str = "", task: str = "ecg-multimodal"
) -> MultimodalTrainingSettings:
    """Return the training settings that a preset and a protocol stand for.

    A protocol that does not exist counts as the default: the command line refuses it.
    """
    names = get_args(MultimodalProtocol)
    chosen: MultimodalProtocol = next((name for name in names if name == protocol), "patient")
    if preset == "paper":
        return MultimodalTrainingSettings(preset=preset, protocol=chosen, optimization=_PAPER)
    return MultimodalTrainingSettings(preset=preset, protocol=chosen, optimization=_SMALL, model=_SMALL_MODEL)
