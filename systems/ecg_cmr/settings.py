"""Settings of the tasks that learn from pairs of ECG and cardiac MRI (CMR): data, training, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from common.options import Bounds, Count, Natural, NotNegative, Positive, Seed, Share
from config import (
    EvaluationSettings,
    OptimizationSettings,
    PredictionSettings,
    Preset,
    RunSettings,
    SourceSettings,
)

PatientProtocol = Literal["patient"]
_Modality = Literal["ecg", "cmr"]
Axis = Literal["short", "long"]
COVARIATES = ("age", "sex", "height", "weight")
KNOWN_TARGETS, NO_COLUMN = "known", "none"
"""Words for columns: all targets that are known by name, and no column at all."""


@dataclass(frozen=True)
class PairSettings:
    """What is done to ECG and cine before a model reads them. Part of the name of the cache."""

    ecg_rate: Positive = 250.0
    """Sampling rate of the ECGs, hertz; higher ones are reduced without aliases."""
    seconds: Positive = 10.0
    """Length of the ECGs, seconds; longer ones are cut, shorter ones go on with their last value."""
    frames: Annotated[int, Bounds(2)] = 16
    """Frames of a cine over one cycle, the first at the R wave; others are interpolated in time."""
    size: Count = 64
    """Height and width of a cine, pixels."""
    pixel_spacing: Positive = 2.2
    """Millimetres a pixel of the short axis; other spacings are resampled."""
    long_axis_spacing: Positive = 3.2
    """Millimetres a pixel of the long axis."""
    long_axis: bool = False
    """Keep the long axis too, where there is one."""
    center: Literal["motion", "image"] = "motion"
    """Where a cine is cut out of a larger picture: around what moves, or around its middle."""
    percentiles: Annotated[tuple[float, float], Bounds(0, 100, rising=True)] = (1.0, 99.0)
    """Percentiles of brightness that become black and white."""

    @property
    def points(self) -> int:
        """Samples of an ECG."""
        return round(self.seconds * self.ecg_rate)

    @property
    def bytes_a_patient(self) -> int:
        """Bytes of a patient's arrays in the cache."""
        return 12 * (4 * self.points + 1) + (1 + self.long_axis) * self.frames * self.size**2


@dataclass(frozen=True)
class PairSimulationSettings:
    """Simulated patients whose ECG and cine are generated from the same heart."""

    patients: Count = 2000
    """Number of patients."""
    seed: Seed = 0
    """Seed of the cohort; the same seed generates the same patients."""
    ecg_noise: NotNegative = 1.0
    """Factor on baseline wander, muscle noise and mains hum of the ECG; 0: none."""


@dataclass(frozen=True)
class LoadDataSettings(SourceSettings):
    """Settings of load_data.py for the ECG-CMR tasks, which share one cache."""

    simulate: bool = False
    """Generate simulated patients straight into a cache. With --raw-dir, they are first written there as
    files, in the layout of one's own pairs."""
    raw_dir: Path | None = None
    """Folder with one's own pairs.csv, or that of ACDC (cines alone), PTB-XL (ECGs alone), EchoNext, or
    MIMIC-IV-ECG with MIMIC-IV-ECHO (ECGs with echocardiography). Default:
    data/raw/pairs; for ecg-mae then $PTBXL_DIR and data/raw/ptb-xl, for cmr-mae then data/raw/acdc."""
    source: Literal["auto", "pairs", "acdc", "ptbxl", "echonext", "mimic-echo"] = "auto"
    """Layout of raw_dir; auto looks for pairs.csv, ptbxl_database.csv, training/patient001,
    echonext_metadata_100k.csv, then record_list.csv."""
    echo_days: Positive = 30.0
    """Days between an ECG of MIMIC-IV-ECG and the echocardiography it takes its values from, at most."""
    check: bool = False
    """Read every file of raw_dir and name all that is wrong with it; write nothing."""
    preparation: tyro.conf.OmitArgPrefixes[PairSettings] = PairSettings()
    simulation: PairSimulationSettings = PairSimulationSettings()


