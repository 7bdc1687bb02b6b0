"""Work in parallel: in order, and never far ahead of who takes it."""

import os
import signal
import threading
import time

import joblib
import pytest

from datasets.cache import AHEAD, in_parallel
from datasets.sources import DataError


def double(row):
    return 2 * row["number"]


def numbered(count):
    return [{"number": number} for number in range(count)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_row_once_and_in_order(jobs):
    assert list(in_parallel(double, numbered(AHEAD + 3), jobs)) == [2 * n for n in range(AHEAD + 3)]


def test_no_rows_give_nothing():
    assert list(in_parallel(double, [], 1)) == []


def test_work_does_not_run_far_ahead_of_who_writes():
    """Else what waits to be written would fill the memory, the more of it the more recordings there are."""
    begun, lock = [0], threading.Lock()

    def count(row):
        with lock:
            begun[0] += 1
        return row["number"]

    farthest = 0
    with joblib.parallel_config(backend="threading"):
        for number in in_parallel(count, numbered(5 * AHEAD), 2):
            if number % (AHEAD // 2) == 0:
                time.sleep(0.05)  # long enough for all that may begin
            farthest = max(farthest, begun[0] - number)
    assert begun[0] == 5 * AHEAD
    assert farthest <= AHEAD


def test_more_processes_may_be_further_ahead():
    begun, lock = [0], threading.Lock()

    def count(row):
        with lock:
            begun[0] += 1
        return row["number"]

    with joblib.parallel_config(backend="threading"):
        work = in_parallel(count, numbered(1000), 32)
        next(work)
        deadline = time.monotonic() + 120
        while begun[0] < 256 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)  # long enough for more, were more allowed
        assert begun[0] == 256
        assert len(list(work)) == 999


def test_an_error_ends_the_work():
    def fail(row):
        if row["number"] == 5:
            raise OSError("no such disk")
        return row["number"]

    with pytest.raises(OSError, match="no such disk"):
        list(in_parallel(fail, numbered(10), 1))


def die(row):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_reported_in_a_sentence():
    with pytest.raises(DataError, match=r"killed.*--jobs \(there were 2\)"):
        list(in_parallel(die, numbered(8), 2))
