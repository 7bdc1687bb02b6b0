"""Recordings of one's own: what is found in a folder, what is read of it, and what is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.io import savemat, wavfile

from datasets.recordings import read_recording
from datasets.signal_quality import SignalWarning
from datasets.sources import DataError
from systems.base.predictor import RecordingPath
from systems.ecg_pcg.settings import EcgPcgPredictionSettings
from systems.ecg_pcg.sources.simulated import write_record
from systems.ecg_pcg.sources.user_recording import find_recordings, read_user_recording
from tests.datasets.test_channel_files import write_edf

RATE = 2000


def counts(seed: int, seconds: float = 6.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3000, round(seconds * RATE)).astype(np.int16)


def record(folder: Path, name: str = "a0001", ecg: np.ndarray | None = None, with_ecg: bool = True) -> Path:
    """Write a record as simulation does; return its header."""
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, name, 1, counts(1), (counts(2) if ecg is None else ecg) if with_ecg else None)
    return folder / f"{name}.hea"


def read(path: Path, **options):
    return read_user_recording(RecordingPath("mine", path), EcgPcgPredictionSettings(**options))


def read_wav(path: Path):
    recording = read_recording(path, path.parent)
    return recording.pcg, [SignalWarning(*warning) for warning in recording.warnings]


# Finding --------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_records_and_the_sounds_that_belong_to_none(tmp_path):
    record(tmp_path / "b")
    record(tmp_path / "b" / "deep", "a0002", with_ecg=False)
    wavfile.write(tmp_path / "alone.WAV", RATE, counts(3))
    (tmp_path / "b" / "notes.txt").write_text("nothing")
    record(tmp_path / ".hidden")
    found = find_recordings([tmp_path])
    assert [(place.name, place.path.name) for place in found] == [
        ("alone", "alone.WAV"),
        ("b/a0001", "a0001.hea"),
        ("b/deep/a0002", "a0002.hea"),
    ]


def test_the_sound_of_a_damaged_record_is_not_taken_for_a_recording(tmp_path):
    record(tmp_path).write_text("nonsense\n")
    assert [place.path.name for place in find_recordings([tmp_path])] == ["a0001.hea"]


def test_a_sound_with_another_name_than_its_header_belongs_to_it(tmp_path):
    header = record(tmp_path)
    header.write_bytes(header.read_bytes().replace(b"a0001.wav", b"sound.wav"))
    (tmp_path / "a0001.wav").rename(tmp_path / "sound.wav")
    assert [place.path.name for place in find_recordings([tmp_path])] == ["a0001.hea"]


def test_equal_names_get_numbers(tmp_path):
    paths = [record(tmp_path / letter) for letter in "abc"]
    assert [place.name for place in find_recordings(paths)] == ["a0001", "a0001-2", "a0001-3"]


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no recording"):
        find_recordings([tmp_path])


@pytest.mark.parametrize("name", ["a0001", "a0001.hea", "a0001.wav"])
def test_a_record_is_found_with_and_without_its_ending(tmp_path, name):
    record(tmp_path)
    own = read(tmp_path / name)
    assert own.path.name == ("a0001.wav" if name.endswith("wav") else "a0001.hea")
    assert (own.recording.ecg is None) == name.endswith("wav")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere does not exist"),
        ("ecg.csv", r"predict\.py SOUND --ecg FILE --ecg-rate HERTZ"),
        ("a0001.dat", r"neither a WFDB record nor a \.wav file\. Perhaps you meant .*a0001\."),
    ],
)
def test_what_is_no_recording_is_refused_with_a_hint(tmp_path, name, said):
    record(tmp_path)
    (tmp_path / "ecg.csv").write_text("0.1\n0.2\n")
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


# WFDB records ---------------------------------------------------------------------------------------------


def test_a_record_is_read_as_preparation_reads_it(tmp_path):
    header = record(tmp_path)
    own, expected = read(header), read_recording(header, tmp_path)
    assert own.recording.sha256 == expected.sha256
    assert own.recording.ecg is not None
    assert expected.pcg is not None
    assert own.recording.pcg is not None
    assert np.array_equal(own.recording.ecg.samples, counts(2).astype(np.float32) / 1000)
    assert np.array_equal(own.recording.pcg.samples, expected.pcg.samples)
    assert own.channels == {"ecg": "ECG", "pcg": "PCG"}
    assert own.warnings == []
    assert own.annotation is None


def test_a_dead_channel_is_left_out_and_the_other_is_kept(tmp_path):
    own = read(record(tmp_path, ecg=np.full(6 * RATE, 17, dtype=np.int16)))
    assert own.recording.ecg is None
    assert own.recording.pcg is not None
    assert [(warning.code, warning.signal) for warning in own.warnings] == [("unusable", "ecg")]
    assert "constant" in own.warnings[0].text


def test_a_record_of_two_dead_channels_is_refused(tmp_path):
    write_record(tmp_path, "a0001", 1, np.ones(12000, np.int16), np.ones(12000, np.int16))
    with pytest.raises(DataError, match="constant"):
        read(tmp_path / "a0001")


@pytest.mark.parametrize("path", ["../outside.dat", "/etc/hostname", "sub/../../outside.dat"])
def test_a_header_cannot_name_a_file_outside_its_folder(tmp_path, path):
    header = record(tmp_path / "inside")
    (tmp_path / "outside.dat").write_bytes(counts(4).tobytes())
    header.write_bytes(header.read_bytes().replace(b"a0001.dat", path.encode()))
    with pytest.raises(DataError, match=r"invalid syntax|outside the data folder"):
        read(header)


def test_a_link_cannot_lead_out_of_the_folder(tmp_path):
    header = record(tmp_path / "inside")
    (tmp_path / "outside.dat").write_bytes((tmp_path / "inside" / "a0001.dat").read_bytes())
    (tmp_path / "inside" / "a0001.dat").unlink()
    (tmp_path / "inside" / "a0001.dat").symlink_to(tmp_path / "outside.dat")
    with pytest.raises(DataError, match="leads outside the data folder"):
        read(header)


def test_channels_can_be_named(tmp_path):
    header = record(tmp_path)
    header.write_bytes(header.read_bytes().replace(b" ECG", b" chest").replace(b" PCG", b" mic"))
    with pytest.raises(DataError, match="neither an ECG nor a PCG channel"):
        read(header)
    own = read(header, ecg_channel="Chest")
    assert own.channels == {"ecg": "chest"}
    assert own.recording.pcg is None


@pytest.mark.parametrize(("rate", "kept"), [("30", []), ("200", ["ecg"]), ("2000", ["ecg", "pcg"])])
def test_signals_of_an_impossible_rate_are_left_out(tmp_path, rate, kept):
    header = record(tmp_path)
    changed = header.read_bytes().replace(b" 2000 ", f" {rate} ".encode(), 1)
    header.write_bytes(changed.replace(b"a0001.wav", b"a0001.snd"))  # a .wav would tell the right rate
    header.with_suffix(".wav").rename(header.with_suffix(".snd"))
    if not kept:
        with pytest.raises(DataError, match="sampling rate is 30 Hz; 50 to 20000 Hz is plausible"):
            read(header)
        return
    own = read(header)
    assert [kind for kind in ("ecg", "pcg") if getattr(own.recording, kind) is not None] == kept
    assert len(own.warnings) == 2 - len(kept)


def test_onsets_are_found_beside_the_record_or_in_the_folder_named(tmp_path):
    header = record(tmp_path / "data")
    beside, other = tmp_path / "data" / "a0001_StateAns.mat", tmp_path / "onsets" / "a0001_StateAns0.mat"
    other.parent.mkdir()
    other.touch()
    assert read(header).annotation is None
    assert read(header, annotations=other.parent).annotation == other
    beside.touch()
    assert read(header).annotation == beside


# Heart sounds ---------------------------------------------------------------------------------------------


def test_the_sound_alone_is_that_of_the_record(tmp_path):
    header = record(tmp_path)
    alone, whole = read(header.with_suffix(".wav")), read(header)
    assert np.array_equal(alone.recording.pcg.samples, whole.recording.pcg.samples)
    assert alone.recording.header_rate == RATE


def long(*values: float) -> np.ndarray:
    """Repeat values to two seconds."""
    return np.resize(values, 2 * RATE)


@pytest.mark.parametrize(
    ("stored", "expected", "saturated"),
    [
        (long(0, 128, 192, 255).astype(np.uint8), [-1, 0, 0.5, 127 / 128], 0.5),
        (long(-32768, -16384, 0, 32767).astype(np.int16), [-1, -0.5, 0, 32767 / 32768], 0.5),
        (long(-(2**31), 2**30, 0, 5).astype(np.int32), [-1, 0.5, 0, 0], 0.25),
        (long(-1, -0.25, 0.5, 0).astype(np.float32), [-1, -0.25, 0.5, 0], 0.25),
        (long(-3000, 1500, 0, 7).astype(np.float32), [-3000, 1500, 0, 7], 0.0),
    ],
    ids=["8 bits", "16 bits", "32 bits", "float", "float of another scale"],
)
def test_every_storage_of_a_wav_gives_shares_of_full_scale(tmp_path, stored, expected, saturated):
    wavfile.write(tmp_path / "a.wav", RATE, stored)
    signal, warnings = read_wav(tmp_path / "a.wav")
    assert signal.samples[:4] == pytest.approx(np.array(expected), abs=1e-6)
    assert signal.saturated == pytest.approx(saturated)
    assert (signal.sampling_rate, warnings) == (RATE, [])


def test_24_bits_are_read(tmp_path):
    values = [-(2**23), 2**22, 0, 2**23 - 1]
    data = b"".join(struct.pack("<i", value)[:3] for value in values) * RATE
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 3 * RATE, 3, 24)
    head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data"
    (tmp_path / "a.wav").write_bytes(head + struct.pack("<I", len(data)) + data)
    signal, _ = read_wav(tmp_path / "a.wav")
    assert signal.samples[:4] == pytest.approx([-1, 0.5, 0, 1], abs=1e-6)
    assert signal.saturated == pytest.approx(0.5)


def test_of_two_channels_the_first_is_taken_and_said(tmp_path):
    wavfile.write(tmp_path / "a.wav", RATE, np.stack([counts(1), counts(2)], axis=1))
    signal, warnings = read_wav(tmp_path / "a.wav")
    assert np.array_equal(signal.samples, (counts(1) / 32768).astype(np.float32))
    assert [warning.code for warning in warnings] == ["channels"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no sound at all", "cannot be read"), (b"", "cannot be read"), (b"RIFF\x04\x00\x00\x00WAVE", "read")],
)
def test_a_file_that_is_no_wav_is_refused(tmp_path, content, said):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "a.wav")


def test_silence_and_a_moment_are_refused(tmp_path):
    wavfile.write(tmp_path / "a.wav", RATE, np.zeros(6 * RATE, np.int16))
    wavfile.write(tmp_path / "b.wav", RATE, counts(1)[:1000])
    for name, said in (("a", "is constant"), ("b", r"lasts 0\.50 s")):
        with pytest.raises(DataError, match=said):
            read(tmp_path / f"{name}.wav")


# The ECG of a heart sound ---------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path) -> Path:
    wavfile.write(tmp_path / "a.wav", RATE, counts(1))
    return tmp_path / "a.wav"


ECG = np.sin(np.arange(1500) / 5)


def test_the_ecg_may_be_an_array_a_table_or_a_record(sound, tmp_path):
    np.save(tmp_path / "ecg.npy", ECG[None])
    cells = [f"{value:.9f}" for value in ECG]
    cells[7] = ""
    (tmp_path / "ecg.csv").write_bytes(("﻿millivolts\r\n" + "\r\n".join(cells) + "\r\n").encode())
    array = read(sound, ecg=tmp_path / "ecg.npy", ecg_rate=250.0).recording.ecg
    table = read(sound, ecg=tmp_path / "ecg.csv", ecg_rate=250.0).recording.ecg
    assert array.samples == pytest.approx(ECG, abs=1e-6)
    assert (array.sampling_rate, array.missing) == (250.0, 0.0)
    assert np.flatnonzero(np.isnan(table.samples)).tolist() == [7]
    assert np.delete(table.samples, 7) == pytest.approx(np.delete(ECG, 7), abs=1e-6)
    header = record(tmp_path / "other")
    of_record = read(sound, ecg=header.with_suffix(""))
    assert np.array_equal(of_record.recording.ecg.samples, counts(2).astype(np.float32) / 1000)
    assert of_record.channels == {"pcg": "a.wav", "ecg": "a0001.hea"}


def test_the_digest_counts_the_ecg_too(sound, tmp_path):
    np.save(tmp_path / "ecg.npy", ECG)
    both = read(sound, ecg=tmp_path / "ecg.npy", ecg_rate=250.0).recording.sha256
    assert both != read(sound).recording.sha256


@pytest.mark.parametrize(
    ("name", "content", "rate", "said"),
    [
        ("e.csv", "1\n2\n", None, "add --ecg-rate"),
        ("e.csv", "1\n2\n", -5.0, "add --ecg-rate"),
        ("e.csv", "1,2\n" * 1500, 250.0, "2 columns"),
        ("e.csv", "name\n1\n2\nthree\n", 250.0, "line 4: 'three' is no number"),
        ("e.csv", "", 250.0, "cannot be read as a table"),
        ("e.csv", "1\n2\n3\n", 250.0, "lasts 0.01 s"),
        ("e.npy", "no array", 250.0, "cannot be read"),
        ("gone.npy", None, 250.0, "There is no"),
        ("a.wav", None, None, "is a .wav"),
    ],
)
def test_an_ecg_that_cannot_be_used_is_refused_with_the_reason(sound, tmp_path, name, content, rate, said):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read(sound, ecg=tmp_path / name, ecg_rate=rate)


def test_arrays_that_could_hold_code_are_not_read(sound, tmp_path):
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read(sound, ecg=tmp_path / "e.npy", ecg_rate=250.0)


def test_a_record_takes_no_ecg_from_elsewhere(tmp_path, sound):
    with pytest.raises(DataError, match=r"--ecg belongs to a \.wav"):
        read(record(tmp_path / "b"), ecg=sound)


# Other files ----------------------------------------------------------------------------------------------


def test_a_folder_gives_recordings_of_every_format(tmp_path):
    soundfile.write(tmp_path / "b.flac", counts(1), RATE)
    write_edf(tmp_path / "c.edf")
    record(tmp_path, "d", with_ecg=False)
    found = find_recordings([tmp_path])
    assert [(place.name, place.path.name) for place in found] == [
        ("b", "b.flac"),
        ("c", "c.edf"),
        ("d", "d.hea"),
    ]
    for place, channels in zip(
        found, ({"pcg": "b.flac"}, {"ecg": "ECG II", "pcg": "PCG"}, {"pcg": "PCG"}), strict=True
    ):
        own = read_user_recording(place, EcgPcgPredictionSettings())
        assert (own.channels, own.warnings) == (channels, [])
    flac = read(tmp_path / "b.flac").recording.pcg
    assert np.array_equal(flac.samples, (counts(1) / 32768).astype(np.float32))


def test_the_ecg_of_a_sound_may_be_an_edf_file_or_an_array_of_matlab(sound, tmp_path):
    savemat(tmp_path / "e.mat", {"ecg": ECG})
    assert read(sound, ecg=tmp_path / "e.mat", ecg_rate=250.0).recording.ecg.samples == pytest.approx(ECG)
    own = read(sound, ecg=write_edf(tmp_path / "e.edf"))
    assert own.recording.ecg.sampling_rate == 500
    assert own.channels == {"pcg": "a.wav", "ecg": "e.edf"}


def test_lines_that_end_twice_are_no_gaps(sound, tmp_path):
    (tmp_path / "e.csv").write_bytes("".join(f"{value:.9f}\r\r\n" for value in ECG).encode())
    ecg = read(sound, ecg=tmp_path / "e.csv", ecg_rate=250.0).recording.ecg
    assert ecg.samples == pytest.approx(ECG, abs=1e-6)


def test_a_sound_that_its_header_does_not_name_is_named(tmp_path):
    header = record(tmp_path)
    text = header.read_text().splitlines()
    header.write_text("\n".join([text[0].replace(" 2 ", " 1 "), text[2]]) + "\n")
    (warning,) = read(header).warnings
    assert warning.code == "unnamed-sound"
    assert "a0001.wav is not used, as a0001.hea does not name it" in warning.text
    assert "predict.py a0001.wav --ecg a0001" in warning.text


def test_channels_named_after_places_are_heart_sounds_in_a_sound_file_alone(tmp_path):
    header = record(tmp_path, with_ecg=False)
    header.write_bytes(header.read_bytes().replace(b" PCG", b" MV"))
    assert read(header).channels == {"pcg": "MV"}
    header.write_bytes(header.read_bytes().replace(b"a0001.wav", b"a0001.snd"))
    header.with_suffix(".wav").rename(header.with_suffix(".snd"))
    with pytest.raises(DataError, match=r"only MV: name one with --ecg-channel or --pcg-channel"):
        read(header)
    assert read(header, pcg_channel="mv").channels == {"pcg": "MV"}


def test_a_channel_that_may_be_the_heart_sound_is_named(tmp_path):
    header = record(tmp_path)
    header.write_bytes(header.read_bytes().replace(b" PCG", b" chest"))
    (warning,) = read(header).warnings
    assert (warning.code, warning.signal) == ("no-channel", "pcg")
    assert "among the channels chest, ECG. If chest is one, name it with --pcg-channel." in warning.text
    assert read(header, pcg_channel="chest").warnings == []
    with pytest.raises(
        DataError, match="There is no channel 'nowhere' for --pcg-channel; there are chest, ECG"
    ):
        read(header, pcg_channel="nowhere")
