"""Layers of one-dimensional networks in the memory layout that is fast on matrix units of CPUs and GPUs.

Each layer maps features (B, C, T), as those of torch do, or the same as images of height 1, (B, C, 1, T),
channels last in memory. A kernel then reads channels side by side, and nothing is rearranged before and
after each convolution. torch has that layout for images only. Weights have the shapes of `torch.nn.Conv1d`,
so a state dict is that of the usual layers, and numbers agree but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_DEVIATION_WITHIN_TWO = 0.87962566
"""Standard deviation of a standard normal distribution cut at two deviations."""


def as_images(features: Tensor) -> Tensor:
    """Return (B, C, T) as (B, C, 1, T), channels last in memory."""
    return features.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def expand_gate(gate: Tensor, features: Tensor) -> Tensor:
    """Return a gate (B, C) with as many dimensions as the features that it weights."""
    return gate.reshape(*gate.shape, *(1 for _ in features.shape[2:]))


class EitherLayout:
    """Part of a network that computes in either layout.

    Attributes
    ----------
    channels_last : bool
        Compute with images (the default), or with (B, C, T). Weights are the same, and results agree but
        for rounding.
    """

    channels_last: bool = True

    def to_layout(self, features: Tensor) -> Tensor:
        """Return features (B, C, T) in the layout of the computation."""
        return as_images(features) if self.channels_last else features

    def from_layout(self, features: Tensor) -> Tensor:
        """Return features in the layout of the computation as (B, C, T)."""
        return features.squeeze(2) if self.channels_last else features


def set_layout(model: nn.Module, layout: str) -> None:
    """Let the parts of a model that compute in either layout use this one."""
    for module in model.modules():
        if isinstance(module, EitherLayout):
            module.channels_last = layout == "channels-last"


class Convolution(nn.Conv1d):
    """`torch.nn.Conv1d` with "same" padding at every stride, of images too.

    The output has ceil(T / stride) points, each centred where average pooling by the stride is: as many zeros
    are added before as after, an odd one after.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel_size, stride : int
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel_size, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T) to (B, outputs, ceil(T / stride)), or images of that size to images."""
        (kernel_size,), (stride,), points = self.kernel_size, self.stride, features.shape[-1]
        missing = max((-(-points // stride) - 1) * stride + kernel_size - points, 0)
        before, after = missing // 2, missing - missing // 2
        if before != after:
            features, before = functional.pad(features, (before, after)), 0
        if features.ndim == 3:
            return functional.conv1d(features, self.weight, self.bias, stride, before)
        weight = as_images(self.weight)
        found = functional.conv2d(features, weight, self.bias, (1, stride), (0, before))
        return found.contiguous(memory_format=torch.channels_last)  # strides of one channel tell no layout


def start_he_normal(model: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers anew, as in He et al. 2015, with zero biases.

    A normal distribution of variance 2 / inputs, cut at two deviations; what that takes from the variance
    is made up for, as in Keras.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            deviation = (2 / layer.weight[0].numel()) ** 0.5 / _DEVIATION_WITHIN_TWO
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Normalization(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with the published epsilon, of images too."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (3, 4):
            raise ValueError(f"Features are (B, C, T) or (B, C, 1, T), and these have {tuple(input.shape)}.")


class TimeMean(nn.Module):
    """The mean over time."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T), or images, to (B, C)."""
        return mean_over_time(features)


def mean_over_time(features: Tensor) -> Tensor:
    """Return the mean over time (B, C) of features (B, C, T), or of images."""
    if features.ndim == 3 or torch.compiler.is_compiling():
        return features.mean(dim=-1).flatten(1)
    # as a product: its gradient lies channels last, that of a mean does not and slows the layers before
    rows = features.squeeze(2).transpose(1, 2)
    return torch.matmul(rows.new_ones(1, rows.shape[1]), rows).squeeze(1) / rows.shape[1]


def pool(features: Tensor, factor: int) -> Tensor:
    """Average-pool (B, C, T), or images, to ceil(T / factor), as long as after such strides."""
    if factor == 1:
        return features
    if features.ndim == 3:
        return functional.avg_pool1d(features, factor, ceil_mode=True)
    return functional.avg_pool2d(features, (1, factor), ceil_mode=True)
