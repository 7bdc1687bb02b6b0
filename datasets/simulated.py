"""Folders of simulated patients, known by the settings that they were made with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from common.files import replacing_folder
from datasets.sources import DataError

SIMULATION = "simulation.json"
_Noun = Literal["patients", "cohort"]


def holds_cohort(root: Path, identity: dict[str, Any], noun: _Noun = "patients") -> bool:
    """Return whether a folder holds this very cohort; raise DataError if it holds anything else."""
    if not root.exists():
        return False
    advice = "Delete it, or choose another folder."
    if not root.is_dir():
        verb = "need" if noun == "patients" else "needs"
        raise DataError(f"{root} is a file; the simulated {noun} {verb} a folder of this name. {advice}")
    if not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / SIMULATION).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise DataError(f"{root} is not empty and holds no simulated {noun}. {advice}") from None
    if found == json.loads(json.dumps(identity)):
        return True
    if noun == "patients":
        raise DataError(f"{root} holds patients simulated with other settings. {advice}")
    raise DataError(f"{root} holds a cohort simulated with other settings: {found}. {advice}")


@contextlib.contextmanager
def new_cohort(root: Path, identity: dict[str, Any], readme: str, noun: _Noun = "patients") -> Iterator[Path]:
    """Give a folder to write a cohort into, which takes its place when the block ends well."""
    with replacing_folder(root) as folder:
        yield folder
        (folder / "README.txt").write_text(readme, encoding="utf-8", newline="\n")
        text = json.dumps(identity, indent=2) + "\n"
        (folder / SIMULATION).write_text(text, encoding="utf-8", newline="\n")
        if not holds_cohort(root, identity, noun) and root.exists():
            root.rmdir()  # it is empty; the finished one takes its place
