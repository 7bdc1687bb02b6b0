"""Folders of simulated patients, known by the settings that they were made with."""

from __future__ import annotations

from pathlib import Path

from datasets.sources import DataError

SIMULATION = "simulation.json"


def holds_cohort(root: Path, identity: str) -> bool:
    """Return whether a folder holds this very cohort; raise DataError if it holds anything else."""
    if not root.exists():
        return False
    advice = "Delete it, or choose another folder."
    if not root.is_dir():
        raise DataError(f"{root} is a file; the simulated patients need a folder of this name. {advice}")
    if not any(root.iterdir()):
        return False
    found = root / SIMULATION
    if not found.is_file():
        raise DataError(f"{root} is not empty and holds no simulated patients. {advice}")
    if found.read_text(encoding="utf-8") != identity:
        raise DataError(f"{root} holds patients simulated with other settings. {advice}")
    return True
