"""Recordings and tables that are wrong in one way, made from good ones by a mutation and a seed.

A mutation is a function that damages one recording of a workspace (`Target`), with details from its random
numbers, and returns the expected outcome (`Expect`). `cases` lists mutations, layouts and seeds in a fixed
order that has each mutation once at first.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from datasets.cache import Cache
from tests.robustness.workspaces import LAYOUTS, Workspace

LEFT_OUT, USED, REFUSED, SAFE = "left out", "used", "refused", "left out or the same"
"""Possible outcomes: the recording is listed in skipped.csv; it is used; the whole table is refused; or it is
left out, or used with exactly the beats of the good recording, or with a warning."""
WAV_HEADER = 44


@dataclass(frozen=True)
class Target:
    """One recording of a workspace, to be damaged."""

    workspace: Workspace
    name: str

    @property
    def header(self) -> Path:
        return self.workspace.header(self.name)

    @property
    def ecg(self) -> Path:
        return self.header.with_suffix(".dat")

    @property
    def sound(self) -> Path:
        return self.header.with_suffix(".wav")

    @property
    def onsets(self) -> Path:
        return self.workspace.onsets(self.name)

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
            head = bytearray(self.sound.read_bytes()[:WAV_HEADER])
            head[4:8], head[40:44] = (struct.pack("<I", size) for size in (36 + len(content), len(content)))
            self.sound.write_bytes(bytes(head) + content)
            return
        self.ecg.write_bytes(content)
        if checksum:
            self.edit(ECG_LINE, CHECKSUM, int(np.sum(samples, dtype=np.int64).astype(np.int16)))


RECORD_LINE, SOUND_LINE, ECG_LINE = 0, 1, 2
FILE, FORMAT, GAIN, CHECKSUM, CHANNEL = 0, 1, 2, 6, 8


@dataclass(frozen=True)
class Expect:
    """Expected outcome for a damaged recording.

    Attributes
    ----------
    outcome : str
        One of the four above.
    reason : str
        Regular expression for the reason, or the error.
    changed : bool
        Whether the beats of a recording that is used may differ from the good ones.
    check : callable, optional
        Given the cache, asserts properties of a recording that is used.
    names : tuple of str
        Recordings concerned, if not the target alone.
    options : tuple of str
        Of load_data.py.
    lost : bool
        Whether the target may be listed by another name, because its name was damaged.
    """

    outcome: str
    reason: str = ""
    changed: bool = False
    check: Callable[[Cache], None] | None = None
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    lost: bool = False


Damage = Callable[[Target, Generator], Expect]


@dataclass(frozen=True)
class Mutation:
    """A way to be wrong: its name, the group it is counted in, and the layouts that it applies to."""

    name: str
    group: str
    layouts: tuple[str, ...]
    damage: Damage


MUTATIONS: dict[str, Mutation] = {}


def mutation(group: str, layouts: tuple[str, ...] = LAYOUTS) -> Callable[[Damage], Damage]:
    """Register a function as the mutation of its name."""

    def register(damage: Damage) -> Damage:
        name = getattr(damage, "__name__", "").replace("_", " ")
        MUTATIONS[name] = Mutation(name, group, layouts, damage)
        return damage

    return register


def header_edit(
    name: str,
    group: str,
    lines: tuple[int, ...],
    field: int,
    values: list[str],
    reason: str,
    layouts: tuple[str, ...] = LAYOUTS,
) -> None:
    """Register a mutation that writes one of these values to a field of one of these lines of the header."""

    def damage(target: Target, rng: Generator) -> Expect:
        value = str(rng.choice(values)).format(secret=target.workspace.secret)
        target.edit(int(rng.choice(lines)), field, value)
        return Expect(LEFT_OUT, reason)

    MUTATIONS[name] = Mutation(name, group, layouts, damage)


@dataclass(frozen=True)
class Case:
    """One mutation in one layout with one seed."""

    mutation: Mutation
    layout: str
    seed: int

    def apply(self, workspace: Workspace) -> tuple[Target, Expect]:
        """Damage a copy of a good workspace."""
        rng = np.random.default_rng([zlib.crc32(self.mutation.name.encode()), self.seed])
        target = Target(workspace, str(rng.choice(workspace.names)))
        return target, self.mutation.damage(target, rng)

    def __str__(self) -> str:
        return f"{self.mutation.name}-{self.layout}-{self.seed}"


def cases(count: int) -> Iterator[Case]:
    """Yield so many cases: every mutation once, then again in the other layout and with another seed."""
    for number in range(count):
        seed, position = divmod(number, len(MUTATIONS))
        chosen = list(MUTATIONS.values())[position]
        yield Case(chosen, chosen.layouts[seed % len(chosen.layouts)], seed)


def row_of(cache: Cache, name: str) -> dict[str, float]:
    """Return the row of a recording in ``recordings.csv``."""
    table = cache.table("recordings").set_index("recording")
    return dict(table.loc[name])
