"""Recordings named on the command line, and names that files can have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where one recording is, and the name by which it is reported."""

    name: str
    path: Path


def distinct(found: Sequence[Place]) -> list[Place]:
    """Return places of which no two have the same name: equal ones get a number."""
    named: list[Place] = []
    taken: set[str] = set()
    for place in found:
        numbered = (f"{place.name}-{number}" for number in range(2, len(found) + 2))
        name = place.name if place.name not in taken else next(name for name in numbered if name not in taken)
        taken.add(name)
        named.append(Place(name, place.path))
    return named


def safe_name(name: str) -> str:
    """Return a name from a table as one of a file: within its folder, whatever it holds."""
    return re.sub(r"[^\w .,+()-]", "_", name).strip(". ") or "_"
