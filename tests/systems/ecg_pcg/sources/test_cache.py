"""The cache: whole or not there, the same each time, and everything in it leads back to the recordings."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from datasets.cache import Cache, CacheWriter, find_cache, remember_latest
from datasets.recordings import read_recording
from datasets.sources import DataError, Problem, SourceIndex
from systems.ecg_pcg import prepare as beats_cache
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.beats_of_recording import index_table
from systems.ecg_pcg.sources.cohort import find_channels, index_cohort
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_record, write_states

SETTINGS = PreparationSettings(beat_points=100)
NOISE = np.random.default_rng(0).integers(-1000, 1000, 8000).astype(np.int16)


def make(root, folder, settings=SETTINGS, sets=("a",), **options):
    """Build a cache of a release on one core and open it."""
    index = index_physionet2016(root, sets, settings)
    return Cache(RecordingCache(index, settings).build(folder, **({"jobs": 1, "progress": False} | options)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def raw(simulated_raw, tmp_path):
    """Return a copy of the simulated cohort that a test may change."""
    return shutil.copytree(simulated_raw, tmp_path / "raw")


def small_cohort(root, records=("001", "NA", "x")):
    """Index hand-made records with both signals and S1 at 0.5, 1.5 and 2.5 s; text that tempts a parser."""
    root.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, name in enumerate(records):
        write_record(root, name, label=number % 2, pcg=np.roll(NOISE, number), ecg=np.roll(NOISE, -number))
        write_states(root / f"{name}.mat", "state_ans", [(1001, "S1"), (3001, "S1"), (5001, "S1")])
        rows.append(
            {
                "recording": name,
                "database": "cohort",
                "header": f"{name}.hea",
                "annotation": f"{name}.mat",
                "session": ("007", "NA", "1e3")[number % 3],
                "position": np.nan,
                "person": ("01", "null", "nan")[number % 3],
                "label": number % 2,
                "diagnosis": ("None", "", "NA")[number % 3],
                "site": "",
                "quality": 1,
                "needs": "any",
            }
        )
    return SourceIndex("cohort", root, index_table(rows), [], {"cohort": "session"}, [])


def without_ecg(root, name):
    """Take the ECG away from a record of a small cohort."""
    (root / f"{name}.dat").unlink()
    write_record(root, name, label=0, pcg=NOISE, ecg=None)


# What is in it --------------------------------------------------------------------------------------


def test_tables_have_a_row_for_each_thing(simulated_cache):
    recordings, samples = simulated_cache.table("recordings"), simulated_cache.table("samples")
    counts = simulated_cache.manifest["counts"]
    assert (len(recordings), counts["recordings"], counts["skipped"]) == (30, 30, 2)
    assert len(samples) == counts["beats"] == recordings["beats"].sum() == len(simulated_cache.beats("ecg"))
    assert recordings["session"].nunique() == counts["sessions"] == 8
    assert recordings["person"].nunique() == counts["persons"] == 16
    assert recordings["label"].sum() == counts["abnormal_recordings"]
    columns = "sample recording start end heart_rate database session person label diagnosis site quality"
    assert list(samples.columns) == [*columns.split(), "has_ecg", "has_pcg"]
    np.testing.assert_array_equal(samples["sample"], np.arange(len(samples)))
    np.testing.assert_allclose(samples["heart_rate"], 60 / (samples["end"] - samples["start"]), rtol=1e-4)
    assert simulated_cache.simulated


def test_samples_carry_the_metadata_of_their_recording(simulated_cache):
    recordings, samples = simulated_cache.table("recordings"), simulated_cache.table("samples")
    shared = ["database", "session", "person", "label", "diagnosis", "site", "quality"]
    expected = recordings.set_index("recording").loc[samples["recording"], shared].reset_index(drop=True)
    pd.testing.assert_frame_equal(samples[shared], expected)
    assert samples.groupby("recording", sort=False).size().tolist() == recordings["beats"].tolist()


def test_waveform_offsets_lead_back_to_each_recording(simulated_raw, simulated_cache):
    for kind in ("ecg", "pcg"):
        waveforms = simulated_cache.waveforms(kind)
        for row in simulated_cache.table("recordings").to_dict("records"):
            start, length = row[f"{kind}_offset"], row[f"{kind}_length"]
            header = simulated_raw / "training-a" / f"{row['recording']}.hea"
            signal = getattr(read_recording(header, simulated_raw), kind)
            np.testing.assert_array_equal(waveforms[start : start + length], signal.samples)
            assert row[f"{kind}_rate"] == 2000


def test_events_are_the_onsets_of_the_recordings_kept(simulated_cache):
    events = simulated_cache.table("events")
    assert set(events["recording"]) == set(simulated_cache.table("recordings")["recording"])
    samples = simulated_cache.table("samples")
    first = samples.iloc[0]
    onsets = events[(events["recording"] == first["recording"]) & (events["state"] == "S1")]["time"]
    np.testing.assert_allclose(onsets.iloc[:2], [first["start"], first["end"]], atol=1e-5)


def test_skipped_recordings_are_listed_with_reason_and_remedy(simulated_raw, simulated_cache):
    skipped = simulated_cache.table("skipped").set_index("recording")
    truth = pd.read_csv(simulated_raw / "ground_truth.csv").set_index("recording")
    reasons = dict(skipped["reason"])
    assert reasons == {
        truth.index[truth["has_ecg"] == 0][0]: "It has no ECG.",
        truth.index[truth["quality"] == 0][0]: "The reference table gives its signal quality as 0.",
    }
    assert set(skipped["remedy"]) == {"Keep it with --modalities any.", "Keep it with --keep-low-quality."}


def test_the_manifest_says_what_the_cache_was_made_from(simulated_raw, simulated_cache):
    manifest = simulated_cache.manifest
    assert manifest["settings"] == json.loads(json.dumps(dataclasses.asdict(PreparationSettings())))
    assert manifest["session_unit"] == {"training-a": "session"}
    assert "training-a/a0001.wav" in manifest["source_files"]
    index = index_physionet2016(simulated_raw, ["a"])
    assert RecordingCache(index, PreparationSettings()).identified == (
        manifest["identity"],
        manifest["source_files"],
    )
    assert simulated_cache.path.name == f"simulated-physionet2016-{simulated_cache.identity[:8]}"


def test_beats_are_memory_mapped_and_standardized(simulated_cache):
    beats = simulated_cache.beats("pcg")
    assert isinstance(beats, np.memmap)
    assert (beats.dtype, beats.shape[1]) == (np.float32, 2000)
    assert np.isfinite(beats).all()
    assert 0.8 < beats.std() < 1.2
    assert not np.array_equal(beats, simulated_cache.beats("ecg"))


def test_text_survives_whatever_it_looks_like(tmp_path):
    cache = Cache(
        RecordingCache(small_cohort(tmp_path / "raw"), SETTINGS).build(tmp_path, jobs=1, progress=False)
    )
    for name in ("recordings", "samples"):
        table = cache.table(name).drop_duplicates("recording")
        assert table["recording"].tolist() == ["001", "NA", "x"]
        assert table["session"].tolist() == ["007", "NA", "1e3"]
        assert table["person"].tolist() == ["01", "null", "nan"]
        assert table["diagnosis"].tolist() == ["None", "", "NA"]
        assert table["site"].tolist() == ["", "", ""]
    assert set(cache.table("events")["recording"]) == {"001", "NA", "x"}
    assert cache.table("recordings")["label"].tolist() == [0, 1, 0]


def test_names_of_digits_stay_text(tmp_path):
    index = small_cohort(tmp_path / "raw", ("001", "010"))
    table = index.recordings.assign(session=["007", "08"], person=["1", "02"], diagnosis="3", site="4")
    index = dataclasses.replace(index, recordings=table)
    cache = Cache(RecordingCache(index, SETTINGS).build(tmp_path, jobs=1, progress=False))
    for name in ("recordings", "samples"):
        first = cache.table(name).drop_duplicates("recording")
        assert first["recording"].tolist() == ["001", "010"]
        assert first["session"].tolist() == ["007", "08"]
        assert first["person"].tolist() == ["1", "02"]
        assert set(first["diagnosis"]) | set(first["site"]) == {"3", "4"}
    assert set(cache.table("events")["recording"]) == {"001", "010"}


def test_a_recording_of_sound_alone_has_zeros_for_its_ecg(tmp_path):
    index = small_cohort(tmp_path / "raw")
    without_ecg(tmp_path / "raw", "NA")
    cache = Cache(RecordingCache(index, SETTINGS).build(tmp_path, jobs=1, progress=False))
    samples, recordings = cache.table("samples"), cache.table("recordings")
    lacking = (samples["recording"] == "NA").to_numpy()
    assert lacking.tolist() == [False, False, True, True, False, False]
    np.testing.assert_array_equal(samples["has_ecg"], (~lacking).astype(int))
    assert (samples["has_pcg"] == 1).all()
    ecg = cache.beats("ecg")
    assert not ecg[lacking].any()
    assert ecg[~lacking].any(axis=1).all()
    assert cache.beats("pcg").any(axis=1).all()
    assert recordings["ecg_length"].tolist() == [8000, 0, 8000]
    assert recordings["ecg_offset"].tolist() == [0, 8000, 8000]
    assert recordings["pcg_offset"].tolist() == [0, 8000, 16000]
    assert len(cache.waveforms("ecg")) == 16000


def test_a_cohort_without_any_ecg_has_empty_ecg_waveforms(tmp_path):
    index = small_cohort(tmp_path / "raw", ("x",))
    without_ecg(tmp_path / "raw", "x")
    cache = Cache(RecordingCache(index, SETTINGS).build(tmp_path, jobs=1, progress=False))
    assert cache.waveforms("ecg").shape == (0,)
    assert cache.beats("ecg").shape == (2, 100)
    assert not cache.beats("ecg").any()


def test_warnings_of_the_index_stand_in_the_manifest_and_not_among_the_skipped(raw, tmp_path):
    (raw / "annotations" / "Online_Appendix_training_set.csv").unlink()
    cache = make(raw, tmp_path / "cache")
    assert ["no recording has a session" in warning for warning in cache.manifest["warnings"]] == [True]
    assert len(cache.table("skipped")) == 2
    recordings = cache.table("recordings")
    assert recordings["session"].tolist() == recordings["recording"].tolist()


# The same, and not the same -------------------------------------------------------------------------


def test_the_same_settings_compute_nothing_again(simulated_raw, tmp_path, monkeypatch):
    first = make(simulated_raw, tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    monkeypatch.setattr(beats_cache, "prepare_recording", None)  # not callable: any use would fail
    again = make(simulated_raw, tmp_path)
    assert again.path == first.path
    assert {path.name: path.stat().st_mtime_ns for path in again.path.iterdir()} == times
    assert names(tmp_path) == [first.path.name]


@pytest.mark.parametrize(
    "changes",
    [{"beat_points": 50}, {"onsets": "ecg"}, {"bandpass": True}, {"keep_low_quality": True}],
)
def test_other_settings_get_another_folder(simulated_raw, tmp_path, changes):
    index = index_physionet2016(simulated_raw, ["a"])
    others = dataclasses.replace(SETTINGS, **changes)
    assert RecordingCache(index, SETTINGS).identified[0] != RecordingCache(index, others).identified[0]


@pytest.mark.parametrize(
    "name",
    [
        "training-a/a0003.wav",
        "training-a/a0003.dat",
        "training-a/a0003.hea",
        "training-a/REFERENCE-SQI.csv",
        "annotations/Online_Appendix_training_set.csv",
        "annotations/hand_corrected/training-a_StateAns/a0003_StateAns.mat",
    ],
)
def test_a_changed_source_file_gets_another_folder(raw, name):
    before = RecordingCache(index_physionet2016(raw, ["a"]), SETTINGS).identified[0]
    with (raw / name).open("ab") as file:
        file.write(b"\n")
    assert RecordingCache(index_physionet2016(raw, ["a"]), SETTINGS).identified[0] != before


def test_a_signal_file_counts_whatever_it_is_called(tmp_path):
    index = small_cohort(tmp_path, ("x",))
    (tmp_path / "x.dat").rename(tmp_path / "other.dat")
    header = tmp_path / "x.hea"
    header.write_bytes(header.read_bytes().replace(b"x.dat", b"other.dat"))
    before = RecordingCache(index, SETTINGS).identified[0]
    content = bytearray((tmp_path / "other.dat").read_bytes())
    content[100] ^= 1
    (tmp_path / "other.dat").write_bytes(content)
    assert RecordingCache(index, SETTINGS).identified[0] != before


def test_files_that_belong_to_no_recording_do_not_count(raw):
    before = RecordingCache(index_physionet2016(raw, ["a"]), SETTINGS).identified[0]
    (raw / "training-a" / "notes.txt").write_text("nothing")
    assert RecordingCache(index_physionet2016(raw, ["a"]), SETTINGS).identified[0] == before


def test_where_the_recordings_lie_does_not_count(simulated_raw, raw):
    before, after = (
        RecordingCache(index_physionet2016(root, ["a"]), SETTINGS).identified[0]
        for root in (simulated_raw, raw)
    )
    assert before == after


def test_another_choice_of_channels_gets_another_folder(tmp_path):
    counts = np.stack([NOISE, np.roll(NOISE, 5) // 2], axis=1)
    (tmp_path / "x.dat").write_bytes(counts.astype("<i2").tobytes())
    signals = "x.dat 16 1000/mV 16 0 0 0 0 II\nx.dat 16 1000/mV 16 0 0 0 0 V5\n"
    (tmp_path / "x.hea").write_text(f"x 2 2000 8000\n{signals}")
    (tmp_path / "labels.csv").write_text("recording,session,label\nx,s,normal\n")
    write_states(tmp_path / "x_StateAns.mat", "state_ans", [(1001, "S1"), (3001, "S1")])
    found = []
    for channel in ("", "II", "V5"):
        index = index_cohort(tmp_path, ecg_channel=channel)
        writer = RecordingCache(index, SETTINGS, functools.partial(find_channels, ecg_channel=channel))
        found.append(Cache(writer.build(tmp_path / "cache", jobs=1, progress=False)))
    assert len({cache.identity for cache in found}) == 3
    np.testing.assert_allclose(found[1].waveforms("ecg"), counts[:, 0] / 1000, rtol=1e-6)
    np.testing.assert_allclose(found[2].waveforms("ecg"), counts[:, 1] / 1000, rtol=1e-6)


def test_the_number_of_processes_changes_no_byte(simulated_raw, tmp_path):
    one, two = (make(simulated_raw, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert names(one.path) == names(two.path)
    for name in names(one.path):
        if name != "manifest.json":
            assert (one.path / name).read_bytes() == (two.path / name).read_bytes(), name


# What goes wrong ------------------------------------------------------------------------------------


def test_one_faulty_recording_does_not_stop_the_rest(raw, tmp_path):
    good = make(raw, tmp_path / "good").table("recordings")["recording"].tolist()
    faulty = {good[0]: "is cut short", good[1]: "named by", good[2]: "does not exist"}
    (raw / "training-a" / f"{good[0]}.wav").write_bytes(b"RIFF")
    (raw / "training-a" / f"{good[1]}.dat").unlink()
    (raw / "training-a" / f"{good[2]}.hea").unlink()
    (raw / "annotations/hand_corrected/training-a_StateAns" / f"{good[3]}_StateAns.mat").write_bytes(b"?")
    cache = make(raw, tmp_path / "cache")
    reasons = cache.table("skipped").set_index("recording")["reason"]
    for name, words in faulty.items() | {(good[3], "annotation file")}:
        assert words in reasons[name]
    assert cache.table("recordings")["recording"].tolist() == good[4:]
    assert len(cache.table("skipped")) == 6


def test_a_row_without_a_label_is_among_the_skipped(raw, tmp_path):
    table = raw / "training-a" / "REFERENCE-SQI.csv"
    table.write_text(table.read_text().replace("a0001,1,", "a0001,maybe,"))
    skipped = make(raw, tmp_path / "cache").table("skipped").set_index("recording")
    assert "'maybe'" in skipped["reason"]["a0001"]


def test_strict_stops_at_the_first_recording_and_leaves_nothing(simulated_raw, tmp_path):
    with pytest.raises(DataError, match=r"a\d{4}: .*stopped by --strict"):
        make(simulated_raw, tmp_path, strict=True)
    assert names(tmp_path) == []


def test_strict_stops_at_a_problem_of_the_index_before_anything_is_done(tmp_path, monkeypatch):
    index = small_cohort(tmp_path / "raw")
    index.problems.append(Problem("row 3", "It has no label.", "Add one."))
    monkeypatch.setattr(beats_cache, "prepare_recording", None)
    with pytest.raises(DataError, match=r"row 3: It has no label\. Add one\. \(stopped by --strict\)"):
        RecordingCache(index, SETTINGS).build(tmp_path / "cache", jobs=1, strict=True, progress=False)


def test_strict_does_not_take_a_cache_with_recordings_left_out(simulated_raw, tmp_path):
    make(simulated_raw, tmp_path)
    with pytest.raises(DataError, match="stopped by --strict"):
        make(simulated_raw, tmp_path, strict=True)


def test_strict_lets_warnings_and_whole_cohorts_pass(tmp_path):
    index = small_cohort(tmp_path / "raw")
    index.problems.append(Problem("labels.csv", "No session column.", left_out=False))
    for _ in range(2):
        path = RecordingCache(index, SETTINGS).build(tmp_path / "cache", jobs=1, strict=True, progress=False)
    assert Cache(path).manifest["counts"]["recordings"] == 3


def test_nothing_usable_is_an_error_with_the_first_reasons(raw, tmp_path):
    for path in (raw / "training-a").glob("*.hea"):
        path.unlink()
    with pytest.raises(DataError, match=r"No recording .* a0001: The header a0001\.hea does not exist"):
        make(raw, tmp_path / "cache")
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("home", "where"),
    [(beats_cache, "prepare_recording"), (CacheWriter, "_manifest"), (RecordingCache, "_tables")],
)
def test_a_failure_half_way_leaves_nothing_and_the_next_attempt_works(
    simulated_raw, tmp_path, monkeypatch, error, home, where
):
    original = getattr(home, where)
    calls = []

    def failing(*arguments, **options):
        calls.append(where)
        if where != "prepare_recording" or len(calls) == 10:
            assert len(names(tmp_path)) == 1  # an unfinished folder
            raise error("the disk is full")
        return original(*arguments, **options)

    monkeypatch.setattr(home, where, failing)
    with pytest.raises(error):
        make(simulated_raw, tmp_path)
    assert names(tmp_path) == []
    monkeypatch.undo()
    assert make(simulated_raw, tmp_path).manifest["counts"]["recordings"] == 30


def test_remains_of_a_killed_process_are_no_cache(simulated_raw, tmp_path):
    index = index_physionet2016(simulated_raw, ["a"])
    identity = RecordingCache(index, SETTINGS).identified[0]
    remains = tmp_path / f".0123abcd.simulated-physionet2016-beat-points-100-{identity[:8]}"
    remains.mkdir()
    (remains / "beats_ecg.npy").write_bytes(b"half")
    with pytest.raises(DataError, match="No cache in"):
        find_cache(None, tmp_path, identity)
    cache = make(simulated_raw, tmp_path)
    assert cache.path.name == f"simulated-physionet2016-beat-points-100-{identity[:8]}"
    assert find_cache(None, tmp_path, identity).path == cache.path


# Opening and finding --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is no cache: it has no manifest.json. Make one with load_data.py"),
        (b"{half", "cannot be read .*Delete the folder and run load_data.py again"),
        (b"\xff\xfe\x00", "cannot be read .*Delete the folder and run load_data.py again"),
        (b"[1, 2]", "has cache format None, and 1 is needed"),
        (b"{}", "has cache format None, and 1 is needed"),
        (b'{"format": 0}', "has cache format 0, and 1 is needed. Delete the folder"),
    ],
)
def test_what_is_no_cache_is_reported(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        Cache(tmp_path)


def test_a_damaged_cache_of_the_same_name_is_not_taken_for_done(simulated_raw, tmp_path):
    cache = make(simulated_raw, tmp_path)
    (cache.path / "manifest.json").write_text("{half")
    with pytest.raises(DataError, match="cannot be read"):
        make(simulated_raw, tmp_path)


@pytest.fixture
def two_caches(tmp_path):
    """Return two caches in one folder, the first of them remembered as the latest."""
    index = small_cohort(tmp_path / "raw")
    settings = [SETTINGS, PreparationSettings(beat_points=50)]
    first, second = (
        Cache(RecordingCache(index, each).build(tmp_path / "cache", jobs=1, progress=False))
        for each in settings
    )
    remember_latest(first.path)
    return first, second


def test_a_cache_is_found_by_path_by_identity_or_as_the_latest(two_caches):
    first, second = two_caches
    folder = first.path.parent
    assert find_cache(second.path, folder).path == second.path
    assert find_cache(second.path, folder, first.identity).path == second.path
    assert find_cache(None, folder, second.identity).path == second.path
    assert find_cache(None, folder).path == first.path
    remember_latest(second.path)
    assert find_cache(None, folder).path == second.path


def test_a_damaged_or_foreign_neighbour_does_not_hide_the_cache_sought(two_caches):
    for name, content in (("aaa", "{half"), ("bbb", '{"format": 0}')):
        neighbour = two_caches[0].path.parent / name
        neighbour.mkdir()
        (neighbour / "manifest.json").write_text(content)
    for cache in two_caches:
        assert find_cache(None, cache.path.parent, cache.identity).path == cache.path


def test_without_a_cache_the_message_says_how_to_make_one(tmp_path, two_caches):
    with pytest.raises(DataError, match=r"No prepared data in .*python load_data\.py --simulate"):
        find_cache(None, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"identity deadbeef.*load_data\.py, or name a cache with --cache"):
        find_cache(None, two_caches[0].path.parent, "deadbeef" * 8)
    with pytest.raises(DataError, match="is no cache"):
        find_cache(tmp_path / "nowhere", tmp_path)
    shutil.rmtree(two_caches[0].path)
    with pytest.raises(DataError, match="is no cache"):
        find_cache(None, two_caches[0].path.parent)
