"""Headers that are wrong: numbers, names and paths."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from datasets.cache import Cache
from tests.robustness.mutations import (
    CHANNEL,
    ECG_LINE,
    FILE,
    FORMAT,
    GAIN,
    LEFT_OUT,
    RECORD_LINE,
    SAFE,
    SOUND_LINE,
    USED,
    Expect,
    Target,
    header_edit,
    mutation,
    row_of,
)
from tests.robustness.workspaces import COHORT, PHYSIONET

SIGNALS, RATE, LENGTH = 1, 2, 3


CHANNELS = (SOUND_LINE, ECG_LINE)
HUGE_GAINS = ["1e-320", "1e-300", "1e-40", "1e300", "9" * 400]
HUGE_LENGTHS = ["4000000000", "9" * 15, "9" * 40, "9" * 4200, "9" * 5000]
HUGE_FRAMES = ["16:4000000000", "16x4000000000", "16+4000000000", "16x0", "16:" + "9" * 30]
STARTS = ["16", "16+0", "16+42", "16+43", "16+45", "16+46", "16+9999"]
FORMATS = ["8", "80", "24", "32", "61", "160", "212", "310", "311", "508", "516", "7", "999"]
ABSOLUTE = ["{secret}/a0001.dat", "/etc/passwd", "C:\\a0001.dat", "\\\\host\\a0001.dat", "/"]
UPWARDS = ["../secret/a0001.dat", "../../secret/a0001.dat", "./../../secret/a0001.dat"]
UPWARDS += ["..\\secret\\a0001.dat"]
ODD = ["http://127.0.0.1:9/a0001.dat", "file://{secret}/a0001.dat", "~/a0001.dat", "~", "a0001.dat::http"]
RATES = ["0", "1", "44.1", "200", "1000", "4000", "100000", "9" * 400]
UNITS = [f"1000/{unit}" for unit in ("Pa", "bpm", "NU", "mmHg", "?")]
BASELINES = [f"1000({baseline})/mV" for baseline in (10**10, -(10**12), 10**30)]
ABSENT = ["nothing.dat", "a9999.wav", "x"]
SIGNAL_COUNTS = ["0", "1", "3", "99", "4000000000"]
NAMES = ["phono", "II", "E C G", "ECGPCG", "?"]

# name: group, lines, field, values, reason
EDITS: dict[str, tuple[str, tuple[int, ...], int, list[str], str]] = {
    "rate of the header": ("wrong sampling rate", (RECORD_LINE,), RATE, RATES, ""),
    "gain beyond belief": ("wrong gain or baseline", (ECG_LINE,), GAIN, HUGE_GAINS, ""),
    "baseline beyond belief": ("wrong gain or baseline", (ECG_LINE,), GAIN, BASELINES, ""),
    "unit that is no voltage": ("wrong gain or baseline", (ECG_LINE,), GAIN, UNITS, "state V, mV or uV"),
    "names an absent file": ("header names an absent file", CHANNELS, FILE, ABSENT, ""),
    "names an absolute path": ("header names a path", CHANNELS, FILE, ABSOLUTE, ""),
    "names a path upwards": ("header names a path", CHANNELS, FILE, UPWARDS, ""),
    "names something odd": ("header names a path", CHANNELS, FILE, [*ODD, "*.dat", "."], ""),
    "huge length": ("declared sizes", (RECORD_LINE,), LENGTH, HUGE_LENGTHS, "declares more|cannot be read"),
    "huge shift or frame": ("declared sizes", CHANNELS, FORMAT, HUGE_FRAMES, ""),
    "sound from another byte": ("declared sizes", (SOUND_LINE,), FORMAT, STARTS, "its header says|cut short"),
    "another number of signals": ("declared sizes", (RECORD_LINE,), SIGNALS, SIGNAL_COUNTS, ""),
    "another format": ("declared sizes", (ECG_LINE,), FORMAT, FORMATS, ""),
}
for name, edit in EDITS.items():
    header_edit(name, *edit)
header_edit(
    "unusual names of channels",
    "other line ends, spaces and names",
    CHANNELS,
    CHANNEL,
    NAMES,
    "It has no (ECG|heart sound)",
    (PHYSIONET,),
)


@mutation("wrong sampling rate")
def rate_of_both_without_onsets(target: Target, rng: Generator) -> Expect:
    """Without a second word on the rate, a heart that beats too slow or too fast tells."""
    if not target.has_onsets:
        return Expect(USED)
    rate = int(rng.choice([100, 200, 20_000, 100_000]))
    content = bytearray(target.sound.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    target.sound.write_bytes(bytes(content))
    target.edit(RECORD_LINE, RATE, rate)
    return Expect(LEFT_OUT, r"Its beats last|at least 1 s|is plausible|onsets after the end")


@mutation("wrong gain or baseline")
def gain(target: Target, rng: Generator) -> Expect:
    """Beats are standardized, so only what is stored in millivolts follows the header."""
    factor = float(rng.choice([0.25, 0.5, 2.0, 4.0, 1024.0]))
    target.edit(ECG_LINE, GAIN, f"{1000 * factor:g}")
    counts = target.samples("ecg")

    def check(cache: Cache) -> None:
        row = row_of(cache, target.name)
        stored = cache.waveforms("ecg")[row["ecg_offset"] :][: row["ecg_length"]]
        np.testing.assert_allclose(stored, counts / (1000 * factor), rtol=1e-6)

    return Expect(USED, changed=True, check=check)


@mutation("declared sizes")
def one_sample_more(target: Target, rng: Generator) -> Expect:
    target.edit(RECORD_LINE, LENGTH, int(target.lines()[0].split()[LENGTH]) + 1)
    return Expect(LEFT_OUT, "cut short")


@mutation("declared sizes")
def fewer_samples(target: Target, rng: Generator) -> Expect:
    count = len(target.samples("ecg"))
    target.edit(RECORD_LINE, LENGTH, int(rng.integers(1, count)))
    return Expect(LEFT_OUT)


@mutation("declared sizes")
def no_channels(target: Target, rng: Generator) -> Expect:
    target.write_lines([*["r 0 2000 12000"][: int(rng.integers(2))], "# Normal"])
    return Expect(LEFT_OUT)


@mutation("header that is no header")
def fields_that_are_no_numbers(target: Target, rng: Generator) -> Expect:
    line, field = [
        (RECORD_LINE, int(rng.integers(1, 4))),
        (int(rng.choice(CHANNELS)), int(rng.integers(1, 7))),
    ][rng.integers(2)]
    target.edit(line, field, rng.choice(["", "abc", "NaN", "inf", "-", "--5", "1,5", "0x10", "1e", "\u0663"]))
    return Expect(SAFE)


@mutation("header that is no header")
def header_of_random_bytes(target: Target, rng: Generator) -> Expect:
    target.header.write_bytes(rng.bytes(int(rng.integers(0, 3000))))
    return Expect(LEFT_OUT)


@mutation("header that is no header")
def header_cut_short(target: Target, rng: Generator) -> Expect:
    content = target.header.read_bytes()
    target.header.write_bytes(content[: int(rng.integers(len(content)))])
    return Expect(SAFE)


@mutation("header that is no header")
def header_with_bytes_flipped(target: Target, rng: Generator) -> Expect:
    """Any field may change, gain and names among them; what is used then follows the header."""
    content = bytearray(target.header.read_bytes())
    for place in rng.choice(len(content), size=int(rng.integers(1, 4)), replace=False):
        content[place] = int(rng.integers(256))
    target.header.write_bytes(bytes(content))
    return Expect(SAFE, changed=True)


@mutation("header that is no header")
def header_of_several_segments(target: Target, rng: Generator) -> Expect:
    length = target.lines()[0].split()[LENGTH]
    target.write_lines([f"r/1 2 2000 {length}", f"{target.header.stem} {length}"])
    return Expect(LEFT_OUT)


@mutation("header that is no header")
def a_very_long_line(target: Target, rng: Generator) -> Expect:
    lines = target.lines()
    lines.insert(
        int(rng.integers(len(lines) + 1)), str(rng.choice(["9", "a", " ", "-", "a 1 ", "#"])) * 300_000
    )
    target.write_lines(lines)
    return Expect(SAFE)


@mutation("other line ends, spaces and names")
def other_line_ends_and_spaces(target: Target, rng: Generator) -> Expect:
    lines = [
        "# a warning",
        *(" " * int(rng.integers(3)) + line + " " * int(rng.integers(3)) for line in target.lines()),
        "",
    ]
    target.write_lines(lines, str(rng.choice(["\n", "\r\n", "\n\n", "\r\n\r\n"])))
    return Expect(USED)


@mutation("other line ends, spaces and names")
def remark_in_another_alphabet(target: Target, rng: Generator) -> Expect:
    target.header.write_bytes(
        target.header.read_bytes()
        + "# Grüße, 心電図\r\n".encode(str(rng.choice(["utf-8", "utf-16", "gb18030"])))
    )
    return Expect(SAFE)


@mutation("other line ends, spaces and names", (COHORT,))
def usual_names_of_channels(target: Target, rng: Generator) -> Expect:
    target.edit(SOUND_LINE, 8, rng.choice(["phono", "Heart sound", "HS", "stethoscope", "pcg1"]))
    target.edit(ECG_LINE, 8, rng.choice(["II", "MLII", "aVR", "lead V5", "EKG 1"]))
    return Expect(USED)


@mutation("copies")
def header_of_another_recording(target: Target, rng: Generator) -> Expect:
    """The same content under two names has one checksum, by which the audit finds it."""
    other = str(
        rng.choice(
            [
                name
                for name in target.workspace.names
                if target.workspace.header(name).parent == target.header.parent
            ]
        )
    )
    target.header.write_bytes(target.workspace.header(other).read_bytes())

    def check(cache: Cache) -> None:
        assert row_of(cache, target.name)["sha256"] == row_of(cache, other)["sha256"]

    return Expect(SAFE, changed=True, check=check)