EncoderSize = Literal["mini", "tiny", "small", "medium", "big", "base", "large", "huge"]
ENCODER_SIZES: dict[EncoderSize, tuple[int, int, int]] = {
    "mini": (128, 4, 4),
    "tiny": (384, 3, 6),
    "small": (512, 4, 8),
    "medium": (640, 6, 8),
    "big": (768, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
"""Width, depth and heads of an encoder. All but the first are those of the code of Turgut et al. (repository
oetu/MMCL-ECG-CMR, mmcl/models/ECGEncoder.py); Ding et al. use large by default."""


@dataclass(frozen=True)
class EncoderSettings:
    """Size of a transformer over patches."""

    encoder_size: EncoderSize = "tiny"
    """Published size by name, width x depth x heads: tiny 384 x 3 x 6, small 512 x 4 x 8, medium 640 x 6 x 8,
    big 768 x 8 x 8, base 768 x 12 x 12, large 1024 x 24 x 16 (default of Ding et al.), huge 1280 x 32 x 16;
    mini 128 x 4 x 4 is ours, for a CPU."""
    width: Count | None = None
    """Channels of a token; default: of --encoder-size."""
    depth: Count | None = None
    """Blocks of the encoder; default: of --encoder-size."""
    heads: Count | None = None
    """Attention heads, which divide the width; default: of --encoder-size."""
    patch_seconds: Positive = 0.2
    """Length of a patch of the ECG, seconds."""
    patch_pixels: Count = 8
    """Height and width of a patch of the cine, pixels; a patch spans all its frames."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, depth and heads."""
        width, depth, heads = ENCODER_SIZES[self.encoder_size]
        return self.width or width, self.depth or depth, self.heads or heads


@dataclass(frozen=True)
class MaskingSettings:
    """Masked autoencoding."""

    mask_ratio: Annotated[float, Bounds(0, 1, open=True)] = 0.8
    """Share of the patches that is hidden, 0 to 1."""
    decoder_width: Count = 128
    """Channels of a token in the decoder."""
    decoder_depth: Count = 2
    """Blocks of the decoder."""


@dataclass(frozen=True)
class StageSettings(RunSettings):
    """Settings that all stages share."""

    preset: Preset = "auto"
    """Named set of defaults: paper (400 epochs as published, with the smallest published encoder,
    --encoder-size tiny), small (for a CPU), or auto (paper on CUDA, small on a CPU). Options given beside it
    win."""
    protocol: PatientProtocol = "patient"
    """Patients are kept apart. All stages of one seed and cache have the same folds; a stage refuses a test
    patient that its parents were trained on."""
    folds: Annotated[Literal["all", "none"] | tuple[int, ...], Bounds(0)] = (0,)
    """Folds to train: all, some by number from 0 (default: the first, as every stage builds on one), or
    none: one final fit on everything, without test."""
    encoder: tyro.conf.OmitArgPrefixes[EncoderSettings] = EncoderSettings()


@dataclass(frozen=True)
class EcgMaeSettings(StageSettings):
    """Settings of training.py ecg-mae."""

    masking: tyro.conf.OmitArgPrefixes[MaskingSettings] = MaskingSettings()


@dataclass(frozen=True)
class CmrMaeSettings(StageSettings):
    """Settings of training.py cmr-mae."""

    masking: tyro.conf.OmitArgPrefixes[MaskingSettings] = MaskingSettings(mask_ratio=0.75)
    axis: Axis = "short"
    """Cines to learn from: of the short or of the long axis (prepared with load_data.py --long-axis)."""


@dataclass(frozen=True)
class ContrastSettings(StageSettings):
    """Settings of training.py ecg-cmr-contrast."""

    init_ecg: Path | None = None
    """Run of ecg-mae (its folder or a checkpoint) that the ECG encoder starts from; default: from scratch."""
    init_cmr: Path | None = None
    """Run of cmr-mae that the CMR encoder starts from; default: from scratch."""
    init_long_axis: Path | None = None
    """Run of cmr-mae --axis long that the encoder of the long axis starts from, with --axis both; default:
    from scratch."""
    axis: Literal[Axis, "both"] = "short"
    """Cines to align with: of the short axis, of the long axis, or both, each with an encoder and a loss of
    its own; the losses are added. Patients without a long axis then count for the short axis alone."""
    dimension: Count = 128
    """Length of the embeddings."""
    temperature: Positive = 0.1
    """Temperature at the start; it is learned."""
    freeze_cmr: bool = False
    """Keep the CMR encoder as it is; its head is trained all the same."""
    covariates: tuple[str, ...] = ()
    """Columns of the data that are inputs beside the ECG, where they are known. What they and the cine share
    then needs no ECG: retrieval gets better, and says less of it."""
    local: bool = False
    """Also align each lead with the places of the image."""
    token_dropout: Share = 0.5
    """Share of the ECG's tokens that a training step leaves out, to save time, 0 to 1."""
    augment: bool = True
    """Begin each training ECG at a random time, and vary brightness and place of each training cine."""
    shuffle_pairs: bool = False
    """Pair each ECG with another patient's CMR: what is gained then does not come from the pairs."""


@dataclass(frozen=True)
class PhenotypeSettings(StageSettings):
    """Settings of training.py ecg-phenotypes."""

    formerly: ClassVar[dict[str, str]] = {"no-covariates": "covariates=none"}
    init_ecg: Path | None = None
    """Run of ecg-mae or ecg-cmr-contrast that the encoder starts from; default: from scratch."""
    init_cmr: Path | None = None
    """Run of cmr-mae or ecg-cmr-contrast that the encoder starts from, with --reads cmr."""
    reads: _Modality = "ecg"
    """What is read: the ECG, or the CMR itself, as the bound of what the ECG can reach."""
    label_fraction: Share = 1.0
    """Share of the training patients whose indicators and diseases are known, 0 to 1."""
    layer_decay: NotNegative = 0.75
    """Learning rate of each block of the encoder, as a share of that of the block above it."""
    freeze_encoder: bool = False
    """Train the heads only."""
    covariates: tuple[str, ...] = COVARIATES
    """Columns of the data that are inputs beside ECG or CMR, where they are known: they modulate the features
    (FiLM). Default: those of age, sex, height and weight that there are; none: no column."""
    targets: tuple[str, ...] = (KNOWN_TARGETS,)
    """Columns of the data to learn; known: all indicators that are known by name, disease_ and class_
    columns. A column that is no covariate and not named here is not learned, and said so."""
    class_balance: bool = False
    """Weigh both sides of each disease, and each class, as if they were equally frequent in training. The
    probabilities are brought back to the shares of the training part."""
    token_dropout: Share = 0.0
    """Share of the tokens that a training step leaves out, to save time, 0 to 1."""
    augment: bool = True
    """Begin each training ECG at a random time, and vary brightness and place of each training cine."""

    def __post_init__(self) -> None:
        """Read a run that stored whether there are covariates, and not which."""
        if isinstance(self.covariates, bool):
            object.__setattr__(self, "covariates", COVARIATES if self.covariates else (NO_COLUMN,))


@dataclass(frozen=True)
class AutoencoderSettings:
    """Size of the autoencoder of frames."""

    channels: Annotated[tuple[int, ...], Bounds(1)] = (64, 128, 128)
    """Channels of each level, multiples of 16; every level but the first halves height and width."""
    latent_channels: Count = 4
    """Channels of the latents."""
    fold: Count = 2
    """Pixels along each side that become channels first."""
    kl_weight: NotNegative = 1e-6
    """Weight of the Kullback-Leibler divergence beside the squared error."""
    frames_a_step: Count = 2
    """Frames of each cine of a batch that a training step takes, chosen at random."""


@dataclass(frozen=True)
class GeneratorSettings:
    """Size of the generator, and what it learns."""

    channels: Annotated[tuple[int, ...], Bounds(1)] = (256, 512)
    """Channels of each level of the U-Net, multiples of 64."""
    blocks: Count = 2
    """Residual blocks a level."""
    harmonics: Count = 4
    """Harmonics of the cardiac cycle that are generated, beside its mean."""
    objective: Literal["velocity", "noise", "flow"] = "flow"
    """What is predicted: the noise, the velocity (both diffusion), or the velocity of a straight flow."""
    tokens: Literal["leads", "all"] = "all"
    """What the U-Net attends to: the mean token of each lead and the class token, or all tokens."""
    condition_dropout: Share = 0.1
    """Share of the training samples whose ECG is hidden, 0 to 1, so that guidance means something."""
    average_decay: Share = 0.999
    """Of the running average of the weights that samples are generated with, a step, 0 to 1."""


@dataclass(frozen=True)
class CineAutoencoderSettings(StageSettings):
    """Settings of training.py cine-autoencoder."""

    axis: Axis = "short"
    """Cines to learn from: of the short or of the long axis."""
    autoencoder: tyro.conf.OmitArgPrefixes[AutoencoderSettings] = AutoencoderSettings()


@dataclass(frozen=True)
class EcgToCmrSettings(StageSettings):
    """Settings of training.py ecg-to-cmr."""

    init_ecg: Path | None = None
    """Run of ecg-cmr-contrast, ecg-phenotypes or ecg-mae whose ECG encoder reads the ECG (needed)."""
    init_autoencoder: Path | None = None
    """Run of cine-autoencoder (needed)."""
    init_cmr: Path | None = None
    """Run of ecg-cmr-contrast or cmr-mae whose CMR encoder gives the features of the Frechet distance;
    default: none, and no such distance. Nothing is learned from it."""
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    """Size of the autoencoder: that of the run it comes from."""
    generator: tyro.conf.OmitArgPrefixes[GeneratorSettings] = GeneratorSettings()
    axis: Axis = "short"
    """Cines to generate: of the short or of the long axis. For the latter --init-autoencoder and --init-cmr
    are needed, both of the long axis."""
    shuffle_pairs: bool = False
    """Pair each training ECG with another patient's cine: generated cines then must not depend on the ECG."""
    show_every: Natural = 10
    """Epochs between two strips of generated cines in TensorBoard, beside the true ones; 0: none."""


@dataclass(frozen=True)
class CineEvaluationSettings(EvaluationSettings):
    """Settings of evaluate.py for a run of cine-autoencoder."""

    max_patients: Count = 200
    """Patients of the test part whose cines are evaluated, at most."""


@dataclass(frozen=True)
class EcgToCmrEvaluationSettings(CineEvaluationSettings):
    """Settings of evaluate.py for a run of ecg-to-cmr."""

    steps: Count = 20
    """Steps in which a cine is generated."""
    samples: Count = 8
    """Cines generated from each ECG; what is measured in them is averaged."""
    guidance: NotNegative = 0.0
    """Guidance scale: 1 as learned, more: closer to what only this ECG suggests; 0: chosen on the validation
    part."""


@dataclass(frozen=True)
class PhenotypeEvaluationSettings(EvaluationSettings):
    """Settings of evaluate.py for a run of ecg-phenotypes."""

    threshold: Literal["half", "validation"] = "validation"
    """Probability from which a patient counts as having a disease: 0.5, or for each disease the one with the
    best mean of sensitivity and specificity on the validation part of each fold."""


EVALUATION: dict[str, type[EvaluationSettings]] = {
    "ecg-phenotypes": PhenotypeEvaluationSettings,
    "cine-autoencoder": CineEvaluationSettings,
    "ecg-to-cmr": EcgToCmrEvaluationSettings,
}
"""Settings of evaluate.py by task, where there are more than the shared ones."""


@dataclass(frozen=True)
class PhenotypePredictionSettings(PredictionSettings):
    """Settings of predict.py for a run of ecg-phenotypes; what is not given of a person is not known."""

    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Twelve-lead ECGs (WFDB records, .npy of shape (leads, samples) in millivolts), or folders of them."""
    ecg: Path | None = None
    """The same of one ECG."""
    age: float | None = None
    """Years."""
    sex: Literal["male", "female"] | None = None
    """male or female."""
    height: float | None = None
    """Centimetres."""
    weight: float | None = None
    """Kilograms."""
    covariates: tuple[str, ...] = ()
    """Other inputs that the run was trained with, as in --covariates bmi=27.4 smoking=yes."""
    patient_table: Path | None = None
    """Table (.csv, .xlsx) of several: column patient, named as the file of the recording without its ending,
    and any of age, sex, height, weight and the run's other inputs. A pairs.csv is one."""
    explain: str = ""
    """Indicator or disease of which to show what in the ECG raised it (gradient-weighted attention rollout):
    the share of each lead, and with --out a figure."""
    discard_ratio: Annotated[float, Bounds(0, 0.999)] = 0.9
    """Share of the weakest entries of each layer's attention that --explain leaves away."""


@dataclass(frozen=True)
class EcgToCmrPredictionSettings(PredictionSettings):
    """Settings of predict.py for a run of ecg-to-cmr."""

    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Twelve-lead ECGs (WFDB records, .npy of shape (leads, samples) in millivolts), or folders of them."""
    ecg: Path | None = None
    """The same of one ECG."""
    out: Path | None = None
    """Folder to write the cines to (needed): .nii.gz and .gif of the first, .png of all, .json."""
    resume: bool = False
    """Keep cines in --out that were made from the same ECG with the same run and options."""
    steps: Count = 20
    """Steps in which a cine is generated: more are finer and slower."""
    samples: Count = 8
    """Cines generated from the ECG; how far they differ says what it leaves open."""
    guidance: NotNegative = 1.0
    """Guidance scale: 1 as learned, more: closer to what only this ECG suggests."""
    seed: Seed = 0
    """The same seed generates the same cines from an ECG, whatever other ECGs there are."""


PREDICTION: dict[str, type[PredictionSettings]] = {
    "ecg-phenotypes": PhenotypePredictionSettings,
    "ecg-to-cmr": EcgToCmrPredictionSettings,
}
"""Settings of predict.py by task."""

_ENCODERS = OptimizationSettings(
    batch_size=64,
    optimizer="adamw",
    learning_rate=1e-4,
    weight_decay=0.05,
    schedule="one-cycle",
    epochs=400,
    early_stop=0,
    gradient_clip=1.0,
)
_CINES = replace(_ENCODERS, learning_rate=2e-4, weight_decay=0.01)
_PAPER: dict[str, StageSettings] = {
    "ecg-mae": EcgMaeSettings(optimization=_ENCODERS),
    "cmr-mae": CmrMaeSettings(optimization=_ENCODERS),
    "ecg-cmr-contrast": ContrastSettings(optimization=_ENCODERS),
    "ecg-phenotypes": PhenotypeSettings(optimization=_ENCODERS),
    "cine-autoencoder": CineAutoencoderSettings(optimization=_CINES),
    "ecg-to-cmr": EcgToCmrSettings(optimization=_CINES),
}
_SMALL_ENCODER = EncoderSettings("mini", patch_seconds=0.4)
_SMALL_FRAMES = AutoencoderSettings(channels=(32, 64, 64))
_SMALL_ENCODERS = replace(_ENCODERS, learning_rate=1e-3, epochs=20)
# masked autoencoders need many steps more than they need large batches, contrast needs its negatives
_SMALL_MASKED = replace(_SMALL_ENCODERS, batch_size=32)
_SMALL_CINES = replace(_CINES, batch_size=32)
_SMALL: dict[str, StageSettings] = {
    "ecg-mae": EcgMaeSettings(optimization=_SMALL_MASKED, encoder=_SMALL_ENCODER),
    "cmr-mae": CmrMaeSettings(optimization=_SMALL_MASKED, encoder=_SMALL_ENCODER),
    "ecg-cmr-contrast": ContrastSettings(optimization=_SMALL_ENCODERS, encoder=_SMALL_ENCODER),
    "ecg-phenotypes": PhenotypeSettings(optimization=_SMALL_ENCODERS, encoder=_SMALL_ENCODER),
    "cine-autoencoder": CineAutoencoderSettings(
        optimization=replace(_SMALL_CINES, learning_rate=2e-3, epochs=30),
        encoder=_SMALL_ENCODER,
        autoencoder=_SMALL_FRAMES,
    ),
    "ecg-to-cmr": EcgToCmrSettings(
        optimization=replace(_SMALL_CINES, learning_rate=4e-4, epochs=100),
        encoder=_SMALL_ENCODER,
        autoencoder=_SMALL_FRAMES,
        generator=GeneratorSettings(channels=(128, 256), blocks=1, tokens="leads"),
    ),
}


def defaults(preset: Literal["paper", "small"], protocol: str = "", task: str = "ecg-mae") -> StageSettings:
    """Return the training settings of a task that a preset stands for; there is one protocol."""
    return replace((_PAPER if preset == "paper" else _SMALL)[task], preset=preset)
