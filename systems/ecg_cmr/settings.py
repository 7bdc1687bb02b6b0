"""Settings of the tasks that learn from pairs of ECG and cardiac MRI (CMR)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from config import OptimizationSettings, RunSettings

PatientProtocol = Literal["patient"]
Arm = Literal["ecg", "cmr"]


@dataclass(frozen=True)
class EncoderSettings:
    """Size of a transformer over patches."""

    width: int = 384
    """Channels of a token."""
    depth: int = 3
    """Blocks of the encoder."""
    heads: int = 6
    """Attention heads; they divide the width."""
    patch_seconds: float = 0.2
    """Length of a patch of the ECG, seconds."""
    patch_pixels: int = 8
    """Height and width of a patch of the cine, pixels; a patch spans all its frames."""


@dataclass(frozen=True)
class MaskingSettings:
    """Masked autoencoding."""

    mask_ratio: float = 0.8
    """Share of the patches that is hidden, 0 to 1."""
    decoder_width: int = 128
    """Channels of a token in the decoder."""
    decoder_depth: int = 2
    """Blocks of the decoder."""


@dataclass(frozen=True)
class StageSettings(RunSettings):
    """Settings that all stages share."""

    protocol: PatientProtocol = "patient"
    """Patients are kept apart. All stages of one seed and cache have the same folds; a stage refuses a test
    patient that its parents were trained on."""
    folds: Literal["all", "none"] | tuple[int, ...] = (0,)
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


@dataclass(frozen=True)
class ContrastSettings(StageSettings):
    """Settings of training.py ecg-cmr-contrast."""

    init_ecg: Path | None = None
    """Run of ecg-mae (its folder or a checkpoint) that the ECG encoder starts from; default: from scratch."""
    init_cmr: Path | None = None
    """Run of cmr-mae that the CMR encoder starts from; default: from scratch."""
    dimension: int = 128
    """Length of the embeddings."""
    temperature: float = 0.1
    """Temperature at the start; it is learned."""
    freeze_cmr: bool = False
    """Keep the CMR encoder as it is; its head is trained all the same."""
    local: bool = False
    """Also align each lead with the places of the image."""
    token_dropout: float = 0.5
    """Share of the ECG's tokens that a training step leaves out, to save time, 0 to 1."""
    augment: bool = True
    """Begin each training ECG at a random time, and vary brightness and place of each training cine."""
    shuffle_pairs: bool = False
    """Pair each ECG with another patient's CMR: what is gained then does not come from the pairs."""


@dataclass(frozen=True)
class PhenotypeSettings(StageSettings):
    """Settings of training.py ecg-phenotypes."""

    init_ecg: Path | None = None
    """Run of ecg-mae or ecg-cmr-contrast that the encoder starts from; default: from scratch."""
    init_cmr: Path | None = None
    """Run of cmr-mae or ecg-cmr-contrast that the encoder starts from, with --reads cmr."""
    reads: Arm = "ecg"
    """What is read: the ECG, or the CMR itself, as the bound of what the ECG can reach."""
    label_fraction: float = 1.0
    """Share of the training patients whose indicators and diseases are known, 0 to 1."""
    layer_decay: float = 0.75
    """Learning rate of each block of the encoder, as a share of that of the block above it."""
    freeze_encoder: bool = False
    """Train the heads only."""
    covariates: bool = True
    """Let age, sex, height and weight modulate the features, where they are known."""
    token_dropout: float = 0.0
    """Share of the tokens that a training step leaves out, to save time, 0 to 1."""
    augment: bool = True
    """Begin each training ECG at a random time, and vary brightness and place of each training cine."""


SMALL_ENCODER = EncoderSettings(width=128, depth=4, heads=4, patch_seconds=0.4)
PUBLISHED = OptimizationSettings(
    batch_size=64,
    optimizer="adamw",
    learning_rate=1e-4,
    weight_decay=0.05,
    schedule="one-cycle",
    epochs=400,
    early_stop=0,
    gradient_clip=1.0,
)
SMALL = replace(PUBLISHED, learning_rate=1e-3, epochs=20)


def stage_defaults(kind: type[StageSettings], preset: Literal["paper", "small"]) -> StageSettings:
    """Return the training settings of a stage that a preset stands for.

    Parameters
    ----------
    kind : type
        Settings class of the stage.
    preset : {"paper", "small"}
    """
    if preset == "paper":
        return kind(preset=preset, optimization=PUBLISHED)
    # masked autoencoders need many steps more than they need large batches, contrast needs its negatives
    masked = issubclass(kind, EcgMaeSettings | CmrMaeSettings)
    optimization = replace(SMALL, batch_size=32) if masked else SMALL
    return kind(preset=preset, optimization=optimization, encoder=SMALL_ENCODER)
