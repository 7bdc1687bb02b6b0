"""What the segmentation of heart sounds is fitted to: evidence of a frame, durations of states, R-peaks.

Those of the repository are in ``segmentation_weights.json``; ``python -m studies.segmentation`` writes it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from common.files import write_json
from datasets.sources import DataError
from systems.ecg_pcg.segmentation.features import FRAME_RATE

WEIGHTS = Path(__file__).with_name("weights.json")
FORMAT = 1
RING = ("S1", "systole", "S2", "diastole")
"""Heart states in the order in which they follow one another."""
_LONGEST_STATE = 2.0
"""Longest duration of a state, seconds."""
SHORTEST_STATE = 0.04
"""Shortest duration of a state, seconds."""
_LOOSE_SYSTOLE, _LOOSE_DIASTOLE = 0.01, 0.03
"""Share of systoles and of diastoles that may last any time: early beats, pauses, steps of the rate."""


@dataclass(frozen=True)
class Parameters:
    """What is fitted; times in seconds.

    Attributes
    ----------
    weights : numpy.ndarray, shape (4, 7)
        Logistic regression of the states of `RING` on the envelopes of a frame.
    bias : numpy.ndarray, shape (4,)
    share : numpy.ndarray, shape (4,)
        Share of all frames that each state has.
    first_sound, second_sound : numpy.ndarray, shape (2,)
        Mean and standard deviation of the durations of S1 and S2.
    systole, diastole : float
        Standard deviation within a recording of systole, and of diastole as a share of its length.
    systolic_interval : numpy.ndarray, shape (3,)
        S1 to S2 is the first times the cycle to the power of the second; the third is the standard
        deviation between recordings.
    r_peak : numpy.ndarray, shape (4,)
        S1 after the R-peak, mean and standard deviation; share of beats with an R-peak; R-peaks that
        belong to no beat, a second.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    share: NDArray[np.float64]
    first_sound: NDArray[np.float64]
    second_sound: NDArray[np.float64]
    systole: float
    diastole: float
    systolic_interval: NDArray[np.float64]
    r_peak: NDArray[np.float64]

    def usual_interval(self, cycle: float) -> float:
        """Return the usual time from S1 to S2 at a cycle, leaving room for S2 and diastole, seconds."""
        law = self.systolic_interval[0] * cycle ** self.systolic_interval[1]
        return float(min(law, cycle - self.second_sound[0] - SHORTEST_STATE))


@functools.cache
def shipped_parameters() -> Parameters:
    """Return the parameters of the repository, fitted on all sessions of training-a."""
    return read_parameters(WEIGHTS)


def read_parameters(path: Path) -> Parameters:
    """Read parameters that `write_parameters` wrote.

    Raises
    ------
    DataError
        If the file is damaged, or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {field.name: content["parameters"][field.name] for field in fields(Parameters)}
        known = content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"The parameters of segmentation in {path.name} cannot be read: {error!r}.") from None
    if not known:
        raise DataError(f"{path.name} has format {content['format']}, and {FORMAT} is needed.")
    arrays: dict[str, Any] = {
        name: np.array(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Parameters(**arrays)


def write_parameters(path: Path, parameters: Parameters, metadata: dict[str, Any]) -> None:
    """Write parameters, and metadata about how they came to be, as JSON."""
    values = {
        name: np.round(value, 6).tolist() if isinstance(value, np.ndarray) else round(value, 6)
        for name, value in asdict(parameters).items()
    }
    write_json(path, {"format": FORMAT, **metadata, "parameters": values})


def duration_distributions(cycle: float, interval: float, fitted: Parameters) -> NDArray[np.float64]:
    """Return how likely each state of `RING` is to last 1, 2, ... frames, shape (4, frames)."""
    diastole = max(cycle - interval - fitted.second_sound[0], SHORTEST_STATE)
    uneven = fitted.diastole * diastole + 0.5 / FRAME_RATE
    return np.stack(
        [
            _durations(*fitted.first_sound),
            _durations(
                interval - fitted.first_sound[0], np.hypot(fitted.systole, 1 / FRAME_RATE), _LOOSE_SYSTOLE
            ),
            _durations(*fitted.second_sound),
            _durations(diastole, uneven, _LOOSE_DIASTOLE),
        ]
    )


def _durations(mean: float, deviation: float, loose: float = 0.0) -> NDArray[np.float64]:
    """Return a normal distribution of durations in frames, a share of it spread over all durations."""
    length = np.arange(1, round(_LONGEST_STATE * FRAME_RATE) + 1) / FRAME_RATE
    half = 0.5 / FRAME_RATE
    within = special.ndtr((length + half - mean) / deviation) - special.ndtr(
        (length - half - mean) / deviation
    )
    possible = length > SHORTEST_STATE - half
    within = np.where(possible, np.maximum(within, 1e-12), 0.0)
    return (1 - loose) * within / within.sum() + loose * possible / possible.sum()
