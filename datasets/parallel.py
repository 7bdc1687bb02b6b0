"""Prepare many recordings in parallel, in processes or on a cluster, in memory that does not grow with them.

joblib starts the work; whoever calls may hand it to a cluster (`joblib.parallel_config`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any, TypeVar

import joblib

from datasets.sources import DataError

Prepared = TypeVar("Prepared")

TOGETHER = 4
"""Recordings a process is handed at a time: few, so that all processes end together."""
AHEAD = 128
"""Recordings that are under way, or wait to be written, at most; joblib itself would let any number wait."""
AHEAD_A_PROCESS = 8
"""The same for each process, where these are more."""


def in_parallel(
    prepare: Callable[[dict[str, Any]], Prepared], rows: Sequence[dict[str, Any]], jobs: int
) -> Iterator[Prepared]:
    """Yield what ``prepare`` makes of each row, in their order.

    Parameters
    ----------
    prepare : callable
        Can be pickled; makes of one row of an index what the cache keeps of it.
    rows : sequence of dict
    jobs : int
        Processes; -1: one a core, or all that a cluster has.

    Raises
    ------
    DataError
        If a process was killed.
    """
    ahead = max(AHEAD, AHEAD_A_PROCESS * joblib.effective_n_jobs(jobs))
    try:
        with joblib.Parallel(n_jobs=jobs, return_as="generator", batch_size=TOGETHER) as parallel:
            for first in range(0, len(rows), ahead):
                yield from parallel(joblib.delayed(prepare)(row) for row in rows[first : first + ahead])
    except BrokenExecutor as error:
        raise DataError(
            "A process that prepared recordings was killed, as happens where memory runs out: try fewer of "
            f"them with --jobs (there were {joblib.effective_n_jobs(jobs)})."
        ) from error
