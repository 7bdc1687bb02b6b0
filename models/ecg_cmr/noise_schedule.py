r"""Noise schedules of diffusion and flow matching, and what a network learns to predict.

Between data x0 at time t = 0 and noise e at t = 1 lies :math:`x_t = a(t) x_0 + s(t) e`:

============  =====================  =========================================  =======================
objective     path                   the network predicts                       reference
============  =====================  =========================================  =======================
``velocity``  a = cos(pi t / 2),     :math:`v = a e - s x_0`                    Salimans and Ho 2022
              s = sin(pi t / 2)
``noise``     the same               e                                          Ho et al. 2020
``flow``      a = 1 - t, s = t       :math:`v = e - x_0`                        Lipman et al. 2023
============  =====================  =========================================  =======================

Each prediction gives x0 and e, and a step to time u goes to :math:`a(u) x_0 + s(u) e`: that is DDIM (Song
et al. 2021) for the first two and Euler's method for the flow, so one sampler serves all.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Objective = Literal["velocity", "noise", "flow"]


def alpha_sigma(objective: Objective, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return a(t) and s(t) of times (B,), each of shape (B, 1, 1, 1)."""
    time = time.reshape(-1, 1, 1, 1)
    if objective == "flow":
        return 1 - time, time
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def prediction_target(objective: Objective, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return what the network has to predict at these times, of the shape of ``data`` (B, C, H, W)."""
    if objective == "noise":
        return noise
    if objective == "flow":
        return noise - data
    alpha, sigma = alpha_sigma(objective, time)
    return alpha * noise - sigma * data


def x0_and_noise(
    objective: Objective, noisy: Tensor, predicted: Tensor, time: Tensor
) -> tuple[Tensor, Tensor]:
    """Return data and noise (B, C, H, W) that a prediction from noisy data stands for."""
    alpha, sigma = alpha_sigma(objective, time)
    if objective == "noise":
        return (noisy - sigma * predicted) / alpha, predicted
    if objective == "flow":
        return noisy - sigma * predicted, noisy + alpha * predicted
    return alpha * noisy - sigma * predicted, sigma * noisy + alpha * predicted
