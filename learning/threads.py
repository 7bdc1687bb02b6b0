"""How many CPU threads the steps of a run take: chosen by their time, and looked at again as it goes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

import torch
from tqdm import tqdm

from common.command_line import counted

_PERIOD = 200
"""Steps from one trial to the next."""
_TRIES = 2
"""Steps on each number of threads in a trial; in the first of a run one more, which warms up."""
_SLOW = 1.3
"""A step is slow that takes so many times as long as one on another number of threads took."""
_SLOW_STEPS = 3
"""Slow steps in a row after which the other number is taken."""


def thread_counts(threads: int) -> list[int]:
    """Return the numbers of CPU threads that a run may take, ascending: one, half of torch's, all of them.

    Where ``--threads`` (here `threads`) or OMP_NUM_THREADS sets the number, there is no other.
    """
    most = torch.get_num_threads()
    if threads or "OMP_NUM_THREADS" in os.environ:
        return [most]
    return sorted({1, max(1, most // 2), most})


class ThreadChoice:
    """The number of CPU threads, of some, on which steps are fastest.

    Threads wait for one another many times a step, so a neighbour on one of two cores can make two threads
    slower than one. Numbers are tried at fixed steps, the first of a run and a few of every 200. So runs that
    choose the same are the same bit for bit; on another number of threads results agree but for rounding.
    Between trials the number changes when steps become slow. The first time that it is not the largest, the
    user is told.

    Parameters
    ----------
    counts : sequence of int
        Numbers to choose from, ascending; with fewer than two, nothing is tried or set.
    chosen : int
        What an earlier part of the run took last; 0: the largest.
    """

    def __init__(self, counts: Sequence[int], chosen: int = 0) -> None:
        self.counts = list(counts)
        self.chosen = chosen if chosen in counts else max(counts, default=0)
        self._trial: dict[int, float] = {}
        self._seconds: dict[int, float] = {}
        self._slow = 0
        self._told = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Take the step of this number, from 0 in the run, on the threads that are tried or chosen."""
        if len(self.counts) < 2:
            yield
            return
        place = number % _PERIOD
        left = trial_steps(self.counts) - len(self.counts) * (number >= _PERIOD) - place
        count = self.counts[place % len(self.counts)] if left > 0 else self.chosen
        torch.set_num_threads(count)
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        if left <= 0:
            self._watch(seconds)
            return
        self._trial[count] = min(seconds, self._trial.get(count, seconds))
        if left == 1:
            self._choose(self._trial if len(self._trial) == len(self.counts) else self._seconds)
            self._trial = {}

    def _watch(self, seconds: float) -> None:
        """Take other threads where the steps on the chosen ones have become slow."""
        others = [time for count, time in self._seconds.items() if count != self.chosen]
        self._slow = self._slow + 1 if others and seconds > _SLOW * min(others) else 0
        if self._slow >= _SLOW_STEPS:
            self._choose(self._seconds | {self.chosen: seconds})

    def _choose(self, seconds: dict[int, float]) -> None:
        """Take the threads with the shortest step."""
        self._seconds, self._slow = seconds, 0
        if not seconds:
            return
        self.chosen = min(seconds, key=lambda count: seconds[count])
        torch.set_num_threads(self.chosen)
        most = max(self.counts)
        if self.chosen < most and not self._told:
            self._told = True
            tqdm.write(
                f"A step takes {seconds[most]:.2g} s on {most} CPU threads, {seconds[self.chosen]:.2g} s on "
                f"{self.chosen}: training goes on with {counted(self.chosen, 'thread')} and looks again now "
                "and then (--threads keeps a number)."
            )


def trial_steps(counts: Sequence[int]) -> int:
    """Return how many steps the first trial of a run takes."""
    return (_TRIES + 1) * len(counts) if len(counts) > 1 else 0
