"""PACFNet: progressive attention-based cross-modal fusion of one ECG beat and one PCG beat.

Li, Chuah, Tan, Liu, Ting, PeerJ Computer Science 11:e3038 (2025), doi 10.7717/peerj-cs.3038. Two encoders
that share no weights and a central branch; at each of four levels a SACMF module (spatial attention, then
channel attention over both modalities) fuses what the encoders found with what was fused before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

MODALITIES = ("ecg", "pcg")
STRIDES = (1, 5, 5, 5)
INPUT_POOLING = {2: 5, 3: 25}
"""Level (from 0) to the average pooling of the raw input that is concatenated to the level's input."""
SHORTEST_BEAT = 25
SQUEEZE = 8
"""Reduction of the hidden layer in squeeze-and-excitation and in channel attention."""


def normalized_convolution(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return Conv-BN-ReLU that keeps the length at stride 1 and divides it (rounded up) otherwise."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2),
        nn.BatchNorm1d(outputs),
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
        return features * self.gate(features.mean(dim=-1)).unsqueeze(-1)


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


class SpatialAttention(nn.Module):
    """One map over time for each modality, from both modalities together."""

    def __init__(self, channels: int, kernel_size: int = 16) -> None:
        super().__init__()
        hidden = channels // 2
        self.maps = nn.Sequential(
            nn.Conv1d(2 * channels, hidden, 1),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.ZeroPad1d(((kernel_size - 1) // 2, kernel_size // 2)),  # an even kernel keeps the length so
            nn.Conv1d(hidden, hidden, kernel_size),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv1d(hidden, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, ecg: Tensor, pcg: Tensor) -> Tensor:
        """Map two (B, C, T) to the maps (B, 2, T) of ECG and PCG, values 0 to 1."""
        return self.maps(torch.cat([ecg, pcg], dim=1))


class ChannelAttention(nn.Module):
    """One vector over channels, computed from both modalities and applied to both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(2 * channels, channels // SQUEEZE),
            nn.ReLU(inplace=True),
            nn.Linear(channels // SQUEEZE, channels),
            nn.Sigmoid(),
        )

    def forward(self, ecg: Tensor, pcg: Tensor) -> Tensor:
        """Map two (B, C, T) to the gate (B, C), values 0 to 1."""
        return self.gate(torch.cat([ecg, pcg], dim=1).mean(dim=-1))


class FusionLevel(nn.Module):
    """SACMF: weight both modalities by attention, add what was fused before, and convolve.

    Parameters
    ----------
    channels : int
        Channels of each modality at this level, and of the output.
    previous : int
        Channels of the previous level's output; 0 at the first fused level.
    kernel_size : int
    pooling : int
        Average pooling that brings the previous output to this level's length.
    spatial, channel : bool
        Which attentions are used.
    cascaded : bool
        Channel attention reads the spatially weighted features, else the raw ones.
    """

    def __init__(
        self,
        channels: int,
        previous: int,
        kernel_size: int,
        pooling: int,
        *,
        spatial: bool = True,
        channel: bool = True,
        cascaded: bool = True,
    ) -> None:
        super().__init__()
        self.spatial = SpatialAttention(channels) if spatial else None
        self.channel = ChannelAttention(channels) if channel else None
        self.cascaded = cascaded
        self.pooling = pooling
        self.bring = nn.Conv1d(previous, channels, 1) if previous else None
        inputs = channels * (3 if previous else 2)
        self.merge = nn.Sequential(
            nn.BatchNorm1d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv1d(inputs, channels, kernel_size, padding=kernel_size // 2),
        )

    def forward(self, ecg: Tensor, pcg: Tensor, previous: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Map two (B, C, T) and the previous output to (B, C, T) and the attention that was given."""
        maps: dict[str, Tensor] = {}
        raw = ecg, pcg
        if self.spatial is not None:
            maps["spatial"] = self.spatial(ecg, pcg)
            ecg, pcg = ecg * maps["spatial"][:, 0:1], pcg * maps["spatial"][:, 1:2]
        if self.channel is not None:
            maps["channel"] = self.channel(*((ecg, pcg) if self.cascaded else raw))
            gate = maps["channel"].unsqueeze(-1)
            ecg, pcg = ecg * gate, pcg * gate
        parts = [ecg, pcg]
        if self.bring is not None and previous is not None:
            parts.append(self.bring(pool(previous, self.pooling)))
        return self.merge(torch.cat(parts, dim=1)), maps


def pool(features: Tensor, factor: int) -> Tensor:
    """Average-pool (B, C, T) to (B, C, ceil(T / factor)), the length an encoder has after such strides."""
    return functional.avg_pool1d(features, factor, ceil_mode=True) if factor > 1 else features


class PACFNet(nn.Module):
    """PACFNet, and by its options the ablations published beside it.

    Parameters
    ----------
    width : int
        Channels of the first level; level k (from 1) has k * width. A multiple of 8.
    levels : int
        Levels of the encoders and of the central branch, 1 to 4.
    kernel_size : int
        Kernel of the encoders, odd.
    dropout : float
        Dropout of the dense head.
    spatial, channel : bool
        Which attentions the fusion uses.
    attention : {"cascaded", "parallel"}
        Whether channel attention reads the spatially weighted features (text and figure of the paper)
        or the raw ones (the code published with it).
    fusion_levels : sequence of int, optional
        Levels, from 1, at which modalities are fused; default all.
    modalities : sequence of str
        ``("ecg", "pcg")``, or one of them: its encoder alone under the same head.
    classes : int
        Number of logits.

    Notes
    -----
    With the defaults 11,723,898 trainable parameters.
    """

    def __init__(
        self,
        width: int = 64,
        levels: int = 4,
        kernel_size: int = 7,
        dropout: float = 0.5,
        *,
        spatial: bool = True,
        channel: bool = True,
        attention: Literal["cascaded", "parallel"] = "cascaded",
        fusion_levels: Sequence[int] | None = None,
        modalities: Sequence[str] = MODALITIES,
        classes: int = 2,
    ) -> None:
        super().__init__()
        fused = tuple(range(1, levels + 1)) if fusion_levels is None else tuple(fusion_levels)
        _check_arguments(width, levels, kernel_size, attention, fused, modalities)
        self.modalities = tuple(name for name in MODALITIES if name in modalities)
        self.fusion_levels = fused if len(self.modalities) == 2 else ()
        channels = [width * (level + 1) for level in range(levels)]
        self.encoders = nn.ModuleDict(
            {name: _encoder(channels, kernel_size) for name in self.modalities},
        )
        options = {"spatial": spatial, "channel": channel, "cascaded": attention == "cascaded"}
        self.fusions = nn.ModuleDict()
        previous, pooling = 0, 1
        for level, count in enumerate(channels, start=1):
            pooling *= STRIDES[level - 1]
            if level in self.fusion_levels:
                self.fusions[str(level)] = FusionLevel(count, previous, kernel_size, pooling, **options)
                previous, pooling = count, 1
        self.head = _head(channels[-1], dropout, classes)

    def forward(self, ecg: Tensor | None = None, pcg: Tensor | None = None) -> Tensor:
        """Map beats (B, 1, T) to logits (B, classes)."""
        return self.forward_with_attention(ecg, pcg)[0]

    def forward_with_attention(
        self, ecg: Tensor | None = None, pcg: Tensor | None = None
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Return logits (B, classes) and, for each fused level, the attention it gave.

        Each level's dict holds ``spatial`` (B, 2, T at that level; ECG then PCG) and ``channel`` (B, C).
        """
        given = {"ecg": ecg, "pcg": pcg}
        features = {name: self._encode(name, given[name]) for name in self.modalities}
        if not self.fusion_levels:
            return self.head(features[self.modalities[0]][-1]), []
        fused: Tensor | None = None
        attention = []
        for level in self.fusion_levels:
            module = self.fusions[str(level)]
            fused, maps = module(features["ecg"][level - 1], features["pcg"][level - 1], fused)
            attention.append(maps)
        return self.head(fused), attention

    def _encode(self, name: str, signal: Tensor | None) -> list[Tensor]:
        """Return the features of one modality at every level, (B, C, T) each."""
        if signal is None:
            raise ValueError(f"This PACFNet needs the {name.upper()} signal, shape (batch, 1, points).")
        if signal.ndim != 3 or signal.shape[1] != 1 or signal.shape[2] < SHORTEST_BEAT:
            raise ValueError(
                f"{name} must have shape (batch, 1, points) with at least {SHORTEST_BEAT} points, "
                f"and has {tuple(signal.shape)}."
            )
        features, current = [], signal
        for level, module in enumerate(self.encoders[name].children()):
            if level in INPUT_POOLING:
                current = torch.cat([current, pool(signal, INPUT_POOLING[level])], dim=1)
            current = module(current)
            features.append(current)
        return features


def _encoder(channels: Sequence[int], kernel_size: int) -> nn.ModuleList:
    """Return the levels of one modality encoder; deeper levels also read the pooled raw input."""
    levels = []
    inputs = 1
    for level, count in enumerate(channels):
        levels.append(EncoderLevel(inputs + (level in INPUT_POOLING), count, kernel_size, STRIDES[level]))
        inputs = count
    return nn.ModuleList(levels)


def _head(channels: int, dropout: float, classes: int) -> nn.Sequential:
    """Return the classifier of (B, channels, T): a strided convolution, pooling over time, dense layers."""
    layers: list[nn.Module] = [
        nn.BatchNorm1d(channels),
        nn.ReLU(inplace=True),
        nn.Conv1d(channels, channels, 3, stride=2, padding=1),
        nn.BatchNorm1d(channels),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    ]
    inputs = channels
    for outputs in (128, 64, 32):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _check_arguments(
    width: int, levels: int, kernel_size: int, attention: str, fused: Sequence[int], modalities: Sequence[str]
) -> None:
    """Refuse options that make no network, saying which would."""
    if width < SQUEEZE or width % SQUEEZE:
        raise ValueError(f"width must be a multiple of {SQUEEZE}, and is {width}.")
    if not 1 <= levels <= len(STRIDES):
        raise ValueError(f"levels must be 1 to {len(STRIDES)}, and is {levels}.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, and is {kernel_size}.")
    if attention not in ("cascaded", "parallel"):
        raise ValueError(f"attention must be cascaded or parallel, and is {attention!r}.")
    if not modalities or set(modalities) - set(MODALITIES):
        raise ValueError(f"modalities must be among {MODALITIES}, and are {tuple(modalities)}.")
    if not fused or not set(fused) <= set(range(1, levels + 1)) or list(fused) != sorted(set(fused)):
        raise ValueError(f"fusion_levels must be rising numbers from 1 to {levels}, and are {tuple(fused)}.")
    if len(modalities) == 2 and max(fused) != levels:
        raise ValueError(f"The last level, {levels}, must be fused: the head reads it.")
