"""Reading WFDB records: units, rates, saturation, and a clear sentence for each that cannot be used."""

import numpy as np
import pytest

from datasets.recordings import channels_by_name, read_recording
from datasets.sources import DataError
from systems.ecg_pcg.sources.simulated import write_record

RATE = 2000
NOISE = np.random.default_rng(0).integers(-1000, 1000, 2 * RATE).astype(np.int16)


def write_header(folder, *signals, rate=RATE, count=2 * RATE, end="\n"):
    """Write r.hea with these signal lines, and return it."""
    lines = [f"r {len(signals)} {rate} {count}", *signals, "# Normal"]
    (folder / "r.hea").write_bytes("".join(line + end for line in lines).encode())
    return folder / "r.hea"


def write_samples(folder, samples, name="r.dat"):
    (folder / name).write_bytes(np.asarray(samples).astype("<i2").tobytes())


def read_one(folder, samples, signal="r.dat 16 1000/mV 16 0 0 0 0 ECG", **options):
    """Return what is read from a record of one channel."""
    write_samples(folder, samples)
    return read_recording(write_header(folder, signal, **options), folder)


def read_both(header):
    """Return the ECG and the heart sound of a record that has both, and the rate of its header."""
    recording = read_recording(header, header.parent)
    assert recording.ecg is not None
    assert recording.pcg is not None
    return recording.ecg, recording.pcg, recording.header_rate


def assert_refused(folder, sentence, root=None):
    with pytest.raises(DataError, match=sentence):
        read_recording(folder / "r.hea", root or folder)


# What is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "millivolts"),
    [
        ("1000", NOISE / 1000),  # millivolts where the header names no unit
        ("1000/mV", NOISE / 1000),
        ("500(10)/uV", (NOISE - 10.0) / 500 / 1000),
        ("400/V", NOISE / 400 * 1000),
        ("0", NOISE / 200),  # the format's default gain
    ],
)
def test_the_ecg_is_in_millivolts_by_gain_baseline_and_unit(tmp_path, field, millivolts):
    recording = read_one(tmp_path, NOISE, f"r.dat 16 {field} 16 0 0 0 0 ECG")
    assert recording.pcg is None
    np.testing.assert_allclose(recording.ecg.samples, millivolts, rtol=1e-6)
    assert recording.ecg.samples.dtype == np.float32
    assert recording.ecg.duration == 2.0


def test_the_heart_sound_is_a_share_of_full_scale_whatever_its_gain(tmp_path):
    recording = read_one(tmp_path, NOISE, "r.dat 16 77/Pa 16 0 0 0 0 PCG")
    assert recording.ecg is None
    np.testing.assert_allclose(recording.pcg.samples, NOISE / 32768, rtol=1e-6)


def test_a_published_record_is_sound_in_a_wav_and_ecg_beside_it(tmp_path):
    write_record(tmp_path, "r", label=1, pcg=NOISE, ecg=NOISE[::-1].copy())
    assert b"\r\n" in (tmp_path / "r.hea").read_bytes()
    ecg, pcg, header_rate = read_both(tmp_path / "r.hea")
    np.testing.assert_allclose(pcg.samples, NOISE / 32768, rtol=1e-6)
    np.testing.assert_allclose(ecg.samples, NOISE[::-1] / 1000, rtol=1e-6)
    assert ecg.sampling_rate == pcg.sampling_rate == header_rate == 2000


def test_channels_may_have_rates_of_their_own(tmp_path):
    signals = ("fast.dat 16x4 1 16 0 0 0 0 PCG", "slow.dat 16 1000/mV 16 0 0 0 0 ECG")
    header = write_header(tmp_path, *signals, rate=250, count=500)
    write_samples(tmp_path, NOISE[:500], "slow.dat")
    write_samples(tmp_path, NOISE[:2000], "fast.dat")
    ecg, pcg, header_rate = read_both(header)
    assert (pcg.sampling_rate, ecg.sampling_rate, header_rate) == (1000, 250, 250)
    np.testing.assert_allclose(pcg.samples, NOISE[:2000] / 32768, rtol=1e-6)


def test_line_ends_do_not_matter(tmp_path):
    expected = read_one(tmp_path, NOISE).ecg.samples
    np.testing.assert_array_equal(read_one(tmp_path, NOISE, end="\r\n").ecg.samples, expected)


def test_channel_names_are_found_in_any_case(tmp_path):
    recording = read_one(tmp_path, NOISE, "r.dat 16 1000/mV 16 0 0 0 0 ecg")
    assert recording.ecg is not None


def test_another_rule_may_choose_the_channels(tmp_path):
    write_samples(tmp_path, NOISE)
    header = write_header(tmp_path, "r.dat 16 1000/mV 16 0 0 0 0 MLII")
    assert read_recording(header, tmp_path, lambda record: (0, None)).ecg is not None
    with pytest.raises(DataError, match="neither an ECG nor a PCG"):
        read_recording(header, tmp_path, channels_by_name)


