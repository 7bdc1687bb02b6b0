"""A task of two clouds of points, small enough that every number of the loop can be checked.

Run as a script under torchrun it trains the task and prints its curve; one process does the same alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from config import OptimizationSettings
from learning.distributed import Processes, start_processes, stop_processes
from learning.loop import FoldContext, Learner, Progress, fit
from learning.tracking import Tracker

FEATURES = 6
SETTINGS = OptimizationSettings(
    batch_size=8, learning_rate=1e-2, epochs=4, early_stop=0, schedule="constant", gradient_clip=5.0
)


@dataclass
class Points:
    """Two clouds whose centers differ in every feature; row k is of recording ``r<k // 4>``."""

    features: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {"features": self.features[rows], "label": self.label[rows]}

    def describe(self, rows: Tensor) -> str:
        return "recordings " + ", ".join(sorted({f"r{int(row) // 4}" for row in rows}))


def points(count: int = 48, seed: int = 0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    features = torch.randn(count, FEATURES, generator=generator) + 3.0 * (label[:, None] - 0.5)
    return Points(features, label)


@dataclass
class ToyLearner(Learner):
    """Cross-entropy and accuracy; what happens at a step can be changed by ``meddle``.

    ``validation_losses``, if given, are what the loop sees in place of the true ones, one an epoch.
    """

    validation_losses: list[float] = field(default_factory=list)
    meddle: Callable[[int, Tensor], Tensor] | None = None
    steps: int = 0
    epochs: int = 0
    at_validation: list[dict[str, Tensor]] = field(default_factory=list)

    def step(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        logits = model(batch["features"])
        loss = functional.cross_entropy(logits, batch["label"])
        if model.training:
            self.steps += 1
            if self.meddle is not None:
                loss = self.meddle(self.steps, loss)
        elif self.validation_losses:
            self.at_validation.append({name: value.clone() for name, value in model.state_dict().items()})
            loss = torch.tensor(self.validation_losses[self.epochs])
            self.epochs += 1
        return {"loss": loss}, logits.softmax(dim=1)[:, 1]

    def score(self, samples: Points, rows: Tensor, predictions: Tensor) -> dict[str, float]:
        right = (predictions > 0.5).long() == samples.label[rows]
        return {"accuracy": float(right.float().mean())}


class Recorder(Tracker):
    """Remembers what the loop reports."""

    def __init__(self) -> None:
        super().__init__(None)
        self.epochs: list[dict[str, float]] = []
        self.steps: list[int] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.epochs.append(dict(values))
        self.steps.append(step)


def build(seed: int = 0, plain: bool = False) -> nn.Module:
    """Return a small network, with batch statistics and dropout unless it is to be plain."""
    torch.manual_seed(seed)
    between = [nn.ReLU()] if plain else [nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(nn.Linear(FEATURES, 8), *between, nn.Linear(8, 2))


def toy_run(
    folder: Path,
    learner: ToyLearner | None = None,
    processes: Processes | None = None,
    *,
    seed: int = 0,
    validation: bool = True,
    **settings: Any,
) -> FoldContext:
    """Return a run of 32 rows to learn from and 16 to follow on."""
    return FoldContext(
        learner=learner or ToyLearner(),
        samples=points(),
        train=torch.arange(32),
        validation=torch.arange(32, 48) if validation else torch.zeros(0, dtype=torch.int64),
        optimization=replace(SETTINGS, **settings),
        seed=seed,
        device=torch.device("cpu"),
        precision=torch.float32,
        processes=processes or Processes(),
        folder=folder,
        metadata={"task": "toy", "fold": 0},
        label="fold 0",
    )


def train(
    run: FoldContext, model: nn.Module | None = None, *, resume: bool = False
) -> tuple[nn.Module, Progress, Recorder]:
    """Train a run and return the network, how far it came, and what was reported."""
    model = build(run.seed) if model is None else model
    recorder = Recorder()
    progress = fit(run, model, recorder, resume=resume)
    return model, progress, recorder


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return a history without what differs from one machine, or moment, to another."""
    return [
        {name: value for name, value in scores.items() if name != "samples_per_second"} for scores in history
    ]


def main() -> None:
    """Train as one of the processes that torchrun started; the leading one writes the curve."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    processes = start_processes("cpu")
    try:
        run = toy_run(folder, None, processes, **settings)
        model, progress, _ = train(run, build(plain=True))
        norm = math.sqrt(sum(float(weight.detach().square().sum()) for weight in model.parameters()))
        report = {"count": processes.count, "history": untimed(progress.history), "norm": norm}
    finally:
        stop_processes()
    report["left"] = [name for name in threads() if "gloo" in name]
    (folder / f"rank{processes.rank}.json").write_text(json.dumps(report))


def threads() -> list[str]:
    """Return the names of all threads of this process, also those Python did not start (Linux; else none)."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(path.read_text().strip())
    return names


if __name__ == "__main__":
    main()
