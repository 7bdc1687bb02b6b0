"""Signals that are wrong: cut short, absent, damaged, missing, constant, clipped, swapped or linked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.random import Generator

from datasets.cache import Cache
from tests.robustness.mutations import (
    CHANNEL,
    ECG_LINE,
    LEFT_OUT,
    RECORD_LINE,
    SAFE,
    SOUND_LINE,
    USED,
    Expect,
    Target,
    mutation,
    row_of,
)
from tests.robustness.workspaces import COHORT


def _signal(target: Target, rng: Generator) -> tuple[str, Path]:
    return ("ecg", target.ecg) if rng.integers(2) else ("pcg", target.sound)


@mutation("signal file cut short")
def file_cut_short(target: Target, rng: Generator) -> Expect:
    _, path = _signal(target, rng)
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])
    return Expect(LEFT_OUT, "cut short")


@mutation("signal file cut short")
def file_cut_by_one_byte(target: Target, rng: Generator) -> Expect:
    _, path = _signal(target, rng)
    path.write_bytes(path.read_bytes()[:-1])
    return Expect(LEFT_OUT, "cut short")


@mutation("signal file cut short")
def file_empty(target: Target, rng: Generator) -> Expect:
    _signal(target, rng)[1].write_bytes(b"")
    return Expect(LEFT_OUT, "cut short")


@mutation("file absent, or a directory")
def signal_absent(target: Target, rng: Generator) -> Expect:
    _signal(target, rng)[1].unlink()
    return Expect(LEFT_OUT, "absent")


@mutation("file absent, or a directory")
def directory_in_its_place(target: Target, rng: Generator) -> Expect:
    path = [target.ecg, target.sound, target.header][rng.integers(3)]
    path.unlink()
    path.mkdir()
    return Expect(LEFT_OUT, "absent|cannot be read|There is no")


@mutation("damaged bytes")
def bytes_flipped(target: Target, rng: Generator) -> Expect:
    content = bytearray(target.ecg.read_bytes())
    for place in rng.choice(len(content), size=int(rng.integers(1, 50)), replace=False):
        content[place] ^= int(rng.integers(1, 256))
    if int(np.frombuffer(content, "<i2").sum(dtype=np.int64) - target.samples("ecg").sum()) % 2**16 == 0:
        content[0] ^= 1  # by chance the same sum
    target.ecg.write_bytes(bytes(content))
    return Expect(LEFT_OUT, "checksum")


@mutation("damaged bytes")
def file_of_another_recording(target: Target, rng: Generator) -> Expect:
    other = str(rng.choice([name for name in target.workspace.names if name != target.name]))
    size = target.ecg.stat().st_size
    content = target.workspace.header(other).with_suffix(".dat").read_bytes()
    target.ecg.write_bytes((content * 2)[:size])
    return Expect(LEFT_OUT, "checksum")


def assert_gaps_counted(cache: Cache, recording: str, modality: str) -> None:
    """Assert that the share of missing samples is that of the table."""
    row = row_of(cache, recording)
    offset, length = (int(row[f"{modality}_{name}"]) for name in ("offset", "length"))
    stored = cache.waveforms(modality)[offset:][:length]
    assert abs(np.isnan(stored).mean() - row[f"{modality}_missing"]) < 2e-6


@mutation("missing samples (lowest code)")
def run_of_missing_samples(target: Target, rng: Generator) -> Expect:
    name, _ = _signal(target, rng)
    samples = target.samples(name)
    length = int(rng.integers(100, len(samples) // 2))
    start = int(rng.integers(1, len(samples) - length))
    samples[start : start + length] = -32768
    target.write_samples(name, samples)

    def check(cache: Cache) -> None:
        row = row_of(cache, target.name)
        assert_gaps_counted(cache, target.name, name)  # a loud neighbour makes saturation of it
        assert row[f"{name}_missing"] > 0 or row[f"{name}_saturated"] > 0

    return Expect(USED, changed=True, check=check)


@mutation("missing samples (lowest code)")
def nothing_but_missing_samples(target: Target, rng: Generator) -> Expect:
    name, _ = _signal(target, rng)
    target.write_samples(name, np.full_like(target.samples(name), -32768))
    return Expect(LEFT_OUT, "holds no sample")


@mutation("constant signal")
def constant(target: Target, rng: Generator) -> Expect:
    name, _ = _signal(target, rng)
    target.write_samples(name, np.full_like(target.samples(name), int(rng.integers(-32767, 32768))))
    return Expect(LEFT_OUT, "constant")


@mutation("clipped signal")
def clipped(target: Target, rng: Generator) -> Expect:
    name, _ = _signal(target, rng)
    samples = target.samples(name).astype(float)
    louder = samples * 32767 / np.abs(samples).max() * rng.uniform(2, 20)
    target.write_samples(name, np.clip(np.round(louder), -32768, 32767).astype(np.int16))

    def check(cache: Cache) -> None:
        row = row_of(cache, target.name)
        assert row[f"{name}_saturated"] > 0
        assert_gaps_counted(cache, target.name, name)  # a long run of the lowest code means missing samples

    return Expect(USED, changed=True, check=check)


@mutation("too short")
def half_a_second(target: Target, rng: Generator) -> Expect:
    count = int(rng.integers(1, 1999))
    for name in ("ecg", "pcg"):
        target.write_samples(name, target.samples(name)[:count])
    target.edit(RECORD_LINE, 3, count)
    return Expect(LEFT_OUT, r"at least 1 s|constant|onsets after the end")


@mutation("swapped channels")
def channel_lines_swapped(target: Target, rng: Generator) -> Expect:
    """The order of channels says nothing: their names do."""
    record, first, second, *rest = target.lines()
    target.write_lines([record, second, first, *rest])
    return Expect(USED)


@mutation("swapped channels")
def channel_names_swapped(target: Target, rng: Generator) -> Expect:
    """What a header calls the ECG is taken for the ECG: nothing else can tell."""
    target.edit(SOUND_LINE, CHANNEL, "ECG")
    target.edit(ECG_LINE, CHANNEL, "PCG")
    sound = target.samples("pcg")

    def check(cache: Cache) -> None:
        row = row_of(cache, target.name)
        stored = cache.waveforms("ecg")[row["ecg_offset"] :][: row["ecg_length"]]
        np.testing.assert_array_equal(stored, sound.astype(np.float32))  # gain 1

    return Expect(USED, changed=True, check=check) if target.has_onsets else Expect(SAFE, changed=True)


@mutation("swapped channels")
def signal_files_swapped(target: Target, rng: Generator) -> Expect:
    moved = target.ecg.with_suffix(".tmp")
    target.ecg.rename(moved)
    target.sound.rename(target.ecg)
    moved.rename(target.sound)
    return Expect(LEFT_OUT, "cut short|checksum|holds")


@mutation("swapped channels")
def a_channel_without_a_name(target: Target, rng: Generator) -> Expect:
    line = int(rng.choice([SOUND_LINE, ECG_LINE]))
    target.edit(line, CHANNEL, "")
    if target.workspace.layout == COHORT:
        return Expect(SAFE, changed=True)
    return Expect(LEFT_OUT, "It has no (ECG|heart sound)")


@mutation("links out of the folder")
def signal_linked_from_outside(target: Target, rng: Generator) -> Expect:
    _, path = _signal(target, rng)
    path.unlink()
    path.symlink_to(target.workspace.secret / f"a0001{path.suffix}")
    return Expect(LEFT_OUT, "outside the data folder")


@mutation("links out of the folder")
def header_linked_from_outside(target: Target, rng: Generator) -> Expect:
    shutil.move(target.header, target.workspace.secret / "moved.hea")
    target.header.symlink_to(target.workspace.secret / "moved.hea")
    return Expect(LEFT_OUT, "outside the data folder")


@mutation("links out of the folder")
def links_in_a_circle(target: Target, rng: Generator) -> Expect:
    path = [target.ecg, target.sound, target.header][rng.integers(3)]
    path.unlink()
    path.symlink_to(path.name)
    return Expect(LEFT_OUT, "outside the data folder|absent|There is no")
