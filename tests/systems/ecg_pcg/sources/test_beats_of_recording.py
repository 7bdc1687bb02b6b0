"""One raw recording becomes waveforms, heart states and beats, or a reason why not."""

import dataclasses

import numpy as np
import pytest

from datasets.beats import annotated_spans
from datasets.recordings import channels_by_name, read_recording
from datasets.signals import cut_beats, standardize
from datasets.sources import Problem
from systems.ecg_pcg.segmentation.automatic import automatic_states
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import PreparedRecording, prepare_recording
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_record, write_states

RATE = 2000
ANNOTATION = "r_StateAns.mat"
NOISE = np.random.default_rng(0).integers(-1000, 1000, 6 * RATE).astype(np.int16)


def sine(frequency, seconds=6.0, rate=RATE, amplitude=8000.0):
    return np.round(amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate))


def make_record(root, pcg=NOISE, ecg=NOISE, onsets=(1.0, 2.0, 2.8, 4.0)):
    """Write a record, with S1 at these seconds unless there are none; return its row of an index."""
    write_record(
        root, "r", label=1, pcg=pcg.astype(np.int16), ecg=None if ecg is None else ecg.astype(np.int16)
    )
    if onsets:
        write_states(root / ANNOTATION, "state_ans", [(round(time * RATE) + 1, "S1") for time in onsets])
    return index_row(annotation=ANNOTATION if onsets else "")


def index_row(**changes):
    row: dict[str, object] = {
        "recording": "r",
        "database": "training-a",
        "header": "r.hea",
        "annotation": ANNOTATION,
        "session": "C001",
        "position": 0.0,
        "person": "",
        "label": 1,
        "diagnosis": "MVP",
        "site": "",
        "quality": 1,
        "needs": "ecg+pcg",
    }
    return row | changes


def sound_alone(record):
    return None, channels_by_name(record)[1]


def prepared(root, row, **settings) -> PreparedRecording:
    found = prepare_recording(root, row, PreparationSettings(**settings))
    assert isinstance(found, PreparedRecording), found
    return found


def assert_left_out(root, row, what, remedy="", find=channels_by_name, **settings):
    found = prepare_recording(root, row, PreparationSettings(**settings), find)
    assert isinstance(found, Problem)
    assert (found.where, found.left_out) == ("r", True)
    assert what in found.what
    assert remedy in found.remedy


# What is kept ---------------------------------------------------------------------------------------


def test_beats_are_cut_from_the_standardized_whole_recording(tmp_path):
    result = prepared(tmp_path, make_record(tmp_path), beat_points=500)
    np.testing.assert_allclose(result.spans, [[1.0, 2.0], [2.0, 2.8], [2.8, 4.0]])
    expected = cut_beats(standardize(NOISE / 1000), RATE, result.spans, 500)
    np.testing.assert_allclose(result.beats["ecg"], expected, atol=1e-4)
    assert result.beats["pcg"].shape == (3, 500)
    assert result.beats["pcg"].dtype == np.float32


def test_waveforms_are_the_signals_in_their_unit_without_any_processing(tmp_path):
    result = prepared(tmp_path, make_record(tmp_path), bandpass=True)
    np.testing.assert_allclose(result.waveforms["ecg"], NOISE / 1000, rtol=1e-6)
    np.testing.assert_allclose(result.waveforms["pcg"], NOISE / 32768, rtol=1e-6)


def test_gaps_stay_in_the_waveform_and_are_filled_in_the_beats(tmp_path):
    pcg = NOISE.copy()
    pcg[3000:3400] = -32768
    result = prepared(tmp_path, make_record(tmp_path, pcg=pcg))
    assert np.isnan(result.waveforms["pcg"][3000:3400]).all()
    assert np.isfinite(result.beats["pcg"]).all()
    assert result.row["pcg_missing"] == pytest.approx(400 / 12000, abs=1e-6)


