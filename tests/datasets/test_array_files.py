"""Arrays of MATLAB, and records of the PhysioNet Challenges 2017, 2020 and 2021, whose samples are such."""

import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from datasets.array_files import read_array
from datasets.ecg import LEADS, read_ecg
from datasets.recordings import read_recording
from datasets.sources import DataError
from systems.ecg_pcg.sources.cohort import find_channels

SAMPLES = np.random.default_rng(0).integers(-1500, 1500, (12, 5000)).astype("<i2")


def write_mat(path, samples):
    """Write ``val`` as MATLAB 4 does ("MAT-File Format", level 4): 16-bit integers, column by column."""
    head = struct.pack("<5i", 30, *samples.shape, 0, 4) + b"val\0"
    path.write_bytes(head + samples.tobytes(order="F"))


@pytest.mark.parametrize("date", ["", " 05-Feb-2020 11:39:16", " 12:33:59 12/05/2020"])
def test_a_record_of_challenge_2020_and_2021(tmp_path, date):
    write_mat(tmp_path / "A0001.mat", SAMPLES)
    lines = [f"A0001 12 500 5000{date}"]
    lines += [
        f"A0001.mat 16+24 1000/mV 16 0 {row[0]} 0 0 {lead}" for row, lead in zip(SAMPLES, LEADS, strict=True)
    ]
    (tmp_path / "A0001.hea").write_text("\n".join([*lines, "#Age: 74", "#Dx: 59118001", ""]))
    ecg = read_ecg(tmp_path / "A0001.hea", tmp_path)
    assert ecg.sampling_rate == 500
    assert np.array_equal(ecg.samples, SAMPLES / 1000)


def test_a_record_of_challenge_2017(tmp_path):
    write_mat(tmp_path / "A00001.mat", SAMPLES[:1])
    (tmp_path / "A00001.hea").write_text(
        "A00001 1 300 5000 05:05:15 1/05/2000 \nA00001.mat 16+24 1000/mV 16 0 -127 0 0 ECG \n"
    )
    ecg = read_recording(tmp_path / "A00001.hea", tmp_path, find_channels).ecg
    assert ecg is not None
    assert ecg.sampling_rate == 300
    assert np.array_equal(ecg.samples, (SAMPLES[0] / 1000).astype(np.float32))


def test_arrays_of_matlab(tmp_path):
    write_mat(tmp_path / "four.mat", SAMPLES)
    savemat(tmp_path / "five.mat", {"ecg": SAMPLES, "fs": 500})
    for name in ("four.mat", "five.mat"):
        assert np.array_equal(read_array(tmp_path / name), SAMPLES)


def test_a_type_that_does_not_exist_is_refused(tmp_path):
    """SciPy 1.17 ends the program with a bus error."""
    for compressed in (False, True):
        savemat(tmp_path / "a.mat", {"ecg": SAMPLES}, do_compression=compressed)
        content = bytearray((tmp_path / "a.mat").read_bytes())
        tag = struct.pack("<2I", 3, SAMPLES.nbytes)
        if compressed:
            inner = zlib.decompress(bytes(content[136:])).replace(
                tag, struct.pack("<2I", 3 + 2**11, SAMPLES.nbytes)
            )
            packed = zlib.compress(inner)
            content[128:] = struct.pack("<2I", 15, len(packed)) + packed
        else:
            content = content.replace(tag, struct.pack("<2I", 3 + 2**11, SAMPLES.nbytes))
        (tmp_path / "a.mat").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mat cannot be read: it is damaged"):
            read_array(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": SAMPLES, "b": SAMPLES}, "it holds a, b, and one array is needed"),
        ({"fs": 500}, "it holds fs, and one array is needed"),
        ({"a": np.array(["text", "words"])}, "it holds no array of numbers"),
        ({"a": SAMPLES * 1j}, "it holds no array of numbers"),
        (
            b"MATLAB 7.3 MAT-file, HDF5".ljust(124) + b"\0\2IM" + b"\x89HDF\r\n",
            "version 7.3: save it with -v7",
        ),
        (b"nothing", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_a_mat_file_that_is_not_one_array_is_refused(tmp_path, content, said):
    path = tmp_path / "a.mat"
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(DataError, match=rf"a\.mat cannot be read.*{said}|a\.mat {said}"):
        read_array(path)
