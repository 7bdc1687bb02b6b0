"""Parts that the networks for beats share: encoder of one-dimensional signals, and heads that classify.

Features are (B, C, T), or images of height 1, which is faster (see `models.layers.layout`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers.layout import (
    Convolution,
    Normalization,
    TimeMean,
    expand_gate,
    mean_over_time,
    pool,
)

MODALITIES = ("ecg", "pcg")
STRIDES = (1, 5, 5, 5)
INPUT_POOLING = {2: 5, 3: 25}
"""Level (from 0) to the average pooling of the raw input that is concatenated to the level's input."""
_SHORTEST_BEAT = 25
SQUEEZE = 8
"""Reduction of the hidden layer in squeeze-and-excitation and in channel attention."""


def normalized_convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return Conv-BN-ReLU that keeps the length at stride 1 and divides it (rounded up) otherwise."""
    return nn.Sequential(
        Convolution(inputs, outputs, kernel_size, stride),
        Normalization(outputs),
        nn.ReLU(inplace=True),
    )


class SqueezeExcitation(nn.Module):
    """Scale channels by a gate computed from their means over time (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // SQUEEZE),
            nn.ReLU(inplace=True),
            nn.Linear(channels // SQUEEZE, channels),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return features * expand_gate(self.gate(mean_over_time(features)), features)


class ResidualBlock(nn.Module):
    """Two Conv-BN-ReLU and squeeze-and-excitation, added to the input."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalized_convolution(channels, channels, kernel_size),
            normalized_convolution(channels, channels, kernel_size),
            SqueezeExcitation(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        return features + self.body(features)


class EncoderLevel(nn.Module):
    """One level of a modality encoder: a strided Conv-BN-ReLU and two residual blocks."""

    def __init__(self, inputs: int, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalized_convolution(inputs, channels, kernel_size, stride),
            ResidualBlock(channels, kernel_size),
            ResidualBlock(channels, kernel_size),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, inputs, T) to (B, channels, ceil(T / stride))."""
        return self.body(features)


class Encoder(nn.ModuleList):
    """The levels of an encoder; deeper levels also read the pooled raw input.

    Parameters
    ----------
    channels : sequence of int
        Channels of each level.
    kernel_size : int
    signals : int
        Channels of the input.
    """

    def __init__(self, channels: Sequence[int], kernel_size: int, signals: int = 1) -> None:
        levels = []
        inputs = signals
        for level, count in enumerate(channels):
            pooled = signals if level in INPUT_POOLING else 0
            levels.append(EncoderLevel(inputs + pooled, count, kernel_size, STRIDES[level]))
            inputs = count
        super().__init__(levels)

    def forward(self, signal: Tensor) -> list[Tensor]:
        """Map (B, signals, T) to the features of every level, (B, C, T at that level) each."""
        features, current = [], signal
        for level, module in enumerate(self):
            if level in INPUT_POOLING:
                current = torch.cat([current, pool(signal, INPUT_POOLING[level])], dim=1)
            current = module(current)
            features.append(current)
        return features


def convolutional_head(channels: int, dropout: float, classes: int) -> nn.Sequential:
    """Return the classifier of (B, channels, T): a strided convolution, pooling over time, dense layers."""
    return nn.Sequential(
        Normalization(channels),
        nn.ReLU(inplace=True),
        Convolution(channels, channels, 3, stride=2),
        Normalization(channels),
        nn.ReLU(inplace=True),
        TimeMean(),
        nn.Identity(),  # numbers of the layers after it, in state dicts
        *dense_head(channels, dropout, classes),
    )


def dense_head(inputs: int, dropout: float, classes: int) -> nn.Sequential:
    """Return the classifier of (B, inputs): dense layers of 128, 64 and 32, and the logits."""
    layers: list[nn.Module] = []
    for outputs in (128, 64, 32):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def check_signal(name: str, signal: Tensor | None) -> Tensor:
    """Return the signal, refusing what is no batch of beats (B, 1, points)."""
    if signal is None:
        raise ValueError(f"This network needs the {name.upper()} signal, shape (batch, 1, points).")
    if signal.ndim != 3 or signal.shape[1] != 1 or signal.shape[2] < _SHORTEST_BEAT:
        raise ValueError(
            f"{name} must have shape (batch, 1, points) with at least {_SHORTEST_BEAT} points, "
            f"and has {tuple(signal.shape)}."
        )
    return signal


def check_pair(ecg: Tensor | None, pcg: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both signals, refusing one that is missing and two of different shapes."""
    first, second = check_signal("ecg", ecg), check_signal("pcg", pcg)
    if first.shape != second.shape:
        raise ValueError(
            f"ecg and pcg must have one shape, and have {tuple(first.shape)} and {tuple(second.shape)}."
        )
    return first, second


def check_size(width: int, kernel_size: int) -> None:
    """Refuse sizes that make no network, saying which would."""
    if width < SQUEEZE or width % SQUEEZE:
        raise ValueError(f"width must be a multiple of {SQUEEZE}, and is {width}.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, and is {kernel_size}.")