def test_metadata_of_the_recording_and_nothing_internal(tmp_path):
    pcg = NOISE.copy()
    pcg[:12] = 32767
    result = prepared(tmp_path, make_record(tmp_path, pcg=pcg))
    metadata = dict(result.row)
    assert len(str(metadata.pop("sha256"))) == 64
    assert metadata == {
        "recording": "r",
        "database": "training-a",
        "session": "C001",
        "position": 0.0,
        "person": "",
        "label": 1,
        "diagnosis": "MVP",
        "site": "",
        "quality": 1,
        "duration": 6.0,
        "beats": 3,
        "beat_source": "annotation",
        "ecg_rate": 2000.0,
        "ecg_length": 12000,
        "ecg_saturated": 0.0,
        "ecg_missing": 0.0,
        "pcg_rate": 2000.0,
        "pcg_length": 12000,
        "pcg_saturated": 0.001,
        "pcg_missing": 0.0,
    }


def test_the_band_pass_is_taken_from_the_settings_of_each_signal(tmp_path):
    low, high = sine(10), sine(200)
    row = make_record(tmp_path, pcg=low + high, ecg=low + high)
    plain = prepared(tmp_path, row)
    filtered = prepared(tmp_path, row, bandpass=True, ecg_band=(2, 40), pcg_band=(80, 500))
    span = filtered.spans[:1]
    for kind, kept in (("ecg", low), ("pcg", high)):
        expected = cut_beats(standardize(kept), RATE, span, 2000)[0]
        assert np.corrcoef(filtered.beats[kind][0], expected)[0, 1] > 0.99
        assert np.corrcoef(plain.beats[kind][0], expected)[0, 1] < 0.8


def test_fast_recordings_are_anti_aliased_before_beats_are_cut(tmp_path):
    rate = 8000
    low, high = sine(50, 4, rate), sine(2900, 4, rate)
    (tmp_path / "r.dat").write_bytes((low + high).astype("<i2").tobytes())
    (tmp_path / "r.hea").write_text(f"r 1 {rate} {4 * rate}\nr.dat 16 1 16 0 0 0 0 PCG\n")
    write_states(tmp_path / ANNOTATION, "state_ans", [(rate + 1, "S1"), (2 * rate + 1, "S1")])
    result = prepared(tmp_path, index_row(needs="pcg"))
    np.testing.assert_allclose(result.spans, [[1.0, 2.0]])
    expected = np.sqrt(2) * np.sin(2 * np.pi * 50 * np.arange(2000) / 2000)
    np.testing.assert_allclose(result.beats["pcg"][0], expected, atol=0.02)
    assert len(result.waveforms["pcg"]) == 4 * rate


def test_a_recording_of_sound_alone_has_no_ecg_beats(tmp_path):
    result = prepared(tmp_path, make_record(tmp_path, ecg=None) | {"needs": "pcg"})
    assert set(result.beats) == set(result.waveforms) == {"pcg"}
    assert (result.row["ecg_rate"], result.row["ecg_length"]) == (0.0, 0)


def test_low_quality_is_kept_when_asked_for(tmp_path):
    row = make_record(tmp_path) | {"quality": 0}
    assert_left_out(tmp_path, row, "signal quality as 0", "--keep-low-quality")
    assert prepared(tmp_path, row, keep_low_quality=True).row["quality"] == 0


@pytest.mark.parametrize(
    ("needs", "modalities", "lacking"),
    [
        ("ecg+pcg", "as-published", "no ECG"),
        ("pcg", "as-published", ""),
        ("any", "as-published", ""),
        ("pcg", "both", "no ECG"),
        ("any", "both", "no ECG"),
        ("ecg+pcg", "any", ""),
    ],
)
def test_signals_a_recording_must_have(tmp_path, needs, modalities, lacking):
    row = make_record(tmp_path, ecg=None) | {"needs": needs}
    if lacking:
        assert_left_out(tmp_path, row, lacking, "--modalities any", modalities=modalities)
    else:
        assert set(prepared(tmp_path, row, modalities=modalities).beats) == {"pcg"}


# Where beats come from ------------------------------------------------------------------------------


@pytest.fixture
def simulated(simulated_raw):
    """Return the folder and the index row of a simulated recording."""
    row = index_physionet2016(simulated_raw, ["a"]).recordings.iloc[0].to_dict()
    return simulated_raw, row


def test_beats_come_from_the_ecg_if_wanted(simulated):
    root, row = simulated
    annotated, result = prepared(root, row), prepared(root, row, onsets="ecg")
    assert (annotated.row["beat_source"], result.row["beat_source"]) == ("annotation", "ecg")
    assert annotated.states is not None
    assert result.states is None
    lengths = np.diff(result.spans).ravel()
    middle = slice(1, 4)
    np.testing.assert_allclose(lengths[middle].mean(), np.diff(annotated.spans).mean(), rtol=0.1)
    assert len(result.beats["pcg"]) == len(result.spans)


