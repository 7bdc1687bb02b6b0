"""WFDB records as other programs write them: letters, rates, segments, and sounds that no header names."""

import numpy as np
import pytest
import wfdb

from datasets.ecg import LEADS, read_ecg
from datasets.recordings import read_recording
from datasets.sources import DataError
from datasets.wfdb_files import find_files, millivolts_of, read_header, signal_files, unnamed_files
from systems.ecg_pcg.sources.cohort import find_channels

RATE = 500
COUNTS = np.random.default_rng(0).integers(-2000, 2000, (12, 10 * RATE))
MILLIVOLTS = COUNTS * 1e-3


def write(folder, name="r", counts=COUNTS, units="uV", gain=1.0, names=LEADS, **options):
    """Write a record as wfdb does; return its header."""
    options = options or {"d_signal": counts.T}
    count = len(counts)
    wfdb.wrsamp(
        *(name, RATE if "d_signal" in options else RATE // 8 + 0.5, [units] * count, list(names)),
        **{
            "fmt": ["16"] * count,
            "adc_gain": [gain] * count,
            "baseline": [0] * count,
            "write_dir": str(folder),
        },
        **options,
    )
    return folder / f"{name}.hea"


# Letters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "code"),
    [("uV", "utf-8"), ("µV", "utf-8"), ("µV", "utf-8-sig"), ("µV", "latin-1"), ("μV", "utf-8")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
def test_a_microvolt_is_no_volt_however_it_is_spelled(tmp_path, code, unit, end):
    header = write(tmp_path)
    text = "# Größe\n" + header.read_text().replace("uV", unit)
    header.write_bytes(text.replace("\n", end).encode(code))
    assert np.array_equal(read_ecg(header, tmp_path).samples, MILLIVOLTS)
    ecg = read_recording(header, tmp_path, find_channels).ecg
    assert ecg is not None
    assert ecg.samples == pytest.approx(COUNTS[0] / 1000)


@pytest.mark.parametrize("unit", ["ΩV", "?V", "mΩ", "ÂµV"])
def test_a_unit_of_other_letters_is_not_taken_for_one_without_them(tmp_path, unit):
    header = write(tmp_path)
    header.write_bytes(header.read_text().replace("uV", unit).encode())
    with pytest.raises(DataError, match="not in V, mV or uV"):
        read_ecg(header, tmp_path)
    with pytest.raises(DataError, match="state V, mV or uV"):
        read_recording(header, tmp_path, find_channels)


def test_names_keep_their_letters(tmp_path):
    header = write(tmp_path, counts=COUNTS[:2], names=["EKG", "PCG"])
    header.write_bytes(header.read_text().replace("PCG", "Herztön").encode("latin-1"))
    assert read_header(header).sig_name == ["EKG", "Herztön"]
    assert read_recording(header, tmp_path, lambda record: (0, 1)).channels["pcg"] == "Herztön"


def test_units_of_voltage():
    known = {"V": 1e3, "mV": 1, "MV": 1, "uV": 1e-3, "µV": 1e-3, "μV": 1e-3, "nV": 1e-6}
    assert {unit: millivolts_of(unit) for unit in known} == known
    assert [millivolts_of(unit) for unit in ("", "NU", "mmHg", "?V")] == [None] * 4


@pytest.mark.parametrize("gain", ["0", "0(0)/mV", "0.0/mV", ""])
def test_twelve_leads_without_a_gain_have_no_millivolts(tmp_path, gain):
    header = write(tmp_path, units="mV", gain=7.0)
    text = header.read_text()
    assert text.count(" 7.0(0)/mV ") == 12
    if gain:
        header.write_text(text.replace(" 7.0(0)/mV ", f" {gain} "))
    else:  # nothing behind the format but the name of the file
        lines = text.splitlines()
        header.write_text("\n".join([lines[0], *(" ".join(line.split()[:2]) for line in lines[1:])]) + "\n")
    with pytest.raises(DataError, match=r"states no gain for I, II|has none of the leads|lacks I, II"):
        read_ecg(header, tmp_path)


# Rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [[], [1003, 1004, 1005, 2403]])
def test_leads_beside_a_slow_channel_are_read_at_their_own_rate(tmp_path, missing):
    counts = COUNTS.copy()
    counts[:, missing] = -32768
    slow = np.arange(len(counts[0]) // 8)
    header = write(
        tmp_path,
        counts=[*counts, slow],
        names=[*LEADS, "RESP"],
        e_d_signal=[*counts, slow],
        samps_per_frame=[8] * 12 + [1],
    )
    ecg = read_ecg(header, tmp_path)
    expected = np.where(counts == -32768, np.nan, counts * 1e-3)
    assert ecg.sampling_rate == RATE
    assert np.array_equal(ecg.samples, expected, equal_nan=True)


def test_leads_of_unlike_rates_are_refused(tmp_path):
    slow = COUNTS[1, ::2]
    options = {"e_d_signal": [COUNTS[0], slow], "samps_per_frame": [8, 4]}
    header = write(tmp_path, counts=[COUNTS[0], slow], names=["I", "II"], **options)
    with pytest.raises(DataError, match="The leads of r differ in rate"):
        read_ecg(header, tmp_path, ("I", "II"))
    assert read_ecg(header, tmp_path, ("II",)).sampling_rate == RATE / 2


def test_a_lead_that_is_there_twice_is_refused(tmp_path):
    header = write(tmp_path, names=[*LEADS[:11], "ECG I"])
    with pytest.raises(DataError, match="has I twice"):
        read_ecg(header, tmp_path, LEADS, some=True)


# Segments -------------------------------------------------------------------------------------------------


@pytest.fixture
def segments(tmp_path):
    """Write two segments, of 6 and of 4 s, and the header that joins them; return it."""
    write(tmp_path, "s1", COUNTS[:, : 6 * RATE])
    write(tmp_path, "s2", COUNTS[:, 6 * RATE :])
    (tmp_path / "whole.hea").write_text("whole/2 12 500 5000\ns1 3000\ns2 2000\n")
    return tmp_path / "whole.hea"


def test_segments_are_joined(segments):
    folder = segments.parent
    assert np.array_equal(read_ecg(segments, folder).samples, MILLIVOLTS)
    recording = read_recording(segments, folder, find_channels)
    assert recording.ecg is not None
    assert recording.ecg.duration == 10
    assert read_header(segments).sig_name == list(LEADS)
    assert [file.name for file in signal_files(segments, folder)] == ["s1.hea", "s1.dat", "s2.hea", "s2.dat"]
    assert [file.name for file in find_files(folder, (".hea",))] == ["whole.hea"]


def test_a_gap_between_segments_and_a_layout(segments):
    folder = segments.parent
    (folder / "layout.hea").write_text("layout 12 500 0\n" + "~ 0 1/uV 16 0 0 0 0 I\n" * 12)
    segments.write_text("whole/4 12 500 6000\nlayout 0\ns1 3000\n~ 1000\ns2 2000\n")
    samples = read_ecg(segments, folder).samples
    assert np.isnan(samples[:, 3000:4000]).all()
    assert np.array_equal(np.delete(samples, np.s_[3000:4000], axis=1), MILLIVOLTS)
    assert [file.name for file in find_files(folder, (".hea",))] == ["whole.hea"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("whole/2 12 500 5000\ns1 3000\nnowhere 2000\n", "nowhere.hea does not exist"),
        ("whole/2 12 500 4000\ns1 3000\ns2 1000\n", "s2 has 1000 samples, and its own header says 2000"),
        ("whole/3 12 500 5000\ns1 3000\ns2 2000\n", "declares other segments or another length"),
        ("whole/2 12 500 9000\ns1 3000\ns2 2000\n", "declares other segments or another length"),
        ("whole/2 12 500 5000\ns1 3000\nwhole 2000\n", "whole of whole.hea has segments itself"),
        ("whole/1 12 500 5000\n~ 5000\n", "has no segment with samples"),
    ],
)
def test_segments_that_do_not_fit_are_refused(segments, text, said):
    segments.write_text(text)
    with pytest.raises(DataError, match=said):
        read_ecg(segments, segments.parent)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"gain": 2.0}, "gain"), ({"units": "mV"}, "unit"), ({"names": LEADS[::-1]}, "channels")],
)
def test_segments_that_are_unlike_are_not_joined(segments, options, said):
    write(segments.parent, "s2", COUNTS[:, 6 * RATE :], **options)
    with pytest.raises(
        DataError, match=f"segments of the multi-segment record whole differ in {said}: name one"
    ):
        read_ecg(segments, segments.parent)


# Files beside ---------------------------------------------------------------------------------------------


def test_a_sound_beside_a_header_that_does_not_name_it(tmp_path):
    header = write(tmp_path)
    for name in ("r.wav", "r.WAV", "r.txt", "other.wav"):
        (tmp_path / name).touch()
    assert [path.name for path in unnamed_files(header, (".wav",))] == ["r.WAV", "r.wav"]
    assert [path.name for path in find_files(tmp_path, (".hea", ".wav"))] == ["r.hea", "other.wav"]
