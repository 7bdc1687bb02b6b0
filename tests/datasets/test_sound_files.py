"""Sound files of other programs: read as they were meant, or refused with what is wrong with the file."""

import struct

import numpy as np
import pytest

from datasets.recordings import read_recording
from datasets.sound_files import read_sound, wav_layout
from datasets.sources import DataError

RATE = 2000
SOUND = np.random.default_rng(0).integers(-20_000, 20_000, 6 * RATE).astype("<i2")
RAW = SOUND.tobytes()
PLAIN = (1, 1, RATE, 2 * RATE, 2, 16)
EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content


def wav(form=PLAIN, data=RAW, size=None, before=b"", after=b"", extension=b"", riff=None) -> bytes:
    """Return a .wav by the definition of RIFF, with whatever is wrong about it."""
    body = b"WAVE" + chunk(b"fmt ", struct.pack("<HHIIHH", *form) + extension) + before
    body += chunk(b"data", data, size) + after
    return chunk(b"RIFF", body, riff)


def read(folder, content: bytes, name="a.wav"):
    (folder / name).write_bytes(content)
    return read_sound(folder / name)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (wav(), None),
        (wav(size=0, riff=0), "The length of a.wav was left open: all 6.0 s are read"),
        (wav(size=0, riff=36), "left open"),
        (wav(size=0xFFFFFFFF, riff=0xFFFFFFFF), "left open"),
        (wav(size=0x7FFFF000, riff=0x7FFFF024), "left open"),
        (wav(before=chunk(b"LIST", b"INFOISFTabcde")), None),
        (wav(before=chunk(b"LIST", b"INFOISFTabcde") + b"\0"), None),
        (wav(after=chunk(b"LIST", b"INFO")), None),
        (wav(after=bytes(900)), None),
        (wav(form=(0xFFFE, *PLAIN[1:]), extension=EXTENSIBLE), None),
        (wav(form=(1, 1, RATE, 9 * RATE, 2, 16)), "do not fit: its sampling rate may be wrong"),
        (wav(form=(1, 1, RATE, 0, 2, 16)), None),
    ],
    ids=[
        *("plain", "open 0", "open, no file", "open 4 GiB", "open 2 GiB", "odd chunk without padding"),
        *("odd chunk", "text behind", "zeros behind", "extensible", "bytes a second", "no bytes a second"),
    ],
)
def test_what_other_programs_write_is_read(tmp_path, content, warning):
    sound = read(tmp_path, content)
    assert np.array_equal(sound.samples[:, 0], SOUND / 32768)
    assert sound.rate == RATE
    assert [warning in text for text in sound.warnings] == [True] * bool(warning)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (wav(data=RAW[:8000], size=len(RAW)), "cut short: 6.0 s are declared, and 2.0 s are there"),
        (wav(form=(1, 1, RATE, RATE, 1, 16)), "contradicts itself: 1 channels of 16 bits in 1 bytes"),
        (wav(form=(1, 1, RATE, 4 * RATE, 4, 16)), "contradicts itself: 1 channels of 16 bits in 4 bytes"),
        (wav(form=(1, 1, RATE, 2 * RATE, 2, 8)), "contradicts itself: 1 channels of 8 bits in 2 bytes"),
        (wav(form=(1, 2, RATE, 2 * RATE, 2, 16)), "contradicts itself: 2 channels of 16 bits in 2 bytes"),
        (wav(form=(1, 0, RATE, 2 * RATE, 2, 16)), "declares 0 channels"),
        (wav(form=(1, 1, 0, 0, 2, 16)), "declares 1 channels, 0 Hz"),
        (wav(form=(77, 1, RATE, 2 * RATE, 2, 16)), r"cannot be read as a \.wav file"),
        (wav(after=chunk(b"data", RAW)), "1 descriptions .* and 2 sets of samples"),
        (wav(before=chunk(b"fmt ", bytes(16))), "2 descriptions"),
        (wav(size=8000), "declares 8000 bytes of samples, and 1.* more follow that belong to nothing"),
        (wav(data=RAW + b"x"), "24001 bytes of samples, no multiple of 2"),
        (chunk(b"RIFF", b"WAVE" + chunk(b"data", RAW)), "0 descriptions"),
        (chunk(b"RIFF", b"WAVE" + chunk(b"fmt ", b"ab") + chunk(b"data", RAW)), "description is too short"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_by_what_is_wrong(tmp_path, content, said):
    with pytest.raises(DataError, match=rf"a\.wav .*{said}"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("codec", "ending", "error"),
    [("flac", "flac", 0), ("pcm_s16be", "aiff", 0), ("pcm_s24le", "wav", 0), ("libmp3lame", "mp3", 0.1)],
)
def test_sounds_that_ffmpeg_wrote_and_no_part_of_them(tmp_path, codec, ending, error):
    av = pytest.importorskip("av", reason="writes the sounds (requirements-dev.txt)")
    time = np.arange(4 * 8000) / 8000
    sound = np.round(16_000 * np.sin(2 * np.pi * 60 * time) * np.sin(3 * time)).astype(np.int16)
    with av.open(str(tmp_path / f"a.{ending}"), "w") as file:
        stream = file.add_stream(codec, rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    read = read_sound(tmp_path / f"a.{ending}")
    assert (read.samples.shape, read.rate) == ((len(sound), 1), 8000)
    assert np.abs(read.samples[:, 0] - sound / 32768).max() <= error
    assert [("losses (MP3)" in text) for text in read.warnings] == [True] * (ending == "mp3")
    content = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"b.{ending}").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"b\.{ending} (is cut short|cannot be read)"):
        read_sound(tmp_path / f"b.{ending}")


