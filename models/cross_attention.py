"""A transformer in which ECG and heart sound attend to themselves and to each other.

A contemporary baseline of about PACFNet's size. Attention as in Vaswani et al. 2017, with
normalization before each step (Xiong et al. 2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers.absence import AbsenceTokens
from models.layers.blocks import MODALITIES, EncoderLevel, check_pair, check_size, dense_head
from models.layers.layout import Convolution, EitherLayout

_STEM_STRIDE = 5
"""Stride of each of a stem's two levels: 25 samples of a beat to a token."""


class ModalityLayer(nn.Module):
    """One modality's half of a layer: attend to itself, attend to the other, and a dense network.

    Parameters
    ----------
    channels : int
        Of a token.
    heads : int
        Attention heads.
    dropout : float
        Of what each step adds.
    crossing : bool
        Whether there is a step that attends to the other modality.

    Notes
    -----
    Attention also returns its weights (the default of torch), which are not used. Without them torch 2.13
    takes a fused kernel, with which a bfloat16 training step on a CPU lasts 2.6 times as long.
    """

    def __init__(self, channels: int, heads: int, dropout: float, crossing: bool) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(channels)
        self.attend_self = nn.MultiheadAttention(channels, heads, batch_first=True)
        if crossing:
            self.norm_cross, self.norm_other = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.attend_cross = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.crossing = crossing
        self.dense = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Map this modality's tokens (B, T, C), given the other's (B, S, C), to (B, T, C)."""
        own = self.norm_self(tokens)
        tokens = tokens + self.dropout(self.attend_self(own, own, own)[0])
        if self.crossing:
            query, key = self.norm_cross(tokens), self.norm_other(other)
            tokens = tokens + self.dropout(self.attend_cross(query, key, key)[0])
        return tokens + self.dropout(self.dense(tokens))


class CrossAttentionLayer(nn.Module):
    """A layer of both modalities; each reads the other as it was before the layer."""

    def __init__(self, channels: int, heads: int, dropout: float, crossing: bool) -> None:
        super().__init__()
        self.halves = nn.ModuleDict(
            {name: ModalityLayer(channels, heads, dropout, crossing) for name in MODALITIES}
        )

    def forward(self, ecg: Tensor, pcg: Tensor) -> tuple[Tensor, Tensor]:
        """Map the tokens of both, (B, T, C) each, to the same shapes."""
        return self.halves["ecg"](ecg, pcg), self.halves["pcg"](pcg, ecg)


class CrossAttentionNetwork(EitherLayout, nn.Module):
    """Convolutional stems, tokens with positions, cross-attention layers, mean over tokens, dense head.

    Parameters
    ----------
    width : int
        Sets the size: stems of width and 2 * width channels, tokens of 4 * width. A multiple of 8.
    kernel_size : int
        Kernel of the stems, odd.
    dropout : float
        Dropout of the dense head.
    layers : int
        Transformer layers, 2 to 4.
    heads : int
        Attention heads; must divide 4 * width.
    layer_dropout : float
        Dropout in the transformer layers.
    crossing : bool
        Whether modalities attend to each other; without, they meet in the head alone.
    classes : int
        Number of logits.
    absence_tokens : bool
        Learn a missing-modality token (see `models.layers.absence.AbsenceTokens`).
    """

    def __init__(
        self,
        width: int = 64,
        kernel_size: int = 7,
        dropout: float = 0.5,
        *,
        layers: int = 4,
        heads: int = 4,
        layer_dropout: float = 0.1,
        crossing: bool = True,
        classes: int = 2,
        absence_tokens: bool = False,
    ) -> None:
        super().__init__()
        channels = 4 * width
        check_size(width, kernel_size)
        if not 2 <= layers <= 4:
            raise ValueError(f"layers must be 2 to 4, and is {layers}.")
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide 4 * width = {channels}, and is {heads}.")
        self.stems = nn.ModuleDict({name: _make_stem(width, channels, kernel_size) for name in MODALITIES})
        self.layers = nn.ModuleList(
            CrossAttentionLayer(channels, heads, layer_dropout, crossing) for _ in range(layers)
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(channels) for name in MODALITIES})
        self.head = dense_head(2 * channels, dropout, classes)
        self.absence = AbsenceTokens([channels]) if absence_tokens else None

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
        """Map beats (B, 1, T) to logits (B, classes); missing signals as in `models.pacfnet.PACFNet`."""
        tokens = self.tokens(ecg, pcg, has_ecg, has_pcg)
        return self.head(torch.cat([part.mean(dim=1) for part in tokens], dim=1))

    def tokens(
        self,
        ecg: Tensor | None = None,
        pcg: Tensor | None = None,
        has_ecg: Tensor | None = None,
        has_pcg: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens of ECG and heart sound after the last layer, (B, T / 25, 4 * width) each."""
        stems = self._stems({"ecg": ecg, "pcg": pcg}, {"ecg": has_ecg, "pcg": has_pcg})
        encoding = positions(*stems["ecg"].shape[1:]).to(stems["ecg"])
        first, second = stems["ecg"] + encoding, stems["pcg"] + encoding
        for layer in self.layers:
            first, second = layer(first, second)
        return self.norms["ecg"](first), self.norms["pcg"](second)

    def _stems(self, given: dict[str, Tensor | None], has: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Return the tokens of both modalities before the first layer, (B, T, C) each."""
        if self.absence is not None:
            found = self.absence(lambda name, signal: [self._stem(name, signal)], given, has)
            return {name: found[name][0].transpose(1, 2) for name in MODALITIES}
        if any(mask is not None for mask in has.values()):
            raise ValueError("has_ecg and has_pcg need a network built with absence_tokens=True.")
        signals = dict(zip(MODALITIES, check_pair(given["ecg"], given["pcg"]), strict=True))
        return {name: self._stem(name, signals[name]).transpose(1, 2) for name in MODALITIES}

    def _stem(self, name: str, signal: Tensor) -> Tensor:
        """Return the tokens of one modality, (B, C, T)."""
        return self.from_layout(self.stems[name](self.to_layout(signal)))


def _make_stem(width: int, channels: int, kernel_size: int) -> nn.Sequential:
    """Return what turns a signal (B, 1, T) into (B, channels, T / 25)."""
    return nn.Sequential(
        EncoderLevel(1, width, kernel_size, _STEM_STRIDE),
        EncoderLevel(width, 2 * width, kernel_size, _STEM_STRIDE),
        Convolution(2 * width, channels, 1),
    )


def positions(count: int, channels: int) -> Tensor:
    """Return the sinusoidal encoding of token numbers 0, 1, ..., shape (count, channels).

    Columns 2i and 2i + 1 are the sine and cosine of number / 10000^(2i / channels).
    """
    rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
    angles = torch.arange(count).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(count, channels)
