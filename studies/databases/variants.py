"""What was tried for databases that a model has not met: features of the grid, and fits of a regression."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from systems.ecg_pcg.cycle_shape.fit import balanced_weights
from systems.ecg_pcg.linear.fit import fit_logistic

Array = NDArray[np.float64]
_SILENT_CELLS = 4


@dataclass(frozen=True)
class Variant:
    """Features and fit of one logistic regression.

    Attributes
    ----------
    percentiles : tuple of int
        Which of the 10th, 50th and 75th percentile over beats: 0, 1, 2.
    reference : {"level", "cycle", "silence"}
        What is subtracted: the mean of the whole grid, of each band over the cycle, or over the end of
        diastole.
    together : int
        Neighbouring bands that are averaged.
    inverse_penalty : float
    even : bool
        Whether databases and their classes weigh alike; else classes do, over all recordings.
    """

    percentiles: tuple[int, ...]
    reference: str
    together: int
    inverse_penalty: float
    even: bool = True

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        which = "+".join(("10th", "50th", "75th")[number] for number in self.percentiles)
        weights = "" if self.even else ", databases weighted by size"
        return (
            f"{which} percentile less {self.reference}, {self.together} bands together, "
            f"C {self.inverse_penalty:g}{weights}"
        )

    def features(self, grid: Array) -> Array:
        """Map grids (N, percentiles, cells, bands) to features (N, features)."""
        chosen = grid[:, list(self.percentiles)]
        groups = np.arange(0, chosen.shape[-1], self.together)
        sizes = np.diff(np.append(groups, chosen.shape[-1]))
        broad = np.add.reduceat(chosen, groups, axis=-1) / sizes
        return (broad - _REFERENCES[self.reference](broad)).reshape(len(grid), -1)

    def log_odds(
        self, features: Array, labels: NDArray[np.int64], databases: NDArray[np.str_], used: Array
    ) -> Array:
        """Fit on features (N, features) and return the log-odds of those that are used."""
        weights = balanced_weights(labels, databases) if self.even else None
        return fit_logistic(features, labels, self.inverse_penalty, weights).log_odds(used)


_REFERENCES: Mapping[str, Callable[[Array], Array]] = {
    "level": lambda grid: grid.mean(axis=(1, 2, 3), keepdims=True),
    "cycle": lambda grid: grid.mean(axis=2, keepdims=True),
    "silence": lambda grid: grid[:, :, -_SILENT_CELLS:].mean(axis=2, keepdims=True),
}

LINEAR = Variant((0, 1, 2), "level", 1, 0.01, even=False)
SHAPE = Variant((0, 1, 2), "cycle", 1, 0.01)
CYCLE_SHAPE = Variant((0,), "silence", 5, 3e-4)
"""The model of `models.cycle_shape`."""
VARIANTS = (
    LINEAR,
    Variant((0, 1, 2), "level", 1, 0.01),
    Variant((0, 1, 2), "level", 1, 0.0003),
    SHAPE,
    *(Variant((0, 1, 2), "cycle", 1, penalty) for penalty in (0.001, 0.0003, 0.0001)),
    *(Variant((1,), "cycle", 1, penalty) for penalty in (0.001, 0.0003)),
    *(Variant((0,), "cycle", 1, penalty) for penalty in (0.01, 0.001, 0.0003, 0.0001)),
    *(Variant((0,), "cycle", 5, penalty) for penalty in (0.01, 0.001, 0.0003, 0.0001)),
    *(Variant((0,), "silence", 5, penalty) for penalty in (0.01, 0.001, 0.0003, 0.0001)),
    *(Variant((0,), "silence", 1, penalty) for penalty in (0.001, 0.0003)),
    *(Variant((0,), "silence", 34, penalty) for penalty in (0.01, 0.001)),
    Variant((0,), "silence", 5, 0.0003, even=False),
)
