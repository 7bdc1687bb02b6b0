"""Heart-state onsets that are wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.random import Generator

from datasets.beats import read_heart_states
from datasets.cache import Cache
from systems.ecg_pcg.sources.simulated import write_states
from tests.robustness.mutations import LEFT_OUT, USED, Expect, Target, mutation
from tests.robustness.workspaces import COHORT

RATE = 2000


States = list[tuple[int, str]]


def _states(target: Target) -> States:
    """Return the onsets of the target, or as many of a good neighbour's as fit where it has none."""
    path = target.onsets if target.has_onsets else next(target.workspace.raw.rglob("*_StateAns.mat"))
    states = read_heart_states(path, RATE)
    rows = zip(states.time, states.state, strict=True)
    count = len(target.samples("pcg"))
    return [(round(time * RATE) + 1, str(name)) for time, name in rows if time * RATE < count]


def _write(target: Target, states: States) -> None:
    write_states(target.onsets, "state_ans", states)


def _save(target: Target, **variables: Any) -> None:
    scipy.io.savemat(target.onsets, variables)


@mutation("onsets in the wrong order or place")
def onsets_unsorted(target: Target, rng: Generator) -> Expect:
    states = _states(target)
    first, second = sorted(rng.choice(len(states), size=2, replace=False))
    states[first], states[second] = states[second], states[first]
    _write(target, states)
    return Expect(LEFT_OUT, "not in order")


@mutation("onsets in the wrong order or place")
def onset_negative(target: Target, rng: Generator) -> Expect:
    states = _states(target)
    _write(target, [(-int(rng.integers(0, 10**6)), "S1"), *states])
    return Expect(LEFT_OUT, "negative or missing onset")


@mutation("onsets in the wrong order or place")
def onset_past_the_end(target: Target, rng: Generator) -> Expect:
    count = len(target.samples("pcg"))
    _write(target, [*_states(target), (count + int(rng.integers(2, 10**6)), "S1")])
    return Expect(LEFT_OUT, "after the end")


@mutation("missing or unknown states")
def states_missing(target: Target, rng: Generator) -> Expect:
    """Beats run from S1 to S1: the other states are not needed for them."""
    states = _states(target)
    gone = {"systole", "S2", "diastole"} - set(rng.choice(["systole", "S2", "diastole"], size=1))
    _write(target, [state for state in states if state[1] not in gone])
    return Expect(USED, changed=not target.has_onsets or target.workspace.layout == COHORT)


@mutation("missing or unknown states")
def one_s1_missing(target: Target, rng: Generator) -> Expect:
    """Two cycles without the S1 between them are not taken for one."""
    states = _states(target)
    onsets = [row for row, state in enumerate(states) if state[1] == "S1"]
    gone = onsets[int(rng.integers(1, len(onsets) - 1))]
    longest = max(np.diff([states[row][0] for row in onsets])) / RATE
    _write(target, [state for row, state in enumerate(states) if row != gone])

    def check(cache: Cache) -> None:
        samples = cache.table("samples")
        samples = samples[samples["recording"] == target.name]
        assert (samples["end"] - samples["start"]).max() <= longest + 1e-4
        assert len(samples) == len(onsets) - 3

    return Expect(USED, changed=True, check=check)


@mutation("missing or unknown states")
def unknown_state(target: Target, rng: Generator) -> Expect:
    states = _states(target)
    place = int(rng.integers(len(states)))
    name = str(rng.choice(["S3", "s1", "", "murmur", "心音", "S1S2", "x" * 5000]))
    states[place] = (states[place][0], name)
    _write(target, states)
    return Expect(LEFT_OUT, "not known|cannot be read")


@mutation("missing or unknown states")
def no_states_at_all(target: Target, rng: Generator) -> Expect:
    _write(target, _states(target)[: int(rng.integers(2))])
    return Expect(LEFT_OUT, "No complete beat|no table")


@mutation("wrong MATLAB type")
def another_matlab_type(target: Target, rng: Generator) -> Expect:
    table = np.array([[1.0, 1.0], [500.0, 2.0]])
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2, "S2"], [3, "S1"]]
    contents: list[dict[str, Any]] = [
        {"state_ans": table},
        {"state_ans": scipy.sparse.csc_matrix(table)},
        {"state_ans": {"onset": table[:, 0], "state": "S1"}},
        {"state_ans": np.array(["ab", "cd"])},
        {"state_ans": cells[:, :1]},
        {"state_ans": np.concatenate([cells, cells[:, :1]], axis=1)},
        {"state_ans": np.empty((0, 2), dtype=object)},
        {"state_ans": cells[None]},
        {"state_ans": np.array([[1 + 2j, 2], [3, 4]])},
        {},
    ]
    _save(target, **contents[int(rng.integers(len(contents)))])
    return Expect(LEFT_OUT, "no table|No complete beat|not known")


@mutation("wrong MATLAB type")
def another_type_in_a_cell(target: Target, rng: Generator) -> Expect:
    values: list[Any] = [np.nan, np.inf, 1 + 2j, "x", np.zeros((0, 0)), np.arange(4.0), {"a": 1}, True]
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2000, "S2"], [4000, "S1"]]
    cells[int(rng.integers(3)), 0] = values[int(rng.integers(len(values) - 1))]
    _save(target, state_ans=cells)
    return Expect(LEFT_OUT, "not a number|missing onset|cannot be read")


@mutation("wrong MATLAB type")
def names_and_onsets_exchanged(target: Target, rng: Generator) -> Expect:
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [["S1", 1], ["S1", 2000]]
    _save(target, state_ans=cells)
    return Expect(LEFT_OUT, "not known")


@mutation("damaged onsets")
def onsets_cut_short(target: Target, rng: Generator) -> Expect:
    _write(target, _states(target))
    content = target.onsets.read_bytes()
    target.onsets.write_bytes(content[: int(rng.integers(len(content)))])
    return Expect(LEFT_OUT, "cannot be read|no table")


@mutation("damaged onsets")
def onsets_that_are_another_file(target: Target, rng: Generator) -> Expect:
    contents = [
        b"",
        b"onset,state\n1,S1\n",
        rng.bytes(2000),
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        b"MATLAB 7.3 MAT-file".ljust(512),
    ]
    target.onsets.write_bytes(contents[int(rng.integers(len(contents)))])
    return Expect(LEFT_OUT, "cannot be read|no table")


@mutation("damaged onsets")
def onsets_of_a_huge_declared_size(target: Target, rng: Generator) -> Expect:
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[1, "S1"], [2, "S2"], [3, "S1"]]
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"state_ans": cells})
    content = buffer.getvalue()
    place = content.index((8).to_bytes(4, "little") + (3).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    huge = int(rng.choice([2**24, 2**28, 2**31 - 1]))
    target.onsets.write_bytes(content[: place + 4] + huge.to_bytes(4, "little") + content[place + 8 :])
    return Expect(LEFT_OUT, "no table")


@mutation("damaged onsets")
def onsets_linked_from_outside(target: Target, rng: Generator) -> Expect:
    target.onsets.unlink(missing_ok=True)
    target.onsets.symlink_to(target.workspace.secret / "a0001_StateAns.mat")
    return Expect(LEFT_OUT, "outside the data folder")
