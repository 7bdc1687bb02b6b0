"""Train the deep path of `models.phase_fusion.PhaseFusion`: its members, each from a seed of its own.

A member learns with the log-odds of the evidence as an offset. Noise is added to the grids, and of some
recordings with both signals one is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class DeepSettings:
    """How the deep path is trained."""

    epochs: int = 20
    """Passes over the training recordings."""
    batch_size: int = 64
    """Recordings of one step."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.1
    """Decoupled weight decay."""
    noise: float = 0.3
    """Standard deviation of noise on the standardized grids."""
    hidden: float = 0.3
    """Share of recordings with both signals of which one is hidden, 0 to 1."""
    inner_folds: int = 5
    """Folds, sessions kept apart, behind the offset and the share."""


@dataclass(frozen=True)
class Recorded:
    """What a fit reads of some recordings; NaN where one lacks a signal."""

    pcg_grid: Tensor
    ecg_bands: Tensor
    ecg_grid: Tensor
    has_pcg: Tensor
    has_ecg: Tensor
    label: NDArray[np.int64]
    session: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self.label)

    def rows(self, rows: NDArray[np.integer]) -> Recorded:
        """Return some of the recordings."""
        here = torch.from_numpy(rows)
        pcg_grid, ecg_bands, ecg_grid, has_pcg, has_ecg = (values[here] for values in self.inputs())
        return Recorded(pcg_grid, ecg_bands, ecg_grid, has_pcg, has_ecg, self.label[rows], self.session[rows])

    def inputs(self) -> tuple[Tensor, ...]:
        """Return what the network takes."""
        return self.pcg_grid, self.ecg_bands, self.ecg_grid, self.has_pcg, self.has_ecg


def train_members(
    model: Any,
    recorded: Recorded,
    offset: NDArray[np.float64],
    seed: int,
    settings: DeepSettings,
) -> None:
    """Train every member on the recordings, with the log-odds of the evidence as an offset."""
    model_has = recorded.has_pcg & model.fitted[0], recorded.has_ecg & model.fitted[1]
    grids, has = model.prepared(recorded.pcg_grid, recorded.ecg_grid, *model_has)
    known = (has["pcg"] | has["ecg"]).nonzero().flatten()
    label = torch.tensor(recorded.label, dtype=torch.float32)
    share = label[known].mean().clamp(0.01, 0.99)
    weight = torch.where(label > 0, 0.5 / share, 0.5 / (1 - share))
    batch = {"offset": torch.from_numpy(offset).float(), "label": label, "weight": weight}
    for number, member in enumerate(model.members):
        _train(member, grids, has, batch, known, seed * 1009 + number, settings)
        _centre(member, grids, has, known, weight)


def _train(
    member: Any,
    grids: dict[str, Tensor],
    has: dict[str, Tensor],
    batch: dict[str, Tensor],
    known: Tensor,
    seed: int,
    settings: DeepSettings,
) -> None:
    """Train one member; its weights and all that is random come from the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        member.restart()
        size = min(settings.batch_size, len(known))
        steps = len(known) // size
        optimizer = torch.optim.AdamW(
            member.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=max(settings.epochs * steps, 2)
        )
        member.train()
        for _ in range(settings.epochs):
            order = known[torch.randperm(len(known), generator=generator)]
            for rows in order.split(size)[:steps]:
                seen, there = augmented(grids, has, rows, generator, settings)
                log_odds = member(seen, there) + batch["offset"][rows]
                losses = functional.binary_cross_entropy_with_logits(
                    log_odds, batch["label"][rows], reduction="none"
                )
                optimizer.zero_grad(set_to_none=True)
                (losses * batch["weight"][rows]).mean().backward()
                optimizer.step()
                schedule.step()
    member.eval()


@torch.no_grad()
def _centre(
    member: Any, grids: dict[str, Tensor], has: dict[str, Tensor], known: Tensor, weight: Tensor
) -> None:
    """Shift a member so that on the training recordings it adds nothing on average, classes balanced.

    A constant is no evidence; without this, a share would be chosen for mending the intercept.
    """
    said = member(
        {name: values[known] for name, values in grids.items()},
        {name: values[known] for name, values in has.items()},
    )
    member.output.bias -= (said * weight[known]).sum() / weight[known].sum()


def augmented(
    grids: dict[str, Tensor],
    has: dict[str, Tensor],
    rows: Tensor,
    generator: torch.Generator,
    settings: DeepSettings,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch with noise on its grids, and one signal hidden of some recordings that have both."""
    seen = {}
    for name, grid in grids.items():
        values = grid[rows]
        seen[name] = values + settings.noise * torch.randn(values.shape, generator=generator)
    there = {name: values[rows] for name, values in has.items()}
    draw = torch.rand(len(rows), generator=generator)
    both = there["pcg"] & there["ecg"]
    there["pcg"] = there["pcg"] & ~(both & (draw < settings.hidden / 2))
    there["ecg"] = there["ecg"] & ~(both & (draw > 1 - settings.hidden / 2))
    return seen, there
