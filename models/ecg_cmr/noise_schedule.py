r"""Between data and noise: the path of a diffusion or a flow, and what a network learns to say on it.

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
    signal, spread = alpha_sigma(objective, time)
    return signal * noise - spread * data


def x0_and_noise(objective: Objective, point: Tensor, found: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return data and noise (B, C, H, W) that a prediction at a point of the path stands for."""
    signal, spread = alpha_sigma(objective, time)
    if objective == "noise":
        return (point - spread * found) / signal, found
    if objective == "flow":
        return point - spread * found, point + signal * found
    return signal * point - spread * found, spread * point + signal * found
