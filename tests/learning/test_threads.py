"""The number of CPU threads: whose choice it is, and which one is taken, alone and beside neighbours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learning import threads
from learning.threads import ThreadChoice, thread_counts, trial_steps

ROOT = Path(__file__).parents[2]
ALONE = {1: 0.33, 2: 0.24}
"""Seconds of a step by number of threads, as measured on two cores."""
CROWDED = {1: 0.33, 2: 1.06}
"""Beside one busy process."""


class Machine:
    """A machine whose steps take a known time, and the threads that each step was taken on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, choice: ThreadChoice) -> None:
        self.choice, self.seconds, self.now, self.threads = choice, ALONE, 0.0, 0
        self.taken: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(self, "threads", count))
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)

    def take(self, steps: int) -> list[int]:
        """Take steps; return the threads of each."""
        for number in range(len(self.taken), len(self.taken) + steps):
            with self.choice.step(number):
                self.now += self.seconds[self.threads]
                self.taken.append(self.threads)
        return self.taken[-steps:]


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch, ThreadChoice([1, 2]))


def test_alone_all_threads_are_taken_without_a_word(machine, capsys):
    assert machine.take(10) == [1, 2, 1, 2, 1, 2, 2, 2, 2, 2]
    assert machine.choice.chosen == 2
    assert capsys.readouterr().out == ""


def test_beside_a_neighbour_one_thread_is_taken_and_said_once(machine, capsys):
    machine.seconds = CROWDED
    assert machine.take(10)[6:] == [1] * 4
    assert machine.take(195)[-1] == 1, "after the second trial too"
    said = capsys.readouterr().out
    assert said.count("goes on with 1 thread ") == 1 and "1.1 s on 2 CPU threads, 0.33 s on 1:" in said


def test_a_neighbour_that_joins_costs_three_slow_steps(machine, capsys):
    machine.take(20)
    machine.seconds = CROWDED
    assert machine.take(8) == [2, 2, 2, 1, 1, 1, 1, 1]
    assert "goes on with 1 thread " in capsys.readouterr().out


def test_a_slow_step_between_fast_ones_changes_nothing(machine):
    machine.take(20)
    for seconds in (CROWDED, CROWDED, ALONE, CROWDED, CROWDED, ALONE):
        machine.seconds = seconds
        assert machine.take(1) == [2]


def test_all_threads_come_back_when_the_neighbour_has_left(machine):
    machine.seconds = CROWDED
    machine.take(150)
    machine.seconds = ALONE
    assert machine.take(60) == [1] * 50 + [1, 2, 1, 2] + [2] * 6


def test_a_step_that_fails_ends_as_it_would_without(machine):
    with pytest.raises(ArithmeticError), machine.choice.step(0):
        raise ArithmeticError


def test_a_continued_run_takes_what_it_took_last(monkeypatch):
    machine = Machine(monkeypatch, ThreadChoice([1, 2], chosen=1))
    machine.taken = [1] * 100
    assert machine.take(50) == [1] * 50
    assert ThreadChoice([1, 2]).chosen == 2
    assert ThreadChoice([1, 4], chosen=2).chosen == 4, "another machine"


def test_what_is_set_stays(monkeypatch):
    machine = Machine(monkeypatch, ThreadChoice([2]))
    machine.threads = 2
    machine.seconds = CROWDED
    assert machine.take(20) == [2] * 20 and trial_steps([2]) == 0


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (8, [1, 4, 8])])
def test_numbers_to_choose_from(monkeypatch, most, counts):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: most)
    assert thread_counts(0) == counts
    assert thread_counts(most) == [most], "--threads"
    monkeypatch.setenv("OMP_NUM_THREADS", str(most))
    assert thread_counts(0) == [most]


@pytest.mark.parametrize(
    ("variables", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "None")],
    ids=["default", "user's", "policy"],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(variables, spins):
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    code = "import os; from common.script import run_script; "
    code += "run_script(lambda: print(os.getenv('GOMP_SPINCOUNT')))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == spins
