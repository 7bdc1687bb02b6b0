"""Features of a multi-lead ECG: a one-dimensional residual network with squeeze-and-excitation.

Hu, Shen, Sun, "Squeeze-and-excitation networks", CVPR 2018; mean and maximum over time side by side as in
Strodthoff, Wagner, Schaeffter, Samek, "Deep learning for ECG analysis", IEEE JBHI 25 (2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers.blocks import EncoderLevel, check_size, normalized_convolution
from models.layers.layout import EitherLayout

_LEVELS = 4
_STEM_KERNEL = 15
_SHORTEST_SIGNAL = 64
"""Points that leave 2 after five halvings: batch normalization can train on one signal then."""
SMALLEST_DEVIATION = 1e-6
"""Standard deviation, in the unit of the signal, below which a lead is taken as constant over train."""
LARGEST_SCALED = 20.0
"""Standard deviations at which a value is cut: a loose electrode shall not dominate a batch."""


class LeadScaler(nn.Module):
    """Bring every lead to mean 0 and deviation 1 over train; the statistics are saved with the weights.

    Parameters
    ----------
    leads : int

    Notes
    -----
    A lead that is flat in a recording, or has no finite value, becomes 0 throughout, the mean of train,
    whatever its offset. So do single values that are not finite.
    """

    mean: Tensor
    deviation: Tensor
    fitted: Tensor

    def __init__(self, leads: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(leads))
        self.register_buffer("deviation", torch.ones(leads))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, signals: Tensor) -> None:
        """Take mean and deviation of each lead over recordings (N, leads, T), flat ones left out.

        A lead without any value keeps mean 0 and deviation 1; one that is constant gets deviation 1.
        """
        if signals.ndim != 3 or not len(signals) or signals.shape[1] != len(self.mean):
            raise ValueError(
                f"The scaler is fitted on signals (recordings, {len(self.mean)}, points), at least one, "
                f"and was given {tuple(signals.shape)}."
            )
        for lead in range(signals.shape[1]):  # one at a time: the whole in double precision is large
            values = signals[:, lead].double()
            values = values[~is_flat(values)]
            values = values[values.isfinite()]
            if len(values):
                deviation = values.std(correction=0)
                self.mean[lead] = values.mean()
                self.deviation[lead] = deviation if deviation > SMALLEST_DEVIATION else 1.0
            else:
                self.mean[lead], self.deviation[lead] = 0.0, 1.0
        self.fitted.fill_(True)

    def forward(self, signals: Tensor) -> Tensor:
        """Map signals (P, leads, T) to scaled signals of this shape, all finite."""
        if not self.fitted:
            raise RuntimeError(
                "The lead scaler is not fitted: call its fit with the signals of the training part, "
                "or load a checkpoint."
            )
        scaled = (signals.to(self.mean.dtype) - self.mean[:, None]) / self.deviation[:, None]
        usable = signals.isfinite() & ~is_flat(signals)[..., None]
        return torch.where(usable, scaled, 0.0).clamp(-LARGEST_SCALED, LARGEST_SCALED)


def is_flat(values: Tensor) -> Tensor:
    """Return which leads (..., T) hold fewer than two different finite values, shape (...)."""
    finite = values.isfinite()
    highest = torch.where(finite, values, -torch.inf).amax(dim=-1)
    lowest = torch.where(finite, values, torch.inf).amin(dim=-1)
    return highest <= lowest


class SignalBranch(EitherLayout, nn.Module):
    """Scaler, strided stem, four levels of residual blocks, pooling over time, and a projection.

    Parameters
    ----------
    features : int
        Length of the output.
    leads : int
    channels : int
        Channels of the stem and the first level; level k (from 1) has k times as many. A multiple of 8.
    kernel_size : int
        Kernel of the blocks in points, odd. At 100 Hz 7 points of the first level span 0.28 s: at another
        rate, resample the signals or give another kernel.
    dropout : float
        Dropout of the output.
    """

    def __init__(
        self,
        features: int,
        leads: int = 12,
        channels: int = 16,
        kernel_size: int = 7,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_size(channels, kernel_size)
        if leads < 1:
            raise ValueError(f"leads must be at least 1, and is {leads}.")
        self.leads = leads
        self.scaler = LeadScaler(leads)
        counts = [channels * level for level in range(1, _LEVELS + 1)]
        self.body = nn.Sequential(
            normalized_convolution(leads, channels, _STEM_KERNEL, stride=2),
            *(
                EncoderLevel(inputs, outputs, kernel_size, stride=2)
                for inputs, outputs in zip([channels, *counts], counts, strict=False)
            ),
        )
        self.project = nn.Sequential(
            nn.Linear(2 * counts[-1], features), nn.LayerNorm(features), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, signal: Tensor) -> Tensor:
        """Map signals (P, leads, T) to features (P, features); P may be 0."""
        maps = self.from_layout(self.body(self.to_layout(self.scaler(signal))))
        return self.project(torch.cat([maps.mean(dim=-1), maps.amax(dim=-1)], dim=1))

    def empty_batch(self) -> Tensor:
        """Return a batch of no signals, on this module's device."""
        return self.scaler.mean.new_zeros((0, self.leads, _SHORTEST_SIGNAL))

    def check(self, signal: Tensor) -> None:
        """Refuse what is no batch of signals with these leads."""
        if signal.ndim != 3 or signal.shape[1] != self.leads or signal.shape[2] < _SHORTEST_SIGNAL:
            raise ValueError(
                f"signal must have shape (batch, {self.leads}, points) with at least {_SHORTEST_SIGNAL} "
                f"points, and has {tuple(signal.shape)}."
            )
