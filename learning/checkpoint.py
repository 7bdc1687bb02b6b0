"""Checkpoints: plain Python types and tensors, written whole or not at all, read without pickle's powers."""

from __future__ import annotations

import hashlib
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import replacing

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file and put it in place.

    Raises
    ------
    CheckpointError
        If the disk refuses; the checkpoint that was there before stays.
    """
    try:
        with replacing(path) as temporary:
            torch.save({"format": FORMAT} | content, temporary)
    except (OSError, RuntimeError) as error:  # torch's own word for a disk that is full is RuntimeError
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({str(error).splitlines()[0]}). Make room, or allow "
            "writing there; what was saved before is kept, and the same command with --resume goes on."
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    CheckpointError
        If the file is absent, damaged, holds more than plain types and tensors, or is of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}. Train one with training.py.") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({reason}). Train that fold again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise CheckpointError(
            f"The checkpoint {path} has format {found}, and this version reads {FORMAT}: "
            "use the version of the code it was written with, or train again."
        )
    return content


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint, by which a child names its parent."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def provenance() -> dict[str, str]:
    """Return versions of the libraries and the commit of the code, where it is a git checkout."""
    found = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    try:
        here = Path(__file__).parent
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return found | {"commit": commit}


def changed_since(before: dict[str, str]) -> list[str]:
    """Return a line for each version, and the commit, that differs from those a checkpoint was made with.

    Parameters
    ----------
    before : dict of str to str
        What `provenance` said then.
    """
    now = provenance()
    return [
        f"Note: trained with {name} {before[name]}, judged with {now[name]}; last digits may differ."
        for name in now
        if name in before and before[name] != now[name]
    ]
