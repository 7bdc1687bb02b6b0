"""Recordings and tables that are wrong in one way, made from good ones by kind and seed.

A kind is a function that damages one recording of a workspace (`Target`), drawing what is left open from its
random numbers, and returns what has to come of it (`Expect`). `cases` lists kinds, layouts and seeds in a
fixed order that names each kind first.
"""

from __future__ import annotations

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
"""What may come of a recording: named in skipped.csv; used, as promised; the whole table refused; or it is
left out, or used with the very beats of the good recording, or with a warning."""
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
        Recordings concerned, if not the target alone.
    options : tuple of str
        Of load_data.py.
    lost : bool
        Whether the target may be named otherwise, because its name is what was damaged.
    """

    outcome: str
    reason: str = ""
    changed: bool = False
    check: Callable[[Cache], None] | None = None
    names: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    lost: bool = False


Mutation = Callable[[Target, Generator], Expect]


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

    def apply(self, workspace: Workspace) -> tuple[Target, Expect]:
        """Damage a copy of a good workspace."""
        rng = np.random.default_rng([zlib.crc32(self.kind.name.encode()), self.seed])
        target = Target(workspace, str(rng.choice(workspace.names)))
        return target, self.kind.mutate(target, rng)

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.layout}-{self.seed}"


def cases(count: int) -> Iterator[Case]:
    """Yield so many cases: every kind once, then again in the other layout and with another seed."""
    for number in range(count):
        seed, place = divmod(number, len(KINDS))
        chosen = list(KINDS.values())[place]
        yield Case(chosen, chosen.layouts[seed % len(chosen.layouts)], seed)


def row_of(cache: Cache, name: str) -> dict[str, float]:
    """Return the row of a recording in ``recordings.csv``."""
    table = cache.table("recordings").set_index("recording")
    return dict(table.loc[name])
