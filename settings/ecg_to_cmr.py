"""Settings of the tasks that draw a cine from an ECG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from config import OptimizationSettings
from settings.ecg_cmr import SMALL_ENCODER, StageSettings


@dataclass(frozen=True)
class AutoencoderSettings:
    """Size of the autoencoder of frames."""

    channels: tuple[int, ...] = (64, 128, 128)
    """Channels of each level, multiples of 16; every level but the first halves height and width."""
    latent_channels: int = 4
    """Channels of the latents."""
    fold: int = 2
    """Pixels along each side that become channels first."""
    kl_weight: float = 1e-6
    """Weight of the Kullback-Leibler divergence beside the squared error."""
    frames_a_step: int = 2
    """Frames of each cine of a batch that a training step sees, drawn at random."""


@dataclass(frozen=True)
class GeneratorSettings:
    """Size of the generator, and what it learns."""

    channels: tuple[int, ...] = (256, 512)
    """Channels of each level of the U-Net, multiples of 32."""
    blocks: int = 2
    """Residual blocks a level."""
    objective: Literal["velocity", "noise", "flow"] = "flow"
    """What is predicted: the noise, the velocity (both diffusion), or the velocity of a straight flow."""
    tokens: Literal["leads", "all"] = "all"
    """What the U-Net attends to: the mean token of each lead and the class token, or all tokens."""
    condition_dropout: float = 0.1
    """Share of the training samples whose ECG is hidden, 0 to 1, so that guidance means something."""
    average_decay: float = 0.999
    """Of the running average of the weights that samples are drawn with, a step, 0 to 1."""


@dataclass(frozen=True)
class SamplingSettings:
    """How cines are drawn."""

    steps: int = 20
    """Predictions a cine."""
    samples: int = 8
    """Cines a patient. What is measured in them is averaged: one is drawn with all that the ECG does not
    know, and so is as far from the truth as another patient with the same ECG."""
    guidances: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Guidance scales to choose from on the validation part; 1 is plain conditional."""
    guidance: float = 0.0
    """Guidance scale to use, without choosing; 0: choose."""


@dataclass(frozen=True)
class CineAutoencoderSettings(StageSettings):
    """Settings of training.py cine-autoencoder."""

    autoencoder: tyro.conf.OmitArgPrefixes[AutoencoderSettings] = AutoencoderSettings()


@dataclass(frozen=True)
class EcgToCmrSettings(StageSettings):
    """Settings of training.py ecg-to-cmr."""

    init_ecg: Path | None = None
    """Run of ecg-cmr-contrast, ecg-phenotypes or ecg-mae whose ECG encoder reads the ECG (needed)."""
    init_autoencoder: Path | None = None
    """Run of cine-autoencoder (needed)."""
    generator: tyro.conf.OmitArgPrefixes[GeneratorSettings] = GeneratorSettings()
    sampling: tyro.conf.OmitArgPrefixes[SamplingSettings] = SamplingSettings()
    shuffle_pairs: bool = False
    """Pair each training ECG with another patient's cine: nothing of the ECG may be left in what is drawn."""