@pytest.mark.parametrize(("changes", "onsets"), [({"annotation": ""}, "hand-corrected"), ({}, "automatic")])
@pytest.mark.parametrize("signals", ["ecg and pcg", "pcg"])
def test_heart_states_are_found_where_none_are_annotated_or_wanted(simulated, changes, onsets, signals):
    """The simulation knows where they are; predict.py would find the very same."""
    root, row = simulated
    true = prepared(root, row).states
    find = (
        channels_by_name if signals == "ecg and pcg" else lambda record: (None, channels_by_name(record)[1])
    )
    row |= changes | {"needs": "any"}
    result = prepare_recording(root, row, PreparationSettings(onsets=onsets), find)
    assert isinstance(result, PreparedRecording)
    assert result.row["beat_source"] == "automatic"
    assert true is not None
    assert result.states is not None
    for state in ("S1", "S2"):
        inner = true.time[true.state == state][1:-1]
        near = np.abs(inner[:, None] - result.states.time[result.states.state == state]).min(axis=1)
        assert near.max() < 0.06
    found = automatic_states(read_recording(root / str(row["header"]), root, find))
    np.testing.assert_array_equal(result.states.time, found.states.time)
    assert result.spans.tolist() == annotated_spans(found.states, 6.0).tolist()
    certain = {name: value for name, value in result.row.items() if str(name).startswith("states_")}
    assert certain["states_quality"] == pytest.approx(found.quality, abs=1e-4)
    assert certain["states_heart_rate"] == pytest.approx(60 / np.median(np.diff(result.spans)), rel=0.05)
    assert certain["states_agreement"] > 0.6
    assert np.isfinite(certain["states_r_peak_agreement"]) == (signals == "ecg and pcg")


def test_the_automatic_onsets_are_near_the_corrected_ones_but_not_the_same(simulated):
    root, row = simulated
    settings = PreparationSettings(onsets="springer")
    other = index_physionet2016(root, ["a"], settings).recordings.iloc[0].to_dict()
    corrected, automatic = prepared(root, row).spans, prepared(root, other, onsets="springer").spans
    assert 0 < np.abs(corrected - automatic).max() < 0.04


@pytest.mark.parametrize("ecg", [None, NOISE])
def test_a_sound_in_which_nothing_repeats_is_left_out(tmp_path, ecg):
    """As predict.py refuses it; with an ECG too, since its R-peaks would be other beats."""
    row = make_record(tmp_path, ecg=ecg, onsets=()) | {"needs": "any"}
    assert_left_out(
        tmp_path, row, "No heart beat that repeats is found in the heart sound: it is too noisy or short."
    )


def test_a_sound_that_cannot_be_segmented_leaves_the_r_peaks(tmp_path, simulated):
    root, row = simulated
    ecg = read_recording(root / str(row["header"]), root).ecg
    assert ecg is not None
    silent = np.zeros(len(ecg.samples))
    silent[:9] = 5
    row = make_record(tmp_path, pcg=silent, ecg=1000 * ecg.samples, onsets=())
    result = prepared(tmp_path, row)
    assert (result.row["beat_source"], result.states) == ("ecg", None)
    (problem,) = result.problems
    assert not problem.left_out
    assert problem.what.startswith("It has no heart states. Only 0.")
    assert_left_out(tmp_path, row | {"needs": "any"}, "Only 0.", find=sound_alone)


def test_without_an_ecg_there_are_no_r_peaks(tmp_path):
    row = make_record(tmp_path, ecg=None) | {"needs": "any"}
    assert_left_out(tmp_path, row, "It has no ECG to find R-peaks in.", "--onsets", onsets="ecg")


@pytest.mark.parametrize("onsets", [(1.0,), (5.0, 5.0)])
def test_a_recording_without_a_whole_beat_is_left_out(tmp_path, onsets):
    assert_left_out(tmp_path, make_record(tmp_path, onsets=onsets), "No complete beat", "--onsets ecg")


