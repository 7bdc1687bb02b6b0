"""Measure how often a 95 % interval covers the true value, for a cohort of given size and labels.

    python -m studies.interval_coverage                     # the cache prepared last
    python -m studies.interval_coverage --cache data/cache/<name> --jobs 2

Scores are simulated on the sessions, recordings and labels of the cache: ``separation * label + effect of
the session + noise``, all normal, the noise of standard deviation 1. The true AUROC, of recordings from two
sessions, is then known exactly. Each repetition draws new scores and computes what evaluate.py reports:
the interval of the AUROC with whole sessions resampled and, for contrast, recordings resampled as if they
were independent; and of the difference between two models that share half of the variance of both effects.
Prints a table and writes results/benchmarks/interval_coverage.csv. About 4 minutes on one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from common.command_line import read_settings
from common.files import replacing
from common.script import run_script
from datasets.cache import find_cache
from evaluation.statistics import Interval, cluster_bootstrap, paired_cluster_bootstrap

SESSION_EFFECTS = (0.0, 0.5, 1.0, 2.0)
"""Standard deviations of the effect of a session; that of the noise is 1."""
TARGETS = ((0.90, 0.85), (0.70, 0.70))
"""True AUROC of the first and of the second model."""
SHARED = 0.5
"""Share of the variance of either effect that two models have in common."""
WHAT = ("AUROC, sessions drawn", "AUROC, recordings drawn", "difference, sessions drawn")


@dataclass(frozen=True)
class CoverageSettings:
    """Settings of the coverage study."""

    cache: Path | None = None
    """Cache whose sessions and labels are used; default: the one prepared last."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    repetitions: int = 400
    """Simulated cohorts a row."""
    draws: int = 1000
    """Draws of each bootstrap."""
    seed: int = 0
    """Seed of the simulation."""
    jobs: int = 1
    """Processes; -1: one a core."""
    output: Path = Path("results/benchmarks/interval_coverage.csv")
    """Table to write."""


@dataclass(frozen=True)
class Scenario:
    """How scores are simulated."""

    session_effect: float
    aurocs: tuple[float, float]

    @property
    def separations(self) -> tuple[float, float]:
        """Distance of the classes in either model: AUROC = Phi(distance / sqrt(2 (1 + effect ** 2)))."""
        deviation = np.sqrt(2 * (1 + self.session_effect**2))
        first, second = (float(deviation * stats.norm.ppf(auroc)) for auroc in self.aurocs)
        return first, second

    def scores(
        self, session: NDArray[np.int64], label: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Simulate the scores of both models on recordings: (2, recordings)."""

        def effects(count: int) -> NDArray[np.float64]:
            shared, separate = random.standard_normal(count), random.standard_normal((2, count))
            return np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * separate

        of_session = self.session_effect * effects(int(session.max()) + 1)[:, session]
        return np.outer(self.separations, label) + of_session + effects(len(label))


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Run the study that the command line describes; return its table."""
    settings = read_settings(CoverageSettings, arguments, __doc__)
    recordings = find_cache(settings.cache, settings.cache_dir).table("recordings")
    session = pd.factorize(recordings["session"])[0]
    label = recordings["label"].to_numpy()
    scenarios = [Scenario(effect, aurocs) for effect, aurocs in itertools.product(SESSION_EFFECTS, TARGETS)]
    rows: list[dict[str, float | str]] = []
    work = joblib.Parallel(n_jobs=settings.jobs, return_as="generator")(
        joblib.delayed(study)(scenario, session, label, settings) for scenario in scenarios
    )
    for found in tqdm(work, total=len(scenarios), desc="Coverage", unit="scenario"):
        rows += found
    table = pd.DataFrame(rows)
    with replacing(settings.output) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.4f")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{len(recordings)} recordings of {session.max() + 1} sessions. Written to {settings.output}.")
    return table


def study(
    scenario: Scenario, session: NDArray[np.int64], label: NDArray[np.int64], settings: CoverageSettings
) -> list[dict[str, float | str]]:
    """Return the coverage of the three intervals in one scenario."""
    first_auroc, second_auroc = scenario.aurocs
    truth = dict(zip(WHAT, (first_auroc, first_auroc, first_auroc - second_auroc), strict=True))
    found: dict[str, list[Interval]] = {kind: [] for kind in WHAT}
    for repetition in range(settings.repetitions):
        random = np.random.default_rng([settings.seed, repetition])
        first, second = (
            pd.DataFrame(
                {
                    "recording": np.arange(len(label)),
                    "session": session,
                    "label": label,
                    "probability": scores,
                }
            )
            for scores in scenario.scores(session, label, random)
        )
        draws = settings.draws
        intervals = (
            cluster_bootstrap(first, draws=draws, seed=repetition),
            cluster_bootstrap(first, cluster="recording", draws=draws, seed=repetition),
            paired_cluster_bootstrap(first, second, draws=draws, seed=repetition),
        )
        for kind, interval in zip(WHAT, intervals, strict=True):
            found[kind].append(interval)
    return [
        {"interval": kind, "session_effect": scenario.session_effect, **coverage(found[kind], truth[kind])}
        for kind in WHAT
    ]


def coverage(intervals: Sequence[Interval], truth: float) -> dict[str, float]:
    """Return how often intervals cover the true value, and on which side they miss it."""
    low, high = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    held = float(np.mean((low <= truth) & (truth <= high)))
    return {
        "truth": truth,
        "repetitions": len(intervals),
        "coverage": held,
        "standard_error": float(np.sqrt(held * (1 - held) / len(intervals))),
        "truth_below": float(np.mean(truth < low)),
        "truth_above": float(np.mean(truth > high)),
        "mean_width": float(np.mean(high - low)),
        "mean_bias": float(np.mean([interval.estimate for interval in intervals]) - truth),
    }


if __name__ == "__main__":
    run_script(main)
