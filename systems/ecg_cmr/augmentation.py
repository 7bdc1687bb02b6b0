"""Random changes of training signals that keep the state of the heart."""

from __future__ import annotations

import torch
from torch import Tensor

GAIN = 0.2
"""Largest share by which a training cine is made brighter or darker."""
OFFSET = 0.1
"""Largest brightness added to a training cine, of 1."""
PIXELS = 2
"""Largest shift of a training cine, pixels."""


def shift_in_time(ecg: Tensor) -> Tensor:
    """Return each ECG of a batch (B, leads, T) rotated in time by a random shift.

    A recording begins at any time of any cycle; the seam is one more odd beat among ten.
    """
    count, leads, points = ecg.shape
    start = torch.randint(points, (count, 1), device=ecg.device)
    order = (torch.arange(points, device=ecg.device) + start) % points
    return ecg.gather(2, order[:, None].expand(count, leads, points))


def vary_cine(cmr: Tensor) -> Tensor:
    """Return each cine of a batch (B, frames, H, W; 0 to 1) brighter or darker, and the batch shifted.

    Brightness depends on the scanner, position on how the image was cropped.
    """
    count = len(cmr)
    gain = 1 + GAIN * (2 * torch.rand(count, 1, 1, 1, device=cmr.device) - 1)
    offset = OFFSET * (2 * torch.rand(count, 1, 1, 1, device=cmr.device) - 1)
    down, right = torch.randint(-PIXELS, PIXELS + 1, (2,)).tolist()
    return (cmr * gain + offset).clamp(0, 1).roll((down, right), dims=(2, 3))