def test_onsets_count_at_the_rate_of_the_header_whatever_the_signals_have(tmp_path):
    (tmp_path / "e.dat").write_bytes(NOISE[:3000].astype("<i2").tobytes())
    (tmp_path / "p.dat").write_bytes(NOISE[:12000].astype("<i2").tobytes())
    signals = "e.dat 16 1000 16 0 0 0 0 ECG\np.dat 16x4 1 16 0 0 0 0 PCG\n"
    (tmp_path / "r.hea").write_text(f"r 2 1000 3000\n{signals}")
    write_states(tmp_path / ANNOTATION, "state_ans", [(1, "S1"), (1001, "S1"), (3001, "S1")])
    result = prepared(tmp_path, index_row(), beat_points=400)
    assert (result.row["duration"], result.row["ecg_rate"], result.row["pcg_rate"]) == (3.0, 1000.0, 4000.0)
    np.testing.assert_allclose(result.spans, [[0.0, 1.0], [1.0, 3.0]])
    expected = cut_beats(standardize(NOISE[:3000] / 1000), 1000, result.spans, 400)
    np.testing.assert_allclose(result.beats["ecg"], expected, atol=1e-4)


# What is left out, and why --------------------------------------------------------------------------


def test_onsets_after_the_end_are_refused(tmp_path):
    row = make_record(tmp_path, onsets=(1.0, 2.0, 6.5))
    assert_left_out(tmp_path, row, "holds onsets after the end of the recording (6.00 s)")


def test_faulty_files_are_reported_by_their_name(tmp_path):
    row = make_record(tmp_path)
    (tmp_path / ANNOTATION).write_text("rubbish")
    assert_left_out(tmp_path, row, "The annotation file r_StateAns.mat cannot be read", "Mend or remove")
    (tmp_path / "r.dat").unlink()
    assert_left_out(tmp_path, row, "The signal file r.dat named by r.hea is absent")
    (tmp_path / "r.hea").unlink()
    assert_left_out(tmp_path, row, "The header r.hea does not exist")


def test_a_band_the_rate_cannot_hold_is_reported_with_its_option(tmp_path):
    row = make_record(tmp_path)
    assert_left_out(tmp_path, row, "Choose another with --pcg-band", bandpass=True, pcg_band=(1500.0, 1800.0))


def test_a_record_may_be_read_by_another_rule(tmp_path):
    row = make_record(tmp_path)
    found = prepare_recording(
        tmp_path, row | {"needs": "any"}, PreparationSettings(), lambda record: (1, None)
    )
    assert isinstance(found, PreparedRecording)
    assert set(found.beats) == {"ecg"}


def test_preparation_is_the_same_each_time(simulated):
    root, row = simulated
    first, second = prepared(root, row), prepared(root, row)
    np.testing.assert_array_equal(first.beats["pcg"], second.beats["pcg"])
    assert first.row == second.row
    assert first.row["sha256"] == read_recording(root / str(row["header"]), root).sha256
    assert dataclasses.is_dataclass(first)


def test_several_beats_make_a_sample_without_aliases(tmp_path):
    """900 Hz cannot be told by 500 points in 1.8 s, and must not come back as something slower."""
    row = make_record(tmp_path, pcg=sine(20, amplitude=5000) + sine(900, amplitude=5000))
    found = prepared(tmp_path, row, beats_per_sample=2, beat_points=500)
    assert found.spans.tolist() == [[1.0, 2.8]]
    slow = cut_beats(standardize(sine(20)) / np.sqrt(2), RATE, found.spans, 500)
    inner = slice(20, -20)
    np.testing.assert_allclose(found.beats["pcg"][:, inner], slow[:, inner], atol=0.05)
    assert_left_out(tmp_path, row, "It has no 4 complete beats in a row.", beats_per_sample=4)


def test_windows_need_no_beats(tmp_path):
    row = make_record(tmp_path, ecg=None, onsets=()) | {"needs": "pcg"}
    found = prepared(tmp_path, row, cut="windows", beat_points=6000)
    assert found.spans.tolist() == [[0, 3], [1, 4], [2, 5], [3, 6]]
    assert found.row["beat_source"] == "none"
    expected = cut_beats(standardize(NOISE.astype(float)), RATE, found.spans, 6000)
    np.testing.assert_allclose(found.beats["pcg"], expected, atol=1e-6)
    assert_left_out(tmp_path, row, "It is shorter than a window of 7 s.", cut="windows", window_seconds=7.0)
