"""A step of training and a prediction on torch's meta device, which computes shapes and devices alone.

A tensor that is made on the CPU meets those of the run there and is refused, as it would be on a GPU; so is
whatever reads a tensor.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from config import OptimizationSettings
from learning.distributed import Processes
from learning.loop import FoldContext, make_optimizer, train_step

META = torch.device("meta")


def steps_on_meta(task: Any, samples: Any, network: nn.Module) -> tuple[Tensor, Tensor]:
    """Take a step and predict; return the loss of the step and the predictions, of all samples."""
    rows = torch.arange(len(samples)).to(META)
    settings = OptimizationSettings(batch_size=len(samples), fused=False)  # torch fuses on real devices only
    run = FoldContext(
        task, samples, rows, rows[:0], settings, 0, META, torch.float32, Processes(), Path(), {}, "meta"
    )
    optimizer = make_optimizer(network.train(), settings, task.parameter_groups(network))
    with mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()):  # not there on meta
        loss, _, norm, _ = train_step(run, network, optimizer, rows)
        assert loss.device == norm.device == META
        with torch.no_grad():
            return loss, task.step(network.eval(), samples.batch(rows))[1]
