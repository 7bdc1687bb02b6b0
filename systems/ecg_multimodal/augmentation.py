"""Random changes of training signals that keep the state of the heart."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ecg_multimodal.signal_branch import is_flat
from systems.ecg_multimodal.settings import SignalAugmentationSettings


def vary_signals(signals: Tensor, settings: SignalAugmentationSettings) -> Tensor:
    """Return signals (B, leads, T) with another gain, shifted in time, and with noise, as the settings say.

    All leads of a patient have one gain, one shift and one level of noise, but noise of their own; a lead
    without signal has none. Where a shift leaves nothing, the first or last value goes on, as in preparing.
    """
    count, leads, points = signals.shape
    device = signals.device
    if settings.signal_gain:
        signals = signals * (1 + settings.signal_gain * (2 * torch.rand(count, 1, 1, device=device) - 1))
    if settings.signal_shift:
        largest = round(settings.signal_shift * points)
        shift = torch.randint(-largest, largest + 1, (count, 1), device=device)
        place = (torch.arange(points, device=device) + shift).clamp(0, points - 1)
        signals = signals.gather(2, place[:, None].expand(count, leads, points))
    if settings.signal_noise:
        level = settings.signal_noise * torch.rand(count, 1, 1, device=device)
        noise = level * torch.randn(signals.shape, device=device)
        signals = signals + noise.masked_fill(is_flat(signals)[..., None], 0)
    return signals
