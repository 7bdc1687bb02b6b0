"""Fusion at the two ends: of the signals before any network, or of the probabilities after two networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.blocks import MODALITIES, STRIDES, Encoder, check_pair, check_size, convolutional_head
from models.layers.layout import EitherLayout
from models.pacfnet import PACFNet


class EarlyFusion(EitherLayout, nn.Module):
    """ECG and heart sound as two channels of one input: one PACFNet encoder, and PACFNet's head.

    Parameters
    ----------
    width : int
        Channels of the first level; level k (from 1) has k * width. A multiple of 8.
    kernel_size : int
        Kernel of the encoder, odd.
    dropout : float
        Dropout of the dense head.
    classes : int
        Number of logits.
    """

    def __init__(
        self, width: int = 64, kernel_size: int = 7, dropout: float = 0.5, *, classes: int = 2
    ) -> None:
        super().__init__()
        check_size(width, kernel_size)
        channels = [width * (level + 1) for level in range(len(STRIDES))]
        self.encoder = Encoder(channels, kernel_size, signals=len(MODALITIES))
        self.head = convolutional_head(channels[-1], dropout, classes)

    def forward(self, ecg: Tensor, pcg: Tensor) -> Tensor:
        """Map beats (B, 1, T) to logits (B, classes)."""
        both = torch.cat(check_pair(ecg, pcg), dim=1)
        return self.head(self.encoder(self.to_layout(both))[-1])


class LateFusion(nn.Module):
    """A network of each modality, encoder and head, and the mean of their class probabilities.

    Trained as one: the loss is that of the mean.

    Parameters
    ----------
    width, kernel_size, dropout, classes
        As in `EarlyFusion`, of each network.
    """

    def __init__(
        self, width: int = 64, kernel_size: int = 7, dropout: float = 0.5, *, classes: int = 2
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"kernel_size": kernel_size, "dropout": dropout, "classes": classes}
        self.networks = nn.ModuleDict(
            {name: PACFNet(width, modalities=(name,), **options) for name in MODALITIES}
        )

    def forward(self, ecg: Tensor, pcg: Tensor) -> Tensor:
        """Map beats (B, 1, T) to logits (B, classes): the logarithms of the mean probabilities."""
        logits = torch.stack([self.networks["ecg"](ecg=ecg), self.networks["pcg"](pcg=pcg)])
        return functional.log_softmax(logits.float(), dim=-1).logsumexp(dim=0) - math.log(len(logits))
