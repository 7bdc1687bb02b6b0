"""Recordings and tables that are wrong in one way, made from good ones by kind and seed.

A kind is a function that damages one recording of a house (`Victim`), drawing what is left open from its
random numbers, and returns what has to come of it (`Expect`). `cases` lists kinds, layouts and seeds in a
fixed order that names each kind first.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from datasets.cache import Cache
from tests.torture.houses import COHORT, LAYOUTS, House

LEFT_OUT, USED, REFUSED, SAFE = "left out", "used", "refused", "left out or the same"
"""What may come of a recording: named in skipped.csv; used, as promised; the whole table refused; or it is
left out, or used with the very beats of the good recording, or with a warning."""
WAV_HEADER = 44


@dataclass(frozen=True)
class Victim:
    """One recording of a house, to be damaged."""

    house: House
    name: str

    @property
    def header(self) -> Path:
        return self.house.header(self.name)

    @property
    def ecg(self) -> Path:
        return self.header.with_suffix(".dat")

    @property
    def sound(self) -> Path:
        return self.header.with_suffix(".wav")

    @property
    def onsets(self) -> Path:
        return self.house.onsets(self.name)

    @property
    def has_onsets(self) -> bool:
        return self.onsets.exists()

    def lines(self) -> list[str]:
        """Return the header: record, sound, ECG, comment."""
        return self.header.read_text("ascii").splitlines()

    def write_lines(self, lines: list[str], end: str = "\r\n") -> None:
        self.header.write_bytes("".join(line + end for line in lines).encode())

    def edit(self, line: int, field: int, value: object) -> None:
        """Change one field of one line of the header."""
        lines = self.lines()
        cells = lines[line].split(" ")
        cells[field] = str(value)
        lines[line] = " ".join(cells)
        self.write_lines(lines)

    def samples(self, kind: str) -> NDArray[np.int16]:
        """Return the samples of "ecg" or "pcg" as stored."""
        content = self.ecg.read_bytes() if kind == "ecg" else self.sound.read_bytes()[WAV_HEADER:]
        return np.frombuffer(content, "<i2").copy()

    def write_samples(self, kind: str, samples: NDArray[np.int16], checksum: bool = True) -> None:
        """Write other samples, and the checksum that belongs to them."""
        content = samples.astype("<i2").tobytes()
        if kind == "pcg":
            self.sound.write_bytes(self.sound.read_bytes()[:WAV_HEADER] + content)
            return
        self.ecg.write_bytes(content)
        if checksum:
            self.edit(ECG_LINE, CHECKSUM, int(np.sum(samples, dtype=np.int64).astype(np.int16)))


RECORD_LINE, SOUND_LINE, ECG_LINE = 0, 1, 2
FILE, FORMAT, GAIN, CHECKSUM, CHANNEL = 0, 1, 2, 6, 8


@dataclass(frozen=True)
class Expect:
    """What has to come of a damaged recording.

    Attributes
    ----------
    outcome : str
        One of the four above.
    reason : str
        Regular expression for the reason, or the error.
    changed : bool
        Whether the beats of a recording that is used may differ from the good ones.
    check : callable, optional
        Given the cache, asserts what is promised of a recording that is used.
    names : tuple of str
        Recordings concerned, if not the victim alone.
    options : tuple of str
        Of load_data.py.
    lost : bool
        Whether the victim may be named otherwise, because its name is what was damaged.
    """

    outcome: str
    reason: str = ""
    changed: bool = False
    check: Callable[[Cache], None] | None = None
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    lost: bool = False


Mutation = Callable[[Victim, Generator], Expect]


@dataclass(frozen=True)
class Kind:
    """A way to be wrong: its name, the class it is counted in, and the layouts that can be wrong so."""

    name: str
    group: str
    layouts: tuple[str, ...]
    mutate: Mutation


KINDS: dict[str, Kind] = {}


def kind(group: str, layouts: tuple[str, ...] = LAYOUTS) -> Callable[[Mutation], Mutation]:
    """Register a function as a kind of its name."""

    def register(mutate: Mutation) -> Mutation:
        name = getattr(mutate, "__name__", "").replace("_", " ")
        KINDS[name] = Kind(name, group, layouts, mutate)
        return mutate

    return register


@dataclass(frozen=True)
class Case:
    """One kind in one layout with one seed."""

    kind: Kind
    layout: str
    seed: int

    def apply(self, house: House) -> tuple[Victim, Expect]:
        """Damage a copy of a good house."""
        rng = np.random.default_rng([zlib.crc32(self.kind.name.encode()), self.seed])
        victim = Victim(house, str(rng.choice(house.names)))
        return victim, self.kind.mutate(victim, rng)

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.layout}-{self.seed}"


def cases(count: int) -> Iterator[Case]:
    """Yield so many cases: every kind once, then again in the other layout and with another seed."""
    for number in range(count):
        seed, place = divmod(number, len(KINDS))
        chosen = list(KINDS.values())[place]
        yield Case(chosen, chosen.layouts[seed % len(chosen.layouts)], seed)


# Signals --------------------------------------------------------------------------------------------


def _signal(victim: Victim, rng: Generator) -> tuple[str, Path]:
    return ("ecg", victim.ecg) if rng.integers(2) else ("pcg", victim.sound)


@kind("signal file cut short")
def file_cut_short(victim: Victim, rng: Generator) -> Expect:
    _, path = _signal(victim, rng)
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])
    return Expect(LEFT_OUT, "cut short")


@kind("signal file cut short")
def file_cut_by_one_byte(victim: Victim, rng: Generator) -> Expect:
    _, path = _signal(victim, rng)
    path.write_bytes(path.read_bytes()[:-1])
    return Expect(LEFT_OUT, "cut short")


@kind("signal file cut short")
def file_empty(victim: Victim, rng: Generator) -> Expect:
    _signal(victim, rng)[1].write_bytes(b"")
    return Expect(LEFT_OUT, "cut short")


@kind("file absent, or a directory")
def signal_absent(victim: Victim, rng: Generator) -> Expect:
    _signal(victim, rng)[1].unlink()
    return Expect(LEFT_OUT, "absent")


@kind("file absent, or a directory")
def directory_in_its_place(victim: Victim, rng: Generator) -> Expect:
    path = [victim.ecg, victim.sound, victim.header][rng.integers(3)]
    path.unlink()
    path.mkdir()
    return Expect(LEFT_OUT, "absent|cannot be read|There is no")


@kind("damaged bytes")
def bytes_flipped(victim: Victim, rng: Generator) -> Expect:
    content = bytearray(victim.ecg.read_bytes())
    for place in rng.choice(len(content), size=int(rng.integers(1, 50)), replace=False):
        content[place] ^= int(rng.integers(1, 256))
    if int(np.frombuffer(content, "<i2").sum(dtype=np.int64) - victim.samples("ecg").sum()) % 2**16 == 0:
        content[0] ^= 1  # by chance the same sum
    victim.ecg.write_bytes(bytes(content))
    return Expect(LEFT_OUT, "checksum")


@kind("damaged bytes")
def file_of_another_recording(victim: Victim, rng: Generator) -> Expect:
    other = str(rng.choice([name for name in victim.house.names if name != victim.name]))
    size = victim.ecg.stat().st_size
    content = victim.house.header(other).with_suffix(".dat").read_bytes()
    victim.ecg.write_bytes((content * 2)[:size])
    return Expect(LEFT_OUT, "checksum")


@kind("missing samples (lowest code)")
def run_of_missing_samples(victim: Victim, rng: Generator) -> Expect:
    name, _ = _signal(victim, rng)
    samples = victim.samples(name)
    length = int(rng.integers(100, len(samples) // 2))
    start = int(rng.integers(1, len(samples) - length))
    samples[start : start + length] = -32768
    victim.write_samples(name, samples)

    def check(cache: Cache) -> None:
        row = row_of(cache, victim.name)
        stored = cache.waveforms(name)[row[f"{name}_offset"] :][: row[f"{name}_length"]]
        gaps = np.isnan(stored)
        # a loud neighbour makes saturation of it; what is told and what is stored agree
        assert (
            gaps.mean() == np.float32(row[f"{name}_missing"])
            or abs(gaps.mean() - row[f"{name}_missing"]) < 2e-6
        )
        assert row[f"{name}_missing"] > 0 or row[f"{name}_saturated"] > 0

    return Expect(USED, changed=True, check=check)


@kind("missing samples (lowest code)")
def nothing_but_missing_samples(victim: Victim, rng: Generator) -> Expect:
    name, _ = _signal(victim, rng)
    victim.write_samples(name, np.full_like(victim.samples(name), -32768))
    return Expect(LEFT_OUT, "holds no sample")


@kind("constant signal")
def constant(victim: Victim, rng: Generator) -> Expect:
    name, _ = _signal(victim, rng)
    victim.write_samples(name, np.full_like(victim.samples(name), int(rng.integers(-32767, 32768))))
    return Expect(LEFT_OUT, "constant")


@kind("clipped signal")
def clipped(victim: Victim, rng: Generator) -> Expect:
    name, _ = _signal(victim, rng)
    samples = victim.samples(name).astype(float)
    louder = samples * 32767 / np.abs(samples).max() * rng.uniform(2, 20)
    victim.write_samples(name, np.clip(np.round(louder), -32768, 32767).astype(np.int16))

    def check(cache: Cache) -> None:
        row = row_of(cache, victim.name)
        assert row[f"{name}_saturated"] > 0
        assert row[f"{name}_missing"] == 0

    return Expect(USED, changed=True, check=check)


@kind("too short")
def half_a_second(victim: Victim, rng: Generator) -> Expect:
    count = int(rng.integers(1, 1999))
    for name in ("ecg", "pcg"):
        victim.write_samples(name, victim.samples(name)[:count])
    victim.edit(RECORD_LINE, 3, count)
    return Expect(LEFT_OUT, r"at least 1 s|constant|onsets after the end")


@kind("swapped channels")
def channel_lines_swapped(victim: Victim, rng: Generator) -> Expect:
    """The order of channels says nothing: their names do."""
    record, first, second, *rest = victim.lines()
    victim.write_lines([record, second, first, *rest])
    return Expect(USED)


@kind("swapped channels")
def channel_names_swapped(victim: Victim, rng: Generator) -> Expect:
    """What a header calls the ECG is taken for the ECG: nothing else can tell."""
    victim.edit(SOUND_LINE, CHANNEL, "ECG")
    victim.edit(ECG_LINE, CHANNEL, "PCG")
    sound = victim.samples("pcg")

    def check(cache: Cache) -> None:
        row = row_of(cache, victim.name)
        stored = cache.waveforms("ecg")[row["ecg_offset"] :][: row["ecg_length"]]
        np.testing.assert_array_equal(stored, sound.astype(np.float32))  # gain 1

    return Expect(USED, changed=True, check=check) if victim.has_onsets else Expect(SAFE, changed=True)


@kind("swapped channels")
def signal_files_swapped(victim: Victim, rng: Generator) -> Expect:
    moved = victim.ecg.with_suffix(".tmp")
    victim.ecg.rename(moved)
    victim.sound.rename(victim.ecg)
    moved.rename(victim.sound)
    return Expect(LEFT_OUT, "cut short|checksum|holds")


@kind("swapped channels")
def a_channel_without_a_name(victim: Victim, rng: Generator) -> Expect:
    line = int(rng.choice([SOUND_LINE, ECG_LINE]))
    victim.edit(line, CHANNEL, "")
    if victim.house.layout == COHORT:
        return Expect(SAFE, changed=True)
    return Expect(LEFT_OUT, "It has no (ECG|heart sound)")


@kind("links out of the folder")
def signal_linked_from_outside(victim: Victim, rng: Generator) -> Expect:
    _, path = _signal(victim, rng)
    path.unlink()
    path.symlink_to(victim.house.secret / f"a0001{path.suffix}")
    return Expect(LEFT_OUT, "outside the data folder")


@kind("links out of the folder")
def header_linked_from_outside(victim: Victim, rng: Generator) -> Expect:
    shutil.move(victim.header, victim.house.secret / "moved.hea")
    victim.header.symlink_to(victim.house.secret / "moved.hea")
    return Expect(LEFT_OUT, "outside the data folder")


@kind("links out of the folder")
def links_in_a_circle(victim: Victim, rng: Generator) -> Expect:
    path = [victim.ecg, victim.sound, victim.header][rng.integers(3)]
    path.unlink()
    path.symlink_to(path.name)
    return Expect(LEFT_OUT, "outside the data folder|absent|There is no")


def row_of(cache: Cache, name: str) -> dict[str, float]:
    """Return the row of a recording in ``recordings.csv``."""
    table = cache.table("recordings").set_index("recording")
    return dict(table.loc[name])
