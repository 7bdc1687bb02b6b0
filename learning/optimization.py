"""Optimizers and schedules of the learning rate, from settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from config import OptimizationSettings


def make_optimizer(
    model: nn.Module, settings: OptimizationSettings, groups: list[dict[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer of all trainable weights.

    Parameters
    ----------
    model : torch.nn.Module
    settings : OptimizationSettings
    groups : list of dict, optional
        Parameters in groups with a learning rate ``lr`` and a ``weight_decay`` each; default: all alike.
    """
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    weights: Any = groups or trainable
    return kinds[settings.optimizer](
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=settings.fused or None
    )


LEAST_IMPROVEMENT = 1e-4
"""Decrease of the validation loss that counts as better."""


class Schedule:
    """The learning rate over time, whether it moves by steps, by epochs, or not at all.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    settings : OptimizationSettings
    steps_per_epoch : int
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, settings: OptimizationSettings, steps_per_epoch: int
    ) -> None:
        self._scheduler: LRScheduler
        if settings.schedule == "one-cycle":
            total = settings.epochs * steps_per_epoch
            peaks = [group["lr"] for group in optimizer.param_groups]
            self._scheduler = OneCycleLR(optimizer, max_lr=peaks, total_steps=total)
        elif settings.schedule == "plateau":
            # torch waits for one bad epoch more than its patience; Keras, and the paper, do not
            self._scheduler = ReduceLROnPlateau(
                optimizer,
                factor=0.1,
                patience=max(settings.plateau_patience - 1, 0),
                threshold=LEAST_IMPROVEMENT,
                threshold_mode="abs",
            )
        else:
            self._scheduler = LambdaLR(optimizer, lambda _: 1.0)

    def after_step(self) -> None:
        """Move on after an optimizer step."""
        if isinstance(self._scheduler, OneCycleLR):
            self._scheduler.step()

    def after_epoch(self, loss: float) -> None:
        """Move on after an epoch that ended with this (validation) loss."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)

    def state_dict(self) -> dict[str, object]:
        """Return the state as plain types."""
        return {
            key: value
            for key, value in self._scheduler.state_dict().items()
            if isinstance(value, int | float | str | bool | list)
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` returned."""
        self._scheduler.load_state_dict(state)
