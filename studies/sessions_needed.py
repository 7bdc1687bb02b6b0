"""Measure from how many sessions of a class on an interval covers the true AUROC about as often as it says.

    python -m studies.sessions_needed

Scores are simulated as in `studies.interval_coverage`. Each session has recordings of one class: few sessions
of normal recordings, and thirty of abnormal ones. Whole sessions are drawn, as evaluate.py does.
Prints a table and writes results/benchmarks/sessions_needed.csv. About one minute on one core.

The number that follows is `evaluation.statistics.SESSIONS_NEEDED`: fewer sessions than that give no interval
and no p-value.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common.command_line import read_settings
from common.files import replacing
from common.script import run_script
from studies.interval_coverage import Scenario

NORMAL_SESSIONS = (2, 3, 4, 5, 6, 8, 10, 13, 20)
ABNORMAL_SESSIONS, RECORDINGS = 30, 4
"""Sessions of abnormal recordings, and recordings a session."""
SESSION_EFFECTS = (0.0, 1.0)
"""Standard deviation of the effect of a session; that of the noise is 1."""
AUROCS = (0.90, 0.85)
"""True AUROC of both models."""


@dataclass(frozen=True)
class SessionsNeededSettings:
    """Settings of the study."""

    repetitions: int = 1000
    """Simulated cohorts a row."""
    draws: int = 1000
    """Draws of each bootstrap."""
    seed: int = 0
    """Seed of the simulation."""
    output: Path = Path("results/benchmarks/sessions_needed.csv")
    """Table to write."""


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Run the study that the command line describes; return its table."""
    settings = read_settings(SessionsNeededSettings, arguments, __doc__)
    rows = [
        {"normal_sessions": sessions, "session_effect": effect} | study(sessions, effect, settings)
        for sessions, effect in itertools.product(NORMAL_SESSIONS, SESSION_EFFECTS)
    ]
    table = pd.DataFrame(rows)
    with replacing(settings.output) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.3f")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    return table


def study(sessions: int, effect: float, settings: SessionsNeededSettings) -> dict[str, float]:
    """Return how often the intervals of an AUROC and of a difference cover the truth, and their width."""
    scenario = Scenario(effect, AUROCS)
    count = sessions + ABNORMAL_SESSIONS
    session = np.repeat(np.arange(count), RECORDINGS)
    label = (session >= sessions).astype(int)
    truth = np.array([AUROCS[0], AUROCS[0] - AUROCS[1]])
    covered, width = np.zeros(2), np.zeros(2)
    for repetition in range(settings.repetitions):
        random = np.random.default_rng([settings.seed, sessions, repetition])
        areas = [pairs_of_sessions(scores, sessions) for scores in scenario.scores(session, label, random)]
        times = random.multinomial(count, np.full(count, 1 / count), size=settings.draws).astype(float)
        times = times[(times[:, :sessions].sum(axis=1) > 0) & (times[:, sessions:].sum(axis=1) > 0)]
        one, two = (_aurocs(area, times[:, :sessions], times[:, sessions:]) for area in areas)
        low, high = np.quantile(np.stack([one, one - two]), [0.025, 0.975], axis=1)
        covered += (low <= truth) & (truth <= high)
        width += high - low
    names = ("coverage", "coverage_of_difference", "width", "width_of_difference")
    return dict(zip(names, (np.concatenate([covered, width]) / settings.repetitions).tolist(), strict=True))


def pairs_of_sessions(scores: NDArray[np.float64], sessions: int) -> NDArray[np.float64]:
    """Return the share of pairs ordered right for each normal and abnormal session, (sessions, others)."""
    by_session = scores.reshape(-1, RECORDINGS)
    normal, abnormal = by_session[:sessions], by_session[sessions:]
    return (abnormal[None, :, None, :] > normal[:, None, :, None]).mean(axis=(2, 3))


def _aurocs(
    area: NDArray[np.float64], normal: NDArray[np.float64], abnormal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AUROC of each draw from how often it holds each session."""
    right = ((normal @ area) * abnormal).sum(axis=1)
    return right / (normal.sum(axis=1) * abnormal.sum(axis=1))


if __name__ == "__main__":
    run_script(main)
