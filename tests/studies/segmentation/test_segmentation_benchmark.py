"""How onsets are counted, that sessions are kept apart, and the benchmark on a simulated cohort."""

import numpy as np
import pandas as pd
import pytest

from datasets.beats import HeartStates
from studies.segmentation import benchmark as segmentation
from studies.segmentation.benchmark import ALONE, WITH_ECG, count_onsets, counted, match
from studies.segmentation.fit import Truth, fit, frame_states, read_recordings
from systems.ecg_pcg.segmentation.features import Envelopes, read_parameters


def states(*pairs: tuple[float, str]) -> HeartStates:
    return HeartStates(np.array([time for time, _ in pairs]), np.array([name for _, name in pairs]))


def truth(onsets: HeartStates, seconds: float) -> Truth:
    frames = round(50 * seconds)
    sound = Envelopes(np.zeros((frames, 7)), np.ones(frames, dtype=bool), np.zeros((0, 2)))
    return Truth("a", "s", "d", 1, sound, np.zeros(0), onsets)


@pytest.mark.parametrize(
    ("true", "given", "pairs"),
    [
        ([1.0, 2.0], [1.05, 2.2], [(0, 0)]),
        ([1.0, 2.0], [0.94, 1.0, 2.06], [(0, 0), (1, 2)]),
        ([1.0], [], []),
        ([1.0, 1.04], [1.02], [(0, 0)]),
        ([1.0, 1.1], [1.05, 1.1], [(0, 0), (1, 1)]),
    ],
)
def test_onsets_are_paired_one_to_one_within_the_tolerance(true, given, pairs):
    found = match(np.array(true), np.array(given), 0.06)
    assert [tuple(pair) for pair in found.tolist()] == pairs


def test_onsets_at_the_ends_and_in_noise_do_not_count():
    noisy = states((1.0, "S1"), (3.0, "(N"), (4.0, "N)"), (5.0, "S1"))
    times = np.array([0.05, 1.0, 2.95, 3.5, 4.05, 4.2, 9.95])
    assert counted(times, noisy, 10.0).tolist() == [False, True, False, False, False, True, False]


def test_counts_and_scores_worked_by_hand():
    """Three S1: one found 20 ms off, one 80 ms off, one missed; and one that is none."""
    true = truth(states((1.0, "S1"), (1.3, "S2"), (2.0, "S1"), (3.0, "S1")), 5.0)
    given = states((1.02, "S1"), (1.3, "S2"), (2.08, "S1"), (4.0, "S1"))
    counts = count_onsets(true, given)
    assert [counts[f"S1@0.06 {kind}"] for kind in ("true", "given", "hit", "right")] == [3, 3, 1, 1]
    assert [counts[f"S1@0.1 {kind}"] for kind in ("true", "given", "hit", "right")] == [3, 3, 2, 2]
    assert counts["S1@0.1 error"] == pytest.approx(0.1)
    table = segmentation.tabulate(pd.DataFrame([{"input": ALONE} | counts]))
    row = table.query("recordings_of == 'all' and onset == 'S1' and tolerance_ms == 100").iloc[0]
    assert row["sensitivity"] == pytest.approx(2 / 3)
    assert row["positive_predictivity"] == pytest.approx(2 / 3)
    assert row["f1"] == pytest.approx(2 / 3)
    assert row["mean_absolute_error_ms"] == pytest.approx(50)


def test_frames_take_the_state_that_was_begun_last():
    onsets = states((0.04, "S1"), (0.1, "systole"), (0.2, "(N"))
    assert frame_states(onsets, 12).tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1]


def test_no_session_is_segmented_by_parameters_that_saw_it(simulated_cache, monkeypatch):
    recordings = read_recordings(simulated_cache)
    fitted: list[set[str]] = []

    def spy(chosen, *options):
        fitted.append({recording.session for recording in chosen})
        return fit(chosen, *options)

    monkeypatch.setattr(segmentation, "fit", spy)
    settings = segmentation.SegmentationSettings(folds=2)
    seen = []
    for recording, source, _, _ in segmentation.segment_out_of_fold(recordings, settings):
        assert recording.session not in fitted[-1]
        seen.append((recording.name, source))
    assert len(fitted) == 2
    assert sorted(seen) == sorted(
        (recording.name, source) for recording in recordings for source in (ALONE, WITH_ECG)
    )


def test_the_benchmark_writes_table_and_parameters(simulated_cache, tmp_path, capsys):
    options = ["--cache", simulated_cache.path, "--folds", "2", "--output", tmp_path / "t.csv"]
    table = segmentation.main([str(option) for option in [*options, "--weights", tmp_path / "w.json"]])
    assert pd.read_csv(tmp_path / "t.csv").shape == table.shape
    best = table.query(
        "input == @WITH_ECG and recordings_of == 'all' and onset == 'S1' and tolerance_ms == 100"
    )
    assert best["f1"].item() > 0.9
    assert read_parameters(tmp_path / "w.json").weights.shape == (4, 7)
    assert "32 recordings" in capsys.readouterr().out or len(table)