def test_a_vorbis_file_is_read_and_one_without_its_end_refused(tmp_path):
    """As libsndfile writes it: no other writer is at hand."""
    import soundfile

    sound = np.sin(np.arange(5 * 8000) / 40) * np.sin(np.arange(5 * 8000) / 5000)
    soundfile.write(tmp_path / "a.ogg", sound / 2, 8000)
    read = read_sound(tmp_path / "a.ogg")
    assert np.abs(read.samples[:, 0] - sound / 2).max() < 0.05
    assert ["losses (Vorbis)" in text for text in read.warnings] == [True]
    content = (tmp_path / "a.ogg").read_bytes()
    for share in (0.5, 0.9):
        (tmp_path / "b.ogg").write_bytes(content[: round(share * len(content))])
        with pytest.raises(DataError, match=r"b\.ogg is cut short"):
            read_sound(tmp_path / "b.ogg")


@pytest.mark.parametrize("faint", [0, 1], ids=["silent", "only dither"])
def test_a_silent_channel_is_not_taken_for_the_heart_sound(tmp_path, faint):
    left = (faint * np.resize([0, 1, -1], len(SOUND))).astype("<i2")
    stereo = np.stack([left, SOUND], axis=1)
    (tmp_path / "a.wav").write_bytes(wav((1, 2, RATE, 4 * RATE, 4, 16), stereo.tobytes()))
    recording = read_recording(tmp_path / "a.wav", tmp_path)
    assert recording.pcg is not None
    assert np.array_equal(recording.pcg.samples, (SOUND / 32768).astype(np.float32))
    ((code, signal, text),) = recording.warnings
    assert (code, signal) == ("channels", "pcg")
    assert (
        text
        == "a.wav has 2 channels; the 2. one, as those before it are silent, is taken for the heart sound."
    )


def test_a_header_that_skips_44_bytes_of_an_extensible_sound_is_refused(tmp_path):
    """Its samples begin later, and the rest of its description would be read as sound."""
    extensible = wav(form=(0xFFFE, *PLAIN[1:]), extension=EXTENSIBLE)
    (tmp_path / "a.wav").write_bytes(extensible)
    assert wav_layout(tmp_path / "a.wav").begin == 68
    for offset, said in ((44, "from byte 68; its header says .* from byte 44"), (68, "")):
        (tmp_path / "a.hea").write_text(f"a 1 2000 {len(SOUND)}\na.wav 16+{offset} 1 16 0 0 0 0 PCG\n")
        if said:
            with pytest.raises(DataError, match=said):
                read_recording(tmp_path / "a.hea", tmp_path)
        else:
            pcg = read_recording(tmp_path / "a.hea", tmp_path).pcg
            assert pcg is not None
            assert np.array_equal(pcg.samples, (SOUND / 32768).astype(np.float32))
