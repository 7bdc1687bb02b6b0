"""Beats on the phases of the cardiac cycle: mapped, averaged and tabulated as worked by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from systems.ecg_pcg.explain.cycle import (
    STATES,
    WHOLE,
    BeatMaps,
    PhaseAxis,
    beat_onsets,
    divide_among,
    over_cycle,
    phase_axis,
    share_table,
)

AXIS = PhaseAxis(np.array([0.1, 0.3, 0.1, 0.5]), np.array([1, 3, 1, 5]))
"""Ten parts, each a tenth of the cycle."""


def events_of(recording: str, states: str, times: list[float]) -> pd.DataFrame:
    names = {"1": "S1", "s": "systole", "2": "S2", "d": "diastole", "(": "(N", ")": "N)"}
    return pd.DataFrame({"recording": recording, "time": times, "state": [names[key] for key in states]})


def beats_of(
    onsets: list[list[float]], values: np.ndarray, recording: list[str], label: list[int] | None = None
) -> BeatMaps:
    """Return beats that have these values in the heart sound, and nothing in the ECG."""
    metadata = {"recording": recording, "session": [f"C{name}" for name in recording]}
    table = pd.DataFrame(metadata | {"label": label or [0] * len(recording)})
    maps = {"ecg": np.zeros_like(values), "pcg": values}
    return BeatMaps(table, np.array(onsets), maps, {"attribution": maps})


def test_onsets_of_beats():
    events = pd.concat(
        [
            events_of("a", "d1s2d1s2d1", [0.0, 0.1, 0.2, 0.4, 0.5, 1.1, 1.2, 1.4, 1.5, 2.0]),
            events_of("b", "1s2d1", [0.1, 0.2, 0.4, 0.5, 1.1]),
        ],
        ignore_index=True,
    )
    samples = pd.DataFrame(
        {"recording": ["b", "a", "a", "a"], "start": [0.1, 1.1, 0.1, 0.15], "end": [1.1, 2.0, 1.1, 1.15]}
    )
    found = beat_onsets(samples, events)
    assert found[0].tolist() == [0.1, 0.2, 0.4, 0.5, 1.1]
    assert found[1].tolist() == [1.1, 1.2, 1.4, 1.5, 2.0]
    assert found[2].tolist() == [0.1, 0.2, 0.4, 0.5, 1.1]
    assert np.isnan(found[3]).all(), "a beat from R to R"


@pytest.mark.parametrize(
    ("states", "times", "end"),
    [
        ("1sd1s", [0.0, 0.1, 0.4, 1.0, 1.1], 1.0),
        ("1s(2d1", [0.0, 0.1, 0.2, 0.3, 0.4, 1.0], 1.0),
        ("1s22d1", [0.0, 0.1, 0.3, 0.35, 0.4, 1.0], 1.0),
        ("1s2d1", [0.0, 0.1, 0.3, 0.3, 1.0], 1.0),
        ("1s2d1", [0.0, 0.1, 0.3, 0.4, 1.0], 0.9),
        ("1s2d", [0.0, 0.1, 0.3, 0.4], 1.0),
        ("", [], 1.0),
    ],
    ids=["no S2", "noise", "twice", "empty", "another end", "no next S1", "no events"],
)
def test_a_beat_that_is_no_cycle_has_no_onsets(states, times, end):
    samples = pd.DataFrame({"recording": ["a"], "start": [0.0], "end": [end]})
    found = beat_onsets(samples, events_of("a", states, times))
    assert found.shape == (1, 5)
    assert np.isnan(found).all()


def test_onsets_do_not_reach_into_the_next_recording():
    events = pd.concat(
        [events_of("a", "1s2", [0.0, 0.1, 0.3]), events_of("b", "d1", [0.4, 1.0])], ignore_index=True
    )
    samples = pd.DataFrame({"recording": ["a"], "start": [0.0], "end": [1.0]})
    assert np.isnan(beat_onsets(samples, events)).all()


def test_axis_takes_mean_shares_of_recordings_not_of_beats():
    short = [2.0, 2.2, 2.4, 2.6, 3.0]  # shares .2 .2 .2 .4 of one second
    long = [0.0, 0.2, 0.8, 1.0, 2.0]  # shares .1 .3 .1 .5 of two seconds
    axis = phase_axis(np.array([short, long, long, long, [np.nan] * 5]), ["a", "b", "b", "b", "c"], parts=20)
    assert axis.shares == pytest.approx([0.15, 0.25, 0.15, 0.45])
    assert axis.parts.tolist() == [3, 5, 3, 9]
    assert axis.marks == pytest.approx([0, 0.15, 0.4, 0.55, 1])
    assert axis.edges == pytest.approx(np.arange(21) / 20)
    assert "".join(STATES[place][0] for place in axis.state) == "SSSsssssSSSddddddddd"


def test_without_onsets_there_is_no_axis():
    with pytest.raises(UserError, match="No beat has annotated onsets"):
        phase_axis(np.full((3, 5), np.nan), ["a", "a", "b"])


def test_edges_by_hand():
    """S1 of a beat from 0 to 2 s, systole to 5, S2 to 6, diastole to 11: thirds and fifths of a second."""
    edges = AXIS.stretched(np.array([[0.0, 2.0, 5.0, 6.0, 11.0], [0.0, 1.0, 1.3, 2.3, 2.8]]))
    assert edges[0] == pytest.approx([0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert edges[1] == pytest.approx([0, 1, 1.1, 1.2, 1.3, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8])


def test_masses_of_two_beats_by_hand():
    """Four points: the first part ends in the middle of point 1; a quarter of point 2 is in the second."""
    values = np.array([[1.0, 2.0, 4.0, 8.0], [0.0, 4.0, 0.0, 1.0]])
    edges = np.array([[0, 0.375, 0.5625, 1.0], [0, 0.25, 0.5, 1.0]])
    found = divide_among(values, edges)
    assert found[0] == pytest.approx([1 + 1, 1 + 1, 3 + 8])
    assert found[1] == pytest.approx([0, 4, 1])


@given(
    st.lists(st.floats(0, 1e3), min_size=2, max_size=30),
    st.lists(st.floats(1e-3, 1), min_size=1, max_size=12),
)
def test_no_mass_is_lost(values, lengths):
    edges = np.concatenate([[0], np.cumsum(lengths) / np.sum(lengths)])[None]
    found = divide_among(np.array([values]), edges)
    assert found.sum() == pytest.approx(np.sum(values), abs=1e-6)
    assert (found > -1e-9).all()


def test_the_second_heart_sound_of_every_beat_lands_on_it():
    """S2 at .4-.5 of one beat and at .6-.8 of another: all that lies there is in one part of the cycle."""
    points = np.zeros((2, 100))
    points[0, 40:50], points[1, 60:80] = 3.0, 0.5
    onsets = [[1.0, 1.1, 1.4, 1.5, 2.0], [0.0, 0.2, 1.2, 1.6, 2.0]]
    means = over_cycle(beats_of(onsets, points, ["a", "b"]), AXIS)
    for row in means.looks["attribution"]["pcg"]:
        assert row == pytest.approx(np.eye(10)[4])
    assert means.looks["attribution"]["ecg"] == pytest.approx(0)
    assert means.waveforms["pcg"][:, 4] == pytest.approx([3.0, 0.5]), "a waveform keeps its height"
    assert means.time[0] == pytest.approx(0.1)
    assert means.time[1] == pytest.approx([0.1, *[0.5 / 3] * 3, 0.2, *[0.04] * 5])


def test_heart_sounds_are_averaged_by_size_and_the_ecg_with_its_sign():
    points = np.stack([np.full(50, 2.0), np.full(50, -2.0)])
    onsets = [[0.0, 0.1, 0.4, 0.5, 1.0]] * 2
    beats = beats_of(onsets, points, ["a", "a"])
    means = over_cycle(BeatMaps(beats.table, beats.onsets, {"ecg": points, "pcg": points}, {}), AXIS)
    assert means.waveforms["ecg"] == pytest.approx(0)
    assert means.waveforms["pcg"] == pytest.approx(2)


def test_long_recordings_do_not_count_more_and_loud_beats_neither():
    """Three beats with all in S1, one of them a hundred times as strong; one beat with all in diastole."""
    points = np.zeros((4, 10))
    points[:3, 0], points[3, 9] = [1, 100, 1], 1
    onsets = [[0.0, 0.1, 0.4, 0.5, 1.0]] * 4
    means = over_cycle(beats_of(onsets, points, ["b", "b", "b", "a"], [1, 1, 1, 0]), AXIS)
    assert means.recordings["recording"].tolist() == ["a", "b"]
    assert means.recordings["label"].tolist() == [0, 1]
    table = share_table(means, draws=0).set_index(["signal", "state"])
    assert table.loc[("pcg", "S1"), "share"] == pytest.approx(0.5)
    assert table.loc[("pcg", "diastole"), "share"] == pytest.approx(0.5)
    assert table.loc[("pcg", "S1"), "enrichment"] == pytest.approx(0.5 / (0.1 / 2)), "of two signals"
    assert table["share_low"].isna().all()


def test_shares_of_both_signals_by_hand():
    """Even in time, three parts in the ECG to one in the heart sound."""
    onsets = np.array([[0.0, 0.2, 0.8, 1.0, 2.0]])
    table = pd.DataFrame({"recording": ["a"], "session": ["C1"], "label": [0]})
    maps = {"ecg": np.full((1, 40), 6.0), "pcg": np.full((1, 40), 2.0)}
    found = share_table(over_cycle(BeatMaps(table, onsets, maps, {"attention": maps}), AXIS), draws=0)
    assert found["state"].tolist() == [*STATES, WHOLE] * 2
    assert found["share"].tolist() == pytest.approx(
        [0.075, 0.225, 0.075, 0.375, 0.75, 0.025, 0.075, 0.025, 0.125, 0.25]
    )
    assert found["time_share"].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.5, 1] * 2)
    assert found["enrichment"].tolist() == pytest.approx([1.5] * 5 + [0.5] * 5)


def test_a_beat_without_attribution_does_not_count():
    points = np.zeros((3, 10))
    points[0, 0] = 1
    onsets = [[0.0, 0.1, 0.4, 0.5, 1.0]] * 3
    table = share_table(over_cycle(beats_of(onsets, points, ["a", "a", "b"]), AXIS), draws=0)
    assert table.set_index(["signal", "state"]).loc[("pcg", "S1"), "share"] == pytest.approx(1)


def test_intervals_draw_sessions():
    """Shares that differ between sessions and not within: recordings of a session are worth one."""
    random = np.random.default_rng(0)
    of_session = random.uniform(0.2, 0.8, 30)

    def width(recordings: int) -> float:
        share = np.repeat(of_session, recordings)
        points = np.zeros((len(share), 10))
        points[:, 0], points[:, 9] = share, 1 - share
        names = [f"{place:04d}" for place in range(len(share))]
        onsets = [[0.0, 0.1, 0.4, 0.5, 1.0]] * len(share)
        beats = beats_of(onsets, points, names, list(np.arange(len(share)) % 2))
        session = np.repeat([f"C{place}" for place in range(30)], recordings)
        means = over_cycle(
            BeatMaps(beats.table.assign(session=session), beats.onsets, beats.signals, beats.looks), AXIS
        )
        row = share_table(means, draws=500).set_index(["signal", "state"]).loc[("pcg", "S1")]
        assert row["share_low"] < row["share"] < row["share_high"]
        assert row["enrichment_high"] == pytest.approx(row["share_high"] / 0.05)
        return row["share_high"] - row["share_low"]

    assert width(8) == pytest.approx(width(2), rel=0.1)
    assert width(8) == pytest.approx(3.92 * of_session.std() / np.sqrt(30), rel=0.15)
