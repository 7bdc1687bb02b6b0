"""PACFNet: progressive attention-based cross-modal fusion of one ECG beat and one PCG beat.

Li, Chuah, Tan, Liu, Ting, PeerJ Computer Science 11:e3038 (2025), doi 10.7717/peerj-cs.3038. Two encoders
that share no weights and a central branch. At each of four levels a SACMF module (spatial attention, then
channel attention over both modalities) fuses the features of both encoders with the level before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers.absence import AbsenceTokens
from models.layers.blocks import (
    MODALITIES,
    SQUEEZE,
    STRIDES,
    Encoder,
    check_signal,
    check_size,
    convolutional_head,
)
from models.layers.layout import (
    Convolution,
    EitherLayout,
    Normalization,
    expand_gate,
    mean_over_time,
    pool,
)


class SpatialAttention(nn.Module):
    """One map over time for each modality, from both modalities together."""

    def __init__(self, channels: int, kernel_size: int = 16) -> None:
        super().__init__()
        hidden = channels // 2
        self.maps = nn.Sequential(
            Convolution(2 * channels, hidden, 1),
            Normalization(hidden),
            nn.ReLU(inplace=True),
            nn.Identity(),  # numbers of the layers after it, in state dicts
            Convolution(hidden, hidden, kernel_size),
            Normalization(hidden),
            nn.ReLU(inplace=True),
            Convolution(hidden, 2, 1),
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
        return self.gate(torch.cat([mean_over_time(ecg), mean_over_time(pcg)], dim=1))


class FusionLevel(nn.Module):
    """SACMF: weight both modalities by attention, concatenate the previous level, and convolve.

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
        self.bring = Convolution(previous, channels, 1) if previous else None
        inputs = channels * (3 if previous else 2)
        self.merge = nn.Sequential(
            Normalization(inputs),
            nn.ReLU(inplace=True),
            Convolution(inputs, channels, kernel_size),
        )

    def forward(self, ecg: Tensor, pcg: Tensor, previous: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Map two (B, C, T) and the previous output to (B, C, T) and its attention."""
        maps: dict[str, Tensor] = {}
        raw = ecg, pcg
        if self.spatial is not None:
            maps["spatial"] = self.spatial(ecg, pcg)
            ecg, pcg = ecg * maps["spatial"][:, 0:1], pcg * maps["spatial"][:, 1:2]
        if self.channel is not None:
            maps["channel"] = self.channel(*((ecg, pcg) if self.cascaded else raw))
            gate = expand_gate(maps["channel"], ecg)
            ecg, pcg = ecg * gate, pcg * gate
        parts = [ecg, pcg]
        if self.bring is not None and previous is not None:
            parts.append(self.bring(pool(previous, self.pooling)))
        return self.merge(torch.cat(parts, dim=1)), maps


class PACFNet(EitherLayout, nn.Module):
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
    absence_tokens : bool
        Learn missing-modality tokens, so that the network takes ECG and PCG, or one of them (see
        `models.layers.absence.AbsenceTokens`).

    Notes
    -----
    Computed channels last unless its ``channels_last`` is set to False (`models.layers.layout.EitherLayout`).
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
        absence_tokens: bool = False,
    ) -> None:
        super().__init__()
        fused = tuple(range(1, levels + 1)) if fusion_levels is None else tuple(fusion_levels)
        check_size(width, kernel_size)
        _check_arguments(levels, attention, fused, modalities)
        if absence_tokens and len(set(modalities)) < len(MODALITIES):
            raise ValueError(
                "absence_tokens needs both modalities: with one there is nothing to stand in for."
            )
        self.modalities = tuple(name for name in MODALITIES if name in modalities)
        self.fusion_levels = fused if len(self.modalities) == 2 else ()
        self.read_levels = self.fusion_levels or (levels,)
        channels = [width * (level + 1) for level in range(levels)]
        self.encoders = nn.ModuleDict(
            {name: Encoder(channels, kernel_size) for name in self.modalities},
        )
        options = {"spatial": spatial, "channel": channel, "cascaded": attention == "cascaded"}
        self.fusions = nn.ModuleDict()
        previous, pooling = 0, 1
        for level, count in enumerate(channels, start=1):
            pooling *= STRIDES[level - 1]
            if level in self.fusion_levels:
                self.fusions[str(level)] = FusionLevel(count, previous, kernel_size, pooling, **options)
                previous, pooling = count, 1
        self.head = convolutional_head(channels[-1], dropout, classes)
        read = [channels[level - 1] for level in self.read_levels]
        self.absence = AbsenceTokens(read) if absence_tokens else None

    @property
    def absence_tokens(self) -> bool:
        """Whether `forward` takes samples that lack a modality."""
        return self.absence is not None

    def forward(
        self,
        ecg: Tensor | None = None,
        pcg: Tensor | None = None,
        has_ecg: Tensor | None = None,
        has_pcg: Tensor | None = None,
    ) -> Tensor:
        """Map beats (B, 1, T) to logits (B, classes).

        With ``absence_tokens``, ``has_ecg`` and ``has_pcg`` (boolean, (B,)) say which samples have which
        signal, and a signal that the whole batch lacks may be None.
        """
        return self.forward_with_attention(ecg, pcg, has_ecg, has_pcg)[0]

    def forward_with_attention(
        self,
        ecg: Tensor | None = None,
        pcg: Tensor | None = None,
        has_ecg: Tensor | None = None,
        has_pcg: Tensor | None = None,
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Return logits (B, classes) and the attention of each fused level.

        Each level's dict holds ``spatial`` (B, 2, T at that level; ECG then PCG) and ``channel`` (B, C).
        """
        features = self._features({"ecg": ecg, "pcg": pcg}, {"ecg": has_ecg, "pcg": has_pcg})
        if not self.fusion_levels:
            return self.head(features[self.modalities[0]][-1]), []
        fused: Tensor | None = None
        attention = []
        for number, level in enumerate(self.fusion_levels):
            module = self.fusions[str(level)]
            fused, maps = module(features["ecg"][number], features["pcg"][number], fused)
            attention.append({name: one.squeeze(2) if one.ndim == 4 else one for name, one in maps.items()})
        return self.head(fused), attention

    def _features(
        self, given: dict[str, Tensor | None], has: dict[str, Tensor | None]
    ) -> dict[str, list[Tensor]]:
        """Return each modality's features at the levels that are read."""
        if self.absence is not None:
            placed = self.absence(self._encode_rows, given, has)
            return {name: [self.to_layout(level) for level in levels] for name, levels in placed.items()}
        if any(mask is not None for mask in has.values()):
            raise ValueError("has_ecg and has_pcg need a PACFNet built with absence_tokens=True.")
        return {name: self._encode(name, given[name]) for name in self.modalities}

    def _encode(self, name: str, signal: Tensor | None) -> list[Tensor]:
        """Return the features of one modality at the levels that are read."""
        features = self.encoders[name](self.to_layout(check_signal(name, signal)))
        return [features[level - 1] for level in self.read_levels]

    def _encode_rows(self, name: str, signal: Tensor) -> list[Tensor]:
        """Return these features as (B, C, T), whatever the layout."""
        return [self.from_layout(level) for level in self._encode(name, signal)]


def _check_arguments(levels: int, attention: str, fused: Sequence[int], modalities: Sequence[str]) -> None:
    """Refuse options that make no network, saying which would."""
    if not 1 <= levels <= len(STRIDES):
        raise ValueError(f"levels must be 1 to {len(STRIDES)}, and is {levels}.")
    if attention not in ("cascaded", "parallel"):
        raise ValueError(f"attention must be cascaded or parallel, and is {attention!r}.")
    if not modalities or set(modalities) - set(MODALITIES):
        raise ValueError(f"modalities must be among {MODALITIES}, and are {tuple(modalities)}.")
    if not fused or not set(fused) <= set(range(1, levels + 1)) or list(fused) != sorted(set(fused)):
        raise ValueError(f"fusion_levels must be rising numbers from 1 to {levels}, and are {tuple(fused)}.")
    if len(modalities) == 2 and max(fused) != levels:
        raise ValueError(f"The last level, {levels}, must be fused: the head reads it.")
