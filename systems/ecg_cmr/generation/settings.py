"""Settings of the tasks that draw a cine from an ECG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from config import OptimizationSettings
from systems.ecg_cmr.settings import SMALL_ENCODER, StageSettings


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
    """Channels of each level of the U-Net, multiples of 64."""
    blocks: int = 2
    """Residual blocks a level."""
    harmonics: int = 4
    """Harmonics of the cardiac cycle that are drawn, beside its mean."""
    objective: Literal["velocity", "noise", "flow"] = "flow"
    """What is predicted: the noise, the velocity (both diffusion), or the velocity of a straight flow."""
    tokens: Literal["leads", "all"] = "all"
    """What the U-Net attends to: the mean token of each lead and the class token, or all tokens."""
    condition_dropout: float = 0.1
    """Share of the training samples whose ECG is hidden, 0 to 1, so that guidance means something."""
    average_decay: float = 0.999
    """Of the running average of the weights that samples are drawn with, a step, 0 to 1."""


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
    init_cmr: Path | None = None
    """Run of ecg-cmr-contrast or cmr-mae whose CMR encoder gives the features of the Frechet distance;
    default: none, and no such distance. Nothing is learned from it."""
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    """Size of the autoencoder: that of the run it comes from."""
    generator: tyro.conf.OmitArgPrefixes[GeneratorSettings] = GeneratorSettings()
    shuffle_pairs: bool = False
    """Pair each training ECG with another patient's cine: nothing of the ECG may be left in what is drawn."""


SMALL = OptimizationSettings(
    batch_size=32,
    optimizer="adamw",
    learning_rate=4e-4,
    weight_decay=0.01,
    schedule="one-cycle",
    epochs=30,
    early_stop=0,
    gradient_clip=1.0,
)
FULL = replace(SMALL, batch_size=64, learning_rate=2e-4, epochs=400)


def cine_defaults(kind: type[StageSettings], preset: Literal["paper", "small"]) -> StageSettings:
    """Return the training settings of a task of this file that a preset stands for.

    Parameters
    ----------
    kind : type
        Settings class of the task.
    preset : {"paper", "small"}
    """
    settings = kind(preset=preset, optimization=FULL)
    if preset == "paper":
        return settings
    settings = replace(settings, optimization=SMALL, encoder=SMALL_ENCODER)
    frames = AutoencoderSettings(channels=(32, 64, 64))
    if isinstance(settings, CineAutoencoderSettings):
        rate = replace(SMALL, learning_rate=2e-3)
        return replace(settings, optimization=rate, autoencoder=frames)
    if isinstance(settings, EcgToCmrSettings):
        small = GeneratorSettings(channels=(128, 256), blocks=1, tokens="leads")
        return replace(settings, autoencoder=frames, generator=small, optimization=replace(SMALL, epochs=100))
    return settings