def test_gaps_become_nan_and_rails_are_kept_and_counted(tmp_path):
    samples = NOISE.copy()
    samples[100:300] = -32768  # a gap: from nowhere
    samples[999] = -30000
    samples[1000:1040] = -32768  # saturation: from near the rail
    samples[2000:2010] = 32767
    signal = read_one(tmp_path, samples).ecg
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(signal.samples)), np.arange(100, 300))
    np.testing.assert_allclose(signal.samples[1000:1040], -32.768)
    assert signal.missing == pytest.approx(200 / 4000)
    assert signal.saturated == pytest.approx(50 / 4000)


def test_the_digest_names_header_and_signals(tmp_path):
    first = read_one(tmp_path, NOISE).sha256
    assert read_one(tmp_path, NOISE).sha256 == first
    changed = NOISE.copy()
    changed[-1] += 1
    assert read_one(tmp_path, changed).sha256 != first
    assert read_one(tmp_path, NOISE, "r.dat 16 999/mV 16 0 0 0 0 ECG").sha256 != first


# What is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../r.dat", "../../r.dat", "sub/../../r.dat", "{absolute}", "~r.dat"])
def test_headers_that_lead_elsewhere_are_refused(tmp_path, name):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    for folder in (tmp_path, root, root / "in"):
        write_samples(folder, NOISE)
    name = name.format(absolute=tmp_path / "r.dat")
    write_header(root / "in", f"{name} 16 1000/mV 16 0 0 0 0 ECG")
    assert_refused(root / "in", r"The header r\.hea (cannot be read|names .* outside the data folder)", root)


@pytest.mark.parametrize("name", ["../r.dat", "/r.dat", "\\r.dat", "C:r.dat", "~/r.dat", "https://a.b/r.dat"])
def test_paths_are_refused_even_if_the_header_could_be_parsed(tmp_path, name, monkeypatch):
    class Header:
        file_name = (name,)

    monkeypatch.setattr("datasets.wfdb_files._parse", lambda header: Header())
    assert_refused(tmp_path, r"The header r\.hea names .*, a path outside the data folder")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    write_samples(tmp_path, NOISE)
    (root / "r.dat").symlink_to(tmp_path / "r.dat")
    write_header(root, "r.dat 16 1000/mV 16 0 0 0 0 ECG")
    assert_refused(root, "which leads outside the data folder")


def test_absent_files_are_named(tmp_path):
    assert_refused(tmp_path, r"The header r\.hea does not exist")
    write_header(tmp_path, "gone.dat 16 1000/mV 16 0 0 0 0 ECG")
    assert_refused(tmp_path, r"The signal file gone\.dat named by r\.hea is absent")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"The header r\.hea cannot be read"),
        (b"\xff\xfe\x00\x01", r"The header r\.hea cannot be read"),
        (b"no header at all\n", r"The header r\.hea cannot be read"),
        (b"r 0 2000 4000\n", r"The header r\.hea names no signal file"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, content, sentence):
    (tmp_path / "r.hea").write_bytes(content)
    assert_refused(tmp_path, sentence)


@pytest.mark.parametrize("length", [0, 20, 44, 4000])
def test_a_truncated_wav_is_refused(tmp_path, length):
    write_record(tmp_path, "r", label=0, pcg=NOISE, ecg=NOISE)
    content = (tmp_path / "r.wav").read_bytes()
    (tmp_path / "r.wav").write_bytes(content[:length])
    assert_refused(tmp_path, f"r.wav is cut short, .* it holds {length} bytes, and r.hea declares more")


@pytest.mark.parametrize(
    ("samples", "signal", "sentence"),
    [
        (np.full(4000, 5), "ECG", "Channel ECG of r is constant"),
        (np.r_[np.full(2000, 5), np.full(2000, -32768)], "ECG", "Channel ECG of r is constant"),
        (np.full(4000, -32768), "PCG", "Channel PCG of r holds no sample"),
        (NOISE[:1999], "PCG", r"Channel PCG of r lasts 1\.00 s; at least 1 s are needed"),
        (NOISE[:1000], "ECG", r"Channel ECG of r lasts 0\.50 s; at least 1 s are needed"),
        (NOISE, "EMG", "The recording r has neither an ECG nor a PCG channel"),
    ],
)
def test_unusable_channels_are_refused(tmp_path, samples, signal, sentence):
    with pytest.raises(DataError, match=sentence):
        read_one(tmp_path, samples, f"r.dat 16 1000 16 0 0 0 0 {signal}", count=len(samples))


def test_an_ecg_in_another_unit_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match="in 'mmHg'; state V, mV or uV"):
        read_one(tmp_path, NOISE, "r.dat 16 1000/mmHg 16 0 0 0 0 ECG")


def test_one_second_is_enough(tmp_path):
    assert read_one(tmp_path, NOISE[:RATE], count=RATE).ecg.duration == 1.0
