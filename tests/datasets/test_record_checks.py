"""Headers that do not fit their files are reported, and nothing of the size they declare is allocated."""

import os

import numpy as np
import pytest

from datasets.recordings import read_recording
from datasets.sources import DataError
from datasets.wfdb_files import is_inside, signal_files
from systems.ecg_pcg.sources.simulated import write_record

RATE = 2000
SOUND = np.random.default_rng(0).integers(-1000, 1000, 2 * RATE).astype(np.int16)


@pytest.fixture
def record(tmp_path):
    """Return the header of a good record of two seconds: a sound, and an ECG with a checksum."""
    write_record(tmp_path, "r", 1, SOUND, SOUND[::-1].copy())
    return tmp_path / "r.hea"


def change(header, old, new):
    text = header.read_text()
    assert text.count(old) == 1
    header.write_text(text.replace(old, new))


def refusal(header, read=read_recording):
    with pytest.raises(DataError) as caught:
        read(header, header.parent)
    return str(caught.value)


def test_a_good_record_passes(record):
    assert [file.name for file in signal_files(record, record.parent)] == ["r.wav", "r.dat"]
    assert read_recording(record, record.parent).ecg is not None


@pytest.mark.parametrize("declared", ["4001", "4000000000000", "9" * 1900])
def test_more_samples_than_the_file_holds(record, declared):
    change(record, "r 2 2000 4000", f"r 2 2000 {declared}")
    assert "r.wav is cut short, or its header wrong: it holds 8044 bytes" in refusal(record, signal_files)


@pytest.mark.parametrize(
    ("fmt", "count", "holds"),
    [
        ("16", 600, 300),
        ("212", 600, 400),
        ("310", 600, 450),
        ("24", 600, 200),
        ("32", 600, 150),
        ("80", 600, 600),
        ("16x2", 600, 150),
        ("16+100", 600, 250),
    ],
)
def test_bytes_of_a_sample_in_each_format(tmp_path, fmt, count, holds):
    """So many samples fit, and one more does not."""
    (tmp_path / "r.dat").write_bytes(bytes(count))
    for length, fits in ((holds, True), (holds + 1, False)):
        (tmp_path / "r.hea").write_text(f"r 1 100 {length}\nr.dat {fmt} 1000/mV 16 0 0 0 0 ECG\n")
        if fits:
            assert signal_files(tmp_path / "r.hea", tmp_path)
        else:
            assert "cut short" in refusal(tmp_path / "r.hea", signal_files)


def test_a_shift_longer_than_the_recording(record):
    change(record, "r.dat 16 ", "r.dat 16:4001 ")
    assert "shifts a signal by more than the recording's length" in refusal(record, signal_files)


@pytest.mark.parametrize("count", ["0", "1", "3"])
def test_another_number_of_signals(record, count):
    change(record, "r 2 2000", f"r {count} 2000")
    assert f"declares {count} signals, and describes 2" in refusal(record, signal_files)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "r 2 2000",
            "r 2 1000",
            "holds 2000 Hz, 1 channels of 16 bits from byte 44; its header says 1000 Hz",
        ),
        ("16+44", "16+42", "its header says 2000 Hz, 1 channels of 16 bits from byte 42"),
        ("16+44", "80+44", "its header says 2000 Hz, 1 channels of 8 bits from byte 44"),
    ],
)
def test_a_sound_file_that_says_otherwise_than_its_header(record, old, new, sentence):
    change(record, old, new)
    assert sentence in refusal(record)


def test_a_sound_file_of_floating_point_is_not_what_a_header_can_say(record):
    sound = record.with_suffix(".wav")
    content = bytearray(sound.read_bytes())
    content[20] = 3  # samples in floating point, says the file
    sound.write_bytes(bytes(content))
    assert "r.wav does not hold whole numbers (PCM), as its header says" in refusal(record)


def test_one_wrong_bit_does_not_have_the_checksum(record):
    ecg = record.with_suffix(".dat")
    content = bytearray(ecg.read_bytes())
    content[999] ^= 4
    ecg.write_bytes(bytes(content))
    assert "channel ECG of r do not have the checksum of their header" in refusal(record)
    stated = record.read_text().splitlines()[2].split()[6]
    change(record, f" {stated} 0 ECG", " 0 0 ECG")
    assert read_recording(record, record.parent).ecg is not None, "0 promises nothing"


def test_checksums_are_taken_modulo_16_bits_in_either_sign(record):
    stated = int(record.read_text().splitlines()[2].split()[6])
    for same in (stated % 2**16, stated % 2**16 - 2**16):
        text = record.read_text().splitlines()
        text[2] = " ".join([*text[2].split()[:6], str(same), "0", "ECG"])
        record.write_text("\n".join(text) + "\n")
        assert read_recording(record, record.parent).ecg is not None


def test_links_that_lead_outside_or_in_a_circle_are_not_inside(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("secret")
    (inside / "link").symlink_to(outside)
    (inside / "circle").symlink_to(inside / "circle")
    (inside / "own").symlink_to(inside / "file")
    assert [is_inside(inside / name, inside) for name in ("file", "own", "link", "circle", "../outside")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_linked_data_folder_is_the_folder_it_leads_to(record, tmp_path):
    place = tmp_path / "elsewhere"
    place.symlink_to(record.parent, target_is_directory=True)
    assert read_recording(place / "r.hea", place).ecg is not None


@pytest.mark.parametrize("gain", ["1e-320", "1e-300", "1e300", "9" * 400, "1000(99999999999)/mV"])
def test_a_gain_or_baseline_that_leaves_nothing_of_the_signal(record, gain):
    cells = record.read_text().splitlines()
    cells[2] = " ".join([*cells[2].split()[:2], gain, *cells[2].split()[3:]])
    record.write_text("\n".join(cells) + "\n")
    assert "gain or baseline of channel ECG of r cannot be right" in refusal(record)


def test_a_rate_of_nothing(record):
    record.write_text(
        record.read_text()
        .replace("r 2 2000 4000", "r 1 0 4000")
        .replace(record.read_text().splitlines()[1] + "\n", "")
    )
    assert "gives a sampling rate of 0 Hz" in refusal(record)


@pytest.mark.parametrize("text", ["a 1 " * 100_000, "9" * 2001, "# " + "x" * 2000, "\n" * 10_001])
def test_a_header_that_would_take_minutes_to_parse_is_not_parsed(record, text):
    record.write_text(record.read_text() + text + "\n")
    assert "r.hea cannot be read: it has more than 10000 lines, or 2000 letters in a line" in refusal(record)


def test_a_pipe_is_no_header(tmp_path):
    """Reading it would never end."""
    os.mkfifo(tmp_path / "r.hea")
    assert "r.hea cannot be read: it is no file" in refusal(tmp_path / "r.hea", signal_files)
